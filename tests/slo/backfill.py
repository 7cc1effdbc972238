# SPDX-License-Identifier: Apache-2.0
"""A Prometheus with a past: 30 days of objectives, hours of everything, and the rules evaluated over it."""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from otelstream.slo import _rules
from otelstream.slo._bundled import bundled_config

from .history import SOURCES, Past, Stream, openmetrics, play
from .tools import PrometheusServer, binary, prometheus

END = 1_768_478_400  # 2026-01-15T12:00:00Z: a fixed present keeps pictures stable
MINUTES = 200
MONTH, WEEK, DAY = 30 * 86400, 7 * 86400, 86400
CONFIG = bundled_config()
_IDLE = "global: {scrape_interval: 1m}\n"


@dataclass(frozen=True)
class Raw:
    """The raw streams behind a past, for counting again by hand."""

    recent: list[Stream]
    month: list[Stream]
    week_ago: list[Stream]


def write_past(data: Path, incident: str | None = None, after: int = 0, month: bool = True, seed: int = 1) -> Raw:
    """Backfill the streams: now, the same hours a week ago, and a month of verdicts."""
    raw = Past(CONFIG.objectives, seed, keep=True)
    start = END - MINUTES * 60
    _import(openmetrics(play(raw, start, MINUTES + 1, incident, after)), data)
    older = Past(CONFIG.objectives, seed + 1, keep=True)
    before = Past(CONFIG.objectives, seed + 2, keep=True)
    if month:
        _import(openmetrics(play(before, start - WEEK, MINUTES + 1)), data)
        _import(openmetrics(_month(older, start)), data)
    return Raw(raw.keep or [], older.keep or [], before.keep or [])


def _month(past: Past, until: int) -> Iterator[tuple[str, str]]:
    """Verdicts only, every two minutes; busy by day, quiet by night, one bad evening."""
    for second in range(END - MONTH, until, 120):
        hour, day = second % DAY / 3600, (second - END + MONTH) // DAY
        pace = 0.55 + 0.45 * math.sin((hour - 8) / 24 * 2 * math.pi)
        for source in (SOURCES[0], SOURCES[2]):
            old = replace(source, instance=source.instance.replace(":", "-old:"))
            bad = day == 17 and 18 <= hour < 20
            scene = replace(source.scene, cut_mid_stream=0.02) if bad else source.scene
            past.minute(old, scene, pace * 0.5, judged_only=True)
        yield from past.store.sample(second)


def _import(text: str, data: Path) -> None:
    file = data.parent / "past.om"
    file.write_text(text, encoding="utf-8")
    # Without the (hidden) flag a month becomes 360 blocks and as many passes over the file.
    _promtool("tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=486h", "--quiet", str(file), str(data))
    file.unlink()


def _promtool(*arguments: str) -> None:
    done = subprocess.run([binary("promtool"), *arguments], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def levels(groups: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Recording rules by depth: a rule stands after every record it reads."""
    rules = [rule for group in groups for rule in group["rules"] if "record" in rule]
    names = {rule["record"] for rule in rules}
    depth: dict[str, int] = {}
    while len(depth) < len(names):
        for rule in rules:
            reads = {name for name in re.findall(r"slo:[\w:]+", rule["expr"]) if name in names}
            if reads <= depth.keys():
                depth[rule["record"]] = 1 + max((depth[name] for name in reads), default=-1)
    return [[rule for rule in rules if depth[rule["record"]] == level] for level in range(max(depth.values()) + 1)]


def _evaluate(folder: Path, rules: list[dict[str, Any]], start: int, step: int) -> None:
    """Let Prometheus evaluate recording rules over the past, and import what it computed."""
    lines: list[tuple[str, str]] = []
    with prometheus(folder, _IDLE) as server:
        for rule in rules:
            for found in server.query_range(rule["expr"], start, END, step):
                labels = {key: value for key, value in found["metric"].items() if key != "__name__"}
                text = ",".join(f'{key}="{value}"' for key, value in {**labels, **rule.get("labels", {})}.items())
                lines.extend(
                    (rule["record"], f"{rule['record']}{{{text}}} {value} {second}")
                    for second, value in found["values"]
                )
    if lines:
        _import(openmetrics(iter(lines)), folder / "data")


def evaluate_rules(folder: Path, month: bool = True) -> None:
    """Record what Prometheus would have recorded; alerts appear as they would after their `for`."""
    recent = END - MINUTES * 60
    for depth, level in enumerate(levels(_rules.groups(CONFIG))):
        base = [
            rule for rule in level if depth == 0 and month and rule["record"].endswith(("bad:rate5m", "total:rate5m"))
        ]
        if base:
            _evaluate(folder, base, END - MONTH, 300)
        _evaluate(folder, [rule for rule in level if rule not in base], recent, 60)
    alerts = []
    for alert in _rules.alerts(CONFIG):
        hold = _rules.duration(alert.hold)
        held = f"(({alert.expr})[{hold}:1m])"
        alerts.append(
            {
                "record": "ALERTS",
                # What was there at every minute of `for` fires.
                "expr": f"(count_over_time{held} >= {int(alert.hold // 60)}) * 0 + 1",
                "labels": {"alertname": alert.name, "alertstate": "firing", **_rules.alert_labels(CONFIG, alert)},
            }
        )
    _evaluate(folder, alerts, END - 7200, 60)


@contextmanager
def past_prometheus(folder: Path) -> Iterator[PrometheusServer]:
    """Serve a folder that was filled before."""
    with prometheus(folder, _IDLE, "--query.lookback-delta=5m") as server:
        yield server
