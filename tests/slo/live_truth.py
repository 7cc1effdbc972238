# SPDX-License-Identifier: Apache-2.0
"""What the processes of the live hour had counted, as a Prometheus that lost nothing, and every panel asked of both.

Each lane of processes becomes one that never died: its counters are the sums of what its lives had told at their last
scrape, from zero on, sampled every 15 s. A panel's own question, asked there, has the answer that it should have had.
"""

from __future__ import annotations

import gzip
import json
import math
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otelstream import _semconv as names
from otelstream._semconv import INFO, SDK_NAME, label_name

from .backfill import _import
from .history import openmetrics
from .panels import NAMES, Json, load, panels
from .tools import PrometheusServer, prometheus

SCRAPE = 15
STEP, RATE = 30, 60  # what Grafana takes for an hour of scrapes every 15 s
SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*?)\})? (\S+)(?: # .*)?$")
PAIR = re.compile(r'\w+="(?:[^"\\]|\\.)*"')
GAUGES = {metric.prometheus for metric in names.METRICS if metric.kind.endswith(("gauge", "up_down_counter"))}
_IDLE = "global: {scrape_interval: 1m}\n"
Scrapes = list[tuple[float, dict[str, float]]]


def scrapes(kept: Path) -> Scrapes:
    """What a process answered, and when; series as text without job and instance."""
    found = []
    for file in sorted(kept.glob("*.gz")):
        values = {}
        for line in gzip.decompress(file.read_bytes()).decode().splitlines():
            match = None if line.startswith("#") else SAMPLE.match(line)
            if match:
                # An empty label is none: so a scrape takes it.
                labels = ",".join(each for each in PAIR.findall(match[2] or "") if not each.endswith('=""'))
                values[f"{match[1]}{{{labels}"] = float(match[3])
        found.append((float(file.name.removesuffix(".gz")), values))
    return found


def immortal(folder: Path, begin: int, end: int) -> Iterator[tuple[str, str]]:
    """Every lane as one process that counted from `begin` to `end`: (family, line)."""
    lanes: dict[tuple[str, str, str], list[Scrapes]] = defaultdict(list)
    for life in json.loads((folder / "lives.json").read_text(encoding="utf-8")):
        lane = life["kept"].rpartition(".")[0]
        told = [each for each in scrapes(folder / "truth" / life["kept"]) if each[0] <= end]
        if told:
            lanes[life["job"], lane, life["cluster"]].append(told)
    for (job, lane, cluster), lives in lanes.items():
        where = f'job="{job}",instance="{lane}"' + (f',cluster="{cluster}"' if cluster else "")
        every = sorted({series for told in lives for _, values in told for series in values})
        times = [[second for second, _ in told] for told in lives]
        for second in range(begin, end + 1, SCRAPE):
            now = []
            for told, seconds in zip(lives, times, strict=True):
                place = bisect_right(seconds, second)
                fresh = place < len(told) or second - seconds[-1] < 1.5 * SCRAPE
                now.append((told[place - 1][1] if place else {}, fresh))
            for series in every:
                family, _, inside = series.partition("{")
                base = re.sub(r"_(bucket|sum|count)$", "", family)
                if family == names.START_TIME.prometheus:
                    value: float | None = begin - 1e6
                elif family == names.CLOCK.prometheus:
                    value = second
                elif family == names.INFO.prometheus:
                    value = 1
                elif base in GAUGES:
                    seen = [values[series] for values, fresh in now if fresh and series in values]
                    value = sum(seen) if seen else None
                else:
                    value = sum(values.get(series, 0) for values, _ in now)
                if value is not None:
                    yield family, f"{family}{{{where}{',' if inside else ''}{inside}}} {value!r} {second}"


@dataclass(frozen=True)
class Row:
    """One line of a panel: what it says, and what it should."""

    dashboard: str
    panel: str
    ref: str
    labels: str
    said: float
    truth: float

    @property
    def off(self) -> float:
        if math.isnan(self.said) or math.isnan(self.truth):
            return math.inf if math.isnan(self.said) != math.isnan(self.truth) else 0
        return 0 if self.said == self.truth else (self.said - self.truth) / self.truth if self.truth else math.inf


def filled(expr: str, dashboard: Json, span: int, rate: int, sdk: str) -> str:
    values = {item["name"]: item.get("allValue") or "" for item in dashboard["templating"]["list"]}
    values |= {
        "sdk": sdk,
        "__rate_interval": f"{rate}s",
        "__range": f"{span}s",
        "__range_s": str(span),
        "__rate_interval_ms": str(1000 * rate),
    }
    return re.sub(r"\$\{?(\w+)\}?", lambda found: values[found[1]], expr)


def drawn(server: PrometheusServer, expr: str, begin: int, end: int) -> dict[str, float]:
    """The mean of each line over the hour."""
    found = {}
    for series in server.query_range(expr, begin, end, STEP):
        numbers = [float(value) for _, value in series["values"] if value not in ("NaN", "+Inf", "-Inf")]
        if numbers:
            # A line that is not there is nothing: what counts is the area under it.
            found[_labels(series)] = sum(numbers) / ((end - begin) // STEP + 1)
    return found


def told(server: PrometheusServer, expr: str, end: int) -> dict[str, float]:
    return {_labels(series): float(series["value"][1]) for series in server.query(expr, end)}


def _labels(series: Json) -> str:
    return " ".join(f"{key.rpartition('_')[2]}={value}" for key, value in sorted(series["metric"].items()))


def compare(real: PrometheusServer, ideal: PrometheusServer, begin: int, end: int) -> list[Row]:
    rows = []
    span = end - begin
    sdk = real.query(INFO.prometheus, end)[0]["metric"][label_name(SDK_NAME)]
    for name in NAMES:
        dashboard = load(name)
        for panel in panels(dashboard):
            for target in panel["targets"]:
                instant = target.get("instant", False)
                expr = filled(target["expr"], dashboard, span, RATE, sdk)
                said, truth = (
                    told(server, expr, end) if instant else drawn(server, expr, begin + 60, end)
                    for server in (real, ideal)
                )
                rows += [
                    Row(name, panel["title"], target["refId"], key, said.get(key, math.nan), truth.get(key, math.nan))
                    for key in sorted({*said, *truth}) or [""]
                ]
    return rows


def tell(folder: Path) -> list[Row]:
    """Compare what a run left in its folder."""
    run: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    begin, end = run["begin"] // SCRAPE * SCRAPE - 120, run["end"] // SCRAPE * SCRAPE
    ideal = folder / "ideal"
    if not ideal.exists():
        (ideal / "data").mkdir(parents=True)
        _import(openmetrics(immortal(folder, begin - 600, end)), ideal / "data")
    with prometheus(ideal, _IDLE) as second, prometheus(folder, _IDLE) as first:
        return compare(first, second, begin, end)


# What a second Prometheus that evaluates no rules cannot say, and what is sampled rather than counted.
BY_RULES = ("What fires?", "Which alerts fire?", "How much of the 30d budget is left?", "When is the budget gone?",
            "How fast does the budget burn?")  # fmt: skip
SAMPLED = ("What is open?", "What are open streams doing?")


def verdict(rows: list[Row]) -> str:
    """The panel in a word: its worst line, lines under ten events apart, for one of them is a tenth."""
    title, numbers = rows[0].panel, [row for row in rows if not math.isnan(row.said)]
    if not numbers:
        return "NEVER FED"
    if title in BY_RULES:
        return "fed, by rules"
    if title in SAMPLED:
        return "fed, sampled"
    lines = [row for row in rows if row.truth and not math.isnan(row.truth)]
    worst = max(lines, key=lambda row: abs(row.off), default=None)
    return "fed, all zero" if worst is None else f"{worst.off:+.1%} ({worst.labels or worst.ref})"


def table(rows: list[Row]) -> str:
    """Panel against truth, in Markdown."""
    found: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        found[row.dashboard.removeprefix("otelstream-"), row.panel].append(row)
    lines = ["| dashboard | panel | lines | within 2 % | worst |", "| --- | --- | --- | --- | --- |"]
    for (dashboard, panel), mine in found.items():
        near = sum(abs(row.off) <= 0.02 for row in mine)
        lines.append(f"| {dashboard} | {panel} | {len(mine)} | {near} | {verdict(mine)} |")
    return "\n".join(lines) + "\n"
