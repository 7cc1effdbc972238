# SPDX-License-Identifier: Apache-2.0
"""What surrounds us breaks, comes late or goes away: the application's streams are as without us."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from shapes import ASK, Reply, Tape, clients, run, stream_events
from test_robustness import counted

import otelstream
from otelstream import _semconv as s
from otelstream import _trouble
from otelstream._core.process.runtime import Runtime
from otelstream.testing import ProviderSimulator, Script

TEXT = [event.frame for event in Script().text("Calm seas, then wind.").finished().events]


@pytest.fixture(autouse=True)
def off() -> Iterator[None]:
    _trouble._seen.clear()
    yield
    otelstream.uninstrument()
    _trouble._seen.clear()


class Broken(SpanExporter):
    def export(self, spans: Any) -> SpanExportResult:
        raise RuntimeError("the exporter's own")

    def shutdown(self) -> None:
        raise RuntimeError("the exporter's own")


class Hanging(SpanExporter):
    def __init__(self) -> None:
        self.go = threading.Event()
        self.seen = 0

    def export(self, spans: Any) -> SpanExportResult:
        self.go.wait(60)
        self.seen += len(spans)
        return SpanExportResult.SUCCESS


class BrokenMetrics(MetricExporter):
    def export(self, metrics_data: Any, timeout_millis: float = 0, **_: Any) -> Any:
        raise RuntimeError("the exporter's own")

    def force_flush(self, timeout_millis: float = 0) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 0, **_: Any) -> None:
        return


def steps(**instrumented: Any) -> list[Any]:
    """What one whole stream does, step by step; observed if anything is given."""
    if instrumented:
        otelstream.instrument(**instrumented)
    transport, client, _ = clients(native=False)
    transport.tape = tape = Tape([Reply(TEXT)])
    return run(stream_events, client, tape)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_exporter_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """An exporter that raises, of spans or of metrics, is not the application's trouble."""
    bare = steps()
    tracers = TracerProvider()
    tracers.add_span_processor(BatchSpanProcessor(Broken(), schedule_delay_millis=10))
    meters = MeterProvider([PeriodicExportingMetricReader(BrokenMetrics(), 20)])
    assert steps(tracer_provider=tracers, meter_provider=meters) == bare
    tracers.force_flush()
    with pytest.raises(RuntimeError, match="the exporter's own"):
        tracers.shutdown()
    meters.shutdown()
    assert not [record for record in caplog.records if record.name == "otelstream"]


def test_an_exporter_that_raises_at_once() -> None:
    """Even where spans are exported in the application's own thread, it sees nothing of it."""
    bare = steps()
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(Broken()))
    assert steps(tracer_provider=tracers) == bare


def test_context_that_an_exporter_leaves() -> None:
    """What runs below an emission sets its context variables in a context of its own: in a finaliser that runs while
    one is set, CPython would hand out memory that is free."""

    class Leaving(SpanProcessor):
        seen: Any = None

        def on_end(self, span: Any) -> None:
            self.seen = current.get()
            current.set("the processor's")

    current = ContextVar("current", default="nobody's")
    current.set("the application's")
    leaving = Leaving()
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(leaving)

    steps(tracer_provider=tracers)

    assert (leaving.seen, current.get()) == ("the application's", "the application's")


def test_an_exporter_that_hangs() -> None:
    """An exporter that hangs keeps no stream waiting, and gets what was kept once it goes on."""
    bare = steps()
    exporter = Hanging()
    tracers = TracerProvider()
    tracers.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=10))
    for _ in range(5):
        assert steps(tracer_provider=tracers) == bare
    exporter.go.set()
    tracers.force_flush()
    assert exporter.seen == 5
    tracers.shutdown()


