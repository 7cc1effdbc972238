# SPDX-License-Identifier: Apache-2.0
"""The recipes of the documentation, served by real servers: a leave and a Stop come to what their table says."""

from __future__ import annotations

import asyncio
import http.client
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hop.conftest import free_port, leave, served
from hop.test_aiohttp import served as served_by_aiohttp
from hop.test_wsgi import werkzeug_server, wsgiref_server
from tools.bench import wait_for
from websockets.sync.client import connect

import otelstream
from otelstream.testing import ProviderSimulator, Recorder, Schedule, Script, prose

from .pages import RECIPES, SERVED, load, table

# Long enough for a WSGI server to notice that nobody takes it.
LONG = Script().text(prose(60_000), chunk=1200)
SHORT = Script().text(prose(2_400), chunk=1200)
SLOWLY = Schedule(gap=0.01)
Server = Callable[[Any], Any]
# By the row of the table: page, which of its applications, who serves it, where it answers.
HTTP: dict[tuple[str, str], tuple[str, str, Server, str]] = {
    ("FastAPI", "uvicorn"): ("fastapi", "app", served, "/answer"),
    ("Starlette", "uvicorn"): ("starlette", "app", served, "/answer"),
    ("sse-starlette", "uvicorn"): ("sse-starlette", "app", served, "/answer"),
    ("Django, ASGI", "uvicorn"): ("django", "asgi", served, "/async-answer"),
    ("Django, WSGI", "wsgiref"): ("django", "wsgi", wsgiref_server, "/answer"),
    ("Flask", "werkzeug"): ("flask", "app", werkzeug_server, "/answer"),
    ("aiohttp", "aiohttp.web"): ("aiohttp", "app", served_by_aiohttp, "/answer"),
}
SOCKETS = {("Websockets, ASGI", "uvicorn"), ("Websockets, the package", "websockets")}
every_row = pytest.mark.parametrize("row", HTTP, ids=", ".join)


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """The pages switch otelstream on."""
    yield
    otelstream.uninstrument()


@pytest.fixture
def provider(otelstream_provider: ProviderSimulator) -> ProviderSimulator:
    return otelstream_provider


@pytest.fixture
def recorder(otelstream_recorder: Recorder) -> Recorder:
    return otelstream_recorder


@contextmanager
def recipe(row: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, str]]:
    page, name, server, path = HTTP[row]
    with server(
        getattr(django(tmp_path, monkeypatch) if page == "django" else load(page, tmp_path, monkeypatch), name)
    ) as port:
        yield port, path


_django: list[Any] = []


