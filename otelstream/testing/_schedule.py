# SPDX-License-Identifier: Apache-2.0
"""When each event of a script goes out."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from otelstream.testing._events import Event
from otelstream.testing._numbers import check


@dataclass(frozen=True)
class Schedule:
    """When each event of a script goes out; all times are seconds, and a gap is never shorter than asked for.

    `headers` before the status line, `first` before the first event, `gap` before each later one (a float, or
    a sequence: the n-th later event's, the last value going on). `pauses` overrides single events by their
    index in the script. `jitter` spreads `gap` by that share of it, the same way for the same `seed`. `coalesce`
    events share one write; `split` bytes make one write.
    """

    first: float = 0.0
    gap: float | Sequence[float] = 0.0
    headers: float = 0.0
    pauses: Mapping[int, float] = field(default_factory=dict)
    jitter: float = 0.0
    seed: int = 0
    coalesce: int = 1
    split: int | None = None

    def __post_init__(self) -> None:
        gaps = self.gap if isinstance(self.gap, Sequence) and not isinstance(self.gap, str) else [self.gap]
        for gap in gaps:
            check({"gap": gap})
        for pause in self.pauses.values():
            check({"pauses": pause})
        check({name: getattr(self, name) for name in ("first", "jitter", "coalesce", "split")})
        check({"seconds before the headers": self.headers})

    def gaps(self, events: Sequence[Event]) -> list[float]:
        """The seconds before each of *events*."""
        spread = random.Random(self.seed)
        gaps = []
        for i, event in enumerate(events):
            gap = self.first
            if i:
                steps = [self.gap] if isinstance(self.gap, (int, float)) else self.gap
                gap = (steps[min(i - 1, len(steps) - 1)] if steps else 0.0) * (1 + self.jitter * spread.uniform(-1, 1))
            gaps.append(self.pauses.get(i, gap + event.pause))
        return gaps
