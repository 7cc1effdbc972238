# SPDX-License-Identifier: Apache-2.0
"""Spans that are not ours: which of them is a stream's, and that we only add to it."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import pytest
import shapes
import wrapt
from matrix.telemetry import Telemetry
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import NonRecordingSpan, SpanKind, StatusCode
from tools.bench import wait_for

import otelstream
from otelstream import _semconv as s
from otelstream._core.process import drops
from otelstream._stainless.native import is_native
from otelstream.testing import Script
from truth.conftest import ASK, Scene, frames

TEXT = frames(Script().text("Calm seas, then wind from the west.", chunk=4))
CALL = {s.OPERATION: "chat"}


def theirs(scene: Scene, **more: Any) -> contextlib.AbstractContextManager[trace.Span]:
    """A call span of another instrumentation around what is done in it."""
    tracer = scene.telemetry.tracer_provider.get_tracer("companion")
    return tracer.start_as_current_span("theirs", **{"kind": SpanKind.CLIENT, "attributes": CALL, **more})


def holders(scene: Scene) -> list[tuple[str, Any]]:
    """Who made each span that has a record, and the outcome there."""
    return [
        (span.instrumentation_scope.name if span.instrumentation_scope else "", (span.attributes or {})[s.OUTCOME])
        for span in scene.telemetry.spans()
        if s.OUTCOME in (span.attributes or {})
    ]


def own(scene: Scene) -> str:
    """Where the record goes if nobody else has a call span around the request."""
    return "com.anthropic.sdk.python" if native(scene) else "otelstream"


def native(scene: Scene) -> bool:
    return scene.native and hasattr(anthropic._base_client.SyncAPIClient, "_request")


SPANS: dict[str, tuple[dict[str, Any], bool]] = {
    "chat": ({"attributes": CALL}, True),
    "text_completion": ({"attributes": {s.OPERATION: "text_completion"}}, True),
    "generate_content": ({"attributes": {s.OPERATION: "generate_content"}}, True),
    "an agent": ({"attributes": {s.OPERATION: "invoke_agent"}}, False),
    "an agent's making": ({"attributes": {s.OPERATION: "create_agent"}}, False),
    "a tool": ({"attributes": {s.OPERATION: "execute_tool"}}, False),
    "embeddings": ({"attributes": {s.OPERATION: "embeddings"}}, False),
    "an operation nobody knows": ({"attributes": {s.OPERATION: "plan"}}, False),
    "a chat that is no client": ({"attributes": CALL, "kind": SpanKind.INTERNAL}, False),
    "no attributes": ({"attributes": {}}, False),
    "a client of something else": ({"attributes": {"http.request.method": "POST"}}, False),
    "OpenInference's agent": ({"attributes": {s.OPENINFERENCE_KIND: "AGENT"}, "kind": SpanKind.INTERNAL}, False),
    "OpenInference's chain": ({"attributes": {s.OPENINFERENCE_KIND: "CHAIN"}}, False),
}


@pytest.mark.parametrize("name", SPANS)
def test_what_is_a_call(scene: Scene, name: str) -> None:
    """Only a client span of one call of a model is a stream's; below any other there is a span as if it were not."""
    span, adopted = SPANS[name]
    scene.plays(TEXT)

    with theirs(scene, **span):
        list(scene.create())

    assert holders(scene) == [("companion" if adopted else own(scene), "completed")]
    assert bool(scene.telemetry.points().get(s.CLIENT_TOKENS.name)) is not adopted


def test_open_inference(scene: Scene) -> None:
    """OpenInference's span of a call is known by its kind; where the SDK has its own, that is nearer."""
    scene.plays(TEXT)

    with theirs(scene, kind=SpanKind.INTERNAL, attributes={s.OPENINFERENCE_KIND: "LLM"}):
        list(scene.create())

    assert holders(scene) == [(own(scene) if native(scene) else "companion", "completed")]


class Late(wrapt.ObjectProxy):  # type: ignore[type-arg]
    """OpenInference's span whose kind was given after its start: it is written at its end."""

    def __init__(self, span: trace.Span, kind: str) -> None:
        super().__init__(span)
        self._self_important_attributes = {s.OPENINFERENCE_KIND: kind}


@pytest.mark.parametrize(("kind", "adopted"), [("LLM", True), ("AGENT", False)])
def test_open_inference_says_late(scene: Scene, kind: str, adopted: bool) -> None:
    """The kind that OpenInference writes at its span's end is known before."""
    scene.plays(TEXT)
    span = scene.telemetry.tracer_provider.get_tracer("companion").start_span("theirs")

    with trace.use_span(Late(span, kind), end_on_exit=True):
        list(scene.create())

    assert holders(scene) == [("companion" if adopted and not native(scene) else own(scene), "completed")]


