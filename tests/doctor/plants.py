# SPDX-License-Identifier: Apache-2.0
"""A program with everything that can be wrong: it forks a child for each, as a prefork server does its workers."""

from __future__ import annotations

import atexit
import gc
import json
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anthropic
from opentelemetry import metrics, trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import (
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

import otelstream

MODEL = "model-1"
LONG = "text_long; gap=0.005"
PLANTS: dict[str, Callable[[], None]] = {}
clients: list[anthropic.Anthropic] = []


def plant(function: Callable[[], None]) -> Callable[[], None]:
    PLANTS[function.__name__] = function
    return function


def set_up(*, exporter: Any = None, views: Any = (), aggregation: Any = None, **tracer: Any) -> None:
    """Set OpenTelemetry up as it should be, but for what is given."""
    resource = tracer.pop("resource", Resource.create({"service.name": "shop"}))
    provider = TracerProvider(resource=resource, **tracer)
    provider.add_span_processor(SimpleSpanProcessor(exporter or InMemorySpanExporter()))
    trace.set_tracer_provider(provider)
    reader = InMemoryMetricReader(preferred_aggregation=aggregation)
    metrics.set_meter_provider(MeterProvider([reader], resource=resource, views=views))


def made() -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=os.environ["SIM"], api_key="k", max_retries=0)


def opened(play: str = "text_short", timeout: float | None = 30.0) -> Any:
    given = {} if timeout is None else {"timeout": timeout}
    return clients[-1].messages.create(
        model=MODEL,
        max_tokens=64,
        messages=[{"role": "user", "content": "x"}],
        stream=True,
        extra_headers={"otelstream-play": play},
        **given,
    )


def ask(play: str = "text_short", timeout: float | None = 30.0) -> None:
    with opened(play, timeout) as stream:
        for _ in stream:
            pass


# --- the set-up -------------------------------------------------------------------------------------------


@plant
def nothing() -> None:
    set_up()
    ask()


@plant
def no_tracer_provider() -> None:
    metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()], resource=Resource({"service.name": "shop"})))
    ask()


@plant
def no_span_exporter() -> None:
    resource = Resource({"service.name": "shop"})
    metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()], resource=resource))
    trace.set_tracer_provider(TracerProvider(resource=resource))
    ask()


@plant
def no_meter_provider() -> None:
    provider = TracerProvider(resource=Resource({"service.name": "shop"}))
    provider.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    trace.set_tracer_provider(provider)
    ask()


@plant
def no_metric_reader() -> None:
    no_meter_provider()
    metrics.set_meter_provider(MeterProvider(resource=Resource({"service.name": "shop"})))
    ask()


@plant
def exporter_unreachable() -> None:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    set_up(exporter=OTLPSpanExporter(endpoint=f"http://127.0.0.1:{port}/v1/traces", timeout=0.1))
    ask()


@plant
def no_service_name() -> None:
    set_up(resource=Resource.create({}))
    ask()


@plant
def few_events() -> None:
    set_up(span_limits=SpanLimits(max_events=8))
    ask()


@plant
def few_attributes() -> None:
    set_up(span_limits=SpanLimits(max_span_attributes=20))
    ask()


@plant
def ratio() -> None:
    set_up(sampler=ParentBased(TraceIdRatioBased(0.1)))
    ask()


@plant
def exponential() -> None:
    set_up(aggregation={Histogram: ExponentialBucketHistogramAggregation()})
    ask()


@plant
def narrow_view() -> None:
    bounds = ExplicitBucketHistogramAggregation((1, 10, 100))
    set_up(views=[View(instrument_name="otelstream.stream.duration", aggregation=bounds)])
    ask()


@plant
def one_identity() -> None:
    set_up(resource=Resource({"service.name": "shop", "service.instance.id": "one"}))
    ask()


@plant
def the_same_identity() -> None:
    one_identity()


@plant
def default_timeout() -> None:
    set_up()
    ask(timeout=None)


# --- others -----------------------------------------------------------------------------------------------


