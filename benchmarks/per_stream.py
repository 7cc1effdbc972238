# SPDX-License-Identifier: Apache-2.0
"""What a stream costs once, beside its chunks; what importing and switching on cost.

python benchmarks/per_stream.py

Begin: from the request on to what is ready to read. End: from the terminal event on, everything written. Beside the
end stands what the OpenTelemetry SDK alone takes for the very same writes, replayed: the rest is ours. Processor time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHUNKS = 200
TAIL = (
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": CHUNKS}},
    {"type": "message_stop"},
)
SETTINGS: dict[str, dict[str, Any]] = {
    "sampled": {},
    "unsampled": {},
    "sampled, events=off": {"events": False},
    "sampled, chunk_metric=off": {"chunk_metric": False},
}
START = """
import json, sys, time
clock = time.process_time
from opentelemetry import metrics, trace
if sys.argv[1] == "application":
    import anthropic
    from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider
    trace.set_tracer_provider(TracerProvider())
    metrics.set_meter_provider(MeterProvider())
begin = clock()
import otelstream
package = clock()
otelstream.instrument
ready = clock()
if sys.argv[1] == "application":
    otelstream.instrument()
print(json.dumps([package - begin, ready - package, clock() - ready]))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found: dict[str, Any] = {"stream": {}, "start": start()}
    print(f"{'µs a stream, median of ' + str(args.streams):36}{'begin':>8}{'end':>8}{'SDK alone':>11}")
    for name, settings in SETTINGS.items():
        figures = measure(args.streams, sampled=not name.startswith("un"), settings=settings)
        found["stream"][name] = figures
        print(f"{name:36}" + "".join(f"{figure:{width}.0f}" for figure, width in zip(figures, (8, 8, 11), strict=True)))
    print("\nms, median of 7 processes" + " " * 30 + f"{'import':>8}{'first use':>11}{'instrument()':>14}")
    for name, row in found["start"].items():
        print(f"{name:55}" + "".join(f"{figure:{width}.1f}" for figure, width in zip(row, (8, 11, 14), strict=True)))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def start() -> dict[str, list[float]]:
    """Milliseconds to import the package, to load what `instrument` needs, and to switch on."""
    names = {"api": "with opentelemetry-api loaded", "application": "with the SDKs and the instrumentation base loaded"}
    rows = {}
    for kind, name in names.items():
        runs = []
        for _ in range(7):
            done = subprocess.run(
                [sys.executable, "-c", START, kind], capture_output=True, text=True, check=True, env={}
            )
            runs.append(json.loads(done.stdout))
        rows[name] = [statistics.median(column) * 1e3 for column in zip(*runs, strict=True)]
    return rows


def measure(streams: int, *, sampled: bool, settings: dict[str, Any]) -> tuple[float, float, float]:
    """Microseconds to begin a stream, to end it, and of the end what the OpenTelemetry SDK takes by itself."""
    from hot_path import Sse, events
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

    from otelstream._core.process.runtime import Runtime
    from otelstream._core.process.tap import Attached, read
    from otelstream._face import config as _config
    from otelstream.anthropic._grammar import Grammar

    tracers = TracerProvider(sampler=ALWAYS_ON if sampled else ALWAYS_OFF)
    # Exported between streams is not a stream's cost: the queue takes all.
    tracers.add_span_processor(
        BatchSpanProcessor(
            InMemorySpanExporter(), max_queue_size=99_999, max_export_batch_size=99_999, schedule_delay_millis=9e6
        )
    )
    tracer, meter = tracers.get_tracer("bench"), MeterProvider([InMemoryMetricReader()]).get_meter("bench")
    runtime = Runtime(_config.load(settings, {}), tracer, meter, None, {})
    source = [*events(CHUNKS, 5), *(Sse(str(each["type"]), json.dumps(each)) for each in TAIL)]
    clock = time.thread_time
    begins, ends, alone = [], [], []
    for _ in range(streams):
        begin = clock()
        stream = runtime.begin(operation="chat", provider="p", model="m", grammar=Grammar())
        stream.attached = Attached()
        runtime.attach_span(stream, {"server.address": "provider"})
        stream.responded("req_1")
        begins.append(clock() - begin)
        reader = read(iter(source), stream, lambda: None)
        for _ in range(len(source) - 1):
            next(reader)
        span = stream.span
        begin = clock()
        next(reader)
        ends.append(clock() - begin)
        for _ in reader:
            pass
        again = writes(runtime, stream, tracer)
        begin = clock()
        again()
        alone.append(clock() - begin)
        assert span is not None
    return tuple(statistics.median(figures) * 1e6 for figures in (begins, ends, alone))  # type: ignore[return-value]


def writes(runtime: Any, stream: Any, tracer: Any) -> Callable[[], None]:
    """What ends `stream` writes, prepared: calling it makes the OpenTelemetry SDK do it again, and nothing else."""
    from opentelemetry import trace

    from otelstream._core.emit import span as _span

    points: list[tuple[Any, float, dict[str, Any], Any]] = []
    instruments = runtime.metrics._instruments

    class Tape:
        def __init__(self, instrument: Any) -> None:
            self.write = getattr(instrument, "record", None) or instrument.add

        def record(self, amount: float, labels: dict[str, Any], context: Any = None) -> None:
            points.append((self.write, amount, labels, context))

        add = record

    runtime.metrics._instruments = {name: [Tape(each) for each in found] for name, found in instruments.items()}
    try:
        for step in runtime.metrics.ended(stream):
            step()
    finally:
        runtime.metrics._instruments = instruments
    span = tracer.start_span("chat m", context=trace.set_span_in_context(trace.INVALID_SPAN))
    attributes = _span.summary(stream)
    events = [(name, values, _span.nanoseconds(stream, at)) for name, at, values in stream.events]
    if not span.is_recording() or stream.runtime.settings.events not in ("span", "both"):
        events = []

    def again() -> None:
        if span.is_recording():
            span.set_attributes(attributes)
            for event in events:
                span.add_event(*event)
        for write, amount, labels, context in points:
            write(amount, labels, context)
        span.end()

    return again


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    raise SystemExit(main())
