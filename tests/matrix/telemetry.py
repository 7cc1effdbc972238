# SPDX-License-Identifier: Apache-2.0
"""What an exporter receives, in memory: spans, and metric points as the difference since they were last asked for."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

from opentelemetry.sdk.metrics import Counter as SumOf
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otelstream import _semconv as s

Labels = frozenset[tuple[str, Any]]
_DELTA = dict.fromkeys((SumOf, Histogram), AggregationTemporality.DELTA)
_JUDGED = (s.OBJECTIVE_STREAMS.name, s.OBJECTIVE_TOTAL.name)  # observed: cumulative, as the gaps are that nobody sums


class Telemetry(logging.Handler):
    """One tracer provider, one meter provider, and what otelstream logged."""

    def __init__(self) -> None:
        super().__init__()
        resource = Resource.create({"service.name": "tests"})
        self._exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader(preferred_temporality=_DELTA)
        self.meter_provider = MeterProvider([self._reader], resource=resource, shutdown_on_exit=False)
        self.said: list[str] = []
        self._before: dict[tuple[str, Labels], Any] = {}
        self._kept: list[tuple[str, Labels, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())

    def spans(self) -> list[ReadableSpan]:
        """The spans that ended, oldest first."""
        return list(self._exporter.get_finished_spans())

    def points(self) -> dict[str, Counter[Labels]]:
        """By metric: how much was counted, or how many values were recorded, under which labels. Zeros left out."""
        found: dict[str, Counter[Labels]] = {}
        for name, labels, amount in self._collect():
            if name in _JUDGED:
                amount, self._before[name, labels] = amount - self._before.get((name, labels), 0), amount
            if amount:
                found.setdefault(name, Counter())[labels] += amount
        return found

    def values(self, metric: str) -> dict[Labels, float]:
        """What was exported of one metric, zeros included."""
        self._kept = [*self._kept, *self._collect()]
        return {labels: amount for name, labels, amount in self._kept if name == metric}

    def _collect(self) -> Iterator[tuple[str, Labels, Any]]:
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        amount = getattr(point, "count", None)
                        amount = getattr(point, "value", 0) if amount is None else amount
                        yield metric.name, frozenset((point.attributes or {}).items()), amount

    def clear(self) -> None:
        """Forget what came so far."""
        self._exporter.clear()
        self.points()
        self.said.clear()

    def shutdown(self) -> None:
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()
