# SPDX-License-Identifier: Apache-2.0
"""A chat backend that streams answers, with users who ask, wait, stop and drop; and a drain for its preStop hook.

GET /chat     one streamed answer          GET /ready    503 while draining
GET /drain    answers when no stream is open any more, or after DEMO_DRAIN_SECONDS (120)
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anthropic

import otelstream
from otelstream.testing import ProviderSimulator, Schedule

PORT = int(os.environ.get("DEMO_PORT", "8000"))
DRAIN_SECONDS = float(os.environ.get("DEMO_DRAIN_SECONDS", "120"))
PACE = float(os.environ.get("DEMO_PACE", "1"))  # seconds are multiplied by it

simulator = ProviderSimulator()
draining = threading.Event()


def answer() -> Iterator[str]:
    """The text of one streamed answer; now and then the provider is slow, stalls or breaks."""
    fault = random.choices(
        [
            None,
            simulator.error_after(chunks=8),
            simulator.cut_after(chunks=12),
            simulator.stall_after(3 * PACE, chunks=6),
            simulator.http_error(529),
            simulator.repeat_after(chunks=5),
        ],
        weights=[90, 2, 2, 3, 2, 1],
    )[0]
    first = random.lognormvariate(-0.7, 0.6) * PACE
    simulator.play("text_long", fault=fault, schedule=Schedule(first=first, gap=0.03 * PACE, jitter=0.5))
    client = anthropic.Anthropic(base_url=simulator.base_url, api_key="not needed", max_retries=1)
    with (
        client,
        client.messages.stream(
            model="claude-simulated", max_tokens=1000, messages=[{"role": "user", "content": "hello"}]
        ) as stream,
    ):
        yield from stream.text_stream


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        try:
            {"/chat": self.chat, "/drain": self.drain, "/ready": self.ready}.get(self.path, self.unknown)()
        except OSError:  # the user has closed the tab
            pass

    def chat(self) -> None:
        self.begin(200)
        try:
            for text in answer():
                self.wfile.write(text.encode())
        except anthropic.APIError as error:
            self.wfile.write(f"\n[{type(error).__name__}]\n".encode())

    def drain(self) -> None:
        """Take no new work, and answer when what is open has ended: this is what a preStop hook waits for."""
        draining.set()
        end = time.monotonic() + DRAIN_SECONDS
        while otelstream.open_streams() and time.monotonic() < end:
            time.sleep(0.1)
        self.begin(200)
        self.wfile.write(f"{len(otelstream.open_streams())} streams open\n".encode())

    def ready(self) -> None:
        self.begin(503 if draining.is_set() else 200)

    def unknown(self) -> None:
        self.begin(404)

    def begin(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.end_headers()

    def log_message(self, *args: object) -> None: ...


def user() -> None:
    """Ask, read, sometimes leave in the middle, think, ask again."""
    while not draining.is_set():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/chat", timeout=120) as reply:
                patience = random.choices([1_000_000, 200], weights=[9, 1])[0]
                reply.read(patience)
        except OSError:
            pass
        time.sleep(random.expovariate(1 / (2 * PACE)))


def main() -> None:
    simulator.start()
    server = ThreadingHTTPServer(("", PORT), Handler)
    # Without this a container's first process ends at once, and every open stream with it.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    for _ in range(int(os.environ.get("DEMO_USERS", "0"))):
        threading.Thread(target=user, daemon=True).start()
    server.serve_forever()
    draining.set()
    server.server_close()  # waits for the answers under way
    simulator.stop()


if __name__ == "__main__":
    main()
