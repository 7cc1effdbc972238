# SPDX-License-Identifier: Apache-2.0
"""The hop of an aiohttp application, through its own server: who left, what that reached upstream."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import urlopen

import anthropic
import pytest
from aiohttp import web
from tools.bench import ASK, Bench, wait_for
from websockets.sync.client import connect

import otelstream
from otelstream import _semconv as s
from otelstream._core.turns import turn as _turn
from otelstream.aiohttp import stream_hop_middleware
from otelstream.testing import ProviderSimulator, Schedule, Script, prose

from .conftest import get, leave

LONG = Script().text(prose(1200), chunk=12)
SHORT = Script().text(prose(120), chunk=12)
SLOWLY = Schedule(gap=0.01)


def application(base_url: str) -> web.Application:
    """Ways to stream an answer, or none, by path."""
    client = anthropic.AsyncAnthropic(base_url=base_url, api_key="unused", max_retries=0)

    async def chunks() -> AsyncIterator[str]:
        async with client.messages.stream(**ASK) as stream:
            async for text in stream.text_stream:
                yield text

    async def streams(request: web.Request) -> web.StreamResponse:
        with otelstream.turn(request.query["id"]):
            response = web.StreamResponse()
            await response.prepare(request)
            async for text in chunks():
                await response.write(text.encode())
            return response

    async def collects(request: web.Request) -> web.Response:
        return web.Response(text="".join([text async for text in chunks()]))

    async def refuses(request: web.Request) -> web.Response:
        async for _ in chunks():
            raise web.HTTPTooManyRequests
        raise AssertionError

    async def breaks(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        async for text in chunks():
            await response.write(text.encode())
            raise RuntimeError("the application's own")
        return response

    async def fails(request: web.Request) -> web.Response:
        async for _ in chunks():
            raise RuntimeError("the application's own")
        raise AssertionError

    async def plain(request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def socket(request: web.Request) -> web.WebSocketResponse:
        answers = web.WebSocketResponse()
        await answers.prepare(request)
        async for question in answers:
            with otelstream.turn(question.data):
                async for text in chunks():
                    await answers.send_str(text)
                await answers.send_str("<end>")
        return answers

    app = web.Application(middlewares=[stream_hop_middleware])
    for handler in (streams, collects, refuses, breaks, fails, plain, socket):
        app.router.add_get(f"/{handler.__name__}", handler)
    app.on_cleanup.append(lambda _: client.close())
    return app


@contextmanager
def served(app: web.Application, **options: Any) -> Iterator[int]:
    """Serve `app` from a loop in a thread."""
    ports: list[int] = []
    loop = asyncio.new_event_loop()
    over = asyncio.Event()

    async def run() -> None:
        runner = web.AppRunner(app, access_log=None, **options)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        ports.append(runner.addresses[0][1])
        await over.wait()
        await runner.cleanup()

    def main() -> None:
        loop.run_until_complete(run())
        loop.close()

    thread = threading.Thread(target=main, daemon=True)
    thread.start()
    wait_for(lambda: ports)
    yield ports[0]
    loop.call_soon_threadsafe(over.set)
    thread.join(20)


@pytest.fixture
def port(bench: Bench, sim: ProviderSimulator) -> Iterator[int]:
    with served(application(sim.base_url)) as port:
        yield port


def outcomes(bench: Bench) -> dict[Any, int]:
    wait_for(lambda: bench.points(s.HOP_DURATION.name, s.HOP_OUTCOME))
    return {labels[0]: count for labels, count in bench.points(s.HOP_DURATION.name, s.HOP_OUTCOME).items()}


def left_entered() -> list[_turn.Turn]:
    return [turn for turn in _turn._known.all() if turn.entered or turn.inner]


@pytest.mark.parametrize("handler_cancellation", [False, True])
def test_leaving_closes_upstream(bench: Bench, sim: ProviderSimulator, handler_cancellation: bool) -> None:
    """A client that leaves is a `client_disconnect`, whether the server cancels its handler or lets a write fail."""
    sim.play(LONG, schedule=SLOWLY)
    with served(application(sim.base_url), handler_cancellation=handler_cancellation) as port:
        leave(port, "/streams?id=left", 60)
        (stream,) = bench.wait_for_ended(1)
        exchange = wait_for(lambda: sim.log[0].closed_at and sim.log[0])
        assert outcomes(bench) == {"client_disconnect": 1}

    cancel = stream.cancel
    assert cancel is not None
    assert (stream.outcome, cancel.trigger, cancel.propagation) == ("cancelled", "client_disconnect", "closed")
    assert exchange.closed_by == "peer"
    assert bench.points(s.CANCELLATIONS.name, s.CANCEL_TRIGGER) == {("client_disconnect",): 1}
    assert not left_entered()


def test_leaving_is_seen_while_the_provider_is_silent(bench: Bench, sim: ProviderSimulator, port: int) -> None:
    """No write has to fail: the server says when the connection is lost."""
    sim.play(LONG, fault=sim.stall_after(3, chunks=5), schedule=Schedule(gap=0.0))
    leave(port, "/streams?id=silent", 80)  # all five, in their framing
    wait_for(lambda: [view.trigger for view in otelstream.open_streams()] == ["client_disconnect"])
    (stream,) = bench.wait_for_ended(1)
    assert stream.cancel is not None
    assert stream.cancel.trigger == "client_disconnect"
    assert stream.cancel.visible_chars == 60


def test_leaving_before_the_response(bench: Bench, sim: ProviderSimulator, port: int) -> None:
    """A client that leaves while the handler still collects the answer is seen; the answer is drained."""
    sim.play(LONG, schedule=Schedule(gap=0.002))

    async def leave_early() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /collects HTTP/1.1\r\nhost: x\r\n\r\n")
        await asyncio.to_thread(wait_for, lambda: sim.log and len(sim.log[0].chunks) > 3)
        writer.close()

    asyncio.run(leave_early())
    (stream,) = bench.wait_for_ended(1)
    assert stream.cancel is not None
    assert (stream.cancel.trigger, stream.cancel.propagation) == ("client_disconnect", "drained")
    wait_for(lambda: outcomes(bench) == {"client_disconnect": 1})


def fetched(port: int, path: str) -> bytes:
    with urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
        return bytes(answer.read())


def test_reading_to_the_end_is_no_cancel(bench: Bench, sim: ProviderSimulator, port: int) -> None:
    """Clients that stay get the whole answer; what had no stream is no hop."""
    sim.play(SHORT, times=None)
    for path in ("/streams?id=whole", "/collects"):
        assert fetched(port, path) == prose(120).encode()
    assert fetched(port, "/plain") == b"ok"
    wait_for(lambda: outcomes(bench) == {"completed": 2})
    assert {(stream.outcome, stream.cancel) for stream in bench.ended} == {("completed", None)}
    assert not left_entered()


def test_first_byte(bench: Bench, sim: ProviderSimulator, port: int) -> None:
    """The first byte is what the handler writes first, not the end of its answer."""
    sim.play(SHORT, schedule=Schedule(gap=0.05))
    fetched(port, "/streams?id=timed")
    outcomes(bench)
    data: Any = bench._reader.get_metrics_data()
    sums = {
        each.name: sum(point.sum for point in each.data.data_points)
        for scope in data.resource_metrics[0].scope_metrics
        for each in scope.metrics
        if each.name in (s.HOP_FIRST_BYTE.name, s.HOP_DURATION.name)
    }
    assert sums[s.HOP_FIRST_BYTE.name] + 0.2 < sums[s.HOP_DURATION.name]


@pytest.mark.parametrize(
    ("path", "status", "want"),
    [
        ("/refuses", b"429", "completed"),
        ("/breaks", b"200", "failed_after_200"),
        ("/fails", b"500", "failed"),
    ],
)
def test_a_handler_that_raises(
    bench: Bench, sim: ProviderSimulator, port: int, path: str, status: bytes, want: str
) -> None:
    """An HTTP exception is an answer; any other one breaks it. Both come through."""
    sim.play(LONG)
    answer = asyncio.run(get(port, path))
    assert answer.split()[1] == status
    wait_for(lambda: outcomes(bench) == {want: 1})
    assert not bench.points(s.CANCELLATIONS.name, s.CANCEL_TRIGGER)[("client_disconnect",)]
    assert not left_entered()


def test_a_websocket(bench: Bench, sim: ProviderSimulator, port: int) -> None:
    """Leaving in the midst of an answer is a `client_disconnect`; after a whole answer it is nothing."""
    sim.play(SHORT)
    sim.play(LONG, schedule=SLOWLY)
    with connect(f"ws://127.0.0.1:{port}/socket") as socket:
        socket.send("first")
        while socket.recv() != "<end>":
            pass
        assert not bench.points(s.CANCELLATIONS.name)
        socket.send("second")
        socket.recv()
        socket.socket.shutdown(2)  # gone without a word
    first, second = bench.wait_for_ended(2)
    assert (first.outcome, first.cancel) == ("completed", None)
    assert (second.outcome, second.stopped_by) == ("cancelled", "client_disconnect")
    wait_for(lambda: not left_entered())


def test_a_websocket_that_is_closed_between_answers(bench: Bench, sim: ProviderSimulator, port: int) -> None:
    """Nothing is under way, so nothing is stopped."""
    sim.play(SHORT)
    with connect(f"ws://127.0.0.1:{port}/socket") as socket:
        socket.send("only")
        while socket.recv() != "<end>":
            pass
    wait_for(lambda: not left_entered() and bench.ended)
    assert not bench.points(s.CANCELLATIONS.name)
    wait_for(lambda: outcomes(bench) == {"completed": 1})
