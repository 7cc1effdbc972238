# SPDX-License-Identifier: Apache-2.0
"""The hop of a WSGI application, through real servers: who left, what that reached upstream, what was disturbed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import Any
from urllib.request import urlopen
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.validate import validator

import anthropic
import pytest
from tools.bench import ASK, Bench, wait_for
from tools.direct import completes, opened

import otelstream
from otelstream import _semconv as s
from otelstream._core.turns import turn as _turn
from otelstream.testing import ProviderSimulator, Schedule, Script, prose
from otelstream.wsgi import StreamHopMiddleware

from .conftest import leave, read

LONG = Script().text(prose(60_000), chunk=1200)
SLOWLY = Schedule(gap=0.01)


class Quiet(WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        return

    def handle(self) -> None:
        # A peer that is gone when the server flushes its own buffers is no affair of the application's.
        try:
            super().handle()
        except ConnectionError:
            return


class Threaded(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        return


@contextmanager
def wsgiref_server(app: Any) -> Iterator[int]:
    with make_server("127.0.0.1", 0, app, server_class=Threaded, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join(10)


@contextmanager
def werkzeug_server(app: Any) -> Iterator[int]:
    serving = pytest.importorskip("werkzeug.serving")

    class Handler(serving.WSGIRequestHandler):  # type: ignore[misc, name-defined]
        def log(self, *args: Any) -> None:
            return

    server = serving.make_server("127.0.0.1", 0, app, threaded=True, request_handler=Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join(10)
    server.server_close()


@contextmanager
def waitress_server(app: Any) -> Iterator[int]:
    waitress = pytest.importorskip("waitress.server")
    sockets: dict[int, Any] = {}
    server = waitress.create_server(app, host="127.0.0.1", port=0, map=sockets)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield int(server.effective_port)
    server.close()
    server.task_dispatcher.shutdown()
    for each in list(sockets.values()):
        each.close()
    thread.join(10)


SERVERS = [wsgiref_server, werkzeug_server]


@pytest.fixture
def client(sim: ProviderSimulator) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=sim.base_url, api_key="unused", max_retries=0) as client:
        yield client


def application(client: anthropic.Anthropic) -> Callable[..., Any]:
    """Ways to stream an answer, or none, by path."""

    def chunks(id: str) -> Iterator[bytes]:  # noqa: A002
        with otelstream.turn(id), client.messages.stream(**ASK) as stream:
            for text in stream.text_stream:
                yield text.encode()

    def unnamed() -> Iterator[bytes]:
        with client.messages.stream(**ASK) as stream:
            for text in stream.text_stream:
                yield text.encode()

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        path = environ["PATH_INFO"]
        if path == "/error":
            start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
            return [b"".join(unnamed())[:5]]
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        if path == "/plain":
            return [b"ok"]
        if path == "/collected":
            return [b"".join(unnamed())]
        if path == "/written":
            for piece in unnamed():
                write(piece)
            return []
        if path == "/breaks":
            return broken()
        return chunks(path) if path.startswith("/named") else unnamed()

    def broken() -> Iterator[bytes]:
        for piece in unnamed():
            yield piece
            raise RuntimeError("the application's own")

    return app


def fetched(port: int, path: str) -> bytes:
    with urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
        return bytes(answer.read())


def outcomes(bench: Bench) -> dict[Any, int]:
    wait_for(lambda: bench.points(s.HOP_DURATION.name, s.HOP_OUTCOME))
    return {labels[0]: count for labels, count in bench.points(s.HOP_DURATION.name, s.HOP_OUTCOME).items()}


def left_entered() -> list[_turn.Turn]:
    return [turn for turn in _turn._known.all() if turn.entered or turn.inner]


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.__name__)
@pytest.mark.parametrize("path", ["/named", "/unnamed", "/written"])
def test_leaving_closes_upstream(
    bench: Bench, sim: ProviderSimulator, client: anthropic.Anthropic, server: Any, path: str
) -> None:
    """A client that leaves is a `client_disconnect` with the write that fails, which closes the stream as well."""
    sim.play(LONG, schedule=SLOWLY)
    with server(StreamHopMiddleware(application(client))) as port:
        leave(port, path, 2000)
        (stream,) = bench.wait_for_ended(1)
        exchange = wait_for(lambda: sim.log[0].closed_at and sim.log[0])
        assert outcomes(bench) == {"client_disconnect": 1}

    cancel = stream.cancel
    assert cancel is not None
    assert (cancel.trigger, cancel.propagation, cancel.where) == ("client_disconnect", "closed", "text")
    assert stream.outcome == "cancelled"
    assert exchange.closed_by == "peer"
    assert bench.points(s.CANCELLATIONS.name, s.CANCEL_TRIGGER) == {("client_disconnect",): 1}
    assert not left_entered()


@pytest.mark.parametrize("server", [*SERVERS, waitress_server], ids=lambda server: server.__name__)
def test_reading_to_the_end_is_no_cancel(
    bench: Bench, sim: ProviderSimulator, client: anthropic.Anthropic, server: Any
) -> None:
    """Clients that stay get the whole answer, however it is made; only those with a stream are hops."""
    sim.play(Script().text(prose(240), chunk=12), times=None)
    paths = ("/named", "/unnamed", "/written", "/collected")
    with server(StreamHopMiddleware(application(client))) as port:
        for path in paths:
            assert fetched(port, path) == prose(240).encode()
        assert fetched(port, "/plain") == b"ok"
        wait_for(lambda: outcomes(bench) == {"completed": len(paths)})
    assert {(stream.outcome, stream.cancel) for stream in bench.ended} == {("completed", None)}
    assert not bench.points(s.CANCELLATIONS.name)
    assert not left_entered()


def test_an_answer_that_breaks(bench: Bench, sim: ProviderSimulator, client: anthropic.Anthropic) -> None:
    """An exception of the application's is `failed_after_200` behind a status that promised more, else `failed`."""
    sim.play(Script().text(prose(240), chunk=12), times=None)
    with wsgiref_server(StreamHopMiddleware(application(client))) as port:
        read(port, "/breaks")
        read(port, "/error")
        wait_for(lambda: outcomes(bench) == {"failed_after_200": 1, "failed": 1})
    assert not bench.points(s.CANCELLATIONS.name, s.CANCEL_TRIGGER)[("client_disconnect",)]


