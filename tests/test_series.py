# SPDX-License-Identifier: Apache-2.0
"""What a process costs in series, with every way of ending, and what was folded where there is too much of a kind."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from itertools import permutations, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry._logs import get_logger
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import get_meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.trace import get_tracer
from prometheus_client import CollectorRegistry, generate_latest
from shapes import httpx
from toy import Grammar

from otelstream import _semconv as s
from otelstream._core.emit.metrics import Metrics
from otelstream._core.process.closing import end
from otelstream._core.process.runtime import Runtime
from otelstream._core.record import known
from otelstream._core.record.cadence import Gaps
from otelstream._core.record.ending import cancelled
from otelstream._core.record.hearing import Change
from otelstream._core.record.objectives import Objective, Objectives
from otelstream._face import config
from otelstream._stainless import faults
from otelstream.anthropic.provider import PROVIDER as ANTHROPIC
from otelstream.openai.provider import PROVIDER as OPENAI

MODELS, ROUTES, TOOLS = 10, 5, 12
OBJECTIVES = Objectives(
    (
        Objective("first-token", "first_token", 0.95, 2.5),
        Objective("completion", "completion", 0.99, 120.0),
        Objective("integrity", "integrity", 0.995),
    )
)
WORDS = ("overloaded_error", "rate_limit_error", "api_error", "connection_error", "client_timeout_error")


def ways() -> list[tuple[str, str, str, str | None]]:
    """Outcome, fault, phase and error of every row of docs/how-streams-end.md, and a loop."""
    page = (Path(__file__).resolve().parent.parent / "docs" / "how-streams-end.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\|[^|]*\|[^|]*\| `(\w+)` \| `(\w+)` \| `?(\w*)`? \| `?(\w*)`? \|", page, re.MULTILINE)
    assert len(rows) > 60
    found = {(outcome, fault or "none", phase, error or fault or None) for outcome, phase, fault, error in rows}
    return [*sorted(found, key=str), ("completed", "repetition", "finished", "repetition")]


ENDINGS = ways()
TRIGGERS = (
    ("app_close", "closed"), ("task_cancel", "closed"), ("timeout", "closed"), ("generator_close", "closed"),
    ("client_disconnect", "closed"), ("client_disconnect", "closed_late"), ("user_stop", "closed"),
    ("user_stop", "closed_late"), ("user_stop", "drained"), ("user_stop", "not_needed"), ("gc", "closed_by_gc"),
    ("shutdown", "still_open"),
)  # fmt: skip
STALLS = (
    ("provider", "text"), ("provider", "thinking"), ("provider", "tool_input"), ("server_tool", "other"),
    ("consumer", "text"), ("consumer", "tool_input"), ("own_tool", "other"), ("event_loop", "text"),
    ("unknown", "text"),
)  # fmt: skip


def ended(model: str, route: str | None, outcome: str, fault: str, phase: str, word: str | None, **more: Any) -> Any:
    """A stream that has ended, as far as metrics ask about it."""
    gaps = Gaps()
    gaps.counts[3], gaps.count, gaps.longest = 5, 5, 0.4
    shown = phase in ("mid_stream", "finished")
    stream = SimpleNamespace(
        operation="chat", provider="anthropic", model=model, route=route, span=None, outcome=outcome, fault=fault,
        phase=phase, duration=3.0, error_type=word, time_to_first_token=0.4 if shown else None,
        wait_without_token=None if shown else 3.0,
        first_token_kind="text", cache="none", first_chunk_kind="thinking", time_to_first_chunk=0.2, stalls=(),
        output_rate=50.0 if outcome == "completed" else None, repetitions=(), actions=(), changes=(), end_at=9.0,
        cadence=SimpleNamespace(all=gaps), foreign=False, usage={s.INPUT_TOKENS: 10, s.OUTPUT_TOKENS: 20}, cancel=None,
        suppressed=False, first_token_at=1.0,
    )  # fmt: skip
    vars(stream).update(more)
    stream.judged = [(objective, objective.judge(stream)) for objective in OBJECTIVES]
    return stream


def endings(model: str, route: str | None) -> Iterator[Any]:
    """Every way a stream can end, with all that it can tell."""
    for outcome, fault, phase, word in ENDINGS:
        yield ended(model, route, outcome, fault, phase, word)
    common = (model, route, "completed", "none", "finished", None)
    for cache in ("read", "write"):
        yield ended(*common, cache=cache, first_token_kind="tool_input")
    for source, kind in STALLS:
        yield ended(*common, stalls=[SimpleNamespace(source=source, kind=kind, duration=3.0)])
    for kind in ("text", "thinking", "tool_input"):
        loop = SimpleNamespace(kind=kind, repetition=SimpleNamespace(wasted=500))
        yield ended(*common, repetitions=[loop], actions=[(8.0, None)])
    for (trigger, propagation), at in product(TRIGGERS, ("before_output", "text", "tool_input")):
        cancel = SimpleNamespace(
            trigger=trigger, propagation=propagation, where=at, at=2.0, close_delay=0.1, delivered_chars=9
        )
        yield ended(model, route, "cancelled", "none", "mid_stream", None, cancel=cancel)


def judged(judges: int) -> Iterator[Any]:
    """Streams of so many judges of three verdicts: each taken back for each other one, acted on and not; a stop."""
    common = ("model-0", "route-0", "completed", "none", "finished", None)
    for judge in map("judge-{}".format, range(judges)):
        for before, after in permutations(("yes", "no", "qualified"), 2):
            first = Change(judge, before, 10, 1.0)
            for actions in ((), [(1.5, 20)]):
                yield ended(*common, changes=[first, Change(judge, after, 90, 2.0, first)], actions=actions)
        yield ended(*common, changes=[Change(judge, "stop", 10, 1.0)])


def play(metrics: Metrics, models: int, routes: int, tools: int, judges: int = 1) -> None:
    """Traffic of so many models and routes; each model ends in every way, each tool call comes to each end."""
    stream: Any = None
    for stream in judged(judges):
        for step in metrics.ended(stream):
            step()
    for model, route in product(range(models), range(routes)):
        for stream in endings(f"model-{model}", f"route-{route}") if route == 0 else ():
            metrics.started(stream)
            for step in metrics.ended(stream):
                step()
        for outcome, fault in (("completed", "none"), ("failed", "cut_short"), ("cancelled", "none")):
            stream = ended(f"model-{model}", f"route-{route}", outcome, fault, "mid_stream", None)
            metrics.started(stream)
            for step in metrics.ended(stream):
                step()
        for word in WORDS:
            metrics.retried(stream, word)
        for preamble in (True, False):
            metrics.add(s.TOOL_PAUSE, stream, {s.TOOL_CALL_PREAMBLE: preamble}, 0.2)
    fates = (
        ("mid_stream", "valid", "committed"), ("after_end", "valid", "committed"), ("after_end", "valid", "failed"),
        ("never", "incomplete", "discarded"), ("never", "valid", "ready"), ("before_ready", "valid", "committed"),
    )  # fmt: skip
    for tool, (phase, said, state) in product(range(tools), fates):
        for since_end in (-1.0, 1.0):
            call = SimpleNamespace(
                name=f"tool-{tool}", effect=("read", "write")[tool % 2], phase=phase, input=said, state=state,
                since_end=since_end,
            )  # fmt: skip
            metrics.tool_call(stream, call)  # type: ignore[arg-type]
    for word in ("committed", "running", "discarded", "withheld", "compensated"):
        metrics.side_effect(stream, SimpleNamespace(stood=frozenset()), word)  # type: ignore[arg-type]
    for reason in ("guardrail", "tool_failed", "contradicted", "other"):
        metrics.add(s.RETRACTIONS, stream, {s.RETRACTION_REASON: reason})
        metrics.add(s.RETRACTION_EXPOSURE_TIME, stream, {s.RETRACTION_REASON: reason}, 2.0)
    for outcome in ("completed", "client_disconnect", "failed", "failed_after_200"):
        metrics.hop(stream, outcome, 0.5, 3.0)  # type: ignore[arg-type]


class Page:
    """Metrics, and what a scrape of them says."""

    def __init__(self, **settings: Any) -> None:
        registry = CollectorRegistry()
        reader = PrometheusMetricReader()
        registry.register(reader._collector)
        self._registry = registry
        self.provider = MeterProvider([reader], shutdown_on_exit=False)
        chosen = config.load({"objectives": OBJECTIVES, **settings}, {})
        self.metrics = Metrics(self.provider.get_meter("otelstream"), chosen, lambda: (), {})

    def scrape(self) -> list[str]:
        return [line for line in generate_latest(self._registry).decode().splitlines() if not line.startswith("#")]


@pytest.fixture
def runtime() -> Runtime:
    return Runtime(config.load({}, {}), get_tracer(s.SCOPE), get_meter(s.SCOPE), get_logger(s.SCOPE), {})


@pytest.fixture
def page() -> Iterator[Page]:
    made = Page()
    yield made
    made.provider.shutdown()


def test_what_a_fleet_can_pay(page: Page) -> None:
    """Ten models, five routes, twelve tools, every way of ending: at most 3 000 series and 1 MB a scrape."""
    play(page.metrics, MODELS, ROUTES, TOOLS, judges=0)
    lines = page.scrape()
    by_name: dict[str, int] = {}
    for line in lines:
        by_name[line.partition("{")[0]] = by_name.get(line.partition("{")[0], 0) + 1
    assert len(lines) <= 3000, sorted(by_name.items(), key=lambda item: -item[1])[:40]
    assert sum(len(line) + 1 for line in lines) <= 1_000_000
    assert not any("otel_metric_overflow" in line for line in lines)


def test_what_judges_cost(page: Page) -> None:
    """A judge of three verdicts adds at most 24 series to a process."""
    play(page.metrics, 1, 1, 1, judges=0)
    without = len(page.scrape())
    play(page.metrics, 1, 1, 1, judges=s.MAX_JUDGES)
    assert len(page.scrape()) - without <= 24 * s.MAX_JUDGES


def test_every_metric_is_there(page: Page) -> None:
    """What the count above leaves out, no test of it can hold: every metric that is made by default has a point."""
    play(page.metrics, 1, 1, 1)
    names = {line.partition("{")[0].partition(" ")[0] for line in page.scrape()}
    missing = {
        metric.prometheus
        for metric in s.METRICS
        if metric.lean is not None
        and not any(name.startswith(metric.prometheus.removesuffix("_total")) for name in names)
    }
    assert missing == {s.STOPS_NOT_FOUND.prometheus, s.CLIENT_TIME_PER_CHUNK.prometheus}


def test_all_of_it(page: Page) -> None:
    """`metrics=all`: every label of the table is there, the route on all that has common labels, and every bound."""
    wide = Page(metrics="all")
    play(wide.metrics, 1, 1, 1)
    lines = wide.scrape()
    for metric in s.METRICS:
        mine = [line for line in lines if line.startswith((metric.prometheus + "{", metric.prometheus + "_bucket{"))]
        labels = () if metric in (s.INFO, s.CLIENT_DURATION) else metric.labels  # of versions; of failures only
        for label in (*labels, *(s.COMMON_LABELS if metric.scope == "route" else ())):
            assert all(f'{s.label_name(label)}="' in line for line in mine), (metric.name, label)
        for bound in metric.bounds if metric.kind == "histogram" and mine else ():
            assert any(f'le="{bound}"' in line for line in mine), (metric.name, bound)
    assert any(line.startswith(s.CLIENT_DURATION.prometheus) for line in lines)
    wide.provider.shutdown()


@pytest.mark.parametrize(("models", "routes", "folded"), [(20, 10, set()), (21, 1, {"model"}), (20, 11, {"route"})])
def test_what_is_folded_is_counted(page: Page, models: int, routes: int, folded: set[str]) -> None:
    """There is room for twenty models of ten routes; a stream beyond it is counted, by what was folded."""
    for model, route in product(range(models), range(routes)):
        stream = ended(f"model-{model}", f"route-{route}", "completed", "none", "finished", None)
        page.metrics.started(stream)
        for step in page.metrics.ended(stream):
            step()
    lines = [line for line in page.scrape() if line.startswith(s.FOLDED.prometheus)]
    assert len(lines) == len(s.FOLDED_NAMES), "zeros from the start"
    told = {what for what in s.FOLDED_NAMES for line in lines if f'what="{what}"' in line and not line.endswith(" 0.0")}
    assert told == folded


def test_zeros_from_the_first_collection(page: Page) -> None:
    """Before the first stream every objective has its three results, under no model; and the clocks tell."""
    lines = page.scrape()
    assert sum(line.startswith(s.OBJECTIVE_TOTAL.prometheus) and line.endswith(" 0.0") for line in lines) == 9
    began, now = (
        float(line.rpartition(" ")[2])
        for metric in (s.START_TIME, s.CLOCK)
        for line in lines
        if line.startswith(metric.prometheus)
    )
    assert began <= now <= time.time()
    assert now - began < 60


def test_the_clock_goes_on(page: Page) -> None:
    """The start stays what it was, and the clock is that of the collection."""
    first, second = page.scrape(), page.scrape()

    def told(lines: list[str], metric: s.Metric) -> float:
        return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(metric.prometheus))

    assert told(first, s.START_TIME) == told(second, s.START_TIME)
    assert told(first, s.CLOCK) < told(second, s.CLOCK)


def test_the_words_of_retries_are_those_of_failures() -> None:
    """A retry is counted under the word that the failure would have had: the API's for its status, else the status."""
    anthropic = SimpleNamespace(attached=SimpleNamespace(sdk=ANTHROPIC))
    openai = SimpleNamespace(attached=SimpleNamespace(sdk=OPENAI))
    timeout = httpx.ReadTimeout("late")
    said: list[tuple[Any, int | None, BaseException | None, str]] = [
        (anthropic, 529, None, "overloaded_error"), (anthropic, 429, None, "rate_limit_error"),
        (anthropic, 500, None, "api_error"), (anthropic, 503, None, "503"), (openai, 503, None, "503"),
        (openai, None, timeout, "client_timeout_error"), (openai, None, httpx.ConnectError("no"), "connection_error"),
        (anthropic, None, None, "connection_error"),
    ]  # fmt: skip
    for stream, status, error, expected in said:
        assert faults.word(stream, status, error) == expected


