# SPDX-License-Identifier: Apache-2.0
"""A websocket under the ASGI middleware: each question's hop, the leave, and what the application gets to see of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from tools.bench import ASK, Bench, wait_for
from tools.direct import asks, completes, opened
from websockets.sync.client import connect

import otelstream
from otelstream import _semconv as s
from otelstream._core.process.closing import end
from otelstream._core.record.ending import cancelled
from otelstream._core.record.stream import StreamObservation
from otelstream._core.tools.registry import registry
from otelstream._core.turns import turn as _turn
from otelstream.asgi import StreamHopMiddleware
from otelstream.testing import ProviderSimulator, Schedule, Script, prose

from .conftest import SERVERS, served

LONG = Script().text(prose(1200), chunk=12)
SHORT = Script().text(prose(120), chunk=12)
SLOWLY = Schedule(gap=0.01)


def outcomes(bench: Bench) -> dict[Any, int]:
    return {labels[0]: count for labels, count in bench.points(s.HOP_DURATION.name, s.HOP_OUTCOME).items()}


def left_entered() -> list[_turn.Turn]:
    return [turn for turn in _turn._known.all() if turn.entered or turn.inner]


def application(base_url: str, *, reads_beside: bool = False) -> Any:
    """A chat over a websocket, which answers where it reads, or reads on beside."""

    async def answer(socket: WebSocket) -> None:
        async with (
            anthropic.AsyncAnthropic(base_url=base_url, api_key="unused", max_retries=0) as client,
            client.messages.stream(**ASK) as stream,
        ):
            async for text in stream.text_stream:
                await socket.send_text(text)
        await socket.send_text("<end>")

    async def chat(socket: WebSocket) -> None:
        await socket.accept()
        try:
            while await socket.receive_text():
                await answer(socket)
        except WebSocketDisconnect:
            return

    async def chat_beside(socket: WebSocket) -> None:
        await socket.accept()
        answering: asyncio.Task[None] | None = None
        try:
            while await socket.receive_text():
                answering = asyncio.create_task(answer(socket))
        except WebSocketDisconnect:
            assert answering is not None
            answering.cancel()

    return StreamHopMiddleware(Starlette(routes=[WebSocketRoute("/", chat_beside if reads_beside else chat)]))


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("reads_beside", [False, True])
def test_leaving_in_the_midst_of_an_answer(
    bench: Bench, sim: ProviderSimulator, server: str, reads_beside: bool
) -> None:
    """Who leaves while an answer streams is a `client_disconnect`, whether or not the application listens meanwhile."""
    sim.play(SHORT)
    sim.play(LONG, schedule=SLOWLY)
    with served(application(sim.base_url, reads_beside=reads_beside), server) as port:
        with connect(f"ws://127.0.0.1:{port}/") as socket:
            socket.send("first")
            while socket.recv() != "<end>":
                pass
            socket.send("second")
            socket.recv()
        first, second = bench.wait_for_ended(2)
        wait_for(lambda: sum(outcomes(bench).values()) == 2)

    assert (first.outcome, first.cancel) == ("completed", None)
    assert second.stopped_by == "client_disconnect"
    assert outcomes(bench) == {"completed": 1, "client_disconnect": 1}
    assert not left_entered()


@pytest.mark.parametrize("server", SERVERS)
def test_leaving_in_the_providers_silence(bench: Bench, sim: ProviderSimulator, server: str) -> None:
    """The leave is known before any write fails, and before the application looks for it."""
    sim.play(LONG, fault=sim.stall_after(3, chunks=5), schedule=Schedule(gap=0.0))
    with served(application(sim.base_url), server) as port:
        with connect(f"ws://127.0.0.1:{port}/") as socket:
            socket.send("only")
            for _ in range(5):
                socket.recv()
        wait_for(lambda: [view.trigger for view in otelstream.open_streams()] == ["client_disconnect"])
        (stream,) = bench.wait_for_ended(1)
    assert stream.cancel is not None
    assert stream.cancel.visible_chars == 60


@pytest.mark.parametrize("server", SERVERS)
def test_leaving_between_answers_is_nothing(bench: Bench, sim: ProviderSimulator, server: str) -> None:
    """Whoever closes the page after a whole answer stops nothing."""
    sim.play(SHORT, times=None)
    with served(application(sim.base_url), server) as port:
        with connect(f"ws://127.0.0.1:{port}/") as socket:
            for word in ("first", "second"):
                socket.send(word)
                while socket.recv() != "<end>":
                    pass
        wait_for(lambda: outcomes(bench) == {"completed": 2})
    assert not bench.points(s.CANCELLATIONS.name)
    assert [stream.cancel for stream in bench.ended] == [None, None]


# --- without a server -----------------------------------------------------------------------------------------


class Client:
    """The other end of a websocket: what it sends, in order, and what it got."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self.app, self.got = app, []
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.taken = 0
        self.gone = False

    def say(self, text: str) -> None:
        self.queue.put_nowait({"type": "websocket.receive", "text": text})

    def leave(self) -> None:
        self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})

    async def receive(self) -> Any:
        message = await self.queue.get()
        self.taken += 1
        return message

    async def send(self, message: Any) -> None:
        if self.gone:
            raise OSError("gone")
        self.got.append(message)

    def run(self, **seconds: float) -> None:
        self.queue.put_nowait({"type": "websocket.connect"})
        scope = {"type": "websocket", "path": "/"}
        asyncio.run(asyncio.wait_for(StreamHopMiddleware(self.app)(scope, self.receive, self.send), 10))


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_one_message_is_read_ahead_at_most(bench: Bench) -> None:
    """The client's other messages wait where they would without us; all come once, in order."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        stream = opened()
        for word in ("one", "two", "three"):
            client.say(word)
        await settled()
        assert client.taken == 2
        seen.extend([(await receive())["text"] for _ in range(3)])
        completes(stream)

    client = Client(app)
    client.run()
    assert seen == ["one", "two", "three"]


def test_a_write_that_fails(bench: Bench) -> None:
    """It tells of the leave as well, where nothing was read ahead of it."""
    streams = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        streams.append(opened())
        client.gone = True
        with pytest.raises(OSError, match="gone"):
            await send({"type": "websocket.send", "text": "Calm"})
        end(streams[0], cancelled("app_close"))

    client = Client(app)
    client.run()
    assert streams[0].stopped_by == "client_disconnect"
    assert outcomes(bench) == {"client_disconnect": 1}


def test_the_application_closes(bench: Bench) -> None:
    """Who is closed did not leave, whatever the server says afterwards."""
    streams = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        streams.append(opened())
        await send({"type": "websocket.close", "code": 1000})
        client.leave()
        await receive()
        end(streams[0], cancelled("app_close"))

    client = Client(app)
    client.run()
    assert streams[0].stopped_by == "app_close"
    assert outcomes(bench) == {"completed": 1}


def test_a_stream_begun_for_who_is_gone(bench: Bench) -> None:
    """An agent that goes on after its client left asks the model for nobody: that stream is asked to stop too."""
    streams: list[StreamObservation] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        streams.append(opened())
        completes(streams[0])
        client.leave()
        await receive()
        streams.append(opened())
        completes(streams[1])

    client = Client(app)
    client.run()
    assert [stream.stopped_by for stream in streams] == [None, "client_disconnect"]
    assert sum(bench.points(s.CANCELLATIONS.name).values()) == 1


def test_leaving_while_a_tool_runs(bench: Bench) -> None:
    """Between two streams of a question it is the tool that the leave finds, and the next stream inherits it."""
    streams: list[StreamObservation] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        with otelstream.turn("chat") as turn:
            streams.append(opened())
            call = asks(streams[0], "send_email")
            completes(streams[0])
            registry.dispatched(call, "decorator", 1.0)
            client.leave()
            await receive()
            registry.finished(call, "committed", float("inf"))
            streams.append(opened())
            completes(streams[1])
            ledgers.append([(word, len(calls)) for word, calls in turn.ledger if calls])

    ledgers: list[Any] = []
    client = Client(app)
    client.run()
    assert streams[1].stopped_by == "client_disconnect"
    assert ledgers == [[("running", 1)]]


@pytest.mark.parametrize("accepted", [False, True])
def test_an_application_that_raises(bench: Bench, accepted: bool) -> None:
    """Its exception comes through; its hop failed, after the client was let in or before."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if accepted:
            await send({"type": "websocket.accept"})
        completes(opened())
        raise ValueError("the application's own")

    with pytest.raises(ValueError, match="own"):
        Client(app).run()
    assert outcomes(bench) == {"failed_after_200" if accepted else "failed": 1}
    assert not left_entered()


