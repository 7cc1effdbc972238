# SPDX-License-Identifier: Apache-2.0
"""The hot path: a stream's events stamped as they pass, in the place of an SDK's generator or around it.

Per delta it costs two clock reads, a comparison of a name and one of times, two list appends and a countdown;
everything else waits for a batch of deltas, a structural event or the end.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from otelstream._core.emit import outbox
from otelstream._core.process.closing import decide, end, publish
from otelstream._core.process.later import after_this_step
from otelstream._core.record.batch import after_pause, countdown, flush, pause
from otelstream._core.record.ending import CUT_SHORT, Ending, by_departure, cancelled, failed, identity, is_task_cancel
from otelstream._core.record.hearing import PACE
from otelstream._core.record.intake import event
from otelstream._core.record.looplag import heartbeat
from otelstream._core.record.stream import StreamObservation, clock
from otelstream._core.tools import parked
from otelstream._trouble import trouble

DataOf = Callable[[Any], str]


class Attached:
    """What an adapter keeps with a stream. This one serves an SDK whose streams nobody closes but by leaving them."""

    __slots__ = ()

    def inert(self) -> Attached:
        """What stays with a stream whose record is out: one for all."""
        return self

    def whose(self, stream: StreamObservation, error: BaseException) -> Ending:
        """The verdict when `error` came up out of the body, or down from who reads."""
        if isinstance(error, Exception):
            return failed("connection_lost", "connection_error")
        return by_departure(error)

    def reader_left(self, stream: StreamObservation) -> None:
        """Who reads let go of the events, and nobody closed the stream itself."""
        end(stream, cancelled("generator_close"))


def read(events: Iterator[Any], stream: StreamObservation, close: Callable[[], object]) -> Iterator[Any]:
    """Yield the very server-sent events of `events`, each as it arrives; `close` where the application asks for it."""
    wait, keep = stream.waits.append, stream.datas.append
    threshold, grammar = pause(stream), stream.grammar
    delta, (begins, within, ends, lacks) = grammar.delta, grammar.shape
    left = countdown(stream)
    _begun(stream)
    ask = stream.waiting_since = last = clock()
    try:
        for sse in events:
            stream.last = got = clock()
            data = sse._data
            if sse._event == delta or (
                begins
                and data.startswith(begins)
                and data.endswith(ends)
                and within in data
                and not (lacks and lacks in data)
            ):
                wait(got - ask)
                keep(data)
                left -= 1
                if left and got - last < threshold:
                    yield sse
                    stream.waiting_since = ask = clock()
                    last = got
                    continue
                left = _batch(stream, got, ask, last)
                yield sse
                stream.waiting_since = ask = clock()
            else:
                left = structural(stream, sse._event, data, got, ask, last)
                begins, within, ends, lacks = grammar.shape
                yield sse
                ask = _resumed(stream)
            last = got
            if not left:
                break
        else:
            exhausted(stream)
            return
        decide(stream, cancelled("app_close"))
        try:
            close()
        finally:
            publish(stream)
    except BaseException as error:
        broken(stream, error)
        raise


async def aread(
    events: AsyncIterator[Any], stream: StreamObservation, close: Callable[[], Awaitable[object]]
) -> AsyncIterator[Any]:
    """Yield the very server-sent events of `events`, each as it arrives; the async twin of `read`."""
    wait, keep = stream.waits.append, stream.datas.append
    threshold, grammar = pause(stream), stream.grammar
    delta, (begins, within, ends, lacks) = grammar.delta, grammar.shape
    left = countdown(stream)
    _begun(stream)
    _listen(stream)
    ask = stream.waiting_since = last = clock()
    try:
        async for sse in events:
            stream.last = got = clock()
            data = sse._data
            if sse._event == delta or (
                begins
                and data.startswith(begins)
                and data.endswith(ends)
                and within in data
                and not (lacks and lacks in data)
            ):
                wait(got - ask)
                keep(data)
                left -= 1
                if left and got - last < threshold:
                    yield sse
                    stream.waiting_since = ask = clock()
                    last = got
                    continue
                left = _batch(stream, got, ask, last)
                yield sse
                stream.waiting_since = ask = clock()
            else:
                left = structural(stream, sse._event, data, got, ask, last)
                begins, within, ends, lacks = grammar.shape
                yield sse
                ask = _resumed(stream)
            last = got
            if not left:
                break
        else:
            exhausted(stream)
            return
        decide(stream, cancelled("app_close"))
        try:
            await close()
        finally:
            publish(stream)
    except BaseException as error:
        broken(stream, error)
        raise


class Steps:
    """The same for who is handed one event at a time: lines of a raw body, an iterator's `__next__`."""

    __slots__ = ("_left", "_pause", "_stream", "stop")

    def __init__(self, stream: StreamObservation) -> None:
        self._stream, self._pause = stream, pause(stream)
        self._left = 1
        self.stop = False  # the application asks for the stream's end

    def begin(self, *, loop: bool = False) -> None:
        """The first read, in an event loop or not."""
        _begun(self._stream)
        if loop:
            _listen(self._stream)

    def took(self, name: str | None, data: str, got: float, ask: float) -> float:
        """Take in one event that arrived at `got`, asked for at `ask`; returns when the next one's wait began."""
        stream = self._stream
        grammar = stream.grammar
        if name == grammar.delta or grammar.shape.fits(data):
            stream.waits.append(got - ask)
            stream.datas.append(data)
            self._left -= 1
            if got - ask > self._pause:
                self._taken(after_pause(stream, ask, got))
            elif self._left <= 0:
                self._taken(flush(stream, got))
            return got
        self._taken(structural(stream, name, data, got, ask, ask))
        return got - stream.carry

    def _taken(self, left: int) -> None:
        self.stop = self.stop or not left
        self._left = left or countdown(self._stream)


