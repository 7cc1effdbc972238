# SPDX-License-Identifier: Apache-2.0
"""Message threads: each exchange, and each run of a tool runner over one, is a turn of ours unless one is open."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, aclosing, nullcontext
from typing import Any

import anthropic
import pytest
from opentelemetry import trace
from tools.bench import ASK, Bench, instrumented

import otelstream
from otelstream import _semconv as s
from otelstream._core.process import stopping
from otelstream._core.tools.registry import registry
from otelstream._core.turns import turn as _turn
from otelstream.asgi import StreamHopMiddleware
from otelstream.testing import ProviderSimulator, Script

if not hasattr(anthropic.resources.beta.messages.Messages, "thread"):
    pytest.skip("this SDK has no message threads", allow_module_level=True)

NEXT: Any = {"role": "user", "content": "And then?"}
LETTER = {"to": "harbour@example.com"}
CALLS = Script().text("I write to them.").tool_use("send", LETTER, id="toolu_send")
DONE = Script().text("Done.")
# What the API says of a thread that it lost: the SDK then sends the whole conversation again.
LOST = json.dumps({
    "type": "error",
    "error": {
        "type": "not_found_error", "message": "no such thread", "details": {"error_code": "thread_not_found"},
    },
})  # fmt: skip


@pytest.fixture
def bench() -> Iterator[Bench]:
    with instrumented(tools={"send": "write"}) as bench:
        _turn.restart()
        stopping.restart()
        yield bench


class Thread:
    """A thread of either colour, driven from a coroutine; its tool tells the turn that it is run in."""

    def __init__(self, sim: ProviderSimulator, asynchronous: bool) -> None:
        options: dict[str, Any] = {"base_url": sim.base_url, "api_key": "unused", "max_retries": 0}
        self.asynchronous = asynchronous
        self.ran: list[str | None] = []
        self.pressed: list[bool] = []
        self.presses = False  # the user, while the tool runs
        self.client: Any = (anthropic.AsyncAnthropic if asynchronous else anthropic.Anthropic)(**options)
        self.of = self.client.beta.messages.thread(**ASK, tools=[self._tool()])

    def _work(self) -> str:
        inside = _turn.current()
        self.ran.append(inside.id if inside is not None else None)
        if self.presses:
            self.pressed.append(otelstream.record_stop())
        return "sent"

    def _tool(self) -> Any:
        if self.asynchronous:

            @anthropic.beta_async_tool
            async def send(to: str) -> str:
                """Send a letter.

                Args:
                    to: to whom.
                """
                return self._work()
        else:

            @anthropic.beta_tool  # type: ignore[no-redef]
            def send(to: str) -> str:
                """Send a letter.

                Args:
                    to: to whom.
                """
                return self._work()

        return send

    def go(self, work: Coroutine[Any, Any, None]) -> None:
        """Do that, and close the client in the loop that it was used in."""

        async def main() -> None:
            try:
                await work
            finally:
                await self.done(self.client.close())

        asyncio.run(main())

    async def done(self, value: Any) -> Any:
        return await value if self.asynchronous else value

    async def stream(self, *messages: Any) -> None:
        manager = self.of.stream(*messages)
        if self.asynchronous:
            async with manager as stream:
                await stream.until_done()
            return
        with manager as stream:
            stream.until_done()

    async def send(self, *messages: Any) -> None:
        await self.done(self.of.send(*messages))

    async def parse(self, *messages: Any) -> None:
        await self.done(self.of.parse(*messages))

    async def items(self, source: Any) -> AsyncIterator[Any]:
        if self.asynchronous:
            async for item in source:
                yield item
            return
        for item in source:
            yield item

    async def run(self, between: Callable[[int], object] = lambda _: None, *, of: Any = None, **options: Any) -> None:
        """A run of the tool runner; `between` is called with the number of the answer, after each one was read."""
        number = 0
        async for answer in self.items(of if of is not None else self.of.tool_runner(**options)):
            number += 1
            if options.get("stream", True):
                await self.done(answer.until_done())
            between(number)


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def thread(bench: Bench, sim: ProviderSimulator, request: pytest.FixtureRequest) -> Thread:
    return Thread(sim, request.param)


def found() -> _turn.Turn:
    turn = _turn.current()
    assert turn is not None
    return turn


WAYS = ["stream", "send", "parse", "run whole", "run streamed"]
ways = pytest.mark.parametrize("way", WAYS)


async def exchange(thread: Thread, way: str, *messages: Any) -> None:
    """One exchange with two answers where a runner runs a tool in between, else with one."""
    if not way.startswith("run"):
        await getattr(thread, way)(*messages)
        return
    thread.of.append(*messages)
    await thread.run(stream=way == "run streamed")


def plays(sim: ProviderSimulator, way: str) -> None:
    for script in (CALLS, DONE) if way.startswith("run") else (DONE,):
        sim.play(script)


@ways
@pytest.mark.parametrize("traced", [False, True], ids=["no trace", "in a trace"])
def test_each_exchange_is_a_turn(bench: Bench, sim: ProviderSimulator, thread: Thread, way: str, traced: bool) -> None:
    """Each has an id of its own and all that belongs to it, the tools of a run too; and is over at its end."""
    turns = []

    async def converse() -> None:
        for messages in ((), (NEXT,)):
            plays(sim, way)
            await exchange(thread, way, *messages)
            own = _turn._own.get()
            assert isinstance(own, _turn.Turn)
            turns.append(own)

    with bench.tracer.start_as_current_span("worker") if traced else nullcontext():
        thread.go(converse())

    answers = 2 if way.startswith("run") else 1
    streamed = way in ("stream", "run streamed")
    assert len({turn.id for turn in turns} - {None}) == 2
    assert [len(turn.records) for turn in turns] == [answers * streamed] * 2
    assert [turn.unstreamed for turn in turns] == [answers * (not streamed)] * 2
    assert [stream.turn_id for stream in bench.ended] == [turn.id for turn in turns for _ in turn.records]
    assert thread.ran == ([turn.id for turn in turns] if answers == 2 else [])
    calls = [call for turn in turns for call in turn.tool_calls]
    assert [(call.state, call.evidence) for call in calls] == [("committed", "runner")] * len(thread.ran)
    assert not any(turn.live for turn in turns)


@ways
@pytest.mark.parametrize("open_one", ["block", "request"])
def test_one_that_is_open_takes_it_in(
    bench: Bench, sim: ProviderSimulator, thread: Thread, way: str, open_one: str
) -> None:
    """Inside an application's turn, or a request that is served, exchanges are part of that, and no turns."""
    turns = []

    before = _turn._own.get()

    async def converse() -> None:
        for messages in ((), (NEXT,)):
            plays(sim, way)
            await exchange(thread, way, *messages)
            turns.append(found())
        assert _turn._own.get() is before

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await converse()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_: Any) -> None:
        return

    async def main() -> None:
        if open_one == "block":
            with otelstream.turn("chat"):
                await converse()
        else:
            await StreamHopMiddleware(app)({"type": "http", "path": "/", "headers": []}, receive, send)

    thread.go(main())
    answers = 4 if way.startswith("run") else 2
    assert len({id(turn) for turn in turns}) == 1
    assert len(turns[0].records) + turns[0].unstreamed == answers
    assert thread.ran == [turns[0].id] * (answers - 2)


