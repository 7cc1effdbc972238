# SPDX-License-Identifier: Apache-2.0
"""One checked set of settings, as everything that observes reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from otelstream._core.record.objectives import Objectives
from otelstream._semconv import Effect

Spans = Literal["auto", "own", "enrich", "off"]
Events = Literal["span", "log", "both", "off"]
Semconv = Literal["released", "latest", "dup"]
MetricSet = Literal["lean", "all"]
ChunkMetric = Literal["buckets", "semconv", "off"]
HANG: Final = 60.0
OTHERS: Final = "*"  # of a setting by model: every model that is not named


@dataclass(frozen=True, slots=True)
class Settings:
    """What `instrument()` was asked for; durations in seconds."""

    spans: Spans = "auto"
    events: Events = "span"
    semconv: Semconv = "released"
    stall_threshold: float = 2.0
    hang_threshold: float | Mapping[str, float] = HANG
    freeze_threshold: float = 10.0
    cancel_late_after: float = 1.0
    repetition: bool = True
    chunk_events: bool = False
    chunk_metric: ChunkMetric = "buckets"
    metrics: MetricSet = "lean"
    tools: Mapping[str, Effect] = field(default_factory=dict)
    objectives: Objectives = field(default_factory=Objectives)
    view: str = "off"

    def hangs_after(self, model: str) -> float:
        """Seconds of silence before the first chunk that are a hang: a model that thinks unseen is given more."""
        given = self.hang_threshold
        if not isinstance(given, Mapping):
            return given
        name = max((name for name in given if name != OTHERS and model.startswith(name)), key=len, default=OTHERS)
        return given.get(name, HANG)
