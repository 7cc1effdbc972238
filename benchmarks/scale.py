# SPDX-License-Identifier: Apache-2.0
"""Many streams open at once: added processor time, memory, time to first token, and what a scrape costs.

    python benchmarks/scale.py    # 100 and 1 000 over loopback, 10 000 held open in process, 200 threads
    python benchmarks/scale.py --streams 100

Each figure is of otelstream beside the bare SDK: the same work in a process of its own, in alternating rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

CALL: dict[str, Any] = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="*", default=[100, 1000])
    parser.add_argument("--held", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ["ANTHROPIC_OPEN_TELEMETRY"] = "false"
    if args.worker:
        kind, subject, count = args.worker
        run = {"loopback": loopback, "held": held, "threads": threads}[kind]
        print(json.dumps(run(subject == "otelstream", int(count))))
        return 0
    found: dict[str, dict[str, list[float]]] = {}
    for kind, counts in (("loopback", args.streams), ("held", [args.held]), ("threads", [args.threads])):
        for count in filter(None, counts):
            rounds = [
                {subject: spawn(kind, subject, count) for subject in ("bare", "otelstream")} for _ in range(args.rounds)
            ]
            print(f"\n{count} streams, {kind}; load {os.getloadavg()[0]:.1f}; medians of {args.rounds} rounds")
            for name in rounds[0]["bare"]:
                bare, ours = (statistics.median(r[s][name] for r in rounds) for s in ("bare", "otelstream"))
                found.setdefault(f"{count} {kind}", {})[name] = [bare, ours]
                print(f"  {name:44} bare {bare:10.2f}   otelstream {ours:10.2f}   added {ours - bare:+10.2f}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def spawn(kind: str, subject: str, count: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--worker", kind, subject, str(count)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def instrument() -> Any:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    import otelstream

    class Discard(SpanExporter):
        """Keeps nothing: spans that pile up would be memory of ours."""

        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Discard()))
    reader = InMemoryMetricReader()
    otelstream.instrument(tracer_provider=provider, meter_provider=MeterProvider([reader]))
    return reader


def memory() -> float:
    """Resident megabytes now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def loopback(ours: bool, count: int) -> dict[str, float]:
    """`count` concurrent streams of 40 chunks, 25 ms apart, from a simulator in another process."""
    import anthropic

    if ours:
        instrument()
    simulator = subprocess.Popen(
        [sys.executable, "-m", "otelstream", "simulator", "--port", "0", "--gap", "0.025"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert simulator.stdout is not None
    url = next(word for word in simulator.stdout.readline().split() if word.startswith("http"))
    threading.Thread(target=simulator.stdout.read, daemon=True).start()  # a line per stream: a full pipe would stop it
    firsts: list[float] = []

    async def one(client: Any) -> None:
        begin = time.perf_counter()
        stream = await client.messages.create(**CALL, stream=True)
        first = None
        async for event in stream:
            if first is None and event.type == "content_block_delta":
                first = time.perf_counter() - begin
        firsts.append(first or 0.0)

    async def lag(beats: list[float]) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.01)
            beats.append(time.perf_counter() - before - 0.01)

    async def all_of_them() -> dict[str, float]:
        import httpx2

        limits = httpx2.Limits(max_connections=count, max_keepalive_connections=0)
        client = anthropic.AsyncAnthropic(
            api_key="none", base_url=url, max_retries=0, http_client=httpx2.AsyncClient(limits=limits, timeout=120)
        )
        await asyncio.gather(*(one(client) for _ in range(count)))  # what is done once in a process, is done
        rounds = [await once(client) for _ in range(3)]
        await client.close()
        return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}

    async def once(client: Any) -> dict[str, float]:
        firsts.clear()
        # A full collection takes a tenth of a second with the SDK's models, and falls into one run and not the other.
        gc.collect()
        gc.freeze()
        beats: list[float] = []
        watch = asyncio.create_task(lag(beats))
        used = time.process_time()
        await asyncio.gather(*(one(client) for _ in range(count)))
        used = time.process_time() - used
        watch.cancel()
        return {
            "processor milliseconds a stream": used / count * 1e3,
            "first token, median, ms": statistics.median(firsts) * 1e3,
            "first token, p99, ms": sorted(firsts)[int(0.99 * len(firsts))] * 1e3,
            "lag of the event loop, p99, ms": sorted(beats)[int(0.99 * len(beats))] * 1e3,
        }

    try:
        return asyncio.run(all_of_them())
    finally:
        simulator.terminate()
        simulator.wait()


def held(ours: bool, count: int) -> dict[str, float]:
    """`count` streams held open half-way in one process, replayed from memory."""
    sys.path.insert(0, str(Path(__file__).parent))
    from _replay import clients, frames

    reader = instrument() if ours else None
    client, _ = clients(frames(200, 5))
    for _ in range(3):
        for _event in client.messages.create(**CALL, stream=True):
            pass
    gc.collect()
    before, begin = memory(), time.process_time()
    streams = []
    for _ in range(count):
        stream = client.messages.create(**CALL, stream=True)
        for _ in range(100):
            next(stream)
        streams.append(stream)
    gc.collect()
    figures = {"resident MB": memory() - before, "processor ms a stream": (time.process_time() - begin) / count * 1e3}
    begin = time.process_time()
    if reader is not None:
        reader.get_metrics_data()
    figures["a scrape, ms"] = (time.process_time() - begin) * 1e3
    begin = time.process_time()
    for stream in streams:
        stream.close()
    figures["close, µs a stream"] = (time.process_time() - begin) / count * 1e6
    return figures


def threads(ours: bool, count: int) -> dict[str, float]:
    """`count` threads that read short streams, replayed from memory, one after the other: they meet at the ends."""
    sys.path.insert(0, str(Path(__file__).parent))
    from _replay import clients, frames

    if ours:
        instrument()
    client, _ = clients(frames(20, 5))
    start, each = threading.Barrier(count + 1), 25
    slowest: list[float] = []

    def one() -> None:
        start.wait()
        worst = 0.0
        for _ in range(each):
            begin = time.perf_counter()
            for _event in client.messages.create(**CALL, stream=True):
                pass
            worst = max(worst, time.perf_counter() - begin)
        slowest.append(worst)

    for _ in range(20):
        list(client.messages.create(**CALL, stream=True))
    workers = [threading.Thread(target=one) for _ in range(count)]
    for worker in workers:
        worker.start()
    used, begin = time.process_time(), time.perf_counter()
    start.wait()
    for worker in workers:
        worker.join()
    streams = count * each
    return {
        "processor µs a stream": (time.process_time() - used) / streams * 1e6,
        "elapsed µs a stream": (time.perf_counter() - begin) / streams * 1e6,
        "the slowest stream of a thread, median, ms": statistics.median(slowest) * 1e3,
    }


if __name__ == "__main__":
    raise SystemExit(main())
