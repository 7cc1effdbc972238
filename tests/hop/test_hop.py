# SPDX-License-Identifier: Apache-2.0
"""The hop from the browser, through real servers: who left, what that reached upstream, and what was disturbed."""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
from typing import Any

import pytest
from tools.bench import Bench, spread, wait_for
from tools.control import lag_of_a_bare_close_in_a_loop
from websockets.sync.client import connect

import otelstream
from otelstream import _semconv as s
from otelstream._core.process.closing import end
from otelstream._core.record.ending import cancelled
from otelstream._core.record.stream import StreamObservation
from otelstream.anthropic._grammar import Grammar
from otelstream.asgi import StreamHopMiddleware
from otelstream.testing import Exchange, ProviderSimulator, Schedule, Script, prose

from .applications import ROUTES, application
from .conftest import SERVERS, get, leave, read, served

LONG = Script().text(prose(1200), chunk=12)
SLOWLY = Schedule(gap=0.01)
ASYNC_ROUTES = ("/async-generator", "/event-source")
SYNC_ROUTES = ("/sync-generator", "/def-endpoint")
# Seconds that a loaded machine may take between two threads; the figure itself is a median, see the last test.
LENIENT = 0.25


def the_one(bench: Bench, turn: str) -> StreamObservation:
    return wait_for(lambda: [stream for stream in bench.ended if stream.turn_id == turn])[0]


def exchange_of(sim: ProviderSimulator, stream: StreamObservation) -> Exchange:
    return next(exchange for exchange in sim.log if exchange.request_id == stream.request_id)


def outcomes(bench: Bench) -> dict[Any, int]:
    wait_for(lambda: bench.points(s.HOP_DURATION.name, s.HOP_OUTCOME))
    return {labels[0]: count for labels, count in bench.points(s.HOP_DURATION.name, s.HOP_OUTCOME).items()}


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("base_http", ["", "inside", pytest.param("outside", marks=pytest.mark.slow)])
def test_leaving_closes_upstream_where_the_framework_cancels(
    bench: Bench, sim: ProviderSimulator, server: str, base_http: str
) -> None:
    """A client that leaves an async endpoint is `client_disconnect`, closed at the very instant the provider saw."""
    sim.play(LONG, schedule=SLOWLY, times=None)
    with served(application(sim.base_url, base_http=base_http), server) as port:
        for route in ASYNC_ROUTES:
            leave(port, f"{route}?id={route}", 60)
            stream = the_one(bench, route)
            exchange = exchange_of(sim, stream)
            wait_for(lambda exchange=exchange: exchange.closed_at)

            cancel = stream.cancel
            assert cancel is not None
            assert (stream.outcome, cancel.trigger, cancel.where) == ("cancelled", "client_disconnect", "text")
            assert cancel.propagation == "closed"
            assert exchange.closed_by == "peer"
            assert cancel.at + (cancel.close_delay or 0.0) == pytest.approx(exchange.closed_at, abs=LENIENT)
            assert 12 <= cancel.visible_chars < 1200
    assert outcomes(bench) == {"client_disconnect": len(ASYNC_ROUTES)}
    assert set(bench.points(s.CANCELLATIONS.name, s.CANCEL_TRIGGER, s.CANCEL_PROPAGATION, s.CANCEL_AT)) == {
        ("client_disconnect", "closed", "text")
    }


@pytest.mark.parametrize("route", SYNC_ROUTES)
def test_a_sync_generator_is_left_hanging_and_the_record_says_so(
    bench: Bench, sim: ProviderSimulator, route: str
) -> None:
    """The framework drops a sync generator without closing it: asked at once, ended by nobody but the collector."""
    sim.play(LONG, schedule=SLOWLY)
    with served(application(sim.base_url)) as port:
        leave(port, f"{route}?id=left", 60)
        wait_for(lambda: any(view.trigger == "client_disconnect" for view in otelstream.open_streams()) or bench.ended)
        assert outcomes(bench) == {"client_disconnect": 1}
        wait_for(lambda: bool(gc.collect()) or bench.ended)
    stream = the_one(bench, "left")
    assert stream.cancel is not None
    assert stream.cancel.trigger == "client_disconnect"
    assert stream.outcome in ("cancelled", "abandoned")


