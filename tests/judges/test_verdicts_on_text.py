# SPDX-License-Identifier: Apache-2.0
"""What judges say of a stream: which verdict at which character, what was taken back, and who had acted by then."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

import otelstream
from otelstream import _semconv as s
from otelstream._core.record.hearing import Visible, clock
from otelstream._errors import ConfigurationError
from otelstream.testing import Schedule, Script, prose

from .conftest import text_of

SURE = "Yes, it is safe to ship. The tests are green."
BUT = " On a second look: No, the migration locks the table."


def positions(pieces: list[str], every: int = 0) -> list[int]:
    """Where a judge is asked, of a text that comes in these pieces."""

    class Asked:
        name = "asked"

        def __init__(self) -> None:
            self.every = every

        def hear(self, hearing: Any) -> None:
            while (place := hearing.take()) is not None:
                found.append(place[0])
            hearing.idle()

        def settle(self, hearing: Any, until: float) -> None:
            raise AssertionError("nothing waits")

    found: list[int] = []
    visible = Visible([Asked()], None, lambda: None, lambda _: None, float)  # type: ignore[arg-type]
    for piece in pieces:
        visible.add((0, 0), piece, clock())
    visible.close(clock(), wait=False)
    return found


TEXTS = {
    "Yes. It is. ": ["Yes.", "Yes. It is.", "Yes. It is. "],
    'He said "Yes." And went?': ['He said "Yes."', 'He said "Yes." And went?'],
    "Costs 3.14 euros... Or so!": ["Costs 3.14 euros...", "Costs 3.14 euros... Or so!"],
    "# A head\n\n- one\n- two.\n": [
        "# A head",
        "# A head\n\n- one",
        "# A head\n\n- one\n- two.",
        "# A head\n\n- one\n- two.\n",
    ],
    "可以。不过「不行。」等等": ["可以。", "可以。不过「不行。」", "可以。不过「不行。」等等"],
    "no end at all": ["no end at all"],
}


@pytest.mark.parametrize("text", TEXTS)
def test_sentence_ends_do_not_depend_on_the_chunks(text: str) -> None:
    """A judge is asked at each end of a sentence and of the answer, at the same characters however the text is cut."""
    wanted = [len(upto) for upto in TEXTS[text]]
    assert all(text.startswith(upto) for upto in TEXTS[text])
    for cut in range(1, len(text) + 1):
        assert positions([text[at : at + cut] for at in range(0, len(text), cut)]) == wanted, cut


@pytest.mark.parametrize("cut", [1, 7, 20, 33, 1000])
def test_every_so_many_characters(cut: int) -> None:
    """With `every` a judge is asked at its multiples, however the text is cut, and at the end."""
    text = prose(130)[:130]
    assert positions([text[at : at + cut] for at in range(0, 130, cut)], every=50) == [50, 100, 130]


@pytest.mark.parametrize("api", ["messages", "chat"])
def test_a_verdict_that_is_taken_back(scene: Any, judge: Any, api: str) -> None:
    """A verdict and its reversal are told with their characters, clocks and exposure; what holds is no reversal."""
    judge()
    opened = scene.opened if api == "messages" else scene.chat
    assert scene.text(opened(Script().text(SURE + BUT, chunk=7), schedule=Schedule(gap=0.004))) == SURE + BUT
    first, second = scene.events(s.EVENT_VERDICT)
    assert (first[s.JUDGE], first[s.VERDICT], first[s.VERDICT_VISIBLE_CHARS]) == ("safe", "yes", 24)
    assert (second[s.VERDICT], second[s.VERDICT_VISIBLE_CHARS]) == ("no", len(SURE + BUT))
    (reversal,) = scene.events(s.EVENT_REVERSAL)
    assert (reversal[s.REVERSAL_FROM], reversal[s.REVERSAL_TO]) == ("yes", "no")
    assert reversal[s.REVERSAL_EXPOSED_CHARS] == len(SURE + BUT) - 24
    assert reversal[s.REVERSAL_ACTED_ON] is False
    between = second[s.VERDICT_SINCE_FIRST_TOKEN] - first[s.VERDICT_SINCE_FIRST_TOKEN]
    assert reversal[s.REVERSAL_EXPOSURE] == pytest.approx(between, abs=1e-6)
    assert 0.01 < reversal[s.REVERSAL_EXPOSURE] < 5
    points = scene.telemetry.points()
    assert {dict(labels)[s.VERDICT]: count for labels, count in points[s.VERDICTS.name].items()} == {"yes": 1, "no": 1}
    ((labels, count),) = points[s.REVERSALS.name].items()
    assert (dict(labels), count) == ({s.JUDGE: "safe", s.VERDICT: "yes", s.REVERSAL_ACTED_ON: False}, 1)
    ((labels, count),) = points[s.REVERSAL_EXPOSURE_TIME.name].items()
    assert (dict(labels), count) == ({s.JUDGE: "safe"}, 1)


def test_a_verdict_that_holds(scene: Any, judge: Any) -> None:
    """An answer that stays with its first word has one verdict and no reversal, however often it is read."""
    judge()
    scene.text(scene.opened(Script().text(SURE * 20)))
    assert [event[s.VERDICT] for event in scene.events(s.EVENT_VERDICT)] == ["yes"]
    assert not scene.events(s.EVENT_REVERSAL)


def test_nobody_judges_what_is_not_visible(scene: Any, judge: Any) -> None:
    """Thinking and the input of tools are not what a user sees: no judge gets any of it."""
    seen: list[str] = []
    judge(lambda text: seen.append(text))
    script = Script().thinking("Yes. No. Yes.").text("So be it. ").tool_use("send", {"to": "Yes. No."}).text("Sent.")
    scene.text(scene.opened(script))
    assert seen[-1] == "So be it. Sent."
    assert all("So be it. Sent.".startswith(text) for text in seen)


@pytest.mark.parametrize(("shown", "acted"), [(None, True), (24, True), (10, False), (200, False)])
def test_acted_on_what_was_taken_back(scene: Any, judge: Any, shown: int | None, acted: bool) -> None:
    """Acted on: by a user who had the verdict in sight, and not yet what took it back."""
    judge()
    stream = scene.opened(
        Script().text([SURE, *[f" And so on {n}." for n in range(3)], BUT]), schedule=Schedule(gap=0.06)
    )
    for event in stream:
        if text_of(event) == SURE:
            assert otelstream.record_action(visible_chars=shown)
    (reversal,) = scene.events(s.EVENT_REVERSAL)
    assert reversal[s.REVERSAL_ACTED_ON] is acted
    ((labels, _),) = scene.counted(s.REVERSALS)
    assert labels[s.REVERSAL_ACTED_ON] is acted


@pytest.mark.parametrize("wrong", [-1, "many", 2.5])
def test_a_count_of_visible_characters(wrong: Any) -> None:
    """What is no count of characters is refused by name and value."""
    with pytest.raises(ConfigurationError, match=f"visible_chars={wrong!r}"):
        otelstream.record_action(visible_chars=wrong)


def test_what_a_view_knows(scene: Any, judge: Any) -> None:
    """A view has each judge's last verdict, its reversals, how often it read, and what that cost."""
    judge()
    with otelstream.turn("kept"):
        stream = scene.opened(Script().text(SURE + BUT))
        scene.text(stream)
    (heard,) = otelstream.get_stream(stream).judges or ()
    assert (heard.name, heard.verdict, heard.reversals, heard.skipped) == ("safe", "no", 1, 0)
    assert heard.readings == 3
    (reversal,) = otelstream.get_stream(stream).reversals or ()
    assert reversal[:3] == ("safe", "yes", "no")
    assert 0 < heard.seconds < 1


