# SPDX-License-Identifier: Apache-2.0
"""The end of a hop: it comes whatever happens, and what is begun after it is none of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from tools.bench import Bench, instrumented
from tools.direct import completes, opened

import otelstream
from otelstream import _semconv as s
from otelstream._core.record.stream import StreamObservation
from otelstream._core.turns import turn as _turn
from otelstream.asgi import StreamHopMiddleware, _Hop

SCOPE = {"type": "http", "method": "GET", "headers": []}
START = {"type": "http.response.start", "status": 200, "headers": []}
BODY = {"type": "http.response.body", "body": b"Calm seas."}
Send = Callable[[Any], Awaitable[None]]


@pytest.fixture
def bench() -> Iterator[Bench]:
    _turn.restart()
    with instrumented() as bench:
        yield bench


def hops(bench: Bench) -> dict[Any, int]:
    return {key[0]: count for key, count in bench.points(s.HOP_DURATION.name, s.HOP_OUTCOME).items()}


async def stays() -> Any:
    await asyncio.Event().wait()  # a client that does


async def ignored(_: Any) -> None:
    return


def left_entered() -> list[_turn.Turn]:
    return [turn for turn in _turn._known.all() if turn.entered or turn.inner]


# --- what is begun afterwards ---------------------------------------------------------------------------------


async def in_a_task(send: Send, act: Callable[[], object]) -> list[asyncio.Task[None]]:
    """A task that outlives the response and the request."""

    async def later() -> None:
        await asyncio.sleep(0.01)
        act()

    task = asyncio.create_task(later())
    await send(START)
    await send(BODY)
    return [task]


async def behind_the_body(send: Send, act: Callable[[], object]) -> list[asyncio.Task[None]]:
    """As Starlette's background tasks: within the application's call."""
    await send(START)
    await send(BODY)
    act()
    return []


async def in_a_thread(send: Send, act: Callable[[], object]) -> list[asyncio.Task[None]]:
    await send(START)
    await send(BODY)
    await asyncio.to_thread(act)
    return []


@pytest.mark.parametrize("place", [in_a_task, behind_the_body, in_a_thread], ids=lambda place: place.__name__)
@pytest.mark.parametrize("named", ["", "chat"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_call_in_the_background(bench: Bench, place: Any, named: str, streamed: bool) -> None:
    """A model call that begins after the response has ended is not the request's hop; what was streamed before is."""
    begun: list[StreamObservation] = []
    tasks: list[asyncio.Task[None]] = []

    def act() -> None:
        begun.append(opened())
        completes(begun[-1])

    async def app(scope: Any, receive: Any, send: Send) -> None:
        if streamed:
            act()
        if named:
            with otelstream.turn(named):
                tasks.extend(await place(send, act))
        else:
            tasks.extend(await place(send, act))

    async def run() -> None:
        await StreamHopMiddleware(app)(dict(SCOPE), stays, ignored)
        await asyncio.gather(*tasks)
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1  # nobody looks for that client any more

    asyncio.run(run())
    assert len(begun) == 1 + streamed
    assert all(stream.cancel is None for stream in begun)
    assert hops(bench) == ({"completed": 1} if streamed else {})
    assert not left_entered()


def test_starlettes_background_task(bench: Bench) -> None:
    """The framework's own way to do so."""

    async def summarise() -> None:
        completes(opened())

    async def answer(request: Any) -> StreamingResponse:
        return StreamingResponse(iter(["Calm seas."]), background=BackgroundTask(summarise))

    app = StreamHopMiddleware(Starlette(routes=[Route("/", answer)]))
    assert TestClient(app).get("/").text == "Calm seas."
    assert len(bench.ended) == 1
    assert hops(bench) == {}


def test_a_turn_after_its_request(bench: Bench) -> None:
    """A task that goes on finds the turn of its request, and its own stream's as soon as it has one."""
    found: list[Any] = []
    over = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Send) -> None:
        completes(opened())
        mine = otelstream.current_stream()._stream

        async def later() -> None:
            await over.wait()
            found.append(otelstream.current_stream()._stream is mine)
            stream = opened()
            found.append(otelstream.current_stream()._stream is stream)
            found.append(stream.turn is mine.turn)  # type: ignore[union-attr]
            completes(stream)

        tasks.append(asyncio.create_task(later()))
        await send(START)
        await send(BODY)

    tasks: list[asyncio.Task[None]] = []
    completes(opened())  # as the server started, in the context that all of its tasks have

    async def run() -> None:
        await StreamHopMiddleware(app)(dict(SCOPE), stays, ignored)
        over.set()
        await asyncio.gather(*tasks)

    asyncio.run(run())
    assert found == [True, True, False]
    assert not left_entered()


# --- the end comes --------------------------------------------------------------------------------------------


