# SPDX-License-Identifier: Apache-2.0
"""A bare connection to the provider, closed by hand: how late its log has a close that nothing stands between."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from urllib.parse import urlsplit

from otelstream.testing import ProviderSimulator

from .bench import ASK, wait_for

BUSY = 0.001  # seconds that who closed goes on with something else: no more than a record takes


def lag_of_a_bare_close(sim: ProviderSimulator, after: bytes = b"_delta") -> float:
    """Seconds from the close of a socket, in the midst of an answer, to the instant in the provider's log.

    Who closes is busy for a while yet, as whoever emits a record is: the provider may have to wait for a processor.
    """
    known = len(sim.log)
    with socket.create_connection(_address(sim)) as connection:
        connection.sendall(_request())
        got = b""
        while after not in got:
            got += connection.recv(65536)
        at = time.perf_counter()
    while time.perf_counter() < at + BUSY:
        pass
    return wait_for(lambda: sim.log[known].closed_at) - at


async def lag_of_a_bare_close_in_a_loop(sim: ProviderSimulator, name: str, seconds: float) -> float:
    """The same for a connection that a busy loop reads, closed some time after its answer began."""
    loop = asyncio.get_running_loop()
    with socket.socket() as connection:
        connection.setblocking(False)
        await loop.sock_connect(connection, _address(sim))
        await loop.sock_sendall(connection, _request(name))
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            await loop.sock_recv(connection, 65536)
        at = time.perf_counter()
    exchange = next(each for each in sim.log if each.request.model == name)
    while not exchange.closed_at:  # noqa: ASYNC110 - set by another thread
        await asyncio.sleep(0.01)
    return exchange.closed_at - at


def _address(sim: ProviderSimulator) -> tuple[str, int]:
    url = urlsplit(sim.base_url)
    assert url.hostname is not None
    assert url.port is not None
    return url.hostname, url.port


def _request(model: str = "some-model") -> bytes:
    body = json.dumps({**ASK, "model": model, "stream": True}).encode()
    fields = f"host: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return f"POST /v1/messages HTTP/1.1\r\n{fields}\r\n\r\n".encode() + body
