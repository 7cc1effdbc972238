# SPDX-License-Identifier: Apache-2.0
"""The turn: everything one question of a user sets off, found from any context of the process."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any

from opentelemetry import trace

from otelstream._core.record.call import ToolCall
from otelstream._core.record.host import TurnStop
from otelstream._core.record.stream import StreamObservation

MAX_STREAMS = 64  # remembered of one turn
MAX_IDLE = 256  # turns remembered that nobody is in any more, to be found by their id or trace


class Turn:
    """One question of a user: its streams, its tool calls, and what a Stop found."""

    __slots__ = ("__weakref__", "_only", "_streams", "entered", "id", "implicit", "over", "route", "stopped")

    def __init__(self, id: str | None = None, route: str | None = None, *, implicit: bool = False) -> None:  # noqa: A002
        self.id = id
        self.route = route
        self.implicit = implicit  # nobody opened it: a stream's own
        self.entered = 0  # blocks and requests that are inside it
        # A stream's own turn keeps none here; an empty deque would be 0.7 KiB an open stream.
        self._streams: deque[StreamObservation] | list[StreamObservation] = (
            [] if implicit else deque(maxlen=MAX_STREAMS)
        )
        self._only: Callable[[], StreamObservation | None] = lambda: None  # weak, see `begun`
        self.stopped: TurnStop | None = None
        self.over: list[Callable[[Turn], object]] = []  # called when nobody is in it any more

    @property
    def records(self) -> list[StreamObservation]:
        """Its streams, oldest first."""
        if not self.implicit:
            return list(self._streams)
        only = self._only()
        return [] if only is None else [only]

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tool calls that the model asked for in it, oldest first."""
        return tuple(call for stream in self.records for call in stream.all_tool_calls())

    def add(self, stream: StreamObservation) -> None:
        if self.implicit:
            self._only = weakref.ref(stream)
        else:
            self._streams.append(stream)

    def drop(self, stream: StreamObservation) -> None:
        if stream in self._streams:
            self._streams.remove(stream)
        elif self._only() is stream:
            self._only = lambda: None

    def newest(self) -> StreamObservation | None:
        return self._streams[-1] if self._streams else self._only()

    def open_streams(self) -> list[StreamObservation]:
        return [stream for stream in self.records if stream.ending is None]

    @property
    def live(self) -> bool:
        """Whether somebody is inside it, or a stream of it is open."""
        return self.entered > 0 or bool(self.open_streams())

    @property
    def by_trace(self) -> bool:
        """Whether only a trace holds it together, of which nobody says when it is over."""
        return self.id is None and not self.implicit

    def enter(self) -> None:
        self.entered += 1

    def leave(self) -> None:
        self.entered -= 1
        self.call_if_over()

    def call_if_over(self) -> None:
        """Call what waits for the turn to be over, if it is."""
        while self.over and not self.live:
            try:
                self.over.pop()(self)
            except IndexError:
                return

    def __repr__(self) -> str:
        return f"<Turn {self.id!r} streams={len(self.records)}>"


class Request:
    """A mutable holder for the turn of one served request: copies of its context share it."""

    __slots__ = ("_entered", "_turn", "route")

    def __init__(self, route: str | None = None) -> None:
        self.route = route
        self._turn: Turn | None = None
        self._entered: list[Turn] = []

    @property
    def turn(self) -> Turn:
        """The newest turn of this request; a request that named none has one of its own."""
        if self._turn is None:
            self.adopt(_known.open(os.urandom(8).hex(), self.route))
        turn = self._turn
        if turn is None:
            raise AssertionError("adopt() sets it")
        return turn

    @property
    def turns(self) -> tuple[Turn, ...]:
        return tuple(self._entered)

    def adopt(self, turn: Turn) -> None:
        """Keep `turn` alive to the end of this request, and find it where the context of its block is gone."""
        if turn not in self._entered:
            turn.enter()
            self._entered.append(turn)
        self._turn = turn

    def begun(self, stream: StreamObservation) -> None:
        """A stream was begun in this request."""

    def end(self) -> None:
        while self._entered:
            self._entered.pop().leave()


class _Known:
    """The turns that can be found by their id, or by their trace: bounded, those in use last to go."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may come back in
        self._turns: OrderedDict[Hashable, Turn] = OrderedDict()

    def get(self, key: Hashable) -> Turn | None:
        return self._turns.get(key)

    def open(self, key: Hashable, route: str | None = None) -> Turn:
        """The turn of that key somebody is inside of, else a new one."""
        with self._lock:
            known = self._turns.get(key)
            if known is not None and (known.entered > 0 or not isinstance(key, str)):
                return known
            turn = self._turns[key] = Turn(key if isinstance(key, str) else None, route)
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
_own: ContextVar[StreamObservation | None] = ContextVar("otelstream_own_turn", default=None)


def _trace_id() -> int:
    return trace.get_current_span().get_span_context().trace_id


def current() -> Turn | None:
    """The turn this context is in: its block's, its request's, its trace's, else that of its newest stream."""
    turn = _block.get()
    if turn is not None:
        return turn
    request = _request.get()
    if request is not None:
        return request.turn
    trace_id = _trace_id()
    known = _known.get(trace_id) if trace_id else None
    if known is not None:
        return known
    own = _own.get()
    return own.turn if own is not None and isinstance(own.turn, Turn) else None


def find(id: str) -> Turn | None:  # noqa: A002
    """The turn of that id, from any context."""
    return _known.get(id)


def for_stream() -> Turn:
    """The turn that a stream begun here belongs to."""
    turn = _block.get()
    if turn is not None:
        return turn
    request = _request.get()
    if request is not None:
        return request.turn
    trace_id = _trace_id()
    if trace_id:
        return _known.open(trace_id)
    return Turn(implicit=True)


def open_turn(id: str, route: str | None = None) -> Turn:  # noqa: A002
    """Enter the turn of that id, or a new one; in a served request it holds to the end of that."""
    opened = _known.open(id, route)
    if opened.route is None:
        opened.route = route
    opened.enter()
    request = _request.get()
    if request is not None:
        request.adopt(opened)
    return opened


def exit() -> None:  # noqa: A001
    """The process ends, and with it every turn."""
    for turn in _known.all():
        turn.entered = 0
        turn.call_if_over()


def begun(stream: StreamObservation) -> None:
    """Tell the served request we are in of a stream, or the context of its newest one."""
    if stream.turn is not None and stream.turn.implicit:
        # The stream holds its turn and not the other way round: a cycle would keep both for the collector.
        _own.set(stream)
    request = _request.get()
    if request is not None:
        request.begun(stream)


def restart() -> None:
    """Start anew, in a forked child."""
    _known.clear()


@contextmanager
def inside(turn: Turn) -> Iterator[None]:
    """Be inside a turn's block."""
    token = _block.set(turn)
    try:
        yield
    finally:
        reset(_block, token)


@contextmanager
def serving(request: Request) -> Iterator[None]:
    """Be inside a served request."""
    token = _request.set(request)
    try:
        yield
    finally:
        reset(_request, token)


def reset(variable: ContextVar[Any], token: Token[Any]) -> None:
    """Take a context variable back, where that is still the same context."""
    try:
        variable.reset(token)
    except ValueError:  # another context: a generator that is resumed elsewhere
        return