async def answers(send: Send) -> None:
    """An application whose stream makes the middleware look for the client's leave."""
    stream = opened()
    await send(START)
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # the look has begun
    completes(stream)
    await send(BODY)


async def by_a_cancel_scope(middleware: Any, end: asyncio.Event) -> None:
    """A scope that is cancelled cancels every await in it, again and again."""

    async def app(scope: Any, receive: Any, send: Send) -> None:
        await answers(send)
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        await middleware(app)(dict(SCOPE), stays, ignored)


async def by_a_task_cancel_in_the_end(middleware: Any, end: asyncio.Event) -> None:
    async def app(scope: Any, receive: Any, send: Send) -> None:
        await answers(send)

    async def slow() -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            end.set()
            await asyncio.sleep(0.05)  # a server that takes its time to let go

    task = asyncio.create_task(middleware(app)(dict(SCOPE), slow, ignored))
    await end.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_a_cancel_of_the_application(middleware: Any, end: asyncio.Event) -> None:
    async def app(scope: Any, receive: Any, send: Send) -> None:
        await answers(send)
        end.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(middleware(app)(dict(SCOPE), stays, ignored))
    await end.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_an_error(middleware: Any, end: asyncio.Event) -> None:
    async def app(scope: Any, receive: Any, send: Send) -> None:
        await answers(send)
        raise ValueError("the application's own")

    with pytest.raises(ValueError, match="own"):
        await middleware(app)(dict(SCOPE), stays, ignored)


WAYS = {
    by_a_cancel_scope: "completed",
    by_a_task_cancel_in_the_end: "completed",
    by_a_cancel_of_the_application: "failed_after_200",
    by_an_error: "failed_after_200",
}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("named", [False, True])
def test_the_end_always_comes(bench: Bench, way: Any, named: bool) -> None:
    """However the application's task is cancelled, its hop is recorded, and nobody is left in its turn."""

    def middleware(app: Any) -> StreamHopMiddleware:
        async def in_a_turn(scope: Any, receive: Any, send: Any) -> None:
            with otelstream.turn("chat"):
                await app(scope, receive, send)

        return StreamHopMiddleware(in_a_turn if named else app)

    async def run() -> None:
        await way(middleware, asyncio.Event())

    asyncio.run(run())
    assert hops(bench) == {WAYS[way]: 1}
    assert not left_entered()


def test_a_record_that_fails_keeps_nobody_in_the_turn(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trouble with the hop's own record leaves the turn all the same."""

    def breaks(_: Any) -> None:
        raise ValueError("ours")

    async def app(scope: Any, receive: Any, send: Send) -> None:
        await answers(send)

    monkeypatch.setattr(_Hop, "_record", breaks)
    asyncio.run(StreamHopMiddleware(app)(dict(SCOPE), stays, ignored))
    assert not left_entered()


@pytest.mark.parametrize("order", ["outer first", "inner first"])
def test_a_client_that_leaves_turns_inside_one_another(bench: Bench, order: str) -> None:
    """It leaves all of them: each stream is asked once, and a turn inside goes with the one around it."""
    streams: list[StreamObservation] = []
    gone = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Send) -> None:
        with otelstream.turn("outer"):
            if order == "outer first":
                streams.append(opened())
            with otelstream.turn("inner"):
                streams.append(opened())
            if order == "inner first":
                streams.append(opened())
            gone.set()
            while (await receive())["type"] != "http.disconnect":
                pass
            for stream in streams:
                completes(stream)

    async def leaves() -> Any:
        await gone.wait()
        return {"type": "http.disconnect"}

    asyncio.run(StreamHopMiddleware(app)(dict(SCOPE), leaves, ignored))
    assert [stream.stopped_by for stream in streams] == ["client_disconnect"] * 2
    assert sum(bench.points(s.CANCELLATIONS.name).values()) == 2
    assert hops(bench) == {"client_disconnect": 1}


def test_turns_entered_by_many_threads(bench: Bench) -> None:
    """Nobody is lost in the count of who is inside."""
    with otelstream.turn("chat"):

        def visit() -> None:
            for _ in range(500):
                with otelstream.turn("chat"):
                    pass

        threads = [threading.Thread(target=visit) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not left_entered()


def test_a_request_that_ends_while_a_stream_begins(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another thread, at any step: the stream is observed, and nobody is left in a turn."""
    enter = _turn.Turn.enter
    requests = [_turn.Request(), _turn.Request()]

    def ends_meanwhile(turn: _turn.Turn) -> None:
        enter(turn)
        requests[0].end()

    with monkeypatch.context() as patch:
        patch.setattr(_turn.Turn, "enter", ends_meanwhile)
        with _turn.serving(requests[0]):
            completes(opened())
    requests[1].end()
    assert requests[1].turn is not None
    assert len(bench.ended) == 1
    assert not left_entered()