def around(items: Iterator[Any], stream: StreamObservation, data_of: DataOf | None = None) -> Iterator[Any]:
    """Yield the very items of an iterator, each as it arrives; `data_of` gives an item's data, if it is not that."""
    wait, keep = stream.waits.append, stream.datas.append
    threshold, grammar = pause(stream), stream.grammar
    begins, within, ends, lacks = grammar.shape
    left = countdown(stream)
    _begun(stream)
    ask = stream.waiting_since = last = clock()
    try:
        for item in items:
            stream.last = got = clock()
            data = item if data_of is None else data_of(item)
            if (
                begins
                and data.startswith(begins)
                and (not ends or data.endswith(ends))
                and within in data
                and not (lacks and lacks in data)
            ):
                wait(got - ask)
                keep(data)
                left -= 1
                if left and got - last < threshold:
                    yield item
                    stream.waiting_since = ask = clock()
                    last = got
                    continue
                left = _batch(stream, got, ask, last)
                yield item
                stream.waiting_since = ask = clock()
            else:
                left = structural(stream, None, data, got, ask, last)
                begins, within, ends, lacks = grammar.shape
                yield item
                ask = _resumed(stream)
            last = got
            if not left:
                break
        else:
            exhausted(stream)
            return
    except BaseException as error:
        broken(stream, error)
        raise
    end(stream, cancelled("app_close"))


