# SPDX-License-Identifier: Apache-2.0
"""Observe a response whose body the application reads itself, as lines or bytes, without the SDK's parser."""

from __future__ import annotations

import sys
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from otelstream._core.process.closing import decide, end, publish
from otelstream._core.process.drops import dropped
from otelstream._core.process.later import after_this_step
from otelstream._core.process.tap import Steps, exhausted
from otelstream._core.record.ending import Ending, failed, is_task_cancel
from otelstream._core.record.stream import StreamObservation, clock
from otelstream._stainless.faults import leaving, while_reading
from otelstream._trouble import trouble

MAX_LINE = 4 * 1024 * 1024  # bytes of one event; beyond, nobody can say what follows
_BINARY = "application/vnd.amazon.eventstream"


class Lines:
    """Server-sent events out of raw body bytes, told to an observation as they complete."""

    def __init__(self, stream: StreamObservation, decode: Callable[[bytes], bytes]) -> None:
        self._stream = stream
        self._decode = decode
        self._rest: list[bytes] = []  # of a line that is not whole, in pieces: a long one is joined once
        self._size = 0
        self._name = ""
        self._data: list[str] = []
        self._steps = Steps(stream)
        self.broken = False  # the encoding: nothing after it can be understood

    def feed(self, chunk: bytes, got: float, ask: float) -> None:
        """Take in bytes that arrived at `got` after they were asked for at `ask`."""
        if self.broken or self._stream.unseen:
            return
        try:
            plain = self._decode(chunk)
        except Exception:  # each decoder has a class of its own
            self.broken = True
            return
        first, newline, more = plain.partition(b"\n")
        self._rest.append(first)
        self._size += len(first)
        if self._size > MAX_LINE:
            self._stream.unseen = True
            self._rest.clear()
            return
        if not newline:
            return
        *lines, rest = (b"".join(self._rest) + newline + more).replace(b"\r\n", b"\n").split(b"\n")
        self._rest, self._size = [rest], len(rest)
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
                ask = self._steps.took(self._name, "\n".join(self._data), got, ask)
                self._name, self._data = "", []


def _decoder(response: Any, module: Any) -> Callable[[bytes], bytes] | None:
    """Undo the content encoding of a response as its client does; None for what nobody here can read."""
    if response.headers.get("content-type", "").startswith(_BINARY):
        return None
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding in ("", "identity"):
        return bytes
    if encoding in ("gzip", "x-gzip", "deflate"):
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress
    known = getattr(sys.modules.get(f"{module.__name__}._decoders"), "SUPPORTED_DECODERS", {}).get(encoding)
    try:
        decode: Callable[[bytes], bytes] | None = known().decode if known is not None else None
    except ImportError:  # its library is not installed
        return None
    return decode