@pytest.mark.parametrize("setting", ["auto", "enrich", "own"])
def test_at_most_once(scene: Scene, setting: str) -> None:
    """A second stream below one call span is another call: it has a span, and metrics, as if there were none."""
    otelstream.instrument(
        tracer_provider=scene.telemetry.tracer_provider, meter_provider=scene.telemetry.meter_provider, spans=setting
    )
    scene.plays(TEXT)

    with theirs(scene):
        for _ in range(3):
            list(scene.create())

    other = "otelstream" if setting == "own" else own(scene)
    wanted = [other, other, "otelstream" if setting == "own" else "companion"]
    if setting == "enrich" and not native(scene):
        wanted = ["companion"]
    assert sorted(holders(scene)) == sorted((who, "completed") for who in wanted)
    assert sum(scene.telemetry.points()[s.CLIENT_TOKENS.name].values()) == 2 * 2, "input and output of two"


OWNERS: dict[str, tuple[Callable[[trace.Span], object], Callable[[ReadableSpan], object], object]] = {
    "status ok": (lambda x: x.set_status(StatusCode.OK), lambda x: x.status.status_code, StatusCode.OK),
    "a description": (lambda x: x.set_status(StatusCode.ERROR, "why"), lambda x: x.status.description, "why"),
    "error.type": (
        lambda x: x.set_attribute(s.ERROR_TYPE, "mine"), lambda x: (x.attributes or {})[s.ERROR_TYPE], "mine",
    ),
    "first chunk": (
        lambda x: x.set_attribute(s.RESPONSE_TIME_TO_FIRST_CHUNK, 7.0),
        lambda x: (x.attributes or {})[s.RESPONSE_TIME_TO_FIRST_CHUNK], 7.0,
    ),
    "the model": (
        lambda x: x.set_attribute(s.RESPONSE_MODEL, "mine"), lambda x: (x.attributes or {})[s.RESPONSE_MODEL], "mine",
    ),
    "tokens": (lambda x: x.set_attribute(s.INPUT_TOKENS, 1), lambda x: (x.attributes or {})[s.INPUT_TOKENS], 1),
}  # fmt: skip


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", OWNERS)
def test_we_only_add(scene: Scene, name: str, when: str) -> None:
    """What the owner of a span sets, before or after us, stays, also of a stream that failed."""
    sets, reads, wanted = OWNERS[name]
    scene.plays(TEXT[:-1])

    with theirs(scene) as span:
        stream = scene.create()
        if when == "before":
            sets(span)
        with contextlib.suppress(Exception):
            list(stream)
        if when == "after":
            sets(span)

    (ended,) = [each for each in scene.telemetry.spans() if each.name == "theirs"]
    assert reads(ended) == wanted
    assert (ended.attributes or {})[s.OUTCOME] == "failed"


def test_what_nobody_has_set(scene: Scene) -> None:
    """Conventions' names and the status that the owner left out are added."""
    scene.plays(TEXT[:-1])

    with theirs(scene), contextlib.suppress(Exception):
        list(scene.create())

    (ended,) = [each for each in scene.telemetry.spans() if each.name == "theirs"]
    assert ended.status.status_code is StatusCode.ERROR
    assert (ended.attributes or {})[s.ERROR_TYPE] == "api_error"


class Opaque(NonRecordingSpan):
    """A span that records and cannot be read, as some tracers make them."""

    def __init__(self) -> None:
        super().__init__(trace.SpanContext(7, id(self) & 0xFFFF | 1, False, trace.TraceFlags(1)))
        self.said: dict[str, Any] = {}
        self.statuses: list[Any] = []

    def is_recording(self) -> bool:
        return True

    def set_attributes(self, attributes: Any) -> None:
        self.said.update(attributes)

    def set_attribute(self, key: str, value: Any) -> None:
        self.said[key] = value

    def set_status(self, status: Any, description: str | None = None) -> None:
        self.statuses.append(status)


@pytest.mark.parametrize(("pieces", "outcome"), [(TEXT, "completed"), (TEXT[:-1], "failed")])
def test_a_span_that_cannot_be_read(scene: Scene, monkeypatch: pytest.MonkeyPatch, pieces: Any, outcome: str) -> None:
    """The SDK's own, of a tracer whose spans hide their attributes, gets names of ours only, and no status of ours."""
    if not native(scene):
        pytest.skip("the SDK makes no span")
    opaque = Opaque()
    monkeypatch.setattr(anthropic._base_client, "start_api_call_span", lambda *_, **__: opaque)
    scene.plays(pieces)
    sdks = len(opaque.statuses)

    with contextlib.suppress(Exception):
        list(scene.create())

    assert opaque.said[s.OUTCOME] == outcome
    assert not holders(scene)
    assert len(opaque.statuses) - sdks <= 1  # the SDK's


