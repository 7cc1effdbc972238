# SPDX-License-Identifier: Apache-2.0
"""Spans and metrics as otelstream names them, from two processes that share traces: `python -m` of this file.

The first has the request and its stream, the second the tools. Each says what it made, a line a stream,
so that the test knows every trace in full. Where the instrumented SDK must be in the picture, see `live.py`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from otelstream import _semconv as names

# Every way of being bad that the gateway keeps, with what the stream's span says of it.
BAD: dict[str, dict[str, Any]] = {
    "failed": {names.OUTCOME: "failed", names.FAULT: "provider_error", names.PHASE: "before_response"},
    "succeeded_then_failed": {
        names.OUTCOME: "truncated",
        names.FAULT: "malformed_tool_call",
        names.SUCCEEDED_THEN_FAILED: True,
    },
    "repetition": {names.STREAM_REPETITIONS: 2},
    "repetition_as_double": {names.STREAM_REPETITIONS: 1.0},  # as an OTTL transform or another SDK writes it
    "provider_stall": {names.STALLS: 1, names.STALLS_PROVIDER: 1},
    **{
        propagation: {
            names.OUTCOME: "cancelled",
            names.CANCEL_TRIGGER: "user_stop",
            names.CANCEL_PROPAGATION: propagation,
        }
        for propagation in ("closed_late", "closed_by_gc", "drained", "still_open")
    },
    "side_effects_committed": {
        names.OUTCOME: "cancelled",
        names.CANCEL_PROPAGATION: "closed",
        names.SIDE_EFFECTS_COMMITTED: 1,
    },
    "side_effects_running": {
        names.OUTCOME: "cancelled",
        names.CANCEL_PROPAGATION: "closed",
        names.SIDE_EFFECTS_RUNNING: 1,
    },
    "first_token_bad": {names.OBJECTIVE_FIRST_TOKEN: "bad"},
    "gave_up_waiting": {
        names.OUTCOME: "cancelled",
        names.PHASE: "before_first_token",
        names.CANCEL_PROPAGATION: "closed",
        names.OBJECTIVE_FIRST_TOKEN: "bad",
    },
    "completion_bad": {names.OBJECTIVE_COMPLETION: "bad"},
    "integrity_bad": {names.OBJECTIVE_INTEGRITY: "bad"},
    "retraction": {},
    "error_elsewhere": {},
}
# Ordinary ends, which must not be kept but for the share: zeros and `good` are not bad.
FINE: list[dict[str, Any]] = [
    {},
    {names.OUTCOME: "truncated"},
    {names.OUTCOME: "refused", names.OBJECTIVE_FIRST_TOKEN: "excluded"},
    {
        names.OUTCOME: "cancelled",
        names.CANCEL_TRIGGER: "app_close",
        names.CANCEL_PROPAGATION: "closed",
        names.SIDE_EFFECTS_COMMITTED: 0,
        names.SIDE_EFFECTS_RUNNING: 0,
        names.SIDE_EFFECTS_DISCARDED: 1,
    },
    {
        names.OUTCOME: "cancelled",
        names.CANCEL_PROPAGATION: "not_needed",
        names.OBJECTIVE_COMPLETION: "excluded",
    },
    {names.STALLS: 2, names.STALLS_PROVIDER: 0},
]
GOOD: dict[str, Any] = {
    names.OPERATION: "chat",
    names.PROVIDER: "anthropic",
    names.REQUEST_MODEL: "claude-sonnet-4-5",
    names.OUTCOME: "completed",
    names.PHASE: "finished",
    names.FAULT: "none",
    names.SUCCEEDED_THEN_FAILED: False,
    names.STREAM_REPETITIONS: 0,
    names.STALLS: 0,
    names.STALLS_PROVIDER: 0,
    names.CHUNKS: 180,
    names.VISIBLE_CHARS: 2400,
    names.TIME_TO_FIRST_TOKEN: 0.62,
    names.TIME_TO_FIRST_CHUNK: 0.6,
    names.GAP_P50: 0.031,
    names.GAP_P95: 0.12,
    names.GAP_MAX: 0.4,
    names.OBJECTIVE_FIRST_TOKEN: "good",
    names.OBJECTIVE_COMPLETION: "good",
    names.OBJECTIVE_INTEGRITY: "good",
}


def provider(endpoint: str, service: str, batch_interval: float) -> TracerProvider:
    tracers = TracerProvider(resource=Resource.create({"service.name": service}))
    exporter = OTLPSpanExporter(f"{endpoint}/v1/traces", timeout=10)
    tracers.add_span_processor(
        BatchSpanProcessor(exporter, schedule_delay_millis=int(batch_interval * 1000), max_queue_size=65536)
    )
    return tracers


def tell(**record: Any) -> None:
    print(json.dumps(record), flush=True)


def context_of(trace_id: int, span_id: int) -> Any:
    parent = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    return trace.set_span_in_context(NonRecordingSpan(parent))


def application(args: argparse.Namespace) -> None:
    tracers = provider(args.endpoint, "shop-backend", args.batch_interval)
    tracer = tracers.get_tracer(names.SCOPE)
    meters = MeterProvider(
        [
            PeriodicExportingMetricReader(
                OTLPMetricExporter(f"{args.endpoint}/v1/metrics", timeout=10), export_interval_millis=1000
            )
        ],
        resource=Resource.create({"service.name": "shop-backend"}),
    )
    ended = meters.get_meter(names.SCOPE).create_counter(names.STREAMS.name, names.STREAMS.unit)
    rng = random.Random(args.seed)
    counts: Counter[tuple[str, str, str]] = Counter()
    kinds = [kind for kind in BAD for _ in range(max(1, round(args.streams * args.bad / len(BAD))))]
    schedule = kinds + [""] * (args.streams - len(kinds))
    rng.shuffle(schedule)
    begun = time.perf_counter()
    for number, kind in enumerate(schedule):
        if args.rate:
            time.sleep(max(0.0, begun + number / args.rate - time.perf_counter()))
        attributes = GOOD | (BAD[kind] if kind else rng.choice(FINE))
        at = time.perf_counter()
        with tracer.start_as_current_span("POST /chat", kind=SpanKind.SERVER) as request:
            span = tracer.start_span("chat claude-sonnet-4-5", kind=SpanKind.CLIENT, attributes=attributes)
            for event in (names.EVENT_FIRST_CHUNK, names.EVENT_FIRST_TOKEN, *[names.EVENT_CADENCE] * 3):
                span.add_event(event, {names.ELAPSED: 0.6, names.CHUNK_INDEX: 0})
            if kind == "retraction":
                span.add_event(names.EVENT_RETRACTION, {names.RETRACTION_REASON: "guardrail"})
            if attributes[names.OUTCOME] == "failed":
                span.set_status(Status(StatusCode.ERROR))
            span.end()
            if kind == "error_elsewhere":
                request.set_status(Status(StatusCode.ERROR))
        took = time.perf_counter() - at
        labels = {key: attributes[key] for key in (names.OUTCOME, names.PHASE, names.FAULT)}
        ended.add(1, {names.REQUEST_MODEL: attributes[names.REQUEST_MODEL], **labels})
        counts[attributes[names.OUTCOME], attributes[names.PHASE], attributes[names.FAULT]] += 1
        stream, root = span.get_span_context(), request.get_span_context()
        tell(
            trace=f"{stream.trace_id:032x}",
            spans=[f"{root.span_id:016x}", f"{stream.span_id:016x}"],
            parent=f"{stream.span_id:016x}",
            kind=kind,
            tool=number % 3 == 0,
            took=took,
        )
    meters.shutdown()
    tracers.shutdown()
    tell(counts=[[*key, count] for key, count in counts.items()])


def tools(args: argparse.Namespace) -> None:
    """Run a tool for each line of standard input that asks for one, well after the stream."""
    tracers = provider(args.endpoint, "shop-tools", args.batch_interval)
    tracer = tracers.get_tracer("shop.tools")
    for line in sys.stdin:
        asked = json.loads(line)
        if not asked.get("tool"):
            continue
        due = asked["at"] + args.delay
        time.sleep(max(0.0, due - time.time()))
        span = tracer.start_span(
            "execute_tool search",
            context_of(int(asked["trace"], 16), int(asked["parent"], 16)),
            attributes={names.TOOL_NAME: "search", names.TOOL_CALL_EFFECT: "read"},
        )
        span.end()
        tell(trace=asked["trace"], spans=[f"{span.get_span_context().span_id:016x}"])
    tracers.shutdown()
    tell(done=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["application", "tools"])
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--bad", type=float, default=0.03)
    parser.add_argument("--rate", type=float, default=0, help="streams a second; 0: as fast as it goes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--delay", type=float, default=1.0)
    parser.add_argument("--batch-interval", type=float, default=0.5)
    args = parser.parse_args()
    {"application": application, "tools": tools}[args.role](args)


if __name__ == "__main__":
    main()
