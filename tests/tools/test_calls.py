# SPDX-License-Identifier: Apache-2.0
"""Which run serves which call, and what is kept: parallel calls, threads, early and late runs, hostile names."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import anthropic
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

import otelstream
from otelstream import _semconv as s
from otelstream._core.emit import outbox
from otelstream._core.process.closing import end
from otelstream._core.record.call import ToolCall
from otelstream._core.record.ending import Ending
from otelstream._core.tools import registry as _registry
from otelstream._core.tools.registry import registry
from otelstream._core.turns import turn as _turn
from otelstream._face import instrumentor as _instrumentor
from otelstream.anthropic._grammar import Grammar
from otelstream.testing import ProviderSimulator, Schedule, Script, prose

from .bench import ASK, Bench, instrumented, wait_for

VERSION = tuple(int(part) for part in anthropic.__version__.split(".")[:2])


@pytest.fixture(scope="module")
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as sim:
        yield sim


@pytest.fixture(scope="module")
def client(sim: ProviderSimulator) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=sim.base_url, api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture(autouse=True)
def clean(sim: ProviderSimulator) -> None:
    sim.clear()


@pytest.fixture
def bench() -> Iterator[Bench]:
    with instrumented() as bench:
        yield bench


def read(client: Any) -> Any:
    """The whole message of one stream."""
    with client.messages.stream(**ASK) as stream:
        return stream.get_final_message()


# --- which call -----------------------------------------------------------------------------------------------


def test_parallel_calls_of_one_name(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """Calls of one name in threads that know no turn are told apart by their arguments, whatever their order."""
    seen: dict[str, float] = {}

    @otelstream.tool(effect="write")
    def mail(to: str) -> None:
        seen[to] = time.perf_counter()

    names = [f"person-{i}" for i in range(12)]
    script = Script()
    for name in names:
        script = script.tool_use("mail", {"to": name})
    sim.play(script)
    with otelstream.turn("chat") as turn:
        message = read(client)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda block: mail(block.input["to"]), reversed(message.content)))
    assert [(call.state, call.guessed) for call in turn.tool_calls] == [("committed", False)] * 12
    for call, name in zip(turn.tool_calls, names, strict=True):
        assert call.dispatched_at == pytest.approx(seen[name], abs=0.05)
    assert bench.points(s.TOOL_CALLS.name, s.TOOL_NAME) == {("mail",): 12}


def test_arguments_that_were_changed_are_a_guess(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """Run with other arguments than the model's, the oldest ready call of that name is taken, and marked."""

    @otelstream.tool
    def mail(to: str, *, copy: bool = False) -> None:
        return

    sim.play(Script().tool_use("mail", {"to": "a"}).tool_use("mail", {"to": "b"}))
    with otelstream.turn("chat") as turn:
        read(client)
        mail("b")
        mail("changed", copy=True)
    assert [(call.guessed, call.state) for call in turn.tool_calls] == [(True, "committed"), (False, "committed")]