def test_keepalives_do_not_split_an_answer(bench: Bench) -> None:
    """A message is a question only if a stream follows it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        for _ in range(2):
            client.say("question")
            await receive()
            stream = opened()
            await send({"type": "websocket.send", "text": "Calm"})
            client.say("still here")
            await receive()
            await send({"type": "websocket.send", "text": " seas."})
            completes(stream)

    client = Client(app)
    client.run()
    assert outcomes(bench) == {"completed": 2}
    assert bench.points(s.HOP_FIRST_BYTE.name) == {(): 2}


@pytest.mark.parametrize("seed", range(20))
def test_no_message_is_taken_from_the_application(bench: Bench, seed: int) -> None:
    """Whenever the application reads, pauses or cancels its reading, it gets every message, once and in order."""
    chance = random.Random(seed)
    seen: list[str] = []
    words = [str(number) for number in range(6)]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        streams: list[StreamObservation] = []

        async def feed() -> None:
            for word in words:
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
                client.say(word)

        feeding = asyncio.create_task(feed())
        while len(seen) < len(words):
            if chance.random() < 0.4:
                streams.append(opened())
            reading = asyncio.ensure_future(receive())
            for _ in range(chance.randrange(6)):
                await asyncio.sleep(0)
            if not reading.done():
                reading.cancel()
                await asyncio.wait([reading])
            if not reading.cancelled():
                seen.append(reading.result()["text"])
        await feeding
        for stream in streams:
            completes(stream)

    client = Client(app)
    client.run()
    assert seen == words
    assert not left_entered()


# --- for servers that no middleware looks into ----------------------------------------------------------------


@pytest.fixture
def other_thread() -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """Runs something in a context that knows of no turn."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        yield lambda function: pool.submit(function).result()


def test_client_gone_by_id(bench: Bench, other_thread: Any) -> None:
    """A server of one's own tells of a leave by the id of the turn, from wherever it notices it."""
    with otelstream.turn("chat"):
        stream = opened()
        assert other_thread(lambda: otelstream.client_gone("chat"))
        end(stream, cancelled("app_close"))
    assert (stream.stopped_by, stream.cancel and stream.cancel.propagation) == ("client_disconnect", "closed")


def test_client_gone_here(bench: Bench) -> None:
    """Without an id it is about the turn it is called in, and those around it: nobody is there for any of them."""
    with otelstream.turn("outer"):
        outer = opened()
        with otelstream.turn("inner"):
            inner = opened()
            assert otelstream.client_gone()
    completes(outer)
    completes(inner)
    assert [outer.stopped_by, inner.stopped_by] == ["client_disconnect"] * 2


def test_client_gone_of_nobody(bench: Bench, other_thread: Any) -> None:
    """A turn that this process does not know is counted, as a Stop of it is."""
    assert not other_thread(lambda: otelstream.client_gone("nobody"))
    assert sum(bench.points(s.STOPS_NOT_FOUND.name).values()) == 1
