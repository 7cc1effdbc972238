# SPDX-License-Identifier: Apache-2.0
"""Every way to stop a stream, at every place in the answer: who stopped it, where, and what came of it."""

from __future__ import annotations

import asyncio
import gc
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import anthropic
import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from tools.bench import ASK, Bench, global_provider, instrumented, spread, wait_for
from tools.control import lag_of_a_bare_close

import otelstream
from otelstream import _semconv as s
from otelstream._core.process import stopping
from otelstream._core.process.closing import end
from otelstream._core.record.cancel import Cancel
from otelstream._core.record.ending import abandoned
from otelstream._core.record.stream import StreamObservation, clock
from otelstream._core.turns import turn as _turn
from otelstream._stainless import closes
from otelstream.testing import Exchange, ProviderSimulator, Schedule, Script, prose

# Seconds that a loaded machine may take between two threads; the figure is the median, at the end.
LENIENT = 0.25
GAP = 0.004
SCRIPT = (
    Script()
    .thinking(prose(96), chunk=12)
    .text(prose(96), chunk=12)
    .tool_use("send", {"to": "marten", "body": prose(60)}, chunk=8)
    .end("tool_use")
)
_delays: list[float] = []  # from our stamp of a close to the provider's
_to_close: list[float] = []  # from our stamp to the close of the socket itself
_socket_closes: list[float] = []
CANCEL_EVENTS = (s.EVENT_CANCEL_REQUESTED, s.EVENT_CANCEL_OUTCOME)
CANCEL_ATTRIBUTES = (s.CANCEL_TRIGGER, s.CANCEL_AT, s.CANCEL_PROPAGATION, s.CANCEL_CLOSE_DELAY)

# Where in the answer: the event that the reader holds when the stop comes.
PLACES: dict[str, Callable[[Any], bool]] = {
    "before_output": lambda event: event.type == "message_start",
    "thinking": lambda event: event.type == "content_block_delta" and event.delta.type == "thinking_delta",
    "text": lambda event: event.type == "content_block_delta" and event.delta.type == "text_delta",
    "tool_input": lambda event: event.type == "content_block_delta" and bool(getattr(event.delta, "partial_json", "")),
    "block_boundary": lambda event: event.type == "content_block_stop" and event.index == 1,
    "after_finish": lambda event: event.type == "message_delta",
}


@pytest.fixture(scope="module")
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as sim:
        yield sim


@pytest.fixture(scope="module")
def connected(sim: ProviderSimulator) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=sim.base_url, api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def async_connected(sim: ProviderSimulator, loop: asyncio.AbstractEventLoop) -> Iterator[Any]:
    client = anthropic.AsyncAnthropic(base_url=sim.base_url, api_key="unused", max_retries=0)
    yield client
    loop.run_until_complete(client.close())


