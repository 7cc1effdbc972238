# SPDX-License-Identifier: Apache-2.0
"""The core knows no provider: a made-up one goes through it untouched; its metrics stay bounded and typed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import prod
from typing import Any

import pytest
from matrix.telemetry import Telemetry
from opentelemetry._logs import get_logger
from opentelemetry.trace import StatusCode

from otelstream import _config, _runtime
from otelstream import _semconv as s
from otelstream._ending import CUT_SHORT, cancelled, failed
from otelstream._labels import Labels
from otelstream._runtime import Runtime
from otelstream._stream import StreamObservation, ToolCall, clock

REASONS = {"done": "stop", "full": "length", "no": "content_filter", "call": "tool_calls"}


class Parrot:
    """A provider that speaks lines of JSON: a word each, calls of tools, and how it ends. All of its adapter."""

    def __init__(self, runtime: Runtime, lines: list[dict[str, Any]]) -> None:
        self.lines = lines
        self.stream = runtime.begin(operation="chat", provider="parrot", model="grey-1")
        runtime.attach_span(self.stream, {})

    def __iter__(self) -> Iterator[dict[str, Any]]:
        stream = self.stream
        stream.attempt()
        stream.responded("parrot-1")
        last = clock()
        for line in self.lines:
            at = stream.last = clock()
            stream.usage.update(line.get("usage", {}))
            if "word" in line:
                self._chunk("text", line["word"], at, at - last)
                last = at
            elif "tool" in line:
                stream.block_started("tool_input")
                call = ToolCall(line["tool"], "call-1")
                stream.tool_opened(call)
                self._chunk("tool_input", line["input"], at, at - last)
                call.size, call.input = len(line["input"]), "valid" if _valid(line["input"]) else "invalid"
                stream.tool_ready(call, at)
                stream.block_ended(at)
            elif "error" in line:
                stream.end(failed("provider_error", line["error"]), at)
                raise RuntimeError(line["error"])
            elif "end" in line:
                stream.finish(REASONS[line["end"]], line["end"], at)
                stream.terminal(at)
            yield line
        stream.end(CUT_SHORT)

    def _chunk(self, kind: s.FirstTokenKind, text: str, at: float, gap: float) -> None:
        stream = self.stream
        if stream.active_block is None:
            stream.block_started(kind)
        first = stream.first_chunk_at is None
        if first:
            stream.first_chunk(kind, at)
            stream.first_token(kind, at)
        stream.add_chunks(kind, [] if first else [gap], gap, 1, len(text), at)
        stream.repeats(kind, text, at)

    def close(self) -> None:
        self.stream.end(cancelled("app_close"), clock())


def _valid(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@pytest.fixture
def runtime(telemetry: Telemetry) -> Iterator[Runtime]:
    settings = _config.load({}, {})
    made = Runtime(
        settings,
        telemetry.tracer_provider.get_tracer(s.SCOPE),
        telemetry.meter_provider.get_meter(s.SCOPE),
        get_logger(s.SCOPE),
        {},
    )
    _runtime.register(made)
    yield made
    _runtime.unregister()


WORDS = [{"word": word} for word in ("polly ", "wants ", "a ", "cracker")]
CALL = {"tool": "get_cracker", "input": '{"size": 2}'}
STORIES: dict[str, tuple[list[dict[str, Any]], tuple[str, str, str]]] = {
    "done": ([*WORDS, {"end": "done"}], ("completed", "finished", "none")),
    "full": ([*WORDS, {"end": "full"}], ("truncated", "finished", "none")),
    "no": ([*WORDS, {"end": "no"}], ("refused", "finished", "content_filter")),
    "call": ([*WORDS, CALL, {"end": "call"}], ("completed", "finished", "none")),
    "bad call": (
        [*WORDS, {**CALL, "input": '{"size":'}, {"end": "call"}],
        ("completed", "finished", "malformed_tool_call"),
    ),
    "error": ([*WORDS, {"error": "molting"}], ("failed", "mid_stream", "provider_error")),
    "short": ([*WORDS], ("failed", "mid_stream", "cut_short")),
    "silent": ([], ("failed", "before_first_token", "cut_short")),
    "loop": ([{"word": "polly wants it. "}] * 100 + [{"end": "full"}], ("truncated", "finished", "repetition")),
}


@pytest.mark.parametrize("story", STORIES)
def test_another_provider(telemetry: Telemetry, runtime: Runtime, story: str) -> None:
    """A second provider needs its own adapter and nothing in the core: one span, one count, the same words."""
    lines, (outcome, phase, fault) = STORIES[story]

    try:
        list(Parrot(runtime, lines))
    except RuntimeError:
        assert story == "error"

    (span,) = telemetry.spans()
    has = dict(span.attributes or {})
    assert (has[s.OUTCOME], has[s.PHASE], has[s.FAULT]) == (outcome, phase, fault)
    assert has[s.PROVIDER] == "parrot"
    assert has[s.CHUNKS] == sum("word" in line or "tool" in line for line in lines)
    assert span.status.status_code is (StatusCode.ERROR if outcome == "failed" else StatusCode.UNSET)
    points = telemetry.points()
    assert sum(points[s.STREAMS.name].values()) == 1
    assert {dict(labels)[s.PROVIDER] for labels in points[s.STREAMS.name]} == {"parrot"}


def test_another_provider_is_left(telemetry: Telemetry, runtime: Runtime) -> None:
    """Control flow decides where the protocol has not; the first verdict stays."""
    parrot = Parrot(runtime, [*WORDS, {"end": "done"}])

    words = iter(parrot)
    next(words)
    parrot.close()
    list(words)

    (span,) = telemetry.spans()
    has = dict(span.attributes or {})
    assert (has[s.OUTCOME], has[s.CANCEL_TRIGGER]) == ("cancelled", "app_close")
    assert sum(telemetry.points()[s.STREAMS.name].values()) == 1


def test_cardinality() -> None:
    """The product of every metric row stays below what the SDK folds, whatever the application sends."""
    labels = Labels()
    common = {
        tuple(labels.common("chat", "parrot", f"model-{number}", f"route-{number}").items())
        for number in range(s.MAX_SETS)
    }
    values = {label.attribute: len(label.values) or label.limit for label in s.LABELS}

    for metric in s.METRICS:
        if metric.kind in ("counter", "histogram"):
            sent = (dict.fromkeys(metric.labels, f"value-{number}") for number in range(s.MAX_SETS))
            sets = len({tuple(labels.extra(metric, each).values()) for each in sent})
        else:
            sets = prod(values[label] for label in metric.labels)  # observed: nothing folds them
        assert (len(common) if metric.common else 1) * sets < s.MAX_SETS, metric.name


def test_cardinality_holds_as_recorded(telemetry: Telemetry, runtime: Runtime) -> None:
    """Models and error types without end fold into `_OTHER`, and no point into the SDK's overflow."""
    for number in range(120):
        stream = runtime.begin(operation="chat", provider="parrot", model=f"model-{number}")
        stream.end(failed("provider_error", f"error-{number}"))

    points = telemetry.points()
    for name, sets in points.items():
        assert len(sets) < s.MAX_SETS, name
        assert not any("otel.metric.overflow" in dict(labels) for labels in sets)
    models = {dict(labels)[s.REQUEST_MODEL] for labels in points[s.STREAMS.name]}
    errors = {dict(labels)[s.ERROR_TYPE] for labels in points[s.STREAM_FAILURES.name]}
    assert len(models) == s.MAX_COMMON_SETS + 1
    assert s.OTHER in models
    assert len(errors) == s.MAX_ERROR_TYPES + 1
    assert s.OTHER in errors
    assert sum(points[s.STREAMS.name].values()) == 120


