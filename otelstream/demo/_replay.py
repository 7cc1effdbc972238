# SPDX-License-Identifier: Apache-2.0
"""What HTTP and the SDK's own span say of the same stories without otelstream: measured in a process of its own."""

from __future__ import annotations

import json
import sys

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otelstream import _semconv as names
from otelstream.testing import ProviderSimulator

from ._pairs import Stage
from ._play import STORY_HEADER, client_of, play, trace_of
from ._stories import MORE, STORIES


def main(everything: bool, speed: float) -> None:
    """Print one JSON list: for each story its HTTP statuses and the status of its span, None without one."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    with ProviderSimulator() as sim, client_of(sim) as client:
        stage = Stage(sim.base_url, speed, browser=False)
        told = (*stage.opening().stories, *STORIES, *(MORE if everything else ()))
        stories = [story.faster(speed) for story in told]
        for thread in play(stories, sim, client):
            thread.join()
        stage.close()
        statuses: dict[str, list[int]] = {story.name: [] for story in stories}
        for exchange in sim.log:
            if exchange.status is not None:
                statuses[exchange.request.headers[STORY_HEADER]].append(exchange.status)
    spans = {
        span.context.trace_id: span.status.status_code.name
        for span in exporter.get_finished_spans()
        if span.context and names.OPERATION in (span.attributes or {})
    }
    said = [{"http": statuses[story.name], "native": spans.get(trace_of(index))} for index, story in enumerate(stories)]
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1] == "all", float(sys.argv[2]))
