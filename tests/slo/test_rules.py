# SPDX-License-Identifier: Apache-2.0
"""Every alert fires at the minute it must and stays silent when it must, in Prometheus's own rule tests."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from otelstream._semconv import (
    CANCELLATION_SIDE_EFFECTS,
    CANCELLATIONS,
    INFO,
    OBJECTIVE_STREAMS,
    STREAM_ACTIVE,
    STREAM_REPETITION_COUNT,
    STREAM_RETRIES,
    STREAM_STALLS,
    STREAMS,
    TOOL_CALLS,
)
from otelstream.slo import _rules, _yaml
from otelstream.slo._bundled import bundled_config, folder

from .tools import Check, binary, counter, gauge, run_promtool, series

HOUR, DAY = 60, 1440
CONFIG = bundled_config()
HASH = CONFIG.objectives.hash
BURN = "OtelStream.*BudgetBurn.*"
MODEL = {"gen_ai__provider__name": "anthropic", "gen_ai__request__model": "model-a"}


def judged(result: str, per_minute: list[int], objective: str = "integrity", **labels: str) -> dict[str, str]:
    key = series(
        OBJECTIVE_STREAMS,
        otelstream__objective__name=objective,
        otelstream__objective__result=result,
        **MODEL,
        **labels,
    )
    return {key: counter(per_minute)}


@dataclass(frozen=True)
class Case:
    """A scene: series in, and what fires at which minutes among the alerts that matter to it."""

    name: str
    given: Mapping[str, str]
    checks: tuple[Check, ...]


def scene(name: str, *given: dict[str, str], checks: list[tuple[int, tuple[str, ...]]], among: str) -> Case:
    merged = {key: value for part in given for key, value in part.items()}
    return Case(name, merged, tuple(Check(minute, firing, among) for minute, firing in checks))


def burn(suffix: str, kind: str = "Integrity") -> str:
    return f"OtelStream{kind}BudgetBurn{suffix}"


QUIET: tuple[str, ...] = ()
BURN_CASES = [
    # 10 streams a minute, from minute 120 all bad. 5 of 65 minutes pass 14.4 x 0.5 % = 7.2 % of the hour.
    scene(
        "fast burn pages within seven minutes",
        judged("good", [10] * 120 + [0] * 60),
        judged("bad", [0] * 120 + [10] * 60),
        checks=[(126, QUIET), (127, (burn("1h"),))],
        among=burn("1h"),
    ),
    scene(
        "the six hour pair pages a burn of four per cent",
        judged("good", [96] * 420),
        judged("bad", [4] * 420),
        checks=[(15, QUIET), (16, (burn("6h"),))],
        among=burn("(1h|6h)"),
    ),
    scene(
        "two per cent is a ticket after an hour, never a page",
        judged("good", [98] * 200),
        judged("bad", [2] * 200),
        checks=[(61, QUIET), (62, (burn("1d"),)), (179, (burn("1d"),))],
        among=burn("(1h|6h|1d)"),
    ),
    scene(
        "a slow burn of 0.6 per cent is a ticket after three hours and nothing else",
        judged("good", [994] * 300),
        judged("bad", [6] * 300),
        checks=[(180, QUIET), (181, (burn("3d"),)), (299, (burn("3d"),))],
        among=BURN,
    ),
    scene(
        "within budget is silence",
        judged("good", [996] * 300),
        judged("bad", [4] * 300),
        checks=[(60, QUIET), (299, QUIET)],
        among=BURN,
    ),
    # The 5-minute window is clean six minutes after the last failure; a page is kept for 15 minutes.
    scene(
        "a recovered burn resolves, though the hour still looks bad",
        judged("good", [10] * 120 + [0] * 20 + [10] * 60),
        judged("bad", [0] * 120 + [10] * 20 + [0] * 60),
        checks=[(139, (burn("1h"),)), (155, (burn("1h"),)), (165, QUIET)],
        among=burn("1h"),
    ),
    scene(
        "the first failures of a model count from an exported zero",
        judged("good", [1] * 120),
        judged("bad", [0] * 60 + [3] * 5 + [0] * 55),
        checks=[(63, QUIET), (64, (burn("1h"),))],
        among=burn("1h"),
    ),
    scene(
        "one failure among four streams an hour wakes nobody",
        judged("good", [1 if m % 20 == 0 else 0 for m in range(400)]),
        judged("bad", [1 if m % 60 == 30 else 0 for m in range(90)] + [0] * 310),
        checks=[(m, QUIET) for m in (31, 33, 36, 60, 93, 96, 120, 300, 399)],
        among=burn("(1h|6h)"),
    ),
    # 12 minutes apart: a minimum of total would never page this. The third failure is in minute 25.
    scene(
        "a dead service of five streams an hour pages",
        judged("good", [0] * 300),
        judged("bad", [1 if m % 12 == 0 else 0 for m in range(300)]),
        checks=[
            (26, QUIET),
            (27, (burn("1h"),)),
            (32, (burn("1h"),)),
            (
                280,
                (
                    burn(
                        "1h",
                    ),
                    burn("6h"),
                ),
            ),
        ],
        among=burn("(1h|6h)"),
    ),
    Case(
        "a counter reset is not a burst and hides no burn",
        {
            **{k: counter([10] * 60) + " " + counter([10] * 60) for k in judged("good", [])},
            **{k: counter([0] * 60) + " " + counter([0] * 60) for k in judged("bad", [])},
            **{k: counter([5] * 60) + " " + counter([5] * 60) for k in judged("bad", [], objective="completion")},
            **{k: counter([5] * 60) + " " + counter([5] * 60) for k in judged("good", [], objective="completion")},
        },
        tuple(
            Check(m, (burn("1h", "Completion"), burn("6h", "Completion")), "OtelStream.*BudgetBurn(1h|6h)")
            for m in (58, 62, 66, 115)
        ),
    ),
    scene(
        "without the bad series there is no ratio and no alarm",
        judged("good", [10] * 120),
        checks=[(60, QUIET), (119, QUIET)],
        among=BURN,
    ),
    scene(
        "excluded streams neither burn nor dilute",
        judged("good", [10] * 120),
        judged("bad", [1] * 120),
        judged("excluded", [1000] * 120),
        checks=[(100, (burn("1h"), burn("6h")))],
        among=burn("(1h|6h)"),
    ),
    scene(
        "folded label sets are left out of the objectives and have their own alert",
        judged("good", [10] * 120),
        judged("bad", [0] * 120),
        judged("bad", [50] * 120, otel__metric__overflow="true"),
        checks=[(4, QUIET), (5, ("OtelStreamLabelOverflow",)), (119, ("OtelStreamLabelOverflow",))],
        among=f"{BURN}|OtelStreamLabelOverflow",
    ),
    scene(
        "a late first token burns its own objective only",
        judged("good", [1] * 60, objective="first-token"),
        judged("bad", [9] * 60, objective="first-token"),
        judged("good", [10] * 60, objective="completion"),
        judged("bad", [0] * 60, objective="completion"),
        checks=[
            (2, QUIET),
            (3, (burn("1h", "FirstToken"),)),
            (50, (burn("1h", "FirstToken"), burn("6h", "FirstToken"))),
        ],
        among="OtelStream.*BudgetBurn(1h|6h)",
    ),
    scene(
        "first token: the ticket pairs",
        judged("good", [82] * 300, objective="first-token"),
        judged("bad", [18] * 300, objective="first-token"),
        checks=[
            (60, QUIET),
            (61, (burn("1d", "FirstToken"),)),
            (181, (burn("1d", "FirstToken"), burn("3d", "FirstToken"))),
        ],
        among=BURN,
    ),
    scene(
        "first token: five in a hundred late is what was promised",
        judged("good", [95] * 300, objective="first-token"),
        judged("bad", [5] * 300, objective="first-token"),
        checks=[(181, QUIET), (299, QUIET)],
        among=BURN,
    ),
    scene(
        "completion: the ticket pairs",
        judged("good", [96] * 300, objective="completion"),
        judged("bad", [4] * 300, objective="completion"),
        checks=[
            (60, QUIET),
            (61, (burn("1d", "Completion"),)),
            (182, (burn("1d", "Completion"), burn("3d", "Completion"))),
        ],
        among=BURN,
    ),
    scene(
        "completion: within budget is silence",
        judged("good", [995] * 300, objective="completion"),
        judged("bad", [5] * 300, objective="completion"),
        checks=[(182, QUIET), (299, QUIET)],
        among=BURN,
    ),
]


def active(state: str, values: list[float]) -> dict[str, str]:
    return {series(STREAM_ACTIVE, otelstream__stream__state=state, **MODEL): gauge(values)}


def cancels(propagation: str, per_minute: list[int]) -> dict[str, str]:
    key = series(
        CANCELLATIONS,
        otelstream__cancel__trigger="user_stop",
        otelstream__cancel__propagation=propagation,
        otelstream__cancel__at="text",
        **MODEL,
    )
    return {key: counter(per_minute)}


def side_effects(state: str, values: str) -> dict[str, str]:
    return {series(CANCELLATION_SIDE_EFFECTS, otelstream__cancel__side_effect=state, **MODEL): values}


def tool(values: str, phase: str = "after_end", good: str = "valid") -> dict[str, str]:
    key = series(
        TOOL_CALLS,
        gen_ai__tool__name="send_email",
        otelstream__tool_call__effect="write",
        otelstream__tool_call__dispatch__phase=phase,
        otelstream__tool_call__input=good,
        otelstream__tool_call__state="committed",
    )
    return {key: values}


def streams(per_minute: list[int]) -> dict[str, str]:
    key = series(
        STREAMS,
        otelstream__stream__outcome="completed",
        otelstream__stream__phase="finished",
        otelstream__stream__fault="none",
        **MODEL,
    )
    return {key: counter(per_minute)}


def events(metric: object, per_minute: list[int], **labels: str) -> dict[str, str]:
    return {series(metric, **MODEL, **labels): counter(per_minute)}  # type: ignore[arg-type]


def info(values: str, digest: str = HASH) -> dict[str, str]:
    return {series(INFO, otelstream__objectives__hash=digest, otelstream__version="0.1.0"): values}


def text(kind: str = "text") -> dict[str, str]:
    return {"otelstream__block__kind": kind}


SYMPTOM_CASES = [
    scene(
        "half of the open streams silent for five minutes pages",
        active("flowing", [5] * 60),
        active("stalled", [0] * 10 + [5] * 50),
        checks=[(14, QUIET), (15, ("OtelStreamStreamsHanging",))],
        among="OtelStreamStreamsHanging",
    ),
    scene(
        "a few short pauses in a busy service are no hanging",
        active("flowing", [95] * 60),
        active("stalled", [5, 0, 6, 4] * 15),
        checks=[(m, QUIET) for m in (5, 30, 59)],
        among="OtelStreamStreamsHanging",
    ),
    scene(
        "one silent stream of one is left to the objectives",
        active("flowing", [0] * 60),
        active("stalled", [1] * 60),
        checks=[(30, QUIET)],
        among="OtelStreamStreamsHanging",
    ),
    scene(
        "cancels read on to the end are told after five minutes",
        cancels("closed", [1] * 60),
        cancels("drained", [0] * 20 + [2] * 40),
        checks=[(27, QUIET), (28, ("OtelStreamCancelNotPropagated",))],
        among="OtelStreamCancelNotPropagated",
    ),
    scene(
        "cancels that close, or need not, are fine",
        cancels("closed", [3] * 60),
        cancels("not_needed", [3] * 60),
        cancels("closed_late", [1 if m == 30 else 0 for m in range(60)]),
        checks=[(20, QUIET), (40, QUIET), (59, QUIET)],
        among="OtelStreamCancelNotPropagated",
    ),
    scene(
        "a side effect of a stopped turn is told after fifteen minutes, even the first ever",
        side_effects("committed", "_x20 1+0x100"),
        checks=[(34, QUIET), (35, ("OtelStreamSideEffectsLeft",))],
        among="OtelStreamSideEffectsLeft",
    ),
    scene(
        "half compensated is still left",
        side_effects("committed", counter([0] * 10 + [2] + [0] * 90)),
        side_effects("compensated", counter([0] * 12 + [1] + [0] * 88)),
        checks=[(60, ("OtelStreamSideEffectsLeft",))],
        among="OtelStreamSideEffectsLeft",
    ),
    scene(
        "compensated in time is silence",
        side_effects("committed", counter([0] * 10 + [1] + [0] * 90)),
        side_effects("compensated", counter([0] * 15 + [1] + [0] * 85)),
        checks=[(26, QUIET), (27, QUIET), (60, QUIET), (100, QUIET)],
        among="OtelStreamSideEffectsLeft",
    ),
    scene(
        "a tool that starts before its input is complete is told within a minute, even the first ever",
        tool("_x30 1+0x60", phase="before_ready"),
        checks=[(30, QUIET), (31, ("OtelStreamToolDispatchedEarly",))],
        among="OtelStreamTool.*",
    ),
    scene(
        "an early start of the hour before is not told again",
        tool("5+0x300", phase="before_ready"),
        checks=[(30, ("OtelStreamToolDispatchedEarly",)), (62, QUIET), (200, QUIET)],
        among="OtelStreamTool.*",
    ),
    scene(
        "a tool that ran with broken input is told",
        tool("0+0x30 1+0x60", good="invalid"),
        checks=[(31, QUIET), (32, ("OtelStreamToolInputInvalid",))],
        among="OtelStreamTool.*",
    ),
    scene(
        "a broken call that nobody ran is only counted",
        tool("0+1x60", phase="never", good="invalid"),
        tool("0+1x60", phase="mid_stream"),
        checks=[(30, QUIET), (59, QUIET)],
        among="OtelStreamTool.*",
    ),
    scene(
        "loops in two of a hundred answers are told",
        streams([10] * 120),
        events(STREAM_REPETITION_COUNT, [1 if m % 5 == 0 else 0 for m in range(120)], **text()),
        checks=[(15, QUIET), (16, ("OtelStreamRepetitionLoops",))],
        among="OtelStreamRepetitionLoops",
    ),
    scene(
        "a loop in a thousand answers is not",
        streams([100] * 120),
        events(STREAM_REPETITION_COUNT, [1 if m % 10 == 0 else 0 for m in range(120)], **text()),
        checks=[(60, QUIET), (119, QUIET)],
        among="OtelStreamRepetitionLoops",
    ),
    scene(
        "pauses of the provider in the text are told after ten minutes",
        streams([10] * 60),
        events(STREAM_STALLS, [1] * 60, otelstream__stall__source="provider", **text()),
        checks=[(14, QUIET), (15, ("OtelStreamProviderStalls",))],
        among="OtelStreamProviderStalls",
    ),
    scene(
        "pauses before buffered tool input, and our own, are not the provider's",
        streams([10] * 60),
        events(STREAM_STALLS, [5] * 60, otelstream__stall__source="provider", **text("tool_input")),
        events(STREAM_STALLS, [5] * 60, otelstream__stall__source="consumer", **text()),
        checks=[(30, QUIET), (59, QUIET)],
        among="OtelStreamProviderStalls",
    ),
    scene(
        "retries that rise over yesterday are told",
        streams([10] * (DAY + 120)),
        events(STREAM_RETRIES, [0] * DAY + [5] * 120, error__type="overloaded_error"),
        checks=[(DAY + 16, QUIET), (DAY + 17, ("OtelStreamRetriesRising",))],
        among="OtelStreamRetriesRising",
    ),
    scene(
        "retries as usual are silence",
        streams([10] * (DAY + 120)),
        events(STREAM_RETRIES, [2] * (DAY + 120), error__type="overloaded_error"),
        checks=[(DAY, QUIET), (DAY + 100, QUIET)],
        among="OtelStreamRetriesRising",
    ),
    scene(
        "series within the limit are no overflow",
        streams([10] * 60),
        checks=[(30, QUIET)],
        among="OtelStreamLabelOverflow",
    ),
    scene(
        "a process with other objectives is told after a quarter of an hour",
        info("1+0x60"),
        {key.replace("a:1", "b:1"): value for key, value in info("1+0x60", "0123456789ab").items()},
        checks=[(14, QUIET), (15, ("OtelStreamObjectivesDiffer",))],
        among="OtelStreamObjectivesDiffer",
    ),
    scene(
        "the same objectives are silence",
        info("1+0x60"),
        checks=[(30, QUIET)],
        among="OtelStreamObjectivesDiffer",
    ),
    # Prometheus forgets a series five minutes after its last sample, then the alert waits ten.
    scene(
        "a job that stops reporting is told",
        info("1+0x60"),
        checks=[(60, QUIET), (75, QUIET), (76, ("OtelStreamTelemetrySilent",))],
        among="OtelStreamTelemetrySilent",
    ),
    scene(
        "a job without traffic still reports",
        info("1+0x600"),
        streams([0] * 600),
        checks=[(100, QUIET), (599, QUIET)],
        among="OtelStreamTelemetrySilent",
    ),
]


def groups_for(case: Case, shape: str) -> list[dict[str, Any]]:
    """The groups that matter to a case, as Prometheus gets them or as Grafana evaluates them: `raw`."""
    wanted = re.compile("|".join(check.among for check in case.checks))
    matter = [alert for alert in _rules.alerts(CONFIG) if wanted.fullmatch(alert.name)]
    if shape == "raw":
        return [{"name": "raw", "rules": [_rules.alert_rule(CONFIG, alert, raw=True) for alert in matter]}]
    endings = tuple({f"-{alert.objective}" for alert in matter if alert.objective})
    groups = [group for group in _rules.groups(CONFIG) if endings and group["name"].endswith(endings)]
    rules = [_rules.alert_rule(CONFIG, alert) for alert in matter if not alert.objective]
    return [*groups, *([{"name": "otelstream-symptoms", "rules": rules}] if rules else [])]


@pytest.mark.parametrize("shape", ["recorded", pytest.param("raw", marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", BURN_CASES + SYMPTOM_CASES, ids=lambda case: case.name)
def test_alerts(case: Case, shape: str, tmp_path: Path) -> None:
    """The scene's alerts fire at the minute they must, and no other of its alerts does."""
    complaint = run_promtool(groups_for(case, shape), case.given, case.checks, tmp_path)

    assert complaint == ""


def test_every_alert_has_both_cases() -> None:
    """Each alert has a scene in which it fires and one in which it is looked for and silent."""
    checks = [check for case in BURN_CASES + SYMPTOM_CASES for check in case.checks]
    names = {alert.name for alert in _rules.alerts(CONFIG)}

    fired = {name for check in checks for name in check.firing}
    silent = {n for n in names for check in checks if re.fullmatch(check.among, n) and n not in check.firing}

    assert fired == names
    assert silent == names


def test_promtool_accepts_the_rules(tmp_path: Path) -> None:
    """promtool finds no fault in the committed rules, nor in the queries of Grafana's alerts."""
    raw = tmp_path / "raw.yaml"
    rules = [_rules.alert_rule(CONFIG, alert, raw=True) for alert in _rules.alerts(CONFIG)]
    raw.write_text(_yaml.dump({"groups": [{"name": "raw", "rules": rules}]}), encoding="utf-8")

    for path in (raw, folder() / "rules" / "otelstream.rules.yaml"):
        done = subprocess.run(
            [binary("promtool"), "check", "rules", str(path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
