# SPDX-License-Identifier: Apache-2.0
"""The verdicts of the objectives, one row a case, up to the very threshold; and which of several goes on the span."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import anthropic
import pytest

from otelstream import _semconv as s
from otelstream._core.record.objectives import Objective, Objectives
from otelstream.testing import ProviderSimulator, Recorder, Script

T = 2.0
UNDER, OVER = T - 0.001, T + 0.001
FIRST_TOKEN = Objective("first-token", "first_token", 0.95, T)
COMPLETION = Objective("completion", "completion", 0.99, T)
INTEGRITY = Objective("integrity", "integrity", 0.995)


@dataclass(frozen=True)
class Facts:
    """What a verdict is given on."""

    outcome: s.Outcome
    duration: float | None = UNDER
    time_to_first_token: float | None = None
    phase: s.Phase = "mid_stream"
    fault: s.Fault = "none"
    model: str = "some-model"
    route: str | None = None


FIRST_TOKENS: list[tuple[str, Facts]] = [
    ("good", Facts("completed", OVER, UNDER)),
    ("good", Facts("completed", OVER, T)),
    ("bad", Facts("completed", OVER, OVER)),
    ("good", Facts("failed", OVER, T, fault="cut_short")),
    ("good", Facts("cancelled", OVER, 0.0)),
    ("bad", Facts("failed", UNDER, fault="connection_lost", phase="before_response")),
    ("bad", Facts("failed", UNDER, fault="provider_error", phase="before_first_token")),
    *(("bad", Facts(outcome, OVER)) for outcome in ("completed", "truncated", "cancelled", "abandoned")),
    *(("excluded", Facts(outcome, T)) for outcome in ("completed", "truncated", "cancelled", "abandoned")),
    ("excluded", Facts("refused", OVER)),
]
COMPLETIONS: list[tuple[str, Facts]] = [
    *(("good", Facts(outcome, UNDER)) for outcome in ("completed", "truncated", "refused")),
    *(("good", Facts(outcome, T)) for outcome in ("completed", "truncated", "refused")),
    *(("bad", Facts(outcome, OVER)) for outcome in ("completed", "truncated", "refused")),
    ("bad", Facts("failed", UNDER, fault="cut_short")),
    *(("bad", Facts(outcome, OVER)) for outcome in ("cancelled", "abandoned")),
    *(("excluded", Facts(outcome, T)) for outcome in ("cancelled", "abandoned")),
]
BROKEN: tuple[s.Fault, ...] = (
    "provider_error", "connection_lost", "cut_short", "timeout", "protocol_error", "stalled", "content_filter",
    "malformed_tool_call",
)  # fmt: skip
INTEGRITIES: list[tuple[str, Facts]] = [
    *(("bad", Facts("failed", fault=fault)) for fault in BROKEN),
    *(("bad", Facts("failed", fault=fault, phase="before_first_token")) for fault in BROKEN),
    ("bad", Facts("completed", fault="malformed_tool_call", phase="finished")),
    ("bad", Facts("cancelled", fault="stalled")),
    *(("good", Facts(outcome, phase="finished")) for outcome in ("completed", "truncated", "refused")),
    ("good", Facts("truncated", fault="tool_call_cut_off", phase="finished")),
    ("good", Facts("completed", fault="repetition", phase="finished")),
    *(("excluded", Facts(outcome)) for outcome in ("cancelled", "abandoned")),
    ("excluded", Facts("cancelled", fault="repetition")),
    *(("excluded", Facts("failed", fault=fault, phase="before_response")) for fault in ("provider_error", "timeout")),
]
ROWS = [
    (objective, want, facts)
    for objective, rows in ((FIRST_TOKEN, FIRST_TOKENS), (COMPLETION, COMPLETIONS), (INTEGRITY, INTEGRITIES))
    for want, facts in rows
]


@pytest.mark.parametrize(("objective", "want", "facts"), ROWS)
def test_verdict(objective: Objective, want: str, facts: Facts) -> None:
    """What reaches the threshold is within it, what exceeds it is late; who gives up before it is excluded, after it
    bad; a stream that failed is bad where its promise was broken."""
    assert objective.judge(facts) == want


@pytest.mark.parametrize("objective", [FIRST_TOKEN, COMPLETION, INTEGRITY], ids=lambda item: item.name)
@pytest.mark.parametrize("facts", [Facts("failed", OVER, OVER, fault="request_error"), Facts("caller_error", OVER)])
def test_the_callers_own_doing_is_excluded(objective: Objective, facts: Facts) -> None:
    """A request that was wrong, or an exception of the application's, is nobody's promise."""
    assert objective.judge(facts) == "excluded"


@pytest.mark.parametrize("kind", ["first_token", "completion"])
def test_what_is_not_known_is_nothing(kind: s.ObjectiveKind) -> None:
    """A stream of no known length is not late; and without a threshold every length is."""
    unknown = Facts("cancelled", None)

    assert Objective("some", kind, 0.9, 0.1).judge(unknown) == "excluded"
    assert Objective("some", kind, 0.9).judge(Facts("cancelled", 0.1)) == "bad"


@pytest.mark.parametrize(
    ("models", "routes", "covered"),
    [
        ((), (), True),
        (("some-model",), (), True),
        (("other",), (), False),
        ((), ("chat",), True),
        ((), ("search",), False),
        (("some-model", "other"), ("chat", "search"), True),
        (("some-model",), ("search",), False),
        (("other",), ("chat",), False),
    ],
)
def test_covers(models: tuple[str, ...], routes: tuple[str, ...], covered: bool) -> None:
    """An objective judges the models and the routes that it names, both; an empty list names all."""
    objective = Objective("some", "completion", 0.99, T, models, routes)
    loaded = Objectives((objective, INTEGRITY))

    assert objective.covers("some-model", "chat") is covered
    assert loaded.for_stream("some-model", "chat") == ((objective,) if covered else ()) + (INTEGRITY,)
    judged = loaded.judge(Facts("completed"), "some-model", "chat")
    assert judged == (((objective, "good"),) if covered else ()) + ((INTEGRITY, "good"),)


def test_without_a_route() -> None:
    """A stream without a route is judged where no route is named, and only there."""
    assert COMPLETION.covers("some-model", None)
    assert not Objective("some", "completion", 0.99, T, routes=("chat",)).covers("some-model", None)


def test_integrity_of_its_own_faults() -> None:
    """An integrity objective with a fault set of its own is broken by those faults alone, and the first one's set is
    what makes a stream succeeded-then-failed."""
    own = Objective("own", "integrity", 0.99, faults=frozenset({"repetition"}))

    assert own.judge(Facts("completed", fault="repetition", phase="finished")) == "bad"
    assert own.judge(Facts("failed", fault="cut_short")) == "good"
    assert Objectives((COMPLETION, own, INTEGRITY)).faults == {"repetition"}
    assert Objectives((COMPLETION,)).faults == set(BROKEN)


def test_thresholds() -> None:
    """The thresholds of a kind are bounds of its histograms: sorted, each once, whole ones whole, none of others."""
    loaded = Objectives(
        (
            Objective("a", "first_token", 0.95, 2.5),
            Objective("b", "first_token", 0.9, 2.0),
            Objective("c", "first_token", 0.5, 2.5),
            COMPLETION,
            INTEGRITY,
        )
    )

    assert loaded.thresholds("first_token") == (2, 2.5)
    assert [type(bound) for bound in loaded.thresholds("first_token")] == [int, float]
    assert loaded.thresholds("integrity") == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"kind": "completion"},
        {"target": 0.9},
        {"threshold": 3.0},
        {"models": ("a",)},
        {"routes": ("a",)},
        {"faults": frozenset({"stalled"})},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_hash_tells_apart(changes: dict[str, Any]) -> None:
    """What may change a verdict changes the hash; the order of models and the way to write a number do not."""
    fields: dict[str, Any] = {
        "name": "some", "kind": "first_token", "target": 0.95, "threshold": 2.0, "models": ("b", "c"),
    }  # fmt: skip
    known = Objectives((Objective(**fields),)).hash

    assert len(known) == 12
    assert Objectives((Objective(**{**fields, **changes}),)).hash != known
    assert Objectives((Objective(**{**fields, "models": ("c", "b"), "threshold": 2}),)).hash == known


STRICT, LOOSE = 1e-9, 1e9  # seconds no stream keeps, and none exceeds
ENDED: dict[str, tuple[s.ObjectiveKind, dict[str, Any], bool, str]] = {
    "bad before good": ("first_token", {"threshold": (LOOSE, STRICT)}, False, "bad"),
    "bad after good": ("first_token", {"threshold": (STRICT, LOOSE)}, False, "bad"),
    "bad before excluded": ("completion", {"threshold": (STRICT, LOOSE)}, True, "bad"),
    "bad after excluded": ("completion", {"threshold": (LOOSE, STRICT)}, True, "bad"),
    "good twice": ("completion", {"threshold": (LOOSE, LOOSE)}, False, "good"),
    "excluded twice": ("completion", {"threshold": (LOOSE, LOOSE)}, True, "excluded"),
}


@pytest.mark.parametrize("case", ENDED)
def test_the_worst_verdict_is_on_the_span(sim: ProviderSimulator, case: str) -> None:
    """Of several objectives of one kind the span has the worst verdict, in whatever order they are listed."""
    kind, settings, left, want = ENDED[case]
    objectives = tuple(
        Objective(f"objective-{number}", kind, 0.9, threshold) for number, threshold in enumerate(settings["threshold"])
    )
    attribute = {"first_token": s.OBJECTIVE_FIRST_TOKEN, "completion": s.OBJECTIVE_COMPLETION}[kind]
    sim.play(Script().text("Calm seas, then wind."))

    with (
        Recorder(objectives=Objectives(objectives)) as recorder,
        anthropic.Anthropic(base_url=sim.base_url, api_key="unused", max_retries=0) as client,
        client.messages.create(
            model="some-model", max_tokens=64, messages=[{"role": "user", "content": "Go."}], stream=True
        ) as events,
    ):
        for event in events:
            if left and event.type == "content_block_delta":
                break

    assert recorder.stream.outcome == ("cancelled" if left else "completed")
    assert recorder.stream.attributes[attribute] == want
