# SPDX-License-Identifier: Apache-2.0
"""A client that hides nothing: what arrived, in which reads, how the answer ended, and a close when it is told."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from otelstream.probe._http import End, Head, Http1, Http2, Over
from otelstream.probe._sse import Got, Reader

PATHS = {"messages": "/v1/messages", "chat": "/v1/chat/completions", "responses": "/v1/responses"}


class UnreachableError(Exception):
    """Nothing answers at the address; the message says why."""


@dataclass(frozen=True)
class Target:
    """Where requests go: the base URL of a gateway, or of our own upstream."""

    url: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    http2: bool = False  # by ALPN, or without TLS by prior knowledge

    def address(self, route: str) -> tuple[str, int, bool, str]:
        """Host, port, whether by TLS, and the path of a route; a base URL may end in /v1 or name the route itself."""
        parts = urlsplit(self.url)
        tls = parts.scheme == "https"
        base, path = parts.path.rstrip("/"), PATHS[route]
        if base.endswith(path.removeprefix("/v1")):
            path = base
        else:
            path = base + (path.removeprefix("/v1") if base.endswith("/v1") else path)
        return parts.hostname or "", parts.port or (443 if tls else 80), tls, path


@dataclass
class Answer:
    """What the client saw of one answer; times are of the clock that the upstream's log has."""

    status: int | None = None
    headers: list[tuple[str, str]] = field(default_factory=list)
    http: str = ""
    events: list[Got] = field(default_factory=list)
    bursts: int = 0  # reads that completed at least one piece of output
    end: End = "waiting"
    how: str = ""  # it ended, where HTTP/2 says more
    headers_at: float | None = None
    ended_at: float | None = None
    undecodable: bool = False
    said: bytes = b""  # the begin of the body, for messages to people

    def header(self, name: str) -> str | None:
        """The value of a header, None where it is absent."""
        return next((value for key, value in self.headers if key == name), None)

    @property
    def pieces(self) -> list[str]:
        """The generated texts, delta by delta."""
        return [event.piece for event in self.events if event.piece]

    @property
    def text(self) -> str:
        """All that was generated."""
        return "".join(self.pieces)

    @property
    def pings(self) -> int:
        """How many events only kept the connection alive."""
        return sum(event.ping for event in self.events)

    @property
    def error(self) -> Got | None:
        """The event that said that the answer failed."""
        return next((event for event in self.events if event.error), None)

    @property
    def terminal(self) -> bool:
        """Whether an event said that the answer is complete."""
        return any(event.terminal for event in self.events)


