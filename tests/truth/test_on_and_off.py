# SPDX-License-Identifier: Apache-2.0
"""On, again with other settings, and off: what was begun is told to its end, and other people's wrappers stay."""

from __future__ import annotations

import asyncio
import copy
import functools
import gc
import inspect
import logging
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import anthropic
import pytest
import shapes
import wrapt
from matrix.telemetry import Telemetry
from opentelemetry import metrics

import otelstream
from otelstream import _semconv as s
from otelstream._core.emit import outbox
from otelstream._face import instrumentor as _instrumentor
from otelstream._face.view import StreamView
from otelstream.anthropic.provider import PROVIDER
from otelstream.testing import Script
from truth.conftest import ASK, frames

TEXT = frames(Script().text("Calm seas, then wind from the west.", chunk=4))
CHUNKS = 9


@pytest.fixture(params=[True, False], ids=["native span", "own span"])
def on(request: pytest.FixtureRequest, telemetry: Telemetry) -> Iterator[Any]:
    """Switch on, or on again with other settings; the clients come with it."""

    class On:
        transport, client, aclient = shapes.clients(native=request.param)

        def __call__(self, **settings: Any) -> None:
            settings.setdefault("meter_provider", telemetry.meter_provider)
            otelstream.instrument(tracer_provider=telemetry.tracer_provider, **settings)

        def create(self) -> Any:
            self.transport.tape = shapes.Tape([shapes.Reply(TEXT)])
            return self.client.messages.create(**ASK, stream=True)

    yield On()
    otelstream.uninstrument()


def told(telemetry: Telemetry) -> dict[str, Any]:
    """What the observables say: chunks in all gaps, streams that are open, and the hashes of the objectives."""
    points = telemetry.points()
    gaps: Mapping[Any, Any] = points.get(s.STREAM_GAP_BUCKET.name, {})
    return {
        "gaps": sum(count for labels, count in gaps.items() if dict(labels)[s.GAP_LE] == "+Inf"),
        "active": sum(points.get(s.STREAM_ACTIVE.name, {}).values()),
        "info": [dict(labels)[s.OBJECTIVES_HASH] for labels in points.get(s.INFO.name, ())],
    }


def hash_now() -> list[str]:
    runtime = otelstream.OtelStreamInstrumentor().runtime
    return [] if runtime is None else [runtime.settings.objectives.hash]


OBJECTIVES = "objectives: [{name: whole, kind: integrity, target: 0.999}]"


def test_the_observables_go_on(on: Any, telemetry: Telemetry, tmp_path: Path) -> None:
    """On, again with other objectives, off, on: gaps add up, open streams are counted whenever they began, and
    the hash is that of the settings which hold, none where none do."""
    path = tmp_path / "objectives.yaml"
    path.write_text(OBJECTIVES)

    on()
    list(on.create())
    first, hash_of_first = on.create(), hash_now()
    next(first)
    assert told(telemetry) == {"gaps": CHUNKS - 1, "active": 1, "info": hash_of_first}

    on(objectives=path)
    assert hash_now() != hash_of_first
    second = on.create()
    next(second)
    assert told(telemetry) == {"gaps": CHUNKS - 1, "active": 2, "info": hash_now()}
    list(second)
    assert told(telemetry) == {"gaps": 2 * (CHUNKS - 1), "active": 1, "info": hash_now()}

    latest = hash_now()
    otelstream.uninstrument()
    assert told(telemetry) == {"gaps": 2 * (CHUNKS - 1), "active": 1, "info": hash_of_first}
    assert latest != hash_of_first
    list(first)
    assert told(telemetry) == {"gaps": 3 * (CHUNKS - 1), "active": 0, "info": []}

    on()
    list(on.create())
    assert told(telemetry) == {"gaps": 4 * (CHUNKS - 1), "active": 0, "info": hash_now()}


@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_provider_that_comes_late(on: Any, telemetry: Telemetry, before: int) -> None:
    """Switched on once, twice or thrice before there is a meter provider, and once more after: one truth."""
    waiting = metrics._internal._ProxyMeterProvider()
    for number in range(before):
        on(meter_provider=waiting, stall_threshold=1 + number)
    stream = on.create() if before else None
    on(meter_provider=waiting, stall_threshold=20)
    waiting.on_set_meter_provider(telemetry.meter_provider)
    list(on.create())
    on(meter_provider=telemetry.meter_provider, stall_threshold=30)
    list(on.create())

    found = told(telemetry)
    assert found == {"gaps": 2 * (CHUNKS - 1), "active": int(before > 0), "info": hash_now()}
    if stream is not None:
        stream.close()


