# SPDX-License-Identifier: Apache-2.0
"""What a Stop reaches: turns inside one another, turns that nobody opened, and those that outlive their question."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextvars import Context, copy_context
from typing import Any

import pytest
from tools.bench import Bench, instrumented
from tools.direct import asked, asks, completes, opened

import otelstream
from otelstream import _semconv as s
from otelstream._core.process import stopping
from otelstream._core.process.closing import end
from otelstream._core.record.ending import cancelled
from otelstream._core.record.stream import StreamObservation, clock
from otelstream._core.tools.registry import registry
from otelstream._core.turns import turn as _turn
from otelstream.asgi import StreamHopMiddleware

BETWEEN = ("user_stop", "not_needed", "between_streams")
DRAINED = ("user_stop", "drained", "between_streams")


@pytest.fixture
def bench() -> Iterator[Bench]:
    with instrumented() as bench:
        stopping.restart()
        yield bench


def counted(bench: Bench) -> dict[tuple[Any, ...], int]:
    return dict(bench.points(s.CANCELLATIONS.name, s.CANCEL_TRIGGER, s.CANCEL_PROPAGATION, s.CANCEL_AT))


def elsewhere(act: Callable[[], object]) -> Any:
    """What `act` returns in a context that knows of nothing here, as another request's."""
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(act()))
    thread.start()
    thread.join()
    return found[0]


def pressed(turn: str | None = None) -> bool:
    return bool(elsewhere(lambda: otelstream.record_stop(turn=turn)))


def closes(stream: StreamObservation) -> None:
    end(stream, cancelled("app_close"))


# --- turns inside one another ---------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_a_stop_reaches_the_turns_inside(bench: Bench, depth: int) -> None:
    """The outer's Stop reaches an open stream however deep inside; its id is the innermost, and it is counted once."""

    def nested(left: int) -> StreamObservation:
        with otelstream.turn(f"inner-{left}"):
            return nested(left - 1) if left > 1 else opened()

    with otelstream.turn("outer") as outer:
        stream = nested(depth)
        call = asks(stream, "send")
        assert stream.turn_id == "inner-1"
        assert [view._stream for view in outer.streams] == [stream]
        assert list(outer.tool_calls) == [call]
        assert pressed("outer")
        assert stream.stopped_by == "user_stop"
        closes(stream)
    assert (stream.outcome, stream.cancel.trigger) == ("cancelled", "user_stop")  # type: ignore[union-attr]
    assert counted(bench) == {("user_stop", "closed", "before_output"): 1}


@pytest.mark.parametrize("when", ["between streams", "with one open"])
def test_a_stop_reaches_turns_that_are_begun_later(bench: Bench, when: str) -> None:
    """An inner turn that is opened after the outer was stopped is stopped too; between streams it takes the Stop."""
    with otelstream.turn("outer"):
        first = opened()
        if when == "between streams":
            completes(first)
        assert pressed("outer")
        closes(first)
        with otelstream.turn("inner") as inner:
            stream = opened()
            assert not inner.ledger
            completes(stream)
    assert stream.cancel is not None
    assert (stream.cancel.where, stream.cancel.propagation) == ("between_streams", "drained")
    first_count = {} if when == "between streams" else {("user_stop", "closed", "before_output"): 1}
    assert counted(bench) == {DRAINED: 1, **first_count}


@pytest.mark.parametrize("order", [("outer", "inner"), ("inner", "outer"), ("outer", "outer"), ("inner", "inner")])
def test_a_stop_is_counted_once(bench: Bench, order: tuple[str, str]) -> None:
    """Pressed for both, in either order, or twice for one: one stream, one cancellation, and True each time."""
    with otelstream.turn("outer"), otelstream.turn("inner"):
        stream = opened()
        assert [pressed(each) for each in order] == [True, True]
        closes(stream)
    assert counted(bench) == {("user_stop", "closed", "before_output"): 1}