def test_zeros(telemetry: Telemetry, runtime: Runtime) -> None:
    """When the first request of a model is issued, every verdict of every objective is there as an exported zero."""
    stream = runtime.begin(operation="chat", provider="parrot", model="grey-1")

    verdicts = telemetry.values(s.OBJECTIVE_STREAMS.name)
    active = telemetry.values(s.STREAM_ACTIVE.name)

    names = {objective.name for objective in runtime.settings.objectives}
    assert {(dict(labels)[s.OBJECTIVE_NAME], dict(labels)[s.OBJECTIVE_RESULT]) for labels in verdicts} == {
        (name, result) for name in names for result in ("good", "bad", "excluded")
    }
    assert set(verdicts.values()) == {0}
    assert {dict(labels)[s.STREAM_STATE]: value for labels, value in active.items()} == {
        "waiting_headers": 1,
        "waiting_token": 0,
        "flowing": 0,
        "stalled": 0,
    }
    stream.end(cancelled("app_close"))


def test_zeros_of_named_models(telemetry: Telemetry) -> None:
    """Models that an objective names have their zeros before any request."""
    from otelstream._objectives import Objective, Objectives

    objectives = Objectives((Objective("fast", "first_token", 0.95, 1.0, models=("a", "b"), routes=("chat",)),))
    settings = _config.load({"objectives": objectives}, {})
    Runtime(
        settings,
        telemetry.tracer_provider.get_tracer(s.SCOPE),
        telemetry.meter_provider.get_meter(s.SCOPE),
        get_logger(s.SCOPE),
        {},
    )

    verdicts = telemetry.values(s.OBJECTIVE_STREAMS.name)

    assert {
        (dict(labels)[s.REQUEST_MODEL], dict(labels)[s.ROUTE], dict(labels)[s.OBJECTIVE_RESULT]) for labels in verdicts
    } == {(model, "chat", result) for model in ("a", "b") for result in ("good", "bad", "excluded")}
    assert set(verdicts.values()) == {0}


