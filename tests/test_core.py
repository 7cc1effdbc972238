# SPDX-License-Identifier: Apache-2.0
"""The core knows no provider: a made-up one goes through it untouched; its metrics stay bounded and typed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from math import prod
from typing import Any

import pytest
from matrix.telemetry import Telemetry
from opentelemetry._logs import get_logger
from opentelemetry.trace import StatusCode
from toy import Grammar, Parrot, observe

from otelstream import _semconv as s
from otelstream._core.emit.labels import Labels
from otelstream._core.process import runtime as _runtime
from otelstream._core.process import tap
from otelstream._core.process.closing import end
from otelstream._core.process.runtime import Runtime
from otelstream._core.record import facts as f
from otelstream._core.record import intake
from otelstream._core.record.ending import Ending, cancelled, failed
from otelstream._core.record.objectives import Objective, Objectives
from otelstream._core.record.stream import StreamObservation
from otelstream._face import config as _config
from otelstream._objectives_file import ObjectivesError, parse


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


def call(index: int, arguments: str, *, pieces: int = 2) -> list[dict[str, Any]]:
    """The lines of one tool call, its input cut in pieces."""
    size = -(-len(arguments) // pieces)
    parts = [arguments[at : at + size] for at in range(0, len(arguments), size)]
    named = {"calls": [{"index": index, "id": f"call-{index}", "name": "get_cracker", "arguments": ""}]}
    return [named, *({"calls": [{"index": index, "arguments": part}]} for part in parts)]


FIRST, SECOND = call(0, '{"size": 2}'), call(1, '{"size": 30}', pieces=3)
INTERLEAVED = [FIRST[0], FIRST[1], SECOND[0], SECOND[1], FIRST[2], SECOND[2], SECOND[3]]
STORIES: dict[str, tuple[list[Any], tuple[str, str, str]]] = {
    "done": ([*WORDS, {"end": "done"}], ("completed", "finished", "none")),
    "usage follows": ([*WORDS, {"end": "done"}, {"usage": {s.OUTPUT_TOKENS: 4}}], ("completed", "finished", "none")),
    "full": ([*WORDS, {"end": "full"}], ("truncated", "finished", "none")),
    "no": ([*WORDS, {"end": "no"}], ("refused", "finished", "content_filter")),
    "call": ([*WORDS, *FIRST, {"end": "call"}], ("completed", "finished", "none")),
    "interleaved": ([*WORDS, *INTERLEAVED, {"end": "call"}], ("completed", "finished", "none")),
    "bad call": ([*WORDS, *FIRST[:2], {"end": "call"}], ("completed", "finished", "malformed_tool_call")),
    "call cut": ([*WORDS, *FIRST[:2], {"end": "full"}], ("truncated", "finished", "tool_call_cut_off")),
    "error": ([*WORDS, {"error": "molting"}], ("failed", "mid_stream", "provider_error")),
    "gone": ([*WORDS, OSError("reset")], ("failed", "mid_stream", "connection_lost")),
    "short": ([*WORDS], ("failed", "mid_stream", "cut_short")),
    "silent": ([], ("failed", "before_first_token", "cut_short")),
    "loop": ([{"word": "polly wants it. "}] * 100 + [{"end": "full"}], ("truncated", "finished", "repetition")),
}


def play(runtime: Runtime, lines: list[Any], **how: Any) -> list[Any]:
    """What the application gets of an observed parrot."""
    parrot = Parrot(lines)
    observe(runtime, parrot, **how)
    return list(parrot.talk("grey-1"))


@pytest.mark.parametrize("story", STORIES)
def test_another_provider(telemetry: Telemetry, runtime: Runtime, story: str) -> None:
    """A second provider needs its own adapter and nothing in the core: one span, one count, the same words."""
    lines, (outcome, phase, fault) = STORIES[story]

    try:
        assert play(runtime, lines) == lines
    except (RuntimeError, OSError):
        assert story in ("error", "gone")

    (span,) = telemetry.spans()
    has = dict(span.attributes or {})
    assert (has[s.OUTCOME], has[s.PHASE], has[s.FAULT]) == (outcome, phase, fault)
    assert has[s.PROVIDER] == "parrot"
    assert has[s.CHUNKS] == sum(_is_chunk(line) for line in lines)
    assert span.status.status_code is (StatusCode.ERROR if outcome == "failed" else StatusCode.UNSET)
    points = telemetry.points()
    assert sum(points[s.STREAMS.name].values()) == 1
    assert {dict(labels)[s.PROVIDER] for labels in points[s.STREAMS.name]} == {"parrot"}


def _is_chunk(line: Any) -> bool:
    return isinstance(line, dict) and ("word" in line or any(part["arguments"] for part in line.get("calls", ())))


def test_another_provider_is_left(telemetry: Telemetry, runtime: Runtime) -> None:
    """Control flow decides where the protocol has not; one without a close of its own is left with its generator."""
    parrot = Parrot([*WORDS, {"end": "done"}])
    observe(runtime, parrot)

    words = parrot.talk("grey-1")
    next(words)
    words.close()

    (span,) = telemetry.spans()
    has = dict(span.attributes or {})
    assert (has[s.OUTCOME], has[s.CANCEL_TRIGGER], has[s.CANCEL_PROPAGATION]) == (
        "cancelled", "generator_close", "closed",
    )  # fmt: skip
    assert sum(telemetry.points()[s.STREAMS.name].values()) == 1


def test_another_provider_starts_lazily(telemetry: Telemetry, runtime: Runtime) -> None:
    """A call whose request leaves with the first `next` begins there; one that is never read is no stream."""
    parrot = Parrot([*WORDS, {"end": "done"}])
    take_off = observe(runtime, parrot)

    unread = parrot.talk("grey-1")
    assert (parrot.requests, list(runtime.open_streams())) == (0, [])
    del unread
    list(parrot.talk("grey-1"))
    take_off()
    list(parrot.talk("grey-1"))

    assert parrot.requests == 2
    assert len(telemetry.spans()) == 1


def test_an_async_iterator_is_tapped_alike(telemetry: Telemetry, runtime: Runtime) -> None:
    """Around an async iterator the record is the same, and the items are the very same."""
    lines = [*WORDS, {"end": "done"}]

    async def source() -> AsyncIterator[Any]:
        for line in lines:
            yield line

    async def reads() -> list[Any]:
        stream = runtime.begin(operation="chat", provider="parrot", model="grey-1", grammar=Grammar())
        stream.attached = tap.Attached()
        runtime.attach_span(stream, {})
        stream.responded(None)
        return [line async for line in tap.aaround(source(), stream, json.dumps)]

    assert asyncio.run(reads()) == lines
    (span,) = telemetry.spans()
    has = dict(span.attributes or {})
    assert (has[s.OUTCOME], has[s.CHUNKS]) == ("completed", len(WORDS))


@pytest.mark.parametrize(
    ("fact", "kind", "visible", "calls"),
    [
        (f.Opened((0, 0), "text", visible=True, whole=5), "text", 5, []),
        (f.Opened((0, 0), "thinking", whole=5), None, 0, []),
        (f.Opened((0, 0), "other", whole=0), None, 0, []),
        (f.WholeTool((0, 0), "fly", "c1", '{"to": "sea"}'), "tool_input", 0, [("fly", "c1", 13, "valid")]),
    ],
)
def test_a_block_that_comes_in_one_piece(
    runtime: Runtime, fact: f.Fact, kind: str | None, visible: int, calls: list[Any]
) -> None:
    """It is one chunk, whose gap is the wait for it, and the first token where a user sees it."""
    stream = runtime.begin(operation="chat", provider="parrot", model="grey-1", grammar=Grammar())
    intake.take(stream, f.Delta((0, 9), "word", "hm", "thinking"), '{"word": "hm"}', stream.started + 1)
    stream.carry = 0.5

    intake.take(stream, fact, "", stream.started + 1.5)

    stream.cadence.close(1.5)
    assert (stream.chunks, stream.carry, stream.cadence.all.longest) == (2, 0.0, 0.5)
    assert (stream.first_token_kind, stream.visible_chars) == (kind, visible)
    assert [(call.name, call.id, call.size, call.input) for call in stream.tool_calls] == calls
    assert stream.active_block == fact_kind(fact)


def fact_kind(fact: f.Fact) -> str:
    """The kind of the block that a fact opens."""
    return fact.kind if isinstance(fact, f.Opened) else "thinking"  # a whole tool is over at once


def test_interleaved_calls_are_kept_apart(telemetry: Telemetry, runtime: Runtime) -> None:
    """Calls whose pieces alternate are whole, each by its index; one taken for ready goes on and is ready later."""
    records: list[StreamObservation] = []
    runtime.stream_ended = [records.append]

    play(runtime, [*WORDS, *INTERLEAVED, {"end": "call"}])

    first, second = records[0].tool_calls
    assert [(c.id, c.size, c.input, c.inferred) for c in (first, second)] == [
        ("call-0", 11, "valid", True),
        ("call-1", 12, "valid", True),
    ]
    (span,) = telemetry.spans()
    ready = [event.attributes or {} for event in span.events if event.name == s.EVENT_TOOL_READY]
    assert [event[s.TOOL_CALL_READY_EVIDENCE] for event in ready] == ["inferred", "inferred"]


def test_a_call_that_goes_on_is_not_ready(telemetry: Telemetry, runtime: Runtime) -> None:
    """Readiness that was inferred is taken back by more of the input: a cut leaves that call unfinished."""
    records: list[StreamObservation] = []
    runtime.stream_ended = [records.append]

    play(runtime, [*WORDS, *INTERLEAVED[:5]])

    assert [(c.id, c.ready is None, c.input) for c in records[0].tool_calls] == [
        ("call-0", True, "incomplete"),
        ("call-1", True, "incomplete"),
    ]


@pytest.mark.parametrize(
    ("ends", "outcome"),
    [(("done", "done"), "completed"), (("done", "full"), "truncated"), (("full", "no"), "truncated"),
     (("no", "done"), "refused"), (("done", None), "failed")],
)  # fmt: skip
def test_several_choices(telemetry: Telemetry, runtime: Runtime, ends: tuple[str | None, ...], outcome: str) -> None:
    """A stream of several choices has finished when each has its reason; it is truncated if any was."""
    lines = [*WORDS, *({"end": end, "choice": choice} for choice, end in enumerate(ends) if end)]

    play(runtime, lines, choices=2)

    (span,) = telemetry.spans()
    assert (span.attributes or {})[s.OUTCOME] == outcome


@pytest.mark.parametrize("objectives", [1, 3, s.MAX_OBJECTIVES])
@pytest.mark.parametrize("lean", [True, False])
def test_cardinality(lean: bool, objectives: int) -> None:
    """The product of every metric row stays below what the SDK folds, whatever the application sends: models and routes
    without end, with a route and without, of more providers and operations than there are."""
    labels = Labels()
    for number in range(objectives):  # of one file, or of one after the other
        labels.room_for([f"objective-{number}"])
    found = [
        labels.common(f"do-{number % 5}", f"parrot-{number % 7}", f"model-{number}", route)
        for number in range(s.MAX_SETS)
        for route in (None, f"route-{number}")
    ]
    values = {label.attribute: len(label.values) or label.limit for label in s.LABELS}
    values[s.OBJECTIVE_NAME] = objectives

    for metric in s.METRICS:
        common = {tuple(each.of(metric, lean=lean).items()) for each in found}
        assert len(common) <= metric.common_sets(lean=lean)
        if metric.kind in ("counter", "histogram"):
            sent = (dict.fromkeys(metric.own(lean=lean), f"value-{number}") for number in range(s.MAX_SETS))
            sets = len({tuple(labels.extra(metric, each, lean=lean).values()) for each in sent})
        else:
            sets = prod(values[label] for label in metric.labels)  # observed: nothing folds them
        assert len(common) * sets < s.MAX_SETS, metric.name


def objective_sets(telemetry: Telemetry) -> set[tuple[Any, ...]]:
    """What the judged streams were counted under: model, route, objective."""
    return {
        tuple(dict(labels).get(name) for name in (s.REQUEST_MODEL, s.ROUTE, s.OBJECTIVE_NAME))
        for labels, amount in telemetry.values(s.OBJECTIVE_STREAMS.name).items()
        if amount
    }


def made(telemetry: Telemetry, *objectives: Objective) -> Runtime:
    return Runtime(
        _config.load({"objectives": Objectives(objectives)}, {}),
        telemetry.tracer_provider.get_tracer(s.SCOPE),
        telemetry.meter_provider.get_meter(s.SCOPE),
        get_logger(s.SCOPE),
        {},
        ["parrot"],
    )


def test_as_many_objectives_are_counted_as_are_allowed(telemetry: Telemetry) -> None:
    """A file with as many objectives as one may have: each is counted under its own name, none folds."""
    names = [f"objective-{number}" for number in range(s.MAX_OBJECTIVES)]
    fields = [{"name": name, "kind": "integrity", "target": 0.999} for name in names]
    assert parse({"objectives": fields}).objectives.items
    with pytest.raises(ObjectivesError, match=f"more than {s.MAX_OBJECTIVES}"):
        parse({"objectives": [*fields, {**fields[0], "name": "one-more"}]})

    runtime = made(telemetry, *(Objective(name, "integrity", 0.999) for name in names))
    stream = runtime.begin(operation="chat", provider="parrot", model="grey-1", grammar=Grammar())
    end(stream, Ending("completed"))
    assert objective_sets(telemetry) == {("grey-1", None, name) for name in names}


@pytest.mark.parametrize("named", [1, 10, 40])
def test_named_models_leave_room_for_traffic(telemetry: Telemetry, named: int) -> None:
    """However many models and routes the objectives name: what is really asked for is counted under its own name,
    whether they name it or not, and whichever provider serves it."""
    models = tuple(f"named-{number}" for number in range(named))
    runtime = made(telemetry, Objective("all", "integrity", 0.999), Objective("some", "integrity", 0.9, models=models,
                                                                               routes=("chat", "search")))  # fmt: skip
    asked = [(provider, model) for provider in ("parrot", "budgie") for model in ("new-1", "new-2", models[-1])]
    for provider, model in asked:
        stream = runtime.begin(operation="chat", provider=provider, model=model, grammar=Grammar())
        end(stream, Ending("completed"))
    assert {model for model, _, _ in objective_sets(telemetry)} == {model for _, model in asked}


def test_cardinality_holds_as_recorded(telemetry: Telemetry, runtime: Runtime) -> None:
    """Models and error types without end fold into `_OTHER`, and no point into the SDK's overflow."""
    for number in range(120):
        stream = runtime.begin(operation="chat", provider="parrot", model=f"model-{number}", grammar=Grammar())
        end(stream, failed("provider_error", f"error-{number}"))

    points = telemetry.points()
    for name, sets in points.items():
        assert len(sets) < s.MAX_SETS, name
        assert not any("otel.metric.overflow" in dict(labels) for labels in sets)
    models = {dict(labels)[s.REQUEST_MODEL] for labels in points[s.STREAMS.name]}
    errors = {dict(labels)[s.ERROR_TYPE] for labels in points[s.STREAM_FAILURES.name]}
    assert len(models) == s.MAX_MODELS + 1
    assert s.OTHER in models
    assert len(errors) == s.MAX_ERROR_TYPES + 1
    assert s.OTHER in errors
    assert sum(points[s.STREAMS.name].values()) == 120