def test_an_inner_stop_leaves_the_outer_alone(bench: Bench) -> None:
    """A Stop goes inwards only."""
    with otelstream.turn("outer"):
        outer = opened()
        with otelstream.turn("inner"):
            inner = opened()
            assert pressed("inner")
            closes(inner)
        with otelstream.turn("beside"):
            beside = opened()
        completes(outer)
        completes(beside)
    assert [stream.cancel is not None for stream in (outer, inner, beside)] == [False, True, False]


def test_the_ledger_of_the_outer_turn(bench: Bench) -> None:
    """What a Stop found is told of the whole turn that was stopped: what inner turns did, and each call once."""
    with otelstream.turn("outer") as outer:
        with otelstream.turn("first"):
            _, sent = asked("send", to="marten")
            sent.effect = "write"
            registry.dispatched(sent, "decorator", clock())
            registry.finished(sent, "committed", clock())
        with otelstream.turn("second") as second:
            stream = opened()
            assert pressed("outer")
            closes(stream)
            assert not second.ledger
        assert list(outer.ledger.committed) == [sent]
    assert stream.cancel is not None
    assert list(stream.cancel.ledger.committed) == [sent]
    assert bench.points(s.CANCELLATION_SIDE_EFFECTS.name, s.SIDE_EFFECT) == {("committed",): 1}


def test_a_held_tool_of_an_inner_turn_is_refused(bench: Bench) -> None:
    """The outer's Stop between streams withholds what an inner turn asked for."""

    @otelstream.tool(effect="write", hold=True)
    def deploy(ref: str) -> str:
        raise AssertionError("it must not run")

    with otelstream.turn("outer"), otelstream.turn("inner"):
        asked("deploy", ref="main")
        assert pressed("outer")
        with pytest.raises(otelstream.ToolWithheld, match="stopped"):
            deploy("main")


def test_a_turn_waits_for_those_inside(bench: Bench) -> None:
    """A Stop of a turn whose block is left, while a task of it is in a turn inside, is counted when that is over."""
    with otelstream.turn("outer"):
        inner = otelstream.turn("inner")
        with inner:
            completes(opened())
            held = _turn.find("inner")
            assert held is not None
            held.enter()  # a task that goes on
    assert pressed("outer")
    assert counted(bench) == {}
    held.leave()
    assert counted(bench) == {BETWEEN: 1}


def test_many_streams_of_a_turn(bench: Bench) -> None:
    """Only ended streams are forgotten: a Stop finds the oldest one that is open."""
    with otelstream.turn("chat") as turn:
        oldest = opened()
        for _ in range(3 * _turn.MAX_STREAMS):
            completes(opened())
        assert len(turn.streams) == _turn.MAX_STREAMS
        assert pressed("chat")
        assert oldest.stopped_by == "user_stop"
        closes(oldest)


def test_turns_of_tasks_that_start_one_another_are_let_go(bench: Bench) -> None:
    """A worker whose every job starts the next does not make an endless chain."""

    async def job(left: int) -> None:
        with otelstream.turn(f"job-{left}"):
            if left:
                await asyncio.create_task(job(left - 1))
            else:
                turn = _turn.current()
                assert turn is not None
                assert len(list(turn.chain())) <= _turn.MAX_DEPTH

    asyncio.run(job(3 * _turn.MAX_DEPTH))


def test_the_route_of_the_outer_turn(bench: Bench) -> None:
    """A turn inside another one is of the same route, unless it names its own."""
    outer = otelstream.turn("outer", route="chat")
    with outer, otelstream.turn("inner") as inner, otelstream.turn("own", route="search") as own:
        assert (inner.route, own.route) == ("chat", "search")


# --- what nobody opened ---------------------------------------------------------------------------------------


@pytest.fixture(params=["trace", "nothing"])
def context(request: pytest.FixtureRequest, bench: Bench) -> Iterator[str]:
    """A process that never ends, as a notebook or a worker: all in one trace, or in none."""
    if request.param == "nothing":
        yield request.param
        return
    with bench.tracer.start_as_current_span("a worker"):
        yield request.param


