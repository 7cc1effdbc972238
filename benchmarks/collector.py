# SPDX-License-Identifier: Apache-2.0
"""What a sampling gateway costs: spans a second of CPU time, memory for each trace held, and the sizing table.

    python benchmarks/collector.py [--traces 60000]      needs `make collector`

CPU is the gateway's own time, not wall-clock, so that other work on the machine does not show. Memory is resident
set after each step of traces held, the slope between the steps, not the total.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from collector.fleet import BINARY, MISSING, Backend, Collector, wait_until  # noqa: E402
from collector.traffic import BAD, GOOD  # noqa: E402

from otelstream import _semconv as names  # noqa: E402

SPANS = 3  # the request, its stream, one tool
BAD_SHARE, SHARE = 0.03, 0.10
BATCH = 200  # traces a request, as an agent sends them
DECISION_WAIT = 150  # seconds; the committed default
MEAN_STREAM = 20  # seconds; with it, open streams become streams a second


class Deaf(Backend):
    """A backend that takes everything and reads nothing."""

    def take(self, path: str, body: bytes) -> None: ...


def attribute(key: str, value: Any) -> KeyValue:
    kind = {bool: "bool_value", int: "int_value", float: "double_value", str: "string_value"}[type(value)]
    return KeyValue(key=key, value=AnyValue(**{kind: value}))


def span(name: str, attributes: dict[str, Any], events: int = 0) -> Span:
    now = time.time_ns()
    made = Span(name=name, start_time_unix_nano=now, end_time_unix_nano=now + 20 * 10**9)
    made.attributes.extend(attribute(key, value) for key, value in attributes.items())
    for number in range(events):
        event = made.events.add(name=names.EVENT_CADENCE, time_unix_nano=now + number)
        values = {names.CADENCE_CHUNKS: 64, names.CADENCE_GAP_P50: 0.03, names.CADENCE_GAP_P95: 0.12}
        event.attributes.extend(attribute(key, value) for key, value in values.items())
    return made


def batch(rng: random.Random) -> bytes:
    """One request of fresh traces, each of three spans as otelstream and a web framework make them."""
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    for key in ("service.name", "service.version", "host.name", "k8s.pod.name", "telemetry.sdk.version"):
        resource.resource.attributes.append(attribute(key, "chat-backend-7d9f"))
    scope = resource.scope_spans.add()
    web = {f"http.attribute.{number}": "a value of usual length" for number in range(10)}
    for _ in range(BATCH):
        trace = rng.randbytes(16)
        said = GOOD | (BAD[rng.choice(list(BAD))] if rng.random() < BAD_SHARE else {})
        for made in (
            span("POST /chat", web),
            span("chat claude", said, events=10),
            span("execute_tool search", {names.TOOL_NAME: "search", names.TOOL_CALL_EFFECT: "read"}),
        ):
            made.trace_id, made.span_id = trace, rng.randbytes(8)
            scope.spans.append(made)
    return request.SerializeToString()


def feed(gateway: Collector, bodies: list[bytes]) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{gateway.grpc}") as channel:
        export = channel.unary_unary(
            "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            request_serializer=None,
            response_deserializer=None,
        )
        for body in bodies:
            export(body, timeout=60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--traces", type=int, default=60_000)
    args = parser.parse_args()
    if not BINARY.exists():
        sys.exit(MISSING)
    assert TraceServiceStub  # the service whose method is called by its path
    rng = random.Random(7)
    backend = Deaf().start()
    with tempfile.TemporaryDirectory() as home:
        gateway = Collector(
            "gateway-sampling",
            home=Path(home),
            COLLECTOR_EXPORT_ENDPOINT=backend.url,
            COLLECTOR_DECISION_WAIT="3600s",
            COLLECTOR_NUM_TRACES=args.traces * 2,
            COLLECTOR_MEMORY_MIB=8192,
            COLLECTOR_MEMORY_SPIKE_MIB=1024,
            COLLECTOR_BATCH_INTERVAL="1s",
            GOMAXPROCS=2,
        ).start()
        try:
            feed(gateway, [batch(rng)])
            wait_until(lambda: gateway.own("otelcol_receiver_accepted_spans") >= BATCH * SPANS)
            base, cpu, bytes_sent = gateway.resident_mib(), gateway.cpu_seconds(), 0
            print(f"at rest: {base:.0f} MiB")
            steps: list[tuple[int, float]] = []
            wall = 0.0
            for step in range(1, 5):
                bodies = [batch(rng) for _ in range(args.traces // 4 // BATCH)]
                bytes_sent += sum(map(len, bodies))
                begun = time.perf_counter()
                feed(gateway, bodies)
                wall += time.perf_counter() - begun
                steps.append((step * args.traces // 4, gateway.resident_mib()))
                print(f"{steps[-1][0]:>7} traces fed: {steps[-1][1]:.0f} MiB")
            spent = gateway.cpu_seconds() - cpu
        finally:
            gateway.stop()
            backend.stop()
    report(args.traces, spent, wall, steps, base, bytes_sent)


def report(traces: int, spent: float, wall: float, steps: list[tuple[int, float]], base: float, sent: int) -> None:
    kept = BAD_SHARE + SHARE * (1 - BAD_SHARE)
    rate = traces * SPANS / spent
    (first, low), (last, high) = steps[0], steps[-1]
    held_kib = (high - low) * 1024 / ((last - first) * (1 - kept))
    per_thousand = 1000 / MEAN_STREAM * DECISION_WAIT * (1 - kept) * held_kib / 1024
    print(f"machine: {os.cpu_count()} cores, the feeder and the backend on them too")
    print(f"a trace: {SPANS} spans, {sent / traces / 1024:.1f} KiB of OTLP; {kept:.1%} kept")
    print(
        f"CPU: {spent:.1f} s for {traces * SPANS} spans: {rate:,.0f} spans a CPU second, {2 * rate:,.0f} on two cores"
    )
    print(f"taken in {wall:.1f} s: {traces * SPANS / wall:,.0f} spans a second beside the feeder")
    print(f"memory: {held_kib:.1f} KiB of resident set a trace held")
    print(f"{per_thousand:.0f} MiB a 1 000 open streams (mean {MEAN_STREAM} s, decision_wait {DECISION_WAIT} s)")
    print("\n| open streams | streams a second | traces held | memory | cores busy |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for streams in (100, 1_000, 5_000, 20_000):
        arriving = streams / MEAN_STREAM
        held = arriving * DECISION_WAIT * (1 - kept)
        memory = base + held * held_kib / 1024
        busy = arriving * SPANS / rate
        print(f"| {streams:,} | {arriving:,.0f} | {held:,.0f} | {memory:,.0f} MiB | {busy:.2f} |")


if __name__ == "__main__":
    main()