def test_exposure_is_as_the_application_saw_it(scene: Any, judge: Any) -> None:
    """How long a verdict stood is within a batch of what passed between the reads of its ends."""
    judge()
    text, at = "", {}
    for event in scene.opened(Script().text(SURE + BUT * 3, chunk=4), schedule=Schedule(gap=0.02)):
        text += text_of(event)
        for end in (24, len(SURE + BUT)):
            if len(text) >= end:
                at.setdefault(end, time.perf_counter())
    (reversal,) = scene.events(s.EVENT_REVERSAL)
    assert reversal[s.REVERSAL_EXPOSURE] == pytest.approx(at[len(SURE + BUT)] - at[24], abs=0.3)


@pytest.mark.parametrize("api", ["messages", "chat"])
def test_generated_reversals(scene: Any, judge: Any, api: str) -> None:
    """Each reversal of a text is found at its character, however it is cut, and none where there is none."""
    _generated(scene, judge, api, 40)


@pytest.mark.slow
@pytest.mark.parametrize("api", ["messages", "chat"])
def test_a_thousand_generated_reversals(scene: Any, judge: Any, api: str) -> None:
    """The same, of a thousand streams with reversals and a thousand without."""
    _generated(scene, judge, api, 1000)


def _generated(scene: Any, judge: Any, api: str, count: int) -> None:
    judge()
    chance = random.Random(5)
    opened = scene.opened if api == "messages" else scene.chat
    for number in range(2 * count):
        text, wanted = _answer(chance, reversals=chance.randint(1, 4) if number % 2 else 0)
        pieces = []
        while sum(map(len, pieces)) < len(text):
            at = sum(map(len, pieces))
            pieces.append(text[at : at + chance.randint(1, 40)])
        scene.telemetry.clear()
        assert scene.text(opened(Script().text(pieces))) == text
        assert [event[s.VERDICT_VISIBLE_CHARS] for event in scene.events(s.EVENT_REVERSAL)] == wanted, (number, text)


def _answer(chance: random.Random, reversals: int) -> tuple[str, list[int]]:
    """Sentences that say yes or no by turns, with others between; where each one that turns ends."""
    text, wanted, word = "", [], "Yes"
    for turn in range(reversals + 1):
        text += f"{word}, {prose(chance.randint(5, 40)).lower().replace('.', ',').strip(', ')}."
        if turn:
            wanted.append(len(text))
        text += " "
        for _ in range(chance.randint(0, 6)):
            text += f"{prose(chance.randint(10, 90)).strip('. ')}. "
        word = "No" if word == "Yes" else "Yes"
    return text, wanted