# --- what servers see, without one ----------------------------------------------------------------------------


def starts(status: str, headers: Any, exc_info: Any = None) -> Any:
    return lambda data: None


def environ(**more: Any) -> dict[str, Any]:
    return {"REQUEST_METHOD": "GET", "PATH_INFO": "/", **more}


def hop_of(bench: Bench, steps: Callable[[Any], None], **more: Any) -> str:
    """How a hop ended whose server did `steps` with the answer of an application that streams three pieces."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        stream = opened()
        try:
            yield from (b"Calm", b" ", b"seas.")
        finally:
            completes(stream)

    answer = StreamHopMiddleware(app)(environ(**more), starts)
    steps(answer)
    ((outcome,),) = bench.points(s.HOP_DURATION.name, s.HOP_OUTCOME)
    return str(outcome)


def closes_with(error: BaseException | None) -> Callable[[Any], None]:
    """A server whose write of the second piece raises `error`, or that says nothing of it."""

    def steps(answer: Any) -> None:
        next(answer)
        try:
            if error is not None:
                raise error
        except BaseException:
            answer.close()
            return
        answer.close()

    return steps


@pytest.mark.parametrize(
    ("error", "want"),
    [
        (None, "client_disconnect"),  # a server in C has nothing in flight
        (BrokenPipeError(), "client_disconnect"),
        (OSError("write error"), "client_disconnect"),
        (SystemExit(), "failed_after_200"),
        (KeyboardInterrupt(), "failed_after_200"),
        (ValueError("the server's own"), "failed_after_200"),
    ],
    ids=repr,
)
def test_an_answer_closed_early(bench: Bench, error: BaseException | None, want: str) -> None:
    """A server closes early because its client left, unless what is in flight says that it ends or is broken."""
    assert hop_of(bench, closes_with(error)) == want
    assert bool(bench.points(s.CANCELLATIONS.name)) == (want == "client_disconnect")


def test_an_answer_closed_after_its_end(bench: Bench) -> None:
    """Whoever closes after the last piece left nothing out."""

    def steps(answer: Any) -> None:
        assert b"".join(answer) == b"Calm seas."
        answer.close()
        answer.close()

    assert hop_of(bench, steps) == "completed"
    assert not left_entered()


def test_a_head_request_is_closed_unread(bench: Bench) -> None:
    """A server that wants no body left nobody."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        completes(opened())
        return iter((b"Calm", b" seas."))

    StreamHopMiddleware(app)(environ(REQUEST_METHOD="HEAD"), starts).close()
    assert bench.points(s.HOP_DURATION.name, s.HOP_OUTCOME) == {("completed",): 1}
    assert not bench.points(s.CANCELLATIONS.name)


