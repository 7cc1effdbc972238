# SPDX-License-Identifier: Apache-2.0
"""Where judges run, what they may do to a stream, and what they may not: it is read as without them."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Any

import pytest
from tools.bench import wait_for

import otelstream
from otelstream import _semconv as s
from otelstream._core.process import judges
from otelstream._errors import ConfigurationError
from otelstream.testing import Schedule, Script, prose

from .conftest import ASK

CANARY = "canary-in-the-coal-mine"
TEXT = f"Yes, {CANARY}. " + "And more. " * 30


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "otelstream"]


def recurse(text: str) -> Any:
    return recurse(text + text[:1])


def exits(text: str) -> Any:
    raise SystemExit(text)


def raises(text: str) -> Any:
    raise ValueError(text)


async def araises(text: str) -> Any:
    raise ValueError(text)


async def quits(text: str) -> Any:
    raise asyncio.CancelledError(text)


class Text(str):
    """A str that is none of the verdicts, and holds the text."""


TROUBLE: dict[str, tuple[Any, str]] = {
    "raises": (raises, "judge 'safe' raised ValueError at "),
    "raises, async": (araises, "judge 'safe' raised ValueError at "),
    "exits": (exits, "judge 'safe' raised SystemExit at "),
    "recurses": (recurse, "judge 'safe' raised RecursionError at "),
    "the text itself": (Text, "judge 'safe' returned a Text that is none of its verdicts: return one of ('yes', 'no')"),
    "a number": (lambda text: 1, "judge 'safe' returned a int that is none of its verdicts"),
    "a coroutine": (lambda text: araises(text), "judge 'safe' returned a coroutine that is none of its verdicts"),
}


@pytest.mark.parametrize("api", ["messages", "chat"])
@pytest.mark.parametrize("trouble", TROUBLE)
def test_trouble_is_named_once(scene: Any, judge: Any, caplog: Any, api: str, trouble: str) -> None:
    """Who raises, exits, recurses or returns nonsense is named once, without a word of the text."""
    function, names = TROUBLE[trouble]
    judge(function)
    for _ in range(2):
        assert scene.text((scene.opened if api == "messages" else scene.chat)(Script().text(TEXT))) == TEXT
    wait_for(lambda: said(caplog))
    lines = said(caplog)
    assert lines[0].startswith(names)
    late = [
        line for line in lines if "had not read" in line or " s for one text" in line
    ]  # as recursing takes its time
    assert len(lines) == 1 or (trouble == "recurses" and len(lines) == 1 + len(late))
    assert CANARY not in caplog.text
    span = scene.span()
    assert span.attributes[s.OUTCOME] == "completed"
    assert not scene.events(s.EVENT_VERDICT)
    assert CANARY not in span.to_json()


def test_a_judge_that_sleeps(scene: Any, judge: Any, caplog: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow judge holds up no stream: not while it is read, and its end three times at most."""
    woken = threading.Event()

    def sleeps(text: str) -> str:
        woken.wait(30)
        return "no"

    judge(sleeps)
    monkeypatch.setattr(judges, "PATIENCE", 0.5)
    took = []
    for _ in range(5):
        begun = time.perf_counter()
        assert scene.text(scene.opened(Script().text(TEXT))) == TEXT
        took.append(time.perf_counter() - begun)
    assert max(took) < 5  # it sleeps for longer
    assert sum(took) < 4  # of five ends three waited
    assert not scene.events(s.EVENT_VERDICT)
    woken.set()
    assert "had not read the last text" in "".join(said(caplog))
    # What it says after the end is counted.
    wait_for(lambda: scene.telemetry.values(s.VERDICTS.name))
    ((labels, _),) = scene.telemetry.values(s.VERDICTS.name).items()
    assert dict(labels) == {s.JUDGE: "safe", s.VERDICT: "no"}


def test_lag_is_bounded(scene: Any, judge: Any, monkeypatch: Any) -> None:
    """Places that have waited for too long are left out, but for the newest; that is counted in the view."""
    monkeypatch.setattr("otelstream._core.record.hearing._LAG", 0.05)
    read: list[int] = []

    def slow(text: str) -> None:
        read.append(len(text))
        time.sleep(0.15)

    judge(slow)
    stream = scene.opened(Script().text([f"Sentence {n}. " for n in range(30)]), schedule=Schedule(gap=0.01))
    text = scene.text(stream)
    wait_for(lambda: read and read[-1] == len(text))
    assert len(read) < 15
    (heard,) = otelstream.get_stream(stream).judges or ()
    assert heard.skipped > 0


def test_a_judge_that_floods(scene: Any, judge: Any, caplog: Any) -> None:
    """A verdict that changes at every sentence is told 64 times, within the limit of a span's events; it is named."""
    turns = iter(range(10_000))
    judge(lambda text: ("yes", "no")[next(turns) % 2])
    text = "So. " * 300
    assert scene.text(scene.opened(Script().text(text, chunk=8), schedule=Schedule(gap=0.001))) == text
    assert len(scene.span().events) <= s.MAX_EVENTS
    assert sum(amount for _, amount in scene.counted(s.VERDICTS)) == 64
    assert "changed its verdict over 64 times" in "".join(said(caplog))
    assert scene.events(s.EVENT_FINISH)