def test_another_turns_call_is_not_taken(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """A run in one turn never serves the call of another, though name and arguments be the same."""

    @otelstream.tool(name="mail")
    def send(to: str) -> None:
        return

    sim.play(Script().tool_use("mail", {"to": "a"}), times=2)
    with otelstream.turn("one") as one:
        read(client)
    with otelstream.turn("two") as two:
        read(client)
        send("a")
    assert one.tool_calls[0].state == "ready"
    assert two.tool_calls[0].state == "committed"


def test_before_ready(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """A tool that runs while its input still streams is `before_ready`, by id or by name."""

    @otelstream.tool(name="second")
    def second(to: str) -> None:
        return

    script = Script().tool_use("first", {"to": "a" * 60}, chunk=6).tool_use("second", {"to": "a" * 60}, chunk=6)
    sim.play(script)
    with otelstream.turn("chat") as turn, client.messages.create(**ASK, stream=True) as stream:
        done = set()
        for event in stream:
            if event.type == "content_block_start":
                block = event.content_block
            if event.type == "content_block_delta" and event.delta.partial_json and block.id not in done:
                done.add(block.id)
                if block.name == "first":
                    with otelstream.tool_call(block):
                        pass
                else:
                    second("aaa")
    assert [call.phase for call in turn.tool_calls] == ["before_ready", "before_ready"]
    assert [call.guessed for call in turn.tool_calls] == [False, True]


def test_counted_once_by_every_evidence(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """A span around `tool_call` around the decorated function, and the result sent on: one call, best evidence."""

    @otelstream.tool(effect="write")
    def mail(to: str) -> None:
        time.sleep(0.01)

    sim.play(Script().tool_use("mail", {"to": "a"}))
    with otelstream.turn("chat") as turn:
        block = read(client).content[0]
        with (
            bench.tracer.start_as_current_span("theirs", attributes={"gen_ai.tool.call.id": block.id}),
            otelstream.tool_call(block),
        ):
            mail("a")
        result = {"type": "tool_result", "tool_use_id": block.id, "content": "x"}
        messages = [*ASK["messages"], {"role": "assistant", "content": [block]}, {"role": "user", "content": [result]}]
        client.messages.create(**{**ASK, "messages": messages})
    labels = (s.TOOL_CALL_EFFECT, s.DISPATCH_PHASE, s.TOOL_CALL_STATE)
    assert bench.points(s.TOOL_CALLS.name, *labels) == {("write", "after_end", "committed"): 1}
    assert turn.tool_calls[0].evidence == "decorator"
    assert not bench.spans(s.EXECUTE_TOOL)  # the span that is there carries the id already
    theirs = bench.spans("theirs")[0]
    assert [event.name for event in theirs.events] == [s.EVENT_TOOL_DISPATCHED, s.EVENT_TOOL_FINISHED]
    assert [link.context.span_id for link in theirs.links] == [_stream_span(bench).context.span_id]
    assert (theirs.attributes or {})[s.DISPATCH_PHASE] == "after_end"


def _stream_span(bench: Bench) -> Any:
    return next(span for span in bench.spans() if s.OUTCOME in (span.attributes or {}))


def test_a_result_in_a_request_that_does_not_stream(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """The result of a call is seen in any later request; an error result is a failed call. Ids only are read."""
    sim.play(Script().tool_use("one", {}).tool_use("two", {}).tool_use("three", {}))
    with otelstream.turn("chat") as turn:
        blocks = read(client).content
        results = [
            {"type": "tool_result", "tool_use_id": blocks[0].id, "content": "x"},
            {"type": "tool_result", "tool_use_id": blocks[1].id, "is_error": True},
            {"type": "tool_result", "tool_use_id": "toolu_unknown"},
        ]
        client.messages.create(**{**ASK, "messages": [*ASK["messages"], {"role": "user", "content": results}]})
    assert [call.state for call in turn.tool_calls] == ["committed", "failed", "ready"]
    assert [call.evidence for call in turn.tool_calls] == ["tool_result", "tool_result", None]


def test_the_own_span(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """The decorator makes an `execute_tool` span with the call's id, an error's type, and a link; no text."""

    @otelstream.tool(effect="write")
    def mail(to: str) -> None:
        raise ValueError("secret words of the model")

    sim.play(Script().tool_use("mail", {"to": "a"}))
    with otelstream.turn("chat") as turn:
        read(client)
        with pytest.raises(ValueError, match="secret"):
            mail("a")
    span = bench.spans("execute_tool mail")[0]
    assert span.attributes is not None
    assert span.attributes[s.TOOL_CALL_ID] == turn.tool_calls[0].id
    assert (span.attributes[s.TOOL_CALL_STATE], span.attributes[s.ERROR_TYPE]) == ("failed", "ValueError")
    assert len(span.links) == 1
    assert "secret" not in span.to_json()


def test_sampling_off(sim: ProviderSimulator, client: Any) -> None:
    """Nothing of dispatch, stop and ledger hangs on spans being sampled."""
    with instrumented() as bench:
        otelstream.instrument(
            tracer_provider=TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False),
            meter_provider=bench.meter_provider,
        )

        @otelstream.tool(effect="write")
        def mail(to: str) -> None:
            return

        sim.play(Script().tool_use("mail", {"to": "a"}))
        sim.play("text_long", schedule=Schedule(gap=0.002))
        with otelstream.turn("chat") as turn:
            read(client)
            mail("a")
            with client.messages.stream(**ASK) as stream:
                for event in stream:
                    if event.type == "text":
                        otelstream.record_stop()
                        break
        assert [call.name for call in turn.ledger.committed] == ["mail"]
        assert not bench.spans()
        assert bench.points(s.TOOL_CALLS.name, s.TOOL_CALL_STATE) == {("committed",): 1}
        assert bench.points(s.CANCELLATION_SIDE_EFFECTS.name, s.SIDE_EFFECT) == {("committed",): 1}


def test_a_tool_that_outlives_the_cancel(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """Started in the stream and done long after its cancel: running at the Stop, committed in the end."""
    go_on = threading.Event()

    @otelstream.tool(effect="write")
    def mail(to: str) -> None:
        go_on.wait(20)

    sim.play(Script().tool_use("mail", {"to": "a"}).text(prose(300)), schedule=Schedule(gap=0.002))
    with otelstream.turn("chat") as turn:
        thread = threading.Thread(target=mail, args=("a",))
        with client.messages.stream(**ASK) as stream:
            for event in stream:
                if event.type == "content_block_stop" and event.content_block.type == "tool_use":
                    thread.start()
                    wait_for(lambda: turn.tool_calls[0].state == "running")
                    otelstream.record_stop()
                    break
    assert bench.ended[0].cancel is not None
    assert [call.name for call in bench.ended[0].cancel.ledger.running] == ["mail"]
    assert not bench.points(s.TOOL_CALLS.name)
    go_on.set()
    thread.join()
    assert bench.points(s.TOOL_CALLS.name, s.DISPATCH_PHASE, s.TOOL_CALL_STATE) == {("mid_stream", "committed"): 1}
    assert [call.state for call in turn.ledger.running] == ["committed"]


def test_a_read_is_no_side_effect(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """What only reads is in no ledger, by the decorator or by the setting."""

    @otelstream.tool(effect="read")
    def look(at: str) -> None:
        return

    sim.play(Script().tool_use("look", {"at": "a"}).text(prose(300)), schedule=Schedule(gap=0.002))
    with otelstream.turn("chat") as turn, client.messages.stream(**ASK) as stream:
        for event in stream:
            if event.type == "text":
                otelstream.record_stop()
                break
    assert turn.tool_calls[0].state == "discarded"
    assert not turn.ledger
    assert not bench.points(s.CANCELLATION_SIDE_EFFECTS.name)


def test_compensated(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """What is undone after a Stop is counted as such, once; newest first is the order to undo in."""

    @otelstream.tool(effect="write")
    def mail(to: str) -> None:
        return

    sim.play(Script().tool_use("mail", {"to": "a"}).tool_use("mail", {"to": "b"}))
    with otelstream.turn("chat") as turn:
        read(client)
        mail("a")
        mail("b")
        otelstream.record_stop()
    first, second = turn.tool_calls
    assert turn.ledger.committed == (second, first)
    for call in turn.ledger.committed:
        call.record_compensated()
        call.record_compensated()
    assert turn.ledger.compensated == (second, first)
    assert bench.points(s.CANCELLATION_SIDE_EFFECTS.name, s.SIDE_EFFECT) == {("committed",): 2, ("compensated",): 2}


def test_own_tool_in_the_reader_is_who_held_the_stream(sim: ProviderSimulator, client: Any) -> None:
    """A reader that runs a tool of ours between two reads is no slow consumer."""
    with instrumented(stall_threshold=0.05) as bench:

        @otelstream.tool
        def slow(to: str) -> None:
            time.sleep(0.12)

        sim.play(Script().text(prose(24)).tool_use("slow", {"to": "a"}).text(prose(24)))
        with otelstream.turn("chat"), client.messages.stream(**ASK) as stream:
            for event in stream:
                if event.type == "content_block_stop" and event.content_block.type == "tool_use":
                    slow("a")
                if event.type == "content_block_stop" and event.index == 0:
                    time.sleep(0.12)
        assert [stall.source for stall in bench.ended[0].stalls] == ["consumer", "own_tool"]


# --- waiting, and giving up -------------------------------------------------------------------------------


def test_never_after_300_seconds(
    bench: Bench, sim: ProviderSimulator, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that nobody has run 300 s after its stream's end is counted as never, at the next activity."""
    sim.play(Script().tool_use("mail", {"to": "a"}))
    sim.play("text_short")
    with otelstream.turn("chat"):
        read(client)
    registry.sweep()
    assert not bench.points(s.TOOL_CALLS.name)
    monkeypatch.setattr(_registry, "clock", lambda: time.perf_counter() + 301)
    read(client)
    assert bench.points(s.TOOL_CALLS.name, s.DISPATCH_PHASE, s.TOOL_CALL_STATE) == {("never", "ready"): 1}
    assert registry.idle


def test_never_is_counted_on_time(
    bench: Bench, sim: ProviderSimulator, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No traffic is needed for that: the next collection after the 300 s decides, and the one after it tells."""
    sim.play(Script().tool_use("mail", {"to": "a"}))
    read(client)
    assert not bench.points(s.TOOL_CALLS.name)
    monkeypatch.setattr(_registry, "clock", lambda: time.perf_counter() + 301)
    bench.points(s.TOOL_CALLS.name)
    assert outbox.settle(30)
    assert bench.points(s.TOOL_CALLS.name, s.DISPATCH_PHASE, s.TOOL_CALL_STATE) == {("never", "ready"): 1}


def test_never_at_exit(sim: ProviderSimulator) -> None:
    """What waits when the process ends is counted, and exported."""
    program = f"""
import anthropic, otelstream
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
otelstream.instrument(meter_provider=MeterProvider([PeriodicExportingMetricReader(ConsoleMetricExporter())]))
client = anthropic.Anthropic(base_url={sim.base_url!r}, api_key="unused")
for _ in client.messages.create(model="m", max_tokens=9, messages=[{{"role": "user", "content": "x"}}], stream=True):
    pass
"""
    sim.play(Script().tool_use("mail", {"to": "a"}))
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert '"otelstream.tool_call.dispatch.phase": "never"' in run.stdout
    assert "Traceback" not in run.stderr


def test_not_more_than_1024_wait(bench: Bench) -> None:
    """Calls that pile up are decided as never, oldest first; memory stays."""
    runtime = otelstream.OtelStreamInstrumentor().runtime
    assert runtime is not None
    for number in range(20):
        stream = runtime.begin(operation="chat", provider="anthropic", model="m", grammar=Grammar())
        for i in range(100):
            call = ToolCall("mail", f"id-{number}-{i}")
            registry.opened(stream, call)
            stream.tool_ready(call, time.perf_counter())
        end(stream, Ending("completed"))
    assert len(registry._waiting) == _registry.MAX_WAITING
    assert bench.points(s.TOOL_CALLS.name, s.DISPATCH_PHASE) == {("never",): 2000 - 1024}


# --- hostile and endless --------------------------------------------------------------------------------------


def test_tool_names_from_a_hostile_source(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """10 000 distinct names, 10 kB long, with control characters: few labels, short attributes, a small process."""
    runtime = otelstream.OtelStreamInstrumentor().runtime
    assert runtime is not None
    for number in range(100):
        stream = runtime.begin(operation="chat", provider="anthropic", model="m", grammar=Grammar())
        for i in range(100):
            call = ToolCall(f"\x00\x1b[31m{number}-{i}-" + "x" * 10_000, f"id\n{number}-{i}" * 1000)
            registry.opened(stream, call)
            stream.tool_ready(call, time.perf_counter())
            registry.dispatched(call, "decorator", time.perf_counter())
            registry.finished(call, "committed", time.perf_counter())
        end(stream, Ending("completed"))
    names = {name for (name,) in bench.points(s.TOOL_CALLS.name, s.TOOL_NAME)}
    assert len(names) <= s.MAX_TOOL_NAMES + 1
    assert all(name.isprintable() and len(name) <= 128 for name in names)
    for span in bench.spans():
        for event in span.events:
            assert all(len(str(value)) <= 128 for value in (event.attributes or {}).values())
    assert sum(bench.points(s.TOOL_CALLS.name).values()) == 10_000
    assert registry.idle
    assert sys.getsizeof(registry._seen) < 10_000

    sim.play(Script().tool_use("\x00" + "y" * 10_000, {"a": 1}, id="\x1b" * 5000))
    with otelstream.turn("\x00" + "z" * 10_000, route="\x1b" * 500):
        read(client)
    assert len(bench.ended[-1].tool_calls[0].name) <= 256


def turns(count: int) -> None:
    runtime = otelstream.OtelStreamInstrumentor().runtime
    assert runtime is not None

    @otelstream.tool(effect="write")
    def mail(to: str) -> None:
        return

    for number in range(count):
        with otelstream.turn(f"chat-{number}", route="chat"):
            stream = runtime.begin(operation="chat", provider="anthropic", model="m", grammar=Grammar())
            call = ToolCall("mail", f"id-{number}")
            registry.opened(stream, call)
            stream.tool_ready(call, time.perf_counter())
            if number % 3 == 0:
                otelstream.record_stop()
            end(stream, Ending("completed"))
            if number % 2:
                mail("a")


def resident() -> int:
    """Bytes of memory that the process holds."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow  # counts every object of the process, and other tests' threads make some too
def test_turns_leave_no_growth() -> None:
    """Turns by the thousand leave nothing behind, stopped or not, their calls run or not."""
    with instrumented(spans="off") as bench:
        turns(_turn.MAX_IDLE + 2 * _registry.MAX_WAITING + 1000)
        bench.ended.clear()
        gc.collect()
        kept = len(_turn._known.all()), len(registry._waiting), len(gc.get_objects())
        turns(1000)
        bench.ended.clear()
        gc.collect()
        again = len(_turn._known.all()), len(registry._waiting), len(gc.get_objects())
    assert again[:2] == kept[:2]
    assert again[2] - kept[2] < 500


@pytest.mark.slow
def test_a_hundred_thousand_turns_leave_no_growth() -> None:
    """The same, 100 000 times: no object more, and no memory that the process did not have."""
    with instrumented(spans="off") as bench:
        _instrumentor.listen(bench.add, stop=True)
        turns(_turn.MAX_IDLE + 2 * _registry.MAX_WAITING + 5000)
        gc.collect()
        objects, pages = len(gc.get_objects()), resident()
        turns(100_000)
        gc.collect()
        grown = len(gc.get_objects()) - objects, resident() - pages
        _instrumentor.listen(bench.add)
    print(f"\n{grown[0]} objects, {grown[1] / 1e6:.1f} MB")
    assert grown[0] < 500
    assert grown[1] < 5_000_000


# --- the turn ---------------------------------------------------------------------------------------------


def names_of(bench: Bench) -> list[str | None]:
    return [stream.turn_id for stream in bench.ended]


def test_a_turn_holds_everywhere(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """As a block and as a decorator of functions, generators, coroutines and async generators; threads join by id."""
    sim.play("text_short", times=None)
    with otelstream.turn("block"):
        read(client)

    @otelstream.turn("function", route="r")
    def function() -> None:
        read(client)

    @otelstream.turn("generator")
    def generator() -> Iterator[int]:
        yield 1
        read(client)
        yield 2

    @otelstream.turn("coroutine")
    async def coroutine() -> None:
        await asyncio.create_task(asyncio.to_thread(read, client))

    @otelstream.turn("async generator")
    async def agenerator() -> Any:
        yield 1
        read(client)

    async def run() -> None:
        await coroutine()
        async for _ in agenerator():
            pass

    function()
    for _ in generator():
        assert _turn._block.get() is None
    asyncio.run(run())
    with otelstream.turn("joined") as turn:
        thread = threading.Thread(target=lambda: _joins(client))
        thread.start()
        thread.join()
        assert len(turn.streams) == 1
    assert names_of(bench) == ["block", "function", "generator", "coroutine", "async generator", "joined"]
    assert [stream.route for stream in bench.ended][1] == "r"


def _joins(client: Any) -> None:
    with otelstream.turn("joined"):
        read(client)


def test_without_a_turn_the_trace_is_one(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """Streams under one span are one turn; each stream without any is its own."""
    sim.play("text_short", times=None)
    with bench.tracer.start_as_current_span("agent"):
        read(client)
        read(client)
    read(client)
    read(client)
    turns_ = [id(stream.turn) for stream in bench.ended]
    assert turns_[0] == turns_[1]
    assert len(set(turns_)) == 3
    assert names_of(bench) == [None] * 4


def test_the_same_chat_asks_again(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """A chat's id used for its next question is another turn: the first one's Stop does not stick to it."""
    sim.play("text_short", times=None)
    with otelstream.turn("chat"):
        read(client)
        otelstream.record_stop()
    with otelstream.turn("chat") as turn:
        read(client)
    assert len(turn.streams) == 1
    assert bench.ended[-1].cancel is None


def test_current_stream(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """The newest stream of the turn, open or ended, until the next opens; nothing before the first."""
    sim.play("text_short", times=None)
    with otelstream.turn("chat"):
        assert otelstream.current_stream().observed is False
        with client.messages.stream(**ASK) as stream:
            assert otelstream.current_stream().outcome is None
            stream.until_done()
        assert otelstream.current_stream().outcome == "completed"
        assert otelstream.current_stream().turn_id == "chat"


def test_get_stream_takes_whatever_holds_a_stream(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """Streams, helpers, managers and raw responses; anything else is an unobserved view that does nothing."""
    sim.play("text_short", times=None)
    manager = client.messages.stream(**ASK)
    assert otelstream.get_stream(manager).observed is False
    with manager as helper:
        seen = [otelstream.get_stream(each) for each in (manager, helper)]
        assert [view.observed for view in seen] == [True, True]
        helper.until_done()
    raw_manager = client.messages.with_streaming_response.create(**ASK, stream=True)
    with raw_manager as response:
        assert otelstream.get_stream(response).observed
        assert otelstream.get_stream(response.parse()).observed
    legacy = client.messages.with_raw_response.create(**ASK, stream=True)
    assert otelstream.get_stream(legacy.parse()).observed
    for foreign in (None, 7, object(), client, [], "stream", nullcontext()):
        view = otelstream.get_stream(foreign)
        assert view.observed is False
        assert (view.outcome, view.partial, view.tool_calls, view.ledger, view.as_dict()) == (
            None,
            None,
            None,
            None,
            {},
        )


# --- retraction and action ------------------------------------------------------------------------------------


def test_retraction(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """What was shown, and for how long, when the application withdrew it."""
    sim.play(Script().text(prose(600)), schedule=Schedule(gap=0.004))
    with otelstream.turn("chat"), client.messages.stream(**ASK) as stream:
        shown, first, exposed = "", 0.0, 0.0
        for event in stream:
            if event.type == "text":
                first = first or time.perf_counter()
                shown += event.text
                if len(shown) > 200:
                    assert otelstream.record_retraction(reason="guardrail")
                    exposed = time.perf_counter() - first
                    break
    event = next(event for event in _stream_span(bench).events if event.name == s.EVENT_RETRACTION)
    assert event.attributes[s.RETRACTION_VISIBLE_CHARS] == len(shown)
    assert event.attributes[s.RETRACTION_EXPOSURE] == pytest.approx(exposed, abs=0.05)
    assert bench.points(s.RETRACTIONS.name, s.RETRACTION_REASON) == {("guardrail",): 1}
    assert sum(bench.points(s.RETRACTION_EXPOSURE_TIME.name).values()) == 1


def test_retraction_after_the_end(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """A withdrawal after the stream's span has ended goes on the span that is current, with a link."""
    sim.play("text_short")
    with bench.tracer.start_as_current_span("request"):
        read(client)
        assert otelstream.record_retraction()
    request = bench.spans("request")[0]
    assert [event.name for event in request.events] == [s.EVENT_RETRACTION]
    assert len(request.links) == 1


def test_action(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """How long before the end the user acted on what was there."""
    sim.play(Script().text(prose(600)), schedule=Schedule(gap=0.004))
    acted = 0.0
    with otelstream.turn("chat"), client.messages.stream(**ASK) as stream:
        for number, event in enumerate(stream):
            if number == 20 and event.type:
                assert otelstream.record_action()
                acted = time.perf_counter()
    event = next(event for event in _stream_span(bench).events if event.name == s.EVENT_ACTION)
    assert event.attributes[s.ACTION_LEAD] == pytest.approx((bench.ended[0].end_at or 0.0) - acted, abs=0.05)
    assert 0 < event.attributes[s.ACTION_VISIBLE_CHARS] < 600
    assert sum(bench.points(s.ACTION_LEAD_TIME.name).values()) == 1


def test_nothing_to_withdraw_or_act_on(bench: Bench) -> None:
    """Without a stream both say so."""
    with otelstream.turn("empty"):
        assert otelstream.record_retraction(reason="other") is False
        assert otelstream.record_action() is False


# --- bad input --------------------------------------------------------------------------------------------


def generator_tool(to: str) -> Iterator[str]:
    yield to


@pytest.mark.parametrize(
    ("define", "says"),
    [
        (lambda: otelstream.tool("mail"), "decorates a function, not 'mail'"),
        (lambda: otelstream.tool(effect="rite"), "effect='rite' is not allowed: use 'read' or 'write'"),
        (lambda: otelstream.tool(generator_tool), "generator function"),
        (lambda: otelstream.tool(_Nameless()), "no name of its own"),
        (lambda: otelstream.record_retraction(reason="mood"), "reason='mood' is not allowed: use 'guardrail'"),
        (lambda: otelstream.turn("x")("not a function"), "decorates functions"),
        (lambda: otelstream.on_stream_end(_coroutine), "is no plain function"),
        (lambda: otelstream.tool_call("id", effect="rite").__enter__(), "effect='rite'"),
    ],
)
def test_bad_input_is_refused_at_definition(define: Any, says: str) -> None:
    """The error names the value and what is allowed."""
    with pytest.raises(otelstream.ConfigurationError, match=says):
        define()


async def _coroutine(view: Any) -> None:
    return


class _Nameless:
    def __call__(self) -> None:
        return


def test_at_run_time_nothing_reaches_the_application(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own failures, unknown ids, odd blocks, and otelstream switched off: the tool runs and returns."""

    @otelstream.tool(effect="write")
    def mail(to: str) -> str:
        return to

    assert mail("off") == "off"
    with otelstream.tool_call({"id": 7}), otelstream.tool_call(object()), otelstream.tool_call("toolu_nowhere"):
        assert mail("odd") == "odd"
    with instrumented():
        monkeypatch.setattr(registry, "claim", None)
        assert mail("broken") == "broken"
    assert otelstream.record_stop() in (True, False)


@pytest.mark.skipif(VERSION < (0, 79), reason="this SDK has no tool objects")
def test_either_order_with_the_sdks_decorator(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """`@tool` over `@beta_tool` and under it: same schema, same result, same record; called by hand too."""

    @anthropic.beta_tool
    def plain(to: str, copies: int = 1) -> str:
        """Send."""
        return f"{to}{copies}"

    @otelstream.tool(effect="write", name="over")
    @anthropic.beta_tool(name="over")
    def over(to: str, copies: int = 1) -> str:
        """Send."""
        return f"{to}{copies}"

    @anthropic.beta_tool
    @otelstream.tool(effect="write")
    def under(to: str, copies: int = 1) -> str:
        """Send."""
        return f"{to}{copies}"

    schemas = [each.to_dict()["input_schema"] for each in (plain, over, under)]
    assert schemas[0] == schemas[1] == schemas[2]
    sim.play(Script().tool_use("over", {"to": "a"}).tool_use("under", {"to": "b"}).tool_use("plain", {"to": "c"}))
    with otelstream.turn("chat") as turn:
        read(client)
        assert [each.call({"to": to}) for each, to in ((over, "a"), (under, "b"), (plain, "c"))] == ["a1", "b1", "c1"]
    assert [call.evidence for call in turn.tool_calls] == ["decorator", "decorator", "runner"]
    assert [call.state for call in turn.tool_calls] == ["committed"] * 3


def test_uninstrumented_functions_are_the_sdks_own() -> None:
    """Switched off, the SDK's tool classes are as they were."""
    with instrumented():
        pass
    gc.collect()  # what an earlier test dropped in a cycle keeps them until then
    from anthropic import _base_client

    assert not hasattr(_base_client.SyncAPIClient.request, "__wrapped__")
    if VERSION >= (0, 79):
        from anthropic.lib.tools import _beta_functions

        assert not hasattr(_beta_functions.BetaFunctionTool.call, "__wrapped__")


def test_a_fork_starts_anew(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """A forked child has no turns and no calls of its parent's, which keeps them."""
    sim.play(Script().tool_use("mail", {"to": "a"}))
    with otelstream.turn("chat"):
        read(client)
        child = os.fork()
        if not child:
            fine = registry.idle and otelstream.record_stop(turn="chat") is False
            os._exit(0 if fine else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert not registry.idle