class aaround:  # noqa: N801 - the async twin of a function
    """The very items of an async iterator, each as it arrives; the async twin of `around`.

    No generator: who drops one leaves it to the event loop, which closes it later, and what it holds later still.
    """

    __slots__ = ("_behind", "_data_of", "_last", "_left", "_next", "_pause", "_stream")

    def __init__(self, items: AsyncIterator[Any], stream: StreamObservation, data_of: DataOf | None = None) -> None:
        self._next, self._stream, self._data_of = items.__anext__, stream, data_of
        self._pause = pause(stream)
        self._left = -1  # until the first read
        self._behind = self._last = 0.0

    def __aiter__(self) -> aaround:
        return self

    async def __anext__(self) -> Any:
        stream = self._stream
        if self._left <= 0:
            self._begin()
        stream.waiting_since = ask = clock() - self._behind
        try:
            item = await self._next()
        except StopAsyncIteration:
            exhausted(stream)
            raise
        except BaseException as error:
            broken(stream, error)
            raise
        stream.last = got = clock()
        data = item if self._data_of is None else self._data_of(item)
        begins, within, ends, lacks = stream.grammar.shape
        if (
            begins
            and data.startswith(begins)
            and (not ends or data.endswith(ends))
            and within in data
            and not (lacks and lacks in data)
        ):
            stream.waits.append(got - ask)
            stream.datas.append(data)
            self._behind = 0.0
            self._left -= 1
            if not self._left or got - self._last >= self._pause:
                self._left = _batch(stream, got, ask, self._last)
        else:
            self._left = structural(stream, None, data, got, ask, self._last)
            self._behind = stream.carry
        self._last = got
        return item

    def _begin(self) -> None:
        """The first read, or one more than the application asked for: a loop was seen that is to end the stream."""
        stream = self._stream
        if not self._left:
            end(stream, cancelled("app_close"))
            raise StopAsyncIteration
        self._left = countdown(stream)
        _begun(stream)
        _listen(stream)
        self._last = clock()

    def __del__(self) -> None:
        try:
            if self._stream.once:
                outbox.finalise(lambda: self._stream.attached.reader_left(self._stream))
        except Exception:
            return  # at interpreter exit anything may be gone


def lazily(start: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """Begin with the first `next`, as an SDK does whose request leaves only then."""
    yield from start()


def _batch(stream: StreamObservation, got: float, ask: float, last: float) -> int:
    """A batch is full, or time passed since the event at `last`. Returns the next countdown, 0 to stop."""
    try:
        kept_parked(stream, last, ask)
        return flush(stream, got) if got - last < PACE else after_pause(stream, last, got)
    except Exception:
        stream.unseen = True
        trouble("summing chunks")
        return 1


def structural(stream: StreamObservation, name: str | None, data: str, got: float, ask: float, last: float) -> int:
    """Take in any event but a delta; the time waited for it belongs to the next chunk's gap."""
    stream.activity = got
    try:
        kept_parked(stream, last, ask)
        left = event(stream, name, data, got, got - ask)
        if stream.told is not None:
            end(stream, stream.told, got)
        return left
    except Exception:
        stream.unseen = True
        trouble("reading an event")
        return 1


def _resumed(stream: StreamObservation) -> float:
    """The reader asks for more after a structural event: as of then, less what it waited since the last chunk."""
    stream.waiting_since = stream.last = clock() - stream.carry
    return stream.waiting_since


def kept_parked(stream: StreamObservation, start: float, end: float) -> None:
    """The consumer kept the stream parked: a stall, if for longer than the threshold."""
    if end - start > stream.runtime.settings.stall_threshold and stream.first_chunk_at is not None:
        by_tool = parked.by_tool(stream, start, end)
        stream.stalled(end - start, "own_tool" if by_tool else "consumer", end)


def _listen(stream: StreamObservation) -> None:
    try:
        heart = heartbeat()
        if heart is not None:
            heart.read_by(stream)
            stream.loop = heart
    except Exception:
        trouble("starting a heartbeat")


def _begun(stream: StreamObservation) -> None:
    """The first read. An exception that is being handled here is not one that this stream raised."""
    handled = sys.exc_info()[1]
    if handled is not None:
        stream.opened_under = identity(handled)


def exhausted(stream: StreamObservation) -> None:
    """The body ended by itself; a terminal event, had there been one, has decided already."""
    if stream.unseen:  # its terminal event may be what we could not read
        end(stream, Ending("completed"))
    else:
        end(stream, stream.grammar.complete_at_eof(stream.finish_reason) or CUT_SHORT)


def broken(stream: StreamObservation, error: BaseException) -> None:
    """`error` came up out of the body, or down from whoever reads: a drop, a close, a cancel."""
    if stream.ending is not None:
        return
    try:
        if isinstance(error, GeneratorExit):
            stream.attached.reader_left(stream)
        elif is_task_cancel(error) and stream.native_end is None:
            after_this_step(stream, error)
        else:
            end(stream, stream.attached.whose(stream, error))
    except Exception:
        trouble("ending a stream")