@pytest.fixture(params=["own", "native"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Otelstream on, with spans of its own or on those that the SDK makes; what each of them says is looked at."""
    native = request.param == "native"
    with instrumented(cancel_late_after=0.15) as bench:
        with global_provider(bench.tracer_provider) if native else nullcontext():
            yield bench
        for stream in bench.ended:
            assert stream.native == native
            check_span(bench, stream)


def check_span(bench: Bench, stream: StreamObservation) -> None:
    """One span for the stream, with what its record says of a stop; nothing of one where nobody stopped it."""
    assert stream.span is not None
    of_streams = [span for span in bench.spans() if s.OUTCOME in (span.attributes or {})]
    assert len(of_streams) == len(bench.ended)
    (span,) = [span for span in of_streams if span.context == stream.span.get_span_context()]
    said = {key: value for key, value in (span.attributes or {}).items() if key in CANCEL_ATTRIBUTES}
    events = [event.name for event in span.events if event.name in CANCEL_EVENTS]
    cancel = stream.cancel
    if cancel is None:
        assert (said, events) == ({}, [])
        return
    assert events == list(CANCEL_EVENTS)
    delay = {} if cancel.close_delay is None else {s.CANCEL_CLOSE_DELAY: cancel.close_delay}
    words = {s.CANCEL_TRIGGER: cancel.trigger, s.CANCEL_AT: cancel.where, s.CANCEL_PROPAGATION: cancel.propagation}
    assert said == words | delay


# The SDK takes its tracer once a client; a copy shares the connections.


@pytest.fixture
def client(connected: Any, bench: Bench) -> Any:
    return connected.copy()


@pytest.fixture
def async_client(async_connected: Any, bench: Bench) -> Any:
    return async_connected.copy()


@pytest.fixture(scope="module", autouse=True)
def prompt_threads() -> Iterator[None]:
    """Let the simulator's thread see a close when it happens, and not when ours has used up its turn of 5 ms."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0002)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(scope="module", autouse=True)
def socket_closes() -> Iterator[None]:
    """Note when this thread closes sockets: the application's, as the provider has a thread of its own."""
    close, reader = socket.socket.close, threading.get_ident()

    def noted(self: socket.socket) -> None:
        if threading.get_ident() == reader:
            _socket_closes.append(time.perf_counter())
        close(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "close", noted)
        yield


def from_another_context(act: Callable[[], object]) -> None:
    thread = threading.Thread(target=act)
    thread.start()
    thread.join()


def user_stop() -> None:
    from_another_context(lambda: otelstream.record_stop(turn="chat"))


def client_disconnect() -> None:
    turn = _turn.find("chat")
    assert turn is not None
    from_another_context(lambda: stopping.stop(turn, "client_disconnect", clock()))


def read_until(client: Any, place: str, then: Callable[[Any], None], *, leave: bool = True) -> None:
    """Read to a place in the answer, do something there, and leave or read on."""
    with otelstream.turn("chat"):
        stream = client.messages.create(**ASK, stream=True)
        for event in stream:
            if PLACES[place](event):
                then(stream)
                if leave:
                    break
                then = _nothing


def _nothing(_: Any) -> None:
    return


def played(sim: ProviderSimulator) -> None:
    sim.clear()
    sim.play(SCRIPT, schedule=Schedule(gap=GAP))


def the_one(bench: Bench) -> StreamObservation:
    return bench.wait_for_ended(1)[0]


def counted(bench: Bench) -> dict[tuple[Any, ...], int]:
    return dict(bench.points(s.CANCELLATIONS.name, s.CANCEL_TRIGGER, s.CANCEL_PROPAGATION, s.CANCEL_AT))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("ask", [user_stop, client_disconnect])
class TestAsked:
    """Somebody asked for the stop before the application closed."""

    def test_closed(self, bench: Bench, sim: ProviderSimulator, client: Any, ask: Any, place: str) -> None:
        """Closed at once: the delay is that to the provider's own log, and nothing was delivered after."""
        played(sim)

        def stop(stream: Any) -> None:
            ask()
            stream.close()

        read_until(client, place, stop)
        stream = the_one(bench)
        cancel = stream.cancel
        assert cancel is not None
        propagation = "not_needed" if place == "after_finish" else "closed"
        assert (cancel.trigger, cancel.where, cancel.propagation) == (ask.__name__, place, propagation)
        assert (cancel.delivered_chunks, cancel.delivered_chars) == (0, 0)
        assert counted(bench) == {(ask.__name__, propagation, place): 1}
        self.agrees_with_the_provider(sim, cancel)

    def test_closed_late(self, bench: Bench, sim: ProviderSimulator, client: Any, ask: Any, place: str) -> None:
        """Closed after `cancel_late_after`: late, with what the provider took for it."""
        if place == "after_finish":
            pytest.skip("a stop after the finish reason is not needed, late or not")
        played(sim)

        def stop(stream: Any) -> None:
            ask()
            threading.Event().wait(0.2)
            stream.close()

        read_until(client, place, stop)
        cancel = the_one(bench).cancel
        assert cancel is not None
        assert (cancel.where, cancel.propagation) == (place, "closed_late")
        assert 0.2 <= (cancel.close_delay or 0.0) < 0.2 + LENIENT
        self.agrees_with_the_provider(sim, cancel)

    def test_drained(self, bench: Bench, sim: ProviderSimulator, client: Any, ask: Any, place: str) -> None:
        """Read on to the end: what was shown before and what came after add up to what the provider sent."""
        played(sim)
        read_until(client, place, lambda _: ask(), leave=False)
        stream = the_one(bench)
        cancel = stream.cancel
        assert cancel is not None
        propagation = "not_needed" if place == "after_finish" else "drained"
        assert (stream.outcome, cancel.trigger, cancel.where) == ("completed", ask.__name__, place)
        assert cancel.propagation == propagation
        sent = sim.log[0].chunks
        before = len(sent) - (cancel.delivered_chunks or 0)
        assert cancel.delivered_chars == sum(write.chars for write in sent[before:])
        assert cancel.visible_chars == sum(write.chars for write in sent[:before] if write.kind == "text")
        assert {"before_output": before == 0, "after_finish": before == len(sent)}.get(place, 0 < before < len(sent))

    def test_closed_by_the_collector(
        self, bench: Bench, sim: ProviderSimulator, client: Any, ask: Any, place: str
    ) -> None:
        """Nobody closed: the ask stands, and the collector did it."""
        if place == "after_finish":
            pytest.skip("a stop after the finish reason is not needed, whoever closes")
        played(sim)
        read_until(client, place, lambda _: ask())
        wait_for(lambda: bool(gc.collect()) or bench.ended)
        stream = the_one(bench)
        assert stream.cancel is not None
        assert (stream.outcome, stream.cancel.trigger) == ("abandoned", ask.__name__)
        assert (stream.cancel.where, stream.cancel.propagation) == (place, "closed_by_gc")
        # From the ask to the drop; its socket may live on to the next collection.
        assert (stream.cancel.close_delay or 0.0) > 0

    @staticmethod
    def agrees_with_the_provider(sim: ProviderSimulator, cancel: Cancel) -> None:
        exchange: Exchange = sim.log[0]
        closed = wait_for(lambda: exchange.closed_at or exchange.peer_closed_at)
        if exchange.closed_by == "peer":
            ours = cancel.at + (cancel.close_delay or 0.0)
            _delays.append(closed - ours)
            _to_close.append(next(at for at in _socket_closes if at > cancel.at) - ours)
            assert ours == pytest.approx(closed, abs=LENIENT)


# --- triggers without an ask --------------------------------------------------------------------------------


def app_close(stream: Any) -> None:
    stream.close()


def shutdown(_: Any) -> None:
    raise KeyboardInterrupt


def timeout(_: Any) -> None:
    raise TimeoutError


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("trigger", [app_close, shutdown, timeout])
def test_without_an_ask(
    bench: Bench, sim: ProviderSimulator, client: Any, trigger: Callable[[Any], None], place: str
) -> None:
    """Ask and close are one instant: trigger and place, no delay; after the finish reason nothing is counted."""
    played(sim)
    with otelstream.turn("chat"):
        try:
            with client.messages.create(**ASK, stream=True) as stream:
                for event in stream:
                    if PLACES[place](event):
                        trigger(stream)
                        break
        except (KeyboardInterrupt, TimeoutError):
            pass
    ended = the_one(bench)
    if place == "after_finish":
        assert (ended.outcome, ended.cancel, counted(bench)) == ("completed", None, {})
        return
    cancel = ended.cancel
    assert cancel is not None
    assert (ended.outcome, cancel.trigger, cancel.where) == ("cancelled", trigger.__name__, place)
    assert (cancel.propagation, cancel.close_delay) == ("closed", None)
    assert counted(bench) == {(trigger.__name__, "closed", place): 1}


@pytest.mark.parametrize("place", [place for place in PLACES if place != "after_finish"])
def test_task_cancel(bench: Bench, sim: ProviderSimulator, async_client: Any, loop: Any, place: str) -> None:
    """A cancelled task stops its stream where it waits."""
    played(sim)
    there = threading.Event()

    async def read() -> None:
        async with await async_client.messages.create(**ASK, stream=True) as stream:
            async for event in stream:
                if PLACES[place](event):
                    there.set()
                    await asyncio.sleep(60)

    async def run() -> None:
        task = asyncio.create_task(read())
        while not there.is_set():  # noqa: ASYNC110 - until the reader is there
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    loop.run_until_complete(run())
    cancel = the_one(bench).cancel
    assert cancel is not None
    assert (cancel.trigger, cancel.where, cancel.propagation) == ("task_cancel", place, "closed")


def test_generator_close(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """A generator that holds the `with` and is closed says so."""
    played(sim)

    def texts() -> Iterator[str]:
        with client.messages.stream(**ASK) as stream:
            yield from stream.text_stream

    generator = texts()
    next(generator)
    generator.close()  # type: ignore[attr-defined]
    cancel = the_one(bench).cancel
    assert cancel is not None
    assert (cancel.trigger, cancel.where, cancel.propagation) == ("generator_close", "text", "closed")


def test_still_open(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """A stream that only the end of the process ends is `still_open`, with the ask that never reached it."""
    played(sim)
    with otelstream.turn("chat"):
        stream = client.messages.create(**ASK, stream=True)
        next(iter(stream))
        user_stop()
        observed = otelstream.current_stream()._stream
        assert observed is not None
        end(observed, abandoned("shutdown"))
    cancel = the_one(bench).cancel
    assert cancel is not None
    assert (cancel.trigger, cancel.propagation) == ("user_stop", "still_open")
    stream.close()


# --- between streams ----------------------------------------------------------------------------------------


def test_a_stop_between_streams_reaches_the_next_one(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """The stream that is opened after all carries the stop: it is counted once, and with what it delivered."""
    played(sim)
    sim.play("text_short")
    with otelstream.turn("chat"):
        read_until_end(client)
        user_stop()
        read_until_end(client)
    assert [stream.cancel is not None for stream in bench.ended] == [False, True]
    cancel = bench.ended[1].cancel
    assert cancel is not None
    assert (cancel.where, cancel.propagation, cancel.visible_chars) == ("between_streams", "drained", 0)
    assert cancel.delivered_chars == sum(write.chars for write in sim.log[1].chunks)
    assert counted(bench) == {("user_stop", "drained", "between_streams"): 1}


def read_until_end(client: Any) -> None:
    for _ in client.messages.create(**ASK, stream=True):
        pass


def test_a_stop_that_no_stream_follows(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """It is counted when the turn is over, and not before: another stream might have taken it."""
    played(sim)
    with otelstream.turn("chat"):
        read_until_end(client)
        user_stop()
        assert counted(bench) == {}
    assert counted(bench) == {("user_stop", "not_needed", "between_streams"): 1}


def test_a_stop_of_a_trace_does_not_wait_for_its_next_stream(
    bench: Bench, sim: ProviderSimulator, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody says when a trace is over: its next stream is another one's, and after 300 s nobody waits."""
    sim.clear()
    sim.play("text_short", times=None)
    with bench.tracer.start_as_current_span("agent"):
        read_until_end(client)
        assert not otelstream.record_stop()
        assert counted(bench) == {}
        read_until_end(client)
    assert counted(bench) == {("user_stop", "not_needed", "between_streams"): 1}
    assert bench.ended[-1].cancel is None
    with bench.tracer.start_as_current_span("another agent"):
        read_until_end(client)
        assert not otelstream.record_stop()
    monkeypatch.setattr(stopping, "clock", lambda: clock() + 301)
    read_until_end(client)
    assert counted(bench) == {("user_stop", "not_needed", "between_streams"): 2}


def test_a_stop_between_streams_is_on_the_span_of_the_running_tool(
    bench: Bench, sim: ProviderSimulator, client: Any
) -> None:
    """A Stop that finds a tool and no stream is recorded with that tool."""

    @otelstream.tool(effect="write")
    def send(to: str, body: str) -> None:
        user_stop()

    played(sim)
    with otelstream.turn("chat"):
        read_until_end(client)
        send("marten", prose(60))
    span = bench.spans("execute_tool send")[0]
    said = [event for event in span.events if event.name == s.EVENT_CANCEL_REQUESTED]
    assert [dict(event.attributes or {}) for event in said] == [
        {s.CANCEL_TRIGGER: "user_stop", s.CANCEL_AT: "between_streams"}
    ]


def test_a_stop_before_any_stream(bench: Bench) -> None:
    """A turn that is stopped before its first request is counted too."""
    with otelstream.turn("chat"):
        user_stop()
    assert counted(bench) == {("user_stop", "not_needed", "between_streams"): 1}


def test_parallel_streams_of_one_turn(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """One Stop reaches every open stream of its turn, and none of another's."""
    sim.clear()
    sim.play(SCRIPT, schedule=Schedule(gap=GAP), times=None)
    with otelstream.turn("other"):
        other = client.messages.create(**ASK, stream=True)
    with otelstream.turn("chat"):
        streams = [client.messages.create(**ASK, stream=True) for _ in range(3)]
        user_stop()
        user_stop()  # pressed twice
        for stream in streams:
            stream.close()
    for _ in other:
        pass
    assert counted(bench) == {("user_stop", "closed", "before_output"): 3}
    assert bench.ended[-1].cancel is None


def test_a_stop_that_finds_nothing(
    bench: Bench, sim: ProviderSimulator, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It returns False, is counted each time, and warned about once."""
    otelstream._face.actions._not_found_said.clear()  # type: ignore[attr-defined]
    assert [otelstream.record_stop(turn="nobody's") for _ in range(3)] == [False] * 3
    assert bench.points(s.STOPS_NOT_FOUND.name) == {(): 3}
    assert len([record for record in caplog.records if "no such turn" in record.message]) == 1


def test_the_current_turn_is_the_default(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """Without an id the turn of this context is stopped: a block's, a trace's, or that of its newest stream."""
    for inside in (lambda: otelstream.turn("chat"), lambda: bench.tracer.start_as_current_span("agent")):
        played(sim)
        with inside():  # type: ignore[no-untyped-call]
            stream = client.messages.create(**ASK, stream=True)
            assert otelstream.record_stop()
            stream.close()
        assert bench.ended[-1].cancel is not None
        assert bench.ended[-1].cancel.trigger == "user_stop"
    played(sim)
    stream = client.messages.create(**ASK, stream=True)
    assert otelstream.record_stop()
    assert otelstream.current_stream().trigger == "user_stop"
    stream.close()


def test_a_stop_tells_every_thread_the_same(bench: Bench, sim: ProviderSimulator, client: Any) -> None:
    """Asked while another thread reads as fast as it can, what came before and after adds up, every time."""
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    caught = 0
    try:
        for number in range(25):
            sim.clear()
            sim.play(Script().text(prose(6000), chunk=10))
            with otelstream.turn("chat"):
                stream = client.messages.create(**ASK, stream=True)
            reader = threading.Thread(target=lambda stream=stream: [None for _ in stream])
            reader.start()
            view = otelstream.get_stream(stream)
            wait_for(lambda view=view, number=number: view.visible_chars or len(bench.ended) > number)
            otelstream.record_stop(turn="chat")
            reader.join()
            ended = bench.ended[number]
            if ended.cancel is not None and ended.cancel.where == "text":
                cancel = ended.cancel
                caught += 1
                assert cancel.visible_chars + (cancel.delivered_chars or 0) == 6000
                assert cancel.visible_chars == 6000 - 10 * (cancel.delivered_chunks or 0)
    finally:
        sys.setswitchinterval(switch)
    assert caught > 5


def test_the_delay_is_the_providers(sim: ProviderSimulator, capsys: pytest.CaptureFixture[str]) -> None:
    """Over all cells we stamp a close where the socket is closed, and the provider logs it no later than it logs that
    of a bare socket: what is between is how long its thread waits for its turn."""
    if not _delays:
        pytest.skip("no cell was run")
    control = []
    for _ in range(40):
        played(sim)
        control.append(lag_of_a_bare_close(sim))
    with capsys.disabled():
        print(f"\nfrom our stamp to the socket's close, {spread(_to_close)}")
        print(f"from our stamp to the provider's, {spread(_delays)}")
        print(f"from a bare socket's close to the provider's stamp, {spread(control)}")
    assert min(_to_close) >= 0
    assert min(_delays) >= 0
    assert statistics.median(_to_close) < 0.002
    assert statistics.median(_delays) - statistics.median(control) < 0.005


# --- what a stop costs ----------------------------------------------------------------------------------------


class SlowProcessor(SpanProcessor):
    """Exports at a span's end, over a bad network."""

    TAKES = 0.5

    def on_end(self, span: ReadableSpan) -> None:
        threading.Event().wait(self.TAKES)


@pytest.mark.parametrize("bench", ["own"], indirect=True)
def test_a_close_that_hangs_is_recorded(
    bench: Bench, sim: ProviderSimulator, async_client: Any, loop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that does not let itself be closed keeps the record back for a moment, not for ever."""
    monkeypatch.setattr(closes, "CLOSE_PATIENCE", 0.02)
    played(sim)

    async def run() -> None:
        stream = await async_client.messages.create(**ASK, stream=True)
        let_go = asyncio.Event()
        aclose = stream.response.aclose

        async def hangs() -> None:
            await let_go.wait()
            await aclose()

        stream.response.aclose = hangs
        closing = asyncio.create_task(stream.close())
        while not bench.ended:  # noqa: ASYNC110 - filled by the end of the stream
            await asyncio.sleep(0.001)
        assert not closing.done()
        let_go.set()
        await closing

    loop.run_until_complete(run())
    assert [stream.outcome for stream in bench.ended] == ["cancelled"]


@pytest.mark.parametrize("bench", ["own"], indirect=True)
@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("raw", [False, True])
def test_a_stop_does_not_wait_for_an_exporter(
    bench: Bench, sim: ProviderSimulator, client: Any, async_client: Any, loop: Any, colour: str, raw: bool
) -> None:
    """The connection is closed before the record is emitted, whatever that takes."""
    bench.tracer_provider.add_span_processor(SlowProcessor())
    sim.clear()
    sim.play(Script().text(prose(6000), chunk=12), schedule=Schedule(gap=GAP))

    def read() -> None:
        if raw:
            with client.messages.with_streaming_response.create(**ASK, stream=True) as response:
                next(response.iter_lines())
            return
        with client.messages.create(**ASK, stream=True) as stream:
            next(iter(stream))

    async def aread() -> None:
        if raw:
            async with async_client.messages.with_streaming_response.create(**ASK, stream=True) as response:
                await anext(response.iter_lines())
            return
        async with await async_client.messages.create(**ASK, stream=True) as stream:
            await anext(aiter(stream))

    if colour == "sync":
        read()
    else:
        loop.run_until_complete(aread())
    exchange = sim.log[0]
    closed = wait_for(lambda: exchange.closed_at)
    stream = the_one(bench)
    assert exchange.closed_by == "peer"
    assert closed - (stream.end_at or 0.0) < SlowProcessor.TAKES / 2
