# SPDX-License-Identifier: Apache-2.0
"""Which turn is meant: found by its id or its trace, from any context of the process."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from opentelemetry import trace

from otelstream._core.record.stream import StreamObservation
from otelstream._core.turns import question
from otelstream._core.turns.question import MAX_STREAMS, Turn, related
from otelstream._core.turns.variable import put, reset
from otelstream._trouble import trouble

__all__ = ["MAX_STREAMS", "Request", "Turn", "related"]

MAX_IDLE = 256  # turns remembered that nobody is in any more, to be found by their id or trace
Judged = Callable[[], "StreamObservation | None"]  # a weak reference: a judge may outlive the stream that it reads
MAX_DEPTH = 32  # turns inside one another that know of it


class Request:
    """A mutable holder for the turn of one served request: copies of its context share it."""

    __slots__ = ("_entered", "_turn", "over", "own", "route")

    def __init__(self, route: str | None = None) -> None:
        self.route = route
        self.over = False  # what is begun in its context now is no part of it
        self.own: Turn | None = None  # if nobody named one when it was needed
        self._turn: Turn | None = None
        self._entered: list[Turn] = []

    @property
    def turn(self) -> Turn:
        """The newest turn of this request; a request that named none has one of its own."""
        turn = self._turn
        if turn is None:
            turn = self.own = _known.open(os.urandom(8).hex(), self.route)
            self.adopt(turn)
        return turn

    @property
    def named(self) -> Turn | None:
        """The newest turn of this request, if it has one."""
        return self._turn

    @property
    def turns(self) -> tuple[Turn, ...]:
        return tuple(self._entered)

    def adopt(self, turn: Turn) -> None:
        """Keep `turn` alive to the end of this request, and find it where the context of its block is gone."""
        if self.over:
            return
        if turn not in self._entered:
            turn.enter()
            self._entered.append(turn)
        self._turn = turn
        if self.over:  # it ended meanwhile, in another thread
            self.end()

    def begun(self, stream: StreamObservation) -> None:
        """A stream was begun in this request."""

    def end(self) -> None:
        """Leave every turn of it, whatever becomes of that."""
        self.over = True
        while self._entered:
            try:
                self._entered.pop().leave()
            except Exception:
                trouble("leaving a turn")


class _Known:
    """The turns that can be found by their id, or by their trace: bounded, those in use last to go."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may come back in
        self._turns: OrderedDict[Hashable, Turn] = OrderedDict()

    def get(self, key: Hashable) -> Turn | None:
        return self._turns.get(key)

    def open(self, key: Hashable, route: str | None = None, outer: Turn | None = None) -> Turn:
        """The turn of that key somebody is inside of, else a new one inside `outer`."""
        with self._lock:
            known = self._turns.get(key)
            if known is not None and (known.entered > 0 or not isinstance(key, str)):
                return known
            turn = self._turns[key] = Turn(key if isinstance(key, str) else None, route, outer=outer)
            self._turns.move_to_end(key)
            self._shrink()
            return turn

    def _shrink(self) -> None:
        # Those still in use go to the back; a few looks are enough, since each new turn comes by here.
        looks = 4
        while len(self._turns) > MAX_IDLE and looks:
            key, turn = self._turns.popitem(last=False)
            if turn.live:
                self._turns[key] = turn
                looks -= 1

    def all(self) -> list[Turn]:
        with self._lock:
            return list(self._turns.values())

    def clear(self) -> None:
        self._lock = threading.RLock()
        self._turns.clear()


_known = _Known()
_block: ContextVar[Turn | None] = ContextVar("otelstream_turn", default=None)
_request: ContextVar[Request | None] = ContextVar("otelstream_served", default=None)
_own: ContextVar[StreamObservation | Turn | None] = ContextVar("otelstream_own_turn", default=None)
_judged: ContextVar[Judged | None] = ContextVar("otelstream_judged", default=None)


def judge(stream: Judged) -> None:
    """The context we are in becomes that of a judge of `stream`: it is in no turn, and what it asks is its own."""
    put(_block, None)
    put(_request, None)
    put(_own, None)
    put(_judged, stream)


def judged() -> Judged | None:
    """The stream whose judge this is called in."""
    return _judged.get()


def _reading() -> Judged | None:
    """The stream that is meant in its judge: not in a turn that the judge has opened itself."""
    return _judged.get() if _block.get() is None else None


