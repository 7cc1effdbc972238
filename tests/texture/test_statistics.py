# SPDX-License-Identifier: Apache-2.0
"""The statistics of a comparison: published examples, and every pair written out."""

from __future__ import annotations

import random
from itertools import combinations, product
from statistics import NormalDist, pstdev

import pytest

from otelstream.texture import _statistics as statistics


def test_fisher_tasting_tea() -> None:
    """Three of four cups against one of four (Fisher 1935): p is 0.4857; all against none: 0.0286."""
    assert statistics.table_test((3, 1), (4, 4)) == pytest.approx(0.4857, abs=1e-4)
    assert statistics.table_test((4, 0), (4, 4)) == pytest.approx(0.0286, abs=1e-4)
    assert statistics.table_test((0, 0), (4, 4)) == 1.0


def test_wilson() -> None:
    """81 of 263 (Newcombe 1998, two-sided intervals for the single proportion): 0.2553 to 0.3662."""
    assert statistics.share_interval(81, 263, 0.05) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@pytest.mark.parametrize(
    ("first", "second", "interval"),
    [((56, 70), (48, 80), (0.0524, 0.3339)), ((9, 10), (3, 10), (0.1705, 0.8090)), ((10, 10), (0, 10), (0.6075, 1.0))],
)
def test_newcombe(first: tuple[int, int], second: tuple[int, int], interval: tuple[float, float]) -> None:
    """Examples of Newcombe 1998 (difference between independent proportions), method 10; his is first - second."""
    counts = (second[0], first[0]), (second[1], first[1])

    change, low, high = statistics.share_change(*counts, 0.05)

    assert change == pytest.approx(first[0] / first[1] - second[0] / second[1])
    assert (low, high) == pytest.approx(interval, abs=5e-5)


def test_holm() -> None:
    """The smallest of four is taken four times, the next three times, and none falls below the one before it."""
    assert statistics.corrected([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.corrected([]) == []


def test_rank_test_of_a_textbook() -> None:
    """Hollander & Wolfe, permeability of membranes: W+ of pairs is 35 of 50 less ties, p by approximation 0.24."""
    before = sorted([0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46])
    after = sorted([1.15, 0.88, 0.90, 0.74, 1.21])

    p, larger = statistics.rank_test(before, after)

    assert larger == pytest.approx(15 / 50)
    assert p == pytest.approx(0.2446, abs=5e-4)


def test_ties_narrow_the_ranks() -> None:
    """The deviation is that of every way in which tied values can fall to the two sides."""
    pooled, n = [1.0, 1, 1, 2, 2, 3, 3, 3], 3
    larger = [
        sum((after > before) + (after == before) / 2 for before, after in product(chosen, rest))
        for places in combinations(range(len(pooled)), n)
        for chosen, rest in [([pooled[i] for i in places], [v for i, v in enumerate(pooled) if i not in places])]
    ]
    z = (abs(larger[0] - n * (len(pooled) - n) / 2) - 0.5) / pstdev(larger)

    p, _ = statistics.rank_test(pooled[:n], pooled[n:])

    assert p == pytest.approx(2 * NormalDist().cdf(-z))


@pytest.mark.parametrize("seed", range(20))
def test_the_shift_is_that_of_all_pairs(seed: int) -> None:
    """What is found by halving is what sorting all differences finds, ties and all; a shift is found as it is."""
    dice = random.Random(seed)
    before = sorted(round(dice.lognormvariate(0, 1), seed % 3) for _ in range(dice.randint(10, 40)))
    after = sorted(round(dice.lognormvariate(0, 1), seed % 3) for _ in range(dice.randint(10, 40)))
    pairs = sorted(later - earlier for earlier, later in product(before, after))

    change, low, high = statistics.shift(before, after, 0.05)

    assert change == pytest.approx(pairs[(len(pairs) + 1) // 2 - 1], abs=1e-9)
    # The level of 0.05 leaves out so many at both ends (Lehmann 1975, 2.6).
    cut = int(len(pairs) / 2 - 1.959964 * (len(pairs) * (len(before) + len(after) + 1) / 12) ** 0.5)
    assert (low, high) == pytest.approx((pairs[cut - 1], pairs[-cut]), abs=1e-9)
    moved = [value + 3 for value in before]
    assert statistics.shift(before, moved, 0.05)[0] == pytest.approx(3)


def test_values_that_are_all_the_same() -> None:
    """Nothing moved, and nothing is claimed."""
    assert statistics.rank_test([0.0] * 20, [0.0] * 30) == (1.0, 0.5)
    assert statistics.shift([0.0] * 20, [0.0] * 30, 0.01) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("alpha", [0.05, 0.005])
def test_the_interval_covers_what_it_says(alpha: float) -> None:
    """Of samples that are shifted by 2, the interval of level 1 - alpha misses it about as often as alpha says."""
    dice, missed = random.Random(7), 0
    for _ in range(400):
        before, after = (sorted(dice.lognormvariate(0, 0.7) + more for _ in range(25)) for more in (0, 2))
        _, low, high = statistics.shift(before, after, alpha)
        missed += not low <= 2 <= high

    assert missed <= 400 * alpha + 3 * (400 * alpha) ** 0.5


def test_quantiles() -> None:
    """Between two values they are interpolated."""
    assert statistics.quantile([1, 2, 3, 4], 0.5) == 2.5
    assert statistics.quantile([1], 0.9) == 1