def test_a_logging_handler_that_raises() -> None:
    """Trouble of ours is swallowed even where logging it raises."""

    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("the handler's own")

    handler = Raising()
    logging.getLogger("otelstream").addHandler(handler)
    try:
        bare = steps()
        otelstream.instrument()
        runtime = otelstream.OtelStreamInstrumentor().runtime
        assert runtime is not None
        runtime.stream_ended = [lambda _: 1 / 0]
        assert steps() == bare
        assert _trouble._seen
    finally:
        logging.getLogger("otelstream").removeHandler(handler)


@pytest.mark.parametrize("part", ["metrics", "span", "verdict", "runtime"])
def test_a_bug_of_ours(part: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Were there a bug in us, it would be one log line: the stream goes on as without us."""
    from otelstream._core.emit import span as _span
    from otelstream._core.emit.metrics import Metrics
    from otelstream._core.process import closing

    def bug(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("a bug")

    bare = steps()
    target: tuple[Any, str] = {
        "metrics": (Metrics, "ended"),
        "span": (_span, "summary"),
        "verdict": (closing, "with_protocol"),
        "runtime": (Runtime, "begin"),
    }[part]
    monkeypatch.setattr(*target, bug)
    for _ in range(2):
        assert steps(tracer_provider=TracerProvider(shutdown_on_exit=False)) == bare
    said = [record for record in caplog.records if record.name == "otelstream"]
    assert len(said) == 1
    assert "a bug" not in said[0].getMessage()


def test_a_provider_set_afterwards() -> None:
    """Providers set after `instrument()` receive everything of the streams that follow."""
    code = """
import sys
import otelstream
otelstream.instrument()
import anthropic
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
client = anthropic.Anthropic(base_url=sys.argv[1], api_key="unused")
ask = dict(model="m", max_tokens=9, messages=[dict(role="user", content="hi")])
list(client.messages.create(**ask, stream=True))
trace.set_tracer_provider(TracerProvider())
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(spans))
metrics.set_meter_provider(MeterProvider([reader]))
list(client.messages.create(**ask, stream=True))
print([span.attributes.get("otelstream.stream.outcome") for span in spans.get_finished_spans()])
print(sum(p.value for r in reader.get_metrics_data().resource_metrics for sc in r.scope_metrics for m in sc.metrics
          if m.name == "otelstream.streams" for p in m.data.data_points))
"""
    with ProviderSimulator() as sim:
        done = subprocess.run(
            [sys.executable, "-c", code, sim.base_url], capture_output=True, text=True, check=False, timeout=120
        )
    assert done.stderr == ""
    assert done.stdout.split("\n")[:2] == ["['completed']", "1"]


@pytest.mark.parametrize("native", [True, False])
def test_uninstrument_with_a_stream_open(native: bool) -> None:
    """A stream that is open when we are switched off keeps its record to the end; the next is none of ours."""
    reader = InMemoryMetricReader()
    otelstream.instrument(meter_provider=MeterProvider([reader]))
    transport, client, aclient = clients(native=native)
    transport.tape = Tape([Reply(TEXT)])
    stream = client.messages.create(**ASK, stream=True)
    next(stream)

    async def opened() -> Any:
        made = await aclient.messages.create(**ASK, stream=True)
        await anext(made)
        otelstream.uninstrument()
        assert [item async for item in made]
        await made.close()
        return made

    asyncio.run(opened())
    assert len(list(stream)) > 3
    assert otelstream.get_stream(stream).outcome == "completed"
    list(client.messages.create(**ASK, stream=True))
    assert counted(reader)[1] == 2


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("why", ["no key", "a body that does not encode"])
def test_a_call_that_cannot_be_sent(why: str, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What never left the process is no fault of the provider's: one record, the caller's error, judged by nobody."""
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    ended: list[Any] = []
    otelstream.on_stream_end(ended.append)
    otelstream.instrument()
    transport, client, aclient = clients(native=native)
    transport.tape = Tape([Reply(TEXT)])
    ask = {**ASK, "messages": [{"role": "user", "content": "\ud800"}]} if "encode" in why else ASK
    for each in (client, aclient):
        each.api_key = None if why == "no key" else "unused"

    async def asked() -> None:
        await aclient.messages.create(**ask, stream=True)

    for call in (lambda: client.messages.create(**ask, stream=True), lambda: asyncio.run(asked())):
        ended.clear()
        with pytest.raises((TypeError, UnicodeEncodeError)):
            call()
        (view,) = ended
        assert (view.outcome, view.phase, view.fault) == ("caller_error", "before_response", "none")