def test_what_servers_look_at_is_handed_on(bench: Bench) -> None:
    """A list keeps its length, from which servers take one; their own file wrapper stays that."""

    class Wrapper:
        def __iter__(self) -> Iterator[bytes]:
            return iter((b"file",))

    for answer in ([b"one"], (b"one", b"two"), Wrapper()):
        app = StreamHopMiddleware(lambda environ, start_response, answer=answer: answer)
        assert app(environ(**{"wsgi.file_wrapper": Wrapper}), starts) is answer
    assert not left_entered()


def test_the_protocol_is_kept() -> None:
    """The standard library's validator finds nothing on either side of the middleware."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"Calm"
        yield b" seas."

    with wsgiref_server(validator(StreamHopMiddleware(validator(app)))) as port:
        assert read(port, "/").endswith(b"Calm seas.")


def test_the_turn_holds_through_the_body(bench: Bench) -> None:
    """What is begun while the server iterates is of the request's turn, and after it of none."""
    turns = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        for _ in range(2):
            stream = opened()
            turns.append(stream.turn)
            completes(stream)
            yield b"."

    answer = StreamHopMiddleware(app)(environ(), starts)
    assert list(answer) == [b".", b"."]
    answer.close()
    later = opened()
    completes(later)
    assert turns[0] is turns[1] is not later.turn
    assert not turns[0].implicit
    assert not left_entered()


@pytest.mark.parametrize("raises", [ValueError("the application's own"), SystemExit(1)], ids=repr)
def test_an_application_that_raises(bench: Bench, raises: BaseException) -> None:
    """Its exception comes through, and nobody is left in the turn."""

    def app(environ: Any, start_response: Any) -> Any:
        completes(opened())
        raise raises

    with pytest.raises(type(raises)):
        StreamHopMiddleware(app)(environ(), starts)
    assert bench.points(s.HOP_DURATION.name, s.HOP_OUTCOME) == {("failed",): 1}
    assert not left_entered()


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    return


class Asgi:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        return


@pytest.mark.parametrize("app", [None, 7, lambda: None, asgi, Asgi()])
def test_only_wsgi_applications_are_wrapped(app: Any) -> None:
    """A wrong application is refused where the middleware is made, with a word on what would work."""
    with pytest.raises(otelstream.ConfigurationError, match="wraps a WSGI application"):
        StreamHopMiddleware(app)


def test_a_silent_provider_hides_the_leave(bench: Bench, sim: ProviderSimulator, client: anthropic.Anthropic) -> None:
    """What plain WSGI cannot see is not claimed: without a write the leave is not known."""
    sim.play(LONG, fault=sim.stall_after(0.4, chunks=2), schedule=Schedule(gap=0.0))
    with wsgiref_server(StreamHopMiddleware(application(client))) as port:
        leave(port, "/unnamed", 2000)  # of 2400
        wait_for(lambda: sim.log and len(sim.log[0].chunks) == 2)
        assert [view.trigger for view in otelstream.open_streams()] == [None]
        bench.wait_for_ended(1)
    assert bench.ended[0].stopped_by == "client_disconnect"