@pytest.mark.parametrize("traced", [False, True], ids=["no trace", "in a trace"])
@pytest.mark.parametrize("pressed", ["between the answers", "in the tool"])
def test_a_stop_reaches_the_rest_of_a_run(
    bench: Bench, sim: ProviderSimulator, thread: Thread, pressed: str, traced: bool
) -> None:
    """A Stop without an id, by who reads or by a tool, is for all that the run does yet; not for the next exchange."""
    plays(sim, "run")
    sim.play(DONE)

    def press(number: int) -> None:
        if number == 1 and not thread.presses:
            thread.pressed.append(otelstream.record_stop())

    async def converse() -> None:
        thread.presses = pressed == "in the tool"
        await thread.run(press, stream=True)
        await thread.stream(NEXT)

    with bench.tracer.start_as_current_span("worker") if traced else nullcontext():
        thread.go(converse())

    first, second, third = bench.ended
    assert thread.pressed == [True]
    assert (first.cancel, third.cancel) == (None, None)
    assert second.cancel is not None
    assert (second.cancel.trigger, second.cancel.propagation, second.cancel.where) == (
        "user_stop", "drained", "between_streams",
    )  # fmt: skip
    assert bench.points(s.CANCELLATIONS.name, s.CANCEL_TRIGGER) == {("user_stop",): 1}


