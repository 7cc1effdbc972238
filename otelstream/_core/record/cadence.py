# SPDX-License-Identifier: Apache-2.0
"""How the chunks of one stream arrived: counts per gap bucket, percentiles, and a window now and then."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from otelstream._semconv import GAP_BOUNDS

FIRST_WINDOW = 32
LAST_WINDOW = 12  # open-ended
OPEN_ENDED = 1 << 30
EXACT = 64  # gaps kept as they are; beyond, percentiles come from the buckets


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
        self._exact = array("d")

    def add(self, gaps: Sequence[float], longest: float) -> None:
        """Add some gaps, in seconds; `longest` is the longest of them."""
        size = len(gaps)
        self.count += size
        self.total += sum(gaps)
        if longest > self.longest:  # noqa: PLR1730  # cheaper than max()
            self.longest = longest
        if self.count <= EXACT:
            self._exact.extend(gaps)
        elif self._exact:
            self._exact = array("d")  # buckets tell from here on
        counts = self.counts
        if longest <= GAP_BOUNDS[0]:  # out of one buffer, the commonest batch of all
            counts[0] += size
            return
        ordered, below = sorted(gaps), 0
        while below < size:  # once per bucket that is not empty
            bucket = bisect_left(GAP_BOUNDS, ordered[below])
            upto = bisect_right(ordered, GAP_BOUNDS[bucket], below) if bucket < len(GAP_BOUNDS) else size
            counts[bucket] += upto - below
            below = upto

    def merge(self, other: Gaps) -> None:
        """Add all gaps of another bag."""
        self.count += other.count
        self.total += other.total
        self.longest = max(self.longest, other.longest)
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        if self.count <= EXACT:
            self._exact.extend(other._exact)
        else:
            self._exact = array("d")

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
    """The gaps of a stream: those of closed windows summed up in `all`, and the window that is open."""

    __slots__ = ("_chars", "_closed", "_size", "_start", "_window", "all", "room")

    def __init__(self) -> None:
        self.all = Gaps()
        self._closed = array("d")  # the fields of one window after the other: an open stream is to stay small
        self._window = Gaps()
        self._size = self.room = FIRST_WINDOW
        """Chunks until the window closes; a batch must not be larger, so that windows end where they say."""
        self._start = 0.0
        self._chars = 0

    @property
    def windows(self) -> list[Window]:
        """The windows that are closed, oldest first."""
        rows = zip(*[iter(self._closed)] * len(Window._fields), strict=True)
        return [
            Window(start, end, int(size), p50, p95, top, int(chars)) for start, end, size, p50, p95, top, chars in rows
        ]

    def add(self, gaps: Sequence[float], longest: float, chars: int, elapsed: float) -> None:
        """Add one batch of gaps in seconds, the longest among them, that ended at `elapsed` since the request."""
        if gaps:
            self._window.add(gaps, longest)
            self.room -= len(gaps)
        self._chars += chars
        if self.room <= 0:
            self.close(elapsed)

    def open(self, elapsed: float) -> None:
        """Start the first window: the first chunk has no gap, but it has a time."""
        self._start = elapsed

    def close(self, elapsed: float) -> None:
        """End the open window, if it has anything; after the last one `all` is whole."""
        gaps = self._window
        if not gaps.count:
            return
        p50, p95 = gaps.quantile(0.5) or 0.0, gaps.quantile(0.95) or 0.0
        self._closed.extend(Window(self._start, elapsed, gaps.count, p50, p95, gaps.longest, self._chars))
        self.all.merge(gaps)
        self._window = Gaps()
        self._start = elapsed
        self._chars = 0
        last = len(self._closed) >= (LAST_WINDOW - 1) * len(Window._fields)
        self._size = self.room = OPEN_ENDED if last else self._size * 2


class _Nothing(Cadence):
    """Of a stream whose record is out: takes nothing in."""

    def add(self, gaps: Sequence[float], longest: float, chars: int, elapsed: float) -> None:
        return

    def open(self, elapsed: float) -> None:
        return

    def close(self, elapsed: float) -> None:
        return


NOTHING = _Nothing()
