# SPDX-License-Identifier: Apache-2.0
"""What one client got of the answers that were streamed for its request, and whether it is still there."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import perf_counter as clock

from otelstream import _semconv as s
from otelstream._core.process.stopping import stop, under_way
from otelstream._core.record.stream import StreamObservation
from otelstream._core.turns import turn as turns
from otelstream._trouble import trouble


class _Request(turns.Request):
    """The holder of one served request's turn, which tells of the streams that are begun in it."""

    __slots__ = ("_begun",)

    def __init__(self, begun: Callable[[StreamObservation], object]) -> None:
        super().__init__()
        self._begun = begun

    def begun(self, stream: StreamObservation) -> None:
        self._begun(stream)


class Hop:
    """One request of a client, whatever serves it: a middleware tells what it sees of it. Times are on `clock`."""

    def __init__(self) -> None:
        self.request = _Request(self._begun)
        self.broken = False  # the application raised
        self._streams: deque[StreamObservation] = deque(maxlen=turns.MAX_STREAMS)
        self._started = clock()
        self._first_byte: float | None = None
        self._last: float | None = None
        self._status: int | None = None
        self._complete = False
        self._gone = False

    def _begun(self, stream: StreamObservation) -> None:
        """A stream was begun in this request, maybe in another thread, maybe when the response was over."""
        if not self._complete:
            self._streams.append(stream)

    def sent(self) -> None:
        """Some of the answer was handed to the client."""
        self._last = clock()
        if self._first_byte is None:
            self._first_byte = self._last

    def left(self) -> None:
        """The client went away before it had all: what was streamed for it is asked to stop. Never raises."""
        if self._complete or self._gone or self.request.over:
            return
        self._gone = True
        self._last = clock()
        for stream in list(self._streams):
            self._ask(stream, self._last)

    def lost(self) -> None:
        """The client turned out to be gone, when the streams have heard of it by themselves."""
        self._gone = self._gone or not self._complete

    def _ask(self, stream: StreamObservation, at: float) -> None:
        turn = self._turn_of(stream)
        if turn is not None:
            stop(turn, "client_disconnect", at)

    def _turn_of(self, stream: StreamObservation) -> turns.Turn | None:
        """The turn that goes with the client: one inside another one of this request goes with that."""
        if not isinstance(stream.turn, turns.Turn):
            return None
        around = [turn for turn in stream.turn.chain() if turn in self.request.turns]
        return around[-1] if around else stream.turn

    def close(self) -> None:
        """The request is over. Never raises."""
        self.request.end()
        try:
            self._record()
        except Exception:
            trouble("ending a hop")

    def _record(self) -> None:
        if not self._streams:
            return
        stream = self._streams[0]
        ended = self._last if self._last is not None else clock()
        first = None if self._first_byte is None else self._first_byte - self._started
        stream.runtime.metrics.hop(stream, self._outcome(), first, ended - self._started)

    def _outcome(self) -> s.HopOutcome:
        if self._gone:
            return "client_disconnect"
        if self._status is None or self._status >= 500:
            return "failed"
        return "failed_after_200" if self.broken or not self._complete else "completed"


class Connection(Hop):
    """A connection that carries many questions: what was streamed for one of them is a hop of its own.

    A message is a question once a stream is begun after it; who leaves when nothing is under way leaves no answer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.accepted = False
        self._away = False
        self._asked_at: float | None = self._started  # of the newest message, until a stream is begun after it

    def asked(self) -> None:
        """A message of the client reaches the application."""
        self._asked_at = clock()
        turns.asked_anew()

    def _begun(self, stream: StreamObservation) -> None:
        asked_at, self._asked_at = self._asked_at, None
        if asked_at is not None:
            self._answered()
            self._started = asked_at
        self._streams.append(stream)
        if self._away:  # nobody is there to see it
            self._gone = True
            self._ask(stream, clock())

    def left(self) -> None:
        if self._complete or self._away or self.request.over:
            return
        self._away = True
        at = clock()
        for stream in list(self._streams):
            turn = self._turn_of(stream)
            if turn is not None and under_way(turn):
                self._gone, self._last = True, at
                stop(turn, "client_disconnect", at)

    def _answered(self) -> None:
        """Record the hop of the question before, if there was one."""
        try:
            self._record()
        except Exception:
            trouble("ending a hop")
        self._streams.clear()
        self._first_byte = self._last = None

    def _outcome(self) -> s.HopOutcome:
        if self._gone:
            return "client_disconnect"
        if not self.accepted:
            return "failed"
        return "failed_after_200" if self.broken else "completed"
