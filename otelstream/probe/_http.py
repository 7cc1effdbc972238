# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 and HTTP/2 as bytes in and bytes out, with each way in which an answer may end told apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import h11

# clean: a proper end of the body; cut: the connection ended before it; reset: an RST, or in HTTP/2 an RST_STREAM;
# corrupt: no HTTP; nothing: ended without an answer; waiting: still open when we left it or gave up.
End = Literal["waiting", "clean", "cut", "reset", "corrupt", "nothing"]
WINDOW = 1 << 24  # HTTP/2: nobody waits for our permission to send


@dataclass(frozen=True)
class Head:
    """Status and headers."""

    status: int
    headers: list[tuple[str, str]]
    http: str


@dataclass(frozen=True)
class Over:
    """The end of an answer; *how*, where HTTP/2 says more."""

    end: End
    how: str = ""


Part = Head | bytes | Over


class Http1:
    """One request on a connection that has no other."""

    def __init__(self, host: str, path: str, headers: dict[str, str], body: bytes, tls: bool) -> None:
        self._http = h11.Connection(h11.CLIENT)
        sent = {"host": host, **headers, "content-length": str(len(body))}
        head = self._http.send(h11.Request(method="POST", target=path, headers=list(sent.items())))
        self._out: bytes = head + self._http.send(h11.Data(data=body))
        self._http.send(h11.EndOfMessage())

    def out(self) -> bytes:
        """What is to be sent now."""
        out, self._out = self._out, b""
        return out

    def cancel(self) -> bytes:
        """What tells the other side that we leave: only the end of the connection does."""
        return b""

    def take(self, data: bytes) -> Iterator[Part]:
        """Read what came; nothing is the other side's FIN."""
        try:
            self._http.receive_data(data)
            while True:
                event = self._http.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    break
                if isinstance(event, h11.Response):
                    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers]
                    yield Head(event.status_code, headers, "HTTP/" + event.http_version.decode())
                elif isinstance(event, h11.Data):
                    yield bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    yield Over("clean")
                    return
                elif isinstance(event, h11.ConnectionClosed):
                    break
        except h11.RemoteProtocolError:
            yield Over("corrupt" if data else "cut")
            return
        if not data:
            yield Over("cut")


class Http2:
    """The same as the one stream of a connection; it needs the library h2."""

    INSTALL = 'pip install "otelstream[probe]"'

    @staticmethod
    def available() -> bool:
        """Whether the library is there."""
        return find_spec("h2") is not None

    def __init__(self, host: str, path: str, headers: dict[str, str], body: bytes, tls: bool) -> None:
        from h2.config import H2Configuration
        from h2.connection import H2Connection
        from h2.settings import SettingCodes

        self._http = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._http.initiate_connection()
        self._http.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: WINDOW, SettingCodes.ENABLE_PUSH: 0})
        self._http.increment_flow_control_window(WINDOW)
        self._stream = self._http.get_next_available_stream_id()
        self._left = memoryview(body)
        pseudo = {":method": "POST", ":scheme": "https" if tls else "http", ":authority": host, ":path": path}
        self._http.send_headers(self._stream, list({**pseudo, **headers, "content-length": str(len(body))}.items()))
        self._over = False

    def out(self) -> bytes:
        """What is to be sent now: of the body, as much as the other side gave leave for."""
        while not self._over:
            size = min(self._http.local_flow_control_window(self._stream), self._http.max_outbound_frame_size)
            if self._left and size <= 0:
                break
            piece, self._left = self._left[:size], self._left[size:]
            self._http.send_data(self._stream, bytes(piece), end_stream=not self._left)
            if not self._left:
                self._over = True
        return bytes(self._http.data_to_send())

    def cancel(self) -> bytes:
        """RST_STREAM, which leaves the connection as it is."""
        from h2.errors import ErrorCodes
        from h2.exceptions import ProtocolError

        try:
            self._http.reset_stream(self._stream, ErrorCodes.CANCEL)
        except ProtocolError:
            return b""  # it is over
        return bytes(self._http.data_to_send())

    def take(self, data: bytes) -> Iterator[Part]:
        """Read what came; nothing is the other side's FIN."""
        from h2 import events
        from h2.exceptions import ProtocolError

        if not data:
            yield Over("cut", "the connection ended")
            return
        try:
            found = self._http.receive_data(data)
        except ProtocolError:
            yield Over("corrupt")
            return
        for event in found:
            if isinstance(event, events.ConnectionTerminated):
                # Without an error it says that no further stream is taken: ours goes on.
                if event.error_code or (event.last_stream_id or 0) < self._stream:
                    self._over = True
                    yield Over("cut", f"GOAWAY {_name(event.error_code)}")
            elif getattr(event, "stream_id", None) != self._stream:
                continue
            elif isinstance(event, events.ResponseReceived):
                headers = [(_text(name), _text(value)) for name, value in event.headers or ()]
                status = int(dict(headers)[":status"])
                yield Head(status, [each for each in headers if not each[0].startswith(":")], "HTTP/2")
            elif isinstance(event, events.DataReceived):
                self._http.acknowledge_received_data(event.flow_controlled_length or 0, self._stream)
                yield bytes(event.data or b"")
            elif isinstance(event, events.StreamEnded):
                yield Over("clean")
            elif isinstance(event, events.StreamReset):
                self._over = True
                yield Over("reset", f"RST_STREAM {_name(event.error_code)}")


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _name(code: Any) -> str:
    return str(getattr(code, "name", code))
