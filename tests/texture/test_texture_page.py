# SPDX-License-Identifier: Apache-2.0
"""The page of a comparison: self-contained, well nested, a picture for each measure, names of models harmless."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from otelstream.texture._compare import Pair, compare, paired
from otelstream.texture._measures import BY_KEY, MEASURES
from otelstream.texture._page import _Axis, page
from otelstream.texture._recording import PROMETHEUS, Buckets, Recording, Texture
from texture.answers import Model

VOID = {"meta", "path", "line"}
HOSTILE = "<script>alert('m')</script>\u202e"


class Nesting(HTMLParser):
    """Checks that what is opened is closed, and keeps tags, addresses and words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not any(name.startswith("on") or name in {"href", "src"} for name, _ in attrs)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def compared(before: Model, after: Model, answers: int = 40) -> Pair:
    old, new = before.recording(answers, 1), after.recording(answers, 2)
    (pair,) = compare(old, new, paired(old, new))
    return pair


def test_a_page_shows_every_measure() -> None:
    """One picture each with a name for who cannot see it, what changed first; nothing is fetched, and no script."""
    pair = compared(Model("old"), replace(Model("new"), rate=90))

    text = page([pair])
    seen = Nesting(text)

    assert seen.tags.count("section") == text.count('role="img"') == len(MEASURES)
    assert "default-src 'none'" in text
    assert "script" not in seen.tags
    assert not re.search(r"url\((?!#)|@import|https?:", text)
    order = [seen.words.index(title) for title in ("measures changed", "Changed (", "No difference shown (")]
    assert order == sorted(order)
    assert len(text) < 60_000


@pytest.mark.parametrize("answers", [0, 3, 12])
def test_few_answers_are_drawn_and_nothing_is_said(answers: int) -> None:
    """Of none there is no picture, of few there is one, and no change beside it."""
    old, new = Model("m").recording(40, 1), Model("m").recording(answers, 2)
    new.models.setdefault("m", Texture())
    (pair,) = compare(old, new, [("m", "m")])

    seen = Nesting(page([pair]))

    assert ("Too few answers to say (12)" in seen.words) == (answers < 10)
    assert "nan" not in page([pair]).lower()


def test_names_of_models_are_text() -> None:
    """A name may be anything: it is shown, does nothing, and turns nothing around."""
    text = page([compared(Model(HOSTILE), Model(HOSTILE))] * 2)

    assert "<script>" not in text
    assert "\u202e" not in text
    assert "alert('m')" in Nesting(text).words


def test_histograms_are_drawn_too() -> None:
    """A recording out of a Prometheus has pictures as well."""
    held = Buckets((10.0, 30.0, float("inf")), (5.0, 30.0, 32.0))
    recording = Recording(PROMETHEUS, {"m": Texture(32, buckets={"output_rate": held})})
    (pair,) = compare(recording, recording, [("m", "m")])

    assert page([pair]).count('class="over"') == 1


@pytest.mark.parametrize(
    "values", [[0.0] * 5, [1.0] * 5, [0.5, 0.6], [i / 100 for i in range(1000)], [2.0**i for i in range(30)]]
)
def test_an_axis_has_room_for_its_labels(values: list[float]) -> None:
    """Whatever was measured: labels inside the chart, apart from each other, in rising order."""
    marks = list(_Axis(values, BY_KEY["length"])._marks())

    assert marks
    assert all(0 <= at <= 1 for at, _ in marks)
    assert all(later - earlier >= 0.12 for (earlier, _), (later, _) in pairwise(marks))
