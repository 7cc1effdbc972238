# SPDX-License-Identifier: Apache-2.0
"""A month of generated streams in a real Prometheus: every query has data, and the sums are right."""

from __future__ import annotations

import math
import re
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from otelstream._core.record.objectives import INTEGRITY_FAULTS
from otelstream._semconv import GAP_BOUNDS, OBJECTIVE_NAME, OBJECTIVE_RESULT, OBJECTIVE_STREAMS, label_name
from otelstream.slo._bundled import folder

from .backfill import END, MINUTES, Raw, evaluate_rules, past_prometheus, write_past
from .history import Stream
from .panels import NAMES, View, load, queries, variables
from .tools import PrometheusServer

pytestmark = pytest.mark.slow
SPAN = 3 * 3600
# Panels and annotations that are empty by right, and the scene that fills them.
EMPTY_BY_RIGHT = {
    "otelstream-streams / Which alerts fire? [A]": "no alert fires in a healthy month; filled by the incident",
    **{f"{name} / annotation Alerts": "marks alerts; filled by the incident" for name in NAMES},
    **{f"{name} / annotation New models": "marks a model's first streams; filled by the incident" for name in NAMES},
}
CHOSEN = {
    "job": "assistants/chat",
    "instance": "chat-1:9464",
    "provider": "anthropic",
    "model": "model-a",
    "route": "chat",
}


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PrometheusServer, Raw]]:
    """A healthy month, its rules evaluated, served."""
    work = tmp_path_factory.mktemp("past")
    (work / "data").mkdir()
    raw = write_past(work / "data")
    evaluate_rules(work)
    with past_prometheus(work) as server:
        yield server, raw


def empty(server: PrometheusServer, view: View) -> set[str]:
    """Queries without a single number over the range."""
    found = set()
    for name in NAMES:
        board = load(name)
        for where, expr in queries(board):
            series = server.query_range(view.fill(expr, board), END - SPAN, END, view.step())
            if not any(value not in ("NaN", "+Inf", "-Inf") for item in series for _, value in item["values"]):
                found.add(f"{name} / {where}")
    return found


def test_every_query_has_data(past: tuple[PrometheusServer, Raw]) -> None:
    """Every panel and annotation shows something, what is empty by right apart."""
    assert empty(past[0], View(END, SPAN)) == set(EMPTY_BY_RIGHT)


@pytest.mark.parametrize(
    "chosen", [CHOSEN, *({key: value} for key, value in CHOSEN.items())], ids=lambda c: "+".join(c)
)
def test_variables_work_together_and_alone(past: tuple[PrometheusServer, Raw], chosen: dict[str, str]) -> None:
    """With one variable chosen, and with all, no other panel becomes empty."""
    assert empty(past[0], View(END, SPAN, chosen=chosen)) == set(EMPTY_BY_RIGHT)


def test_variables_have_values(past: tuple[PrometheusServer, Raw]) -> None:
    """Each variable offers what there is."""
    for name in NAMES:
        board = load(name)
        offered = {
            key: {
                item["metric"].get(label)
                for item in past[0].query(f"group by ({label}) ({View(END, SPAN).fill(selector, board)})", END)
            }
            for key, selector, label in variables(board)
        }
        assert {"assistants/agents", "assistants/chat"} <= offered["job"]
        assert {"model-a", "model-b"} == offered["model"]
        assert {"chat", "search", None} == offered["route"]


def test_an_incident_fills_what_was_empty(tmp_path: Path) -> None:
    """Alerts and their marks appear once something is wrong; nothing else goes empty."""
    (tmp_path / "data").mkdir()
    write_past(tmp_path / "data", "cut and swap", after=60, month=False)
    evaluate_rules(tmp_path, month=False)
    with past_prometheus(tmp_path) as server:
        found = empty(server, View(END, SPAN))

    assert not found & set(EMPTY_BY_RIGHT)


