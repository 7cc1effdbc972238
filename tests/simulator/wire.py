# SPDX-License-Identifier: Apache-2.0
"""A request on a bare socket, and what tests of the simulator ask of its log."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from otelstream.testing import (
    Exchange,
    ProviderSimulator,
)

ASK: dict[str, Any] = {
    "model": "some-model",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "hi"}],
}


def ended(sim: ProviderSimulator) -> Exchange:
    """Return the newest exchange once it is over."""
    return sim.wait_for(lambda log: log and log[-1].closed_at and log[-1])


def content(message: Any) -> list[dict[str, Any]]:
    """The blocks without what differs by design: ids, and fields that only the SDK or only one road sets."""
    skipped = {"id", "tool_use_id", "parsed_output"}
    blocks = [block.to_dict(mode="json") for block in message.content]
    return [
        {key: value for key, value in block.items() if key not in skipped and value is not None} for block in blocks
    ]


class Wire:
    """A client without any HTTP library: what arrives, and when."""

    def __init__(self, sim: ProviderSimulator, control: str) -> None:
        self.socket = socket.create_connection((sim.host, sim.port), timeout=20)
        self.arrivals: list[tuple[float, bytes]] = []
        self.raw = bytearray()
        self.reset = False
        body = json.dumps({**ASK, "stream": True}).encode()
        control = f"otelstream-play: {control}\r\n" if control else ""
        head = f"POST /v1/messages HTTP/1.1\r\nhost: x\r\n{control}content-length: {len(body)}\r\n\r\n"
        self.socket.sendall(head.encode() + body)

    def read(self, until: bytes | None = b"\r\n0\r\n\r\n") -> bytes:
        """Read up to *until*, or to the end of the connection."""
        while until is None or self.raw.find(until, max(0, len(self.raw) - 200_000)) < 0:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                self.reset = True
                break
            if not data:
                break
            self.arrivals.append((time.perf_counter(), data))
            self.raw += data
        return bytes(self.raw)

    @property
    def head(self) -> bytes:
        return bytes(self.raw.partition(b"\r\n\r\n")[0])

    @property
    def body(self) -> bytes:
        """The body as far as it came, its chunks joined."""
        rest, body = bytes(self.raw.partition(b"\r\n\r\n")[2]), b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            body += rest[: int(size, 16)]
            rest = rest[int(size, 16) + 2 :]
        return body

    def close(self, reset: bool = False) -> float:
        """Close and return when."""
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        at = time.perf_counter()
        self.socket.close()
        return at


Dial = Callable[..., Wire]