@pytest.mark.parametrize("api", ["messages", "chat"])
def test_stop(scene: Any, judge: Any, api: str) -> None:
    """STOP closes the stream before its next read: a cancel of trigger `judge`, with what had been shown."""
    judge(lambda text: otelstream.STOP if "No" in text else "yes")
    script = Script().text(["Yes. ", "It is. ", "No, it is not. ", *["And more. "] * 200])
    stream = (scene.opened if api == "messages" else scene.chat)(script, schedule=Schedule(gap=0.01))
    got = scene.text(stream)
    assert "No, it is not. " in got
    assert got.count("And more. ") < 100
    attributes = scene.span().attributes
    assert (attributes[s.OUTCOME], attributes[s.CANCEL_TRIGGER]) == ("cancelled", "judge")
    assert attributes[s.CANCEL_PROPAGATION] in ("closed", "closed_late")
    (asked,) = scene.events(s.EVENT_CANCEL_REQUESTED)
    assert asked[s.CANCEL_VISIBLE_CHARS] >= 26
    assert [(each[s.VERDICT], each[s.VERDICT_VISIBLE_CHARS]) for each in scene.events(s.EVENT_VERDICT)] == [
        ("yes", 4), ("stop", 26)
    ]  # fmt: skip
    assert not scene.events(s.EVENT_REVERSAL)
    assert otelstream.get_stream(stream).trigger == "judge"


def test_stop_of_an_async_stream(scene: Any, judge: Any) -> None:
    """The same of an async stream, by a judge of either kind."""

    async def astops(text: str) -> Any:
        await asyncio.sleep(0)
        return otelstream.STOP if "No" in text else None

    script = Script().text(["No. ", *["And more. "] * 200])
    for function in (lambda text: otelstream.STOP if "No" in text else None, astops):
        judge(function)
        assert asyncio.run(scene.aread(script, schedule=Schedule(gap=0.01))).count("And more. ") < 100
        assert scene.span().attributes[s.CANCEL_TRIGGER] == "judge"


def test_an_async_judge_runs_in_the_loop_of_its_stream(scene: Any, judge: Any) -> None:
    """Its awaits are of the loop that reads; one at a time of a stream; of a stream that is not async, in a thread."""
    loops: set[Any] = set()
    under_way = [0, 0]

    async def judged(text: str) -> str:
        loops.add(asyncio.get_running_loop())
        under_way[0] += 1
        under_way[1] = max(under_way)
        await asyncio.sleep(0.002)
        under_way[0] -= 1
        return "yes"

    judge(judged)

    async def read() -> Any:
        assert await scene.aread(Script().text(TEXT), schedule=Schedule(gap=0.01)) == TEXT
        await asyncio.sleep(0.05)
        return asyncio.get_running_loop()

    assert asyncio.run(read()) in loops
    assert len(loops) == 1
    assert under_way == [0, 1]
    assert [event[s.VERDICT] for event in scene.events(s.EVENT_VERDICT)] == ["yes"]
    scene.text(scene.opened(Script().text(TEXT)))
    wait_for(lambda: len(loops) == 2)


def test_a_loop_that_ends_before_an_async_judge(scene: Any, judge: Any, caplog: Any) -> None:
    """A loop is closed while a judge of it is under way: nobody is told of a task that was left."""

    async def never(text: str) -> None:
        await asyncio.Event().wait()

    judge(never)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(scene.aread(Script().text(TEXT), schedule=Schedule(gap=0.001)))
    loop.close()
    judges._declared.clear()
    assert not [line for line in caplog.text.splitlines() if "destroyed" in line]


def test_what_a_judge_asks_a_model_is_judged_by_nobody(scene: Any, judge: Any) -> None:
    """A judge may stream an answer of its own: that is a record of its own in no turn, and no judge reads it."""
    asked: list[str] = []

    def asks(text: str) -> None:
        asked.append(text)
        if len(asked) == 1:
            scene.text(scene.opened(Script().text("No judge reads this. Or it goes on for ever.")))

    judge(asks)
    with otelstream.turn("question"):
        scene.text(scene.opened(Script().text("One. Two.")))
        assert otelstream.current_stream().visible_chars == len("One. Two.")
    wait_for(lambda: len(scene.telemetry.spans()) == 2)
    assert asked == ["One.", "One. Two."]
    turns = [(span.attributes or {}).get(s.TURN_ID) for span in scene.telemetry.spans()]
    assert sorted(map(str, turns)) == ["None", "question"]


