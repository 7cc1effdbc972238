# SPDX-License-Identifier: Apache-2.0
"""Where and when tools ran, to tell who kept a stream parked."""

from __future__ import annotations

from collections import deque

from otelstream._core.record.host import Turn
from otelstream._core.record.place import Place, here
from otelstream._core.record.stream import StreamObservation

MAX_RUNS = 64  # remembered
_runs: deque[tuple[float, float, Place, Turn | None]] = deque(maxlen=MAX_RUNS)


def ran(start: float, end: float, where: Place, turn: Turn | None) -> None:
    """Remember when a tool ran, and where."""
    _runs.append((start, end, where, turn))


def by_tool(stream: StreamObservation, start: float, end: float) -> bool:
    """Whether a tool of ours ran in the reader of `stream` for most of that time, or its turn waited for one."""
    place = here()
    for began, ended, where, turn in list(_runs):
        overlap = min(end, ended) - max(start, began)
        share = overlap / (end - start) if end > start else 0.0
        if share > 0.5 and (where == place or (share > 0.8 and turn is not None and turn is stream.turn)):
            return True
    return False


def restart() -> None:
    """Start anew, in a forked child."""
    _runs.clear()
