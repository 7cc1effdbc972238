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
from typing import Any, Literal
from urllib.parse import urlsplit

import h11

from otelstream.probe._sse import Got, Reader

# clean: a proper end of the body; cut: a FIN before it; corrupt: no HTTP; nothing: ended without an answer;
# waiting: still open when we left it or gave up.
End = Literal["waiting", "clean", "cut", "reset", "corrupt", "nothing"]
PATHS = {"messages": "/v1/messages", "chat": "/v1/chat/completions", "responses": "/v1/responses"}


class UnreachableError(Exception):
    """Nothing answers at the address; the message says why."""


@dataclass(frozen=True)
class Target:
    """Where requests go: the base URL of a gateway, or of our own upstream."""

    url: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)

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
        self._http = h11.Connection(h11.CLIENT)
        self._reader = Reader()
        self._unpack: Any = None
        host, port, tls, path = target.address(route)
        self._socket = _connect(host, port, tls, timeout)
        name = f"[{host}]" if ":" in host else host
        sent = {
            "host": name if port == (443 if tls else 80) else f"{name}:{port}",
            "content-type": "application/json",
            "accept": "text/event-stream",
            "accept-encoding": "identity",
            "user-agent": "otelstream-probe",
            **headers,
            **{key.lower(): value for key, value in target.headers},
            "content-length": str(len(body)),
        }
        head = self._http.send(h11.Request(method="POST", target=path, headers=list(sent.items())))
        self._send(head + self._http.send(h11.Data(data=body)))
        self._http.send(h11.EndOfMessage())

    def _send(self, data: bytes) -> None:
        # Who refuses a large body may answer and close while we are still sending: the answer is what counts.
        with contextlib.suppress(OSError):
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

    def _over(self, end: End) -> None:
        self.answer.end = "nothing" if end == "cut" and self.answer.status is None else end
        self.answer.ended_at = time.perf_counter()

    def _take(self, data: bytes, now: float) -> None:
        before = len(self.answer.events)
        try:
            self._http.receive_data(data)
            while True:
                event = self._http.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    break
                if isinstance(event, h11.Response):
                    self._head(event, now)
                elif isinstance(event, h11.Data):
                    self._body(bytes(event.data), now)
                elif isinstance(event, h11.EndOfMessage):
                    self._over("clean")
                    break
                elif isinstance(event, h11.ConnectionClosed):
                    break
        except h11.RemoteProtocolError:
            self._over("corrupt" if data else "cut")
        if not data and self.answer.end == "waiting":
            self._over("cut")
        if any(event.piece for event in self.answer.events[before:]):
            self.answer.bursts += 1

    def _head(self, event: Any, now: float) -> None:
        answer = self.answer
        answer.status, answer.headers_at = event.status_code, now
        answer.http = "HTTP/" + event.http_version.decode()
        answer.headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers]
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

    def close(self) -> float:
        """Leave, as an SDK does whose stream is closed; returns when."""
        at = time.perf_counter()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        return at


def _connect(host: str, port: int, tls: bool, timeout: float) -> socket.socket:
    try:
        opened = socket.create_connection((host, port), timeout=timeout)
    except OSError as error:
        raise UnreachableError(f"nothing answers at {host}:{port} ({error.strerror or error})") from None
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not tls:
        return opened
    try:
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
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