def test_a_turn_that_a_judge_opens(scene: Any, judge: Any) -> None:
    """What a judge asks in a turn of its own is of that turn, and there a stop is that turn's: not its stream's."""
    seen: list[Any] = []

    def asks(text: str) -> None:
        if not seen:
            with otelstream.turn("check"):
                scene.text(scene.opened(Script().text("No judge reads this.")))
                seen.append(otelstream.current_stream().turn_id)
                otelstream.record_stop()
            seen.append(otelstream.current_stream().turn_id)

    judge(asks)
    with otelstream.turn("question"):
        stream = scene.opened(Script().text("One. Two."))
        scene.text(stream)
    assert seen == ["check", "question"]
    assert otelstream.get_stream(stream).trigger is None


def test_a_judge_looks_at_its_stream_and_withdraws_it(scene: Any, judge: Any) -> None:
    """In a judge, `current_stream` and `record_retraction` mean the stream that it reads."""
    seen: list[Any] = []

    def guard(text: str) -> None:
        seen.append(otelstream.current_stream().model)
        if "No" in text:
            otelstream.record_retraction(reason="guardrail")

    judge(guard)
    with otelstream.turn("question"):
        for _ in scene.opened(Script().text(["No. ", *["And so. "] * 5]), schedule=Schedule(gap=0.05)):
            pass
    assert set(seen) == {"some-model"}
    assert scene.events(s.EVENT_RETRACTION)[0][s.RETRACTION_REASON] == "guardrail"


def test_each_choice_but_the_first_is_left_alone(scene: Any, judge: Any) -> None:
    """Of several choices the first one that comes is judged: mixed they would be nobody's answer."""
    from otelstream._core.record.hearing import Visible

    visible = Visible([], None, lambda: None, lambda _: None, float)  # type: ignore[arg-type]
    for key, text in (((0, 0), "Yes."), ((1, 0), "No."), ((0, 1), " So.")):
        visible.add(key, text, 0.0)
    assert visible.upto(visible.chars) == "Yes. So."


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_threads_of_its_own(scene: Any, judge: Any) -> None:
    """A judge that has read in the parent reads in a child that is forked from it."""
    judge()
    scene.text(scene.opened(Script().text("Yes.")))
    scene.sim.play(Script().text("Yes. No."))
    child = os.fork()
    if not child:
        code = 1
        try:
            stream = scene.client.messages.create(**ASK, stream=True)
            scene.text(stream)
            view = otelstream.get_stream(stream)
            code = 0 if view.judges and view.judges[0].reversals == 1 else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a name": ({"name": "Safe to ship"}, "name 'Safe to ship' is not allowed: use 1-40 of a-z"),
    "no verdicts": ({"verdicts": ()}, r"verdicts=\(\) is no list of 1 to 8 words"),
    "a word": ({"verdicts": "yes"}, "verdicts='yes' is no list of 1 to 8 words"),
    "nine": ({"verdicts": [f"v{n}" for n in range(9)]}, "is no list of 1 to 8 words"),
    "a number": ({"verdicts": 5}, "verdicts=5 is no list of 1 to 8 words"),
    "a sentence": ({"verdicts": ["not so sure"]}, "verdict 'not so sure' is not allowed"),
    "stop": ({"verdicts": ["stop"]}, "is what a returned otelstream.STOP is told as"),
    "every": ({"every": 5}, "every=5 is not allowed: use 'sentence', or characters, at least 20"),
    "a unit": ({"every": "word"}, "every='word' is not allowed"),
    "no function": ({"function": 5}, "5 is no function"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_what_cannot_be_a_judge(judge: Any, wrong: str) -> None:
    """A wrong name, verdict, distance or function is refused where it is declared, by field, value and remedy."""
    given, error = REFUSED[wrong]
    with pytest.raises(ConfigurationError, match=error):
        judge(**given)
    assert not judges.names()


def test_at_most_eight(judge: Any) -> None:
    """A ninth judge is refused; one of a name that is there takes its place."""
    try:
        for number in range(s.MAX_JUDGES):
            judge(name=f"judge-{number}")
        judge(name="judge-3")
        with pytest.raises(ConfigurationError, match="judge 'one-more' is one too many: at most 8"):
            judge(name="one-more")
    finally:
        judges._declared.clear()


def test_a_judge_is_still_the_function(judge: Any) -> None:
    """The decorator hands back the very function."""
    try:
        assert judge(raises) is raises
    finally:
        judges._declared.clear()


def test_no_judge_costs_nothing(scene: Any) -> None:
    """Without a judge no text is kept: a record has nobody who reads."""
    stream = scene.opened(Script().text(prose(400)))
    next(iter(stream))
    (view,) = otelstream.open_streams()
    assert view._stream is not None
    assert view._stream.visible is None
    stream.close()


def test_the_text_is_let_go_of(scene: Any, judge: Any) -> None:
    """What is ended keeps no text, and no judge that waits for it."""
    judge()
    stream = scene.opened(Script().text(TEXT))
    scene.text(stream)
    record = otelstream.get_stream(stream)._stream
    assert record is not None
    assert record.visible is None
