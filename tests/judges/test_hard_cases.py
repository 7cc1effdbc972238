# SPDX-License-Identifier: Apache-2.0
"""What a judge must not do to a loop, to the memory, or to the record of a stream, whatever it does."""

from __future__ import annotations

import _thread
import asyncio
import gc
import os
import threading
import time
from contextvars import copy_context
from enum import Enum
from types import SimpleNamespace
from typing import Any

import anthropic
import pytest
from tools.bench import wait_for

import otelstream
from otelstream import _semconv as s
from otelstream._core.process import judges
from otelstream._core.record.hearing import Visible
from otelstream._face.view import StreamView
from otelstream.testing import Schedule, Script

from .conftest import ASK, text_of
from .test_how_judges_run import CANARY, TEXT, said


class NoException(BaseException):
    """What is raised, and is no `Exception`."""


def visible(*judged: Any, patience: Any = float) -> Visible:
    return Visible(judged, copy_context(), lambda: None, lambda _: None, patience)


@pytest.mark.parametrize("raised", [SystemExit, NoException, GeneratorExit])
def test_what_an_async_judge_raises_stays_with_it(scene: Any, judge: Any, caplog: Any, raised: Any) -> None:
    """Whatever it is, it neither ends the loop nor comes, with the text in it, to the loop's log."""

    async def raises(text: str) -> Any:
        raise raised(text)

    judge(raises)

    async def read() -> str:
        found = await scene.aread(Script().text(TEXT), schedule=Schedule(gap=0.002))
        await asyncio.sleep(0.02)
        return str(found)

    assert asyncio.run(read()) == TEXT
    gc.collect()
    assert CANARY not in caplog.text
    assert "never retrieved" not in caplog.text


def test_loops_that_were_left(scene: Any, judge: Any, caplog: Any, monkeypatch: Any) -> None:
    """Readings in loops that were closed under them are not under way: an async judge goes on in the next loop."""
    monkeypatch.setattr(judges, "MAX_TASKS", 2)
    read = []

    async def never(text: str) -> None:
        read.append(text)
        await asyncio.Event().wait()

    judge(never)
    for _ in range(5):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(scene.aread(Script().text("Yes. No.")))
        loop.close()
    assert len(read) == 5
    assert not said(caplog)


def test_readings_of_an_async_judge_are_bounded_at_once(scene: Any, judge: Any, caplog: Any) -> None:
    """Streams that come in one step of the loop begin no more readings than are allowed."""
    under_way = set()

    async def never(text: str) -> None:
        under_way.add(asyncio.current_task())
        await asyncio.sleep(60)

    judge(never)

    async def hear() -> None:
        for _ in range(judges.MAX_TASKS + 6):
            visible(judges._declared["safe"]).add(None, "Yes. No", 0.0)
        await asyncio.sleep(0.01)

    asyncio.run(hear())
    assert len(under_way) == judges.MAX_TASKS
    assert said(caplog) == ["judge 'safe' has 64 readings under way: others are left out until some are done"]


def test_texts_that_wait_for_a_judge_are_bounded(judge: Any, caplog: Any, monkeypatch: Any) -> None:
    """A judge that never comes back keeps the texts of so many streams, not of all that follow."""
    monkeypatch.setattr(judges, "MAX_WAITING", 3)
    woken = threading.Event()
    read: list[str] = []
    judge(lambda text: read.append(text) or (woken.wait(30) and None))
    (declared,) = judges._declared.values()
    try:
        heard = [visible(declared) for _ in range(10)]
        for number, each in enumerate(heard):
            each.add(None, "Yes. No", time.perf_counter())
            wait_for(lambda number=number: number or read)
        left_out = [each.hearings[0] for each in heard if each.hearings[0].skipped]
        assert len(left_out) == 6
        assert not any(hearing.busy or hearing.places for hearing in left_out)
        assert "judge 'safe' has 3 streams to read: others are left out until it has read some" in said(caplog)
    finally:
        woken.set()
        judges._declared.clear()


def test_no_thread_is_to_be_had(scene: Any, judge: Any, monkeypatch: Any, caplog: Any) -> None:
    """Where no thread can be started, the record of a stream is whole but for its judges; later ones are read."""
    judge()

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr("_thread.start_new_thread", refuse)
        stream = scene.opened(Script().text(["Yes. ", "No."]).tool_use("send", {"to": "all"}))
        scene.text(stream)
    assert s.EVENT_TOOL_READY in [event.name for event in scene.span().events]
    assert scene.span().attributes[s.GAP_MAX] >= 0
    assert said(caplog) == ["judge 'safe' got no thread to run in: texts are left out until there is one"]
    scene.text(scene.opened(Script().text("Yes. No.")))
    assert scene.events(s.EVENT_REVERSAL)


