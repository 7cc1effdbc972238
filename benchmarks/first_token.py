# SPDX-License-Identifier: Apache-2.0
"""How true the time to the first token is: otelstream's figure and bare readers', against the provider's own stamp.

    python benchmarks/first_token.py [--streams 2000] [--pause 0.002] [--asynchronous]

The simulated provider runs in a process of its own and stamps each event just before it writes it, on the same
monotonic clock. Readers take turns, stream by stream, so that all see the same machine: `socket` looks for the first
text delta in what `recv` returns and nothing else; `sdk` is the application's own first text event without us;
`otelstream` is the instant that becomes `time_to_first_token`, and `application` the application's own first text event
beside it. A figure is milliseconds from the provider's stamp to the reader's.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

ASK: dict[str, Any] = {"model": "some-model", "max_tokens": 64, "messages": [{"role": "user", "content": "hi"}]}
FIRST = b'"text_delta"'


def provider(pipe: Connection, pause: float) -> None:
    """Serve until told to stop, then send when each reply's first text delta was about to be written."""
    from otelstream.testing import ProviderSimulator, Schedule

    with ProviderSimulator() as sim:
        sim.play("text_short", schedule=Schedule(first=pause, gap=pause), times=None)
        pipe.send((sim.host, sim.port))
        pipe.recv()
        pipe.send({each.request_id: text.began for each in sim.log if (text := each.first("text")) is not None})


def by_socket(host: str, port: int) -> tuple[str, float]:
    """Read one reply with nothing but a socket."""
    body = json.dumps({**ASK, "stream": True}).encode()
    head = f"POST /v1/messages HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, port)) as wire:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire.sendall(head.encode() + body)
        seen, at = b"", 0.0
        while data := wire.recv(65536):
            now = time.perf_counter()
            seen += data
            if not at and FIRST in seen:
                at = now
    return seen.partition(b"request-id: ")[2].partition(b"\r\n")[0].decode(), at


def by_sdk(client: Any) -> tuple[str, float, Any]:
    at = 0.0
    with client.messages.create(**ASK, stream=True) as stream:
        for event in stream:
            if not at and event.type == "content_block_delta":
                at = time.perf_counter()
        return stream.response.headers["request-id"], at, stream


async def by_async_sdk(client: Any) -> tuple[str, float, Any]:
    at = 0.0
    async with await client.messages.create(**ASK, stream=True) as stream:
        async for event in stream:
            if not at and event.type == "content_block_delta":
                at = time.perf_counter()
        return stream.response.headers["request-id"], at, stream


def measure(host: str, port: int, streams: int, asynchronous: bool) -> dict[str, list[tuple[str, float]]]:
    """Let the readers take turns; return what each saw, by the request's id."""
    import anthropic
    from opentelemetry.instrumentation.utils import suppress_instrumentation
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider

    import otelstream

    otelstream.instrument(tracer_provider=TracerProvider(), meter_provider=MeterProvider([InMemoryMetricReader()]))
    options: dict[str, Any] = {"base_url": f"http://{host}:{port}", "api_key": "unused", "max_retries": 0}
    loop = asyncio.new_event_loop()
    client = anthropic.AsyncAnthropic(**options) if asynchronous else anthropic.Anthropic(**options)
    read: Callable[[], Any] = (
        (lambda: loop.run_until_complete(by_async_sdk(client))) if asynchronous else (lambda: by_sdk(client))
    )
    seen: dict[str, list[tuple[str, float]]] = {"socket": [], "sdk": [], "otelstream": [], "application": []}
    for number in range(-20, streams):
        request, at = by_socket(host, port)
        with suppress_instrumentation():
            bare_request, bare_at, _ = read()
        our_request, our_at, stream = read()
        first = otelstream.get_stream(stream)._stream.first_token_at  # type: ignore[union-attr]
        if number >= 0:  # the first ones import, connect and warm up
            seen["socket"].append((request, at))
            seen["sdk"].append((bare_request, bare_at))
            seen["otelstream"].append((our_request, first or 0.0))
            seen["application"].append((our_request, our_at))
        if number % 200 == 0:
            gc.collect()
    return seen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=2_000)
    parser.add_argument("--pause", type=float, default=0.002, help="seconds the provider lets pass before each event")
    parser.add_argument("--asynchronous", action="store_true")
    options = parser.parse_args()
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=provider, args=(there, options.pause), daemon=True)
    process.start()
    host, port = here.recv()
    seen = measure(host, port, options.streams, options.asynchronous)
    here.send("stop")
    written = here.recv()
    process.join(10)
    print(f"{options.streams} streams, load {os.getloadavg()[0]:.1f}, {'async' if options.asynchronous else 'sync'}")
    print(f"{'ms after the stamp':20}{'min':>9}{'median':>9}{'p95':>9}{'p99':>9}{'max':>9}")
    p99 = {}
    for reader, stamps in seen.items():
        late = sorted((at - written[request]) * 1e3 for request, at in stamps)
        p99[reader] = late[int(0.99 * len(late))]
        figures = (late[0], statistics.median(late), late[int(0.95 * len(late))], p99[reader], late[-1])
        print(f"{reader:20}" + "".join(f"{figure:9.3f}" for figure in figures))
    for bare in ("socket", "sdk"):
        print(f"p99 of otelstream is {p99['otelstream'] - p99[bare]:+.3f} ms from that of {bare}")
    # The bytes pass through the client's own HTTP library before anybody above a socket can see them.
    return 0 if p99["otelstream"] - p99["sdk"] <= 1 else 1


if __name__ == "__main__":
    sys.exit(main())
