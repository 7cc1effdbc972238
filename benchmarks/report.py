# SPDX-License-Identifier: Apache-2.0
"""Write the tables of docs/performance.md from `benchmarks/results/`: `python benchmarks/report.py [--check]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
SHAPES = ("create", "stream", "async create", "async stream")


def results(name: str) -> Any:
    """What one benchmark measured last."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    first, *others = head
    return [
        f"| {' | '.join([first, *others])} |",
        f"| --- |{' ---: |' * len(others)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def goals() -> list[str]:
    """Each goal beside what was measured."""
    hot, once, scale = results("hot_path"), results("per_stream"), results("scale")
    floor, ours = hot["floor"], hot["otelstream"]
    begin, end, alone = once["stream"]["sampled"]
    package, loaded, switched = once["start"]["with the SDKs and the instrumentation base loaded"]
    held = next(found for name, found in scale.items() if name.endswith("held"))
    count = next(name for name in scale if name.endswith("held")).split()[0]
    bare, watched = held["resident MB"]
    alone_text = f"{end:.0f} µs, {alone:.0f} of them the OpenTelemetry SDK's own for the same writes"
    rows = [
        (
            "a chunk, our own code, 5 / 20 / 85 characters",
            "1.0 µs",
            " / ".join(f"{ns / 1000:.2f}" for ns in ours) + " µs",
        ),
        ("the same over the floor, 5 characters", "4 times", f"{ours[0] / floor[0]:.1f} times"),
        ("a stream once, at its end", "300 µs", alone_text),
        ("a stream once, at its begin", "", f"{begin:.0f} µs"),
        (f"{count} open streams, resident", "200 MB", f"{watched - bare:.0f} MB"),
        ("`import otelstream`", "10 ms", f"{package:.1f} ms"),
        ("`instrument()`, with what it loads, beside the SDKs", "30 ms", f"{loaded + switched:.1f} ms"),
    ]
    return table(("what", "goal", "measured"), rows)


def peers(name: str) -> list[str]:
    """What each watcher adds to a chunk of one token, and to a whole short stream."""
    found = results(name)
    cases = found["cases"]
    whole = next(case for case in cases if case.startswith("a whole") and case.endswith(" create"))
    columns = [*(f"text:5 {shape}" for shape in SHAPES), whole]
    subjects = [subject for subject in cases[columns[0]] if subject != "bare"]
    rows = [["*the bare SDK itself*", *(f"*{cases[case]['bare']:.0f}*" for case in columns)]]
    rows += [[subject, *(cell(cases[case][subject], case == whole) for case in columns)] for subject in subjects]
    head = ("µs added", "`create`", "`stream()`", "async `create`", "async `stream()`", "a whole stream of 20 chunks")
    return [
        f"{found['rounds']} rounds, load {found['load']:.1f}; median, and half of the rounds between the brackets.",
        "",
        *table(head, rows),
    ]


def cell(figure: dict[str, Any], whole: bool) -> str:
    digits = 0 if whole else 1
    low, high = figure["spread"]
    return f"{figure['added']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def shapes() -> list[str]:
    """What longer deltas, tool input and thinking cost."""
    cases = results("shapes")["cases"]
    names = {
        "text:20": "text, 20 characters",
        "text:85": "text, 85",
        "tool:5": "tool input, 5",
        "thinking:5": "thinking, 5",
    }
    rows = []
    for case, name in names.items():
        row = [cases[f"{case} {shape}"] for shape in SHAPES]
        rows.append([name, *(f"{each['otelstream']['added']:.1f} ({each['floor']['added']:.1f})" for each in row)])
    return table(("µs added (floor)", "`create`", "`stream()`", "async `create`", "async `stream()`"), rows)


def scale() -> list[str]:
    """Many streams at once."""
    rows = [
        [name if index == 0 else "", what, f"{bare:.1f}", f"{ours:.1f}", f"{ours - bare:+.1f}"]
        for name, found in results("scale").items()
        for index, (what, (bare, ours)) in enumerate(found.items())
    ]
    return table(("streams", "what", "bare", "otelstream", "added"), rows)


def page() -> str:
    """The page, its tables made anew."""
    text = PAGE.read_text()
    made = {
        "goals": goals(), "peers": peers("streams"), "peers, under load": peers("streams_under_load"),
        "shapes": shapes(), "scale": scale(),
    }  # fmt: skip
    for name, lines in made.items():
        begin, end = f"<!-- {name}: made by benchmarks/report.py -->\n", f"<!-- end of {name} -->"
        head, _, rest = text.partition(begin)
        text = head + begin + "\n".join(lines) + "\n" + end + rest.partition(end)[2]
    return text


if __name__ == "__main__":
    if "--check" in sys.argv:
        raise SystemExit(PAGE.read_text() != page())
    PAGE.write_text(page())
