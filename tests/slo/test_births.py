# SPDX-License-Identifier: Apache-2.0
"""How much a window counts of what processes had counted at their last scrape, in a real Prometheus."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from otelstream._promql import counted
from otelstream._semconv import OBJECTIVE_TOTAL, START_TIME
from otelstream.grafana._queries import per_second

from .backfill import END, _import, past_prometheus
from .history import openmetrics
from .panels import View, load

pytestmark = pytest.mark.slow
HOURS = 3
BEGIN = END - HOURS * 3600
COUNTER, START = OBJECTIVE_TOTAL.prometheus, START_TIME.prometheus


@dataclass
class Past:
    """Samples, and what was really counted since when: seconds and increments as the scrapes show them."""

    every: int = 15
    lines: list[tuple[str, str]] = field(default_factory=list)
    counts: list[tuple[int, int]] = field(default_factory=list)

    def process(self, name: str, born: int, dies: int, per_scrape: float, dice: random.Random, old: int = 0) -> None:
        """One process: its first scrape comes up to `every` after its birth, its last as long before its death."""
        value, second = old, born + dice.randrange(1, self.every + 1)
        while second <= min(dies, END):
            more = int(per_scrape) + (dice.random() < per_scrape % 1)
            value += more
            self.sample(name, second, value, born)
            self.counts.append((second, more))
            second += self.every

    def sample(self, name: str, second: int, value: int, born: int) -> None:
        where = f'{{job="j",instance="{name}"}}'
        self.lines.append((COUNTER, f"{COUNTER}{where} {value} {second}"))
        self.lines.append((START, f"{START}{where} {born} {second}"))

    def truth(self, window: int) -> int:
        return sum(more for second, more in self.counts if second > END - window)


def short_lives(every: int) -> Past:
    """A new process for each two scrapes, five side by side, all the time."""
    past, dice = Past(every), random.Random(3)
    for lane in range(5):
        for number, born in enumerate(range(BEGIN + lane * 7, END, 2 * every)):
            past.process(f"{lane}-{number}", born, born + 2 * every, 1.5, dice)
    return past


def late_sets() -> Past:
    """Processes of old whose series of a new kind is born now, at more than zero."""
    past = Past()
    for number in range(40):
        first = BEGIN + 3600 + number * 120
        for second in range(BEGIN, END, past.every):
            where = f'{{job="j",instance="{number}"}}'
            past.lines.append((START, f"{START}{where} {BEGIN - 86400} {second}"))
            if second >= first:
                value = 3 + (second - first) // 300
                before = 0 if second - past.every < first else 3 + (second - past.every - first) // 300
                past.lines.append((COUNTER, f"{COUNTER}{where} {value} {second}"))
                past.counts.append((second, value - before))
    return past


def long_lives() -> Past:
    past, dice = Past(), random.Random(5)
    for number in range(20):
        past.process(str(number), BEGIN - 86400 + dice.randrange(60), END, 0.4, dice, old=10_000)
    # A day of them was before this Prometheus.
    past.lines = [line for line in past.lines if int(line[1].rpartition(" ")[2]) >= BEGIN]
    past.counts = [each for each in past.counts if each[0] >= BEGIN]
    return past


def a_gap() -> Past:
    """Two hours without a scrape: what was counted meanwhile is nobody's, and the totals are not new."""
    past = long_lives()
    hole = range(END - 7200 - 1200, END - 1200)
    past.lines = [line for line in past.lines if int(line[1].rpartition(" ")[2]) not in hole]
    past.counts = [(second, more) for second, more in past.counts if second >= END - 1200 or second < hole.start]
    return past


def restarts() -> Past:
    """The same instance begins anew every twenty minutes."""
    past, dice = Past(), random.Random(6)
    for number in range(10):
        for born in range(BEGIN + number * 60, END, 1200):
            past.process(str(number), born, born + 1200, 0.7, dice)
    return past


CASES = {
    "lives of two scrapes": lambda: short_lives(15),
    "lives of two exports of OTLP": lambda: short_lives(60),
    "series born late": late_sets,
    "long lives, a new Prometheus": long_lives,
    "a gap of two hours": a_gap,
    "restarts": restarts,
}


def lines(past: Past) -> Iterator[tuple[str, str]]:
    yield from sorted(past.lines, key=lambda line: (line[0], int(line[1].rpartition(" ")[2])))


@pytest.mark.parametrize("name", CASES)
def test_what_a_window_counts(name: str, tmp_path: Path) -> None:
    """An hour and two are within 2 % of the truth, however short the processes lived; `increase()` stands beside."""
    past = CASES[name]()
    (tmp_path / "data").mkdir()
    _import(openmetrics(lines(past)), tmp_path / "data")
    with past_prometheus(tmp_path) as server:

        def ask(expr: str) -> float:
            found = server.query(f"sum({expr})", END)
            return float(found[0]["value"][1]) if found else 0.0

        for window, seconds in (("1h", 3600), ("2h", 7200)):
            truth = past.truth(seconds)
            ours = ask(counted(f"{COUNTER}{{}}", f"{START}{{}}", window, str(seconds)))
            plain = ask(f"increase({COUNTER}[{window}])")
            print(
                f"\n{name}, {window}: truth {truth}, ours {ours / truth - 1:+.1%}, increase() {plain / truth - 1:+.1%}"
            )
            assert ours == pytest.approx(truth, rel=0.02)


@pytest.mark.parametrize("missed", [0, 3, 7], ids="{} scrapes missed".format)
def test_a_restart_under_its_name(missed: int, tmp_path: Path) -> None:
    """A process that begins anew under its old name: no later window counts less than nothing, nor its old total."""
    past, dice, restart = Past(), random.Random(7), END - 1800
    past.process("a", BEGIN, restart, 1, dice, old=10_000)
    past.process("a", restart + missed * past.every, END, 1, dice)
    (tmp_path / "data").mkdir()
    _import(openmetrics(lines(past)), tmp_path / "data")
    with past_prometheus(tmp_path) as server:
        for window, seconds in (("5m", 300), ("10m", 600)):
            expr = counted(f"{COUNTER}{{}}", f"{START}{{}}", window, str(seconds))
            found = server.query_range(f"sum({expr})", restart - 120, END, past.every)
            values = [float(value) for _, value in found[0]["values"]]
            print(f"\n{window}: {min(values):.0f} to {max(values):.0f}, {seconds // past.every} in a whole one")
            assert min(values) >= 0
            assert max(values) <= seconds / past.every * 1.1


@pytest.mark.parametrize("name", CASES)
def test_what_a_line_draws(name: str, tmp_path: Path) -> None:
    """The area under a panel's line is the truth within 2 %; less is drawn right after a gap, for a line does not
    guess, and where a process begins anew under its old name."""
    past = CASES[name]()
    (tmp_path / "data").mkdir()
    _import(openmetrics(lines(past)), tmp_path / "data")
    view = View(END, 3600, past.every)
    step = view.step()
    expr = view.fill(per_second(OBJECTIVE_TOTAL), load("otelstream-streams"))
    with past_prometheus(tmp_path) as server:
        drawn = server.query_range(expr, END - 3600 + step, END, step)
        area = sum(float(value) for _, value in drawn[0]["values"]) * step
    truth = past.truth(3600)
    print(f"\n{name}: truth {truth}, drawn {area / truth - 1:+.1%}")
    assert area == pytest.approx(truth, rel={"restarts": 0.03, "a gap of two hours": 0.06}.get(name, 0.02))
