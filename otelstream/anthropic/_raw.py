# SPDX-License-Identifier: Apache-2.0
"""Observe a response whose body the application reads itself, as lines or bytes, without the SDK's parser."""

from __future__ import annotations

import sys
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

from otelstream._core.process.runtime import dropped
from otelstream._core.record.ending import CUT_SHORT, Ending, failed, is_task_cancel
from otelstream._core.record.stream import clock
from otelstream._trouble import trouble
from otelstream.anthropic._faults import leaving, while_reading
from otelstream.anthropic._protocol import DELTA, countdown, event, flush
from otelstream.anthropic._read import after_this_step

if TYPE_CHECKING:
    from otelstream._core.record.stream import StreamObservation


class Lines:
    """Server-sent events out of raw body bytes, told to an observation as they complete."""

    def __init__(self, stream: StreamObservation, encoding: str) -> None:
        self._stream = stream
        self._decode = _decoder(encoding)
        self._rest = b""
        self._name = ""
        self._data: list[str] = []
        self._left = 1
        self.broken = False  # the encoding: nothing after it can be understood

    def feed(self, chunk: bytes, got: float, ask: float) -> None:
        """Take in bytes that arrived at `got` after they were asked for at `ask`."""
        if self._decode is None or self.broken:
            return
        try:
            plain = self._decode(chunk)
        except zlib.error:
            self.broken = True
            return
        *lines, self._rest = (self._rest + plain).replace(b"\r\n", b"\n").split(b"\n")
        for line in lines:
            if line:
                try:
                    field, _, value = line.decode().partition(":")
                except UnicodeDecodeError:
                    self._stream.garbled = True
                    continue
                if field == "event":
                    self._name = value.strip()
                elif field == "data":
                    self._data.append(value.removeprefix(" "))
            elif self._name or self._data:
                ask = self._event(got, ask)

    def _event(self, got: float, ask: float) -> float:
        stream, data = self._stream, "\n".join(self._data)
        if self._name == DELTA:
            stream.waits.append(got - ask)
            stream.datas.append(data)
            self._left -= 1
            if self._left <= 0 or got - ask > stream.runtime.settings.stall_threshold:
                self._left = flush(stream, got) or 1
            ask = got
        else:
            self._left = event(stream, self._name, data, got, got - ask) or countdown(stream)
            ask = got - stream.carry
        self._name, self._data = "", []
        return ask


def _decoder(encoding: str) -> Callable[[bytes], bytes] | None:
    """Undo a content encoding; None for one that the standard library does not know."""
    if encoding in ("", "identity"):
        return bytes
    if encoding in ("gzip", "x-gzip", "deflate"):
        inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)
        return inflate.decompress
    return None


class _Body:
    """What both kinds of body share. It forwards whatever else the SDK or the client looks for on a body."""

    def __init__(self, stream: StreamObservation, body: Any, encoding: str) -> None:
        self._otelstream = stream
        self._body = body
        self._lines: Lines | None = Lines(stream, encoding)
        self._opaque = _decoder(encoding) is None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_body"], name)

    def _got(self, chunk: bytes, got: float, ask: float) -> None:
        if self._lines is None:
            return
        try:
            self._otelstream.last = self._otelstream.activity = got
            self._lines.feed(chunk, got, ask)
        except Exception:
            self._lines.broken = True
            trouble("reading raw bytes")

    def _end(self, ending: Ending, at: float | None = None) -> None:
        # Parsed after all: the SDK's stream over this body knows better how it ends.
        if self._lines is not None:
            self._otelstream.end(ending, at)

    def _broken(self, error: BaseException) -> None:
        if isinstance(error, GeneratorExit):
            # The loop was left. Whether the response is closed too, or dropped, is still to come.
            self._otelstream.reading.let_go = clock()
        elif is_task_cancel(error) and self._lines is not None and self._otelstream.native_end is None:
            after_this_step(self._otelstream, error)
        else:
            self._end(while_reading(self._otelstream, error))

    def _closed(self) -> None:
        flying = sys.exc_info()[1]
        # A loop that was left, or a cancel whose reason is still to come: the client closes the body under both.
        waits = isinstance(flying, GeneratorExit) or (flying and is_task_cancel(flying) and self._otelstream.verdict)
        if not waits and self._lines is not None:  # else the SDK's stream over this body knows better
            self._otelstream.decide(leaving(self._otelstream, flying), clock())

    def _read(self) -> Ending:
        if self._opaque:
            return Ending("completed")
        return failed("protocol_error") if self._lines is not None and self._lines.broken else CUT_SHORT

    def __del__(self) -> None:
        try:
            if self._otelstream.ending is None:
                dropped(self._otelstream)
        except Exception:
            return


def _bodies(sync_base: Any, async_base: Any) -> tuple[type, type]:
    class Body(_Body, sync_base):  # type: ignore[misc]
        def __iter__(self) -> Iterator[bytes]:
            stream = self._otelstream
            ask = stream.ask = clock()
            try:
                for chunk in self._body:
                    self._got(chunk, clock(), ask - stream.carry)
                    yield chunk
                    ask = stream.ask = clock()
            except BaseException as error:
                self._broken(error)
                raise
            self._end(self._read())

        def close(self) -> None:
            self._closed()
            try:
                self._body.close()
            finally:
                self._otelstream.publish()

    class AsyncBody(_Body, async_base):  # type: ignore[misc]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            stream = self._otelstream
            ask = stream.ask = clock()
            try:
                async for chunk in self._body:
                    self._got(chunk, clock(), ask - stream.carry)
                    yield chunk
                    ask = stream.ask = clock()
            except BaseException as error:
                self._broken(error)
                raise
            self._end(self._read())

        async def aclose(self) -> None:
            self._closed()
            try:
                await self._body.aclose()
            finally:
                self._otelstream.publish()

    return Body, AsyncBody


_kinds: dict[str, tuple[type, type]] = {}


def watch(stream: StreamObservation, response: Any) -> None:
    """Put a byte wrapper on the body of a raw response; it passes for the body's own kind."""
    module = sys.modules[type(response).__module__.partition(".")[0]]  # httpx, or httpx2
    if module.__name__ not in _kinds:
        _kinds[module.__name__] = _bodies(module.SyncByteStream, module.AsyncByteStream)
    body = response.stream
    asynchronous = isinstance(body, module.AsyncByteStream) and not isinstance(body, module.SyncByteStream)
    kind = _kinds[module.__name__][1 if asynchronous else 0]
    stream.reading.held = True
    response.stream = kind(stream, body, response.headers.get("content-encoding", "").strip().lower())


def close(response: Any) -> StreamObservation | None:
    """Decide on a raw response that the application closes, perhaps after it let go of what it read it by."""
    stream: StreamObservation | None = response.http_response.__dict__.get("_otelstream")
    if stream is None or stream.ending is not None:
        return None
    stream.decide(leaving(stream, sys.exc_info()[1]), stream.reading.let_go or clock())
    if stream.native_end is not None:
        stream.native_end()
    return stream


def parsed(response: Any) -> None:
    """The SDK reads the body's events after all: leave the record to the stream's own reader."""
    body = getattr(response, "stream", None)
    if isinstance(body, _Body):
        body._lines = None


def unparsed(response: Any) -> bool:
    """Whether nobody has read the body's events: parsing alone starts nothing."""
    body = getattr(response, "stream", None)
    return isinstance(body, _Body) and body._lines is not None