def test_one_thread_a_judge(judge: Any, monkeypatch: Any) -> None:
    """Streams that are read in many threads start one thread of a judge, not one each."""
    started: list[object] = []

    def start(*given: object) -> None:
        started.append(given)
        time.sleep(0.02)  # others go on meanwhile

    judge()
    (declared,) = judges._declared.values()
    begin = threading.Barrier(5)

    def read() -> None:
        begin.wait()
        visible(declared).add(None, "Yes. No", 0.0)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    monkeypatch.setattr(judges, "_thread", SimpleNamespace(start_new_thread=start))  # not for the readers themselves
    begin.wait()
    for reader in readers:
        reader.join()
    judges._declared.clear()
    assert len(started) == 1


def test_the_thread_of_a_judge_that_was_replaced_ends(scene: Any, judge: Any) -> None:
    """Declared again, as in a notebook, a judge leaves no thread; streams open by then are read by the old one."""
    judge(lambda text: "yes")
    scene.text(scene.opened(Script().text("Yes. No.")))
    before = _thread._count()
    for _ in range(5):
        judge(lambda text: "yes")
        scene.text(scene.opened(Script().text("Yes. No.")))
    wait_for(lambda: _thread._count() <= before)
    first = scene.opened(Script().text([*["So. "] * 5, "No."]), schedule=Schedule(gap=0.02))
    next(first)
    judge(lambda text: "no")
    scene.text(first)
    assert [event[s.VERDICT] for event in scene.events(s.EVENT_VERDICT)] == ["yes"]
    wait_for(lambda: _thread._count() <= before - 1)


@pytest.mark.parametrize("ends", ["closed", "completed"])
def test_stop_at_an_end_that_somebody_else_made(scene: Any, judge: Any, ends: str) -> None:
    """STOP of the last reading is told as a verdict; it stopped nothing, and the end is whose it was."""
    judge(lambda text: otelstream.STOP if "the end" in text else None)
    stream = scene.opened(Script().text(["So. ", "the end", *["x"] * 3]), schedule=Schedule(gap=0.02))
    for event in stream:
        if ends == "closed" and text_of(event) == "the end":
            stream.close()
            break
    assert [event[s.VERDICT] for event in scene.events(s.EVENT_VERDICT)] == ["stop"]
    trigger = "app_close" if ends == "closed" else None
    assert scene.span().attributes.get(s.CANCEL_TRIGGER) == trigger


@pytest.mark.parametrize("api", ["messages", "chat"])
@pytest.mark.parametrize("who", ["the reader", "the provider"])
def test_exposure_over_a_pause(scene: Any, judge: Any, api: str, who: str) -> None:
    """A pause between a verdict and what takes it back counts as exposure, though chunks are summed many at once."""
    judge()
    pieces = ["Well. ", *["so "] * 6, "Yes. ", *["so "] * 8, "pause", "No. ", *["so "] * 40]
    script = Script().text(pieces)
    opened = scene.opened if api == "messages" else scene.chat
    at = next(
        n for n, event in enumerate(script.events) if '"pause"' in str(event.payload) or "'pause'" in str(event.payload)
    )
    pauses = {at + 1: 0.4} if who == "the provider" else {}
    for event in opened(script, schedule=Schedule(gap=0.0005, pauses=pauses)):
        if text_of(event) == "pause" and who == "the reader":
            time.sleep(0.4)
    (reversal,) = scene.events(s.EVENT_REVERSAL)
    assert 0.35 < reversal[s.REVERSAL_EXPOSURE] < 0.6


def test_many_ends_in_one_loop(scene: Any, judge: Any, monkeypatch: Any) -> None:
    """For how long the ends of streams hold up a loop is bounded for all of them together."""
    monkeypatch.setattr(judges, "PATIENCE_IN_A_LOOP", 0.02)
    monkeypatch.setattr(judges, "_loops", judges._Budget())
    judge(lambda text: time.sleep(0.003))
    (declared,) = judges._declared.values()

    async def end() -> float:
        begun = time.perf_counter()
        for _ in range(100):
            heard = visible(declared, patience=judges.patience)
            heard.add(None, "Yes", time.perf_counter())
            heard.close(time.perf_counter(), wait=True)
        return time.perf_counter() - begun

    assert asyncio.run(end()) < 0.1  # without a bound 0.3


def test_a_wait_is_in_vain_where_there_was_one(judge: Any) -> None:
    """A judge for which no time was left, as another took it, is not said to be late."""
    judge()
    (declared,) = judges._declared.values()
    heard = visible(declared, patience=lambda: -1.0)
    heard.add(None, "Yes", time.perf_counter())
    heard.close(time.perf_counter(), wait=True)
    judges._declared.clear()
    assert declared._vain == 0


def test_under_trio_too_an_end_is_in_a_loop() -> None:
    """Others wait in a loop of trio's as they do in asyncio's: the short patience holds."""
    trio = pytest.importorskip("trio")

    async def asked() -> float:
        return judges.patience()

    assert trio.run(asked) <= judges.PATIENCE_IN_A_LOOP
    assert judges.patience() == judges.PATIENCE