def test_first_queries_of_the_runbook_answer(past: tuple[PrometheusServer, Raw]) -> None:
    """Each first query shows series; those that only an incident brings to life are named."""
    book = (folder() / "runbook.md").read_text(encoding="utf-8")
    asked = re.findall(r"```promql\n(.+?)\n```", book, re.DOTALL)

    silent = [expr for expr in asked if not past[0].query(expr, END)]

    assert len(asked) == len(set(asked)) == 15
    # No tool ran early and nothing was folded, in a healthy month.
    only = ("before_ready", "otelstream_folded")
    assert [sum(word in expr for word in only) for expr in silent] == [1, 1]


def by_hand(streams: list[Stream]) -> dict[tuple[str, str], int]:
    """The verdicts of the bundled objectives, written down again from their definitions."""
    found: Counter[tuple[str, str]] = Counter()
    for s in streams:
        gave_up = s.outcome in ("cancelled", "abandoned")
        shown = s.time_to_first_token is not None
        if shown:
            first = "good" if s.time_to_first_token <= 2.5 else "bad"  # type: ignore[operator]
        elif s.outcome == "failed" or (s.outcome != "refused" and s.duration > 2.5):
            first = "bad"
        else:
            first = "excluded"
        whole = {True: "bad" if s.duration > 120 else "excluded", False: "bad" if s.duration > 120 else "good"}[gave_up]
        if s.outcome == "failed":
            whole = "bad"
        broke = s.phase != "before_response" and s.fault in INTEGRITY_FAULTS
        sound = "excluded" if gave_up or s.phase == "before_response" else "good"
        found["first-token", first] += 1
        found["completion", whole] += 1
        found["integrity", "bad" if broke else sound] += 1
    return dict(found)


def test_verdicts_are_exact(past: tuple[PrometheusServer, Raw]) -> None:
    """The counter in Prometheus equals the raw streams counted by hand, to the stream."""
    server, raw = past
    name, result = label_name(OBJECTIVE_NAME), label_name(OBJECTIVE_RESULT)
    for streams, where, at in (
        (raw.recent, 'instance!~".*-old:.*"', END),
        (raw.month, 'instance=~".*-old:.*"', END - MINUTES * 60 - 60),
    ):
        expr = f"sum by ({name}, {result}) ({OBJECTIVE_STREAMS.prometheus}{{{where}}}) > 0"

        counted = {(s["metric"][name], s["metric"][result]): int(s["value"][1]) for s in server.query(expr, at)}

        assert len(streams) > 5000
        assert counted == by_hand(streams)


def test_recorded_ratios_are_close(past: tuple[PrometheusServer, Raw]) -> None:
    """The 30-day ratio that the rules record is within five per cent of the raw streams'."""
    server, raw = past
    counts = by_hand([*raw.recent, *raw.month, *raw.week_ago])
    name = label_name(OBJECTIVE_NAME)
    bad, total = (f"sum by ({name}) (sum_over_time(slo:sli_{kind}:rate5m[30d]))" for kind in ("bad", "total"))
    weighted = f"{bad} / {total}"
    recorded = {s["metric"][name]: float(s["value"][1]) for s in server.query(weighted, END)}

    for objective, ratio in recorded.items():
        wrong, right = counts[objective, "bad"], counts[objective, "good"]
        assert math.isclose(ratio, wrong / (wrong + right), rel_tol=0.05), objective
    assert len(recorded) == 3


def test_quantile_of_gaps_is_within_its_bucket(past: tuple[PrometheusServer, Raw]) -> None:
    """p50, p95 and p99 from the counters lie in the bucket of the exact ones, or beside it."""
    server, raw = past
    gaps = sorted(gap for stream in raw.recent for gap in stream.gaps)
    for q in (0.5, 0.95, 0.99):
        exact = gaps[int(q * len(gaps))]

        told = server.query(f"histogram_quantile({q}, sum by (le) (otelstream_stream_chunk_gap_bucket_total))", END)

        found = float(told[0]["value"][1])
        assert abs(bisect_left(GAP_BOUNDS, found) - bisect_left(GAP_BOUNDS, exact)) <= 1, (q, exact, found)


def test_panels_answer_quickly(past: tuple[PrometheusServer, Raw]) -> None:
    """Nobody waits for a dashboard: every query of all four within half a minute in all."""
    begun = time.monotonic()
    empty(past[0], View(END, SPAN))

    assert time.monotonic() - begun < 30