def newest() -> StreamObservation | None:
    """The newest stream of this context's turn; for a judge, the one that it reads."""
    mine = _reading()
    if mine is not None:
        return mine()
    turn = current()
    return turn.newest() if turn is not None else None


def _trace_id() -> int:
    return trace.get_current_span().get_span_context().trace_id


def current() -> Turn | None:
    """The turn this context is in: its block's, its request's, its trace's, else that of its newest stream."""
    mine = _reading()
    if mine is not None:
        stream = mine()
        return stream.turn if stream is not None and isinstance(stream.turn, Turn) else None
    turn = _block.get()
    if turn is not None:
        return turn
    request = _request.get()
    if request is not None and not request.over:
        return request.turn
    later = _unopened()
    before = request.named if request is not None else None
    if before is None or later is None:
        return later or before
    return max(before, later, key=_newest)  # the request is over: what it left, or what came since


def _unopened() -> Turn | None:
    own = _own.get()
    turn = own.turn if isinstance(own, StreamObservation) else own
    if isinstance(turn, Turn) and turn.exchange and turn.live:
        return turn  # of this trace, or of none
    trace_id = _trace_id()
    known = _known.get(trace_id) if trace_id else None
    if known is not None:
        return known
    return turn if isinstance(turn, Turn) else None


def _newest(turn: Turn) -> float:
    stream = turn.newest()
    return stream.started if stream is not None else 0.0


def find(id: str) -> Turn | None:  # noqa: A002
    """The turn of that id, from any context."""
    return _known.get(id)


def for_stream() -> Turn:
    """The turn that a stream begun here belongs to."""
    return around() or Turn(implicit=True)


def around() -> Turn | None:
    """The turn that what is begun here belongs to: its block's, its request's, its trace's; None outside of all."""
    turn = _block.get()
    if turn is not None:
        return turn
    if _judged.get() is not None:
        return None
    request = _request.get()
    if request is not None and not request.over:
        return request.turn
    trace_id = _trace_id()
    return _known.open(trace_id) if trace_id else None


def open_turn(id: str, route: str | None = None) -> Turn:  # noqa: A002
    """Enter the turn of that id, or a new one inside the block's; in a served request it holds to the end of that."""
    outer = _block.get()
    if outer is not None and route is None:
        route = outer.route
    if outer is not None and sum(1 for _ in outer.chain()) >= MAX_DEPTH:
        outer = None  # each was opened by a task that the one before started: no question is that deep
    opened = _known.open(id, route, outer)
    if opened.route is None:
        opened.route = route
    opened.enter()
    request = _request.get()
    if request is not None:
        request.adopt(opened)
    return opened


def exchange() -> Turn | None:
    """A turn for one exchange of a conversation that the SDK keeps; None where somebody opened one around it.

    One that only a trace holds together is around it: a Stop there reaches what is open.
    """
    request = _request.get()
    if _block.get() is not None or (request is not None and not request.over):
        return None
    turn = _known.open(os.urandom(8).hex(), outer=around())
    turn.exchange = True
    put(_own, turn)  # where the application goes on, and may be told to stop
    return turn


def asked_anew() -> None:
    """A message came on a connection that carries many: turns that were stopped before it outlive their question."""
    block, request = _block.get(), _request.get()
    around = list(block.chain()) if block is not None else []
    for turn in (*around, request.own if request is not None else None):
        if turn is not None and turn.stopped is not None:
            turn.outlives = True


def exit() -> None:  # noqa: A001
    """The process ends, and with it every turn."""
    for turn in _known.all():
        turn.entered = turn.inner = 0
    for turn in _known.all():
        turn.call_if_over()


def begun(stream: StreamObservation) -> None:
    """Tell the served request we are in of a stream, or the context of its newest one."""
    if stream.turn is not None and stream.turn.implicit:
        # The stream holds its turn and not the other way round: a cycle would keep both for the collector.
        put(_own, stream)
    request = _request.get()
    if request is not None and not request.over:
        request.begun(stream)


def restart() -> None:
    """Start anew, in a forked child."""
    question.restart()
    _known.clear()


@contextmanager
def inside(turn: Turn) -> Iterator[None]:
    """Be inside a turn's block."""
    token = put(_block, turn)
    try:
        yield
    finally:
        reset(_block, token)


@contextmanager
def serving(request: Request) -> Iterator[None]:
    """Be inside a served request."""
    token = put(_request, request)
    try:
        yield
    finally:
        reset(_request, token)
