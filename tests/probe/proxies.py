# SPDX-License-Identifier: Apache-2.0
"""Small proxies for the probe to find: one that changes nothing, and one for each thing that real ones do wrong."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
import zlib
from typing import Any

import h11
from typing_extensions import Self

Headers = list[tuple[bytes, bytes]]
PING = b'event: ping\ndata: {"type": "ping"}\n\n'
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


class Proxy:
    """Hands on everything at once, the ends and the client's leaving too. A subclass breaks one thing."""

    fin, reset = "fin", "reset"  # what an upstream's end in mid-body becomes
    late = 0.0  # seconds until the upstream is told that the client left; None: never
    notices = True  # that the client left, while there is nothing to write
    blind = False  # to that, while it writes
    retried: tuple[int, ...] = ()  # statuses; 0: a request that was not answered
    limit: float | None = None  # seconds for a whole answer
    idle: float | None = None  # seconds of silence; then `quiet` says what is sent instead, None: the end
    quiet: bytes | None = None

    def __init__(self, upstream: int, tls: ssl.SSLContext | None = None) -> None:
        self.upstream = upstream
        self.tls = tls
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._client, "127.0.0.1", 0, ssl=self.tls)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- what a subclass changes ------------------------------------------------------------------------------

    def refuse(self, body: bytes) -> int | None:
        return None

    def asks(self, headers: Headers) -> Headers:
        return headers

    def answers(self, request: Headers, status: int, headers: Headers) -> tuple[int, Headers]:
        return status, headers

    def opens(self) -> bool:
        """Whether the head goes out before the first byte of the body."""
        return True

    def body(self, state: dict[str, Any], data: bytes) -> bytes:
        return data

    def rest(self, state: dict[str, Any]) -> bytes:
        """What is sent last, before whatever end."""
        return b""

    # --- one request ------------------------------------------------------------------------------------------

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._one(reader, writer)
        except (OSError, h11.RemoteProtocolError, h11.LocalProtocolError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http, head, body = h11.Connection(h11.SERVER), None, bytearray()
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                data = await reader.read(1 << 20)
                if not data:
                    return
                http.receive_data(data)
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                break
        working = asyncio.ensure_future(self._forward(http, head, bytes(body), writer))
        leaving = asyncio.ensure_future(reader.read(1))
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        try:
            if leaving.done() and not working.done() and self.notices:
                await asyncio.sleep(self.late)
                working.cancel()
            await asyncio.wait({working})
        finally:
            for each in (working, leaving):
                each.cancel()
            await asyncio.gather(working, leaving, return_exceptions=True)

    async def _forward(self, http: h11.Connection, head: Any, body: bytes, writer: asyncio.StreamWriter) -> None:
        if status := self.refuse(body):
            writer.write(http.send(h11.Response(status_code=status, headers=[(b"content-length", b"0")])))
            writer.write(http.send(h11.EndOfMessage()))
            await writer.drain()
            return
        for attempt in range(3):
            last = attempt == 2
            status = await self._attempt(http, head, body, writer, last)
            if status not in self.retried or last:
                return

    async def _attempt(
        self, http: h11.Connection, head: Any, body: bytes, writer: asyncio.StreamWriter, last: bool
    ) -> int:
        asked = [(key, value) for key, value in head.headers if key != b"host"]
        up = h11.Connection(h11.CLIENT)
        reader, to = await asyncio.open_connection("127.0.0.1", self.upstream)
        state: dict[str, Any] = {"answer": http, "writer": writer, "asked": asked}
        status, over = 0, ""
        began = asyncio.get_running_loop().time()
        try:
            target = h11.Request(method=head.method, target=head.target, headers=[("host", "up"), *self.asks(asked)])
            to.write(up.send(target) + up.send(h11.Data(data=body)) + up.send(h11.EndOfMessage()))
            while not over:
                event = up.next_event()
                if event is h11.NEED_DATA:
                    try:
                        data = await self._read(reader, began, status, state)
                    except ConnectionResetError:
                        over = self.reset
                    else:
                        over = self.fin if not data else ""
                        up.receive_data(data) if data else None
                elif isinstance(event, h11.Response):
                    status = event.status_code
                    if status in self.retried and not last:
                        return status
                    self._head(state, status, list(event.headers))
                elif isinstance(event, h11.Data):
                    self._write(state, self.body(state, bytes(event.data)))
                    with contextlib.suppress(OSError) if self.blind else contextlib.nullcontext():
                        await writer.drain()
                elif isinstance(event, h11.EndOfMessage):
                    over = "clean"
            if status == 0 and 0 in self.retried and not last:
                return 0
            if status:
                self._write(state, self.rest(state))
            await self._end(state, over if status else "fin")
            return status
        finally:
            to.transport.abort()

    async def _read(self, reader: asyncio.StreamReader, began: float, status: int, state: dict[str, Any]) -> bytes:
        reading = asyncio.ensure_future(reader.read(65536))
        try:
            while not reading.done():
                limits = [self.idle] if self.idle is not None and status else []
                if self.limit is not None:
                    limits.append(max(0.0, began + self.limit - asyncio.get_running_loop().time()))
                done, _ = await asyncio.wait({reading}, timeout=min(limits, default=None))
                if not done:
                    if self.quiet is None:
                        raise ConnectionResetError
                    self._write(state, self.quiet)
            return reading.result()
        finally:
            reading.cancel()

    def _head(self, state: dict[str, Any], status: int, headers: Headers) -> None:
        status, headers = self.answers(state["asked"], status, headers)
        state["gzip"] = any(key == b"content-encoding" for key, _ in headers)
        sent = state["answer"].send(h11.Response(status_code=status, headers=headers))
        if self.opens():
            state["writer"].write(sent)
        else:
            state["held"] = sent

    def _write(self, state: dict[str, Any], data: bytes) -> None:
        held = state.pop("held", b"")
        if (data or held) and not (self.blind and state["writer"].transport.is_closing()):
            state["writer"].write(held + (state["answer"].send(h11.Data(data=data)) if data else b""))

    async def _end(self, state: dict[str, Any], over: str) -> None:
        writer = state["writer"]
        if over == "clean":
            with contextlib.suppress(h11.LocalProtocolError):
                writer.write(state["answer"].send(h11.EndOfMessage()))
        await writer.drain()
        if over == "reset":
            linger = struct.pack("ii", 1, 0)
            writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()


class Events(Proxy):
    """Sees whole events, where they are not compressed."""

    def event(self, state: dict[str, Any], frame: bytes) -> bytes:
        return frame

    def body(self, state: dict[str, Any], data: bytes) -> bytes:
        if state["gzip"] or b"json" in dict(state.get("headers", ())).get(b"content-type", b""):
            return data
        *whole, state["part"] = (state.get("part", b"") + data).split(b"\n\n")
        return b"".join(self.event(state, frame + b"\n\n") for frame in whole)

    def rest(self, state: dict[str, Any]) -> bytes:
        return state.get("part", b"")


class Buffers(Proxy):
    def body(self, state: dict[str, Any], data: bytes) -> bytes:
        state["all"] = state.get("all", b"") + data
        return b""

    def rest(self, state: dict[str, Any]) -> bytes:
        return state.get("all", b"")


class HoldsHead(Proxy):
    def opens(self) -> bool:
        return False


class SwallowsPings(Events):
    def event(self, state: dict[str, Any], frame: bytes) -> bytes:
        return b"" if frame.startswith(b"event: ping") else frame


class InventsPings(Proxy):
    idle, quiet = 1.5, PING


class SwallowsErrors(Events):
    def event(self, state: dict[str, Any], frame: bytes) -> bytes:
        return b"" if frame.startswith(b"event: error") else frame


class HidesFin(Proxy):
    fin = "clean"


class HidesReset(Proxy):
    reset = "clean"


class Completes(Events):
    """Adds the terminal event where the upstream's body ended without one; a cut it leaves."""

    def event(self, state: dict[str, Any], frame: bytes) -> bytes:
        state["done"] = state.get("done") or frame.startswith((b"event: message_stop", b"event: error"))
        return frame

    async def _end(self, state: dict[str, Any], over: str) -> None:
        if over == "clean" and "done" in state and not state["done"]:
            self._write(state, STOP)
        await super()._end(state, over)


class Drains(Proxy):
    notices, blind = False, True


class NoticesWhenWriting(Proxy):
    notices = False

    def _write(self, state: dict[str, Any], data: bytes) -> None:
        if state["writer"].transport.is_closing():
            raise ConnectionResetError
        super()._write(state, data)


class TellsLate(Proxy):
    late, blind = 0.8, True


class RetriesStatuses(Proxy):
    retried = (429, 503, 529)


class RetriesUnanswered(Proxy):
    retried = (0,)


class RetriesHalfSent(Proxy):
    """Asks again where an answer was cut, and throws that answer away."""

    async def _end(self, state: dict[str, Any], over: str) -> None:
        if over == "fin" and state.get("again"):
            reader, to = await asyncio.open_connection("127.0.0.1", self.upstream)
            to.write(state["again"])
            await reader.read(1000)
            to.transport.abort()
        await super()._end(state, over)

    async def _attempt(self, http: Any, head: Any, body: bytes, writer: Any, last: bool) -> int:
        self._again = b"POST %s HTTP/1.1\r\nhost: up\r\ncontent-length: %d\r\n\r\n%s" % (head.target, len(body), body)
        return await super()._attempt(http, head, body, writer, last)

    def _head(self, state: dict[str, Any], status: int, headers: Headers) -> None:
        state["again"] = self._again
        super()._head(state, status, headers)


def _without(headers: Headers, *names: bytes) -> Headers:
    return [(key, value) for key, value in headers if key not in names]


class DropsTrace(Proxy):
    def asks(self, headers: Headers) -> Headers:
        return _without(headers, b"traceparent")


class DropsBeta(Proxy):
    def asks(self, headers: Headers) -> Headers:
        return _without(headers, b"anthropic-beta")


class DropsRequestId(Proxy):
    def answers(self, request: Headers, status: int, headers: Headers) -> tuple[int, Headers]:
        return status, _without(headers, b"request-id")


class DropsRetryAfter(Proxy):
    def answers(self, request: Headers, status: int, headers: Headers) -> tuple[int, Headers]:
        return status, _without(headers, b"retry-after")


class Makes500(Proxy):
    def answers(self, request: Headers, status: int, headers: Headers) -> tuple[int, Headers]:
        return (500 if status == 529 else status), headers


class CutsAtSeparators(Events):
    """Drops all after a raw U+2028, as who splits lines where Python does, and ends in order."""

    def event(self, state: dict[str, Any], frame: bytes) -> bytes:
        state["cut"] = state.get("cut") or b"\xe2\x80\xa8" in frame
        return b"" if state["cut"] else frame


class ReplacesSeparators(Events):
    def event(self, state: dict[str, Any], frame: bytes) -> bytes:
        return frame.replace(b"\xe2\x80\xa8", b" ")


class DropsToolFragments(Events):
    def event(self, state: dict[str, Any], frame: bytes) -> bytes:
        state["count"] = state.get("count", 0) + (b"input_json_delta" in frame)
        return b"" if b"input_json_delta" in frame and state["count"] == 5 else frame


class Recompresses(Proxy):
    def answers(self, request: Headers, status: int, headers: Headers) -> tuple[int, Headers]:
        wanted = (b"accept-encoding", b"gzip") in request and status == 200
        if wanted and not any(key == b"content-encoding" for key, _ in headers):
            return status, [*headers, (b"content-encoding", b"gzip"), (b"x-packed", b"1")]
        return status, headers

    def _head(self, state: dict[str, Any], status: int, headers: Headers) -> None:
        changed = self.answers(state["asked"], status, headers)[1]
        state["packer"] = zlib.compressobj(wbits=31) if (b"x-packed", b"1") in changed else None
        super()._head(state, status, headers)

    def body(self, state: dict[str, Any], data: bytes) -> bytes:
        packer = state["packer"]
        return data if packer is None else packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)

    def rest(self, state: dict[str, Any]) -> bytes:
        return b"" if state["packer"] is None else state["packer"].flush()


class PacksAtTheEnd(Recompresses):
    """Compresses without a flush for each event."""

    def body(self, state: dict[str, Any], data: bytes) -> bytes:
        packer = state["packer"]
        return data if packer is None else packer.compress(data)


class LimitsBodies(Proxy):
    def refuse(self, body: bytes) -> int | None:
        return 413 if len(body) > 1_000_000 else None


class LimitsTime(Proxy):
    limit = 1.5


class LimitsSilence(Proxy):
    idle = 1.0


class KeepsBroken(Proxy):
    """Gives the next request the connection that broke."""

    broken = False

    def refuse(self, body: bytes) -> int | None:
        was, self.broken = self.broken, False
        return 502 if was else None

    async def _end(self, state: dict[str, Any], over: str) -> None:
        self.broken = over in {"fin", "reset"}
        await super()._end(state, over)
