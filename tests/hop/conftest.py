# SPDX-License-Identifier: Apache-2.0
"""Real servers in a thread, and a client that leaves when it likes."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from hypercorn.asyncio import serve
from hypercorn.config import Config
from tools.bench import Bench, instrumented, wait_for

import otelstream
from otelstream.testing import ProviderSimulator

SERVERS = ("uvicorn", "hypercorn")


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Otelstream on; no stream of the test outlives it, but for what the collector has still to take."""
    with instrumented() as bench:
        runtime = otelstream.OtelStreamInstrumentor().runtime
        assert runtime is not None
        yield bench
        wait_for(lambda: not list(runtime.open_streams()) or (gc.collect() and False))


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as sim:
        yield sim


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(app: Any, server: str = "uvicorn") -> Iterator[int]:
    """Serve `app` on a loopback port; its lifespan is run."""
    port = free_port()
    if server == "uvicorn":
        instance = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", timeout_graceful_shutdown=2))
        thread = threading.Thread(target=instance.run, daemon=True)
        thread.start()
        wait_for(lambda: instance.started)
        yield port
        instance.should_exit = True
        thread.join(20)
        return
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.errorlog = config.accesslog = None
    config.graceful_timeout = 2.0
    stop = threading.Event()

    async def run() -> None:
        async def stopped() -> None:
            while not stop.is_set():  # noqa: ASYNC110 - set from another thread
                await asyncio.sleep(0.01)

        await serve(app, config, shutdown_trigger=stopped)

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    wait_for(lambda: listening(port))
    yield port
    stop.set()
    thread.join(20)


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def get(port: int, path: str, *, leave_after: int | None = None, method: str = "GET", body: bytes = b"") -> bytes:
    """What was read of the response; the connection is closed after `leave_after` bytes of body, or at its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    length = f"content-type: application/json\r\ncontent-length: {len(body)}"
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{length}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    got = b""
    while leave_after is None or len(got.partition(b"\r\n\r\n")[2]) < leave_after:
        data = await reader.read(4096)
        if not data:
            break
        got += data
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    return got


def leave(port: int, path: str, after: int, **more: Any) -> bytes:
    return asyncio.run(get(port, path, leave_after=after, **more))


def read(port: int, path: str, **more: Any) -> bytes:
    return asyncio.run(get(port, path, **more))
