# SPDX-License-Identifier: Apache-2.0
"""Beside an instrumentation that put a `request` of its own on the client's class before us, and calls what it found
there: past our wrapper on the base."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
import shapes
from matrix.telemetry import Telemetry
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.trace import SpanKind, StatusCode

import otelstream
from openai_sdk.conftest import CHAT, Scene, chunk, data
from otelstream import _semconv as s
from otelstream.testing import Recorder

WHOLE = data(*[chunk({"content": word}) for word in ("Calm ", "seas.")], chunk(finish="stop"))
REFUSAL = shapes.Reply([b'{"error": {"type": "requests", "message": "no"}}'], status=429)
KINDS: dict[str, dict[str, Any]] = {
    "OpenTelemetry's": {"kind": SpanKind.CLIENT, "attributes": {s.OPERATION: "chat"}},
    "OpenInference's": {"kind": SpanKind.INTERNAL, "attributes": {s.OPENINFERENCE_KIND: "LLM"}},
    "some other": {"kind": SpanKind.INTERNAL},
}


class Companion:
    """Around each request a span of its own, which ends with the request if it refuses, or if `brief`."""

    def __init__(self, telemetry: Telemetry, how: str, *, quiet: bool, brief: bool) -> None:
        self.tracer, self.how = telemetry.tracer_provider.get_tracer("companion"), KINDS[how]
        self.quiet, self.brief = quiet, brief
        self.calls = 0
        self.spans: list[Any] = []

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        self.calls += 1
        quiet = suppress_instrumentation() if self.quiet else contextlib.nullcontext()
        with self.tracer.start_as_current_span("theirs", end_on_exit=self.brief, **self.how) as span, quiet:
            try:
                yield
            except BaseException:
                span.end()
                raise
        self.spans.append(span)

    def end(self) -> None:
        for span in self.spans:
            span.end()

    def over(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def request(*args: Any, **kwargs: Any) -> Any:
            with self.around():
                return original(*args, **kwargs)

        return request

    def aover(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        async def request(*args: Any, **kwargs: Any) -> Any:
            with self.around():
                return await original(*args, **kwargs)

        return request


Beside = Callable[..., tuple[Scene, Companion]]


@pytest.fixture
def beside(telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> Iterator[Beside]:
    """Switch on a companion, then otelstream."""
    with contextlib.ExitStack() as stack:

        def on(how: str = "OpenTelemetry's", *, quiet: bool = False, brief: bool = False) -> tuple[Scene, Companion]:
            companion = Companion(telemetry, how, quiet=quiet, brief=brief)
            monkeypatch.setattr(openai.OpenAI, "request", companion.over(openai.OpenAI.request))
            monkeypatch.setattr(openai.AsyncOpenAI, "request", companion.aover(openai.AsyncOpenAI.request))
            otelstream.instrument(tracer_provider=telemetry.tracer_provider, meter_provider=telemetry.meter_provider)
            stack.callback(otelstream.uninstrument)
            return Scene(telemetry, stack.enter_context(Recorder())), companion

        yield on


def ask(scene: Scene, way: str, then: Callable[[], None] = lambda: None) -> None:
    async def reads() -> None:
        async for _ in await scene.aclient.chat.completions.create(**CHAT, stream=True):
            continue

    if way == "sync":
        for _ in scene.chat():
            continue
    elif way == "lines":
        with scene.client.chat.completions.with_streaming_response.create(**CHAT, stream=True) as response:
            list(response.iter_lines())
    else:
        asyncio.run(reads())
    then()


def records(scene: Scene) -> list[tuple[str, Any]]:
    """Who made each span with a record, and the outcome there."""
    return [
        (span.instrumentation_scope.name if span.instrumentation_scope else "", (span.attributes or {})[s.OUTCOME])
        for span in scene.telemetry.spans()
        if s.OUTCOME in (span.attributes or {})
    ]


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("way", ["sync", "async", "lines"])
def test_who_was_there_first(beside: Beside, way: str, how: str) -> None:
    """One record, on the companion's span of the call; below a span that is none, on one of ours."""
    scene, companion = beside(how)
    scene.plays(WHOLE)

    ask(scene, way, companion.end)

    assert scene.verdict() == ("completed", "none", None)
    assert records(scene) == [("otelstream" if how == "some other" else "companion", "completed")]
    assert companion.calls == 1
    if how == "some other":
        (ours,) = [span for span in scene.telemetry.spans() if s.OUTCOME in (span.attributes or {})]
        assert ours.parent == companion.spans[0].get_span_context()


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("quiet", [False, True], ids=["plain", "suppressing"])
def test_a_refusal(beside: Beside, way: str, quiet: bool) -> None:
    """A refused request is on the companion's span before that ends, with the status it has from its owner."""
    scene, _ = beside(quiet=quiet)
    scene.plays(REFUSAL)

    with pytest.raises(openai.RateLimitError):
        ask(scene, way)

    assert scene.verdict()[:2] == ("failed", "provider_error")
    assert records(scene) == [("companion", "failed")]
    (theirs,) = scene.telemetry.spans()
    assert theirs.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize("way", ["sync", "async", "lines"])
def test_who_suppresses(beside: Beside, way: str) -> None:
    """Under its suppression nothing of ours is made; its span has what was known when the response came."""
    scene, companion = beside(quiet=True, brief=True)
    scene.plays(WHOLE)

    ask(scene, way)

    assert scene.verdict() == ("completed", "none", None)
    (theirs,) = scene.telemetry.spans()
    assert theirs.context == companion.spans[0].get_span_context()
    assert (theirs.attributes or {})[s.ATTEMPTS] == 1
    points = scene.telemetry.points()
    assert sum(points[s.STREAMS.name].values()) == 1
    assert not [name for name in points if name.startswith("gen_ai.")]


def test_a_request_that_retries(beside: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry is another attempt of the same stream."""
    scene, companion = beside()
    scene.client.max_retries = 1
    monkeypatch.setattr(scene.client, "_calculate_retry_timeout", lambda *_: 0.0)
    scene.plays(REFUSAL, WHOLE)

    ask(scene, "sync", companion.end)

    assert scene.verdict() == ("completed", "none", None)
    assert records(scene) == [("companion", "completed")]
    (theirs,) = scene.telemetry.spans()
    assert (theirs.attributes or {})[s.ATTEMPTS] == 2


def test_what_does_not_stream(beside: Beside) -> None:
    """A request without a stream is none of our business."""
    scene, companion = beside()
    scene.plays([b'{"id": "1", "object": "list", "data": []}'])

    scene.client.models.list()

    assert not scene.telemetry.points().get(s.STREAMS.name)
    assert companion.calls == 1


def test_it_is_taken_off(beside: Beside) -> None:
    """Switched off, the companion's function is the very object it was."""
    scene, companion = beside()
    otelstream.uninstrument()
    scene.plays(WHOLE)

    ask(scene, "sync", companion.end)

    assert "request" in vars(openai.OpenAI)
    assert type(vars(openai.OpenAI)["request"]).__name__ == "function"
    assert type(vars(openai._base_client.SyncAPIClient)["_process_response"]).__name__ == "function"
    assert not records(scene)
