# SPDX-License-Identifier: Apache-2.0
"""The page: self-contained, escaped, readable, small."""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import pytest

from otelstream import _semconv as names
from otelstream.view import _page
from otelstream.view._alerts import ALERTS
from otelstream.view._sentences import Headline, sentence
from otelstream.view._timeline import Timeline
from otelstream.view._turns import Row

MakeLine = Callable[..., Timeline]
VOID = {"input", "meta", "br", "line", "rect", "use", "circle", "path", "wbr"}
OPTIONAL = {"tr", "td", "th", "p", "li"}  # HTML lets their end tags be left out


class Structure(HTMLParser):
    """Counts tags, checks nesting, and collects every address and every `id`."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.classes: Counter[str] = Counter()
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            assert not name.startswith("on"), name
            if name in {"href", "src", "action", "data"}:
                self.addresses.append(value or "")
            if name == "id":
                self.ids.append(value or "")
            if name == "class":
                self.classes.update((value or "").split())
        if tag not in VOID and tag not in OPTIONAL:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID and tag not in OPTIONAL:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words).replace("\u00a0", " ")


@pytest.fixture
def rows(make_line: MakeLine) -> list[Row]:
    """One row of every outcome, with each kind of mark somewhere."""
    lines = [make_line(outcome=outcome, phase="mid_stream") for outcome in get_args(names.Outcome)]
    lines += [
        make_line(length=8.0, stalls=[(6.0, 3.0, "provider")]),
        make_line(loop=(3.0, 10, 20, 100, 190)),
        make_line(attempts=2, last_attempt=0.4),
        make_line(tools=[(3.5, "search", "valid")], asked=3.0, trigger="user_stop"),
        make_line(kind="thinking", first_token=2.0),
    ]
    return [Row(f"story {index}", line, "200", "OK") for index, line in enumerate(lines)]


@pytest.mark.parametrize("grouped", [True, False])
def test_page_is_well_formed_and_self_contained(rows: list[Row], grouped: bool) -> None:
    """No script, nothing fetched, every tag closed, every mark defined once and every one used is defined."""
    page = Structure(_page.page(rows, grouped=grouped))

    assert page.open == []
    assert page.tags["script"] == page.tags["link"] == page.tags["img"] == 0
    assert all(address.startswith("#") for address in page.addresses)
    assert {address[1:] for address in page.addresses} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert page.tags["details"] == len(rows)


def test_the_headline_comes_first(rows: list[Row]) -> None:
    """The number that a status code hides stands before anything else that is measured."""
    rows.append(Row("x", rows[0].line))
    text = Structure(_page.page(rows)).text

    assert text.index("said 200") < text.index("complete")


def test_names_are_escaped(make_line: MakeLine) -> None:
    """Model, tool and error names are other people's text."""
    evil = "<script>alert(1)</script>\"'&"
    line = make_line(model=evil, tools=[(3, evil, "valid")], error=evil, fault="provider_error", outcome="failed")

    text = _page.page([Row(evil, line, evil, evil)], notes=[evil])

    assert "<script" not in text
    assert Structure(text).open == []


def test_a_lane_carries_sentence_codes_span_and_alert(make_line: MakeLine) -> None:
    """What a lane opens to is what its span carries; the codes are on hover."""
    said = {names.OBJECTIVE_INTEGRITY: "bad", names.OBJECTIVE_COMPLETION: "bad"}
    line = make_line(outcome="failed", phase="mid_stream", fault="cut_short", error="api_error", **said)

    text = _page.page([Row("body just ends", line, "200", "OK")])
    page = Structure(text)

    assert sentence(line) in page.text
    assert 'title="outcome failed · phase mid_stream · fault cut_short · error.type api_error"' in text
    for name in line.record.attributes:
        assert name.replace(".", ".<wbr>") in text
    for event in line.record.events:
        assert event.name.replace(".", ".<wbr>") in text
    assert "OtelStreamIntegrityBudgetBurn" in page.text
    assert "OtelStreamFirstTokenBudgetBurn" not in page.text


