# SPDX-License-Identifier: Apache-2.0
"""The gate: a held tool runs after a clean end of its stream, and only then; nobody waits for ever."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import random
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import anthropic
import pytest

import otelstream
from otelstream import _semconv as s
from otelstream._core.record.call import ToolCall
from otelstream._core.tools.registry import registry
from otelstream.testing import ProviderSimulator, Schedule, Script, prose

from .bench import ASK, Bench, global_provider, instrumented, wait_for

VERSION = tuple(int(part) for part in anthropic.__version__.split(".")[:2])
WATCHDOG = 120.0  # seconds after which a test is deadlocked, and says where


@pytest.fixture(scope="module")
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as sim:
        yield sim


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    faulthandler.dump_traceback_later(WATCHDOG, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def bench() -> Iterator[Bench]:
    with instrumented() as bench:
        yield bench


@pytest.fixture
def client(sim: ProviderSimulator) -> Iterator[Any]:
    sim.clear()
    with anthropic.Anthropic(base_url=sim.base_url, api_key="unused", max_retries=0) as client:
        yield client


def calls_of(*names: str, then: str = "") -> Script:
    script = Script().text("Let me see to that.")
    for name in names:
        script = script.tool_use(name, {"ref": "main"})
    return (script.text(then) if then else script).end("tool_use")


def is_tool_stop(event: Any) -> bool:
    return event.type == "content_block_stop" and event.content_block.type == "tool_use"


def test_a_thread_waits_for_a_clean_end(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """Dispatched at once in a thread, the tool runs only when the stream has ended."""
    ran: list[float] = []

    @otelstream.tool(effect="write", hold=True)
    def deploy(ref: str) -> str:
        ran.append(time.perf_counter())
        return "deployed"

    sim.play(calls_of("deploy", then=prose(200)), schedule=Schedule(gap=0.005))
    threads = []
    with otelstream.turn("chat"), client.messages.stream(**ASK) as stream:
        for event in stream:
            if is_tool_stop(event):
                threads.append(threading.Thread(target=deploy, args=("main",)))
                threads[-1].start()
            elif threads and event.type != "message_stop":
                assert not ran
    threads[0].join()
    call = bench.ended[0].tool_calls[0]
    assert ran[0] >= (bench.ended[0].end_at or 0.0)
    assert (call.state, call.phase, call.evidence) == ("committed", "after_end", "decorator")
    assert 0 <= (call.since_end or -1.0) < 0.25


def test_the_reader_itself_is_refused_at_once(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """A call in the reader's own thread or task can never see the end: it is withheld without a wait."""

    @otelstream.tool(effect="write", hold=True, hold_patience=30)
    def deploy(ref: str) -> str:
        raise AssertionError("it must not run")

    @otelstream.tool(effect="write", hold=True, hold_patience=30)
    async def adeploy(ref: str) -> str:
        raise AssertionError("it must not run")

    sim.play(calls_of("deploy"), times=None)
    began = time.perf_counter()
    with otelstream.turn("chat"), client.messages.stream(**ASK) as stream:
        for event in stream:
            if is_tool_stop(event):
                with pytest.raises(otelstream.ToolWithheld, match="reader"):
                    deploy("main")

    async def run() -> None:
        sim.clear()
        sim.play(calls_of("adeploy"))
        async with (
            anthropic.AsyncAnthropic(base_url=sim.base_url, api_key="unused") as aclient,
            aclient.messages.stream(**ASK) as stream,
        ):
            async for event in stream:
                if is_tool_stop(event):
                    with pytest.raises(otelstream.ToolWithheld, match="reader"):
                        await adeploy("main")

    asyncio.run(run())
    assert time.perf_counter() - began < 10
    for stream in bench.ended:
        assert [call.state for call in stream.tool_calls] == ["withheld"]
    labels = (s.DISPATCH_PHASE, s.TOOL_CALL_STATE)
    assert bench.points(s.TOOL_CALLS.name, *labels) == {("never", "withheld"): 2}