def test_zeros(telemetry: Telemetry, runtime: Runtime) -> None:
    """When the first request of a model is issued, every verdict of every objective is there as an exported zero."""
    stream = runtime.begin(operation="chat", provider="parrot", model="grey-1", grammar=Grammar())

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
    end(stream, cancelled("app_close"))


def test_zeros_of_named_models(telemetry: Telemetry) -> None:
    """Models that an objective names have their zeros before any request."""
    objectives = Objectives((Objective("fast", "first_token", 0.95, 1.0, models=("a", "b"), routes=("chat",)),))
    settings = _config.load({"objectives": objectives}, {})
    Runtime(
        settings,
        telemetry.tracer_provider.get_tracer(s.SCOPE),
        telemetry.meter_provider.get_meter(s.SCOPE),
        get_logger(s.SCOPE),
        {},
        ["parrot"],
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
            play(runtime, [*lines, {"usage": used}] if {"end": "done"} in lines else lines)
        except (RuntimeError, OSError):
            continue

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
    stream = StreamObservation(runtime, operation="chat", provider="parrot", model="grey-1", grammar=Grammar())

    end(stream, failed("connection_lost", "connection_error"))
    end(stream, cancelled("app_close"))
    end(stream, stream.by_finish())

    assert (stream.outcome, stream.fault) == ("failed", "connection_lost")
    assert sum(telemetry.points()[s.STREAMS.name].values()) == 1
