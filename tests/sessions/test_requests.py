# SPDX-License-Identifier: Apache-2.0
"""One connection carries many answers: a record for each request to a model, and none for the connection."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anthropic
import pytest
from anthropic.types import beta as types
from opentelemetry.instrumentation.utils import suppress_instrumentation
from tools.bench import Bench, global_provider, instrumented

import otelstream
from otelstream import _semconv as s
from otelstream._core.record.host import hosts
from otelstream.anthropic import _sessions
from otelstream.testing import ProviderSimulator, Schedule, Script
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

NEXT = Script("next").text("Calm.", chunk=2)
TWO = Script("two").thinking("Hm.").text(TEXT, chunk=8).end("pause_turn").then(Script("second").text("Calm.", chunk=2))
COMPLETED = ("completed", "finished", "none", None)


@pytest.mark.parametrize("thread", ["", "sthr_1"], ids=["session", "thread"])
def test_a_record_for_each_request(bench: Bench, sim: ProviderSimulator, reader: Reader, thread: str) -> None:
    """Each has its own tokens, chunks and usage, and is out before the next begins; the connection has none."""
    sim.play(TWO)
    seen = []
    reader.go(reader.reads(*BOTH, thread=thread, at=lambda _: seen.append(len(bench.ended))))

    first, second = bench.ended
    assert verdicts(bench) == [COMPLETED] * 2
    assert [(each.chunks, each.visible_chars) for each in bench.ended] == [(6, len(TEXT)), (3, 5)]
    assert first.usage[s.OUTPUT_TOKENS] == 1 + (len(TEXT) + 3) // 4
    assert [each.usage[s.INPUT_TOKENS] for each in bench.ended] == [25, 25]
    starts = [each.id for each in reader.got if each.type == "span.model_request_start"]
    assert [each.response_id for each in bench.ended] == starts
    assert first.request_id == second.request_id == sim.log[-1].request_id
    ended = [index for index, kind in enumerate(reader.kinds) if kind == "span.model_request_end"]
    assert [seen[index] for index in ended] == [1, 2]
    spans = bench.spans()
    assert [(span.name, (span.attributes or {})[s.OUTCOME]) for span in spans] == [("chat unknown", "completed")] * 2
    assert bench.points(s.STREAMS.name, s.OUTCOME) == {("completed",): 2}


def test_the_times_are_those_of_the_wire(bench: Bench, sim: ProviderSimulator, reader: Reader) -> None:
    """From the request's start to its first delta and to its end: as they were written, on a busy machine too."""
    sim.play(Script("slow").pause(0.6).text(TEXT, chunk=8).pause(0.6).end())
    reader.go(reader.reads(*BOTH))

    (record,) = bench.ended
    written = {each.event: each.at for each in reversed(sim.log[-1].events)}  # the first of its name
    start = written["span.model_request_start"]
    assert written["event_delta"] - start > 0.55
    assert record.time_to_first_token == pytest.approx(written["event_delta"] - start, abs=0.3)
    assert record.duration == pytest.approx(written["span.model_request_end"] - start, abs=0.3)
    assert record.cadence.all.count == 5


PROMISES = """\
version: 1
window: 30d
objectives:
  - {name: first, kind: first_token, target: 0.95, threshold: 50ms}
  - {name: whole, kind: completion, target: 0.99, threshold: 60s}
"""