def test_the_state_of_an_open_stream(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silent for `hang_threshold` before the first chunk, for `stall_threshold` after it: stalled. A ping, and a retry,
    are signs of life."""
    stream = runtime.begin(operation="chat", provider="parrot", model="grey-1", grammar=Grammar())
    began = stream.started

    def state(after: float) -> str:
        monkeypatch.setattr(known, "clock", lambda: began + after)
        return stream.state

    assert [state(59), state(61)] == ["waiting_headers", "stalled"]
    stream.last_attempt_at = began + 50  # the first was refused at once, and tried again
    assert [state(100), state(111)] == ["waiting_headers", "stalled"]
    stream.response_at = stream.last = began + 120
    assert [state(121), state(179), state(181)] == ["waiting_token", "waiting_token", "stalled"]
    stream.activity = began + 175  # a ping
    assert [state(181), state(236)] == ["waiting_token", "stalled"]
    stream.first_chunk_at = stream.first_token_at = stream.last = began + 240
    assert [state(241), state(242.5)] == ["flowing", "stalled"]
    end(stream, cancelled("app_close"))


def test_a_model_that_thinks_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model with a `hang_threshold` of its own counts as stalled after that, and no other one does."""
    chosen = config.load({"hang_threshold": {"grey": 300}}, {})
    runtime = Runtime(chosen, get_tracer(s.SCOPE), get_meter(s.SCOPE), get_logger(s.SCOPE), {})
    for model, expected in (("grey-1", "waiting_headers"), ("blue-1", "stalled")):
        stream = runtime.begin(operation="chat", provider="parrot", model=model, grammar=Grammar())
        later = stream.started + 200
        monkeypatch.setattr(known, "clock", lambda later=later: later)
        assert stream.state == expected
        monkeypatch.undo()
        end(stream, cancelled("app_close"))


def test_zeros_are_told_once(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is folded has its zeros with the first of it, as anything else has: not with every stream."""
    counted: list[int] = []
    count = page.metrics._observed.count
    monkeypatch.setattr(
        page.metrics._observed, "count", lambda *what: counted.append(what[-1] if what[-1] == 0 else 1) or count(*what)
    )  # fmt: skip
    for number in range(s.MAX_MODELS + s.MAX_COMMON_SETS + 5):
        page.metrics.started(ended(f"model-{number}", None, "completed", "none", "finished", None))
    sets = s.MAX_COMMON_SETS + 1  # one of them for all that is folded
    assert counted == [0] * (sets * len(OBJECTIVES.items) * len(s.OBJECTIVE_RESULTS))