class Call:
    """One request on a connection of its own."""

    def __init__(self, target: Target, route: str, body: bytes, headers: dict[str, str], timeout: float = 10.0) -> None:
        self.answer = Answer()
        self._reader = Reader()
        self._unpack: Any = None
        host, port, tls, path = target.address(route)
        self._socket = _connect(host, port, tls, timeout, target.http2)
        name = f"[{host}]" if ":" in host else host
        given = {key.lower(): value for key, value in target.headers}
        authority = given.pop("host", name if port == (443 if tls else 80) else f"{name}:{port}")
        sent = {
            "content-type": "application/json",
            "accept": "text/event-stream",
            "accept-encoding": "identity",
            "user-agent": "otelstream-probe",
            **headers,
            **given,
        }
        self._http = (Http2 if target.http2 else Http1)(authority, path, sent, body, tls)
        self._send()

    def _send(self) -> None:
        # Who refuses a large body may answer and close while we are still sending: the answer is what counts.
        with contextlib.suppress(OSError):
            if data := self._http.out():
                self._socket.settimeout(60.0)
                self._socket.sendall(data)

    def read(self, until: Callable[[Answer], object] | None = None, within: float = 30.0) -> bool:
        """Read until the answer ends, or *until* is true; False where the time ran out."""
        deadline = time.perf_counter() + within
        while self.answer.end == "waiting":
            if until is not None and until(self.answer):
                return True
            left = deadline - time.perf_counter()
            if left <= 0:
                return False
            try:
                self._socket.settimeout(left)
                data = self._socket.recv(65536)
            except (TimeoutError, ssl.SSLWantReadError):
                return False
            except ConnectionResetError:
                self._over("reset")
            except OSError:  # also a TLS connection that ends without its good-bye
                self._over("cut")
            else:
                self._take(data, time.perf_counter())
        return until is None or bool(until(self.answer))

    def _over(self, end: End, how: str = "") -> None:
        if self.answer.end == "waiting":
            self.answer.end = "nothing" if end == "cut" and self.answer.status is None else end
            self.answer.how, self.answer.ended_at = how, time.perf_counter()

    def _take(self, data: bytes, now: float) -> None:
        before = len(self.answer.events)
        for part in self._http.take(data):
            if isinstance(part, Head):
                self._head(part, now)
            elif isinstance(part, Over):
                self._over(part.end, part.how)
            else:
                self._body(part, now)
        if self.answer.end == "waiting":
            self._send()
        if any(event.piece for event in self.answer.events[before:]):
            self.answer.bursts += 1

    def _head(self, head: Head, now: float) -> None:
        answer = self.answer
        answer.status, answer.headers_at, answer.http, answer.headers = head.status, now, head.http, head.headers
        if answer.header("content-encoding") in {"gzip", "deflate"}:
            self._unpack = zlib.decompressobj(wbits=47)  # either, as its first bytes say

    def _body(self, data: bytes, now: float) -> None:
        if self._unpack is not None:
            try:
                data = self._unpack.decompress(data)
            except zlib.error:
                self.answer.undecodable = True
                return
        if len(self.answer.said) < 2000:
            self.answer.said += data[:2000]
        self.answer.events += self._reader.take(data, now)

    def leave(self) -> float:
        """Cancel, as an SDK does whose stream is closed; returns when."""
        at = time.perf_counter()
        if goodbye := self._http.cancel():
            with contextlib.suppress(OSError):
                self._socket.sendall(goodbye)
        else:
            self.close()
        return at

    def close(self) -> None:
        """End the connection."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def offers_http2(target: Target) -> bool:
    """Whether a gateway takes HTTP/2 where it may choose; without TLS nobody is asked."""
    host, port, tls, _ = target.address("messages")
    if not tls:
        return False
    opened = _dial(host, port, tls, 10.0, ["h2", "http/1.1"])
    with opened:
        return isinstance(opened, ssl.SSLSocket) and opened.selected_alpn_protocol() == "h2"


def _connect(host: str, port: int, tls: bool, timeout: float, http2: bool) -> socket.socket:
    opened = _dial(host, port, tls, timeout, ["h2" if http2 else "http/1.1"])
    if http2 and isinstance(opened, ssl.SSLSocket) and opened.selected_alpn_protocol() != "h2":
        opened.close()
        raise UnreachableError(f"{host}:{port} offers no HTTP/2 over TLS; leave --http2 out")
    return opened


def _dial(host: str, port: int, tls: bool, timeout: float, offered: list[str]) -> socket.socket:
    try:
        opened = socket.create_connection((host, port), timeout=timeout)
    except OSError as error:
        raise UnreachableError(f"nothing answers at {host}:{port} ({error.strerror or error})") from None
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not tls:
        return opened
    try:
        context = ssl.create_default_context()
        context.set_alpn_protocols(offered)
        return context.wrap_socket(opened, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        opened.close()
        raise UnreachableError(
            f"the certificate of {host} is not trusted ({error.verify_message}); "
            "for a private CA set SSL_CERT_FILE to its certificate"
        ) from None
    except OSError as error:
        opened.close()
        raise UnreachableError(f"{host}:{port} does not speak TLS ({error.strerror or error})") from None
