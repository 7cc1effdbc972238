# SPDX-License-Identifier: Apache-2.0
"""How the requests of a session end: withdrawn, interrupted, cut, left; and what becomes of the others."""

from __future__ import annotations

import asyncio
import gc
import json
from contextlib import aclosing, suppress
from typing import Any

import anthropic
import pytest
from tools.bench import Bench, wait_for

import otelstream
from otelstream import _semconv as s
from otelstream._core.record.host import hosts
from otelstream._face import instrumentor
from otelstream.anthropic import _sessions
from otelstream.testing import ProviderSimulator, Script
from sessions.conftest import (
    BOTH,
    TEXT,
    Reader,
    begins,
    connection,
    delta,
    ends,
    handmade,
    message,
    preview,
    said,
    verdicts,
)

LONG = Script("long").text(TEXT, chunk=8)
NEXT = Script("next").text("Calm.", chunk=2)
COMPLETED = ("completed", "finished", "none", None)
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}


def event_of(bench: Bench, name: str, span: int = 0) -> dict[str, Any]:
    (found,) = [event for event in bench.spans("chat")[span].events if event.name == name]
    return dict(found.attributes or {})


# --- withdrawn ------------------------------------------------------------------------------------------------


def test_an_interrupt_is_a_stop(bench: Bench, sim: ProviderSimulator, reader: Reader) -> None:
    """What was shown is withdrawn: partial, with its exposure; the time from the interrupt to the request's end."""
    sim.play(LONG.then(NEXT), fault="interrupt_after=chunks:3,seconds:0.6")
    reader.go(reader.reads(*BOTH))

    assert verdicts(bench) == [("cancelled", "mid_stream", "none", "user_stop"), COMPLETED]
    record = bench.ended[0]
    assert record.partial
    assert record.cancel is not None
    assert (record.cancel.propagation, record.cancel.where, record.cancel.visible_chars) == ("closed", "text", 24)
    assert record.cancel.close_delay == pytest.approx(0.6, abs=0.3)
    assert record.usage[s.OUTPUT_TOKENS] > 0
    withdrawn = event_of(bench, s.EVENT_RETRACTION)
    assert (withdrawn[s.RETRACTION_REASON], withdrawn[s.RETRACTION_VISIBLE_CHARS]) == ("other", 24)
    assert withdrawn[s.RETRACTION_EXPOSURE] == pytest.approx(0.6, abs=0.3)
    assert bench.points(s.RETRACTIONS.name, s.RETRACTION_REASON) == {("other",): 1}
    assert bench.points(s.RETRACTION_EXPOSURE_TIME.name) == {(): 1}
    assert bench.points(s.CANCELLATIONS.name, s.CANCEL_TRIGGER) == {("user_stop",): 1}


def test_an_interrupt_that_comes_too_late(bench: Bench, sim: ProviderSimulator, reader: Reader) -> None:
    """The message was whole by then: the request is completed, its Stop was drained, and nothing is withdrawn."""
    sim.play(handmade(begins("a"), preview("m"), delta("m", "Calm."), message("m", "Calm."), said("user.interrupt"),
                      ends("a")))  # fmt: skip
    reader.go(reader.reads(*BOTH))
    record = bench.ended[1]
    assert record.outcome == "completed"
    assert record.cancel is not None
    assert (record.cancel.trigger, record.cancel.propagation) == ("user_stop", "drained")
    assert not bench.points(s.RETRACTIONS.name)


def test_an_interrupt_that_is_said_twice(bench: Bench, sim: ProviderSimulator, reader: Reader) -> None:
    """As it is taken in, and as it is dealt with: a request that begins in between is not stopped by it."""
    stop, again = (said("user.interrupt", "sevt_stop"), said("user.interrupt", "sevt_again"))
    sim.play(handmade(begins("a"), preview("m"), delta("m", "Calm"), stop, ends("a"),
                      begins("b"), stop, ends("b"), begins("c"), again, ends("c"), begins("c"), begins("c"), ends("c"),
                      ))  # fmt: skip
    reader.go(reader.reads(*BOTH))
    assert [(each.outcome, each.stopped_by) for each in bench.ended[1:]] == [
        ("cancelled", "user_stop"), ("completed", None), ("cancelled", "user_stop"), ("completed", None),
    ]  # fmt: skip
    assert not open_records()


