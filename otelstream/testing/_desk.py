# SPDX-License-Identifier: Apache-2.0
"""What is to be played next and the log of what was, between the simulator, its connections, and who waits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from otelstream.testing._events import ScriptError, make_id
from otelstream.testing._exchange import Exchange, Request
from otelstream.testing._faults import Fault
from otelstream.testing._orders import make_plan, parse_play
from otelstream.testing._plan import Plan
from otelstream.testing._schedule import Schedule
from otelstream.testing._scripts import Script

T = TypeVar("T")
CONTROL_HEADER = "otelstream-play"


@dataclass
class _Queued:
    plan: Plan
    when: str | Callable[[Request], bool] | None
    left: int | None

    def takes(self, request: Request) -> bool:
        if self.when is None:
            return True
        return bool(self.when(request)) if callable(self.when) else self.when == request.model


class Desk:
    """Queue and log of a simulator; every method may be called from any thread, the underscored in its loop's."""

    def __init__(self, *, fresh_ids: bool, log_limit: int, on_end: Callable[[Exchange], None] | None) -> None:
        self._fresh_ids = fresh_ids
        self._on_end = on_end
        self._changed = threading.Condition()
        self._waiting = 0
        self._number = 0
        self._queue: list[_Queued] = []
        self._log: deque[Exchange] = deque(maxlen=log_limit)
        self._default = make_plan("text_short", None, None)

    def play(
        self,
        script: str | Script,
        *,
        fault: Fault | str | Iterable[Fault | str] | None = None,
        schedule: Schedule | None = None,
        when: str | Callable[[Request], bool] | None = None,
        times: int | None = 1,
    ) -> None:
        """Queue what the next requests get: *times* of them, only those that *when* takes.

        *when* is a model name or a predicate of the `Request`. Counted entries are served in their order. With
        times=None nothing is queued: it is what all requests get that no entry takes, in place of an earlier such.
        Without either the script `text_short` is played. Raises ScriptError for an unknown name or a fault that the
        script has no place for.
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

    def _open(self, request: Request, connection: int, accepted_at: float, request_at: float, plan: Plan) -> Exchange:
        with self._changed:
            self._number += 1
            exchange = Exchange(
                self._number,
                connection,
                request,
                plan.script.name,
                plan.fault,
                accepted_at,
                request_at,
                make_id("req", self._number),
            )
            self._log.append(exchange)
            self._changed.notify_all()
        return exchange

    def _closed(self, exchange: Exchange) -> None:
        self._notify()
        if self._on_end is not None:
            # Not from here, where the log may be held.
            asyncio.get_running_loop().call_soon(self._on_end, exchange)