def test_a_stop_is_for_what_is_open(bench: Bench, context: str) -> None:
    """One Stop in a process that goes on stops one answer; the next ones are answers like any other."""

    @otelstream.tool(effect="write", hold=True)
    def deploy(ref: str) -> str:
        return ref

    stopped = opened()
    assert otelstream.record_stop()
    closes(stopped)
    for ref in ("a", "b"):
        stream, _ = asked("deploy", ref=ref)
        assert stream.cancel is None
        assert deploy(ref) == ref
    assert counted(bench) == {("user_stop", "closed", "before_output"): 1}


def test_each_stop_of_a_trace_counts(bench: Bench, context: str) -> None:
    """A later Stop stops the later answer."""
    for number in range(1, 4):
        stream = opened()
        assert otelstream.record_stop()
        assert otelstream.record_stop()  # pressed twice
        closes(stream)
        assert stream.cancel is not None
        assert counted(bench) == {("user_stop", "closed", "before_output"): number}
        completes(opened())


def test_a_stop_that_reaches_nothing(bench: Bench, context: str) -> None:
    """Between streams, with no tool at work, there is nothing to stop: False, counted once as not needed."""
    completes(opened())
    assert not otelstream.record_stop()
    assert not otelstream.record_stop()
    completes(opened())
    assert counted(bench) == {BETWEEN: 1}
    assert bench.points(s.STOPS_NOT_FOUND.name) == {}


def test_a_stop_reaches_a_tool_that_runs(bench: Bench, context: str) -> None:
    """Between streams it is the running tool that is stopped, and told so; the next stream is not."""
    found: list[bool] = []

    @otelstream.tool(effect="write")
    def send(to: str) -> None:
        found.append(otelstream.record_stop())

    asked("send", to="marten")
    send("marten")
    completes(opened())
    assert found == [True]
    span = bench.spans("execute_tool send")[0]
    assert [event.name for event in span.events if event.name == s.EVENT_CANCEL_REQUESTED]
    assert counted(bench) == {BETWEEN: 1}
    assert bench.points(s.CANCELLATION_SIDE_EFFECTS.name, s.SIDE_EFFECT) == {("running",): 1}


def test_a_stop_reaches_a_held_call_that_waits(bench: Bench, context: str) -> None:
    """A held call of an answer that is over is not run after a Stop."""

    @otelstream.tool(effect="write", hold=True)
    def deploy(ref: str) -> str:
        raise AssertionError("it must not run")

    asked("deploy", ref="main")
    assert otelstream.record_stop()
    with pytest.raises(otelstream.ToolWithheld, match="stopped"):
        deploy("main")


def test_a_stop_of_a_turn_that_is_over(bench: Bench) -> None:
    """Pressed too late it reaches nobody; that is no Stop that went to the wrong process."""
    with otelstream.turn("chat"):
        completes(opened())
    assert not pressed("chat")
    assert counted(bench) == {BETWEEN: 1}
    assert bench.points(s.STOPS_NOT_FOUND.name) == {}