def test_gaps_are_counted_from_when_they_are_asked_for(on: Any, telemetry: Telemetry) -> None:
    """Buckets that the first settings do without are there under the second."""
    on(chunk_metric="off")
    list(on.create())
    assert told(telemetry)["gaps"] == 0
    on()
    list(on.create())
    assert told(telemetry)["gaps"] == CHUNKS - 1


def test_the_bounds_are_those_of_the_process(on: Any, telemetry: Telemetry) -> None:
    """Switched on again and again, a process still has its bounded number of label sets, and the known ones stay."""
    for number in range(s.MAX_MODELS + 10):
        on(stall_threshold=1 + number % 2)
        on.transport.tape = shapes.Tape([shapes.Reply(TEXT)])
        list(on.client.messages.create(**{**ASK, "model": f"model-{number}"}, stream=True))

    models = {dict(labels)[s.REQUEST_MODEL] for labels in telemetry.points()[s.STREAMS.name]}
    assert len(models) == s.MAX_MODELS + 1
    assert s.OTHER in models


def test_new_objectives_have_their_zeros(on: Any, telemetry: Telemetry, tmp_path: Path) -> None:
    """A model that is known has zeros for the objectives that came with later settings too."""
    path = tmp_path / "objectives.yaml"
    path.write_text(OBJECTIVES)
    on()
    list(on.create())
    on(objectives=path)
    stream = on.create()
    names = {dict(labels)[s.OBJECTIVE_NAME] for labels in telemetry.values(s.OBJECTIVE_STREAMS.name)}
    assert "whole" in names
    stream.close()


