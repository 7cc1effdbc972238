# SPDX-License-Identifier: Apache-2.0
"""A local provider on a real socket that plays scripts, breaks on request, and logs what it did, and when."""

from __future__ import annotations

import asyncio
import errno
import itertools
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from otelstream.testing._connection import Connection
from otelstream.testing._desk import Desk
from otelstream.testing._exchange import Exchange
from otelstream.testing._faults import Faults

if TYPE_CHECKING:
    from typing_extensions import Self


class SimulatorError(RuntimeError):
    """The simulator cannot do what was asked; the message says what would help."""


class ProviderSimulator(Faults, Desk):
    """A provider of streams on a loopback socket, for tests, demos and benchmarks.

        with ProviderSimulator() as sim:
            sim.play("text_long", fault=sim.cut_after(chunks=40), schedule=Schedule(first=0.2, gap=0.02))
            client = anthropic.Anthropic(base_url=sim.base_url, api_key="any")
            ...
            assert sim.log[-1].closed_by == "server"

    Any POST to a path that ends in `/messages`, `/chat/completions`, `/responses` or `/completions` is answered in
    the words of that API: a stream where `"stream": true`, else the same message in one piece. A script is written
    in those of Anthropic's messages; what an API has no words for it leaves out. The points of a fault are the
    script's. A GET of a managed agent session's stream is answered by its events: each message is a request to a model.
    Another process steers it by the request header `otelstream-play: text_long; cut_after=chunks:40;
    gap=0.01`, or by `POST /_simulator/play` with the arguments of `play` as JSON, and reads `GET /_simulator/log`.
    It may be stopped (the port then refuses connections) and started again on the same port.

    *on_end* is called in the simulator's thread with each exchange that ended; the log keeps the newest
    *log_limit*; without *fresh_ids* a script's ids are the same at each play.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        fresh_ids: bool = True,
        log_limit: int = 100_000,
        on_end: Callable[[Exchange], None] | None = None,
    ) -> None:
        super().__init__(fresh_ids=fresh_ids, log_limit=log_limit, on_end=on_end)
        self.host = host
        self.port = port
        self._connections: set[Connection] = set()
        self._numbers = itertools.count(1)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None

    @property
    def base_url(self) -> str:
        """What the SDK takes as `base_url`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def start(self) -> Self:
        """Listen; raises SimulatorError where the port is taken."""
        if self._thread is not None:
            return self
        listener = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self.host, self.port))
            listener.listen(4096)
        except (OSError, OverflowError) as error:
            listener.close()
            if getattr(error, "errno", None) == errno.EADDRINUSE:
                raise SimulatorError(
                    f"port {self.port} on {self.host} is in use: stop what listens there, "
                    "or choose another port (0 takes a free one)"
                ) from None
            raise SimulatorError(
                f"cannot listen on {self.host}:{self.port}: {getattr(error, 'strerror', None) or error}"
            ) from None
        self.port = listener.getsockname()[1]
        listener.setblocking(False)
        ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listener, ready)), name="otelstream-simulator", daemon=True
        )
        self._thread.start()
        ready.wait()
        return self

    def stop(self) -> None:
        """Close the port and every connection."""
        if self._thread is None or self._loop is None or self._stopping is None:
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    async def _serve(self, listener: socket.socket, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        server = await self._loop.create_server(
            lambda: Connection(self, next(self._numbers), self._connections), sock=listener, backlog=4096
        )
        ready.set()
        await self._stopping.wait()
        server.close()
        for connection in list(self._connections):
            connection.abort()
        while self._connections:  # noqa: ASYNC110 - one or two turns of the loop
            await asyncio.sleep(0)
        # The loop closes each socket right after it told the connection.
        await asyncio.sleep(0)
