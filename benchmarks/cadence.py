# SPDX-License-Identifier: Apache-2.0
"""Designs of the gap buckets: nanoseconds a gap, in batches as the hot path hands them on.

python benchmarks/cadence.py
"""

from __future__ import annotations

import os
import random
import timeit
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable
from functools import partial

from otelstream._core.record.batch import BATCH
from otelstream._semconv import GAP_BOUNDS

BUCKET = partial(bisect_left, GAP_BOUNDS)
Design = Callable[[list[float], list[int]], None]


def kept(gaps: list[float], counts: list[int]) -> None:
    """One add where all came out of one buffer; else sort, then two bisections per bucket that is not empty."""
    if max(gaps) <= GAP_BOUNDS[0]:
        counts[0] += len(gaps)
        return
    ordered = sorted(gaps)
    size, below = len(ordered), 0
    while below < size:
        bucket = bisect_left(GAP_BOUNDS, ordered[below])
        upto = bisect_right(ordered, GAP_BOUNDS[bucket], below) if bucket < len(GAP_BOUNDS) else size
        counts[bucket] += upto - below
        below = upto


def every_bucket(gaps: list[float], counts: list[int]) -> None:
    """The same, but one bisection per bucket from the least gap's on, empty ones too."""
    if max(gaps) <= GAP_BOUNDS[0]:
        counts[0] += len(gaps)
        return
    ordered, size, below = sorted(gaps), len(gaps), 0
    for index in range(bisect_left(GAP_BOUNDS, ordered[0]), len(GAP_BOUNDS)):
        upto = bisect_right(ordered, GAP_BOUNDS[index], below)
        counts[index] += upto - below
        below = upto
        if below == size:
            return
    counts[-1] += size - below


def each_gap(gaps: list[float], counts: list[int]) -> None:
    """One bisection per gap."""
    max(gaps)
    for gap in gaps:
        counts[bisect_left(GAP_BOUNDS, gap)] += 1


def counter(gaps: list[float], counts: list[int]) -> None:
    """One bisection per gap, mapped and counted in C."""
    max(gaps)
    for index, count in Counter(map(BUCKET, gaps)).items():
        counts[index] += count


def exponent(gaps: list[float], counts: list[int]) -> None:
    """Powers of two, as exponential histograms have them: not the bounds that the contract names."""
    max(gaps)
    for gap in gaps:
        counts[min(20, int(gap * 10_000).bit_length())] += 1


def traffic() -> dict[str, list[list[float]]]:
    """Gaps in seconds: out of one buffer, a model's tokens, and a proxy that holds three of four back."""
    rng = random.Random(1)

    def batches(gap: Callable[[], float]) -> list[list[float]]:
        return [[gap() for _ in range(BATCH)] for _ in range(50)]

    return {
        "one buffer": batches(lambda: rng.uniform(1e-6, 3e-5)),
        "tokens": batches(lambda: rng.lognormvariate(-3.6, 0.35)),
        "buffering proxy": batches(lambda: rng.choice((2e-5, 2e-5, 2e-5, 0.25)) * rng.uniform(0.8, 1.2)),
    }


def main() -> None:
    designs: tuple[Design, ...] = (kept, every_bucket, each_gap, counter, exponent)
    kinds = traffic()
    print(f"ns a gap, batches of {BATCH}; load {os.getloadavg()[0]:.1f}")
    print(f"{'':14}" + "".join(f"{kind:>18}" for kind in kinds))
    for design in designs:
        row = []
        for batches in kinds.values():
            counts = [0] * (len(GAP_BOUNDS) + 1)

            def run(design: Design = design, batches: list[list[float]] = batches, counts: list[int] = counts) -> None:
                for gaps in batches:
                    design(gaps, counts)

            row.append(min(timeit.repeat(run, number=20, repeat=15)) / 20 / len(batches) / BATCH * 1e9)
        print(f"{design.__name__:14}" + "".join(f"{figure:18.0f}" for figure in row))


if __name__ == "__main__":
    main()
