# SPDX-License-Identifier: Apache-2.0
"""The turn: everything one question of a user sets off, found from any context of the process."""

from __future__ import annotations

import inspect
import os
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Generator, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from opentelemetry import trace

from otelstream._errors import ConfigurationError

if TYPE_CHECKING:
    from otelstream._core.record.call import ToolCall
    from otelstream._core.record.cancel import Ledger, TurnStop
    from otelstream._core.record.stream import StreamObservation
    from otelstream._face.view import StreamView

MAX_STREAMS = 64  # remembered of one turn
MAX_IDLE = 256  # turns remembered that nobody is in any more, to be found by their id or trace
F = TypeVar("F", bound=Callable[..., Any])


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
    def streams(self) -> tuple[StreamView, ...]:
        """Its streams, oldest first."""
        from otelstream._face.view import StreamView

        return tuple(StreamView(stream) for stream in self._all())

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tool calls that the model asked for in it, oldest first."""
        return tuple(call for stream in self._all() for call in stream.all_tool_calls())

    @property
    def ledger(self) -> Ledger:
        """Which side effects stood when it was stopped, newest first; as of now while it was not."""
        from otelstream._core.record.cancel import ledger

        return ledger(self, self.stopped.at if self.stopped is not None else None)

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

    def _all(self) -> list[StreamObservation]:
        if not self.implicit:
            return list(self._streams)
        only = self._only()
        return [] if only is None else [only]

    def open_streams(self) -> list[StreamObservation]:
        return [stream for stream in self._all() if stream.ending is None]

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
        self.settle()

    def settle(self) -> None:
        """Call what waits for the turn to be over, if it is."""
        while self.over and not self.live:
            try:
                self.over.pop()(self)
            except IndexError:
                return

    def __repr__(self) -> str:
        return f"<Turn {self.id!r} streams={len(self._all())}>"


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
    return None if own is None else own.turn


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


def exit() -> None:  # noqa: A001
    """The process ends, and with it every turn."""
    for turn in _known.all():
        turn.entered = 0
        turn.settle()


def begun(stream: StreamObservation) -> None:
    """Tell the served request we are in of a stream, or the context of its newest one."""
    if stream.turn is not None and stream.turn.implicit:
        # The stream holds its turn and not the other way round: a cycle would keep both for the collector.
        _own.set(stream)
    request = _request.get()
    if request is not None:
        request.begun(stream)


def forget() -> None:
    """Start anew, in a forked child."""
    from otelstream._core.record import cancel as _cancel

    _known.clear()
    _cancel.forget()


@contextmanager
def serving(request: Request) -> Iterator[None]:
    """Be inside a served request."""
    token = _request.set(request)
    try:
        yield
    finally:
        _reset(_request, token)


def _reset(variable: ContextVar[Any], token: Token[Any]) -> None:
    try:
        variable.reset(token)
    except ValueError:  # another context: a generator that is resumed elsewhere
        return


class turn:  # noqa: N801 - a context manager reads as a word
    """One question of the user, from here to the end of the block; `with turn(chat_id) as turn:` or a decorator.

    Tasks and generators started inside belong to it; a thread or another block joins it by its id while it is open.
    In a served request the turn holds to the end of the request.
    """

    __slots__ = ("_id", "_inside", "_route")

    def __init__(self, id: str | None = None, *, route: str | None = None) -> None:  # noqa: A002
        if id is not None and not isinstance(id, str):
            id = str(id)  # noqa: A001
        self._id, self._route = id, route
        self._inside: list[tuple[Turn, Token[Turn | None]]] = []

    def _open(self) -> Turn:
        opened = _known.open(self._id or os.urandom(8).hex(), self._route)
        if opened.route is None:
            opened.route = self._route
        opened.enter()
        request = _request.get()
        if request is not None:
            request.adopt(opened)
        return opened

    def __enter__(self) -> Turn:
        opened = self._open()
        self._inside.append((opened, _block.set(opened)))
        return opened

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        opened, token = self._inside.pop()
        _reset(_block, token)
        opened.leave()

    async def __aenter__(self) -> Turn:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def __call__(self, function: F) -> F:
        """Make every call of `function` a turn of its own."""
        if not callable(function):
            raise ConfigurationError(f"turn() decorates functions, not {function!r}")
        make = type(self)
        id_, route = self._id, self._route

        if inspect.isasyncgenfunction(function):

            @wraps(function)
            async def agenerate(*args: Any, **kwargs: Any) -> Any:
                opened = make(id_, route=route)._open()
                generator = function(*args, **kwargs)
                try:
                    async for item in _adrive(generator, opened):
                        yield item
                finally:
                    await generator.aclose()
                    opened.leave()

            return agenerate  # type: ignore[return-value]
        if inspect.isgeneratorfunction(function):

            @wraps(function)
            def generate(*args: Any, **kwargs: Any) -> Any:
                opened = make(id_, route=route)._open()
                try:
                    return (yield from _drive(function(*args, **kwargs), opened))
                finally:
                    opened.leave()

            return generate  # type: ignore[return-value]
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def acall(*args: Any, **kwargs: Any) -> Any:
                with make(id_, route=route):
                    return await function(*args, **kwargs)

            return acall  # type: ignore[return-value]

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with make(id_, route=route):
                return function(*args, **kwargs)

        return call  # type: ignore[return-value]


def _drive(generator: Generator[Any, Any, Any], opened: Turn) -> Generator[Any, Any, Any]:
    """Run each step of `generator` inside the turn: every step may have a context of its own."""
    step: Callable[..., Any] = generator.send
    argument: Any = None
    while True:
        token = _block.set(opened)
        try:
            item = step(argument)
        except StopIteration as stop:
            return stop.value
        finally:
            _reset(_block, token)
        try:
            argument, step = (yield item), generator.send
        except GeneratorExit:
            generator.close()
            raise
        except BaseException as error:
            argument, step = error, generator.throw


async def _adrive(generator: AsyncGenerator[Any, Any], opened: Turn) -> AsyncGenerator[Any, Any]:
    while True:
        token = _block.set(opened)
        try:
            item = await generator.__anext__()
        except StopAsyncIteration:
            return
        finally:
            _reset(_block, token)
        yield item
