# SPDX-License-Identifier: Apache-2.0
"""Where instrumentation is suppressed nothing of ours is made: below a companion's call span our names go on that, and
our metrics go on; elsewhere there is no record. Both are said, once."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.trace import SpanKind, StatusCode

import otelstream
from otelstream import _semconv as s
from otelstream.testing import Script
from truth.conftest import ASK, Scene, frames

TEXT = frames(Script().text("Calm seas, then wind from the west.", chunk=4))
LLM = {"kind": SpanKind.INTERNAL, "attributes": {s.OPENINFERENCE_KIND: "LLM"}}
COMPANIONS: dict[str, dict[str, Any] | None] = {
    "a call span": {"kind": SpanKind.CLIENT, "attributes": {s.OPERATION: "chat"}},
    "OpenInference's": LLM,
    "an agent's span": {"kind": SpanKind.CLIENT, "attributes": {s.OPERATION: "invoke_agent"}},
    "no span": None,
}


class Said(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelname, record.getMessage()))


@pytest.fixture
def said() -> Iterator[Said]:
    logger, handler = logging.getLogger("otelstream"), Said()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.setLevel(before)
    logger.removeHandler(handler)


@contextlib.contextmanager
def suppressed(scene: Scene, companion: dict[str, Any] | None) -> Iterator[None]:
    tracer = scene.telemetry.tracer_provider.get_tracer("companion")
    around: Any = contextlib.nullcontext() if companion is None else tracer.start_as_current_span("theirs", **companion)
    with around, suppress_instrumentation():
        yield


def again(scene: Scene, **settings: Any) -> None:
    """Switch on with other settings."""
    telemetry = scene.telemetry
    otelstream.instrument(
        tracer_provider=telemetry.tracer_provider, meter_provider=telemetry.meter_provider, **settings
    )


@pytest.mark.parametrize("setting", ["auto", "enrich", "own", "off"])
@pytest.mark.parametrize("name", COMPANIONS)
def test_what_is_left(scene: Scene, said: Said, name: str, setting: str) -> None:
    """No span, event or log of ours and no `gen_ai.client.*`; below a call span the summary there, and our metrics."""
    again(scene, spans=setting, chunk_metric="semconv")
    said.lines.clear()
    observed = name in ("a call span", "OpenInference's")
    scene.plays(TEXT)

    for _ in range(2):
        with suppressed(scene, COMPANIONS[name]):
            list(scene.create())

    spans = scene.telemetry.spans()
    assert "otelstream" not in {span.instrumentation_scope.name for span in spans if span.instrumentation_scope}
    theirs = [span for span in spans if span.name == "theirs"]
    enriched = observed and setting in ("auto", "enrich")
    for span in theirs:
        assert ((span.attributes or {}).get(s.OUTCOME) == "completed") is enriched
        assert not span.events
    assert [s.OUTCOME in (span.attributes or {}) for span in spans if span not in theirs] == [False] * (
        len(spans) - len(theirs)
    )
    points = scene.telemetry.points()
    assert sum(points.get(s.STREAMS.name, {}).values()) == 2 * observed
    assert not [metric for metric in points if metric.startswith("gen_ai.")]
    assert len(said.lines) == 1
    level, line = said.lines[0]
    assert level == ("WARNING" if observed else "INFO")
    assert ("companion" in line) is observed


def test_logs(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are there log records."""
    from otelstream._core.emit import logs

    written: list[Any] = []
    monkeypatch.setattr(logs, "write", lambda stream, _: written.append(stream))
    again(scene, events="log")
    scene.plays(TEXT)

    with suppressed(scene, COMPANIONS["a call span"]):
        list(scene.create())

    assert not written


def test_a_span_that_ends_with_the_call(scene: Scene) -> None:
    """It has what was known when the response came; no span of ours takes the rest, the metrics do."""
    scene.plays(TEXT)
    with otelstream.turn("chat", route="help"), suppressed(scene, COMPANIONS["a call span"]):
        stream = scene.create()

    list(stream)

    assert scene.recorder.stream.outcome == "completed"
    records = [span for span in scene.telemetry.spans() if s.ATTEMPTS in (span.attributes or {})]
    assert [span.name for span in records] == ["theirs"]
    assert (records[0].attributes or {})[s.ATTEMPTS] == 1
    assert (records[0].attributes or {})[s.TURN_ID] == "chat"
    assert s.OUTCOME not in (records[0].attributes or {})
    assert sum(scene.telemetry.points()[s.STREAMS.name].values()) == 1


def test_a_stream_that_fails(scene: Scene) -> None:
    """A failure is on the companion's span too, with the status that it left open."""
    scene.plays(TEXT[:-1])
    with suppressed(scene, COMPANIONS["a call span"]), contextlib.suppress(Exception):
        list(scene.create())

    (theirs,) = [span for span in scene.telemetry.spans() if span.name == "theirs"]
    assert (theirs.attributes or {})[s.OUTCOME] == "failed"
    assert theirs.status.status_code is StatusCode.ERROR


def test_a_second_call(scene: Scene) -> None:
    """Below one call span there is one call: where instrumentation is suppressed the next one has no record."""
    scene.plays(TEXT)
    with suppressed(scene, COMPANIONS["a call span"]):
        list(scene.create())
        list(scene.create())

    assert sum(scene.telemetry.points()[s.STREAMS.name].values()) == 1


def test_what_does_not_stream(scene: Scene, said: Said) -> None:
    """A request that is no stream of ours is none of our business: nothing is said."""
    scene.plays([b"{}"])
    with suppressed(scene, None), contextlib.suppress(Exception):
        scene.client.messages.create(**ASK)

    assert not said.lines


def test_a_tool(scene: Scene) -> None:
    """A tool that runs there gets no span of ours, and is counted."""

    @otelstream.tool(effect="read")
    def look() -> str:
        return "calm"

    scene.plays(frames(Script().tool_use("look", {})))
    list(scene.create())
    with suppress_instrumentation():
        look()

    assert not [span for span in scene.telemetry.spans() if span.name.startswith(s.EXECUTE_TOOL)]
    assert sum(scene.telemetry.points()[s.TOOL_CALLS.name].values()) == 1