def django(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Django takes its settings once a process."""
    if not _django:
        with pytest.MonkeyPatch.context() as patch:
            _django.append(load("django", tmp_path, patch))
    monkeypatch.setitem(sys.modules, "recipe_django", _django[0])
    otelstream.instrument()
    return _django[0]


def what_became(recorder: Recorder) -> str:
    recorder.wait_for(1)
    attributes = recorder.stream.attributes
    return f"{attributes['otelstream.cancel.trigger']}, {attributes['otelstream.cancel.propagation']}"


def read_to_the_end(port: int, path: str) -> bytes:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    client.request("GET", path)
    body = client.getresponse().read()
    client.close()
    return body


@every_row
def test_the_whole_answer(row: Any, provider: Any, recorder: Recorder, tmp_path: Path, monkeypatch: Any) -> None:
    """Whoever stays has all of it, in a turn of its own with the page's route."""
    provider.play(SHORT)
    with recipe(row, tmp_path, monkeypatch) as (port, path):
        body = read_to_the_end(port, f"{path}?chat=whole")
        recorder.wait_for(1)
    assert prose(2_400)[:1200].split()[3].encode() in body
    assert (recorder.stream.outcome, recorder.stream.trigger) == ("completed", None)
    assert (recorder.stream.turn_id, recorder.stream.route) == ("whole", "chat")


@every_row
def test_the_client_leaves(row: Any, provider: Any, recorder: Recorder, tmp_path: Path, monkeypatch: Any) -> None:
    """What the table says, and the provider's log has the connection closed from our side."""
    provider.play(LONG, schedule=SLOWLY)
    with recipe(row, tmp_path, monkeypatch) as (port, path):
        leave(port, f"{path}?chat=left", 2000)
        assert what_became(recorder) == table()[row][0]
        exchange = wait_for(lambda: provider.log[0].closed_at and provider.log[0])
    assert (exchange.closed_by, exchange.complete) == ("peer", False)


@every_row
def test_stop_is_pressed(row: Any, provider: Any, recorder: Recorder, tmp_path: Path, monkeypatch: Any) -> None:
    """What the table says; the browser's own request ends in order."""
    provider.play(LONG, schedule=SLOWLY)
    with recipe(row, tmp_path, monkeypatch) as (port, path):
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        client.request("GET", f"{path}?chat=stopped")
        answer = client.getresponse()
        answer.read(2000)
        stop = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        stop.request("POST", "/stop?chat=stopped")
        assert b"true" in stop.getresponse().read()
        answer.read()
        assert what_became(recorder) == table()[row][1]
        exchange = wait_for(lambda: provider.log[0].closed_at and provider.log[0])
        client.close()
        stop.close()
    assert (exchange.closed_by, exchange.complete) == ("peer", False)


@contextmanager
def websockets_server(module: Any) -> Iterator[str]:
    from websockets.asyncio.server import serve

    loop, over, port = asyncio.new_event_loop(), asyncio.Event(), free_port()
    ready = threading.Event()

    async def run() -> None:
        async with serve(module.serve_chat, "127.0.0.1", port):
            ready.set()
            await over.wait()

    def main() -> None:
        loop.run_until_complete(run())
        loop.close()

    thread = threading.Thread(target=main, daemon=True)
    thread.start()
    assert ready.wait(20)
    yield f"ws://127.0.0.1:{port}/"
    loop.call_soon_threadsafe(over.set)
    thread.join(20)


@contextmanager
def asgi_server(module: Any) -> Iterator[str]:
    with served(module.app) as port:
        yield f"ws://127.0.0.1:{port}/chat"


@pytest.mark.parametrize("row", sorted(SOCKETS), ids=", ".join)
def test_a_client_leaves_a_websocket(
    row: Any, provider: Any, recorder: Recorder, tmp_path: Path, monkeypatch: Any
) -> None:
    """A tab that is closed says nothing: the connection is gone."""
    provider.play(LONG, schedule=SLOWLY)
    server = asgi_server if row[1] == "uvicorn" else websockets_server
    with server(load("websockets", tmp_path, monkeypatch)) as url:
        with connect(url) as client:
            client.send("Why?")
            client.recv()
            client.socket.shutdown(socket.SHUT_RDWR)
        assert what_became(recorder) == table()[row][0]


def test_stop_over_a_websocket(provider: Any, recorder: Recorder, tmp_path: Path, monkeypatch: Any) -> None:
    """The message that stops is read while the answer is written."""
    provider.play(LONG, schedule=SLOWLY)
    with asgi_server(load("websockets", tmp_path, monkeypatch)) as url, connect(url) as client:
        client.send("Why?")
        client.recv()
        client.send("/stop")
        assert what_became(recorder) == table()["Websockets, ASGI", "uvicorn"][1]


def test_streamlit(provider: Any, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script runs as Streamlit runs it, and says that a cut answer is not whole."""
    testing = pytest.importorskip("streamlit.testing.v1")
    from .pages import code_of

    provider.play(SHORT)
    provider.play(LONG, fault=provider.end_after(chunks=3))
    app = testing.AppTest.from_string(code_of("streamlit"), default_timeout=30)
    app.session_state["question"] = "Why?"
    app.run()
    assert not app.exception
    assert not app.warning
    app.run()
    assert [warning.value for warning in app.warning] == ["This answer is not whole."]
    recorder.wait_for(2)
    assert [(stream.outcome, stream.route) for stream in recorder.streams] == [
        ("completed", "chat"),
        ("failed", "chat"),
    ]


@pytest.mark.filterwarnings("ignore")  # of the framework, at import
def test_gradio(provider: Any, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The function that Gradio calls: read to its end, and closed in its midst as its Stop does."""
    provider.play(SHORT)
    provider.play(LONG, schedule=SLOWLY)
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    module = load("gradio", tmp_path, monkeypatch)
    assert [*module.answer("Why?", [])][-1] == prose(2_400)
    asked = module.answer("Why?", [])
    next(asked)
    asked.close()
    recorder.wait_for(2)
    whole, left = recorder.streams
    assert (whole.outcome, left.outcome, left.trigger) == ("completed", "cancelled", "generator_close")


def test_every_row_is_run() -> None:
    """The table has no row that nobody runs, and each page is linked from it or below it."""
    assert set(table()) == set(HTTP) | SOCKETS
    text = (RECIPES / "index.md").read_text(encoding="utf-8")
    pages = {path.stem for path in RECIPES.glob("*.md")} - {"index"}
    assert {page for page in pages if f"({page}.md)" not in text} == set()
    assert set(SERVED) <= pages
