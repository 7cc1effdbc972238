# SPDX-License-Identifier: Apache-2.0
"""Scenes for the alerts: series in, and what must fire at which minute, and what must not.

Written as promtool files beside the rules: `promtool test rules dashboards/rules/tests/*` runs them as they stand.

python -m slo.scenarios [-o FOLDER] [--timeline]      in tests/
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otelstream._semconv import (
    CANCELLATION_SIDE_EFFECTS,
    CANCELLATIONS,
    CLOCK,
    FOLDED,
    INFO,
    OBJECTIVE_TOTAL,
    START_TIME,
    STREAM_ACTIVE,
    STREAM_REPETITION_COUNT,
    STREAM_RETRIES,
    STREAM_STALLS,
    STREAMS,
    TOOL_CALLS,
)
from otelstream.slo import _rules, _yaml
from otelstream.slo._bundled import bundled_config, folder

from .tools import Check, counter, gauge, series

DAY = 1440
CONFIG = bundled_config()
HASH = CONFIG.objectives.hash
MODEL = {"gen_ai__provider__name": "anthropic", "gen_ai__request__model": "model-a"}
Span = tuple[int, int]  # the first minute and the last


@dataclass(frozen=True)
class Scene:
    """Series in, for so many minutes; when which alerts fire, and that no other of those that `among` names does."""

    name: str
    given: Mapping[str, str]
    minutes: int
    among: str
    fires: Mapping[str, tuple[Span, ...]]

    @property
    def checks(self) -> tuple[Check, ...]:
        """Each minute before something changes, and that in which it has."""
        edges = {
            edge
            for spans in self.fires.values()
            for first, last in spans
            for edge in (first - 1, first, last, last + 1)
        }
        edges |= {1, self.minutes // 2, self.minutes - 1}
        return tuple(
            Check(
                minute,
                tuple(sorted(name for name, spans in self.fires.items() if any(a <= minute <= b for a, b in spans))),
                self.among,
            )
            for minute in sorted(edges)
            if 0 <= minute < self.minutes
        )


def scene(
    name: str, *given: dict[str, str], minutes: int, among: str, fires: Mapping[str, tuple[Span, ...]] | None = None
) -> Scene:
    merged = {key: value for part in given for key, value in part.items()}
    if not any(key.startswith(START_TIME.prometheus) for key in merged):
        merged |= since(-1_000_000, minutes)
    return Scene(name, merged, minutes, among, fires or {})


def since(start: int, minutes: int, instance: str = "a:1", first: int = 0) -> dict[str, str]:
    """A process that began to count at that second, and reports from minute `first` on."""
    began = f"_x{first} {start}x{minutes}" if first else f"{start}x{minutes}"
    return {series(START_TIME, instance=instance): began}


def judged(
    result: str, per_minute: list[int], objective: str = "integrity", *, start: int = 0, first: int = 0, **labels: str
) -> dict[str, str]:
    key = series(OBJECTIVE_TOTAL, otelstream__objective__name=objective, otelstream__objective__result=result, **labels)
    return {key: (f"_x{first} " if first else "") + counter(per_minute, start)}


def both(bad: list[int], good: list[int], objective: str = "integrity", **more: Any) -> dict[str, str]:
    return {**judged("bad", bad, objective, **more), **judged("good", good, objective, **more)}


def active(state: str, values: list[float]) -> dict[str, str]:
    return {series(STREAM_ACTIVE, otelstream__stream__state=state, **MODEL): gauge(values)}


def cancels(propagation: str, per_minute: list[int]) -> dict[str, str]:
    key = series(
        CANCELLATIONS,
        otelstream__cancel__trigger="user_stop",
        otelstream__cancel__propagation=propagation,
        otelstream__cancel__at="text",
    )
    return {key: counter(per_minute)}


def side_effects(state: str, values: str) -> dict[str, str]:
    return {series(CANCELLATION_SIDE_EFFECTS, otelstream__cancel__side_effect=state): values}


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


ENDED = {
    "otelstream__stream__outcome": "completed",
    "otelstream__stream__phase": "finished",
    "otelstream__stream__fault": "none",
    **MODEL,
}


def streams(per_minute: list[int]) -> dict[str, str]:
    return {series(STREAMS, **ENDED): counter(per_minute)}


def events(metric: object, per_minute: list[int], **labels: str) -> dict[str, str]:
    return {series(metric, **MODEL, **labels): counter(per_minute)}  # type: ignore[arg-type]


def info(values: str, digest: str = HASH) -> dict[str, str]:
    return {series(INFO, otelstream__objectives__hash=digest, otelstream__version="0.1.0"): values}


def text(kind: str = "text") -> dict[str, str]:
    return {"otelstream__block__kind": kind}


PAGE, TICKET = (f"OtelStreamIntegrityBudgetBurn{severity}" for severity in ("Page", "Ticket"))
LATE_PAGE, LATE_TICKET = PAGE.replace("Integrity", "FirstToken"), TICKET.replace("Integrity", "FirstToken")
LONG_PAGE, LONG_TICKET = PAGE.replace("Integrity", "Completion"), TICKET.replace("Integrity", "Completion")
BURN = "OtelStream.*BudgetBurn.*"
HANGING, LEFT = "OtelStreamStreamsHanging", "OtelStreamSideEffectsLeft"


def at(minutes: Iterable[int], length: int, count: int = 1) -> list[int]:
    """So many at those minutes, none between."""
    hits = set(minutes)
    return [count if minute in hits else 0 for minute in range(length)]


def crash_loop(lives: int, objective: str, **more: Any) -> dict[str, str]:
    """A new process every minute: each is scraped four times, has begun shortly before, and all it does is bad."""
    given: dict[str, str] = {}
    for life in range(lives):
        name = f"pod-{life}:1"
        for result, values in (("bad", "1 2"), ("good", "0 0")):
            key = series(
                OBJECTIVE_TOTAL, instance=name, otelstream__objective__name=objective,
                otelstream__objective__result=result,
            )  # fmt: skip
            given[key] = (f"_x{life} " if life else "") + values + " stale"
        given[series(START_TIME, instance=name)] = (f"_x{life} " if life else "") + f"{life * 60 - 20}x1 stale"
    return given


# The clock of a process that lives, and of one that died at minute 10 and whose gauges are kept by a Collector.
ALIVE = {series(CLOCK): "0+60x120"}
SCENES = (
    # --- objectives: 14.4 x 0.5 % = 7.2 % of the hour is passed by 5 bad minutes of 65
    scene(
        "a fast burn pages within ten minutes",
        both([0] * 120 + [10] * 60, [10] * 120 + [0] * 60),
        minutes=180, among=PAGE, fires={PAGE: ((127, 179),)},
    ),
    scene(
        "a burn of four per cent pages by the six hour windows",
        both([4] * 420, [96] * 420),
        minutes=420, among=PAGE, fires={PAGE: ((7, 419),)},
    ),
    scene(
        "two per cent is a ticket after some hours, never a page",
        both([2] * 400, [98] * 400),
        minutes=400, among=f"{PAGE}|{TICKET}", fires={TICKET: ((67, 399),)},
    ),
    scene(
        "a slow burn of 0.6 per cent is a ticket, and nothing else",
        both([6] * 700, [994] * 700),
        minutes=700, among=BURN, fires={TICKET: ((64, 699),)},
    ),
    scene("within budget is silence", both([4] * 300, [996] * 300), minutes=300, among=BURN),
    scene(
        "a burn that is over stays for an hour, and then resolves though the hours look bad",
        both([0] * 120 + [10] * 20 + [0] * 200, [10] * 120 + [0] * 20 + [10] * 200),
        minutes=340, among=PAGE, fires={PAGE: ((127, 229),)},
    ),
    scene(
        "the first failures of a process count from an exported zero",
        both([0] * 60 + [3] * 9 + [0] * 111, [1] * 180),
        minutes=180, among=PAGE, fires={PAGE: ((65, 158),)},
    ),
    scene(
        "one failure among four streams an hour wakes nobody",
        both(at((30, 90), 400), at(range(0, 400, 20), 400)),
        minutes=400, among=PAGE,
    ),
    scene(
        "a dead service of five streams an hour pages at the third",
        both(at(range(0, 300, 12), 300), [0] * 300),
        minutes=300, among=PAGE, fires={PAGE: ((27, 299),)},
    ),
    scene(
        "a dead service of one stream an hour is one page, not one an hour",
        both(at(range(30, 1200, 60), 1200), [0] * 1200),
        minutes=1200, among=PAGE, fires={PAGE: ((155, 1199),)},
    ),
    scene(
        "four bad every fifty minutes are one page",
        both(at(range(30, 1000, 50), 1000, 4), [0] * 1000),
        minutes=1000, among=PAGE, fires={PAGE: ((83, 999),)},
    ),
    scene(
        "bursts four hours apart are an incident each",
        both([3 if minute % 300 in range(30, 50) else 0 for minute in range(900)], [0] * 900),
        minutes=900, among=PAGE, fires={PAGE: ((35, 152), (333, 452), (633, 752),)},
    ),
    scene(
        "two bad in six hours, all that there is, are one ticket",
        both(at([m for day in range(12) for m in (day * 360 + 60, day * 360 + 120)], 2400), [0] * 2400),
        minutes=2400, among=TICKET, fires={TICKET: ((483, 2399),)},
    ),
    scene(
        "three bad within three minutes of a quiet night wake nobody",
        both(at((200, 201, 202), 600), at(range(0, 600, 30), 600)),
        minutes=600, among=PAGE,
    ),
    scene(
        "a restart is no burst and hides no burn",
        {key: counter([5] * 60) + " " + counter([5] * 60)
         for key in both([], [], "completion")},
        minutes=120, among=LONG_PAGE, fires={LONG_PAGE: ((4, 119),)},
    ),
    scene("without the bad series there is no ratio and no alarm", judged("good", [10] * 120), minutes=120, among=BURN),
    scene(
        "excluded streams neither burn nor dilute",
        both([1] * 120, [10] * 120), judged("excluded", [1000] * 120),
        minutes=120, among=PAGE, fires={PAGE: ((10, 119),)},
    ),
    scene(
        "a late first token burns its own objective only",
        both([9] * 60, [1] * 60, "first-token"), both([0] * 60, [10] * 60, "completion"),
        minutes=60, among=f"{LATE_PAGE}|{LONG_PAGE}|{PAGE}", fires={LATE_PAGE: ((3, 59),)},
    ),
    scene(
        "first token: the ticket pairs", both([18] * 300, [82] * 300, "first-token"),
        minutes=300, among=BURN, fires={LATE_TICKET: ((62, 299),)},
    ),
    scene(
        "first token: five in a hundred late is what was promised",
        both([5] * 300, [95] * 300, "first-token"),
        minutes=300, among=BURN,
    ),
    scene(
        "completion: the ticket pairs", both([4] * 300, [96] * 300, "completion"),
        minutes=300, among=BURN, fires={LONG_TICKET: ((65, 299),)},
    ),
    scene("completion: within budget is silence", both([5] * 300, [995] * 300, "completion"), minutes=300, among=BURN),
    # --- births
    scene(
        "a crash loop pages within ten minutes by integrity", crash_loop(40, "integrity"),
        minutes=42, among=PAGE, fires={PAGE: ((6, 41),)},
    ),
    scene(
        "a crash loop pages within ten minutes by completion",
        crash_loop(40, "completion"),
        minutes=42, among=LONG_PAGE, fires={LONG_PAGE: ((6, 41),)},
    ),
    scene(
        "a crash loop beside healthy traffic pages within a quarter of an hour",
        crash_loop(60, "completion"),
        both([0] * 62, [4] * 62, "completion"), since(-1_000_000, 62),
        minutes=62, among=LONG_PAGE, fires={LONG_PAGE: ((6, 61),)},
    ),
    scene(
        "a new Prometheus counts no old total as new",
        both([0] * 120, [1] * 120, start=500), since(-1_000_000, 120),
        minutes=120, among=BURN,
    ),
    scene(
        "a series that returns after two hours counts no old total as new",
        {key: f"100+0x30 _x120 {value}+{step}x60" for (key, step), value in zip(
            ((series(OBJECTIVE_TOTAL, otelstream__objective__name="integrity", otelstream__objective__result=r), s)
             for r, s in (("bad", 0), ("good", 1))), (140, 900), strict=True)},
        {series(START_TIME): "-1000000x30 _x120 -1000000x60"},
        minutes=210, among=BURN,
    ),
    scene(
        "side effects of old are not told again by a new Prometheus",
        side_effects("committed", "7x400"),
        minutes=400, among=LEFT,
    ),
    # --- what hangs
    scene(
        "half of the open streams silent for five minutes pages",
        active("flowing", [5] * 60), active("stalled", [0] * 10 + [5] * 50), streams([0] * 60), ALIVE,
        minutes=60, among=HANGING, fires={HANGING: ((15, 59),)},
    ),
    scene(
        "a total hang pages within ten minutes, though nothing has ever completed",
        active("flowing", [5] * 10 + [0] * 50), active("stalled", [0] * 11 + [8] * 49), ALIVE,
        minutes=60, among=HANGING, fires={HANGING: ((16, 59),)},
    ),
    scene(
        "healthy thinkers, four in ten silent, are no hanging",
        active("flowing", [6] * 60), active("stalled", [4] * 60), streams([2] * 60), ALIVE,
        minutes=60, among=HANGING,
    ),
    scene(
        "a few short pauses in a busy service are no hanging",
        active("flowing", [95] * 60), active("stalled", [5, 0, 6, 4] * 15), streams([60] * 60), ALIVE,
        minutes=60, among=HANGING,
    ),
    scene(
        "one silent stream of one is left to the objectives",
        active("flowing", [0] * 60), active("stalled", [1] * 60), ALIVE,
        minutes=60, among=HANGING,
    ),
    scene(
        "the gauges of a process that is dead are nobody's streams",
        active("flowing", [5] * 60), active("stalled", [0] * 9 + [5] * 51), {series(CLOCK): "0+60x10 600x50"},
        minutes=60, among=HANGING,
    ),
    # --- stops and tools
    scene(
        "cancels read on to the end are told after five minutes",
        cancels("closed", [1] * 60), cancels("drained", [0] * 20 + [2] * 40),
        minutes=60, among="OtelStreamCancelNotPropagated", fires={"OtelStreamCancelNotPropagated": ((28, 59),)},
    ),
    scene(
        "cancels that close, or need not, are fine",
        cancels("closed", [3] * 60), cancels("not_needed", [3] * 60), cancels("closed_late", at((30,), 60)),
        minutes=60, among="OtelStreamCancelNotPropagated",
    ),
    scene(
        "a side effect of a stopped turn is told, even the first ever",
        side_effects("committed", "_x20 1x100"), since(600, 121),
        minutes=120, among=LEFT, fires={LEFT: ((35, 119),)},
    ),
    scene(
        "half compensated is still left",
        side_effects("committed", counter(at((10,), 101, 2))), side_effects("compensated", counter(at((12,), 101))),
        minutes=100, among=LEFT, fires={LEFT: ((26, 99),)},
    ),
    scene(
        "compensated in time is silence",
        side_effects("committed", counter(at((10,), 101))), side_effects("compensated", counter(at((15,), 101))),
        minutes=100, among=LEFT,
    ),
    scene(
        "a tool that starts before its input is complete is told, even the first ever",
        tool("_x30 1x60", phase="before_ready"), since(600, 91),
        minutes=90, among="OtelStreamTool.*", fires={"OtelStreamToolDispatchedEarly": ((31, 89),)},
    ),
    scene(
        "an early start of before this Prometheus is not told",
        tool("5x300", phase="before_ready"),
        minutes=300, among="OtelStreamTool.*",
    ),
    scene(
        "a tool that ran with broken input is told",
        tool("0x30 1x60", good="invalid"),
        minutes=90, among="OtelStreamTool.*", fires={"OtelStreamToolInputInvalid": ((32, 89),)},
    ),
    scene(
        "a broken call that nobody ran is only counted",
        tool("0+1x60", phase="never", good="invalid"), tool("0+1x60", phase="mid_stream"),
        minutes=60, among="OtelStreamTool.*",
    ),
    # --- texture
    scene(
        "loops in two of a hundred answers are told",
        streams([10] * 120), events(STREAM_REPETITION_COUNT, at(range(0, 120, 5), 120), **text()),
        minutes=120, among="OtelStreamRepetitionLoops", fires={"OtelStreamRepetitionLoops": ((16, 119),)},
    ),
    scene(
        "a loop in a thousand answers is not",
        streams([100] * 120), events(STREAM_REPETITION_COUNT, at(range(0, 120, 10), 120), **text()),
        minutes=120, among="OtelStreamRepetitionLoops",
    ),
    scene(
        "pauses of the provider in the text are told",
        streams([10] * 60), events(STREAM_STALLS, [1] * 60, otelstream__stall__source="provider", **text()),
        minutes=60, among="OtelStreamProviderStalls", fires={"OtelStreamProviderStalls": ((15, 59),)},
    ),
    scene(
        "pauses before buffered tool input, and our own, are not the provider's",
        streams([10] * 60),
        events(STREAM_STALLS, [5] * 60, otelstream__stall__source="provider", **text("tool_input")),
        events(STREAM_STALLS, [5] * 60, otelstream__stall__source="consumer", **text()),
        minutes=60, among="OtelStreamProviderStalls",
    ),
    scene(
        "retries that rise over yesterday are told",
        streams([10] * (DAY + 120)),
        events(STREAM_RETRIES, [0] * DAY + [5] * 120, error__type="overloaded_error"),
        minutes=DAY + 120, among="OtelStreamRetriesRising", fires={"OtelStreamRetriesRising": ((1457, 1559),)},
    ),
    scene(
        "retries as usual are silence, once there is a yesterday",
        streams([10] * (DAY + 120)),
        events(STREAM_RETRIES, [2] * (DAY + 120), error__type="overloaded_error"),
        minutes=DAY + 120, among="OtelStreamRetriesRising", fires={"OtelStreamRetriesRising": ((12, 30),)},
    ),
    scene(
        "yesterday's retries count, too, where each process is born with all that it will have",
        *(
            {
                **since(600 * life, 150, f"{life}:1", 10 * life),
                series(STREAMS, instance=f"{life}:1", **ENDED): f"_x{10 * life} 10x9",
                series(STREAM_RETRIES, instance=f"{life}:1", error__type="overloaded_error", **MODEL):
                    f"_x{10 * life} 3x9",
            }
            for life in range(15)
        ),
        minutes=150, among="OtelStreamRetriesRising", fires={"OtelStreamRetriesRising": ((10, 29),)},
    ),
    scene(
        "a retry of twenty streams is no news",
        streams([20] * 60), events(STREAM_RETRIES, [1] * 60, error__type="overloaded_error"),
        minutes=60, among="OtelStreamRetriesRising",
    ),
    # --- the telemetry itself
    scene(
        "what was folded is told, with the objectives whole",
        both([0] * 120, [10] * 120),
        {series(FOLDED, otelstream__folded__what="model"): "0x20 0+3x20 60x79"},
        minutes=120, among=f"{BURN}|OtelStreamLabelOverflow", fires={"OtelStreamLabelOverflow": ((27, 100),)},
    ),
    scene(
        "what the SDK folded is told",
        both([0] * 60, [10] * 60),
        {series(STREAMS, otel__metric__overflow="true"): "0+1x60"},
        minutes=60, among="OtelStreamLabelOverflow", fires={"OtelStreamLabelOverflow": ((5, 59),)},
    ),
    scene(
        "room for all is silence",
        streams([10] * 60), {series(FOLDED, otelstream__folded__what="model"): "0x60"},
        minutes=60, among="OtelStreamLabelOverflow",
    ),
    *(
        scene(
            f"names {how} are told",
            {f'{{__name__="{name}", job="chat", instance="a:1"}}': "1x60"},
            minutes=60, among="OtelStreamNamesUntranslated", fires={"OtelStreamNamesUntranslated": ((5, 59),)},
        )
        for how, name in (
            ("with dots", "otelstream.start_time"),
            ("with dots and suffixes", "otelstream.start_time_seconds"),
            ("without suffixes", "otelstream_start_time"),
        )
    ),
    scene("names with underscores are silence", info("1x60"), minutes=60, among="OtelStreamNamesUntranslated"),
    scene(
        "a process with other objectives is told",
        info("1x60"), {key.replace("a:1", "b:1"): value for key, value in info("1x60", "0123456789ab").items()},
        minutes=60, among="OtelStreamObjectivesDiffer", fires={"OtelStreamObjectivesDiffer": ((15, 59),)},
    ),
    scene("the same objectives are silence", info("1x60"), minutes=60, among="OtelStreamObjectivesDiffer"),
    # Gone with the first scrape that fails, then the alert waits ten. Without that mark Prometheus 3 forgets a series
    # a minute before Prometheus 2 does.
    scene(
        "a job that stops reporting is told", info("1x60 stale"),
        minutes=120, among="OtelStreamTelemetrySilent", fires={"OtelStreamTelemetrySilent": ((71, 119),)},
    ),
    scene(
        "a job without traffic still reports",
        info("1x600"), streams([0] * 600),
        minutes=600, among="OtelStreamTelemetrySilent",
    ),
)  # fmt: skip


def document(scenes: Iterable[Scene], rules: str) -> dict[str, Any]:
    """One promtool file."""
    return {
        "rule_files": [rules],
        "evaluation_interval": "1m",
        # Prometheus runs groups side by side; here records come before what reads them.
        "group_eval_order": [group["name"] for group in _rules.groups(CONFIG)],
        "tests": [
            {
                "name": each.name,
                "interval": "1m",
                "input_series": [{"series": key, "values": value} for key, value in each.given.items()],
                "promql_expr_test": [
                    {
                        "expr": f'group by (alertname) (ALERTS{{alertstate="firing",alertname=~"{check.among}"}})',
                        "eval_time": f"{check.minute}m",
                        "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in check.firing],
                    }
                    for check in each.checks
                ],
            }
            for each in scenes
        ],
    }


def files() -> dict[str, str]:
    """Name and text of each file: what burns, what lasts for many hours (minutes of promtool's time), and the rest."""
    kinds: dict[str, list[Scene]] = {"objectives": [], "hours": [], "symptoms": []}
    for each in SCENES:
        kind = "hours" if each.minutes > 150 else "objectives" if "BudgetBurn" in each.among else "symptoms"
        kinds[kind].append(each)
    head = "# Written by tests/slo/scenarios.py (make generate); do not edit.\n"
    return {
        f"otelstream.{kind}.test.yaml": head
        + _yaml.dump(document(scenes, "../otelstream.rules.yaml")).split("\n", 1)[1]
        for kind, scenes in kinds.items()
    }


def timeline(each: Scene, rules: Path, work: Path) -> dict[str, list[Span]]:
    """When each alert of a scene fires, by promtool's own word."""
    made = document([each], str(rules))
    made["tests"][0]["promql_expr_test"] = [
        {
            "expr": f'group by (alertname) (ALERTS{{alertstate="firing",alertname=~"{each.among}"}})',
            "eval_time": f"{minute}m",
            "exp_samples": [],
        }
        for minute in range(each.minutes)
    ]
    file = work / "timeline.yaml"
    file.write_text(_yaml.dump(made), encoding="utf-8")
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False)
    found: dict[str, list[Span]] = {}
    for time, got in re.findall(r"time: (\w+),\s*exp: ?\S*\s*got: ?(.*)", done.stdout + done.stderr):
        minute = sum(
            int(count) * {"h": 60, "m": 1, "s": 0, "d": 1440}[unit]
            for count, unit in re.findall(r"(\d+)([dhms])", time)
        )
        for name in re.findall(r'alertname="(\w+)"', got):
            spans = found.setdefault(name, [])
            if spans and spans[-1][1] == minute - 1:
                spans[-1] = (spans[-1][0], minute)
            else:
                spans.append((minute, minute))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=folder() / "rules" / "tests")
    parser.add_argument("--timeline", action="store_true", help="print when what fires, instead of writing the files")
    parser.add_argument("--only", default="", help="scenes whose name has this")
    options = parser.parse_args()
    if not options.timeline:
        for name, text_ in files().items():
            (options.output / name).write_text(text_, encoding="utf-8")
        return 0
    with tempfile.TemporaryDirectory() as work:
        rules = Path(work) / "otelstream.rules.yaml"
        rules.write_text(_yaml.dump({"groups": _rules.groups(CONFIG)}), encoding="utf-8")
        for each in SCENES:
            if options.only in each.name:
                told = timeline(each, rules, Path(work))
                shown = "; ".join(f"{name} {', '.join(f'{a}-{b}' for a, b in spans)}" for name, spans in told.items())
                print(f"{each.name} ({each.minutes} min): {shown or 'silence'}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
