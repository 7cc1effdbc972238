# SPDX-License-Identifier: Apache-2.0
"""How late an asyncio event loop runs, by a heartbeat that beats while streams are read on it.

A blocked loop and a silent provider look the same to whoever awaits: only the loop knows that it was late.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import deque
from contextvars import Context
from typing import Any

INTERVAL = 0.25  # seconds; two orders below what counts as a stall


class Heartbeat:
    """The beats of one loop. It stops by itself when nobody reads on that loop any more."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._late: deque[tuple[float, float]] = deque(maxlen=16)  # (when it beat, how late)
        self._readers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._due = 0.0
        self._beating = False
        self._loop = weakref.ref(loop)  # a timer's handle would hold it, and with it this heart's own entry

    def read_by(self, stream: Any) -> None:
        """Beat for as long as `stream` lives and has not ended."""
        self._readers.add(stream)
        if not self._beating:
            self._schedule()

    def _schedule(self) -> None:
        loop = self._loop()
        if loop is None or loop.is_closed():
            return
        self._due = time.perf_counter() + INTERVAL
        self._beating = True
        loop.call_later(INTERVAL, self._beat, context=Context())  # not in, nor holding, the reader's

    def _beat(self) -> None:
        self._beating = False
        now = time.perf_counter()
        if now - self._due > INTERVAL:
            self._late.append((now, now - self._due))
        if any(stream.ending is None for stream in self._readers):
            self._schedule()

    def lag(self, start: float, end: float) -> float:
        """The longest time in seconds, within [start, end], for which the loop did not run."""
        beats = [*self._late]
        if self._beating and end > self._due:  # a beat is overdue right now
            beats.append((end, end - self._due))
        return max((min(end, when) - max(start, when - late) for when, late in beats), default=0.0)


_hearts: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Heartbeat] = weakref.WeakKeyDictionary()


def heartbeat() -> Heartbeat | None:
    """The running loop's heartbeat; None where asyncio does not run (trio)."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    found = _hearts.get(loop)
    if found is None:
        found = _hearts[loop] = Heartbeat(loop)
    return found