@pytest.mark.parametrize("ending", ["stop", "close", "error", "truncated", "stop between"])
def test_anything_but_a_clean_end_withholds(bench: Bench, sim: ProviderSimulator, client: Any, ending: str) -> None:
    """A Stop, a close, a provider error, an answer that was cut: the tool does not run, and the ledger says so."""
    outcome: list[object] = []

    @otelstream.tool(effect="write", hold=True)
    def deploy(ref: str) -> str:
        raise AssertionError("it must not run")

    def call() -> None:
        try:
            outcome.append(deploy("main"))
        except otelstream.ToolWithheld as error:
            outcome.append(error)

    script = calls_of("deploy", then=prose(240))
    if ending == "truncated":
        script = Script().tool_use("deploy", {"ref": "main"}).text(prose(60)).end("max_tokens")
    fault = sim.error_after(events=len(script.events) - 6) if ending == "error" else None
    sim.play(script, fault=fault, schedule=Schedule(gap=0.003))
    thread = threading.Thread(target=call)
    with otelstream.turn("chat") as turn:
        try:
            with client.messages.stream(**ASK) as stream:
                for event in stream:
                    if is_tool_stop(event):
                        if ending == "stop between":
                            continue
                        thread.start()
                        wait_for(lambda: bench_waits(turn))
                        if ending == "stop":
                            otelstream.record_stop()
                        elif ending == "close":
                            break
        except anthropic.APIError:
            assert ending == "error"
        if ending == "stop between":
            otelstream.record_stop()
            thread.start()
        thread.join(20)
        assert [type(each) for each in outcome] == [otelstream.ToolWithheld]
        assert turn.tool_calls[0].state == "withheld"
        if ending.startswith("stop"):
            assert [call.name for call in turn.ledger.withheld] == ["deploy"]
    if ending.startswith("stop"):
        assert bench.points(s.CANCELLATION_SIDE_EFFECTS.name, s.SIDE_EFFECT) == {("withheld",): 1}


def bench_waits(turn: Any) -> bool:
    return any(call.stream is not None and call.stream.waiters for call in turn.tool_calls)


