# SPDX-License-Identifier: Apache-2.0
"""The settings as people write them: typed keywords, so that a misspelt one fails in the editor and not at start-up."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Literal, TypedDict

from otelstream._core.record.settings import ChunkMetric, Events, MetricSet, Semconv, Spans
from otelstream._semconv import Effect


class Settings(TypedDict, total=False):
    """What `instrument()` takes beside the providers. None is as if it were not given; False means `off`."""

    spans: Spans | Literal[False] | None
    events: Events | Literal[False] | None
    semconv: Semconv | None
    stall_threshold: float | None
    hang_threshold: float | Mapping[str, float] | str | None
    freeze_threshold: float | None
    cancel_late_after: float | None
    repetition: bool | Literal["on", "off"] | None
    chunk_events: Literal["all", "off", False] | None
    chunk_metric: ChunkMetric | Literal[False] | None
    metrics: MetricSet | None
    tools: Mapping[str, Effect] | str | None
    objectives: str | PathLike[str] | None
    view: str | PathLike[str] | Literal[False] | None
