# SPDX-License-Identifier: Apache-2.0
"""One turn: the streams and tool calls of a question and of the turns inside it, and what a Stop of it reaches."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator

from otelstream._core.record.call import ToolCall
from otelstream._core.record.host import TurnStop
from otelstream._core.record.stream import StreamObservation

MAX_STREAMS = 64  # remembered of one turn, and those that are open

_lock = threading.RLock()  # of what threads change in turns; a signal handler may come back in


class Turn:
    """One question of a user: its streams, its tool calls, and what a Stop found; of the turns inside it too."""

    __slots__ = ("__weakref__", "_only", "_streams", "_whole", "entered", "exchange", "id", "implicit", "inner",
                 "outer", "outlives", "over", "route", "stopped", "unstreamed")  # fmt: skip

    def __init__(
        self,
        id: str | None = None,  # noqa: A002
        route: str | None = None,
        *,
        implicit: bool = False,
        outer: Turn | None = None,
    ) -> None:
        self.id = id
        self.route = route
        self.implicit = implicit  # nobody opened it: a stream's own
        self.exchange = False  # the SDK opened it, so that the application may do its tools' work outside of it
        self.outer = outer  # the turn it was opened in
        self.outlives = False  # another question came after a Stop of it, as on a websocket
        self.entered = 0  # blocks and requests that are inside it
        self.inner = 0  # those that are inside a turn in it
        # A stream's own turn keeps none here; an empty deque would be 0.7 KiB an open stream.
        self._streams: deque[StreamObservation] | list[StreamObservation] = [] if implicit else deque()
        self._whole: list[StreamObservation] = []  # answers that came whole and asked for tools
        self.unstreamed = 0  # requests to a model that were not streamed
        self._only: Callable[[], StreamObservation | None] = lambda: None  # weak, see `begun`
        self.stopped: TurnStop | None = None  # by a Stop of its own
        self.over: list[Callable[[Turn], object]] = []  # called when nobody is in it any more

    def chain(self) -> Iterator[Turn]:
        """It and the turns around it, from the inside out."""
        turn: Turn | None = self
        while turn is not None:
            yield turn
            turn = turn.outer

    @property
    def records(self) -> list[StreamObservation]:
        """Its streams, oldest first."""
        if not self.implicit:
            return list(self._streams)
        only = self._only()
        return [] if only is None else [only]

    @property
    def answers(self) -> list[StreamObservation]:
        """Its streams, and what came whole and asked for tools; oldest first."""
        if not self._whole:
            return self.records
        return sorted([*self.records, *self._whole], key=lambda answer: answer.started)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tool calls that the model asked for in it, oldest first."""
        return tuple(call for answer in self.answers for call in answer.all_tool_calls())

    def count_unstreamed(self) -> None:
        """A request that is not streamed was made in it."""
        with _lock:
            for turn in self.chain():
                turn.unstreamed += 1

    def add_whole(self, answer: StreamObservation) -> None:
        """An answer came whole, and asks for tools."""
        with _lock:
            for turn in self.chain():
                turn._whole = [*turn._whole, answer][-MAX_STREAMS:]

    def add(self, stream: StreamObservation) -> None:
        if self.implicit:
            self._only = weakref.ref(stream)
            return
        with _lock:
            for turn in self.chain():
                turn._make_room()
                turn._streams.append(stream)

    def _make_room(self) -> None:
        if len(self._streams) >= MAX_STREAMS:
            ended = next((each for each in self._streams if each.ending is not None), None)
            if ended is not None:  # a Stop must still find those that are open
                self._streams.remove(ended)

    def drop(self, stream: StreamObservation) -> None:
        with _lock:
            for turn in self.chain():
                if stream in turn._streams:
                    turn._streams.remove(stream)
        if self._only() is stream:
            self._only = lambda: None

    def newest(self) -> StreamObservation | None:
        return self._streams[-1] if self._streams else self._only()

    def open_streams(self) -> list[StreamObservation]:
        return [stream for stream in self.records if stream.ending is None]

    # --- a Stop -------------------------------------------------------------------------------------------

    @property
    def lasting(self) -> bool:
        """Whether nobody says when its question is over: a Stop is for what is open then, not for what comes later."""
        return self.outlives or self.by_trace or self.implicit

    def stopped_by(self, begun: float) -> Turn | None:
        """The turn, this or one around it, whose Stop reaches what began in this one at `begun`."""
        for turn in self.chain():
            if turn.stopped is not None and (begun <= turn.stopped.at or not turn.lasting):
                return turn
        return None

    def reached(self, begun: float) -> bool:
        """Whether a Stop reaches what began in it at `begun`."""
        return self.stopped_by(begun) is not None

    def calls_with(self, begun: float) -> tuple[ToolCall, ...]:
        """The tool calls that are counted with what began in it at `begun`: of the stopped turn, or its own."""
        turn = self.stopped_by(begun)
        return self.tool_calls if turn is None else turn.stopped_calls()

    def stopped_calls(self) -> tuple[ToolCall, ...]:
        """The tool calls that its Stop is about."""
        stopped = self.stopped
        if stopped is None or not self.lasting:
            return self.tool_calls
        return tuple(call for each in self.answers if each.started <= stopped.at for call in each.all_tool_calls())

    # --- who is inside ------------------------------------------------------------------------------------

    @property
    def live(self) -> bool:
        """Whether somebody is inside it, or a stream of it is open."""
        return self.entered > 0 or self.inner > 0 or bool(self.open_streams())

    @property
    def by_trace(self) -> bool:
        """Whether only a trace holds it together, of which nobody says when it is over."""
        return self.id is None and not self.implicit

    def enter(self) -> None:
        self._count(1)

    def leave(self) -> None:
        self._count(-1)
        self.call_if_over()

    def _count(self, step: int) -> None:
        with _lock:
            self.entered += step
            for turn in self.chain():
                if turn is not self:
                    turn.inner += step

    def call_if_over(self) -> None:
        """Call what waits for it, or for one around it, to be over, where that is so."""
        for turn in self.chain():
            if turn.over and not turn.live:
                turn.settle()

    def settle(self) -> None:
        """Call what waits for it to be over: it is, or has gone on to something else."""
        while self.over:
            try:
                waits = self.over.pop()
            except IndexError:
                return
            waits(self)

    def __repr__(self) -> str:
        return f"<Turn {self.id!r} streams={len(self.records)}>"


def related(one: object, other: object) -> bool:
    """Whether two turns are one, or one is inside the other."""
    if one is other:
        return one is not None
    if not isinstance(one, Turn) or not isinstance(other, Turn):
        return False
    return any(turn is other for turn in one.chain()) or any(turn is one for turn in other.chain())


def restart() -> None:
    """Start anew, in a forked child."""
    global _lock
    _lock = threading.RLock()