def test_nobody_reads_on(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """A reader that waits for the tool it started elsewhere is told after `hold_patience`, and is not deadlocked."""

    @otelstream.tool(effect="write", hold=True, hold_patience=0.2)
    def deploy(ref: str) -> str:
        raise AssertionError("it must not run")

    sim.play(calls_of("deploy"))
    refused: list[BaseException] = []

    def call() -> None:
        try:
            deploy("main")
        except otelstream.ToolWithheld as error:
            refused.append(error)

    with otelstream.turn("chat"), client.messages.stream(**ASK) as stream:
        for event in stream:
            if is_tool_stop(event):
                began = time.perf_counter()
                thread = threading.Thread(target=call)
                thread.start()
                thread.join()
                assert 0.2 <= time.perf_counter() - began < 5
    assert "nobody has read" in str(refused[0])


def test_acknowledged(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """`hold="ack"` waits for the release too, and withholds when none comes."""
    ran: list[str] = []

    @otelstream.tool(effect="write", hold="ack", hold_timeout=0.3)
    def deploy(ref: str) -> None:
        ran.append(ref)

    for release in (True, False):
        sim.play(calls_of("deploy"))
        errors: list[BaseException] = []

        def call(errors: list[BaseException] = errors) -> None:
            try:
                deploy("main")
            except otelstream.ToolWithheld as error:
                errors.append(error)

        with otelstream.turn("chat") as turn:
            with client.messages.stream(**ASK) as stream:
                stream.until_done()
            thread = threading.Thread(target=call)
            thread.start()
            wait_for(lambda turn=turn: bench_waits(turn))
            assert len(ran) == (0 if release else 1)
            if release:
                otelstream.get_stream(stream).tool_calls[0].release()  # type: ignore[index]
            thread.join()
        assert len(ran) == 1
        assert bool(errors) != release


@pytest.mark.skipif(VERSION < (1, 17), reason="this SDK has no eager runner")
@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("clean", [True, False])
def test_the_eager_runner_defers(bench: Bench, sim: ProviderSimulator, colour: str, clean: bool) -> None:
    """With the eager runner a held call is deferred: it runs after a clean end, and is withheld else."""
    ran: list[float] = []
    if colour == "sync":

        @anthropic.beta_tool
        @otelstream.tool(effect="write", hold=True)
        def deploy(ref: str) -> str:
            """Deploy."""
            ran.append(time.perf_counter())
            return "deployed"
    else:

        @otelstream.tool(effect="write", hold=True)
        @anthropic.beta_async_tool
        async def deploy(ref: str) -> str:
            """Deploy."""
            ran.append(time.perf_counter())
            return "deployed"

    sim.clear()
    script = calls_of("deploy", then=prose(120))
    sim.play(script if clean else Script().tool_use("deploy", {"ref": "main"}).text(prose(60)).end("max_tokens"))
    sim.play("text_short")
    deferred: list[str] = []

    def after(runner: Any) -> None:
        deferred.extend(block.name for block in runner.deferred_tool_calls)

    async def run_async() -> None:
        async with anthropic.AsyncAnthropic(base_url=sim.base_url, api_key="unused") as client:
            runner = client.beta.messages.tool_runner(**ASK, tools=[deploy], stream=True, run_tools_eagerly=True)
            async for stream in runner:
                async for _ in stream:
                    pass
                after(runner)
                if not clean:  # asked for explicitly, the SDK runs what was deferred whatever the stop reason
                    await runner.generate_tool_call_response()

    def run_sync() -> None:
        with anthropic.Anthropic(base_url=sim.base_url, api_key="unused") as client:
            runner = client.beta.messages.tool_runner(**ASK, tools=[deploy], stream=True, run_tools_eagerly=True)
            for stream in runner:
                for _ in stream:
                    pass
                after(runner)
                if not clean:
                    runner.generate_tool_call_response()

    if colour == "sync":
        run_sync()
    else:
        asyncio.run(run_async())
    first = bench.ended[0]
    assert deferred == ["deploy"]
    assert len(ran) == clean
    assert first.tool_calls[0].state == ("committed" if clean else "withheld")
    if clean:
        assert ran[0] >= (first.end_at or 0.0)


# --- what is said of a withheld call --------------------------------------------------------------------------


def said_of_withheld(span: Any) -> list[dict[str, Any]]:
    """What the events on `span` say of calls that were withheld; none was started."""
    assert s.EVENT_TOOL_DISPATCHED not in [event.name for event in span.events]
    return [dict(event.attributes or {}) for event in span.events if event.name == s.EVENT_TOOL_FINISHED]


def check_withheld(said: list[dict[str, Any]], call: ToolCall) -> None:
    assert [(each[s.TOOL_CALL_ID], each[s.TOOL_CALL_STATE], each[s.TOOL_CALL_EFFECT]) for each in said] == [
        (call.id, "withheld", "write")
    ]
    assert said[0][s.TOOL_CALL_SINCE_READY] >= 0
    assert said[0][s.TOOL_CALL_SINCE_END] <= 0
    assert (call.phase, call.evidence, call.dispatched_at) == ("never", None, None)


@pytest.mark.parametrize("native", [False, True])
def test_refused_in_the_stream_by_decorator(sim: ProviderSimulator, client: Any, native: bool) -> None:
    """Refused while its stream runs, a call is on the stream's span as withheld, and has no span of its own."""
    if native and VERSION < (1, 14):
        pytest.skip("this SDK makes no spans")

    @otelstream.tool(effect="write", hold=True)
    def deploy(ref: str) -> str:
        raise AssertionError("it must not run")

    sim.play(calls_of("deploy", then=prose(60)))
    with instrumented() as bench, global_provider(bench.tracer_provider) if native else nullcontext():
        with client.messages.stream(**ASK) as stream:
            for event in stream:
                if is_tool_stop(event):
                    with pytest.raises(otelstream.ToolWithheld, match="reader"):
                        deploy("main")
        (ended,) = bench.ended
        assert ended.native == native
        (span,) = bench.spans()
        check_withheld(said_of_withheld(span), ended.tool_calls[0])


@pytest.mark.parametrize("ending", ["stop", "close", "truncated"])
def test_refused_by_the_end_of_the_stream_in_a_task(bench: Bench, sim: ProviderSimulator, ending: str) -> None:
    """A task that waits at the gate when its stream ends badly is withheld on the stream's own record."""

    @otelstream.tool(effect="write", hold=True)
    async def deploy(ref: str) -> str:
        raise AssertionError("it must not run")

    sim.clear()
    script = calls_of("deploy", then=prose(120))
    sim.play(
        script if ending != "truncated" else Script().tool_use("deploy", {"ref": "x"}).text("So").end("max_tokens")
    )

    async def run() -> None:
        async with anthropic.AsyncAnthropic(base_url=sim.base_url, api_key="unused") as client:
            with otelstream.turn("chat") as turn:
                async with client.messages.stream(**ASK) as stream:
                    async for event in stream:
                        if is_tool_stop(event):
                            task = asyncio.create_task(deploy(event.content_block.input["ref"]))
                            while not bench_waits(turn):  # noqa: ASYNC110 - until it is at the gate
                                await asyncio.sleep(0)
                            if ending == "stop":
                                otelstream.record_stop()
                            if ending != "truncated":
                                break
                with pytest.raises(
                    otelstream.ToolWithheld, match="stopped" if ending == "stop" else "its stream ended"
                ):
                    await task

    asyncio.run(run())
    (ended,) = bench.ended
    (span,) = bench.spans()
    check_withheld(said_of_withheld(span), ended.tool_calls[0])
    if ending != "truncated":
        assert ended.cancel is not None
        assert [call.name for call in ended.cancel.ledger.withheld] == ["deploy"]
        assert not ended.cancel.ledger.discarded
        assert bench.points(s.CANCELLATION_SIDE_EFFECTS.name, s.SIDE_EFFECT) == {("withheld",): 1}


@pytest.mark.skipif(VERSION < (1, 17), reason="this SDK has no eager runner")
@pytest.mark.parametrize("ending", ["stop", "close", "truncated"])
def test_deferred_by_the_eager_runner(bench: Bench, sim: ProviderSimulator, client: Any, ending: str) -> None:
    """What the eager runner deferred and nobody asks for again is withheld by the end of the stream, and so it says."""

    @anthropic.beta_tool
    @otelstream.tool(effect="write", hold=True)
    def deploy(ref: str) -> str:
        """Deploy."""
        raise AssertionError("it must not run")

    script = Script().tool_use("deploy", {"ref": "main"}).text(prose(120))
    sim.play(script.end("max_tokens" if ending == "truncated" else "tool_use"))
    with otelstream.turn("chat"):
        runner = client.beta.messages.tool_runner(**ASK, tools=[deploy], stream=True, run_tools_eagerly=True)
        stream = next(iter(runner))
        for event in stream:
            if event.type == "text" and ending != "truncated":
                if ending == "stop":
                    otelstream.record_stop()
                break
        stream.close()
    (ended,) = bench.ended
    (span,) = bench.spans()
    check_withheld(said_of_withheld(span), ended.tool_calls[0])
    assert bench.points(s.TOOL_CALLS.name, s.DISPATCH_PHASE, s.TOOL_CALL_STATE) == {("never", "withheld"): 1}


@pytest.mark.parametrize("around", ["nothing", "tool_call"])
def test_refused_after_the_record_is_out(bench: Bench, sim: ProviderSimulator, client: Any, around: str) -> None:
    """Too late for the stream's span, a refusal is on one span of the tool's, linked to it: an error, withheld."""

    @otelstream.tool(effect="write", hold=True)
    def deploy(ref: str) -> str:
        raise AssertionError("it must not run")

    sim.play(Script().tool_use("deploy", {"ref": "main"}).text("So").end("max_tokens"))
    with otelstream.turn("chat") as turn:
        with client.messages.stream(**ASK) as stream:
            message = stream.get_final_message()
        gate = otelstream.tool_call(message.content[0]) if around == "tool_call" else nullcontext()
        with pytest.raises(otelstream.ToolWithheld, match="truncated"), gate:
            deploy("main")
    call = turn.tool_calls[0]
    (span,) = bench.spans(s.EXECUTE_TOOL)
    (said,) = said_of_withheld(span) if around == "nothing" else said_of_withheld(span)[-1:]
    assert (said[s.TOOL_CALL_STATE], said[s.TOOL_CALL_ID]) == ("withheld", call.id)
    assert said[s.TOOL_CALL_SINCE_END] > 0
    attributes = span.attributes or {}
    assert (attributes[s.TOOL_CALL_STATE], attributes[s.DISPATCH_PHASE]) == ("withheld", "never")
    assert attributes[s.ERROR_TYPE] == "ToolWithheld"
    assert len(span.links) == 1


@pytest.mark.parametrize("how", ["again", "by its block"])
def test_a_withheld_call_stays_withheld(bench: Bench, sim: ProviderSimulator, client: Any, how: str) -> None:
    """Tried again in its turn, a withheld call is refused again: that no call waits any more does not let it run."""

    @otelstream.tool(effect="write", hold=True)
    def deploy(ref: str) -> str:
        raise AssertionError("it must not run")

    sim.play(Script().tool_use("deploy", {"ref": "main"}).text("So").end("max_tokens"))
    with otelstream.turn("chat"):
        message = read(client)
        for _ in range(3):
            around = otelstream.tool_call(message.content[0]) if how == "by its block" else nullcontext()
            with pytest.raises(otelstream.ToolWithheld), around:
                deploy("main")
    assert bench.points(s.TOOL_CALLS.name, s.DISPATCH_PHASE, s.TOOL_CALL_STATE) == {("never", "withheld"): 1}


def read(client: Any) -> Any:
    """The whole message of one stream."""
    with client.messages.stream(**ASK) as stream:
        return stream.get_final_message()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"hold": "later"}, "hold='later'"),
        ({"hold": True, "hold_timeout": -1}, "hold_timeout=-1"),
        ({"hold": True, "hold_patience": "long"}, "hold_patience='long'"),
    ],
)
def test_a_wrong_hold_is_refused_at_definition(arguments: dict[str, Any], says: str) -> None:
    """The error names the argument and the value."""
    with pytest.raises(otelstream.ConfigurationError, match=says):
        otelstream.tool(**arguments)


