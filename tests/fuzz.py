# SPDX-License-Identifier: Apache-2.0
"""Streams broken at random, with and without otelstream: the same for the application, and one record each.

python tests/fuzz.py --cases 1000000 --jobs 2 [--sdk openai] [--seed N] [--only CASE]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import random
import sys
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import Any, get_args

from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from shapes import ASYNC, SYNC, WHOLE, How, Reply, Tape, arun, clients, httpx, run

import otelstream
from otelstream import _semconv as s
from otelstream.testing import Script, loop
from otelstream.testing._chat import Chat
from otelstream.testing._gemini import Gemini
from otelstream.testing._responses import Responses

BATCH = 250  # cases between switching otelstream on and off
EVENT_STREAM = Reply(()).headers
HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1e308, 10**400, "", "\x00", "tool_use", [], {}, [None], {"type": None}, [[[]]],
    {"type": "content_block_delta"}, "\ud800", {"": 1}, float("nan"), float("inf"), "x" * 300,
)  # fmt: skip
TOKENS = (
    b"\n", b"\n\n", b"\r", b"\r\n", b"\x00", b"\xff\xfe", b"\xe2\x80\xa8", b'"', b"\\", b"\\u12", b"\\ud83d", b"{",
    b"}", b"[", b":", b": comment\n", b"data:", b"data: {}\n\n", b"event: ping\n\n", b"event: error\ndata: x\n\n",
    b"event: content_block_delta\n\n", b"id: 1\n", b"retry: 0\n", b"\xef\xbb\xbf", b"null", b"1e999",
    b"data: [DONE]\n\n", b'event: message_stop\ndata: {"type":"message_stop"}\n\n', b"\xc3",
    b"event: message_start\ndata: {}\n\n",
)  # fmt: skip
FINE, JSON = 200, (("content-type", "application/json"),)


@cache
def scripts() -> list[Script]:
    """The replies that are broken: short ones, of every kind of block and end."""
    made = [
        Script().text("Calm seas, then wind from the west."),
        Script().text('Ja, \U0001f30a "quoted" and \\ back\n', chunk=3),
        Script().thinking("The wind, then.").text("Calm."),
        Script().redacted_thinking().text("Calm."),
        Script().text("I look.").tool_use("get_weather", {"city": "Harbour Town"}),
        Script().tool_use("get_weather", {"city": "A"}).tool_use("get_weather", {}),
        Script().tool_use("get_weather", ['{"city": "Harb', "\nour\\q", '"}']),
        Script().server_tool("web_search", {"query": "bells"}, []).text("Found."),
        Script().text("Calm").end("max_tokens"),
        Script().refuse(category="cyber"),
        Script().text("Calm").refuse(category="bio"),
        Script().compaction("What was said.").text("On."),
        Script().text("Refused").fallback("other-model").text("Served"),
        Script().text(loop(16, 60), chunk=48),
        Script().end(),
    ]
    return [script.finished() for script in made]


class Anthropic:
    """The SDK whose streams are broken: its ways of reading, its clients, what its provider says."""

    sync, asynchronous = SYNC, ASYNC
    clients = staticmethod(clients)

    def is_whole(self, way: str) -> bool:
        """Whether the application has no loop to leave."""
        return way.removeprefix("a") in WHOLE

    def scripts(self, _: str) -> list[list[bytes]]:
        return [[event.frame for event in script.events] for script in scripts()]


class OpenAI(Anthropic):
    """Another SDK, whose provider has two APIs."""

    def __init__(self) -> None:
        from openai_sdk import ways

        self.sync, self.asynchronous = ways.SYNC, ways.ASYNC
        self.clients = lambda native: ways.clients()

    def is_whole(self, way: str) -> bool:
        return way.endswith(("final", "until_done", "never_read"))

    @cache  # noqa: B019 - one of it lives as long as the process
    def scripts(self, way: str) -> list[list[bytes]]:
        api, found = way.partition(" ")[0], []
        for script in scripts():
            dialect = Chat({"stream_options": {"include_usage": True}}) if api == "chat" else Responses({})
            found.append([said.frame for event in script.events for said in dialect.speak(event)])
        return found


class Google(Anthropic):
    """One whose streams are generators."""

    def __init__(self) -> None:
        from google_sdk import ways

        self.sync, self.asynchronous = ways.SYNC, ways.ASYNC
        self.clients = lambda native: ways.clients()

    def is_whole(self, way: str) -> bool:
        return False

    @cache  # noqa: B019 - one of it lives as long as the process
    def scripts(self, way: str) -> list[list[bytes]]:
        dialects = [(Gemini({}), script) for script in scripts()]
        return [[said.frame for event in script.events for said in speaks.speak(event)] for speaks, script in dialects]


SDKS: dict[str, Callable[[], Anthropic]] = {"anthropic": Anthropic, "openai": OpenAI, "google-genai": Google}


@cache
def sdk_of(name: str) -> Anthropic:
    return SDKS[name]()


class Case:
    """One broken reply and one way to read it, all of it from one number."""

    def __init__(self, number: int, sdk: Anthropic) -> None:
        rng = self.rng = random.Random(number)
        self.number, self.sdk = number, sdk
        self.way = rng.choice([*sdk.sync, *sdk.asynchronous])
        self.asynchronous = self.way in sdk.asynchronous
        self.native = rng.random() < 0.5
        hows: list[How] = ["read"] * 5 + ["break", "close", "raise", "drop"]  # type: ignore[assignment]
        if self.asynchronous and "whole" not in self.way:
            hows.append("cancel")
        self.how = "read" if sdk.is_whole(self.way) and rng.random() < 0.9 else rng.choice(hows)
        self.after = rng.choice((1, 1, 2, 3, 5, 8, 13))
        self.collects = (self.how in ("drop", "raise") or "never" in self.way) and rng.random() < 0.5
        self.replies = [self._reply() for _ in range(2 if "runner" in self.way else 1)]

    def tape(self) -> Tape:
        return Tape(self.replies, self.how, self.after if self.how != "read" else 1 << 30, brief=True)

    def _reply(self) -> Reply:
        rng = self.rng
        scripts = self.sdk.scripts(self.way)
        frames = list(rng.choice(scripts))
        for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
            change = rng.choice((_drop, _double, _swap, _splice, _hostile, _hostile, _hostile, _unnamed, _bedrock))
            change(rng, frames, scripts)
        body = bytearray(b"".join(frames))
        for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 4))):
            rng.choice((_flip, _insert, _delete))(rng, body)
        if rng.random() < 0.1:
            body = bytearray(bytes(body).replace(b"\n", rng.choice((b"\r\n", b"\r"))))
        if rng.random() < 0.25:
            del body[rng.randrange(len(body) + 1) :]
        whole, headers = bytes(body), EVENT_STREAM
        if rng.random() < 0.08:
            whole = zlib.compress(whole, wbits=31)
            headers = (*headers, ("content-encoding", "gzip"))
            if rng.random() < 0.3:
                broken = bytearray(whole)
                _flip(rng, broken)
                whole = bytes(broken)
        elif rng.random() < 0.02:
            headers = (*headers, ("content-encoding", rng.choice(("gzip", "deflate", "br", "zstd", "nonsense"))))
        elif rng.random() < 0.02:
            headers = (("content-type", rng.choice(("application/json", "text/html", ""))),)
        status = rng.choice((400, 404, 408, 429, 500, 529)) if rng.random() < 0.03 else FINE
        return Reply(_pieces(rng, whole), _error(rng), status, headers if status == FINE else JSON)


def _pieces(rng: random.Random, body: bytes) -> list[bytes]:
    """Cut anywhere: in few places, in many, at every byte, or nowhere."""
    cuts = rng.choice((0, 1, 2, 5, 20, 60, len(body) if len(body) < 700 else 9))
    places = sorted(rng.randrange(len(body) + 1) for _ in range(cuts))
    if cuts == len(body):
        places = list(range(1, len(body)))
    return [body[a:b] for a, b in zip([0, *places], [*places, len(body)], strict=True)]


def _error(rng: random.Random) -> Callable[[], BaseException] | None:
    if rng.random() < 0.75:
        return None
    kind, text = rng.choice(
        (
            (httpx.ReadError, "reset"),
            (httpx.ReadTimeout, "late"),
            (httpx.RemoteProtocolError, "incomplete chunked read"),
            (httpx.DecodingError, "inflate"),
            (OSError, "below"),
            (TimeoutError, "alarm"),
            (ValueError, "a bug"),
            (RuntimeError, "a bug"),
            (KeyboardInterrupt, "pressed"),
            (SystemExit, "asked"),
        )
    )
    return lambda: kind(text)


def _drop(rng: random.Random, frames: list[bytes], scripts: list[list[bytes]]) -> None:
    if frames:
        del frames[rng.randrange(len(frames))]


def _double(rng: random.Random, frames: list[bytes], scripts: list[list[bytes]]) -> None:
    if frames:
        at = rng.randrange(len(frames))
        frames[at:at] = [frames[at]] * rng.choice((1, 1, 3, 60))


def _swap(rng: random.Random, frames: list[bytes], scripts: list[list[bytes]]) -> None:
    if len(frames) > 1:
        a, b = rng.sample(range(len(frames)), 2)
        frames[a], frames[b] = frames[b], frames[a]


def _splice(rng: random.Random, frames: list[bytes], scripts: list[list[bytes]]) -> None:
    other = rng.choice(scripts)
    at = rng.randrange(len(frames) + 1)
    frames[at:at] = other[rng.randrange(len(other)) :][: rng.randrange(1, 8)]


def _unnamed(_: random.Random, frames: list[bytes], scripts: list[list[bytes]]) -> None:
    frames[:] = [frame.partition(b"\n")[2] if frame.startswith(b"event:") else frame for frame in frames]


def _bedrock(_: random.Random, frames: list[bytes], scripts: list[list[bytes]]) -> None:
    frames[:] = [b"event: completion\n" + frame.partition(b"\n")[2] for frame in frames]


def _hostile(rng: random.Random, frames: list[bytes], scripts: list[list[bytes]]) -> None:
    """Put a value of another type somewhere into the JSON of one event."""
    if not frames:
        return
    at = rng.randrange(len(frames))
    head, data, rest = frames[at].partition(b"data: ")
    try:
        payload = json.loads(rest)
    except ValueError:
        return
    node, value = payload, rng.choice(HOSTILE)
    while isinstance(node, (dict, list)) and node:
        key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        if not isinstance(node[key], (dict, list)) or not node[key] or rng.random() < 0.35:
            if isinstance(node, dict) and rng.random() < 0.2:
                del node[key]
            else:
                node[key] = value
            break
        node = node[key]
    if rng.random() < 0.05:
        payload = value
    frames[at] = head + data + json.dumps(payload).encode() + b"\n\n"


def _flip(rng: random.Random, body: bytearray) -> None:
    if body:
        body[rng.randrange(len(body))] = rng.randrange(256)


def _insert(rng: random.Random, body: bytearray) -> None:
    at = rng.randrange(len(body) + 1)
    body[at:at] = rng.choice(TOKENS)


def _delete(rng: random.Random, body: bytearray) -> None:
    at = rng.randrange(len(body) + 1)
    del body[at : at + rng.choice((1, 1, 4, 40))]


# --- running --------------------------------------------------------------------------------------------------


class Logged(logging.Handler):
    """Whatever is logged while cases run, by us, the OpenTelemetry SDK or asyncio: nothing should be."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.name}: {record.getMessage()}")


