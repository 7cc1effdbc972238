# SPDX-License-Identifier: Apache-2.0
"""An hour in one process: threads, tasks, every way to end, signals, collections. Counts must equal, memory stay flat.

    python tests/soak.py --seconds 3600

The provider is a process of its own. It prints a line a minute, and exits with 1 if anything is not as it must be.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections import Counter
from typing import Any

import anthropic
import openai
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

import otelstream
from otelstream import _semconv as s
from otelstream.testing import ProviderSimulator

MESSAGES: Any = [{"role": "user", "content": "What blows?"}]
LONG = "text_long; gap=0.005; hang_after=chunks:8"  # who reads on waits for ever
# What is played, what the application does, and the outcome: it leaves long before the provider is done.
WAYS: dict[str, tuple[str, str]] = {
    "read": ("text_short; gap=0.002", "completed"),
    "cut": ("text_long; cut_after=chunks:4", "failed"),
    "error": ("text_long; error_after=chunks:4", "failed"),
    "ends": ("text_long; end_after=chunks:4", "failed"),
    "refused": ("text_short; http_error=529", "failed"),
    "break": (LONG, "cancelled"),
    "stop": (LONG, "cancelled"),
    "drop": (LONG, "abandoned"),
    "raise": (LONG, "caller_error"),
    "cancel": (LONG, "cancelled"),
}


class OwnError(Exception):
    """The application's own error."""


