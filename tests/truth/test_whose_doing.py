# SPDX-License-Identifier: Apache-2.0
"""Whose doing the end of a stream is: the provider's, the transport's, the application's or its framework's."""

from __future__ import annotations

import threading
import types
from collections.abc import Callable
from typing import Any

import pytest
import shapes

from otelstream import _semconv as s
from otelstream._core.record.ending import by_departure
from otelstream.testing import Script
from truth.conftest import ASK, Scene, frames

TEXT = frames(Script().text("Calm seas, then wind from the west.", chunk=4))
TOOL = frames(Script().text("I look.").tool_use("get_weather", {"city": "Harbour Town"}))


def kind(name: str, base: type[BaseException] = BaseException) -> type[BaseException]:
    """A class of that name, as a library that is not here has it."""
    return type(name, (base,), {})


def raised_in(module: str, error: BaseException) -> BaseException:
    """`error`, raised by code of a module of that name."""
    home = types.ModuleType(module)
    exec("def write(error):\n    raise error", vars(home))
    try:
        home.write(error)
    except BaseException as caught:
        return caught
    raise AssertionError("it raises")


def group(*errors: BaseException) -> BaseException:
    """A group of exceptions, as Python 3.11 has them and a package before."""
    made: BaseException = type("BaseExceptionGroup", (BaseException,), {})()
    made.exceptions = errors  # type: ignore[attr-defined]
    return made


APP = ("caller_error", None)
DEPARTURES: dict[str, tuple[Callable[[], BaseException], tuple[str, str | None]]] = {
    "a script runner stops its script": (kind("StopException"), ("cancelled", "app_close")),
    "a script runner runs it again": (kind("RerunException"), ("cancelled", "app_close")),
    "a greenlet is killed": (kind("GreenletExit"), ("cancelled", "task_cancel")),
    "gevent's time limit": (kind("Timeout"), ("cancelled", "timeout")),
    "a worker's time limit": (kind("SoftTimeLimitExceeded", Exception), ("cancelled", "timeout")),
    "another worker's": (kind("JobTimeoutException", Exception), ("cancelled", "timeout")),
    "a native panic": (kind("PanicException"), APP),
    "the application's error": (lambda: ValueError("x"), APP),
    "Ctrl-C": (KeyboardInterrupt, ("cancelled", "shutdown")),
    "a group of cancels": (lambda: group(kind("Cancelled")(), KeyboardInterrupt()), ("cancelled", "task_cancel")),
    "a group with an error": (lambda: group(kind("Cancelled")(), group(ValueError("x"))), APP),
    "a reset in a server's write": (
        lambda: raised_in("aiohttp.web_response", ConnectionResetError()), ("cancelled", "client_disconnect"),
    ),
    "a broken pipe in a server's write": (
        lambda: raised_in("wsgiref.handlers", BrokenPipeError()), ("cancelled", "client_disconnect"),
    ),
    "a websocket that left": (
        lambda: raised_in("starlette.websockets", kind("WebSocketDisconnect", Exception)()),
        ("cancelled", "client_disconnect"),
    ),
    "a server's own word": (
        lambda: raised_in("uvicorn.protocols.http.h11_impl", kind("ClientDisconnected", OSError)()),
        ("cancelled", "client_disconnect"),
    ),
    "a client websocket that broke": (lambda: raised_in("aiohttp.client_ws", ConnectionResetError()), APP),
    "a subprocess's pipe": (lambda: raised_in("subprocess", BrokenPipeError()), APP),
    "a downstream reset": (lambda: raised_in("application", ConnectionResetError()), APP),
}  # fmt: skip


@pytest.mark.parametrize("name", DEPARTURES)
def test_departures(name: str) -> None:
    """What control flow leaves a stream by says whose doing it is; the fault `timeout` goes with a time limit."""
    make, (outcome, trigger) = DEPARTURES[name]

    ending = by_departure(make())

    assert (ending.outcome, ending.trigger) == (outcome, trigger)
    assert ending.fault == ("timeout" if trigger == "timeout" else "none")


def test_never_by_the_cause() -> None:
    """An error of the application stays one, whatever it came of."""
    error = ValueError("x")
    error.__cause__ = raised_in("aiohttp.web_response", ConnectionResetError())

    assert by_departure(error).outcome == "caller_error"