class Spans(SpanProcessor):
    """Counts ended spans that carry a summary, and keeps what none should hold."""

    def __init__(self) -> None:
        self.summaries = 0

    def on_end(self, span: Any) -> None:
        if s.OUTCOME in (span.attributes or {}):
            self.summaries += 1


class Fuzzer:
    """Runs cases in batches, first without otelstream, then with it."""

    def __init__(self, sdk: str = "anthropic") -> None:
        self.sdk = sdk_of(sdk)
        self.reader = InMemoryMetricReader()
        self.spans = Spans()
        self.provider = trace.get_tracer_provider()
        if not isinstance(self.provider, TracerProvider):
            self.provider = TracerProvider()
            trace.set_tracer_provider(self.provider)
        self.provider.add_span_processor(self.spans)
        self.meters = MeterProvider([self.reader])
        self.clients = {native: self.sdk.clients(native=native) for native in (False, True)}
        self.records: list[Any] = []
        self.outcomes: Counter[str] = Counter()
        self.failures: list[str] = []
        self.requests = 0
        self.logged = Logged()
        self.loop = asyncio.new_event_loop()

    def steps(self, case: Case) -> tuple[list[Any], int]:
        transport, client, aclient = self.clients[case.native]
        transport.tape = tape = case.tape()
        collect = case.collects  # what a case costs most
        if case.asynchronous:
            way = self.sdk.asynchronous[case.way]
            steps = self.loop.run_until_complete(arun(way, aclient, tape, collect=collect))
        else:
            steps = run(self.sdk.sync[case.way], client, tape, collect=collect)
        # A tool's hostile input may not even encode: a call that the SDK cannot send is one too.
        unsent = sum(step[0] == "raised" and "openapi_dumps" in repr(step) for step in steps)
        return list(steps), tape.requests + unsent  # a later collection may still write on the tape

    def batch(self, numbers: range) -> None:
        """Compare a batch of cases. What differs is kept in `failures`."""
        cases = [Case(number, self.sdk) for number in numbers]
        bare = [self.steps(case)[0] for case in cases]
        gc.collect()
        gc.freeze()  # of the little that is left, a collection is cheap
        otelstream.instrument(tracer_provider=self.provider, meter_provider=self.meters)
        runtime = otelstream.OtelStreamInstrumentor().runtime
        assert runtime is not None
        runtime.stream_ended = [self.records.append]
        try:
            for case, before in zip(cases, bare, strict=True):
                self.records.clear()
                after, requests = self.steps(case)
                self.requests += requests
                if before != after:
                    self.fail(case, f"differs at {_first_difference(before, after)}")
                if len(self.records) != requests:
                    gc.collect()
                    # asyncio closes a generator that is dropped in a task of its own, and those that it held after it.
                    for _ in range(3 if len(self.records) > requests else 40):
                        self.loop.run_until_complete(asyncio.sleep(0))
                        if len(self.records) == requests:
                            break
                        gc.collect()
                    _wait(lambda requests=requests: len(self.records) == requests)
                if len(self.records) != requests:
                    self.fail(case, f"{len(self.records)} records of {requests} requests")
                for record in self.records:
                    self._check(case, record)
                if self.logged.lines:
                    self.fail(case, f"logged {self.logged.lines}")
                    self.logged.lines.clear()
                _runtime_trouble_anew()
        finally:
            left = list(runtime.open_streams())
            if left:
                self.failures.append(f"{numbers}: {len(left)} streams never ended")
            otelstream.uninstrument()
            runtime.stream_ended = []

    def _check(self, case: Case, record: Any) -> None:
        self.outcomes[f"{record.outcome}/{record.fault}"] += 1
        if record.outcome not in get_args(s.Outcome) or record.fault not in get_args(s.Fault):
            self.fail(case, f"ended as {record.ending}")
        if record.phase not in get_args(s.Phase) or (record.duration or 0) < 0:
            self.fail(case, f"phase {record.phase}, duration {record.duration}")
        if len(record.events) > s.MAX_EVENTS:
            self.fail(case, f"{len(record.events)} events")

    def fail(self, case: Case, what: str) -> None:
        mode = "native" if case.native else "plain"
        self.failures.append(f"case {case.number} ({case.way}, {case.how} {case.after}, {mode}): {what}")

    def run(self, first: int, count: int) -> Fuzzer:
        """Run `count` cases from number `first`, with the loggers watched and the collector in our hands."""
        root = logging.getLogger()
        levels = {name: logging.getLogger(name).level for name in SDKS}
        for name in SDKS:
            logging.getLogger(name).setLevel(logging.CRITICAL)  # they log connection errors themselves
        root.addHandler(self.logged)
        hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        enabled = gc.isenabled()
        gc.disable()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydantic's, of values that no schema foresees
            self._run(first, count)
        sys.unraisablehook = hook
        root.removeHandler(self.logged)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        gc.unfreeze()
        if enabled:
            gc.enable()
        counted = self.counted()
        if counted != self.requests:
            self.failures.append(f"the counter of streams says {counted}, {self.requests} were asked for")
        if self.spans.summaries != self.requests:
            self.failures.append(f"{self.spans.summaries} spans carry a summary, {self.requests} were asked for")
        return self

    def _run(self, first: int, count: int) -> None:
        for number in range(40):  # whatever is made on first use, is made now
            self.steps(Case(number, self.sdk))
        gc.collect()
        gc.freeze()
        for start in range(first, first + count, BATCH):
            self.batch(range(start, min(start + BATCH, first + count)))
            if len(self.failures) > 20:
                break
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    def _unraisable(self, info: Any) -> None:
        frames = []
        traceback = info.exc_traceback
        while traceback is not None:
            frames.append(traceback.tb_frame.f_code.co_filename)
            traceback = traceback.tb_next
        if any(f"{os.sep}otelstream{os.sep}" in name for name in frames):
            self.logged.lines.append(f"unraisable {info.exc_value!r} through {frames}")

    def counted(self) -> int:
        data = self.reader.get_metrics_data()
        total = 0
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name == s.STREAMS.name:
                        total += sum(point.value for point in metric.data.data_points)  # type: ignore[union-attr,misc]
        return int(total)


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)


