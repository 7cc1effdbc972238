# SPDX-License-Identifier: Apache-2.0
"""One client of the simulator: its requests, the replies as planned, and the instant it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import json
import re
import socket
import struct
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal
from urllib.parse import parse_qs

from otelstream.testing._desk import Desk
from otelstream.testing._dialects import Dialect, Messages
from otelstream.testing._events import PING, Event, ScriptError, make_id, to_json
from otelstream.testing._exchange import Exchange, Request, Write
from otelstream.testing._faults import Faults
from otelstream.testing._orders import make_plan
from otelstream.testing._plan import Plan
from otelstream.testing._routes import is_aside, method_of, route_of, served
from otelstream.testing._schedule import Schedule
from otelstream.testing._scripts import ECHO_MODEL, message_of

try:
    import h11
except ImportError:  # pragma: no cover
    raise ImportError('the provider simulator needs h11: pip install "otelstream[testing]"') from None

_ID = re.compile(rb'"((msg|toolu|srvtoolu|mcptoolu|container)_[0-9A-Za-z]{10,})"')
_GENERATED = {"text", "thinking", "tool_input"}


class Connection(asyncio.Protocol):
    """One client: HTTP by h11, one reply at a time, and an eye on the client's leaving."""

    transport: asyncio.Transport

    def __init__(self, desk: Desk, number: int, connected: set[Connection]) -> None:
        self.desk = desk
        self.number = number
        self.connected = connected
        self.http = h11.Connection(h11.SERVER)
        self.accepted_at = self.request_at = 0.0
        self.head: Any = None
        self.received = bytearray()
        self.exchange: Exchange | None = None
        self.dialect: Dialect = Messages({})
        self.task: asyncio.Task[None] | None = None
        self.drained = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.accepted_at = time.perf_counter()
        self.transport = transport
        self.connected.add(self)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # With no room to buffer, a drained transport means that the kernel has it all.
        transport.set_write_buffer_limits(high=0)

    def data_received(self, data: bytes) -> None:
        self.http.receive_data(data)
        self._advance()

    def resume_writing(self) -> None:
        self.drained.set()

    def eof_received(self) -> None:
        self._peer_left("fin")

    def connection_lost(self, exc: Exception | None) -> None:
        self._peer_left("reset" if exc else "fin")
        self.connected.discard(self)
        if self.task is not None:
            self.task.cancel()

    def abort(self) -> None:
        """End it from our side, as when the provider's host goes down."""
        self._end("reset")
        self._reset()

    def _peer_left(self, how: Literal["fin", "reset"]) -> None:
        """Stamp the client's leaving; only the first sign of it counts, and none after our own cut."""
        exchange, now = self.exchange, time.perf_counter()
        if exchange is None or exchange.peer_closed_at is not None:
            return
        if exchange.closed_at is None or exchange.how == "end":
            exchange.peer_closed_at = now
        if exchange.closed_at is None:
            exchange.closed_at, exchange.closed_by, exchange.how = now, "peer", how
            self.desk._closed(exchange)
        else:
            self.desk._notify()
        if self.task is not None:
            self.task.cancel()

    def _end(self, how: Literal["end", "fin", "reset"]) -> None:
        exchange = self.exchange
        if exchange is not None and exchange.closed_at is None:
            exchange.closed_at, exchange.closed_by, exchange.how = time.perf_counter(), "server", how
            self.desk._closed(exchange)

    def _reset(self) -> None:
        linger = struct.pack("ii", 1, 0)
        with contextlib.suppress(OSError):
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()

    def _advance(self) -> None:
        """Read on until a request is whole."""
        while True:
            try:
                event = self.http.next_event()
            except h11.RemoteProtocolError:
                self.transport.close()
                return
            if isinstance(event, h11.Request):
                self.head = event
                self.received.clear()
            elif isinstance(event, h11.Data):
                self.received += event.data
            elif isinstance(event, h11.EndOfMessage):
                self.request_at = time.perf_counter()
                self.task = asyncio.get_running_loop().create_task(self._answer())
                return
            else:
                if event is h11.NEED_DATA and self.http.they_are_waiting_for_100_continue:
                    self.transport.write(self.http.send(h11.InformationalResponse(status_code=100, headers=[])))
                return

    async def _answer(self) -> None:
        path, _, query = self.head.target.decode("ascii", "replace").partition("?")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in self.head.headers}
        try:
            body = json.loads(self.received) if self.received else None
        except ValueError:
            body = None
        request = Request(self.head.method.decode(), path, query, headers, body)
        if path.startswith("/_simulator/"):
            self.exchange = None
            await self._control(request)
        else:
            await self._reply(request)
        if self.http.our_state is h11.DONE and self.http.their_state is h11.DONE:
            self.http.start_next_cycle()
            self.task = None
            self._advance()
        elif not self.transport.is_closing():
            self.transport.close()

    async def _reply(self, request: Request) -> None:
        try:
            plan = self._refusal_of(request) or self.desk._plan_for(request)
        except ScriptError as error:
            plan = make_plan("empty", Faults.http_error(400, message=f"simulator: {error}"), None)
        except Exception as error:
            plan = make_plan(
                "empty", Faults.http_error(400, message=f"simulator: play(when=...) raised {error!r}"), None
            )
        self.exchange = exchange = self.desk._open(request, self.number, self.accepted_at, self.request_at, plan)
        asked = request.body if isinstance(request.body, dict) else parse_qs(request.query)
        self.dialect = (route_of(request) or Messages)(asked)
        await _sleep(plan.headers_pause)
        if plan.before_headers:
            await self._finish(plan)
        elif plan.status != 200 or plan.body is not None:
            await self._send_whole(
                exchange, plan.status, plan.headers, self._said(plan.error) if plan.body is None else plan.body
            )
        elif not request.stream:
            await self._send_message(exchange, plan, self._retouch(plan, exchange))
        else:
            await self._stream(exchange, plan, self._retouch(plan, exchange))

    def _said(self, error: Mapping[str, Any]) -> bytes:
        return to_json(self.dialect.error(error)).encode()

    @staticmethod
    def _refusal_of(request: Request) -> Plan | None:
        """What the provider would not accept either, and what is no request for an answer."""
        if is_aside(request):
            return replace(make_plan("empty", None, None), body=b'{"data":[]}')
        if route_of(request) is None or request.method != method_of(request):
            message = f"simulator: no {request.method} {request.path}; it serves {served()}"
            return make_plan("empty", Faults.http_error(404, message=message), None)
        if request.method == "POST" and not isinstance(request.body, dict):
            return make_plan("empty", Faults.http_error(400, message="The request body is not valid JSON"), None)
        return None

    def _retouch(self, plan: Plan, exchange: Exchange) -> Callable[[Event], Event]:
        """Return what makes a script's event one of this reply: ids of its own, the model asked for."""
        known: dict[bytes, bytes] = {}
        pinned = {pin.encode() for pin in plan.script.pinned}
        model = to_json(exchange.request.model or ECHO_MODEL).encode()

        def fresh(match: re.Match[bytes]) -> bytes:
            old, prefix = match.group(1), match.group(2).decode()
            if old in pinned:
                return match.group(0)
            if old not in known:
                length = len(old) - len(prefix) - 1
                known[old] = make_id(prefix, (exchange.number, old), length).encode()
            return b'"%s"' % known[old]

        def touched(event: Event) -> Event:
            if event.kind in _GENERATED or event.kind == "ping" or event.data is None:
                return event
            data = _ID.sub(fresh, event.data) if self.desk._fresh_ids else event.data
            return replace(event, data=data.replace(b'"%s"' % ECHO_MODEL.encode(), model))

        return touched

    async def _stream(self, exchange: Exchange, plan: Plan, touched: Callable[[Event], Event]) -> None:
        headers = {"content-type": self.dialect.content_type, "cache-control": "no-cache", **plan.headers}
        if plan.gzip:
            headers["content-encoding"] = "gzip"
        packer = zlib.compressobj(wbits=31) if plan.gzip else None
        await self._send_head(exchange, 200, headers)
        batch: list[Event] = []
        for i, step in enumerate(plan.steps, 1):
            await self._pause(exchange, plan, packer, step.pause, step.ping_every)
            batch += self.dialect.speak(touched(step.event))
            if batch and (i == len(plan.steps) or len(batch) >= plan.schedule.coalesce):
                last = i == len(plan.steps) and plan.ending == "end"
                await self._write(exchange, plan, [(event, event.frame) for event in batch], packer, last)
                batch = []
        await self._finish(plan, packer)

    async def _pause(
        self, exchange: Exchange, plan: Plan, packer: Any, seconds: float | None, every: float | None
    ) -> None:
        """Wait, for ever if *seconds* is None, and ping meanwhile if told to."""
        if not every:
            await _sleep(seconds)
            return
        until = time.perf_counter() + seconds if seconds is not None else float("inf")
        while (left := until - time.perf_counter()) > 0:
            await asyncio.sleep(min(every, left))
            if time.perf_counter() < until:
                for ping in self.dialect.speak(PING):
                    await self._write(exchange, plan, [(ping, ping.frame)], packer, last=False)

    async def _write(
        self, exchange: Exchange, plan: Plan, events: Sequence[tuple[Event, bytes]], packer: Any, last: bool
    ) -> None:
        """Put events on the wire and log them; the end of the body goes with the last of them."""
        data = b"".join(frame for _, frame in events)
        if packer is not None:
            data = packer.compress(data) + packer.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)
        size = plan.split or len(data)
        wire = 0
        began = time.perf_counter()

        def log() -> None:
            at = time.perf_counter()
            for event, frame in events:
                index, shared = len(exchange.events), wire if event is events[0][0] else 0
                write = Write(index, event.name, event.kind, event.chars, len(frame), shared, began, at, frame)
                exchange.events.append(write)
            if last:
                self._end("end")

        for i in range(0, len(data), size):
            framed = self.http.send(h11.Data(data=data[i : i + size]))
            final = i + size >= len(data)
            if last and final:
                framed += self.http.send(h11.EndOfMessage())
            wire += len(framed)
            await self._send(framed, log if final else None)
            if not final:
                await asyncio.sleep(plan.split_gap)
        self.desk._notify()

    async def _send(self, data: bytes, log: Callable[[], None] | None = None) -> None:
        """Return once the kernel has every byte.

        The log is held meanwhile, so that who has read an event from the socket finds it there.
        """
        with self.desk._changed:
            self.transport.write(data)
            buffered = self.transport.get_write_buffer_size()
            if log is not None and not buffered and not self.transport.is_closing():
                log()
        if buffered:
            self.drained.clear()
            await self.drained.wait()
            if log is not None and not self.transport.is_closing():
                log()
        if self.transport.is_closing():
            raise asyncio.CancelledError

    async def _send_head(self, exchange: Exchange, status: int, headers: dict[str, str]) -> None:
        common = {
            "date": email.utils.formatdate(usegmt=True),
            **self.dialect.headers(exchange.request_id),
            "server": "otelstream",
        }
        response = h11.Response(status_code=status, headers=list({**common, **headers}.items()))

        def log() -> None:
            exchange.status, exchange.headers_at = status, time.perf_counter()

        await self._send(self.http.send(response), log)
        self.desk._notify()

    async def _send_whole(self, exchange: Exchange, status: int, headers: dict[str, str], body: bytes) -> None:
        headers = {"content-type": "application/json", "content-length": str(len(body)), **headers}
        await self._send_head(exchange, status, headers)
        rest = self.http.send(h11.Data(data=body)) + self.http.send(h11.EndOfMessage())
        await self._send(rest, lambda: self._end("end"))

    async def _send_message(self, exchange: Exchange, plan: Plan, touched: Callable[[Event], Event]) -> None:
        """Answer without a stream; a fault that ends the stream ends this body half-way."""
        cut = plan.ending != "end"
        events = [
            event
            for event in (plan.script.events if cut else [step.event for step in plan.steps])
            if event.kind != "other"
        ]
        if errors := [event for event in events if event.kind == "error"]:
            await self._send_whole(exchange, 500, {}, self._said(errors[0].payload["error"]))
            return
        body = to_json(self.dialect.whole(message_of([touched(event) for event in events]))).encode()
        if not cut:
            await self._send_whole(exchange, 200, plan.headers, body)
            return
        headers = {"content-type": "application/json", "content-length": str(len(body)), **plan.headers}
        await self._send_head(exchange, 200, headers)
        await self._send(self.http.send(h11.Data(data=body[: len(body) // 2])))
        await self._finish(plan)

    async def _finish(self, plan: Plan, packer: Any = None) -> None:
        """End the connection as planned; a whole body has been ended with its last write."""
        await _sleep(plan.end_pause)
        if plan.ending == "hang":
            assert self.exchange is not None
            await self._pause(self.exchange, plan, packer, None, plan.ping_every)
        elif plan.ending == "reset":
            self._end("reset")
            self._reset()
        elif plan.ending == "fin" or plan.before_headers:
            self._end("fin")
            self.transport.close()
        elif self.http.our_state is h11.SEND_BODY:
            await self._send(self.http.send(h11.EndOfMessage()), lambda: self._end("end"))

    async def _control(self, request: Request) -> None:
        """Serve other processes: the log, and what to play."""
        status, answer = 200, {}  # type: tuple[int, Any]
        try:
            if (request.method, request.path) == ("GET", "/_simulator/log"):
                answer = [exchange.as_dict() for exchange in self.desk.log]
            elif (request.method, request.path) == ("DELETE", "/_simulator/log"):
                self.desk.clear()
            elif (request.method, request.path) == ("POST", "/_simulator/play") and isinstance(request.body, dict):
                given = dict(request.body)
                schedule = Schedule(**given.pop("schedule", {}))
                self.desk.play(given.pop("script", "text_short"), schedule=schedule, **given)
            else:
                status, answer = 404, {"error": "GET or DELETE /_simulator/log, POST /_simulator/play"}
        except (ScriptError, TypeError) as error:
            status, answer = 400, {"error": str(error)}
        body = to_json(answer).encode()
        head = [("content-type", "application/json"), ("content-length", str(len(body)))]
        await self._send(
            self.http.send(h11.Response(status_code=status, headers=head))
            + self.http.send(h11.Data(data=body))
            + self.http.send(h11.EndOfMessage())
        )


async def _sleep(seconds: float | None) -> None:
    """Sleep at least *seconds* (None: for ever), and always let others have their turn.

    So a client that has left is noticed between any two writes.
    """
    if seconds is None:
        await asyncio.get_running_loop().create_future()
    else:
        await asyncio.sleep(seconds)