@pytest.mark.parametrize("previews", [(), ("agent.thinking",)], ids=["none", "thinking"])
def test_without_previews_no_first_token_is_claimed(
    sim: ProviderSimulator, previews: tuple[str, ...], tmp_path: Path
) -> None:
    """The message arrives whole: when its first token came is unknown, and no objective judges that."""
    (tmp_path / "promises.yaml").write_text(PROMISES)
    with instrumented(objectives=tmp_path / "promises.yaml") as bench:
        for asynchronous in (False, True):
            sim.play(Script("slow").text("Calm.", chunk=1), schedule=Schedule(gap=0.02))
            reader = Reader(sim, asynchronous)
            reader.go(reader.reads(*previews))
            record = bench.ended[-1]
            assert (record.outcome, record.chunks, record.time_to_first_token) == ("completed", 0, None)
            assert [(each.name, found) for each, found in record.judged] == [("first", "excluded"), ("whole", "good")]
            assert s.WAIT_WITHOUT_TOKEN not in (bench.spans()[-1].attributes or {})
            assert record.usage[s.OUTPUT_TOKENS] > 0
            assert record.duration is not None
            assert record.duration > 0.06
    assert not bench.points(s.STREAM_WAIT_WITHOUT_TOKEN.name)
    assert bench.points(s.STREAM_DURATION.name) == {(): 2}


def test_a_failure_without_previews(sim: ProviderSimulator, tmp_path: Path) -> None:
    """It is a failure for every objective, and one that lasted."""
    (tmp_path / "promises.yaml").write_text(PROMISES)
    with instrumented(objectives=tmp_path / "promises.yaml") as bench:
        session = connection(previews=False)
        for payload in (begins("a"), ends("a", is_error=True)):
            session.took(payload["type"], json.dumps(payload), 0.0)
        (record,) = bench.ended
        assert [found for _, found in record.judged] == ["bad", "bad"]
        assert bench.points(s.STREAM_DURATION.name) == {(): 1}
        assert not bench.points(s.STREAM_WAIT_WITHOUT_TOKEN.name)


def test_what_the_previews_leave_out(bench: Bench, sim: ProviderSimulator, reader: Reader) -> None:
    """Previews are best effort: a message that they show no more than the beginning of is whole all the same, and one
    that they do not show at all has no first token."""
    events = [
        begins("a"), preview("m1"), delta("m1", "It blo"), message("m1", "It blows."), ends("a"),
        begins("b"), preview("m2"), message("m2", "It blows."), ends("b"),
        begins("c"), message("m3", "It blows."), ends("c"),
    ]  # fmt: skip
    sim.play(handmade(*events))
    reader.go(reader.reads("agent.message"))
    mine = bench.ended[1:]
    assert [each.outcome for each in mine] == ["completed"] * 3
    assert [each.visible_chars for each in mine] == [6, 0, 0]
    assert [each.time_to_first_token is not None for each in mine] == [True, False, False]
    assert [each.wait_without_token for each in mine] == [None] * 3
    assert not bench.points(s.RETRACTIONS.name)


def test_requests_that_are_open_at_once(bench: Bench, sim: ProviderSimulator, reader: Reader) -> None:
    """Two on one connection: each has what its previews show, and ends with its own event."""
    events = [
        begins("a"), preview("m1"), delta("m1", "One "), begins("b"), preview("m2"), delta("m2", "Two"),
        delta("m1", "more"), delta("m2", "!"), message("m1", "One more"), ends("a", output=8),
        delta("m2", "!"), message("m2", "Two!!"), ends("b", output=9),
    ]  # fmt: skip
    sim.play(handmade(*events))
    reader.go(reader.reads("agent.message"))
    first, second = bench.ended[1:]
    assert [(each.response_id, each.outcome, each.chunks, each.visible_chars) for each in (first, second)] == [
        ("a", "completed", 2, 8), ("b", "completed", 3, 5),
    ]  # fmt: skip
    assert [each.usage[s.OUTPUT_TOKENS] for each in (first, second)] == [8, 9]
    assert [each.usage[s.INPUT_TOKENS] for each in (first, second)] == [10, 10]
    assert first.cache == "read"