def test_an_interrupt_without_previews(bench: Bench, sim: ProviderSimulator, reader: Reader) -> None:
    """Nothing of the request came: it was stopped, and nothing was shown that could be withdrawn."""
    sim.play(LONG, fault="interrupt_after=chunks:3")
    reader.go(reader.reads())
    assert verdicts(bench) == [("cancelled", "before_first_token", "none", "user_stop")]
    assert bench.ended[0].wait_without_token is None
    assert not bench.points(s.RETRACTIONS.name)


def test_what_was_concluded_is_not_withdrawn(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two messages of a request the second comes to nothing: that was shown since it began, and that much of it."""
    now = [100.0]
    monkeypatch.setattr(_sessions, "clock", lambda: now[0])
    session = connection()
    for payload in (begins("a"), preview("m"), delta("m", "Calm."), message("m", "Calm."), preview("n"),
                    delta("n", "And"), said("user.interrupt"), ends("a")):  # fmt: skip
        now[0] += 1.0
        session.took(payload["type"], json.dumps(payload), now[0])
    assert bench.ended[0].outcome == "cancelled"
    withdrawn = event_of(bench, s.EVENT_RETRACTION)
    assert withdrawn[s.RETRACTION_VISIBLE_CHARS] == 3
    assert withdrawn[s.RETRACTION_EXPOSURE] == pytest.approx(3.0)


def test_an_interrupt_counts_from_where_it_is_sent(bench: Bench, sim: ProviderSimulator, reader: Reader) -> None:
    """The application sends it, and the session says so later: the Stop is as old as the sending. It is for that
    session alone."""
    sim.play(LONG, fault="interrupt_after=chunks:4,seconds:0.1", when=lambda asked: "sesn_1" in asked.path)
    asked: list[Any] = []

    async def stops() -> None:
        stream = await reader.open(*BOTH)
        async for event in reader.items(stream):
            if event.type != "event_delta":
                continue
            (record,) = open_records()
            if not asked:
                await reader.sends({"type": "user.interrupt"}, session="sesn_2")
                assert record.stop_asked is None
                await reader.sends({"type": "user.interrupt", "session_thread_id": "sthr_of_another"}, session="sesn_3")
                await reader.sends({"type": "user.interrupt"})
                asked.append(record.stop_asked)

    reader.go(stops())
    (record,) = bench.ended
    assert asked[0] is not None
    assert record.stop_asked is asked[0]
    assert record.cancel is not None
    assert (record.cancel.trigger, record.cancel.visible_chars) == ("user_stop", 8)
    assert record.outcome == "cancelled"


def open_records() -> list[Any]:
    return list(hosts[-1].open_streams())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("where", "named", "reached"),
    [("", None, True), ("", "sthr_child", False), ("", "sthr_primary", True),
     ("sthr_child", "sthr_child", True), ("sthr_child", "sthr_other", False), ("sthr_child", None, True)],
)  # fmt: skip
def test_an_interrupt_of_one_thread(
    bench: Bench, sim: ProviderSimulator, reader: Reader, where: str, named: str | None, reached: bool
) -> None:
    """It reaches the thread that it names, all of them where it names none."""
    named_one = {"session_thread_id": named} if named else {}
    created = said("session.thread_created", session_thread_id="sthr_child", agent_name="helper")
    sim.play(handmade(created, begins("a"), preview("m"), delta("m", "Calm"), said("user.interrupt", **named_one),
                      ends("a")))  # fmt: skip
    reader.go(reader.reads(*BOTH, thread=where))
    record = bench.ended[1]
    assert (record.outcome, record.stopped_by) == (("cancelled", "user_stop") if reached else ("failed", None))


@pytest.mark.parametrize("told", [True, False], ids=["session.error", "no word"])
def test_an_error_withdraws_too(bench: Bench, sim: ProviderSimulator, reader: Reader, told: bool) -> None:
    """In the word of the session, where it has one; the connection goes on to the next request."""
    if told:
        script = Script("broken").text("Hm")
        script = Script("failing", events=(*script.events[:-1],)).event(OVERLOADED).then(NEXT)
    else:
        script = handmade(begins("a"), preview("m"), delta("m", "Hm"), ends("a", is_error=True)).then(NEXT)
    sim.play(script)
    reader.go(reader.reads(*BOTH))
    failed, last = bench.ended[-2:]
    assert (failed.outcome, failed.phase, failed.fault) == ("failed", "mid_stream", "provider_error")
    assert failed.error_type == ("model_overloaded_error" if told else "api_error")
    assert failed.partial
    assert last.outcome == "completed"
    assert bench.points(s.RETRACTIONS.name) == {(): 1}
    span = bench.spans("chat")[-2]
    assert not span.status.is_ok
    assert event_of(bench, s.EVENT_FAILURE, -2)[s.FAILURE_VISIBLE_CHARS] == 2


def test_an_error_of_something_else(bench: Bench, sim: ProviderSimulator, reader: Reader) -> None:
    """What the session says of an MCP server while a request is open is none of that request's business."""
    error = {"type": "mcp_connection_failed_error", "message": "gone", "mcp_server_name": "files",
             "retry_status": {"type": "retrying"}}  # fmt: skip
    told = said("session.error", error=error)
    sim.play(handmade(begins("a"), told, ends("a"), begins("b"), told, ends("b", is_error=True)))
    reader.go(reader.reads(*BOTH))
    assert [(each.outcome, each.error_type) for each in bench.ended[1:]] == [
        ("completed", None), ("failed", "api_error"),
    ]  # fmt: skip


def test_who_asks_for_the_end_of_one_answer(bench: Bench, sim: ProviderSimulator, reader: Reader) -> None:
    """A callback that a loop is told to, which would close any other stream: the connection goes on to the next."""
    asked: list[str | None] = []

    def stop(view: Any) -> bool:
        asked.append(view.response_id)
        return True

    otelstream.on_repetition(stop)
    looping = Script("looping").text("It is calm. " * 80, chunk=12)
    sim.play(looping.then(NEXT))
    try:
        reader.go(reader.reads(*BOTH))
    finally:
        instrumentor._repeats.clear()
    assert asked == [bench.ended[0].response_id]
    assert [each.outcome for each in bench.ended] == ["completed"] * 2
    assert bench.ended[0].fault == "repetition"


def test_a_preview_that_nothing_concludes(bench: Bench, sim: ProviderSimulator, reader: Reader) -> None:
    """Neither an error nor an interrupt was seen: it was cut short, by whatever."""
    sim.play(handmade(begins("a"), preview("m"), delta("m", "Calm"), ends("a")))
    reader.go(reader.reads(*BOTH))
    assert (bench.ended[1].outcome, bench.ended[1].fault) == ("failed", "cut_short")


# --- the connection -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cut", "reset", "end"])
@pytest.mark.parametrize("where", ["between", "within"])
def test_a_connection_that_is_lost(bench: Bench, sim: ProviderSimulator, reader: Reader, how: str, where: str) -> None:
    """Between two requests no answer fails; in one its answer does."""
    sim.play(LONG.then(NEXT), fault=f"{how}_after={'events:12' if where == 'between' else 'chunks:7'}")

    async def reads() -> None:
        with suppress(anthropic.APIConnectionError, *LOST):
            await reader.reads(*BOTH)

    reader.go(reads())
    assert reader.kinds.count("span.model_request_start") == (1 if where == "between" else 2)
    fault = "cut_short" if how == "end" else "connection_lost"
    failed = [] if where == "between" else [("failed", "mid_stream", fault, None)]
    assert verdicts(bench) == [COMPLETED, *failed]


def _lost() -> tuple[type[Exception], ...]:
    http: Any = getattr(anthropic._base_client, "httpx2", None) or anthropic._base_client.httpx
    return (http.TransportError,)


LOST = _lost()


def test_connected_again(bench: Bench, sim: ProviderSimulator, reader: Reader) -> None:
    """What is left of a request that the last connection was lost in has no record; the next one has its own."""
    sim.play(LONG, fault="cut_after=chunks:2")
    again = (delta("m", " rest"), message("m", "The rest"), ends("lost"))
    sim.play(Script("again", events=handmade(*again).events[3:]).then(NEXT))

    async def reads() -> None:
        with suppress(anthropic.APIConnectionError, *LOST):
            await reader.reads(*BOTH)
        await reader.reads(*BOTH)

    reader.go(reads())
    assert verdicts(bench) == [("failed", "mid_stream", "connection_lost", None), COMPLETED]
    assert [each.attempts for each in bench.ended] == [1, 1]
    assert not bench.points(s.STREAM_RETRIES.name)


@pytest.mark.parametrize("kind", ["json", "utf8"])
def test_an_event_that_nobody_can_decode(bench: Bench, sim: ProviderSimulator, reader: Reader, kind: str) -> None:
    """The SDK raises, and leaves the request that is open."""
    sim.play(LONG, fault=f"malformed_frame_after=chunks:2,kind:{kind}")

    async def reads() -> None:
        with suppress(ValueError):
            await reader.reads(*BOTH)
        gc.collect()
        await asyncio.sleep(0)

    reader.go(reads())
    bench.wait_for_ended(1)
    assert verdicts(bench) == [("failed", "mid_stream", "protocol_error", None)]


def test_an_error_event_of_the_transport(bench: Bench) -> None:
    """An `error` in the place of an event ends every request that is open, in its own word."""
    session = connection()
    for payload in (begins("a"), begins("b"), {"type": "error", "error": {"type": "api_error"}}):
        session.took(payload["type"], json.dumps(payload), 0.0)
    assert [(each.outcome, each.error_type) for each in bench.ended] == [("failed", "api_error")] * 2


# --- the application leaves -----------------------------------------------------------------------------------


async def leaves(reader: Reader, way: str, stream: Any) -> None:
    async def until_text() -> None:
        async with aclosing(reader.items(stream)) as items:
            async for event in items:
                if event.type == "event_delta":
                    return

    if way == "close":
        await until_text()
        await reader.done(stream.close())
    elif way in ("with", "raises in with"):
        if reader.asynchronous:
            async with stream:
                await until_text()
                if way != "with":
                    raise KeyError
        else:
            with stream:
                await until_text()
                if way != "with":
                    raise KeyError
    else:
        await until_text()


@pytest.mark.parametrize(
    ("way", "expected"),
    [("close", ("cancelled", "app_close")), ("with", ("cancelled", "app_close")),
     ("raises in with", ("caller_error", None)), ("dropped", ("abandoned", "gc"))],
)  # fmt: skip
def test_left_in_a_request(
    bench: Bench, sim: ProviderSimulator, reader: Reader, way: str, expected: tuple[str, str | None]
) -> None:
    """Its record ends as that of any stream that is left so."""
    sim.play(LONG.then(NEXT), fault="hang_after=chunks:2")

    async def work() -> None:
        with suppress(KeyError):
            await leaves(reader, way, await reader.open(*BOTH))
        gc.collect()
        await asyncio.sleep(0)

    reader.go(work())
    bench.wait_for_ended(1)
    (record,) = bench.ended
    assert (record.outcome, record.stopped_by) == expected


def test_left_between_requests(bench: Bench, sim: ProviderSimulator, reader: Reader) -> None:
    """Nothing was asked for that was not answered."""
    sim.play(LONG.then(NEXT))

    async def work() -> None:
        stream = await reader.open(*BOTH)
        async for event in reader.items(stream):
            if event.type == "session.status_idle":
                break
        await reader.done(stream.close())

    reader.go(work())
    assert verdicts(bench) == [COMPLETED]


def test_closed_with_two_open(bench: Bench, sim: ProviderSimulator, reader: Reader) -> None:
    """Both end with the close."""
    sim.play(handmade(begins("a"), begins("b"), preview("m"), delta("m", "Calm")), fault="hang_after=events:7")

    async def work() -> None:
        await leaves(reader, "close", await reader.open(*BOTH))

    reader.go(work())
    assert [(each.outcome, each.stopped_by) for each in bench.ended[1:]] == [("cancelled", "app_close")] * 2


def test_a_task_that_is_cancelled(bench: Bench, sim: ProviderSimulator) -> None:
    """So is the request that it reads."""
    reader = Reader(sim, asynchronous=True)
    sim.play(LONG, fault="hang_after=chunks:2")

    async def work() -> None:
        task = asyncio.create_task(reader.reads(*BOTH))
        await asyncio.to_thread(wait_for, lambda: "event_delta" in reader.kinds)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    reader.go(work())
    assert verdicts(bench) == [("cancelled", "mid_stream", "none", "task_cancel")]


def test_threads_beside_one_another(bench: Bench, sim: ProviderSimulator) -> None:
    """A session and a thread of it, each on its connection: what cuts one leaves the other whole."""
    sim.play(LONG, fault="cut_after=chunks:2", when=lambda asked: "/threads/" in asked.path)
    sim.play(LONG, when=lambda asked: "/threads/" not in asked.path)
    reader = Reader(sim, asynchronous=True)

    async def work() -> None:
        await asyncio.gather(reader.reads(*BOTH), reader.reads(*BOTH, thread="sthr_1"), return_exceptions=True)

    reader.go(work())
    assert sorted(str(each.outcome) for each in bench.ended) == ["completed", "failed"]
