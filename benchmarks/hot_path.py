# SPDX-License-Identifier: Apache-2.0
"""Our own hot path alone, without the SDK: nanoseconds and, under callgrind, instructions a chunk.

python benchmarks/hot_path.py                   # beside the floor: a generator with two clocks and count/sum/max
python benchmarks/hot_path.py --api chat        # another: messages, chat, responses, gemini, converse or invoke
python benchmarks/hot_path.py --instructions    # needs valgrind; repeatable whatever else the machine does
"""

from __future__ import annotations

import argparse
import base64
import gc
import importlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SIZES = (5, 20, 85)
MODULES = {
    "messages": "anthropic._grammar", "chat": "openai._chat", "responses": "openai._responses",
    "gemini": "google._grammar",
    "converse": "bedrock._converse",
    "invoke": "bedrock._invoke",
}  # fmt: skip
WATCHERS = ("floor", "otelstream", "otelstream, no repetition", "otelstream, a judge")


class Sse:
    """A server-sent event as the SDK's decoder makes it; the SDK itself would take minutes to load under callgrind."""

    def __init__(self, event: str, data: str) -> None:
        self._event, self._data = event, data


def events(chunks: int, size: int, api: str = "messages") -> list[Any]:
    """Server-sent events as the SDK's decoder yields them."""
    rng = random.Random(1)

    def event(data: dict[str, Any]) -> Any:
        return Sse(data["type"], json.dumps(data, separators=(",", ":")))

    def word() -> str:
        return "".join(rng.choice("abcdefghijklmnop") for _ in range(size - 1)) + " "

    if api == "gemini":  # whose SDK hands on the data of an event as it is
        return [
            json.dumps({
                "candidates": [{"content": {"parts": [{"text": word()}], "role": "model"}, "index": 0}],
                "usageMetadata": {"promptTokenCount": 15, "totalTokenCount": 15 + number},
                "modelVersion": "m", "responseId": "answer-1",
            }, separators=(",", ": "))
            for number in range(chunks)
        ]  # fmt: skip
    if api in ("converse", "invoke"):
        return [*frames(chunks, word, api)]
    if api == "chat":
        return [
            Sse(None, json.dumps({  # type: ignore[arg-type]
                "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
                "choices": [{"index": 0, "delta": {"content": word()}, "finish_reason": None}],
            }, separators=(",", ":")))
            for _ in range(chunks)
        ]  # fmt: skip
    if api == "responses":
        return [
            event({
                "type": "response.output_text.delta", "sequence_number": number, "item_id": "msg_1", "output_index": 0,
                "content_index": 0, "delta": word(), "logprobs": [],
            })
            for number in range(chunks)
        ]  # fmt: skip
    return [
        event({"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 1, "output_tokens": 1}}}),
        event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        *(
            event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word()}})
            for _ in range(chunks)
        ),
    ]


class Message:
    """A frame of Bedrock as botocore has read it."""

    def __init__(self, name: str, data: dict[str, Any]) -> None:
        self.headers = {":event-type": name, ":content-type": "application/json", ":message-type": "event"}
        self.payload = json.dumps({**data, "p": "abcdefghijkl"}, separators=(",", ":")).encode()
        self._data = ""


def frames(chunks: int, word: Callable[[], str], api: str) -> Iterator[Message]:
    """Those of `converse_stream`, or chunks of Claude's, as they are: in base64 in JSON."""
    if api == "converse":
        for _ in range(chunks):
            yield Message("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": word()}})
        return
    for sse in events(0, 1):
        yield Message("chunk", {"bytes": base64.b64encode(sse._data.encode()).decode()})
    for _ in range(chunks):
        text = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word()}}
        inner = json.dumps(text, separators=(",", ":")).encode()
        yield Message("chunk", {"bytes": base64.b64encode(inner).decode()})


