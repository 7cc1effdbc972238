# SPDX-License-Identifier: Apache-2.0
"""A local provider on a real socket that plays scripts, breaks on request, and logs what it did, and when."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from otelstream.testing._connection import Connection
from otelstream.testing._exchange import Exchange, Request
from otelstream.testing._faults import Fault, Faults, Plan, make_plan, parse_play
from otelstream.testing._scripts import Schedule, Script, ScriptError, make_id

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")
CONTROL_HEADER = "otelstream-play"


class SimulatorError(RuntimeError):
    """The simulator cannot do what was asked; the message says what would help."""


@dataclass
class _Queued:
    plan: Plan
    when: str | Callable[[Request], bool] | None
    left: int | None

    def takes(self, request: Request) -> bool:
        if self.when is None:
            return True
        return bool(self.when(request)) if callable(self.when) else self.when == request.model


class ProviderSimulator(Faults):
    """A provider of Anthropic streams on a loopback socket, for tests, demos and benchmarks.

        with ProviderSimulator() as sim:
            sim.play("text_long", fault=sim.cut_after(chunks=40), schedule=Schedule(first=0.2, gap=0.02))
            client = anthropic.Anthropic(base_url=sim.base_url, api_key="any")
            ...
            assert sim.log[-1].closed_by == "server"

    Any POST to a path that ends in `/messages` is answered: a stream where `"stream": true`, else the same
    message in one piece. Another process steers it by the request header `otelstream-play: text_long;
    cut_after=chunks:40; gap=0.01`, or by `POST /_simulator/play` with the arguments of `play` as JSON, and
    reads `GET /_simulator/log`. It may be stopped (the port then refuses connections) and started again on
    the same port.

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
        self.host = host
        self.port = port
        self._fresh_ids = fresh_ids
        self._changed = threading.Condition()
        self._waiting = 0
        self._number = 0
        self._queue: list[_Queued] = []
        self._log: deque[Exchange] = deque(maxlen=log_limit)
        self._connections: set[Connection] = set()
        self._connection_count = 0
        self._default = make_plan("text_short", None, None)
        self._on_end = on_end
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

    def play(
        self,
        script: str | Script,
        *,
        fault: Fault | str | Iterable[Fault | str] | None = None,
        schedule: Schedule | None = None,
        when: str | Callable[[Request], bool] | None = None,
        times: int | None = 1,
    ) -> None:
        """Queue what the next requests get: *times* of them (None: all), only those that *when* takes.

        *when* is a model name or a predicate of the `Request`. Counted entries are served in their order,
        before those without end, of which the newest counts. With nothing queued the script `text_short` is
        played. Raises ScriptError for an unknown name or a fault that the script has no place for.
        """
        if times is not None and times < 1:
            raise ScriptError(f"times={times}: at least 1, or None for ever")
        queued = _Queued(make_plan(script, fault, schedule), when, times)
        with self._changed:
            # Behind every counted entry, before the endless ones.
            place = next((i for i, entry in enumerate(self._queue) if entry.left is None), len(self._queue))
            self._queue.insert(place, queued)

    @property
    def log(self) -> list[Exchange]:
        """Every exchange so far, in the order of their requests; an open one goes on filling."""
        with self._changed:
            return list(self._log)

    def clear(self) -> None:
        """Forget the log and what is queued, and count anew."""
        with self._changed:
            self._log.clear()
            self._queue.clear()
            self._number = 0

    def wait_for(self, predicate: Callable[[list[Exchange]], T], timeout: float = 30.0) -> T:
        """Return what *predicate* of the log returns as soon as that is true; TimeoutError shows the log.

        It blocks: in asyncio call it with `asyncio.to_thread`.
        """
        deadline = time.perf_counter() + timeout
        with self._changed:
            self._waiting += 1
            try:
                while not (result := predicate(list(self._log))):
                    left = deadline - time.perf_counter()
                    if left <= 0:
                        lines = "\n".join(map(str, self._log)) or "no request came"
                        raise TimeoutError(f"not within {timeout} s; the simulator's log:\n{lines}")
                    self._changed.wait(left)
            finally:
                self._waiting -= 1
        return result

    def _notify(self) -> None:
        if self._waiting:
            with self._changed:
                self._changed.notify_all()

    def _plan_for(self, request: Request) -> Plan:
        if control := request.headers.get(CONTROL_HEADER):
            return make_plan(*parse_play(control))
        with self._changed:
            for i, entry in enumerate(self._queue):
                if entry.takes(request):
                    if entry.left is not None:
                        entry.left -= 1
                        if not entry.left:
                            del self._queue[i]
                    return entry.plan
        return self._default

    def _open(self, request: Request, connection: Connection, plan: Plan) -> Exchange:
        with self._changed:
            self._number += 1
            exchange = Exchange(
                self._number,
                connection.number,
                request,
                plan.script.name,
                plan.fault,
                connection.accepted_at,
                connection.request_at,
                make_id("req", self._number),
            )
            self._log.append(exchange)
            self._changed.notify_all()
        return exchange

    def _closed(self, exchange: Exchange) -> None:
        self._notify()
        if self._on_end is not None and self._loop is not None:
            # Not from here, where the log may be held.
            self._loop.call_soon(self._on_end, exchange)

    async def _serve(self, listener: socket.socket, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        server = await self._loop.create_server(lambda: Connection(self), sock=listener, backlog=4096)
        ready.set()
        await self._stopping.wait()
        server.close()
        for connection in list(self._connections):
            connection.abort()
        while self._connections:  # noqa: ASYNC110 - one or two turns of the loop
            await asyncio.sleep(0)
        # The loop closes each socket right after it told the connection.
        await asyncio.sleep(0)