def test_a_held_tool_without_a_streamed_call_runs(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Called outside of any stream there is no end to wait for: it runs, and that is said once."""

    @otelstream.tool(hold=True)
    def unasked(ref: str) -> str:
        return ref

    assert [unasked("a"), unasked("b")] == ["a", "b"]
    assert len([record for record in caplog.records if "unasked" in record.message]) == 1


# --- interleavings ------------------------------------------------------------------------------------------


def interleavings(sim: ProviderSimulator, count: int, seed: int) -> dict[str, int]:
    """Run `count` agents with random dispatch, gathering, stops, errors and ends; what became of their tools."""
    chance = random.Random(seed)
    ran: set[str] = set()
    gates: dict[str, Any] = {}

    @otelstream.tool(name="deploy", effect="write", hold=True)
    async def deploy(ref: str) -> str:
        ran.add(ref)
        await asyncio.sleep(0)
        return ref

    @otelstream.tool(name="publish", effect="write", hold=True)
    def publish(ref: str) -> str:
        ran.add(ref)
        return ref

    gates.update(deploy=deploy, publish=publish)
    found = {"ran": 0, "withheld": 0}

    async def one(client: Any, number: int) -> None:
        names = [chance.choice(["deploy", "publish"]) for _ in range(chance.randint(1, 3))]
        refs = [f"{seed}-{number}-{i}" for i in range(len(names))]
        script = Script().text("Now.")
        for name, ref in zip(names, refs, strict=True):
            script = script.tool_use(name, {"ref": ref}, chunk=40)
        script = script.text(prose(chance.randint(12, 90)))
        how = chance.choice(["clean", "clean", "clean", "stop", "error", "truncated", "close"])
        script = script.end("max_tokens" if how == "truncated" else "tool_use")
        fault = sim.error_after(events=len(script.events) - 3) if how == "error" else None
        model = f"model-{seed}-{number}"
        sim.play(script, fault=fault, schedule=Schedule(gap=chance.choice([0, 0.001, 0.003])), when=model)
        left = chance.randint(0, 4)
        grouping = chance.choice(["tasks", "gather after", "threads"])
        tasks: list[asyncio.Future[Any]] = []
        with otelstream.turn(model) as turn:
            try:
                async with client.messages.stream(**{**ASK, "model": model}) as stream:
                    async for event in stream:
                        if is_tool_stop(event):
                            block = event.content_block
                            if block.name == "publish" or grouping == "threads":
                                tool = gates["publish"] if block.name == "publish" else _in_new_loop(gates["deploy"])
                                tasks.append(asyncio.ensure_future(asyncio.to_thread(tool, block.input["ref"])))
                            else:
                                tasks.append(asyncio.ensure_future(deploy(block.input["ref"])))
                        elif len(tasks) == len(names):
                            left -= 1
                            if left == 0 and how == "stop":
                                otelstream.record_stop()
                            if left == 0 and how in ("stop", "close"):
                                break
                        if chance.random() < 0.2:
                            await asyncio.sleep(chance.random() / 500)
            except anthropic.APIError:
                assert how == "error"
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            for call, outcome in zip(turn.tool_calls, outcomes, strict=False):
                view = turn.streams[0]
                clean = view.outcome == "completed" and view.trigger is None
                if isinstance(outcome, otelstream.ToolWithheld):
                    assert call.state == "withheld"
                    assert not clean or "nobody has read" in str(outcome), (how, str(outcome))
                    assert not any(ref in ran for ref in refs if ref == _ref(call, turn, refs))
                    found["withheld"] += 1
                else:
                    assert not isinstance(outcome, BaseException), repr(outcome)
                    assert clean, (how, view)
                    assert outcome in ran
                    found["ran"] += 1

    async def run() -> None:
        async with anthropic.AsyncAnthropic(base_url=sim.base_url, api_key="unused", max_retries=0) as client:
            numbers = iter(range(count))

            async def worker() -> None:
                for number in numbers:
                    await one(client, number)

            await asyncio.gather(*(worker() for _ in range(8)))

    asyncio.run(run())
    return found


def _ref(call: ToolCall, turn: Any, refs: list[str]) -> str:
    return refs[list(turn.tool_calls).index(call)]


def _in_new_loop(tool: Any) -> Any:
    return lambda ref: asyncio.run(tool(ref))


def check_interleavings(sim: ProviderSimulator, count: int, seed: int) -> None:
    threads = threading.active_count()
    with instrumented() as bench:
        found = interleavings(sim, count, seed)
        bench.wait_for_ended(count)
        bench.ended.clear()
        assert found["ran"] > count / 4
        assert found["withheld"] > count / 4
        assert not registry._by_id
        assert not registry._waiting
    gc.collect()
    wait_for(lambda: threading.active_count() <= threads + 1)


def test_interleavings(sim: ProviderSimulator) -> None:
    """No withheld tool ran, no clean one was refused but for an absent reader, no deadlock, nothing is left."""
    check_interleavings(sim, 120, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 7))
def test_a_thousand_interleavings(sim: ProviderSimulator, seed: int) -> None:
    """The same, a thousand times over."""
    check_interleavings(sim, 200, seed)
