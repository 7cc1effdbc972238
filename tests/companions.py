# SPDX-License-Identifier: Apache-2.0
"""One application under some instrumentations, in the order given; prints what it saw, what was traced and logged.

python tests/companions.py BASE_URL ours,opentelemetry.instrumentation.anthropic:AnthropicInstrumentor
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import logging
import sys
from collections.abc import Callable
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

ASK: dict[str, Any] = {"model": "some-model", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
SPANS, READER = InMemorySpanExporter(), InMemoryMetricReader()


class Lines(logging.Handler):
    lines: list[str]

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.name}: {record.getMessage()}")


def switch_on(what: str) -> None:
    if what == "ours":
        import otelstream

        otelstream.instrument()
    elif what:
        module, _, name = what.partition(":")
        getattr(importlib.import_module(module), name)().instrument()


def digest(item: Any) -> str:
    return str(getattr(item, "type", None) or type(item).__name__)


def ways(client: Any, aclient: Any) -> list[Callable[[], Any]]:
    """Ways to read, and to fail; each returns what the application saw."""

    def create() -> Any:
        return [digest(event) for event in client.messages.create(**ASK, stream=True)]

    def create_with() -> Any:
        with client.messages.create(**ASK, stream=True) as stream:
            return [digest(event) for event in stream]

    def broken_off() -> Any:
        with client.messages.create(**ASK, stream=True) as stream:
            return digest(next(iter(stream)))

    def stream() -> Any:
        with client.messages.stream(**ASK) as events:
            return [digest(event) for event in events]

    def text() -> Any:
        with client.messages.stream(**ASK) as events:
            return "".join(events.text_stream)

    def final() -> Any:
        with client.messages.stream(**ASK) as events:
            return events.get_final_text()

    def beta() -> Any:
        return [digest(event) for event in client.beta.messages.create(**ASK, stream=True)]

    def raw() -> Any:
        response = client.messages.with_raw_response.create(**ASK, stream=True)
        return [digest(event) for event in response.parse()]

    def lines() -> Any:
        with client.messages.with_streaming_response.create(**ASK, stream=True) as response:
            return len(list(response.iter_lines()))

    async def acreate() -> Any:
        return [digest(event) async for event in await aclient.messages.create(**ASK, stream=True)]

    async def astream() -> Any:
        async with aclient.messages.stream(**ASK) as events:
            return [digest(event) async for event in events]

    async def afinal() -> Any:
        async with aclient.messages.stream(**ASK) as events:
            return await events.get_final_text()

    def refused() -> Any:
        headers = {"otelstream-play": "text_short; http_error=529"}
        return client.messages.create(**ASK, stream=True, extra_headers=headers)

    def error_event() -> Any:
        headers = {"otelstream-play": "text_short; error_after=2"}
        return [digest(event) for event in client.messages.create(**ASK, stream=True, extra_headers=headers)]

    return [
        create, create_with, broken_off, stream, text, final, beta, raw, lines, acreate, astream, afinal, refused,
        error_event,
    ]  # fmt: skip


def main(base_url: str, order: str) -> None:
    handler = Lines(logging.WARNING)
    handler.lines = []
    logging.getLogger().addHandler(handler)
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(SPANS))
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(MeterProvider([READER]))
    for what in order.split(","):
        switch_on(what)
    import anthropic

    options: dict[str, Any] = {"base_url": base_url, "api_key": "unused", "max_retries": 0}
    loop, seen = asyncio.new_event_loop(), {}
    for way in ways(anthropic.Anthropic(**options), anthropic.AsyncAnthropic(**options)):
        SPANS.clear()
        try:
            result = way()
            result = loop.run_until_complete(result) if asyncio.iscoroutine(result) else result
        except Exception as error:
            result = [type(error).__name__, str(error)]
        gc.collect()
        spans = [
            {
                "scope": span.instrumentation_scope.name if span.instrumentation_scope else "",
                "name": span.name,
                "outcome": (span.attributes or {}).get("otelstream.stream.outcome"),
            }
            for span in SPANS.get_finished_spans()
        ]
        seen[way.__name__] = {"result": result, "spans": spans}
    print(json.dumps({"seen": seen, "logged": handler.lines, "streams": counted(), "sdk": anthropic.__version__}))


def counted() -> int:
    data = READER.get_metrics_data()
    return sum(
        int(point.value)  # type: ignore[union-attr]
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "otelstream.streams"
        for point in metric.data.data_points
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