def _runtime_trouble_anew() -> None:
    from otelstream import _trouble

    _trouble._seen.clear()


def _first_difference(before: list[Any], after: list[Any]) -> str:
    for index, (a, b) in enumerate(zip(before, after, strict=False)):
        if a != b:
            return f"step {index}: {a!r} became {b!r}"
    return f"the end: {before[len(after) :]!r} became {after[len(before) :]!r}"


def part(first: int, count: int, sdk: str) -> tuple[int, int, Counter[str], list[str]]:
    """Run a share of the cases in a process of its own; returns cases, requests, outcomes and failures."""
    fuzzer = Fuzzer(sdk).run(first, count)
    return count, fuzzer.requests, fuzzer.outcomes, fuzzer.failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--sdk", choices=SDKS, default="anthropic", help="default: %(default)s")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", type=int, help="one case, shown step by step")
    options = parser.parse_args()
    if options.only is not None:
        fuzzer = Fuzzer(options.sdk)
        case = Case(options.only, fuzzer.sdk)
        print(case.way, case.how, case.after, case.native, case.replies)
        print(*fuzzer.steps(case)[0], sep="\n")
        print("--- with otelstream")
        otelstream.instrument(tracer_provider=fuzzer.provider, meter_provider=fuzzer.meters)
        print(*fuzzer.steps(Case(options.only, fuzzer.sdk))[0], sep="\n")
        return 0
    share, started = 5_000, time.perf_counter()
    shares = [
        (first, min(share, options.seed + options.cases - first), options.sdk)
        for first in range(options.seed, options.seed + options.cases, share)
    ]
    done, requests, outcomes, failures = 0, 0, Counter[str](), list[str]()
    with ProcessPoolExecutor(options.jobs, max_tasks_per_child=1) as pool:
        for count, asked, seen, failed in pool.map(part, *zip(*shares, strict=True)):
            done, requests, outcomes = done + count, requests + asked, outcomes + seen
            failures += failed
            if sys.stderr.isatty() or done % 20_000 == 0 or done == options.cases:
                print(f"{done} cases, {len(failures)} failures, {time.perf_counter() - started:.0f} s", file=sys.stderr)
    print(f"{done} cases, {requests} requests, {len(failures)} failures")
    print(*(f"{count:9} {name}" for name, count in outcomes.most_common()), sep="\n")
    print(*failures[:50], sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