def test_a_span_that_hides_a_failure_is_marked(make_line: MakeLine) -> None:
    """Failed after 200 while another span says otherwise: that is what the eye should find."""
    line = make_line(outcome="failed", phase="mid_stream", fault="cut_short")

    assert 'class="lie"' in _page.page([Row("x", line, "200", "OK")])
    assert 'class="lie"' not in _page.page([Row("x", line, "200", "ERROR")])


def test_every_outcome_has_its_own_mark(rows: list[Row]) -> None:
    """Colour is never the only carrier: each outcome has a shape and a word."""
    page = Structure(_page.page(rows))

    assert {f"end-{outcome}" for outcome in get_args(names.Outcome)} <= {address[1:] for address in page.addresses}


def test_alerts_are_those_the_generator_makes() -> None:
    """Every alert the page names exists in the generated rules."""
    pytest.importorskip("yaml")
    rules = pytest.importorskip("otelstream.slo._rules")
    bundled = pytest.importorskip("otelstream.slo._bundled")
    made = [alert.name for alert in rules.alerts(bundled.bundled_config())]

    for name, _ in ALERTS:
        assert any(alert.startswith(name) for alert in made), name


def _session(make_line: MakeLine, count: int) -> list[Row]:
    dice = random.Random(7)
    kinds: list[dict[str, Any]] = [
        {"outcome": "failed", "phase": "mid_stream", "fault": "provider_error", "error": "overloaded_error"},
        {"outcome": "failed", "phase": "before_response", "fault": "provider_error", "error": "api_error"},
        {"outcome": "cancelled", "phase": "mid_stream", "trigger": "task_cancel", "propagation": "closed"},
        {"outcome": "truncated", "reason": "max_tokens"},
        {"stalls": [(2.9, 2.2, "provider")]},
    ]
    lines = [make_line(**kind, length=dice.uniform(3, 9)) for kind in kinds for _ in range(4)]
    good = [make_line(length=dice.uniform(1, 12), chunks=dice.randint(10, 300)) for _ in range(100)]
    return [Row("chat m", dice.choice(lines) if dice.random() < 0.1 else dice.choice(good)) for _ in range(count)]


def test_two_hundred_streams_fold(make_line: MakeLine) -> None:
    """A session of 200 has a lane each, the bad ones first; most are folded and brief, so that the page stays light."""
    rows = _session(make_line, 200)

    text = _page.page(rows)
    page = Structure(text)

    assert page.classes["chart"] == _page.FULL_LANES
    assert page.classes["brief"] == 200 - _page.FULL_LANES
    assert sum(page.tags.values()) < 15_000
    order = [text.index(f"<h2>{title}") for title in ("Failed after", "Failed before", "Stopped", "Complete")]
    assert order == sorted(order)


def test_ten_thousand_streams_stay_under_five_megabytes(make_line: MakeLine) -> None:
    """Beyond full and brief lanes every stream still has its thin row; the page stays small and quick to make."""
    rows = _session(make_line, 10_000)

    began = time.perf_counter()
    text = _page.page(rows)
    took = time.perf_counter() - began
    page = Structure(text)

    assert len(text.encode()) < 5_000_000
    assert page.classes["chart"] == _page.FULL_LANES
    thin = text[text.index("</header>") :].count("<path d=")
    assert thin == 10_000 - _page.FULL_LANES
    assert page.classes["brief"] == _page.BRIEF_LANES
    assert took < 20


def test_a_brief_lane_opens_to_its_whole_span(make_line: MakeLine) -> None:
    """What a full lane shows as tables a brief one has as lines: every attribute and every event."""
    rows = [Row("m", make_line(stalls=[(3.0, 2.0, "provider")])) for _ in range(_page.FULL_LANES + 1)]

    text = _page.page(rows)
    (said,) = re.findall(r"<pre>(.*?)</pre>", text, re.DOTALL)

    line = rows[0].line
    assert line is not None
    for name in (*line.record.attributes, *(event.name for event in line.record.events)):
        assert name in said