def readers(api: str = "messages") -> dict[str, Callable[[list[Any]], Iterator[Any]]]:
    """A plain generator, the floor, and ours with and without the detector of repetition."""
    from opentelemetry import metrics, trace

    from otelstream._core.process import judges
    from otelstream._core.process.runtime import Runtime
    from otelstream._core.process.tap import Attached, around, read
    from otelstream._face import config as _config

    grammar = importlib.import_module(f"otelstream.{MODULES[api]}").Grammar
    clock = time.perf_counter

    def plain(source: list[Any]) -> Iterator[Any]:
        yield from iter(source)

    def floor(source: list[Any]) -> Iterator[Any]:
        count, total, longest = 0, 0.0, 0.0
        ask = clock()
        for sse in source:
            wait = clock() - ask
            count += 1  # noqa: SIM113  # as a watcher would
            total += wait
            if wait > longest:  # noqa: PLR1730  # cheaper than max()
                longest = wait
            yield sse
            ask = clock()

    def ours(repetition: bool, *, judged: bool = False) -> Callable[[list[Any]], Iterator[Any]]:
        settings = _config.load({"repetition": repetition}, {})
        runtime = Runtime(settings, trace.get_tracer("bench"), metrics.get_meter("bench"), None, {})

        def reader(source: list[Any]) -> Iterator[Any]:
            if judged:  # by who has nothing to say, each hundred characters: a sentence
                judges.declare(judges.Judge("bench", ("yes", "no"), lambda text: None, 100, awaited=False))
            stream = runtime.begin(operation="chat", provider="p", model="m", grammar=grammar())
            judges.forget("bench")
            stream.attached = Attached()
            stream.responded(None)
            if api == "gemini":
                return around(iter(source), stream)
            if api in ("converse", "invoke"):
                told = importlib.import_module("otelstream.bedrock._events")._told(iter(source), stream)
                return read(told, stream, lambda: None)
            return read(iter(source), stream, lambda: None)

        return reader

    return {
        "plain": plain,
        "floor": floor,
        "otelstream": ours(True),
        "otelstream, no repetition": ours(False),
        "otelstream, a judge": ours(True, judged=True),
    }


def nanoseconds(chunks: int, api: str = "messages") -> dict[str, list[float]]:
    """Print added processor time a chunk, the best of nine, for each size of delta."""
    print(f"{'added ns a chunk, by characters a delta':40}" + "".join(f"{size:>8}" for size in SIZES))
    table: dict[str, list[float]] = {}
    for size in SIZES:
        source = events(chunks, size, api)
        for name, reader in readers(api).items():
            best = float("inf")
            for _ in range(9):
                gc.collect()
                gc.disable()
                start = time.thread_time()
                for event in reader(source):
                    # As the SDK does, which parses it: else we alone would pay for the cache miss.
                    _ = event if api == "gemini" else event._data
                best = min(best, time.thread_time() - start)
                gc.enable()
            table.setdefault(name, []).append(best / chunks * 1e9)
    added = {name: [mine - plain for mine, plain in zip(table[name], table["plain"], strict=True)] for name in WATCHERS}
    for name, row in added.items():
        print(f"{name:40}" + "".join(f"{figure:8.0f}" for figure in row))
    ratio = [ours / floor for ours, floor in zip(added["otelstream"], added["floor"], strict=True)]
    print(f"{'otelstream over floor':40}" + "".join(f"{figure:7.1f}x" for figure in ratio))
    return added


def instructions(api: str, few: int = 1_000, many: int = 5_000) -> dict[str, float]:
    """Print instructions added to a chunk: the difference of two runs under callgrind, so that start-up cancels out."""
    counts = {}
    for name in ("plain", *WATCHERS):
        low, high = (_callgrind(name, chunks, api) for chunks in (few, many))
        counts[name] = (high - low) / (many - few)
    added = {name: counts[name] - counts["plain"] for name in WATCHERS}
    for name, figure in added.items():
        print(f"{name:40}{figure:8.0f} instructions a chunk of 5 characters, {figure / added['floor']:.2f} x floor")
    return added


def _callgrind(name: str, chunks: int, api: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", sys.executable, __file__]
        done = subprocess.run(
            [*command, "--once", name, "--chunks", str(chunks), "--api", api],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if found is None:
        raise SystemExit(f"callgrind gave no count:\n{done.stderr[-1000:]}")
    return int(found[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=20_000)
    parser.add_argument("--instructions", action="store_true")
    parser.add_argument("--api", choices=MODULES, default="messages")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--once", help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ["ANTHROPIC_OPEN_TELEMETRY"] = "false"
    if args.once:
        for _event in readers(args.api)[args.once](events(args.chunks, 5, args.api)):
            pass
        return 0
    found = instructions(args.api) if args.instructions else nanoseconds(args.chunks, args.api)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    raise SystemExit(main())