def test_a_stop_from_elsewhere_in_the_trace(bench: Bench, sim: ProviderSimulator, thread: Thread) -> None:
    """Who shares only the trace, as another thread of a worker does, reaches the exchange that is open."""
    sim.play(DONE)

    async def converse() -> None:
        with bench.tracer.start_as_current_span("worker") as span:
            async with AsyncExitStack() as stack:
                manager = thread.of.stream()
                if thread.asynchronous:
                    await stack.enter_async_context(manager)
                else:
                    stack.enter_context(manager)

                def press() -> None:
                    with trace.use_span(span):
                        thread.pressed.append(otelstream.record_stop())

                elsewhere = threading.Thread(target=press)
                elsewhere.start()
                elsewhere.join()

    thread.go(converse())
    (stream,) = bench.ended
    assert thread.pressed == [True]
    assert stream.cancel is not None
    assert stream.cancel.trigger == "user_stop"


def test_what_is_sent_again_is_of_the_same_turn(bench: Bench, sim: ProviderSimulator, thread: Thread) -> None:
    """A thread that the provider lost: refused and asked anew, which is one exchange, and two streams."""
    sim.play(DONE)
    sim.play(DONE, fault=sim.http_error(404, body=LOST))
    sim.play(DONE)

    async def converse() -> None:
        await thread.stream()
        await thread.stream(NEXT)

    thread.go(converse())
    first, refused, again = bench.ended
    assert [(stream.outcome, stream.fault) for stream in bench.ended] == [
        ("completed", "none"), ("failed", "request_error"), ("completed", "none"),
    ]  # fmt: skip
    assert refused.turn_id == again.turn_id != first.turn_id


def test_a_run_that_is_closed(bench: Bench, sim: ProviderSimulator, thread: Thread) -> None:
    """Its turn is over with it, whose open stream is closed by it."""
    sim.play(Script().text("word " * 40), fault="hang_after=chunks:8")

    async def converse() -> None:
        runner = thread.of.tool_runner(stream=True)
        async with aclosing(thread.items(runner)) as answers:
            async for answer in answers:
                async with aclosing(thread.items(answer)) as events:
                    async for event in events:
                        if event.type == "text":
                            break
                assert found().live
                await thread.done(runner.close())
                assert not found().live

    thread.go(converse())
    (stream,) = bench.ended
    assert stream.cancel is not None
    assert (stream.outcome, stream.cancel.trigger) == ("cancelled", "generator_close")


def test_a_plain_runner_is_what_it_was(bench: Bench, sim: ProviderSimulator, thread: Thread) -> None:
    """The SDK keeps a thread behind it, which nobody asked for: without a turn it has none, as before threads."""
    plays(sim, "run")
    runner = thread.client.beta.messages.tool_runner(**ASK, tools=[thread._tool()], stream=True)
    thread.go(thread.run(of=runner))
    assert [stream.turn_id for stream in bench.ended] == [None, None]
    assert len(thread.ran) == 1


def test_the_tools_of_exchanges_that_alternate(bench: Bench, sim: ProviderSimulator, thread: Thread) -> None:
    """The application runs the tools after an exchange, each run serves the call with its arguments."""
    ran = []

    @otelstream.tool(effect="write", name="send")
    def send(to: str) -> None:
        ran.append(to)

    async def converse() -> None:
        for number, way in enumerate(("stream", "send")):
            sim.play(Script().tool_use("send", {"to": f"port {number}"}, id=f"toolu_{number}"))
            await getattr(thread, way)(*([NEXT] if number else []))
        send("port 0")
        send("port 1")

    calls = []
    otelstream.on_stream_end(lambda view: calls.extend(view.tool_calls))
    thread.go(converse())
    assert ran == ["port 0", "port 1"]
    assert [(call.id, call.state, call.guessed) for call in calls] == [("toolu_0", "committed", False)]
    assert registry.idle