def test_always_off() -> None:
    """Where no trace is sampled, everything is still counted."""
    reader = InMemoryMetricReader()
    tracers = TracerProvider(sampler=ALWAYS_OFF)
    spans = InMemorySpanExporter()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    bare = steps()
    assert steps(tracer_provider=tracers, meter_provider=MeterProvider([reader])) == bare
    names, total = counted(reader)
    assert total == 1
    assert {s.STREAM_TTFT.name, s.STREAM_DURATION.name, s.STREAM_GAP_BUCKET.name, s.OBJECTIVE_STREAMS.name} <= names
    assert spans.get_finished_spans() == ()


EXIT = """
import asyncio, json, sys, threading
import anthropic
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
import otelstream
{order[0]}
{order[1]}
client = anthropic.Anthropic(base_url=sys.argv[1], api_key="unused", max_retries=0)
aclient = anthropic.AsyncAnthropic(base_url=sys.argv[1], api_key="unused", max_retries=0)
ask = dict(model="m", max_tokens=9, messages=[dict(role="user", content="hi")])
kept = client.messages.create(**ask, stream=True)
next(kept)
async def main():
    global akept
    akept = await aclient.messages.create(**ask, stream=True)
    await anext(akept)
loop = asyncio.new_event_loop()
loop.run_until_complete(main())
manager = client.messages.stream(**ask)
helper = manager.__enter__()
next(iter(helper))
"""
SETUP = (
    "trace.set_tracer_provider(TracerProvider());"
    "trace.get_tracer_provider().add_span_processor(BatchSpanProcessor(ConsoleSpanExporter("
    "formatter=lambda span: 'SPAN ' + json.dumps(dict(span.attributes), default=str) + '\\n')));"
    "metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(ConsoleMetricExporter("
    "formatter=lambda data: 'METRICS ' + data.to_json(indent=None) + '\\n'), 3600000)]))"
)


@pytest.mark.parametrize("native", ["true", "false"])
@pytest.mark.parametrize("order", [(SETUP, "otelstream.instrument()"), ("otelstream.instrument()", SETUP)])
def test_interpreter_exit(order: tuple[str, str], native: str) -> None:
    """Streams open at the end of the interpreter are exported by the batch processor and counted: abandoned, shutdown,
    still open."""
    with ProviderSimulator() as sim:
        sim.play("text_short", fault=sim.hang_after(events=6), times=None)
        done = subprocess.run(
            [sys.executable, "-c", EXIT.format(order=order), sim.base_url],
            capture_output=True, text=True, check=False, timeout=120,
            env={**os.environ, "ANTHROPIC_OPEN_TELEMETRY": native},
        )  # fmt: skip
    assert done.returncode == 0
    spans = [json.loads(line[5:]) for line in done.stdout.splitlines() if line.startswith("SPAN ")]
    assert [(span.get(s.OUTCOME), span.get(s.CANCEL_TRIGGER), span.get(s.CANCEL_PROPAGATION)) for span in spans] == [
        ("abandoned", "shutdown", "still_open")
    ] * 3, done.stderr
    last = [json.loads(line[8:]) for line in done.stdout.splitlines() if line.startswith("METRICS ")][-1]
    total = sum(
        point["value"]
        for resource in last["resource_metrics"]
        for scope in resource["scope_metrics"]
        for metric in scope["metrics"]
        if metric["name"] == s.STREAMS.name
        for point in metric["data"]["data_points"]
    )
    assert total == 3
    assert "otelstream" not in done.stderr
