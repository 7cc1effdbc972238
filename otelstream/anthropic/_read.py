# SPDX-License-Identifier: Apache-2.0
"""The hot path: one generator in the place of the SDK's own, straight over its decoder.

Per delta it costs two clock reads, a comparison of a name and one of times, two list appends and a countdown;
everything else waits for a batch of deltas, a structural event or the end.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from otelstream._core.process.runtime import dropped
from otelstream._core.record.ending import CUT_SHORT, Ending, cancelled, identity, is_task_cancel
from otelstream._core.record.looplag import heartbeat
from otelstream._core.record.stream import clock
from otelstream._trouble import trouble
from otelstream.anthropic._faults import while_reading
from otelstream.anthropic._protocol import DELTA, countdown, event, flush

if TYPE_CHECKING:
    from otelstream._core.record.stream import StreamObservation


def read(events: Iterator[Any], stream: StreamObservation, response: Any) -> Iterator[Any]:
    """Yield the very events of `events`, each as it arrives, and stamp them."""
    wait, keep = stream.waits.append, stream.datas.append
    threshold = stream.runtime.settings.stall_threshold
    left = countdown(stream)
    _begun(stream)
    ask = stream.ask = last = clock()
    try:
        for sse in events:
            stream.last = got = clock()
            if sse._event == DELTA:
                wait(got - ask)
                keep(sse._data)
                left -= 1
                if left and got - last < threshold:
                    yield sse
                    stream.ask = ask = clock()
                    last = got
                    continue
                left = _batch(stream, got, ask, last)
                yield sse
                stream.ask = ask = clock()
            else:
                left = _structural(stream, sse, got, ask, last)
                yield sse
                ask = _resumed(stream)
            last = got
            if not left:
                break
        else:
            _exhausted(stream)
            return
        stream.decide(cancelled("app_close"))
        try:
            response.close()
        finally:
            stream.publish()
    except BaseException as error:
        _broken(stream, error)
        raise


async def aread(events: AsyncIterator[Any], stream: StreamObservation, response: Any) -> AsyncIterator[Any]:
    """Yield the very events of `events`, each as it arrives, and stamp them; the async twin of `read`."""
    wait, keep = stream.waits.append, stream.datas.append
    threshold = stream.runtime.settings.stall_threshold
    left = countdown(stream)
    _begun(stream)
    _listen(stream)
    ask = stream.ask = last = clock()
    try:
        async for sse in events:
            stream.last = got = clock()
            if sse._event == DELTA:
                wait(got - ask)
                keep(sse._data)
                left -= 1
                if left and got - last < threshold:
                    yield sse
                    stream.ask = ask = clock()
                    last = got
                    continue
                left = _batch(stream, got, ask, last)
                yield sse
                stream.ask = ask = clock()
            else:
                left = _structural(stream, sse, got, ask, last)
                yield sse
                ask = _resumed(stream)
            last = got
            if not left:
                break
        else:
            _exhausted(stream)
            return
        stream.decide(cancelled("app_close"))
        try:
            await response.aclose()
        finally:
            stream.publish()
    except BaseException as error:
        _broken(stream, error)
        raise


def _batch(stream: StreamObservation, got: float, ask: float, last: float) -> int:
    """A batch is full, or time passed since the event at `last`. Returns the next countdown, 0 to stop."""
    try:
        _held(stream, last, ask)
        return flush(stream, got)
    except Exception:
        trouble("summing chunks")
        return 1


def _structural(stream: StreamObservation, sse: Any, got: float, ask: float, last: float) -> int:
    """Any event but a delta; the time waited for it belongs to the next chunk's gap."""
    stream.activity = got
    try:
        _held(stream, last, ask)
        return event(stream, sse._event, sse._data, got, got - ask)
    except Exception:
        trouble("reading an event")
        return 1


def _resumed(stream: StreamObservation) -> float:
    """The reader asks for more after a structural event: as of then, less what it waited since the last chunk."""
    stream.ask = stream.last = clock() - stream.carry
    return stream.ask


def _held(stream: StreamObservation, start: float, end: float) -> None:
    """The consumer kept the stream parked: a stall, if for longer than the threshold."""
    if end - start > stream.runtime.settings.stall_threshold and stream.first_chunk_at is not None:
        stream.stalled(end - start, stream.runtime.holder(stream, start, end), end)


def _listen(stream: StreamObservation) -> None:
    try:
        heart = heartbeat()
        if heart is not None:
            heart.read_by(stream)
            stream.loop = heart
    except Exception:
        trouble("starting a heartbeat")


def _exhausted(stream: StreamObservation) -> None:
    """The body ended by itself; a terminal event, had there been one, has decided already."""
    stream.end(CUT_SHORT)


def _begun(stream: StreamObservation) -> None:
    """The first read: where that handles an exception, the stream was perhaps opened elsewhere."""
    handled = sys.exc_info()[1]
    if handled is not None:
        stream.opened_under = identity(handled)


def _broken(stream: StreamObservation, error: BaseException) -> None:
    """`error` came up out of the body, or down from whoever reads: a drop, a close, a cancel."""
    if stream.ending is not None:
        return
    try:
        if isinstance(error, GeneratorExit) and stream.reading.held:
            stream.reading.let_go = clock()
        elif isinstance(error, GeneratorExit):
            # Nobody closed the stream itself: the reader let go of it, or the SDK did, over what it could not parse.
            dropped(stream)
        elif is_task_cancel(error) and stream.native_end is None:
            after_this_step(stream, error)
        else:
            stream.end(while_reading(stream, error))
    except Exception:
        trouble("ending a stream")


def after_this_step(stream: StreamObservation, error: BaseException) -> None:
    """Decide on a task's cancel a few steps later: a time-out inside the stream's `with` shows by then.

    `asyncio.wait_for()` before Python 3.12 reads in a task of its own, whose cancel takes its steps to come back.
    """
    stream.verdict = while_reading(stream, error)
    stream.activity = clock()
    try:
        _Later(stream, stream.verdict, asyncio.get_running_loop())()
    except RuntimeError:
        stream.end(stream.verdict)


class _Later:
    """Ends a stream some steps of the loop from now, or when the loop is closed before."""

    __slots__ = ("_at", "_ending", "_loop", "_steps", "_stream")

    def __init__(self, stream: StreamObservation, ending: Ending, loop: asyncio.AbstractEventLoop) -> None:
        self._stream, self._ending, self._loop = stream, ending, loop
        self._at, self._steps = stream.activity, 16

    def __call__(self) -> None:
        if self._steps and self._stream.ending is None:
            self._steps -= 1
            self._loop.call_soon(self)
        else:
            self._stream.end(self._ending, self._at)

    def __del__(self) -> None:
        self._stream.end(self._ending, self._at)


def in_flight() -> BaseException | None:
    """The exception being handled or propagated where a hook of ours runs."""
    return sys.exc_info()[1]
