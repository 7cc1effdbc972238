# SPDX-License-Identifier: Apache-2.0
"""What watching a stream costs per chunk: the bare SDK, otelstream and its parts, and its peers, in one run.

    python benchmarks/streams.py                 # everything installed here; peers that are missing are named
    python benchmarks/streams.py --sdk openai    # chat completions; peers of that SDK
    python benchmarks/streams.py --rounds 9 --json out.json --picture out.png

Each subject runs in a process of its own, in alternating rounds, so that all see the same machine. Figures are
processor time and medians of the rounds; added cost is the median of the differences to the bare SDK of the same
round. Streams are replayed from memory, with a tracer provider, a batch processor and a metric reader attached;
`floor` is a generator with two clock reads and count, sum and maximum, without an exporter.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SUBJECTS: dict[str, str] = {
    "bare": "",
    "floor": "",
    "native": "",
    "otelstream": "otelstream",
    "otelstream, unsampled": "otelstream",
    "otelstream, on the native span": "otelstream",
    "otelstream, no repetition": "otelstream",
    "otelstream, no events": "otelstream",
    "otelstream, no gap buckets": "otelstream",
    "OpenTelemetry GenAI": "opentelemetry.instrumentation.genai.anthropic",
    "OpenInference": "openinference.instrumentation.anthropic",
    "Traceloop": "opentelemetry.instrumentation.anthropic",
    "Logfire": "logfire",
}
SHORT = 20
WHOLE = f"a whole stream of {SHORT} chunks,"
SHAPES = ("create", "stream", "async create", "async stream")
MESSAGES = [{"role": "user", "content": "x"}]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sdk", choices=("anthropic", "openai"), default="anthropic")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--chunks", type=int, default=3000)
    parser.add_argument("--subjects", default="", help="separated by semicolons; default: all that are installed")
    parser.add_argument(
        "--cases",
        default="text:5,text:20,text:85,tool:5,thinking:5",
        help="kind:characters a delta",
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(work(args.worker, args.cases.split(","), args.chunks, args.sdk)))
        return 0
    modules = {name: module.replace("anthropic", args.sdk) for name, module in SUBJECTS.items()}
    wanted = [name.strip() for name in args.subjects.split(";") if name.strip()] or list(SUBJECTS)
    subjects = [name for name in wanted if not modules[name] or installed(modules[name])]
    for name in sorted(set(wanted) - set(subjects)):
        print(f"not installed here: {name} ({modules[name]})", file=sys.stderr)
    if "bare" not in subjects:
        subjects.insert(0, "bare")
    rounds: list[dict[str, dict[str, float]]] = []
    for number in range(args.rounds):
        # Alternate the order, so that a machine that slows down wrongs nobody.
        order = subjects if number % 2 == 0 else subjects[::-1]
        rounds.append({name: spawn(name, args) for name in order})
        print(f"round {number + 1} of {args.rounds} done, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    table = summarise(rounds, subjects)
    print(render(table, subjects))
    if args.json:
        args.json.write_text(json.dumps(table, indent=1) + "\n")
    if args.picture:
        draw(table, subjects, args.picture)
    return 0


def installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def spawn(subject: str, args: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--worker", subject, "--cases", args.cases, "--chunks", str(args.chunks)]
    command += ["--sdk", args.sdk]
    native = subject in ("native", "otelstream, on the native span")
    environ = {**os.environ, "ANTHROPIC_OPEN_TELEMETRY": "true" if native else "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    if done.returncode:
        raise SystemExit(f"{subject} failed:\n{done.stderr[-2000:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


# --- one process ------------------------------------------------------------------------------------------


def work(subject: str, cases: list[str], chunks: int, sdk: str) -> dict[str, float]:
    """Measure one subject: microseconds a chunk by case and shape, and those of a whole stream of `SHORT` chunks.

    A chunk is the difference of a long stream and a short one, so that what a stream costs once is not in it.
    """
    sys.path.insert(0, str(Path(__file__).parent))
    from _replay import clients, frames

    set_up(subject, sdk)
    figures: dict[str, float] = {}
    for case in cases:
        kind, size = case.split(":")
        loop = asyncio.new_event_loop()
        lengths = [
            readers(*apis(sdk, *clients(frames(count, int(size), kind, sdk=sdk), sdk)), loop, floor=subject == "floor")
            for count in (SHORT, chunks)
        ]
        for shape in SHAPES:
            short, long = (length[shape] for length in lengths)
            for _ in range(20):
                short()
            long()
            gc.collect()
            gc.disable()
            once = statistics.median(short() for _ in range(60))
            figures[f"{case} {shape}"] = (min(long() for _ in range(5)) - once) / (chunks - SHORT) * 1e6
            if case == cases[0]:
                figures[f"{WHOLE} {shape}"] = once * 1e6
            gc.enable()
        loop.close()
    return figures


def apis(sdk: str, *clients: Any) -> list[Any]:
    """Where each client has its answers."""
    return [client.messages if sdk == "anthropic" else client.chat.completions for client in clients]


def set_up(subject: str, sdk: str) -> None:
    if subject in ("bare", "floor"):
        return
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

    provider = TracerProvider(sampler=ALWAYS_OFF if "unsampled" in subject else ALWAYS_ON)
    provider.add_span_processor(BatchSpanProcessor(InMemorySpanExporter()))
    if subject != "Logfire":
        trace.set_tracer_provider(provider)
        metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
    if subject.startswith("otelstream"):
        import otelstream

        parts: dict[str, dict[str, Any]] = {
            "no repetition": {"repetition": False},
            "no events": {"events": False},
            "no gap buckets": {"chunk_metric": False},
        }
        otelstream.instrument(**parts.get(subject.partition(", ")[2], {}))
    elif subject == "OpenTelemetry GenAI":
        instrumentor(f"opentelemetry.instrumentation.genai.{sdk}", sdk).instrument()
    elif subject == "OpenInference":
        instrumentor(f"openinference.instrumentation.{sdk}", sdk).instrument()
    elif subject == "Traceloop":
        instrumentor(f"opentelemetry.instrumentation.{sdk}", sdk).instrument()
    elif subject == "Logfire":
        import logfire

        logfire.configure(
            send_to_logfire=False,
            console=False,
            additional_span_processors=[BatchSpanProcessor(InMemorySpanExporter())],
        )
        getattr(logfire, f"instrument_{sdk}")()


def instrumentor(module: str, sdk: str) -> Any:
    return getattr(
        importlib.import_module(module), {"anthropic": "Anthropic", "openai": "OpenAI"}[sdk] + "Instrumentor"
    )()


def readers(
    sync: Any, asynchronous: Any, loop: asyncio.AbstractEventLoop, *, floor: bool
) -> dict[str, Callable[[], float]]:
    """The four ways of reading, each returning the seconds it took from the request on."""
    call: dict[str, Any] = {"model": "m", "max_tokens": 1, "messages": MESSAGES}
    clock, wall = time.thread_time, time.perf_counter  # processor time: these machines are shared

    def watched(stream: Any) -> Iterator[Any]:
        total, longest = 0.0, 0.0
        ask = wall()
        for _count, event in enumerate(stream, 1):
            wait = wall() - ask
            total += wait
            longest = max(longest, wait)
            yield event
            ask = wall()

    def create() -> float:
        start = clock()
        stream = sync.create(**call, stream=True)
        for _ in watched(stream) if floor else stream:
            pass
        return clock() - start

    def stream() -> float:
        start = clock()
        with sync.stream(**call) as helper:
            for _ in watched(helper) if floor else helper:
                pass
        return clock() - start

    async def awatched(stream: Any) -> Any:
        count, total, longest = 0, 0.0, 0.0
        ask = wall()
        async for event in stream:
            wait = wall() - ask
            count += 1
            total += wait
            longest = max(longest, wait)
            yield event
            ask = wall()

    async def acreate() -> float:
        start = clock()
        stream = await asynchronous.create(**call, stream=True)
        async for _ in awatched(stream) if floor else stream:
            pass
        return clock() - start

    async def astream() -> float:
        start = clock()
        async with asynchronous.stream(**call) as helper:
            async for _ in awatched(helper) if floor else helper:
                pass
        return clock() - start

    return {
        "create": create,
        "stream": stream,
        "async create": lambda: loop.run_until_complete(acreate()),
        "async stream": lambda: loop.run_until_complete(astream()),
    }


# --- the table --------------------------------------------------------------------------------------------


def summarise(rounds: list[dict[str, dict[str, float]]], subjects: list[str]) -> dict[str, Any]:
    table: dict[str, Any] = {"rounds": len(rounds), "load": os.getloadavg()[0], "cases": {}}
    for case in rounds[0]["bare"]:
        bare = [figures["bare"][case] for figures in rounds]
        row: dict[str, Any] = {"bare": round(statistics.median(bare), 2)}
        for name in subjects:
            if name == "bare":
                continue
            added = sorted(figures[name][case] - figures["bare"][case] for figures in rounds)
            quarter = len(added) // 4
            row[name] = {
                "added": round(statistics.median(added), 2),
                "spread": [round(added[quarter], 2), round(added[-1 - quarter], 2)],
                "best": round(min(figures[name][case] for figures in rounds) - min(bare), 2),
            }
        table["cases"][case] = row
    return table


def render(table: dict[str, Any], subjects: list[str]) -> str:
    lines = [f"Added µs: median of {table['rounds']} rounds [quartiles], and best against best.", ""]
    for case, row in table["cases"].items():
        lines.append(f"{case}: the bare SDK takes {row['bare']} µs{'' if case.startswith(WHOLE) else ' a chunk'}")
        for name in subjects:
            if name != "bare":
                figure = row[name]
                low, high = figure["spread"]
                lines.append(
                    f"  {name:32s} {figure['added']:7.2f}  [{low:.2f} … {high:.2f}]  best {figure['best']:.2f}"
                )
    return "\n".join(lines)


def draw(table: dict[str, Any], subjects: list[str], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [name for name in subjects if name != "bare"]
    cases = [case for case in table["cases"] if case.startswith("text:5 ")]
    figure, axes = pyplot.subplots(1, len(cases), figsize=(4.2 * len(cases), 0.35 * len(names) + 1.2), sharey=True)
    for axis, case in zip(axes, cases, strict=True):
        values = [max(0.0, table["cases"][case][name]["added"]) for name in names]
        ours = ["#1f6f54" if name.startswith("otelstream") else "#9a9a9a" for name in names]
        bars = axis.barh(range(len(names)), values, color=ours)
        axis.bar_label(bars, [f"{value:.1f}" for value in values], padding=3, fontsize=8)
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.set_title(f"{case.partition(' ')[2]}\nbare: {table['cases'][case]['bare']:.0f} µs a chunk", fontsize=9)
        axis.set_xlim(0, max(values) * 1.2 + 0.1)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    figure.supxlabel("µs added to a chunk of 5 characters", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    raise SystemExit(main())
