# SPDX-License-Identifier: Apache-2.0
"""What the tests of tools, stops and hops share: otelstream on, with all it says in memory."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import otelstream
from otelstream._core.record.stream import StreamObservation
from otelstream._core.tools.registry import registry
from otelstream._face import instrumentor as _instrumentor

T = TypeVar("T")
ASK: dict[str, Any] = {"model": "some-model", "max_tokens": 64, "messages": [{"role": "user", "content": "Go."}]}


class Bench:
    """The spans, metric points and ended streams of one test."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self.tracer = self.tracer_provider.get_tracer("application")
        self.ended: list[StreamObservation] = []
        self._began = time.perf_counter()

    def add(self, stream: StreamObservation) -> None:
        """Take in a stream that ended; one that an earlier test left behind is none of ours."""
        if stream.started >= self._began:
            self.ended.append(stream)

    def spans(self, name: str = "") -> list[ReadableSpan]:
        """The spans that ended whose name starts so."""
        return [span for span in self._exporter.get_finished_spans() if span.name.startswith(name)]

    def points(self, metric: str, *labels: str) -> Counter[tuple[Any, ...]]:
        """How much was counted, or how many values recorded, by the values of `labels`. Zeros left out."""
        found: Counter[tuple[Any, ...]] = Counter()
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for each in scope.metrics:
                    for point in each.data.data_points if each.name == metric else ():
                        attributes: Mapping[str, Any] = point.attributes or {}
                        amount = getattr(point, "count", None)
                        amount = getattr(point, "value", 0) if amount is None else amount
                        if amount:
                            found[tuple(attributes.get(label) for label in labels)] += amount
        return found

    def wait_for_ended(self, count: int) -> list[StreamObservation]:
        """The streams, once so many have ended."""
        wait_for(lambda: len(self.ended) >= count)
        return self.ended


def wait_for(condition: Callable[[], T], seconds: float = 120.0) -> T:
    """What `condition` returns, as soon as that is true."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(0.002)
    return found


def spread(found: Collection[float]) -> str:
    """How differences in seconds are distributed, in words."""
    ordered = sorted(abs(each) * 1e3 for each in found)
    middle, most = statistics.median(ordered), ordered[int(len(ordered) * 0.9)]
    return f"{len(ordered)} times: median {middle:.2f} ms, p90 {most:.2f} ms, max {ordered[-1]:.2f} ms"


@contextmanager
def instrumented(**settings: Any) -> Iterator[Bench]:
    """Otelstream on for a test, with nothing left of an earlier one."""
    bench = Bench()
    otelstream.uninstrument()
    registry.restart()
    otelstream.instrument(tracer_provider=bench.tracer_provider, meter_provider=bench.meter_provider, **settings)
    _instrumentor.listen(bench.add)
    try:
        yield bench
    finally:
        _instrumentor.listen(bench.add, stop=True)
        otelstream.uninstrument()


@contextmanager
def global_provider(provider: TracerProvider) -> Iterator[None]:
    """Make `provider` the one that the SDK's own spans come from."""
    before = trace._TRACER_PROVIDER
    trace._TRACER_PROVIDER = provider
    try:
        yield
    finally:
        trace._TRACER_PROVIDER = before