def test_a_stop_while_a_stream_begins(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Stop that comes while a stream is being begun finds it, wherever that was."""
    inherit = stopping.inherit

    def stopped_before(stream: StreamObservation, turn: _turn.Turn) -> None:
        assert otelstream.record_stop()
        inherit(stream, turn)

    with bench.tracer.start_as_current_span("a worker"):
        completes(opened())
        monkeypatch.setattr(stopping, "inherit", stopped_before)
        stream = opened()
    assert stream.stopped_by == "user_stop"
    closes(stream)


# --- a turn that outlives its question ------------------------------------------------------------------------


@pytest.mark.parametrize("around", ["no turn", "one turn", "a turn a question"])
def test_a_websocket(bench: Bench, around: str) -> None:
    """On a connection for many questions a Stop reaches the rest of its own; the next message is another one."""
    messages = ["first", "stop", "second", "third"]
    found: dict[str, list[StreamObservation]] = {}
    agents: list[Context] = []

    async def receive() -> Any:
        return {"type": "websocket.receive", "text": messages.pop(0)} if messages else {"type": "websocket.disconnect"}

    async def send(_: Any) -> None:
        return

    async def app(scope: Any, receive: Any, send: Any) -> None:
        question = ""
        while (message := await receive())["type"] == "websocket.receive":
            if message["text"] == "stop":
                assert otelstream.record_stop(turn="first" if around == "a turn a question" else None)
                if around != "a turn a question":
                    found[question].append(opened())  # the agent goes on
                    completes(found[question][-1])
                continue
            question = message["text"]
            if around == "a turn a question":
                with otelstream.turn(question):
                    found[question] = [opened()]
                    agents.append(copy_context())
                    if question != "first":
                        completes(found[question][0])
                continue
            found[question] = [opened()]
            if question != "first":
                completes(found[question][0])

    async def socket(scope: Any, receive: Any, send: Any) -> None:
        if around == "one turn":
            with otelstream.turn("connection"):
                await app(scope, receive, send)
        else:
            await app(scope, receive, send)

    asyncio.run(StreamHopMiddleware(socket)({"type": "websocket"}, receive, send))
    for agent in agents[:1]:  # that of the first question has not noticed yet
        found["first"].append(agent.run(opened))
        completes(found["first"][-1])
    closes(found["first"][0])
    assert [stream.stopped_by for stream in found["first"]] == ["user_stop"] * len(found["first"])
    assert [stream.stopped_by for stream in found["second"] + found["third"]] == [None, None]


# --- concurrent sweeps ----------------------------------------------------------------------------------------


def test_two_sweep_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another thread has swept in between is no error, and every Stop is counted once."""

    class Raced(type(stopping._pending)):  # type: ignore[misc]
        """Another sweep comes between the look and the take."""

        racing = False

        def popleft(self) -> Any:
            if not self.racing:
                Raced.racing = True
                stopping.sweep()
                Raced.racing = False
            return super().popleft()

    monkeypatch.setattr(stopping, "_pending", Raced())
    for number in range(3):
        with bench.tracer.start_as_current_span(f"trace {number}"):
            completes(opened())
            assert not otelstream.record_stop()
    monkeypatch.setattr(stopping, "clock", lambda: clock() + stopping.NEVER_AFTER + 1)
    stream = opened()
    assert counted(bench) == {BETWEEN: 3}
    completes(stream)


def test_a_stream_is_observed_whatever_becomes_of_a_sweep(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trouble with an earlier Stop is no trouble of the stream that begins."""

    def breaks() -> None:
        raise IndexError("pop from an empty deque")

    monkeypatch.setattr(stopping, "sweep", breaks)
    monkeypatch.setattr(registry, "_candidates", breaks)
    completes(opened())
    assert len(bench.ended) == 1


# --- in a notebook ---------------------------------------------------------------------------------------------


def test_a_turn_shows_itself_in_a_notebook(bench: Bench) -> None:
    """Its streams, tool calls and ledger as a table; names are escaped, and no word of an input is there."""
    send = otelstream.tool(effect="write", name="send<b>")(lambda body: None)

    with otelstream.turn("chat<7>", route="chat") as turn:
        stream = opened()
        call = asks(stream, "send<b>", body="six o'clock at the harbour")
        with otelstream.tool_call(call.id):
            send(body="six o'clock at the harbour")
        otelstream.record_stop()
        closes(stream)
    shown = turn._repr_html_()

    assert "<th scope=row>turn</th><td>chat&lt;7&gt;</td>" in shown
    assert "<th scope=row>stream 1</th><td>m, cancelled, user_stop, 0 characters</td>" in shown
    assert "<th scope=row>tool send&lt;b&gt;</th><td>write, committed</td>" in shown
    assert "<th scope=row>ledger: committed</th><td>send&lt;b&gt;</td>" in shown
    assert "harbour" not in shown
    assert shown.count("<tr>") == shown.count("</tr>") == 5
