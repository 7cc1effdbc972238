# SPDX-License-Identifier: Apache-2.0
"""Make a plausible past of streams: raw streams, judged by the real code, counted under the real names.

The counts are written as OpenMetrics text for `promtool tsdb create-blocks-from`. A seed makes it the same
every time. `Scene` says how traffic behaves from a given minute on, so that an incident can be staged.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache

from otelstream import _semconv as names
from otelstream._core.record.objectives import Objectives
from otelstream._semconv import Metric, label_name

Labels = tuple[tuple[str, str], ...]
NEVER = 1 << 40


@dataclass(frozen=True)
class Scene:
    """How streams behave; shares are of streams, times in seconds."""

    model: str = "model-a"
    cached: tuple[float, float, float] = (0.8, 0.1, 0.1)  # read, write, none
    first_word: tuple[float, float, float] = (0.5, 0.8, 1.1)
    thinks: float = 0.4
    thinking_time: float = 0.5
    tokens_per_second: float = 60
    tokens_per_chunk: float = 4
    tokens: float = 350
    cut_mid_stream: float = 0.002
    cut_after: float | None = None  # seconds; None: anywhere
    refused_before: float = 0.002
    stopped: float = 0.06
    stop_drained: float = 0.03
    loops: float = 0.003
    stalls: float = 0.012
    retried: float = 0.02
    tools: float = 0.3
    tool_pause: float = 0.4
    preamble: float = 0.85
    broken_input: float = 0.01
    early_tool: float = 0.0


@dataclass(frozen=True)
class Source:
    """One process that streams: its Prometheus target, its route, its pace."""

    job: str
    instance: str
    route: str | None
    per_minute: float
    scene: Scene
    sdk_version: str = "2.11.0"


@dataclass
class Stream:
    """One raw stream: what the verdict needs and what the metrics show."""

    model: str
    route: str | None
    outcome: names.Outcome
    phase: names.Phase
    fault: names.Fault
    duration: float
    time_to_first_token: float | None
    error: str | None = None
    cache: str = "none"
    thinking: float = 0.0
    gaps: list[float] = field(default_factory=list)
    rate: float | None = None


VALUES = {label.attribute: label.values for label in names.LABELS}


@cache
def lean(metric: Metric, labels: Labels) -> Labels:
    """Those of the labels that the metric has by default; a value that there is not, or a missing label, fails."""
    common = names.COMMON_LABELS[: {"process": 0, "model": 3, "route": 4}[metric.common(lean=True)]]
    wanted = {"job", "instance", *common, *metric.own(lean=True)}
    kept = tuple(pair for pair in labels if pair[0] in wanted)
    assert wanted - {names.ROUTE} <= {name for name, _ in kept}, (metric.name, labels)
    assert all(value in (VALUES.get(name) or (value,)) for name, value in kept), (metric.name, kept)
    return kept


class Store:
    """Counters and histograms by series, written out as OpenMetrics."""

    def __init__(self) -> None:
        self.values: dict[tuple[Metric, Labels], float] = {}
        self.buckets: dict[tuple[Metric, Labels], list[float]] = {}

    def add(self, metric: Metric, labels: Labels, amount: float = 1) -> None:
        key = (metric, lean(metric, labels))
        self.values[key] = self.values.get(key, 0) + amount

    def set(self, metric: Metric, labels: Labels, value: float) -> None:
        self.values[metric, lean(metric, labels)] = value

    def observe(self, metric: Metric, labels: Labels, value: float) -> None:
        """Count a value of a histogram: its bucket, and the sum at the end of the list."""
        labels, bounds = lean(metric, labels), metric.buckets(lean=True)
        counts = self.buckets.get((metric, labels))
        if counts is None:
            counts = self.buckets[metric, labels] = [0] * (len(bounds) + 2)
        counts[bisect_left(bounds, value)] += 1
        counts[-1] += value

    def sample(self, second: int) -> Iterator[tuple[str, str]]:
        """Every series as (family, line) at this second."""
        for (metric, labels), value in self.values.items():
            value = second if metric is names.CLOCK else value
            yield metric.prometheus, f"{metric.prometheus}{_text(labels)} {value!r} {second}"
        for (metric, labels), counts in self.buckets.items():
            name, running = metric.prometheus, 0.0
            for bound, count in zip((*metric.buckets(lean=True), "+Inf"), counts, strict=False):
                running += count
                yield name, f"{name}_bucket{_text((*labels, ('le', str(bound))))} {running!r} {second}"
            yield name, f"{name}_count{_text(labels)} {running!r} {second}"
            yield name, f"{name}_sum{_text(labels)} {counts[-1]!r} {second}"


_TEXTS: dict[Labels, str] = {}


def _text(labels: Labels) -> str:
    found = _TEXTS.get(labels)
    if found is None:
        found = _TEXTS[labels] = "{" + ",".join(f'{label_name(k)}="{v}"' for k, v in labels) + "}"
    return found


class Past:
    """Plays sources minute by minute into a store, and keeps the raw streams where asked."""

    def __init__(self, objectives: Objectives, seed: int, keep: bool = False) -> None:
        self.objectives, self.random, self.store = objectives, random.Random(seed), Store()
        self.keep: list[Stream] | None = [] if keep else None
        self.seen: set[Labels] = set()

    def minute(self, source: Source, scene: Scene, pace: float = 1.0, judged_only: bool = False) -> None:
        """Play one minute of one source."""
        where: Labels = (("job", source.job), ("instance", source.instance))
        expected = source.per_minute * pace
        count = int(expected) + (self.random.random() < expected % 1)
        common: Labels = (
            *where,
            (names.OPERATION, "chat"),
            (names.PROVIDER, "anthropic"),
            (names.REQUEST_MODEL, scene.model),
            *(((names.ROUTE, source.route),) if source.route else ()),
        )
        self._zeros(common, source, judged_only)
        for _ in range(count):
            stream = self._stream(source, scene, judged_only)
            if self.keep is not None:
                self.keep.append(stream)
            self._judge(common, stream)
            if not judged_only:
                self._count(where, common, stream, scene)
        if not judged_only:
            self._open(common, count, scene)

    def _zeros(self, common: Labels, source: Source, judged_only: bool) -> None:
        """What a process exports before its first stream: counters that rules judge, and its information."""
        if common in self.seen:
            return
        self.seen.add(common)
        for objective in self.objectives:
            for result in ("good", "bad", "excluded"):
                labels = (names.OBJECTIVE_NAME, objective.name), (names.OBJECTIVE_RESULT, result)
                self.store.add(names.OBJECTIVE_STREAMS, (*common, *labels), 0)
                self.store.add(names.OBJECTIVE_TOTAL, (*common, *labels), 0)
        self.store.set(names.START_TIME, common[:2], 1)  # long before anything that is looked at
        self.store.set(names.CLOCK, common[:2], 0)
        if judged_only:
            return
        for what in names.FOLDED_NAMES:
            self.store.add(names.FOLDED, (*common[:2], (names.FOLDED_WHAT, what)), 0)
        for effect in ("committed", "running", "discarded", "withheld", "compensated"):
            self.store.add(names.CANCELLATION_SIDE_EFFECTS, (*common, (names.SIDE_EFFECT, effect)), 0)
        self.store.set(
            names.INFO,
            (
                *common[:2],
                (names.VERSION, "0.1.0"),
                (names.SDK_NAME, "anthropic"),
                (names.SDK_VERSION, source.sdk_version),
                (names.OBJECTIVES_HASH, self.objectives.hash),
            ),
            1,
        )

    def _judge(self, common: Labels, stream: Stream) -> None:
        for objective in self.objectives.for_stream(stream.model, stream.route):
            labels = (names.OBJECTIVE_NAME, objective.name), (names.OBJECTIVE_RESULT, objective.judge(stream))
            self.store.add(names.OBJECTIVE_STREAMS, (*common, *labels))
            self.store.add(names.OBJECTIVE_TOTAL, (*common, *labels))

    def _stream(self, source: Source, scene: Scene, brief: bool) -> Stream:
        roll, rng = self.random.random(), self.random
        cache = rng.choices(("read", "write", "none"), scene.cached)[0]
        base = scene.first_word[("read", "write", "none").index(cache)]
        thinking = rng.expovariate(1 / scene.thinking_time) if rng.random() < scene.thinks else 0.0
        first = base * rng.lognormvariate(0, 0.35) + thinking
        retried = rng.random() < scene.retried
        if retried:
            first += rng.uniform(0.5, 2.0)
        if roll < scene.refused_before:
            return Stream(
                scene.model, source.route, "failed", "before_response", "provider_error", first, None,
                rng.choice(("overloaded_error", "rate_limit_error", "overloaded_error")),
            )  # fmt: skip
        tokens = max(8, rng.lognormvariate(0, 0.6) * scene.tokens)
        rate = max(5, rng.gauss(scene.tokens_per_second, scene.tokens_per_second / 6))
        chunks = max(2, int(tokens / scene.tokens_per_chunk))
        mean_gap = scene.tokens_per_chunk / rate
        # A verdict needs no gaps: one stands for all where nothing else looks.
        gaps = (
            [mean_gap * (chunks - 1)]
            if brief
            else [mean_gap * rng.lognormvariate(-0.18, 0.6) for _ in range(chunks - 1)]
        )
        stream = Stream(
            scene.model, source.route, "completed", "finished", "none", first + sum(gaps), first, None,
            cache, thinking, gaps, rate,
        )  # fmt: skip
        if rng.random() < scene.stalls:
            gaps[rng.randrange(len(gaps))] += rng.uniform(2.2, 7)
            stream.duration = first + sum(gaps)
        roll = rng.random()
        if roll < scene.cut_mid_stream:
            stream.outcome, stream.phase = "failed", "mid_stream"
            stream.fault = "cut_short" if scene.cut_after else rng.choice(("cut_short", "provider_error", "timeout"))
            stream.error = "api_error" if stream.fault == "cut_short" else "overloaded_error"
            at = scene.cut_after or stream.duration * rng.random()
            stream.duration, stream.rate = max(first, min(at, stream.duration)), None
        elif roll < scene.cut_mid_stream + scene.stopped:
            stream.outcome, stream.phase, stream.rate = "cancelled", "mid_stream", None
            stream.duration = first + sum(gaps) * rng.random()
            if rng.random() < 0.15:
                stream.phase, stream.time_to_first_token, stream.duration = "before_first_token", None, first * 0.9
        else:
            stream.outcome = rng.choices(("completed", "truncated", "refused", "abandoned"), (93, 4, 2, 1))[0]  # type: ignore[assignment]
        return stream

    def _count(self, where: Labels, common: Labels, stream: Stream, scene: Scene) -> None:
        store, rng = self.store, self.random
        outcome = (names.OUTCOME, stream.outcome)
        store.add(names.STREAMS, (*common, outcome, (names.PHASE, stream.phase), (names.FAULT, stream.fault)))
        ended = {"failed": "broken", "cancelled": "left", "abandoned": "left"}.get(stream.outcome, "whole")
        store.observe(names.STREAM_DURATION, (*common, (names.ENDED, ended)), stream.duration)
        if stream.error:
            kind = (names.FAULT, stream.fault), (names.PHASE, stream.phase), (names.ERROR_TYPE, stream.error)
            store.add(names.STREAM_FAILURES, (*common, *kind))
        if rng.random() < scene.retried:
            store.add(names.STREAM_RETRIES, (*common, (names.ERROR_TYPE, "overloaded_error")))
        if stream.time_to_first_token is None:
            store.observe(names.STREAM_WAIT_WITHOUT_TOKEN, (*common, outcome), stream.duration)
        else:
            kind = (names.FIRST_TOKEN_KIND, "text"), (names.CACHE, "read" if stream.cache == "read" else "none")
            store.observe(names.STREAM_TTFT, (*common, *kind), stream.time_to_first_token)
            if stream.thinking:
                store.observe(names.STREAM_THINKING_TIME, common, stream.thinking)
        if stream.rate:
            store.observe(names.STREAM_OUTPUT_RATE, common, stream.rate)
            for kind, count in (("input", 6 * scene.tokens), ("output", scene.tokens)):
                store.observe(names.CLIENT_TOKENS, (*common, (names.TOKEN_TYPE, kind)), count)
        self._gaps(common, stream, scene)
        if stream.outcome == "cancelled":
            self._cancel(common, stream, scene)
        if stream.outcome == "completed":
            self._completed(where, common, stream, scene)

    def _gaps(self, common: Labels, stream: Stream, scene: Scene) -> None:
        store, rng = self.store, self.random
        bounds = names.STREAM_GAP_BUCKET.buckets(lean=True)
        counts = [0] * (len(bounds) + 1)
        for gap in stream.gaps:
            counts[bisect_left(bounds, gap)] += 1
        running = 0
        for bound, count in zip((*bounds, "+Inf"), counts, strict=True):
            running += count
            store.add(names.STREAM_GAP_BUCKET, (*common, (names.GAP_LE, str(bound))), running)
        store.add(names.STREAM_GAP_SUM, common, sum(stream.gaps))
        store.observe(names.STREAM_GAP_MAX, common, max(stream.gaps, default=0))
        pauses = [gap for gap in stream.gaps if gap > 2]
        for gap in pauses:
            kind = (names.STALL_SOURCE, "provider"), (names.BLOCK_KIND, "text")
            store.add(names.STREAM_STALLS, (*common, *kind))
            store.observe(names.STREAM_STALL_DURATION, (*common, *kind), gap)
        if rng.random() < scene.tools * 0.02:
            kind = (names.STALL_SOURCE, "provider"), (names.BLOCK_KIND, "tool_input")
            store.add(names.STREAM_STALLS, (*common, *kind))
        if pauses:
            store.add(names.STREAM_STALLED, (*common, (names.STALL_SOURCE, "provider")))
        elif rng.random() < 0.004:
            store.add(names.STREAM_STALLED, (*common, (names.STALL_SOURCE, "consumer")))
            store.add(names.STREAM_STALLS, (*common, (names.STALL_SOURCE, "consumer"), (names.BLOCK_KIND, "text")))
        if rng.random() < scene.loops:
            store.add(names.STREAM_REPETITION_COUNT, (*common, (names.BLOCK_KIND, "text")))
            wasted = rng.uniform(800, 9000)
            store.observe(names.STREAM_REPETITION_WASTED, (*common, (names.BLOCK_KIND, "text")), wasted)

    def _cancel(self, common: Labels, stream: Stream, scene: Scene) -> None:
        store, rng = self.store, self.random
        trigger = rng.choice(("user_stop", "user_stop", "client_disconnect"))
        drained = rng.random() < scene.stop_drained
        ended = (names.CANCEL_PROPAGATION, "drained" if drained else rng.choices(("closed", "closed_late"), (97, 3))[0])
        at = "text" if stream.time_to_first_token else "before_output"
        store.add(names.CANCELLATIONS, (*common, (names.CANCEL_TRIGGER, trigger), ended, (names.CANCEL_AT, at)))
        delay = rng.uniform(4, 15) if drained else rng.lognormvariate(-3, 0.8)
        store.observe(names.CANCELLATION_DURATION, (*common, ended), delay)
        if stream.time_to_first_token:
            read = stream.duration - stream.time_to_first_token
            store.observe(names.CANCELLATION_PROGRESS, (*common, (names.CANCEL_TRIGGER, trigger)), read)
        store.observe(names.CANCELLATION_DELIVERED_AFTER, common, rng.uniform(1000, 9000) if drained else delay * 240)
        if rng.random() < 0.05:
            for effect in ("committed", "compensated"):
                store.add(names.CANCELLATION_SIDE_EFFECTS, (*common, (names.SIDE_EFFECT, effect)))

    def _completed(self, where: Labels, common: Labels, stream: Stream, scene: Scene) -> None:
        store, rng = self.store, self.random
        if rng.random() < 0.004:
            reason = (names.RETRACTION_REASON, "guardrail")
            store.add(names.RETRACTIONS, (*common, reason))
            store.observe(names.RETRACTION_EXPOSURE_TIME, (*common, reason), rng.uniform(0.5, 8))
        judge = (names.JUDGE, "safe-to-ship")
        if rng.random() < 0.2:
            said, then = rng.sample(("yes", "no", "qualified"), 2)
            store.add(names.VERDICTS, (*where, judge, (names.VERDICT, said)))
            if rng.random() < 0.03:
                store.add(names.VERDICTS, (*where, judge, (names.VERDICT, then)))
                acted = "true" if rng.random() < 0.1 else "false"
                taken_back = (*where, judge, (names.VERDICT, said))
                store.add(names.REVERSALS, (*taken_back, (names.REVERSAL_ACTED_ON, acted)))
                store.observe(names.REVERSAL_EXPOSURE_TIME, taken_back, rng.uniform(0.5, 12))
        if rng.random() < 0.02:
            store.observe(names.ACTION_LEAD_TIME, common, rng.uniform(0.2, 6))
        hop = (names.HOP_OUTCOME, "completed")
        store.observe(names.HOP_FIRST_BYTE, (*common, hop), (stream.time_to_first_token or 0) + rng.uniform(0.02, 0.2))
        store.observe(names.HOP_DURATION, (*common, hop), stream.duration + 0.2)
        if rng.random() >= scene.tools:
            return
        tool, effect = rng.choice((("search", "read"), ("search", "read"), ("send_email", "write")))
        phase = "mid_stream" if effect == "read" and rng.random() < 0.5 else "after_end"
        if rng.random() < scene.early_tool:
            phase = "before_ready"
        good = "invalid" if rng.random() < scene.broken_input else "valid"
        if good == "invalid":
            phase = "never"
        state = "ready" if phase == "never" else rng.choices(("committed", "failed"), (97, 3))[0]
        store.add(
            names.TOOL_CALLS,
            (
                *where,
                (names.TOOL_NAME, tool),
                (names.TOOL_CALL_EFFECT, effect),
                (names.DISPATCH_PHASE, phase),
                (names.TOOL_CALL_INPUT, good),
                (names.TOOL_CALL_STATE, state),
            ),
        )
        kind = (names.TOOL_CALL_EFFECT, effect)
        if phase == "mid_stream":
            store.observe(names.TOOL_DISPATCH_LEAD, (*common, kind), rng.uniform(0.1, 4))
        elif phase == "after_end":
            store.observe(names.TOOL_DISPATCH_LAG, (*common, kind), rng.lognormvariate(-2, 0.7))
        spoke = (names.TOOL_CALL_PREAMBLE, "true" if rng.random() < scene.preamble else "false")
        store.observe(names.TOOL_PAUSE, (*common, spoke), scene.tool_pause * rng.lognormvariate(0, 0.4))

    def _open(self, common: Labels, count: int, scene: Scene) -> None:
        states = {
            "waiting_headers": count * 0.4 / 60,
            "waiting_token": count * scene.first_word[0] / 60,
            "flowing": count * scene.tokens / scene.tokens_per_second / 60,
            "stalled": count * scene.stalls * 4 / 60,
        }
        for state, mean in states.items():
            value = int(mean + self.random.random())
            self.store.set(names.STREAM_ACTIVE, (*common, (names.STREAM_STATE, state)), value)


SOURCES = (
    Source("assistants/chat", "chat-1:9464", "chat", 24, Scene()),
    Source(
        "assistants/chat",
        "chat-2:9464",
        "search",
        14,
        Scene(model="model-b", tokens_per_second=95, thinks=0.1),
        "2.12.0",
    ),
    Source("assistants/agents", "agents-1:9464", None, 8, Scene(tools=0.8, tokens=500)),
)
Change = Callable[[Source, Scene], Scene]


def _swap(_source: Source, scene: Scene) -> Scene:
    """Another model of another texture: slower, in lumps, silent before its tools."""
    if scene.model != "model-a":
        return scene
    return replace(
        scene,
        model="model-c",
        tokens_per_second=45,
        tokens_per_chunk=14,
        tool_pause=2.4,
        preamble=0.2,
        broken_input=0.08,
        thinks=0.7,
    )


def _cut(_source: Source, scene: Scene) -> Scene:
    """Something on the way cuts one answer in twenty at the age of six seconds."""
    return replace(scene, cut_mid_stream=0.05, cut_after=6.0)


INCIDENTS: dict[str, Change] = {
    "cut": _cut,
    "cache": lambda _source, scene: replace(scene, cached=(0.02, 0.18, 0.8), first_word=(0.6, 1.9, 2.6)),
    "cancels": lambda source, scene: replace(scene, stop_drained=0.85) if "chat" in source.job else scene,
    "loops": lambda source, scene: replace(scene, loops=0.06, tokens=900) if scene.model == "model-a" else scene,
    "swap": _swap,
    "cut and swap": lambda source, scene: _cut(source, _swap(source, scene)),
}


def play(
    past: Past, start: int, minutes: int, incident: str | None = None, after: int = NEVER, step: int = 60
) -> Iterator[tuple[str, str]]:
    """Play the sources, yielding (family, line) for each scrape."""
    for minute in range(minutes):
        for source in SOURCES:
            scene = source.scene
            if incident and minute >= after:
                scene = INCIDENTS[incident](source, scene)
            past.minute(source, scene)
        if minute * 60 % step == 0:
            yield from past.store.sample(start + minute * 60)


def openmetrics(samples: Iterator[tuple[str, str]]) -> str:
    """Group lines by family, as the format wants it."""
    families: dict[str, list[str]] = defaultdict(list)
    for family, line in samples:
        families[family].append(line)
    parts = []
    for family, lines in families.items():
        # Untyped keeps the names as they are: typed counters would want their suffix split off.
        parts.append(f"# TYPE {family} unknown\n" + "\n".join(lines) + "\n")
    return "".join(parts) + "# EOF\n"