def test_new_thresholds_are_no_warning(
    on: Any, telemetry: Telemetry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The SDK keeps the bounds that a histogram began with; that later objectives have others is no trouble."""
    path = tmp_path / "objectives.yaml"
    path.write_text("objectives: [{name: soon, kind: first_token, target: 0.95, threshold: 7s}]")
    on()
    on(objectives=path)
    list(on.create())
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.INFO] == []
    assert sum(telemetry.points()[s.STREAM_TTFT.name].values()) == 1


# --- other people's wrappers ------------------------------------------------------------------------------


def by_wraps(function: Any, calls: list[str]) -> Any:
    @functools.wraps(function)
    def theirs(*args: Any, **kwargs: Any) -> Any:
        calls.append("theirs")
        return function(*args, **kwargs)

    return theirs


def by_closure(function: Any, calls: list[str]) -> Any:
    def theirs(*args: Any, **kwargs: Any) -> Any:
        calls.append("theirs")
        return function(*args, **kwargs)

    return theirs


def by_wrapt(function: Any, calls: list[str]) -> Any:
    def theirs(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        calls.append("theirs")
        return wrapped(*args, **kwargs)

    return wrapt.FunctionWrapper(function, theirs)


HOOKED = {
    "request": (anthropic._base_client.SyncAPIClient, "request"),
    "close": (anthropic.Stream, "close"),
    "events": (anthropic.Stream, "_iter_events"),
}


@pytest.mark.parametrize("hook", HOOKED)
@pytest.mark.parametrize("theirs", [by_wraps, by_closure, by_wrapt])
def test_a_wrapper_on_top_of_ours_stays(on: Any, telemetry: Telemetry, theirs: Any, hook: str) -> None:
    """What another tool put on top of ours is left where it is, whatever we do; each stream is told once while we are
    on, not at all while we are off; and once both are gone, so is every trace."""
    owner, name = HOOKED[hook]
    bare = owner.__dict__[name]
    calls: list[str] = []

    def streams() -> int:
        calls.clear()
        telemetry.clear()
        on.create().close() if hook == "close" else list(on.create())
        assert calls == ["theirs"] * (owner.__dict__[name] is not bare and mine is not None)
        return sum(telemetry.points().get(s.STREAMS.name, {}).values())

    mine: Any = None
    on()
    ours = owner.__dict__[name]
    assert streams() == 1
    mine = theirs(ours, calls)
    setattr(owner, name, mine)
    try:
        assert streams() == 1
        for _ in range(3):
            otelstream.uninstrument()
            assert owner.__dict__[name] is mine
            assert streams() == 0
            on()
            assert streams() == 1
            on(stall_threshold=4)
            assert streams() == 1
        otelstream.uninstrument()
        assert owner.__dict__[name] is mine
    finally:
        setattr(owner, name, ours)  # as they take theirs off
    mine = None
    otelstream.uninstrument()
    on()
    assert streams() == 1
    otelstream.uninstrument()
    assert owner.__dict__[name] is bare


def test_a_wrapper_below_ours_stays(on: Any, telemetry: Telemetry) -> None:
    """What was there before us is there after us, and is called the whole time."""
    owner, name = HOOKED["request"]
    bare = owner.__dict__[name]
    calls: list[str] = []
    mine = by_wraps(bare, calls)
    setattr(owner, name, mine)
    try:
        on()
        list(on.create())
        otelstream.uninstrument()
        assert owner.__dict__[name] is mine
        list(on.create())
        assert calls == ["theirs"] * 2
        assert sum(telemetry.points()[s.STREAMS.name].values()) == 1
    finally:
        setattr(owner, name, bare)


def test_nothing_stays_in_a_class_that_inherits(on: Any) -> None:
    """A function that a class only inherits is no attribute of that class afterwards either."""

    def attributes() -> dict[type, set[str]]:
        helpers = [*PROVIDER.helpers(), anthropic.Stream, anthropic.AsyncStream, anthropic._response.APIResponse]
        return {each: set(vars(each)) for each in helpers}

    before = attributes()
    on()
    otelstream.uninstrument()
    assert attributes() == before


# --- what is open when we are switched off ----------------------------------------------------------------


def by_close(scene: Any) -> Any:
    stream = scene.create()
    next(stream)
    return stream, stream.close


def by_with(scene: Any) -> Any:
    stream = scene.create()
    next(stream)
    return stream, lambda: stream.__exit__(None, None, None)


def by_reading(scene: Any) -> Any:
    stream = scene.create()
    return stream, lambda: list(stream)


def by_response(scene: Any) -> Any:
    stream = scene.create()
    next(stream)
    return stream, stream.response.close


def by_drop(scene: Any) -> Any:
    held = [scene.create()]
    next(held[0])
    return None, held.clear


def raw_close(scene: Any) -> Any:
    scene.create().close()
    response = scene.client.messages.with_raw_response.create(**ASK, stream=True)
    return response, response.http_response.close


def raw_parsed_late(scene: Any) -> Any:
    scene.create().close()
    response = scene.client.messages.with_raw_response.create(**ASK, stream=True)
    return response, lambda: response.parse().close()


def raw_streaming_close(scene: Any) -> Any:
    scene.create().close()
    manager = scene.client.messages.with_streaming_response.create(**ASK, stream=True)
    response = manager.__enter__()
    return manager, lambda: (next(response.iter_lines()), response.close())


ENDINGS: dict[Any, tuple[str, str | None]] = {
    by_close: ("cancelled", "app_close"),
    by_with: ("cancelled", "app_close"),
    by_reading: ("completed", None),
    by_response: ("cancelled", "app_close"),
    by_drop: ("abandoned", "gc"),
    raw_close: ("cancelled", "app_close"),
    raw_parsed_late: ("cancelled", "app_close"),
    raw_streaming_close: ("cancelled", "app_close"),
}


@pytest.mark.parametrize("again", [False, True], ids=["off", "off and on"])
@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.__name__)
def test_what_is_open_keeps_its_record(on: Any, telemetry: Telemetry, ending: Any, again: bool) -> None:
    """A stream that began while we were on is told to its end at once, however it ends; what begins while we are off is
    not; and after the last one the SDK's functions are its own."""
    bare = {hook: owner.__dict__[name] for hook, (owner, name) in HOOKED.items()}
    heard: list[Any] = []
    _instrumentor.listen(heard.append)
    try:
        on()
        _held, end = ending(on)
        heard.clear()
        otelstream.uninstrument()
        assert len(otelstream.open_streams()) == 1
        if again:
            on(stall_threshold=7)
        else:
            list(on.create())
        assert heard == []
        end()
        assert [(each.outcome, each.trigger) for each in map(StreamView, heard)] == [ENDINGS[ending]]
        assert otelstream.open_streams() == ()
        otelstream.uninstrument()
        assert {hook: owner.__dict__[name] for hook, (owner, name) in HOOKED.items()} == bare
    finally:
        _instrumentor.listen(heard.append, stop=True)


def test_an_async_close_after_the_end(on: Any, telemetry: Telemetry) -> None:
    """The same for an async stream, its response and a raw one: closed after `uninstrument()`, told at once."""
    heard: list[Any] = []
    _instrumentor.listen(heard.append)

    async def closes(what: str) -> None:
        on.transport.tape = shapes.Tape([shapes.Reply(TEXT)])
        on()
        stream = await on.aclient.messages.create(**ASK, stream=True)
        await stream.__anext__()
        otelstream.uninstrument()
        await (stream.close() if what == "stream" else stream.response.aclose())
        assert otelstream.open_streams() == ()

    try:
        for what in ("stream", "response"):
            asyncio.run(closes(what))
        assert [(each.outcome, each.trigger) for each in map(StreamView, heard)] == [("cancelled", "app_close")] * 2
    finally:
        _instrumentor.listen(heard.append, stop=True)


# --- a close that nobody awaits ---------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.parametrize("what", ["stream", "response"])
@pytest.mark.parametrize("then", ["dropped", "read", "closed"])
def test_a_close_that_nobody_awaits(on: Any, telemetry: Telemetry, what: str, then: str) -> None:
    """It closes nothing: the stream goes on, and its record says how it really ended."""
    heard: list[Any] = []
    _instrumentor.listen(heard.append)

    async def forgets() -> None:
        on.transport.tape = shapes.Tape([shapes.Reply(TEXT)])
        stream = await on.aclient.messages.create(**ASK, stream=True)
        await stream.__anext__()
        closing = stream.close if what == "stream" else stream.response.aclose
        closing()
        assert len(otelstream.open_streams()) == 1
        if then == "read":
            async for _ in stream:
                continue
        elif then == "closed":
            await closing()

    on()
    try:
        asyncio.run(forgets())
        gc.collect()
        outbox.settle()
        expected = {"dropped": ("abandoned", "gc"), "read": ("completed", None), "closed": ("cancelled", "app_close")}
        assert [(each.outcome, each.trigger) for each in map(StreamView, heard)] == [expected[then]]
        assert otelstream.open_streams() == ()
        assert told(telemetry)["active"] == 0
    finally:
        _instrumentor.listen(heard.append, stop=True)


@pytest.mark.parametrize("error", [None, ValueError("theirs")])
def test_a_close_in_a_task_of_its_own(on: Any, error: Exception | None) -> None:
    """An error that is handled where a close is asked for counts, wherever it is then awaited."""
    heard: list[Any] = []
    _instrumentor.listen(heard.append)

    async def closes() -> None:
        on.transport.tape = shapes.Tape([shapes.Reply(TEXT)])
        stream = await on.aclient.messages.create(**ASK, stream=True)
        await stream.__anext__()
        try:
            if error is not None:
                raise error
        except ValueError:
            task = asyncio.ensure_future(stream.close())
        else:
            task = asyncio.ensure_future(stream.close())
        await task

    on()
    try:
        asyncio.run(closes())
        expected = ("cancelled", "app_close") if error is None else ("caller_error", None)
        assert [(each.outcome, each.trigger) for each in map(StreamView, heard)] == [expected]
    finally:
        _instrumentor.listen(heard.append, stop=True)


# --- what stands for something else -----------------------------------------------------------------------


class Unbound:
    """As werkzeug's `LocalProxy` is outside a request: whatever is asked of it raises."""

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("working outside of request context")

    def __getattr__(self, _: str) -> Any:
        raise RuntimeError("working outside of request context")


@pytest.mark.parametrize("thing", [Unbound, lambda: None, int, str, object, lambda: type, lambda: Unbound])
def test_anything_can_be_asked_for_its_view(thing: Callable[[], object]) -> None:
    """`get_stream()` gives an unobserved view of whatever is no stream, and never raises."""
    assert otelstream.get_stream(thing()).observed is False


FUNCTIONS = [
    (anthropic.Stream, "close"),
    (anthropic.AsyncStream, "close"),
    (anthropic.Stream, "_iter_events"),
    (anthropic._base_client.SyncAPIClient, "request"),
]


@pytest.mark.parametrize(("owner", "name"), FUNCTIONS, ids=lambda each: getattr(each, "__name__", each))
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_we_wrap_is_pickled_as_before(on: Any, owner: Any, name: str, protocol: int) -> None:
    """A wrapped function goes through pickle, copy and deepcopy as the function does."""
    on()
    function = getattr(owner, name)
    assert pickle.loads(pickle.dumps(function, protocol)) == function
    assert copy.copy(function) == copy.deepcopy(function) == function
    hook = owner.__dict__[name]
    assert pickle.loads(pickle.dumps(hook, protocol)) == hook
    assert copy.copy(hook) is copy.deepcopy(hook) is hook
    blob = pickle.dumps(function, protocol)
    otelstream.uninstrument()
    assert pickle.loads(blob) is getattr(owner, name)
    assert inspect.isfunction(function)


def test_a_bound_method_is_copied_as_before(on: Any) -> None:
    """The method of a stream is the same method in a copy, equal to itself, and of the same hash."""

    def look() -> list[Any]:
        stream = on.create()
        method = stream.close
        found = [
            method == stream.close,
            hash(method) == hash(stream.close),
            copy.copy(method) == method,
            copy.copy(method).__self__ is stream,
            inspect.ismethod(method),
        ]
        method()
        return found

    before = look()
    on()
    assert look() == before