def test_somebody_elses_that_cannot_be_read(scene: Scene) -> None:
    """Around the request nobody knows what it is: nothing is written on it."""
    opaque = Opaque()
    scene.plays(TEXT)

    with trace.use_span(opaque):
        list(scene.create())

    assert not opaque.said
    assert holders(scene) == [(own(scene), "completed")]


WAYS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "read": (list, "completed"),
    "left": (lambda stream: (next(iter(stream)), stream.close()), "cancelled"),
    "cut": (list, "failed"),
    "broken": (list, "failed"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_call_span_that_ends_with_the_call(scene: Scene, way: str) -> None:
    """Its stream has not ended then: the record goes on a span of ours below it, also where the SDK has one."""
    read, outcome = WAYS[way]
    scene.plays(
        {"cut": TEXT[:-1], "broken": shapes.Reply(TEXT[:5], lambda: shapes.httpx.ReadError("gone"))}.get(way, TEXT)
    )
    with theirs(scene) as span:
        stream = scene.create()

    with contextlib.suppress(Exception):
        read(stream)

    assert holders(scene) == [("otelstream", outcome)]
    (ours,) = [each for each in scene.telemetry.spans() if s.OUTCOME in (each.attributes or {})]
    assert ours.parent is not None
    assert ours.parent.span_id == span.get_span_context().span_id
    assert ours.status.status_code is (StatusCode.ERROR if outcome == "failed" else StatusCode.UNSET)


@pytest.mark.parametrize("kind", ["parsed", "lines"])
def test_an_exception_before_the_first_read(scene: Scene, kind: str) -> None:
    """What leaves the `with` of a stream that nobody has read is the application's own exception, and its span has
    the record."""
    scene.plays(TEXT)

    def leave() -> None:
        raw = scene.client.messages.with_streaming_response.create
        with theirs(scene), scene.create() if kind == "parsed" else raw(**ASK, stream=True):
            raise shapes.AppError

    with pytest.raises(shapes.AppError) as raised:
        leave()

    assert raised.value.__context__ is None
    assert holders(scene) == [("companion", "caller_error")]


def test_such_a_span_and_the_collector(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A late span is not made inside a collection, where exporters' locks may be held, and it is made once."""
    scene.plays(TEXT)
    with theirs(scene):
        stream = scene.create()
    iter(stream)
    made: list[bool] = []
    from otelstream._core.emit import span as emitted

    real = emitted.start_late
    monkeypatch.setattr(emitted, "start_late", lambda *args: made.append(drops.collecting()) or real(*args))
    stream.cycle = stream
    del stream
    gc.collect()

    wait_for(lambda: holders(scene))
    assert holders(scene) == [("otelstream", "abandoned")]
    assert made == [False]


def test_the_sdks_span_below_anothers_is_left_alone(scene: Scene) -> None:
    """Where the record goes on another one's span, the SDK's says what it says without us."""
    if not native(scene):
        pytest.skip("the SDK makes no span")
    scene.plays(TEXT[:-1])

    with theirs(scene), scene.client.messages.with_streaming_response.create(**ASK, stream=True) as response:
        list(response.iter_lines())

    (sdks,) = [span for span in scene.telemetry.spans() if span.name.startswith("anthropic.")]
    assert sdks.status.status_code is StatusCode.OK
    assert holders(scene) == [("companion", "failed")]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("sdk", True), ("sdk.bedrock", True), ("sdks", False), ("companion", False), (None, False)],
)
def test_the_scopes_of_platforms(telemetry: Telemetry, name: str | None, wanted: bool) -> None:
    """The SDK's clients for other platforms name theirs below its scope."""
    span = telemetry.tracer_provider.get_tracer(name).start_span("x") if name else Opaque()

    assert is_native(span, "sdk") is wanted


WRONG: dict[str, Callable[[Any], Any]] = {"aread": lambda r: r.aread(), "aclose": lambda r: r.aclose()}


@pytest.mark.parametrize("how", WRONG)
def test_a_body_that_is_read_the_wrong_way(scene: Scene, how: str) -> None:
    """A read or a close of the wrong kind raises, and ends nothing: the stream can still be read the right way."""
    scene.plays(TEXT)
    stream = scene.create()
    with pytest.raises(RuntimeError):
        WRONG[how](stream.response).send(None)

    list(stream)

    assert scene.verdict() == ("completed", "none", None)
    assert holders(scene) == [(own(scene), "completed")]


@pytest.fixture(autouse=True)
def _no_garbage() -> Iterator[None]:
    yield
    gc.collect()
