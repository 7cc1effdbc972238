# SPDX-License-Identifier: Apache-2.0
"""Two samples compared: ranks for numbers, exact tables for shares, and what many comparisons at once allow to say.

All of it is standard, deterministic, and needs no library.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import groupby
from statistics import NormalDist
from typing import Final

NORMAL: Final = NormalDist()
_STEPS: Final = 80  # halvings of an interval: beyond what a float tells apart


def quantile(ordered: Sequence[float], q: float) -> float:
    """The value below which a share *q* of an ordered sample lies, interpolated (Hyndman & Fan 1996, type 7)."""
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def rank_test(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """Whether two ordered samples are of one distribution: two-sided p, and how often after exceeds before.

    Mann & Whitney 1947, by the normal approximation with ties and a continuity correction (Lehmann, Nonparametrics,
    1975, 1.4). The second value is the share of all pairs in which *after* is larger, ties as halves.
    """
    n, m = len(before), len(after)
    larger = sum((bisect_left(before, value) + bisect_right(before, value)) / 2 for value in after)
    total = n + m
    ties = sum(size**3 - size for size in (len(list(group)) for _, group in groupby(sorted((*before, *after)))))
    variance = n * m / 12 * (total + 1 - ties / (total * (total - 1)))
    if variance <= 0:
        return 1.0, 0.5
    z = max(0.0, abs(larger - n * m / 2) - 0.5) / math.sqrt(variance)
    return min(1.0, 2 * NORMAL.cdf(-z)), larger / (n * m)


def shift(before: Sequence[float], after: Sequence[float], alpha: float) -> tuple[float, float, float]:
    """How far *after* is shifted against *before*, and the interval of level 1 - alpha: both samples ordered.

    The median of all differences after - before (Hodges & Lehmann 1963) and the order statistics of them that the
    rank test of level *alpha* leaves (Moses; Lehmann 1975, 2.6). They are found by halving, never listed.
    """
    n, m = len(before), len(after)
    pairs = n * m
    deviation = math.sqrt(pairs * (n + m + 1) / 12)
    cut = math.floor(pairs / 2 - NORMAL.inv_cdf(1 - alpha / 2) * deviation)

    def within(difference: float) -> int:
        return sum(bisect_right(after, value + difference) for value in before)

    def ranked(rank: int) -> float:
        return _halved(within, min(max(rank, 1), pairs), after[0] - before[-1], after[-1] - before[0])

    return ranked((pairs + 1) // 2), ranked(cut), ranked(pairs - cut + 1)


def _halved(within: Callable[[float], int], rank: int, low: float, high: float) -> float:
    """The smallest difference that at least *rank* of all do not exceed."""
    # Added to a value again, a difference may miss it by its last bit.
    slack = 1e-12 * max(1.0, abs(low), abs(high))
    low -= slack
    high += slack
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if high - low <= 4 * slack:
            break
        if within(middle) >= rank:
            high = middle
        else:
            low = middle
    return 0.0 if abs(high) <= 8 * slack else high


def table_test(yes: tuple[int, int], of: tuple[int, int]) -> float:
    """Whether two shares are one: the two-sided p of Fisher's exact test, which sums all tables no likelier than this.

    Fisher 1935; conservative, so its level holds for small counts too.
    """
    all_yes, total = sum(yes), sum(of)

    def log_chance(first: int) -> float:
        return _log_choose(of[0], first) + _log_choose(of[1], all_yes - first)

    seen = log_chance(yes[0]) + 1e-9
    whole = _log_choose(total, all_yes)
    possible = range(max(0, all_yes - of[1]), min(of[0], all_yes) + 1)
    return min(1.0, sum(math.exp(chance - whole) for chance in map(log_chance, possible) if chance <= seen))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def share_interval(yes: int, of: int, alpha: float) -> tuple[float, float]:
    """The interval of one share (Wilson 1927)."""
    z = NORMAL.inv_cdf(1 - alpha / 2)
    share = yes / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return max(0.0, middle - half), min(1.0, middle + half)


def share_change(yes: tuple[int, int], of: tuple[int, int], alpha: float) -> tuple[float, float, float]:
    """The difference of two shares and its interval (Newcombe 1998, method 10: out of Wilson's intervals)."""
    before, after = (part / whole for part, whole in zip(yes, of, strict=True))
    (low_b, high_b), (low_a, high_a) = (share_interval(part, whole, alpha) for part, whole in zip(yes, of, strict=True))
    low = after - before - math.hypot(after - low_a, high_b - before)
    high = after - before + math.hypot(high_a - after, before - low_b)
    return after - before, low, high


def corrected(chances: Sequence[float]) -> list[float]:
    """The p of several tests so that under 0.05 one of them errs in 5 % of comparisons, all of them together.

    Holm 1979, which holds whatever the tests have to do with one another.
    """
    adjusted = [1.0] * len(chances)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        highest = max(highest, min(1.0, (len(chances) - rank) * chances[index]))
        adjusted[index] = highest
    return adjusted