@plant
def second_tracer() -> None:
    set_up()
    said = {"llm.model_name": MODEL, "openinference.span.kind": "LLM"}
    with trace.get_tracer("peer").start_as_current_span("Messages", attributes=said):
        ask()


@plant
def content_by_another() -> None:
    set_up()
    with trace.get_tracer("framework").start_as_current_span("chain") as span:
        span.set_attribute("input.value", "the prompt")
        ask()


@plant
def content_by_the_sdk() -> None:
    os.environ["ANTHROPIC_OPEN_TELEMETRY_TRACES_CONTENT_MODE"] = "content"
    clients.append(made())  # a client reads it when it is made
    set_up()
    ask()


@plant
def replaced() -> None:
    set_up()
    original = anthropic._base_client.SyncAPIClient.request.__wrapped__
    anthropic._base_client.SyncAPIClient.request = lambda self, *args, **kwargs: original(self, *args, **kwargs)
    ask()


@plant
def suppressed() -> None:
    set_up()
    with suppress_instrumentation():
        ask()
    ask()


@plant
def suppressed_by_another() -> None:
    os.environ["ANTHROPIC_OPEN_TELEMETRY"] = "false"  # the newest SDK's own span would be a second one
    clients.append(made())
    set_up()
    tracer = trace.get_tracer("another")
    attributes = {"gen_ai.operation.name": "chat"}
    with (
        tracer.start_as_current_span("call", kind=trace.SpanKind.CLIENT, attributes=attributes),
        suppress_instrumentation(),
    ):
        ask()


# --- the six points ---------------------------------------------------------------------------------------


@plant
def dropped() -> None:
    set_up()
    for _ in opened(LONG):
        break
    gc.collect()


@plant
def stopped() -> None:
    set_up()
    with opened(LONG) as stream:
        for index, _ in enumerate(stream):
            if index == 5:
                break
    assert otelstream.get_stream(stream).partial


@plant
def acted_on_half() -> None:
    set_up()
    with otelstream.turn("chat"), suppress(anthropic.APIError), opened("text_long; error_after=chunks:20") as stream:
        for index, _ in enumerate(stream):
            if index == 5:
                otelstream.record_action()


def serve(stream: Any, at: str, run: Callable[..., object]) -> None:
    """Run a tool when an event of type *at* arrives."""
    block, parts = None, []
    for event in stream:
        if event.type == "content_block_start" and event.content_block.type == "tool_use":
            block = event.content_block
        if event.type == "content_block_delta" and event.delta.type == "input_json_delta":
            parts.append(event.delta.partial_json)
        if block is not None and event.type == at:
            with otelstream.tool_call(block):
                run(**(json.loads("".join(parts)) if at == "content_block_stop" else {}))
            block = None


@plant
def early_tool() -> None:
    set_up()
    with opened("tool_use_only") as stream:
        serve(stream, "content_block_delta", otelstream.tool(name="read_clouds", effect="read")(lambda **_: None))


@plant
def undeclared_tool() -> None:
    set_up()
    with opened("tool_use_only") as stream:
        serve(stream, "content_block_stop", otelstream.tool(name="read_clouds")(lambda **_: None))


@plant
def standing_side_effect() -> None:
    set_up()
    with suppress(anthropic.APIError), opened("tool_use_only; error_after=finish") as stream:
        serve(stream, "content_block_stop", otelstream.tool(name="read_clouds", effect="write")(lambda **_: None))


@plant
def good_tool() -> None:
    set_up()
    with opened("tool_use_only") as stream:
        serve(stream, "content_block_stop", otelstream.tool(name="read_clouds", effect="read")(lambda **_: None))


if __name__ == "__main__":
    otelstream.instrument()
    clients.append(made())
    with suppress_instrumentation():
        ask("tool_use_only")  # what the SDK builds on first use is built once, not in every child
    gc.freeze()
    for name in sys.argv[1:] or PLANTS:
        child = os.fork()
        if not child:
            sys.argv[1:] = [name]
            PLANTS[name]()
            atexit._run_exitfuncs()
            os._exit(0)  # without taking the interpreter apart, thirty times
        os.waitpid(child, 0)
