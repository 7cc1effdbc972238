# SPDX-License-Identifier: Apache-2.0
"""How often the two judges are wrong: on a labelled set of our own words, and on the texts of recorded streams."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from answers import answer
from guard import guard

import otelstream
from otelstream.testing import script, script_names

Judge = Callable[[str], object]


def last(judge: Judge, text: str) -> str:
    """What a judge says of a whole answer, in one word."""
    said = judge(text)
    return "card" if said is otelstream.STOP else str(said or "none")


def expected(label: str, text: str) -> str:
    """The verdict that is right: an answer that is taken back ends as the other word."""
    if label != "taken back":
        return label
    return "no" if text.startswith(("Yes", "Sure")) else "yes"


def recorded() -> Iterator[str]:
    """The visible text of each bundled recording and script."""
    for name in script_names():
        deltas = (event.payload.get("delta", {}) for event in script(name).events if event.kind != "ping")
        text = "".join(str(delta.get("text", "")) for delta in deltas if delta)
        if text:
            yield text


def wrong(judge: Judge, cases: Iterable[tuple[str, str]]) -> tuple[int, int]:
    found = [last(judge, text) != expected(label, text) for label, text in cases]
    return sum(found), len(found)


def rows() -> Iterator[str]:
    """The table of the README."""
    labelled = json.loads((Path(__file__).parent / "labelled.json").read_text(encoding="utf-8"))
    yield "| judge | texts | wrong |"
    yield "| --- | --- | --- |"
    for name, judge in (("answer", answer), ("guard", guard)):
        for label, texts in labelled[name].items():
            bad, all_of_them = wrong(judge, ((label, text) for text in texts))
            yield f"| `{name}` | our own, `{label}` | {bad} of {all_of_them} |"
        bad, all_of_them = wrong(judge, (("none", text) for text in recorded()))
        yield f"| `{name}` | recorded, which say neither | {bad} of {all_of_them} |"


if __name__ == "__main__":
    print("\n".join(rows()))