@pytest.mark.parametrize("server", SERVERS)
def test_reading_on_is_drained(bench: Bench, sim: ProviderSimulator, server: str) -> None:
    """An endpoint that burns on after its client left is `drained`; what still arrived is counted."""
    sim.play(LONG, schedule=SLOWLY)
    with served(application(sim.base_url), server) as port:
        leave(port, "/burns-on?id=burns", 60)
        stream = the_one(bench, "burns")
        exchange = exchange_of(sim, stream)

    cancel = stream.cancel
    assert cancel is not None
    assert (stream.outcome, cancel.trigger, cancel.propagation) == ("completed", "client_disconnect", "drained")
    after = [write for write in exchange.chunks if write.at > cancel.at]
    assert abs(len(after) - (cancel.delivered_chunks or 0)) <= 2
    assert cancel.delivered_chars == stream.visible_chars - cancel.visible_chars
    assert cancel.at + (cancel.close_delay or 0.0) == pytest.approx(exchange.events[-1].at, abs=LENIENT)


def test_leaving_before_the_response_has_begun(bench: Bench, sim: ProviderSimulator) -> None:
    """A client that leaves while the endpoint still collects the answer is seen though nobody looks for it."""
    sim.play(LONG, schedule=SLOWLY)

    async def leave_early(port: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /waits?id=early HTTP/1.1\r\nhost: x\r\n\r\n")
        await asyncio.to_thread(wait_for, lambda: sim.log and len(sim.log[0].chunks) > 3)
        writer.close()

    with served(application(sim.base_url)) as port:
        asyncio.run(leave_early(port))
        stream = the_one(bench, "early")
    assert stream.cancel is not None
    assert (stream.cancel.trigger, stream.cancel.propagation) == ("client_disconnect", "drained")
    assert outcomes(bench) == {"client_disconnect": 1}


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("base_http", ["", pytest.param("inside", marks=pytest.mark.slow)])
def test_reading_to_the_end_is_no_cancel(bench: Bench, sim: ProviderSimulator, server: str, base_http: str) -> None:
    """Clients that stay get the whole answer, and nothing of a cancel is recorded."""
    sim.play(Script().text(prose(240), chunk=12), times=None)
    with served(application(sim.base_url, base_http=base_http), server) as port:
        for route in (*ROUTES, "/burns-on", "/waits"):
            body = read(port, f"{route}?id={route}")
            assert prose(240)[:12].strip().encode() in body
            stream = the_one(bench, route)
            assert (stream.outcome, stream.cancel) == ("completed", None)
        read(port, "/echo", method="POST", body=b'{"id": "posted"}')
        assert the_one(bench, "posted").outcome == "completed"
        wait_for(lambda: outcomes(bench) == {"completed": len(ROUTES) + 3})
    assert not bench.points(s.CANCELLATIONS.name)


def test_the_application_breaks_its_own_answer(bench: Bench, sim: ProviderSimulator) -> None:
    """An exception after the status line is `failed_after_200`, and no disconnect."""
    sim.play(LONG)
    with served(application(sim.base_url)) as port:
        read(port, "/breaks?id=broken")
        the_one(bench, "broken")
        assert outcomes(bench) == {"failed_after_200": 1}


def test_first_byte_and_duration_are_those_of_the_client(bench: Bench, sim: ProviderSimulator) -> None:
    """First byte and duration are what the client got, to the precision of a bucket."""
    sim.play(Script().text(prose(120), chunk=12), schedule=Schedule(first=0.35, gap=0.02))
    with served(application(sim.base_url)) as port:
        read(port, "/async-generator?id=timed")
        outcomes(bench)
    first_byte, duration = _sum(bench, s.HOP_FIRST_BYTE.name), _sum(bench, s.HOP_DURATION.name)
    assert 0.35 <= first_byte < 0.35 + LENIENT * 2
    assert first_byte + 0.15 < duration < 0.35 + 0.35 + LENIENT * 4


def _sum(bench: Bench, metric: str) -> float:
    data: Any = bench._reader.get_metrics_data()
    return sum(
        point.sum
        for scope in data.resource_metrics[0].scope_metrics
        for each in scope.metrics
        if each.name == metric
        for point in each.data.data_points
    )


def test_what_is_no_streamed_answer_is_left_alone(bench: Bench, sim: ProviderSimulator) -> None:
    """Requests without a stream record nothing; websockets pass untouched."""
    with served(application(sim.base_url)) as port:
        assert b'{"status":"ok"}' in read(port, "/plain")
        with connect(f"ws://127.0.0.1:{port}/socket") as socket:
            for word in ("one", "two"):
                socket.send(word)
                assert socket.recv() == word.upper()
            socket.send("end")
            with pytest.raises(Exception, match="1000"):
                socket.recv()
    assert not bench.points(s.HOP_DURATION.name)


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    return [b""]


@pytest.mark.parametrize("app", [None, "application", 7, wsgi, lambda: None])
def test_only_asgi_applications_are_wrapped(app: Any) -> None:
    """A wrong application is refused where the middleware is made, with a word on what would work."""
    with pytest.raises(otelstream.ConfigurationError, match="wraps an ASGI application"):
        StreamHopMiddleware(app)


@pytest.mark.parametrize("seed", range(40))
def test_no_message_is_taken_from_the_application(bench: Bench, seed: int) -> None:
    """Whenever the application reads, pauses or cancels its reading, it gets every message, once and in order."""
    chance = random.Random(seed)
    parts = [{"type": "http.request", "body": bytes([i]), "more_body": i < 3} for i in range(4)]
    runtime = otelstream.OtelStreamInstrumentor().runtime
    assert runtime is not None
    seen: list[Any] = []

    async def run() -> None:
        queue: asyncio.Queue[Any] = asyncio.Queue()

        async def feed() -> None:
            for message in [*parts, {"type": "http.disconnect"}]:
                await asyncio.sleep(chance.random() / 200)
                queue.put_nowait(message)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            stream = None
            while not seen or seen[-1]["type"] != "http.disconnect":
                if stream is None and chance.random() < 0.4:
                    stream = runtime.begin(operation="chat", provider="anthropic", model="m", grammar=Grammar())
                if chance.random() < 0.3:
                    await send({"type": "http.response.start", "status": 200, "headers": []})
                reading = asyncio.ensure_future(receive())
                done, _ = await asyncio.wait([reading], timeout=chance.choice([0, 0.002, 1]))
                if done:
                    seen.append(reading.result())
                else:
                    reading.cancel()
                    await asyncio.wait([reading])
                    if not reading.cancelled():
                        seen.append(reading.result())
                await asyncio.sleep(chance.random() / 300)
            assert stream is None or stream.stop_asked is None or stream.stop_asked.trigger == "client_disconnect"
            if stream is not None:
                end(stream, cancelled("app_close"))

        async def send(message: Any) -> None:
            await asyncio.sleep(0)

        feeding = asyncio.create_task(feed())
        scope = {"type": "http", "method": "POST", "headers": [(b"content-length", b"4")]}
        await asyncio.wait_for(StreamHopMiddleware(app)(scope, queue.get, send), 10)
        await feeding

    asyncio.run(run())
    assert seen == [*parts, {"type": "http.disconnect"}]


@pytest.mark.parametrize("server", ["uvicorn", pytest.param("hypercorn", marks=pytest.mark.slow)])
def test_half_of_a_hundred_leave(bench: Bench, sim: ProviderSimulator, server: str) -> None:
    """Of 100 concurrent requests those 50 that left, and only those, are `client_disconnect`, as the provider saw."""
    sim.play(LONG, schedule=Schedule(gap=0.08), times=None)

    control: list[float] = []

    async def crowd(port: int) -> None:
        bare = [lag_of_a_bare_close_in_a_loop(sim, f"bare-{i}", 0.1 + i / 20) for i in range(20)]
        visits = [get(port, f"/async-generator?id={i}", leave_after=10 + i // 2 if i % 2 else None) for i in range(100)]
        control.extend((await asyncio.gather(asyncio.gather(*bare), *visits))[0])

    with served(application(sim.base_url), server) as port:
        asyncio.run(crowd(port))
        streams = {stream.turn_id: stream for stream in bench.wait_for_ended(100)}
        wait_for(lambda: all(exchange.closed_at for exchange in sim.log))
    assert len(streams) == 100
    errors = []
    for i in range(100):
        stream = streams[str(i)]
        exchange = exchange_of(sim, stream)
        if i % 2:
            cancel = stream.cancel
            assert cancel is not None
            assert cancel.trigger == "client_disconnect"
            if exchange.closed_by == "server":  # on a machine so busy that all was written before anybody had left
                assert (exchange.closed_at or 0.0) <= cancel.at + (cancel.close_delay or 0.0) + LENIENT
                continue
            assert exchange.closed_by == "peer"
            # A crowd on a busy machine may take its time; the provider's log says how long it took.
            assert cancel.propagation == ("closed_late" if (cancel.close_delay or 0.0) > 1.0 else "closed")
            errors.append(abs(cancel.at + (cancel.close_delay or 0.0) - (exchange.closed_at or 0.0)))
        else:
            assert (stream.outcome, stream.cancel, exchange.closed_by) == ("completed", None, "server")
    assert outcomes(bench) == {"client_disconnect": 50, "completed": 50}
    print(f"\n{server}: our stamp of a close and the provider's apart, {spread(errors)}")
    print(f"a bare socket's close in the same crowd and the provider's stamp, {spread(control)}")
    # We stamp the call that closes; a loop with fifty of them takes its rounds to come to each socket.
    assert errors, "all was written before anybody had left"
    assert statistics.median(errors) - statistics.median(control) < LENIENT
