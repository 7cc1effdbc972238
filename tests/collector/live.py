# SPDX-License-Identifier: Apache-2.0
"""The instrumented SDK against the simulator, as one of the two traffic processes: `python live.py application`.

Says what `traffic.py` says. Its metrics are read twice, in the process and by OTLP, so that the test can compare.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anthropic
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode

import otelstream
from otelstream import _semconv as names
from otelstream.testing import ProviderSimulator, Schedule, Script, loop, prose

FIRST_TOKEN = 0.4  # the objectives' thresholds here, in seconds
COMPLETION = 0.8
OBJECTIVES = f"""
version: 1
objectives:
  - {{name: first-token, kind: first_token, target: 0.95, threshold: {FIRST_TOKEN}s}}
  - {{name: completion, kind: completion, target: 0.99, threshold: {COMPLETION}s}}
  - {{name: integrity, kind: integrity, target: 0.995}}
"""
MODEL = "claude-simulated"
ASK: dict[str, Any] = {
    "model": MODEL,
    "max_tokens": 1000,
    "messages": [{"role": "user", "content": "hello"}],
}


VERDICTS = (names.OBJECTIVE_FIRST_TOKEN, names.OBJECTIVE_COMPLETION, names.OBJECTIVE_INTEGRITY)
ANSWER = Script("answer").text(prose(240))


class Remember(SpanProcessor):
    """The ids of the spans that ended, by trace, and the traces that came out bad by what their spans say."""

    def __init__(self) -> None:
        self.ended: dict[int, list[str]] = defaultdict(list)
        self.bad: set[int] = set()

    def on_end(self, span: ReadableSpan) -> None:
        context = span.context
        self.ended[context.trace_id].append(f"{context.span_id:016x}")
        if is_bad(span):
            self.bad.add(context.trace_id)


def is_bad(span: ReadableSpan) -> bool:
    """The gateway's rule, said again in Python: whatever was planned, this is what came of it."""
    says = span.attributes or {}
    return (
        says.get(names.OUTCOME) == "failed"
        or span.status.status_code is StatusCode.ERROR
        or bool(says.get(names.SUCCEEDED_THEN_FAILED))
        or bool(says.get(names.STREAM_REPETITIONS))
        or bool(says.get(names.STALLS_PROVIDER))
        or says.get(names.CANCEL_PROPAGATION) in ("closed_late", "closed_by_gc", "drained", "still_open")
        or bool(says.get(names.SIDE_EFFECTS_COMMITTED))
        or bool(says.get(names.SIDE_EFFECTS_RUNNING))
        or "bad" in [says.get(name) for name in VERDICTS]
        or any(event.name == names.EVENT_RETRACTION for event in span.events)
    )


class Traffic:
    """One way of streaming a method; its name is the kind that the gateway must keep (or `fine`)."""

    def __init__(self, simulator: ProviderSimulator) -> None:
        self.simulator = simulator
        self.client = anthropic.Anthropic(base_url=simulator.base_url, api_key="any", max_retries=0)

    def read(self, fault: Any = None, *, script: str | Script = ANSWER, schedule: Schedule | None = None) -> None:
        """Play one reply and read all of it; what the SDK raises is the application's to bear."""
        self.simulator.play(script, fault=fault, schedule=schedule)
        with contextlib.suppress(Exception), self.client.messages.create(**ASK, stream=True) as stream:
            for _ in stream:
                pass

    def fine(self) -> None:
        self.read()

    def fine_truncated(self) -> None:
        self.read(script="text_max_tokens")

    def fine_closed_early(self) -> None:
        """The application has enough: closed at once, nothing left running."""
        self.simulator.play(ANSWER)
        with self.client.messages.create(**ASK, stream=True) as stream:
            for _, _ in zip(stream, range(4), strict=False):
                pass

    def failed(self) -> None:
        self.read(self.simulator.http_error(529))

    def provider_error_mid_stream(self) -> None:
        self.read(self.simulator.error_after(chunks=2))

    def connection_cut(self) -> None:
        self.read(self.simulator.cut_after(chunks=2))

    def cut_short(self) -> None:
        self.read(self.simulator.end_after(chunks=2))

    def malformed_tool_call(self) -> None:
        self.read(self.simulator.malformed_tool_json(), script="tool_use_only")

    def repetition(self) -> None:
        self.read(script=Script("loop").text(loop(40, 30)))

    def provider_stall(self) -> None:
        self.read(self.simulator.stall_after(chunks=2, seconds=0.3))

    def first_token_bad(self) -> None:
        self.read(schedule=Schedule(first=FIRST_TOKEN + 0.1))

    def completion_bad(self) -> None:
        self.read(schedule=Schedule(gap=COMPLETION / 16))

    def gave_up_waiting(self) -> None:
        """Cancelled without a token, later than the objective allows."""
        self.simulator.play(ANSWER, schedule=Schedule(first=30))

        async def impatient() -> None:
            async with anthropic.AsyncAnthropic(
                base_url=self.simulator.base_url, api_key="any", max_retries=0
            ) as client:
                stream = await client.messages.create(**ASK, stream=True)
                async for _ in stream:
                    pass

        async def wait() -> None:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(impatient(), FIRST_TOKEN + 0.3)

        asyncio.run(wait())

    def dropped(self) -> None:
        """Neither read to its end nor closed: the collector finds it."""
        self.simulator.play("text_long")
        stream = self.client.messages.create(**ASK, stream=True)
        for _, _ in zip(stream, range(4), strict=False):
            pass
        del stream
        gc.collect()

    def drained_after_stop(self) -> None:
        self.simulator.play(ANSWER)
        with self.client.messages.create(**ASK, stream=True) as stream:
            for number, _ in enumerate(stream):
                if number == 3:
                    otelstream.record_stop()

    def closed_late_after_stop(self) -> None:
        self.simulator.play("text_long")
        with self.client.messages.create(**ASK, stream=True) as stream:
            for number, _ in enumerate(stream):
                if number == 3:
                    otelstream.record_stop()
                    time.sleep(0.2)
                    break

    def side_effect_of_a_stopped_turn(self) -> None:
        with otelstream.turn():
            self.read(script="tool_use_only")
            send_email()
            self.simulator.play("text_long")
            with self.client.messages.create(**ASK, stream=True) as stream:
                for number, _ in enumerate(stream):
                    if number == 3:
                        otelstream.record_stop()
                        break

    def retraction(self) -> None:
        self.simulator.play(ANSWER)
        with self.client.messages.create(**ASK, stream=True) as stream:
            for number, _ in enumerate(stream):
                if number == 6:
                    otelstream.record_retraction(reason="guardrail")


