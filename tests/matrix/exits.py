# SPDX-License-Identifier: Apache-2.0
"""Streams that are open when the interpreter exits: a program of its own for each kind, with a batch processor."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from otelstream import _semconv as s
from otelstream.testing import ProviderSimulator

from .cells import ANSWER, SILENT
from .columns import WHOLE

ROOT = Path(__file__).resolve().parents[2]
WANT = {
    s.OUTCOME: "abandoned",
    s.PHASE: "mid_stream",
    s.FAULT: "none",
    s.PARTIAL: True,
    s.CANCEL_TRIGGER: "shutdown",
    s.CANCEL_PROPAGATION: "still_open",
    s.FINISH_REASONS: None,
    s.INPUT_TOKENS: 25,
    s.OUTPUT_TOKENS: None,
    s.ERROR_TYPE: None,
}


def check(package: str, *, asynchronous: bool, native: bool) -> list[str]:
    """Run the program with that SDK; return what is wrong with the spans and counts it exported."""
    with ProviderSimulator() as sim:
        sim.play(ANSWER, fault=SILENT, times=None)
        ended = subprocess.run(
            [sys.executable, "-m", f"{__name__}", sim.base_url, package, "async" if asynchronous else "sync"],
            env={**os.environ, "ANTHROPIC_OPEN_TELEMETRY": str(native).lower(), "PYTHONPATH": _path()},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        asked = len(sim.log)
    records = [json.loads(line) for line in ended.stdout.splitlines()]
    spans = [record["attributes"] for record in records if "attributes" in record]
    counts = [record["streams"] for record in records if "streams" in record]
    wrong = [] if ended.returncode == 0 and not ended.stderr else [f"exit {ended.returncode}: {ended.stderr[-2000:]}"]
    if len(spans) != asked or sum(counts) != asked or not asked:
        wrong.append(f"{asked} streams, {len(spans)} spans, counted {counts}")
    for has in spans:
        # Where usage comes last there was none yet.
        late = [s.INPUT_TOKENS] if package == "openai" else []
        want = {**WANT, **dict.fromkeys(late)}
        if package == "botocore":  # by one operation it is told at once, by the other at the end
            del want[s.INPUT_TOKENS]
        wrong += [
            f"{name} is {has.get(name)!r}, not {value!r}" for name, value in want.items() if has.get(name) != value
        ]
    return wrong


def _path() -> str:
    # However this module was found, its package is found from the same place.
    top = Path(__file__).resolve().parents[__name__.count(".")]
    return os.pathsep.join([str(top), *filter(None, [os.environ.get("PYTHONPATH")])])


def main(base_url: str, package: str, kind: str) -> None:
    """Open a stream in every way of reading, read some of it, and let the program end."""
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    import otelstream

    from . import applications
    from .cells import ENDINGS, shapes
    from .harness import enough, kind_of, unable, version

    class Spans(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            for span in spans:
                if (span.attributes or {}).get(s.OPERATION) in ("chat", "generate_content"):
                    print(json.dumps({"attributes": dict(span.attributes or {})}), flush=True)
            return SpanExportResult.SUCCESS

        def shutdown(self) -> None:
            pass

    class Counts(MetricExporter):
        def export(self, metrics_data: Any, timeout_millis: float = 0, **_: Any) -> MetricExportResult:
            for resource in metrics_data.resource_metrics:
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        if metric.name == s.STREAMS.name:
                            streams = sum(point.value for point in metric.data.data_points)
                            print(json.dumps({"streams": streams}), flush=True)
            return MetricExportResult.SUCCESS

        def force_flush(self, timeout_millis: float = 0) -> bool:
            return True

        def shutdown(self, timeout_millis: float = 0, **_: Any) -> None:
            pass

    tracer_provider = TracerProvider()
    tracer_provider.add_span_processor(BatchSpanProcessor(Spans(), schedule_delay_millis=60_000))
    trace.set_tracer_provider(tracer_provider)
    reader = PeriodicExportingMetricReader(Counts(), export_interval_millis=3_600_000)
    metrics.set_meter_provider(MeterProvider([reader]))
    otelstream.instrument()
    asynchronous = kind == "async"
    module = applications if asynchronous else applications.synchronous()
    client = kind_of(package, asynchronous=asynchronous)(base_url=base_url, api_key="unused")
    opened = 0
    for shape in shapes(package, version(package), [False]):
        ending = ENDINGS["dropped"]
        if shape.asynchronous is not asynchronous or unable(shape, ending):
            continue
        reading = module.READINGS[shape.reading](shape.of.of(client), **shape.of.request({}))
        opened += 1
        if shape.reading in WHOLE and not asynchronous:
            threading.Thread(target=lambda reading=reading: reading.whole(reading.bare()), daemon=True).start()
        elif asynchronous:
            kept.append(loop.create_task(_hold(reading, enough(shape, ending), shape.reading in WHOLE)))
        else:
            handle = reading.bare()
            items = iter(reading.items(handle))
            while not enough_of(items, enough(shape, ending)):
                pass
            kept.extend((handle, items))
    deadline = time.monotonic() + 20
    while sum(view.time_to_first_token is not None for view in otelstream.open_streams()) < opened:
        if asynchronous:
            loop.run_until_complete(asyncio.sleep(0.01))
        else:
            time.sleep(0.01)
        if time.monotonic() > deadline:
            sys.exit("the streams did not open")


def enough_of(items: Any, leave: Any) -> bool:
    return any(leave(item) for item in items)


async def _hold(reading: Any, leave: Any, whole: bool) -> None:
    handle = await reading.bare()
    if whole:
        await reading.whole(handle)
    items = aiter(await reading.items(handle))
    while not leave(await anext(items)):
        pass
    kept.extend((handle, items))
    await asyncio.Event().wait()


kept: list[Any] = []
loop = asyncio.new_event_loop() if __name__ == "__main__" else None  # type: Any

if __name__ == "__main__":
    main(*sys.argv[1:])