def test_a_choice_of_outcomes_and_models(make_line: MakeLine) -> None:
    """A labelled box for every outcome and model there is, by which lanes are hidden without a script."""
    lines = [make_line(model=model, outcome=outcome) for model in "ab" for outcome in ("completed", "failed")]

    text = _page.page([Row("x", line) for line in lines])

    boxes = re.findall(
        r'<label><input type="checkbox" id="show-(\S+)" checked> <bdi>(.*?)</bdi> \((\d+)\)</label>', text
    )
    assert [(word, count) for _, word, count in boxes] == [("complete", "2"), ("failed", "2"), ("a", "2"), ("b", "2")]
    for name, _, _ in boxes:
        assert f"body:has(#show-{name}:not(:checked)) main .{name}{{display:none}}" in text
        assert len(re.findall(rf'<details class="lane [^"]*\b{name}\b', text)) == 2
    assert "<form" not in _page.page([Row("x", lines[0])])


def test_outliers_do_not_press_the_others_flat(make_line: MakeLine) -> None:
    """One stream of ten minutes among short ones runs off the edge, marked."""
    rows = [Row("short", make_line(length=3.0)) for _ in range(99)]
    rows.append(Row("long", make_line(length=600.0)))

    text = _page.page(rows, grouped=False)

    assert 'href="#beyond"' in text
    assert not re.search(r">\d\d+ s</span>", text)


def test_counts_speak_for_the_whole_session(rows: list[Row]) -> None:
    """Streams no longer held still count in headline and tally."""
    page = Structure(_page.page(rows, counted=Headline(5000, 4900, 77), outcomes=Counter(completed=5000)))

    assert "4,900 said 200, 77 of those failed after it." in " ".join(page.text.split())
    assert "5,000 complete" in page.text
    assert "earlier streams are counted" in page.text


def test_an_empty_session_has_a_page() -> None:
    """Nothing yet is no error."""
    assert "No stream yet." in Structure(_page.page([])).text


def _themes() -> dict[str, dict[str, str]]:
    text = resources.files("otelstream.view").joinpath("page.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{([^}]*)\}", text)
    assert len(blocks) == 3
    return {
        name: dict(re.findall(r"--([a-z]+): (#[0-9a-f]{3,6})", block))
        for name, block in zip(("light", "dark", "print"), blocks, strict=True)
    }


def _luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(char * 2 for char in colour[1:])
    channels = [int(digits[index : index + 2], 16) / 255 for index in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", ["light", "dark", "print"])
def test_contrast(theme: str) -> None:
    """Text reaches 4.5 on both grounds, shapes reach 3."""
    colours = _themes()[theme]

    for name in ("fg", "muted", "bad", "stopped", "flawed", "good", "flow", "think"):
        for ground in ("bg", "panel"):
            light, dark = sorted((_luminance(colours[name]), _luminance(colours[ground])), reverse=True)
            least = 3.0 if name in {"flow", "think"} else 4.5
            assert (light + 0.05) / (dark + 0.05) >= least, (name, ground)


def test_a_page_is_replaced_in_one_step(tmp_path: Path) -> None:
    """No reader sees half a page, and none is left beside it."""
    path = tmp_path / "otelstream.html"

    _page.write_page(path, "one")
    _page.write_page(path, "two")

    assert path.read_text(encoding="utf-8") == "two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_page(tmp_path: Path) -> None:
    """A page that cannot be encoded leaves the one before it, and no rubbish."""
    path = tmp_path / "otelstream.html"
    _page.write_page(path, "one")

    with pytest.raises(UnicodeEncodeError):
        _page.write_page(path, "\ud800")

    assert path.read_text(encoding="utf-8") == "one"
    assert list(tmp_path.iterdir()) == [path]
