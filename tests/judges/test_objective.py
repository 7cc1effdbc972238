# SPDX-License-Identifier: Apache-2.0
"""The objective of kind `reversal`: what it judges, and what the file, the rules and the runbook make of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import otelstream
from otelstream import _semconv as s
from otelstream._core.record.objectives import BUNDLED_OBJECTIVES, Objective, Objectives
from otelstream._objectives_file import ObjectivesError, parse
from otelstream.slo._rules import groups
from otelstream.slo._runbook import runbook
from otelstream.testing import Script

KEPT = {"name": "word-is-kept", "kind": "reversal", "target": 0.99}


def stream(reversals: dict[str, int], **more: Any) -> Any:
    return SimpleNamespace(reversals=reversals, fault="none", outcome="completed", **more)


@pytest.mark.parametrize(
    ("reversals", "judges", "result"),
    [
        ({}, (), "excluded"),
        ({"safe": 0}, (), "good"),
        ({"safe": 2}, (), "bad"),
        ({"safe": 0, "guard": 1}, (), "bad"),
        ({"safe": 0, "guard": 1}, ("safe",), "good"),
        ({"guard": 1}, ("safe",), "excluded"),
    ],
)
def test_what_it_judges(reversals: dict[str, int], judges: tuple[str, ...], result: str) -> None:
    """Bad: a judge of those named took a verdict back; no verdict of theirs: not counted."""
    objective = Objective("kept", "reversal", 0.99, judges=judges)
    assert objective.judge(stream(reversals)) == result


def test_off_by_default() -> None:
    """No bundled objective is of this kind; the hash of a file changes with the judges that it names."""
    assert not [objective for objective in BUNDLED_OBJECTIVES if objective.kind == "reversal"]
    hashes = {Objectives((Objective("kept", "reversal", 0.99, judges=judges),)).hash for judges in ((), ("safe",))}
    assert len(hashes) == 2


def test_of_a_real_stream(scene: Any, judge: Any) -> None:
    """With such an objective a stream's verdict is on its span and counted."""
    objectives = parse({"objectives": [KEPT]}).objectives
    otelstream.instrument(
        spans="own",
        objectives=objectives,
        tracer_provider=scene.telemetry.tracer_provider,
        meter_provider=scene.telemetry.meter_provider,
    )
    judge()
    for text, result in (("Yes. No.", "bad"), ("Yes. Yes.", "good"), ("Well.", "excluded")):
        scene.text(scene.opened(Script().text(text)))
        assert scene.span().attributes[s.OBJECTIVE_REVERSAL] == result
    counted = {
        dict(labels)[s.OBJECTIVE_RESULT]: n for labels, n in scene.telemetry.values(s.OBJECTIVE_TOTAL.name).items()
    }
    assert counted == {"bad": 1, "good": 1, "excluded": 1}


def test_the_file() -> None:
    """`judges` belongs to this kind alone, and a name that is none is refused."""
    config = parse({"objectives": [{**KEPT, "judges": ["safe-to-ship"]}]})
    assert config.objectives.items[0].judges == ("safe-to-ship",)
    integrity = {"name": "integrity", "kind": "integrity", "target": 0.99, "judges": ["safe"]}
    with pytest.raises(ObjectivesError, match="judges"):
        parse({"objectives": [integrity]})
    with pytest.raises(ObjectivesError, match="Safe to ship"):
        parse({"objectives": [{**KEPT, "judges": ["Safe to ship"]}]})


def test_rules_and_runbook() -> None:
    """Its alerts are named after it and say what happened; the runbook explains them."""
    config = parse({"objectives": [KEPT]})
    rules = str(groups(config))
    assert "OtelStreamReversalBudgetBurnPage" in rules
    assert "took back a verdict that people had read" in rules
    assert "what was said is not taken back" in runbook(config)
    assert "## Reversal objective" in runbook(config)