@pytest.mark.parametrize("name", [name for name in DEPARTURES if "group" not in name])
def test_departures_from_a_with(scene: Scene, name: str) -> None:
    """The same holds for a stream that is left in its own `with`."""
    make, wanted = DEPARTURES[name]
    scene.plays(TEXT)

    with pytest.raises(BaseException), scene.create() as stream:  # noqa: B017, PT011, PT012
        next(iter(stream))
        raise make()

    outcome, _, trigger = scene.verdict()
    assert (outcome, trigger) == wanted


def test_a_transport_that_resets(scene: Scene) -> None:
    """What comes up out of the body is the transport's, also of one that raises plain classes."""
    scene.plays(shapes.Reply(TEXT[:5], ConnectionResetError))

    with pytest.raises(ConnectionResetError):
        list(scene.create())

    assert scene.verdict() == ("failed", "connection_lost", None)


@pytest.mark.parametrize(
    ("error", "wanted"),
    [(KeyboardInterrupt, ("cancelled", "none", "shutdown")), (shapes.AppError, ("caller_error", "none", None))],
)
def test_an_interrupt_in_the_helper(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], wanted: Any
) -> None:
    """Ctrl-C, or a time limit's own exception, that lands while the helper takes in an event, is no malformed event."""
    from anthropic.lib.streaming import _messages

    real = _messages.accumulate_event
    calls = iter(range(1000))

    def accumulate(**kwargs: Any) -> Any:
        if next(calls) == 4:
            raise error
        return real(**kwargs)

    monkeypatch.setattr(_messages, "accumulate_event", accumulate)
    scene.plays(TEXT)

    with pytest.raises(error), scene.client.messages.stream(**ASK) as stream:
        stream.until_done()

    assert scene.verdict() == wanted


AFTER = {
    "reset": shapes.Reply(TEXT, ConnectionResetError),
    "error event": shapes.Reply(
        [*TEXT, b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error"}}\n\n']
    ),
    "read error": shapes.Reply(TEXT, lambda: shapes.httpx.ReadError("gone")),
    "read time-out": shapes.Reply(TEXT, lambda: shapes.httpx.ReadTimeout("slow")),
}


@pytest.mark.parametrize("how", AFTER)
def test_after_the_terminal_event(scene: Scene, how: str) -> None:
    """Nothing after it changes the outcome; the SDK's own status stands, and our attribute says that the wire broke."""
    scene.plays(AFTER[how])

    with pytest.raises(Exception):  # noqa: B017, PT011
        list(scene.create())

    assert scene.verdict() == ("completed", "none", None)
    spans = [span for span in scene.telemetry.spans() if s.OUTCOME in (span.attributes or {})]
    if scene.native and how != "error event":
        assert [span.status.status_code.name for span in spans] == ["ERROR"]
        assert [(span.attributes or {}).get(s.BROKEN_AFTER_END) for span in spans] == [True]
        assert all((span.attributes or {}).get("error.type") for span in spans)


@pytest.mark.parametrize("where", ["between reads", "another thread"])
def test_a_response_that_is_closed(scene: Scene, where: str) -> None:
    """A thread that ends a stream by its response stops it: no drop, no lost connection."""
    scene.plays(TEXT)
    stream = scene.create()
    items = iter(stream)
    next(items)

    if where == "between reads":
        stream.response.close()
    else:
        thread = threading.Thread(target=stream.response.close)
        thread.start()
        thread.join()
    del items, stream

    assert scene.verdict() == ("cancelled", "none", "app_close")


def test_a_request_inside_a_request(scene: Scene) -> None:
    """A request that a hook makes during the request of a stream never touches its record."""
    overloaded = shapes.Reply([b'{"type":"error","error":{"type":"overloaded_error"}}'], None, 529)
    scene.plays(overloaded, TEXT)
    prepare = scene.client._prepare_options

    def guard(options: Any) -> Any:
        if options.json_data.get("stream"):
            with pytest.raises(Exception):  # noqa: B017, PT011
                scene.client.messages.create(**ASK)
        return prepare(options)

    scene.client._prepare_options = guard
    list(scene.create())

    assert scene.verdict() == ("completed", "none", None)
    assert scene.recorder.stream.attributes[s.ATTEMPTS] == 1