class _Body:
    """What both kinds of body share. It forwards whatever else the SDK or the client looks for on a body."""

    def __init__(self, stream: StreamObservation, body: Any, decode: Callable[[bytes], bytes] | None) -> None:
        self._otelstream = stream
        self._body = body
        self._opaque = decode is None
        self._lines: Lines | None = Lines(stream, decode or bytes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_body"], name)

    def _got(self, chunk: bytes, got: float, ask: float) -> None:
        if self._lines is None:
            return
        try:
            self._otelstream.last = self._otelstream.activity = got
            self._otelstream.unseen = self._otelstream.unseen or self._opaque
            self._lines.feed(chunk, got, ask)
        except Exception:
            self._lines.broken = True
            trouble("reading raw bytes")

    def _end(self, ending: Ending) -> None:
        # Parsed after all: the SDK's stream over this body knows better how it ends.
        if self._lines is not None:
            end(self._otelstream, ending)

    def _exhausted(self) -> None:
        if self._lines is None:
            return
        if self._lines.broken and not self._otelstream.unseen:
            self._end(failed("protocol_error"))
        else:
            exhausted(self._otelstream)

    def _broken(self, error: BaseException) -> None:
        if self._otelstream.ending is not None:
            return
        if isinstance(error, GeneratorExit):
            # The loop was left. Whether the response is closed too, or dropped, is still to come.
            self._otelstream.attached.left_at = clock()
        elif is_task_cancel(error) and self._lines is not None and self._otelstream.native_end is None:
            after_this_step(self._otelstream, error)
        else:
            self._end(while_reading(self._otelstream, error))

    def _closed(self) -> None:
        stream, flying = self._otelstream, sys.exc_info()[1]
        if stream.ending is not None or self._lines is None:  # the SDK's stream over this body knows better
            return
        try:
            # The client closes the body also under a loop that was left, and under a cancel before its reason is known.
            waits = isinstance(flying, GeneratorExit) or (flying and is_task_cancel(flying) and stream.verdict)
            if not waits:
                decide(stream, leaving(stream, flying), clock())
        except Exception:
            trouble("closing a body")

    def __del__(self) -> None:
        try:
            stream = self._otelstream
            if stream.ending is None and (self._lines is not None or stream.attached.raw):
                dropped(stream)
        except Exception:
            return


def _bodies(sync_base: Any, async_base: Any) -> tuple[type, type]:
    class Body(_Body, sync_base):  # type: ignore[misc]
        def __iter__(self) -> Iterator[bytes]:
            stream = self._otelstream
            stream.attached.past = self._lines is not None
            ask = stream.waiting_since = clock()
            try:
                for chunk in self._body:
                    self._got(chunk, clock(), ask - stream.carry)
                    yield chunk
                    ask = stream.waiting_since = clock()
            except BaseException as error:
                self._broken(error)
                raise
            self._exhausted()

        def close(self) -> None:
            self._closed()
            try:
                self._body.close()
            finally:
                publish(self._otelstream)

    class AsyncBody(_Body, async_base):  # type: ignore[misc]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            stream = self._otelstream
            stream.attached.past = self._lines is not None
            ask = stream.waiting_since = clock()
            try:
                async for chunk in self._body:
                    self._got(chunk, clock(), ask - stream.carry)
                    yield chunk
                    ask = stream.waiting_since = clock()
            except BaseException as error:
                self._broken(error)
                raise
            self._exhausted()

        async def aclose(self) -> None:
            self._closed()
            try:
                await self._body.aclose()
            finally:
                publish(self._otelstream)

    return Body, AsyncBody


_kinds: dict[str, tuple[type, type]] = {}


def watch(stream: StreamObservation, response: Any) -> None:
    """Put a byte wrapper on the body of a response; it passes for the body's own kind, and goes when that is parsed."""
    module = sys.modules[type(response).__module__.partition(".")[0]]  # httpx, or httpx2
    if module.__name__ not in _kinds:
        _kinds[module.__name__] = _bodies(module.SyncByteStream, module.AsyncByteStream)
    if getattr(response, "_content", None) is not None:
        if stream.attached.raw:
            _read_already(stream, response.content)
        return
    body = response.stream
    asynchronous = isinstance(body, module.AsyncByteStream) and not isinstance(body, module.SyncByteStream)
    kind = _kinds[module.__name__][1 if asynchronous else 0]
    response.stream = kind(stream, body, _decoder(response, module))


def _read_already(stream: StreamObservation, content: bytes) -> None:
    """A hook of the HTTP client has read the whole body: what it says is known, if not when it came."""
    now = clock()
    Lines(stream, bytes).feed(content + b"\n\n", now, now)
    exhausted(stream)


def close(response: Any, flying: BaseException | None) -> StreamObservation | None:
    """Decide on a raw response that the application closes, perhaps after it let go of what it read it by."""
    stream: StreamObservation | None = response.http_response.__dict__.get("_otelstream")
    if stream is None or stream.ending is not None:
        return None
    decide(stream, leaving(stream, flying), stream.attached.left_at or clock())
    if stream.native_end is not None:
        stream.native_end()
    return stream


def parsed(response: Any) -> None:
    """The SDK reads the body's events: leave the record to the stream's own reader."""
    body = getattr(response, "stream", None)
    if isinstance(body, _Body):
        body._lines = None
        if not body._otelstream.attached.raw:  # else the record ends with the response that holds this body
            response.stream = body._body


def unparsed(response: Any) -> bool:
    """Whether nobody has read the body's events: parsing alone starts nothing."""
    body = getattr(response, "stream", None)
    return isinstance(body, _Body) and body._lines is not None