def serve(pipe: Any) -> None:
    """Play, and count the replies as they end, until told to say so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ended: Counter[str] = Counter()
    with ProviderSimulator(log_limit=0, on_end=lambda exchange: ended.update([exchange.closed_by or "?"])) as sim:
        pipe.send(sim.base_url)
        while pipe.recv() != "end":
            pipe.send(dict(ended))


class Soak:
    """The application: what it does at random, and what must have been said of it."""

    def __init__(self, base_url: str) -> None:
        self.want: Counter[str] = Counter()
        self.until = 0.0
        self.lock = threading.Lock()
        options: Any = {"api_key": "unused", "max_retries": 0, "timeout": 60}
        self.clients = anthropic.Anthropic(base_url=base_url, **options), openai.OpenAI(base_url=base_url, **options)
        self.base_url, self.options = base_url, options

    def did(self, way: str) -> None:
        with self.lock:
            self.want[WAYS[way][1]] += 1

    # --- threads ------------------------------------------------------------------------------------------

    def thread(self, seed: int) -> None:
        chance = random.Random(seed)
        ways = [way for way in WAYS if way != "cancel"]
        while time.monotonic() < self.until:
            way = chance.choice(ways)
            with contextlib.suppress(Exception):  # the SDKs', the transport's, and its own
                self.once(way, chance.choice(self.clients), chance.random() < 0.5)
            self.did(way)
            time.sleep(chance.uniform(1.0, 3.0))

    def once(self, way: str, client: Any, helper: bool) -> None:
        ask = asking(way)
        if isinstance(client, openai.OpenAI):
            stream = client.chat.completions.create(model="model-2", messages=MESSAGES, stream=True, **ask)
        elif helper:
            stream = client.messages.stream(model="model-1", max_tokens=9, messages=MESSAGES, **ask).__enter__()
        else:
            stream = client.messages.create(model="model-1", max_tokens=9, messages=MESSAGES, stream=True, **ask)
        if way in ("read", "cut", "error", "ends", "refused"):
            with stream:
                for _ in stream:
                    pass
        elif way == "drop":
            for index, _ in enumerate(stream):
                if index == 5:
                    break
        elif way == "stop":
            with otelstream.turn(f"t{threading.get_ident()}"), stream:
                otelstream.record_stop()
        else:
            with stream:
                for index, _ in enumerate(stream):
                    if index == 5:
                        if way == "raise":
                            raise OwnError
                        break

    # --- tasks --------------------------------------------------------------------------------------------

    async def tasks(self, count: int) -> None:
        async with (
            anthropic.AsyncAnthropic(base_url=self.base_url, **self.options) as first,
            openai.AsyncOpenAI(base_url=self.base_url, **self.options) as second,
        ):
            await asyncio.gather(*(self.task(seed, (first, second)) for seed in range(1000, 1000 + count)))

    async def task(self, seed: int, clients: Any) -> None:
        chance = random.Random(seed)
        ways = [way for way in WAYS if way not in ("stop", "drop")]
        while time.monotonic() < self.until:
            way = chance.choice(ways)
            seen = asyncio.Event()
            inner = asyncio.create_task(self.aonce(way, chance.choice(clients), seen))
            if way == "cancel":
                await seen.wait()
                inner.cancel()
            with contextlib.suppress(Exception, asyncio.CancelledError):
                await inner
            self.did(way)
            await asyncio.sleep(chance.uniform(10.0, 30.0))

    async def aonce(self, way: str, client: Any, seen: asyncio.Event) -> None:
        ask = asking(way)
        if isinstance(client, openai.AsyncOpenAI):
            stream: Any = await client.chat.completions.create(model="model-2", messages=MESSAGES, stream=True, **ask)
        else:
            stream = await client.messages.create(model="model-1", max_tokens=9, messages=MESSAGES, stream=True, **ask)
        async with stream:
            index = 0
            async for _ in stream:
                index += 1
                if index == 5 and way in ("break", "raise", "cancel"):
                    seen.set()
                    if way == "raise":
                        raise OwnError
                    if way == "break":
                        break


def asking(way: str) -> dict[str, Any]:
    return {"extra_headers": {"otelstream-play": WAYS[way][0]}}


class Nowhere(SpanExporter):
    def export(self, spans: Any) -> SpanExportResult:
        return SpanExportResult.SUCCESS


class Said(logging.Handler):
    lines: list[str]

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def counted(reader: InMemoryMetricReader) -> Counter[str]:
    """Streams by outcome, as a scrape would read them."""
    found: Counter[str] = Counter()
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data else ():
        for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
            if metric.name == s.STREAMS.name:
                for point in metric.data.data_points:
                    found[str(point.attributes[s.OUTCOME])] += int(point.value)
    return found


def resident() -> float:
    """MiB of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--threads", type=int, default=20)
    parser.add_argument("--tasks", type=int, default=200)
    arguments = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    pipe, theirs = spawn.Pipe()
    provider = spawn.Process(target=serve, args=(theirs,), daemon=True)
    provider.start()
    said = Said()
    said.lines = []
    logging.getLogger("otelstream").addHandler(said)
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").addHandler(said)
    warnings.simplefilter("ignore", ResourceWarning)  # what is dropped leaves its connection to the collector
    reader = InMemoryMetricReader()
    tracers = TracerProvider()
    tracers.add_span_processor(BatchSpanProcessor(Nowhere()))
    otelstream.instrument(tracer_provider=tracers, meter_provider=MeterProvider([reader]))
    soak = Soak(pipe.recv())
    soak.until = time.monotonic() + arguments.seconds
    begun = [threading.Thread(target=soak.thread, args=(seed,)) for seed in range(arguments.threads)]
    begun.append(threading.Thread(target=lambda: asyncio.run(soak.tasks(arguments.tasks))))

    def alarm(*_: object) -> None:
        otelstream.open_streams()
        if random.random() < 0.1:
            gc.collect()

    signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    for thread in begun:
        thread.start()
    sizes, started = [], time.monotonic()
    while any(thread.is_alive() for thread in begun):
        time.sleep(min(60, max(1, arguments.seconds / 20)))
        gc.collect()
        sizes.append(resident())
        shown = f"{time.monotonic() - started:.0f} s, {sum(soak.want.values())} streams, {sizes[-1]:.0f} MiB"
        print(shown, flush=True)
    signal.setitimer(signal.ITIMER_REAL, 0)
    for _ in range(200):
        gc.collect()
        if not otelstream.open_streams():
            break
        time.sleep(0.05)
    time.sleep(1)
    pipe.send("tell")
    theirs_ended = pipe.recv()
    pipe.send("end")
    quarter = len(sizes) // 4
    early, late = sizes[quarter], sizes[-1]
    wrong = []
    if counted(reader) != soak.want:
        wrong.append(f"counted {dict(counted(reader))}, not {dict(soak.want)}")
    if sum(theirs_ended.values()) != sum(soak.want.values()):
        wrong.append(f"the provider ended {theirs_ended}, of {sum(soak.want.values())}")
    if late > early * 1.1 + 5:
        wrong.append(f"memory went from {early:.0f} to {late:.0f} MiB")
    if said.lines:
        wrong.append(f"said: {Counter(said.lines).most_common(5)}")
    result = {
        "seconds": round(time.monotonic() - started), "streams": sum(soak.want.values()), "outcomes": dict(soak.want),
        "provider": theirs_ended, "MiB": [round(early), round(late)], "wrong": wrong,
    }  # fmt: skip
    print(json.dumps(result))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
