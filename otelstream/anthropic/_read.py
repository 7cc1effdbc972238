# SPDX-License-Identifier: Apache-2.0
"""The hot path: one generator in the place of the SDK's own, straight over its decoder.

Per delta it costs two clock reads, one comparison of a name, two list appends and three comparisons of numbers;
everything else waits for a batch of deltas, a structural event or the end.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from otelstream._ending import CUT_SHORT, abandoned, cancelled, is_task_cancel
from otelstream._looplag import heartbeat
from otelstream._stream import clock
from otelstream._trouble import trouble
from otelstream.anthropic._faults import malformed, while_reading
from otelstream.anthropic._protocol import DELTA, countdown, event, flush

if TYPE_CHECKING:
    from otelstream._stream import StreamObservation


def read(events: Iterator[Any], stream: StreamObservation, response: Any) -> Iterator[Any]:
    """Yield the very events of `events`, each as it arrives, and stamp them."""
    wait, keep = stream.waits.append, stream.datas.append
    threshold = stream.runtime.settings.stall_threshold
    left = countdown(stream)
    ask = stream.ask = clock()
    try:
        for sse in events:
            got = clock()
            stream.last = got
            if sse.event == DELTA:
                wait(got - ask)
                keep(sse.data)
                left -= 1
                if not left or got - ask > threshold:
                    left = _flush(stream, got)
                yield sse
                stream.ask = ask = clock()
            else:
                left = _structural(stream, sse, got, ask)
                yield sse
                now = clock()
                ask = now - stream.carry
                stream.ask = stream.last = ask
                stream.activity = got
                if now - got > threshold:
                    _held(stream, got, now)
                if left == 0:
                    break
                continue
            if ask - got > threshold:
                _held(stream, got, ask)
            if left == 0:
                break
        else:
            _exhausted(stream)
            return
        stream.end(cancelled("app_close"))
        response.close()
    except BaseException as error:
        _broken(stream, error)
        raise


async def aread(events: AsyncIterator[Any], stream: StreamObservation, response: Any) -> AsyncIterator[Any]:
    """Yield the very events of `events`, each as it arrives, and stamp them; the async twin of `read`."""
    wait, keep = stream.waits.append, stream.datas.append
    threshold = stream.runtime.settings.stall_threshold
    left = countdown(stream)
    _listen(stream)
    ask = stream.ask = clock()
    try:
        async for sse in events:
            got = clock()
            stream.last = got
            if sse.event == DELTA:
                wait(got - ask)
                keep(sse.data)
                left -= 1
                if not left or got - ask > threshold:
                    left = _flush(stream, got)
                yield sse
                stream.ask = ask = clock()
            else:
                left = _structural(stream, sse, got, ask)
                yield sse
                now = clock()
                ask = now - stream.carry
                stream.ask = stream.last = ask
                stream.activity = got
                if now - got > threshold:
                    _held(stream, got, now)
                if left == 0:
                    break
                continue
            if ask - got > threshold:
                _held(stream, got, ask)
            if left == 0:
                break
        else:
            _exhausted(stream)
            return
        stream.end(cancelled("app_close"))
        await response.aclose()
    except BaseException as error:
        _broken(stream, error)
        raise


def _flush(stream: StreamObservation, at: float) -> int:
    try:
        return flush(stream, at) or 0
    except Exception:
        trouble("summing chunks")
        return 1


def _structural(stream: StreamObservation, sse: Any, got: float, ask: float) -> int:
    stream.activity = got
    return event(stream, sse.event, sse.data, got, got - ask)


def _held(stream: StreamObservation, start: float, end: float) -> None:
    """The consumer kept the stream parked for longer than the threshold."""
    if stream.ending is not None or stream.first_chunk_at is None:
        return
    try:
        _flush(stream, start)
        stream.stalled(end - start, stream.runtime.holder(stream, start, end), end)
    except Exception:
        trouble("recording a hold")


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


def _broken(stream: StreamObservation, error: BaseException) -> None:
    """`error` came up out of the body, or down from whoever reads: a drop, a close, a cancel."""
    if stream.ending is not None:
        return
    try:
        if isinstance(error, GeneratorExit):
            # Nobody closed the stream itself: the reader let go of it. Perhaps the SDK did, over what it had to parse.
            _flush(stream, clock())
            stream.end(malformed(stream) if stream.undecodable else abandoned("gc"))
        elif is_task_cancel(error) and stream.native_end is None:
            _after_this_step(stream, error)
        else:
            stream.end(while_reading(stream, error))
    except Exception:
        trouble("ending a stream")


def _after_this_step(stream: StreamObservation, error: BaseException) -> None:
    """Decide on a task's cancel once its step is over: a time-out inside the stream's `with` shows by then."""
    ending = while_reading(stream, error)
    stream.activity = clock()
    try:
        asyncio.get_running_loop().call_soon(stream.end, ending, stream.activity)
    except RuntimeError:
        stream.end(ending)


def in_flight() -> BaseException | None:
    """The exception being handled or propagated where a hook of ours runs."""
    return sys.exc_info()[1]
