# SPDX-License-Identifier: Apache-2.0
"""How the chunks of one stream arrived: counts per gap bucket, percentiles, and a window now and then."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from otelstream._semconv import GAP_BOUNDS

FIRST_WINDOW = 32
LAST_WINDOW = 12  # open-ended
EXACT = 128  # gaps kept as they are; beyond, percentiles come from the buckets


class Window(NamedTuple):
    """Some consecutive chunks; times in seconds since the request."""

    start: float
    end: float
    chunks: int
    p50: float
    p95: float
    longest: float
    chars: int


class Gaps:
    """A bag of gaps in bounded memory: exact up to `EXACT`, per bucket beyond."""

    __slots__ = ("_exact", "count", "counts", "longest", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(GAP_BOUNDS) + 1)
        self.count = 0
        self.total = 0.0
        self.longest = 0.0
        self._exact: list[float] = []

    def add(self, ordered: Sequence[float]) -> None:
        """Add gaps in ascending order, in seconds."""
        size = len(ordered)
        longest = ordered[-1]
        self.count += size
        self.total += sum(ordered)
        self.longest = max(self.longest, longest)
        if len(self._exact) < EXACT:
            self._exact.extend(ordered[: EXACT - len(self._exact)])
        counts = self.counts
        if longest <= GAP_BOUNDS[0]:  # a burst, the commonest batch of all
            counts[0] += size
            return
        below = 0
        for index, bound in enumerate(GAP_BOUNDS):
            upto = bisect_right(ordered, bound, below)
            counts[index] += upto - below
            below = upto
            if below == size:
                return
        counts[-1] += size - below

    def quantile(self, q: float) -> float | None:
        """The gap that a share `q` does not exceed; interpolated in its bucket once gaps are many."""
        if not self.count:
            return None
        if self.count <= EXACT:
            ordered = sorted(self._exact)
            return ordered[min(len(ordered) - 1, int(q * len(ordered)))]
        rank = q * self.count
        low = 0.0
        for bound, count in zip((*GAP_BOUNDS, self.longest), self.counts, strict=True):
            if count and rank <= count:
                high = min(bound, self.longest)
                return low + (high - low) * rank / count
            rank -= count
            low = bound
        return self.longest


class Cadence:
    """The gaps of a whole stream and of its current window."""

    __slots__ = ("_chars", "_size", "_start", "_window", "all", "windows")

    def __init__(self) -> None:
        self.all = Gaps()
        self.windows: list[Window] = []
        self._window = Gaps()
        self._size = FIRST_WINDOW
        self._start = 0.0
        self._chars = 0

    @property
    def room(self) -> int:
        """Chunks until the window closes; a batch must not be larger, so that windows end where they say."""
        return self._size - self._window.count if self._size else 1 << 30

    def add(self, gaps: Sequence[float], chars: int, elapsed: float) -> None:
        """Add one batch of gaps in seconds, that ended at `elapsed` seconds since the request."""
        if gaps:
            ordered = sorted(gaps)
            self.all.add(ordered)
            self._window.add(ordered)
        self._chars += chars
        if self._size and self._window.count >= self._size:
            self.close(elapsed)

    def open(self, elapsed: float) -> None:
        """Start the first window: the first chunk has no gap, but it has a time."""
        self._start = elapsed

    def close(self, elapsed: float) -> None:
        """End the current window, if it has anything."""
        gaps = self._window
        if not gaps.count:
            return
        p50, p95 = gaps.quantile(0.5) or 0.0, gaps.quantile(0.95) or 0.0
        self.windows.append(Window(self._start, elapsed, gaps.count, p50, p95, gaps.longest, self._chars))
        self._window = Gaps()
        self._start = elapsed
        self._chars = 0
        self._size = 0 if len(self.windows) >= LAST_WINDOW - 1 else self._size * 2