def test_acted_on_what_an_async_judge_takes_back_late(scene: Any, judge: Any) -> None:
    """A reversal that comes after the end of its stream knows of the actions before it."""

    async def judged(text: str) -> str:
        if text.endswith("No."):
            await asyncio.sleep(0.05)
            return "no"
        return "yes"

    judge(judged)

    async def read() -> None:
        scene.sim.play(Script().text(["Yes. ", "So. ", "Ever. ", "No."]), schedule=Schedule(gap=0.06))
        async with anthropic.AsyncAnthropic(base_url=scene.sim.base_url, api_key="unused", max_retries=0) as client:
            async for event in await client.messages.create(**ASK, stream=True):
                if text_of(event) == "Ever. ":
                    otelstream.record_action()
            await asyncio.sleep(0.2)

    asyncio.run(read())
    ((labels, count),) = scene.counted(s.REVERSALS)
    assert (labels[s.REVERSAL_ACTED_ON], count) == (True, 1)


class Verdict(str, Enum):
    """Verdicts as an application may have them."""

    YES = "yes"
    NO = "no"


class Liar(str):
    """A text that says that it is each verdict."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True


@pytest.mark.parametrize("words", [Verdict, (word for word in ("yes", "no"))], ids=["an enum", "a generator"])
def test_verdicts_are_plain_words(scene: Any, judge: Any, words: Any) -> None:
    """Of whatever kind the declared words are and what is returned, a signal has a word as it was declared."""
    judge(lambda text: Liar(text) if "No" in text else Verdict.NO, verdicts=words)
    scene.text(scene.opened(Script().text(f"{CANARY}. No.")))
    found = [event[s.VERDICT] for event in scene.events(s.EVENT_VERDICT)]
    assert found == ["no", "yes"]
    assert {type(word) for word in found} == {str}


@pytest.mark.parametrize("every", [0, 20])
def test_a_chunk_with_more_places_than_can_wait(every: int) -> None:
    """Of a chunk with thousands of places the last ones wait, and the rest are counted."""
    idle = SimpleNamespace(every=every, hear=lambda hearing: None)
    heard = visible(idle)
    heard.add(None, "Yes. " * 4000 + "No", time.perf_counter())
    (hearing,) = heard.hearings
    places, last = (1000, 20_000) if every else (4000, 19_999)
    assert (len(hearing.places), hearing.skipped) == (256, places - 256)
    assert hearing.places[-1][0] == last


def test_stop_after_a_flood(scene: Any, judge: Any) -> None:
    """STOP holds, and is told, however often the judge has changed its verdict before."""
    turns = iter(range(10_000))
    judge(lambda text: otelstream.STOP if "the end" in text else ("yes", "no")[next(turns) % 2], every=20)
    pieces = [*["And so on and on. "] * 120, "the end", *["x"] * 400]
    scene.text(scene.opened(Script().text(pieces), schedule=Schedule(gap=0.002)))
    assert scene.span().attributes[s.CANCEL_TRIGGER] == "judge"
    assert ({s.JUDGE: "safe", s.VERDICT: "stop"}, 1) in scene.counted(s.VERDICTS)


def test_a_view_that_is_asked_while_its_stream_ends(scene: Any, judge: Any) -> None:
    """Whoever polls `view.judges` has a report at any time: the text may go while it looks, and is waited for after."""

    class Ends:
        """A stream that ends between two looks at it."""

        heard = ("the last reports",)
        looks = 0

        @property
        def visible(self) -> Any:
            self.looks += 1
            return visible(SimpleNamespace(name="safe", every=0)) if self.looks == 1 else None

    for stream in (Ends(), Ends()):
        assert len(StreamView(stream).judges or ()) == 1  # type: ignore[arg-type]

    seen: list[Any] = []

    def reads(text: str) -> str:
        seen.append(otelstream.current_stream().judges)
        return "yes"

    judge(reads)
    scene.text(scene.opened(Script().text("Yes. No")))
    assert [[report.name for report in reports] for reports in seen] == [["safe"], ["safe"]]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_leaves_the_tasks_of_its_parent_alone(scene: Any, judge: Any) -> None:
    """What an async judge had under way at a fork goes on in the parent: nothing of it is run in the child."""
    ended: list[int] = []

    async def never(text: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(os.getpid())

    judge(never)

    async def fork() -> int:
        await scene.aread(Script().text("Yes. No"))
        await asyncio.sleep(0.01)
        child = os.fork()
        if not child:
            gc.collect()
            os._exit(len(ended))
        return child

    assert os.waitpid(asyncio.run(fork()), 0)[1] == 0
    assert ended == [os.getpid()]


@pytest.mark.parametrize(("gap", "room"), [(0.0001, 32), (0.005, 10), (0.02, 2), (0.2, 1)])
def test_chunks_are_handed_on_together(gap: float, room: int) -> None:
    """Of a judged stream so many chunks are summed at once as come in 50 ms, one at least and 32 at most."""
    visible = Visible([], None, lambda: None, lambda _: None, float)  # type: ignore[arg-type]
    for number in range(1, 9):
        visible.add((0, 0), "word ", number * gap)
    assert visible.room == room