def test_requests_that_never_end_are_not_kept(bench: Bench, sim: ProviderSimulator, reader: Reader) -> None:
    """A provider that leaves out their ends cannot make a connection keep more than a few."""
    sim.play(handmade(*(begins(f"r{number}") for number in range(_sessions.MAX_OPEN + 3))))
    reader.go(reader.reads())
    assert [each.fault for each in bench.ended[1:]] == ["cut_short"] * (_sessions.MAX_OPEN + 3)
    assert [each.response_id for each in bench.ended[1:4]] == ["r0", "r1", "r2"]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_waits_are_the_provider_s(bench: Bench, asynchronous: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the reader keeps the connection parked for is no gap; what it waits for other events is."""
    now = [100.0]
    monkeypatch.setattr(_sessions, "clock", lambda: now[0])

    def event(payload: dict[str, Any], after: float, held: float) -> Any:
        now[0] += after
        return SimpleNamespace(_event=payload["type"], _data=json.dumps(payload)), held

    def provider() -> Iterator[Any]:
        yield event(begins("a"), 0.1, 0.0)
        yield event(preview("m"), 0.1, 0.0)
        yield event(delta("m", "One"), 0.1, 5.0)
        yield event(delta("m", "two"), 0.2, 7.0)
        yield event(said("user.message"), 0.25, 0.5)
        yield event(delta("m", "three"), 0.25, 0.0)
        yield event(message("m", "Onetwothree"), 0.1, 0.0)
        yield event(ends("a"), 0.1, 0.0)

    session = connection()
    holds: list[float] = []
    waited: list[float] = []
    looped: list[bool] = []

    def source() -> Iterator[Any]:
        for each, held in provider():
            holds.append(held)
            yield each

    async def asource() -> AsyncIterator[Any]:
        for each in source():
            yield each

    def reads() -> None:
        """What the reader does with an event; before that it has waited for it since it asked."""
        record = session.stream
        if record is not None and record.ending is None:
            waited.append(now[0] - record.waiting_since)
            looped.append(record.loop is not None)
        now[0] += holds[-1]

    async def areads() -> None:
        async for _ in session.aevents(asource()):
            reads()

    if asynchronous:
        asyncio.run(areads())
    else:
        for _ in session.events(source()):
            reads()
    (record,) = bench.ended
    assert set(looped) == {asynchronous}  # whether what blocks an event loop is told from the provider
    # Since the last chunk, less what it was parked for.
    assert waited[1:] == pytest.approx([0.1, 0.2, 0.2, 0.25, 0.5, 0.1])
    assert record.cadence.all.count == 2
    assert record.cadence.all.longest == pytest.approx(0.5)
    assert record.cadence.all.total == pytest.approx(0.7)
    assert [(stall.source, stall.duration) for stall in record.stalls] == [
        ("consumer", pytest.approx(5.0)), ("consumer", pytest.approx(7.0)),
    ]  # fmt: skip


def test_the_application_gets_the_same(sim: ProviderSimulator) -> None:
    """The same objects in the same order, and the next event is not asked for before the application asks."""
    found = []
    for observed in (False, True):
        for asynchronous in (False, True):
            with instrumented() if observed else nullcontext():
                sim.clear()
                sim.play(TWO)
                reader = Reader(sim, asynchronous)
                reader.go(reader.reads(*BOTH))
                found.append([(type(each).__qualname__, without_ids(each.to_dict())) for each in reader.got])
    assert len(found[0]) > 20
    assert found == [found[0]] * 4


def without_ids(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_ids(each) for key, each in value.items() if key not in ("id", "event_id")}
    return "some" if isinstance(value, str) and value.startswith("sevt_") else value


def test_nothing_is_read_ahead(bench: Bench, sim: ProviderSimulator, reader: Reader) -> None:
    """A connection that is opened and closed has no record; nor has one on which no request begins."""
    sim.play(TWO)
    sim.play(Script("quiet").end("pause_turn"))

    async def opens() -> None:
        stream = await reader.open(*BOTH)
        await reader.done(stream.close())

    reader.go(opens())
    assert bench.ended == []
    assert bench.spans() == []
    assert not list(hosts[-1].open_streams())  # type: ignore[attr-defined]


def test_the_view_of_a_connection(bench: Bench, sim: ProviderSimulator, reader: Reader) -> None:
    """It is of the newest request, whether that is open or has ended; of nothing before the first."""
    sim.play(NEXT, fault="interrupt_after=chunks:2")
    found: list[tuple[str, bool, Any]] = []

    async def work() -> None:
        stream = await reader.open(*BOTH)
        async for event in reader.items(stream):
            view = otelstream.get_stream(stream)
            found.append((event.type, view.observed, view.partial))

    reader.go(work())
    assert found[0] == ("session.status_running", False, None)
    assert {each[1:] for each in found if each[0] == "event_delta"} == {(True, None)}
    assert found[-1] == ("session.status_idle", True, True)


def test_a_dropped_connection_closes_at_once(bench: Bench, sim: ProviderSimulator) -> None:
    """As it does without us: nothing of ours holds it."""
    sim.play(NEXT, fault="hang_after=chunks:1")
    client = anthropic.Anthropic(base_url=sim.base_url, api_key="unused", max_retries=0)
    gc.collect()
    gc.disable()
    try:
        stream = client.beta.sessions.events.stream("sesn_1", event_deltas=["agent.message"])
        for event in stream:
            if event.type == "event_delta":
                break
        del stream, event
        assert sim.wait_for(lambda log: log[-1].closed_by == "peer", timeout=20)
        assert [each.outcome for each in bench.wait_for_ended(1)] == ["abandoned"]
    finally:
        gc.enable()
        client.close()


def test_where_instrumentation_is_suppressed(bench: Bench, sim: ProviderSimulator, reader: Reader) -> None:
    """There is no record of what is opened there, nor of requests that begin where it is read there."""
    sim.play(TWO)
    sim.play(TWO)

    async def opened_there() -> None:
        with suppress_instrumentation():
            stream = await reader.open(*BOTH)
        async for _ in reader.items(stream):
            continue
        stream = await reader.open(*BOTH)
        with suppress_instrumentation():
            async for _ in reader.items(stream):
                continue

    reader.go(opened_there())
    assert bench.ended == []


def test_switched_off_and_on_while_it_is_read(sim: ProviderSimulator) -> None:
    """What began is recorded to its end; what begins later, by whoever is on then."""
    for asynchronous in (False, True):
        with instrumented() as bench:
            sim.play(TWO)
            reader = Reader(sim, asynchronous)

            def off(number: int) -> None:
                if number == 6:
                    otelstream.uninstrument()

            reader.go(reader.reads(*BOTH, at=off))
            assert [each.outcome for each in bench.ended] == ["completed"]


def test_beside_the_span_of_the_sdk(sim: ProviderSimulator) -> None:
    """The SDK's own span of the connection is as it is without us; each request has a span of ours."""
    for asynchronous in (False, True):
        with instrumented() as bench, global_provider(bench.tracer_provider):
            sim.play(TWO)
            reader = Reader(sim, asynchronous)
            reader.go(reader.reads(*BOTH))
            own = [span for span in bench.spans() if span.name == "chat unknown"]
            others = [span for span in bench.spans() if span.name != "chat unknown"]
            assert len(own) == 2
            assert not [name for span in others for name in (span.attributes or {}) if name.startswith("otelstream.")]


def test_no_text_leaves(bench: Bench, sim: ProviderSimulator, reader: Reader) -> None:
    """Neither what the agent says nor what its tools are given."""
    script = Script("secret").text("the sesame word", chunk=3).tool_use("letter", {"to": "sesame"}, id="sevt_1")
    sim.play(script, fault="interrupt_after=chunks:3")
    sim.play(script)
    reader.go(reader.reads(*BOTH))
    reader = Reader(sim, reader.asynchronous)
    reader.go(reader.reads(*BOTH))
    assert len(bench.spans()) == 2
    assert "sesame" not in "".join(span.to_json() for span in bench.spans())


@pytest.mark.parametrize("raw", ["with_raw_response", "with_streaming_response"])
def test_parsed_from_a_raw_response(bench: Bench, sim: ProviderSimulator, reader: Reader, raw: str) -> None:
    """It is the same stream; what is read of it as lines and bytes has no record."""
    sim.play(TWO)
    sim.play(TWO)

    async def work() -> None:
        events = getattr(reader.client.beta.sessions.events, raw)
        for parsed in (True, False):
            answer = events.stream("sesn_1", event_deltas=list(BOTH))
            if raw == "with_raw_response":
                answer = await reader.done(answer)
                await drain(reader, answer, parsed)
            elif reader.asynchronous:
                async with answer as opened:
                    await drain(reader, opened, parsed)
            else:
                with answer as opened:
                    await drain(reader, opened, parsed)

    reader.go(work())
    assert verdicts(bench) == [COMPLETED] * 2


async def drain(reader: Reader, answer: Any, parsed: bool) -> None:
    source = answer.parse() if parsed else answer.iter_lines()
    if inspect.iscoroutine(source):
        source = await source
    async for _ in reader.items(source):
        continue


def agent(model: Any) -> dict[str, Any]:
    return {"id": "agent_1", "name": "helper", "version": 1, "type": "agent", "model": model}


def told_by(reader: Reader, answer: dict[str, Any]) -> Any:
    """A client to which the provider says just this."""
    http: Any = getattr(anthropic._base_client, "httpx2", None) or anthropic._base_client.httpx
    transport = http.MockTransport(lambda _: http.Response(200, json=answer))
    kinds = {False: (anthropic.Anthropic, http.Client), True: (anthropic.AsyncAnthropic, http.AsyncClient)}
    client, transports = kinds[reader.asynchronous]
    return client(base_url="http://provider.invalid", api_key="unused", http_client=transports(transport=transport))


@pytest.mark.parametrize("way", ["retrieve", "list", "thread"])
def test_the_model_is_the_one_of_the_agent(bench: Bench, sim: ProviderSimulator, reader: Reader, way: str) -> None:
    """No event says it; the session, or the thread, does, to who asked for it before."""
    sim.play(NEXT, times=2)
    session = {"id": f"sesn_{way}", "type": "session", "agent": agent({"id": "some-model"})}
    thread = {"id": "sthr_1", "type": "session_thread", "session_id": "sesn_thread", "agent": agent("other-model")}

    async def work() -> None:
        sessions = told_by(reader, {"data": [session], "next_page": None} if way == "list" else session).beta.sessions
        if way == "retrieve":
            await reader.done(sessions.retrieve(session["id"]))
        elif way == "list":
            await reader.done(sessions.list())
        else:
            threads = told_by(reader, thread).beta.sessions.threads
            await reader.done(threads.retrieve("sthr_1", session_id="sesn_thread"))
        await reader.reads(*BOTH, session=f"sesn_{way}", thread="sthr_1" if way == "thread" else "")
        await reader.reads(*BOTH, session="sesn_of_others")

    reader.go(work())
    assert [each.model for each in bench.ended] == ["other-model" if way == "thread" else "some-model", "unknown"]
    assert bench.spans()[0].name == f"chat {bench.ended[0].model}"


def test_few_models_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest of them; and of anything else that the SDK returns nothing is."""
    monkeypatch.setattr(_sessions, "_models", {})
    told = types.BetaManagedAgentsSession
    for number in range(_sessions.MAX_MODELS + 2):
        _sessions.heard(told.construct(id=f"sesn_{number}", agent=SimpleNamespace(model=SimpleNamespace(id="some"))))
    for other in (None, "data", types.BetaMessage.construct(id="msg_1"), SimpleNamespace(data=[None]), object()):
        _sessions.heard(other)
    assert len(_sessions._models) == _sessions.MAX_MODELS
    assert "sesn_1" not in _sessions._models
    assert "sesn_2" in _sessions._models