INTEGERS = {
    s.ATTEMPTS, s.CHUNKS, s.STALLS, s.STALLS_PROVIDER, s.VISIBLE_CHARS, s.STREAM_TOOL_CALLS, s.STREAM_REPETITIONS,
    s.INPUT_TOKENS, s.OUTPUT_TOKENS, s.CACHE_READ_TOKENS, s.CACHE_WRITE_TOKENS, s.CHUNK_INDEX, s.CADENCE_CHUNKS,
    s.CADENCE_CHARS, s.REPETITION_PERIOD, s.REPETITION_START, s.REPETITION_WASTED, s.TOOL_CALL_BYTES,
    s.FAILURE_VISIBLE_CHARS, s.CANCEL_VISIBLE_CHARS, s.CANCEL_DELIVERED_CHUNKS, s.CANCEL_DELIVERED_CHARS,
    s.SIDE_EFFECTS_COMMITTED, s.SIDE_EFFECTS_RUNNING, s.SIDE_EFFECTS_DISCARDED, s.SERVER_PORT,
}  # fmt: skip
FLOATS = {
    s.TIME_TO_FIRST_CHUNK, s.TIME_TO_FIRST_TOKEN, s.WAIT_WITHOUT_TOKEN, s.LAST_ATTEMPT_DELAY, s.GAP_P50, s.GAP_P95,
    s.GAP_MAX, s.STALLED_TIME, s.HOLD_TIME, s.OUTPUT_RATE, s.RESPONSE_TIME_TO_FIRST_CHUNK, s.ELAPSED, s.CADENCE_START,
    s.CADENCE_GAP_P50, s.CADENCE_GAP_P95, s.CADENCE_GAP_MAX, s.REPETITION_COPIES, s.STALL_DURATION,
    s.FAILURE_SINCE_FIRST_TOKEN, s.TOOL_CALL_PAUSE, s.CANCEL_CLOSE_DELAY,
}  # fmt: skip
BOOLEANS = {s.SUCCEEDED_THEN_FAILED, s.PARTIAL, s.REPETITION_SUSPECTED, s.STALL_PING_SEEN, s.TOOL_CALL_PREAMBLE}


def test_value_types(telemetry: Telemetry, runtime: Runtime) -> None:
    """Every attribute of a span and of its events has one type, whatever its value: back-ends refuse two."""
    used = {s.OUTPUT_TOKENS: 40, s.INPUT_TOKENS: 3}
    for lines, _ in STORIES.values():
        try:
            list(Parrot(runtime, [*lines[:-1], *({**line, "usage": used} for line in lines[-1:])]))
        except RuntimeError:
            continue
    Parrot(runtime, [*WORDS]).close()

    seen: dict[str, set[type]] = {}
    for span in telemetry.spans():
        for attributes in (span.attributes, *(event.attributes for event in span.events)):
            for name, value in (attributes or {}).items():
                seen.setdefault(name, set()).add(type(value))
    for name, types in seen.items():
        want = (
            int if name in INTEGERS
            else float if name in FLOATS
            else bool if name in BOOLEANS
            else tuple if name == s.FINISH_REASONS
            else str
        )  # fmt: skip
        assert types == {want}, name
    assert len(seen) > 35


def test_first_end_wins(telemetry: Telemetry, runtime: Runtime) -> None:
    """However often a stream's end is told, it has one record, of the first."""
    stream = StreamObservation(runtime, operation="chat", provider="parrot", model="grey-1")

    stream.end(failed("connection_lost", "connection_error"))
    stream.end(cancelled("app_close"))
    stream.terminal(clock())

    assert (stream.outcome, stream.fault) == ("failed", "connection_lost")
    assert sum(telemetry.points()[s.STREAMS.name].values()) == 1