@otelstream.tool(effect="write", name="read_clouds")  # what the script `tool_use_only` calls
def send_email() -> None: ...


def ways(traffic: Traffic) -> tuple[dict[str, Callable[[], None]], list[Callable[[], None]]]:
    """The bad ways by name, and the fine ones."""
    public = {name: getattr(traffic, name) for name in vars(Traffic) if not name.startswith(("_", "read"))}
    fine = [way for name, way in public.items() if name.startswith("fine")]
    bad = {name: way for name, way in public.items() if not name.startswith("fine")}
    return bad, fine


def points(data: MetricsData | None) -> list[dict[str, Any]]:
    """Every number of a collection, flat: what Prometheus has to show."""
    flat: list[dict[str, Any]] = []
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    labels: Mapping[str, Any] = dict(point.attributes or {})
                    entry: dict[str, Any] = {"name": metric.name, "labels": labels, "scope": scope.scope.name}
                    if hasattr(point, "bucket_counts"):
                        bounds = list(point.explicit_bounds)
                        counts = list(point.bucket_counts)
                        flat.append(entry | {"sum": point.sum, "bounds": bounds, "counts": counts})
                    else:
                        flat.append(entry | {"value": point.value})
    return flat


def application(args: argparse.Namespace) -> None:
    resource = Resource.create({"service.name": "shop-backend", "service.namespace": "shop"})
    remember = Remember()
    tracers = TracerProvider(resource=resource)
    tracers.add_span_processor(remember)
    tracers.add_span_processor(
        BatchSpanProcessor(
            OTLPSpanExporter(f"{args.endpoint}/v1/traces", timeout=10),
            schedule_delay_millis=int(args.batch_interval * 1000),
            max_queue_size=65536,
        )
    )
    in_process = InMemoryMetricReader()
    exporting = PeriodicExportingMetricReader(
        OTLPMetricExporter(f"{args.endpoint}/v1/metrics", timeout=10), export_interval_millis=2000
    )
    meters = MeterProvider([in_process, exporting], resource=resource)
    trace.set_tracer_provider(tracers)
    objectives = Path(tempfile.mkdtemp()) / "objectives.yaml"
    objectives.write_text(OBJECTIVES)
    otelstream.instrument(
        tracer_provider=tracers,
        meter_provider=meters,
        objectives=str(objectives),
        stall_threshold=0.25,
        cancel_late_after=0.1,
    )
    tracer = tracers.get_tracer("shop")
    rng = random.Random(args.seed)
    spent = 0.0
    with ProviderSimulator() as simulator:
        traffic = Traffic(simulator)
        bad, fine = ways(traffic)
        kinds = [kind for kind in bad for _ in range(max(1, round(args.streams * args.bad / len(bad))))]
        schedule = kinds + [""] * (args.streams - len(kinds))
        rng.shuffle(schedule)
        begun = time.perf_counter()
        for number, kind in enumerate(schedule):
            if args.rate:
                time.sleep(max(0.0, begun + number / args.rate - time.perf_counter()))
            at = time.perf_counter()
            with tracer.start_as_current_span("POST /chat", kind=SpanKind.SERVER) as request:
                (bad[kind] if kind else rng.choice(fine))()
            spent += 0.0 if kind else time.perf_counter() - at
            context = request.get_span_context()
            line = {
                "trace": f"{context.trace_id:032x}",
                "spans": remember.ended.pop(context.trace_id),
                "parent": f"{context.span_id:016x}",
                "kind": (kind or "unplanned") if context.trace_id in remember.bad else "",
                "tool": number % 3 == 0,
            }
            print(json.dumps(line), flush=True)
        traffic.client.close()
    in_process.get_metrics_data()
    exporting.force_flush()
    said = {"metrics": points(in_process.get_metrics_data()), "kinds": sorted(bad)}
    print(json.dumps(said | {"seconds_per_stream": spent / max(1, schedule.count(""))}), flush=True)
    meters.shutdown()
    tracers.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["application"])
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--bad", type=float, default=0.03)
    parser.add_argument("--rate", type=float, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch-interval", type=float, default=0.5)
    application(parser.parse_args())


if __name__ == "__main__":
    main()
