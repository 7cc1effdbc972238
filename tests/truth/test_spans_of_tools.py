# SPDX-License-Identifier: Apache-2.0
"""Spans of tools that are not ours: one run has one span, and what is known of its call is on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace

import otelstream
from otelstream import _semconv as s
from otelstream._core.tools.registry import declared, registry
from otelstream._core.tools.spans import told_elsewhere
from otelstream.testing import Script
from truth.conftest import Scene, frames

TOOL = frames(Script().text("I look.").tool_use("look", {"city": "Harbour Town"}))
LATER = frames(Script().tool_use("look", {"city": "Harbour Town"}).text("Then I speak.", chunk=4))


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    registry.restart()
    yield
    registry.restart()
    declared.clear()


def read(scene: Scene, pieces: Any = TOOL) -> str:
    """Read a stream to its end; the id of its tool call."""
    scene.plays(pieces)
    blocks = [item.content_block for item in scene.create() if item.type == "content_block_start"]
    return str(blocks[-1].id)


def tools(scene: Scene) -> list[Any]:
    return [span for span in scene.telemetry.spans() if span.name.startswith(s.EXECUTE_TOOL) or span.name == "theirs"]


SPANS: dict[str, tuple[str, dict[str, str], int]] = {
    "named as the conventions say": ("execute_tool look", {}, 1),
    "with the operation": ("execute_tool look", {s.OPERATION: s.EXECUTE_TOOL}, 1),
    "with the tool's name": ("theirs", {s.OPERATION: s.EXECUTE_TOOL, s.TOOL_NAME: "look"}, 1),
    "of another tool": ("execute_tool mail", {s.OPERATION: s.EXECUTE_TOOL, s.TOOL_NAME: "mail"}, 2),
    "of another tool by its name": ("execute_tool mail", {}, 2),
    "of another call": ("execute_tool look", {s.TOOL_CALL_ID: "toolu_other"}, 2),
    "a tool's name and no run of it": ("theirs", {s.TOOL_NAME: "look"}, 2),
}


@pytest.mark.parametrize("known", [True, False], ids=["a call", "no call"])
@pytest.mark.parametrize("name", SPANS)
def test_an_id_that_comes_late(scene: Scene, name: str, known: bool) -> None:
    """A span of this tool's run that gets its id once the tool has returned is the run's span: no second one."""
    called, attributes, count = SPANS[name]

    @otelstream.tool(effect="read")
    def look(city: str) -> str:
        return "calm"

    id_ = read(scene) if known else "toolu_x"
    tracer = scene.telemetry.tracer_provider.get_tracer("framework")
    with tracer.start_as_current_span(called, attributes=attributes) as span:
        look("Harbour Town")
        if s.TOOL_CALL_ID not in attributes:
            span.set_attribute(s.TOOL_CALL_ID, id_)

    found = tools(scene)
    assert len(found) == count
    if known:
        said = [each for each in found if s.DISPATCH_PHASE in each.attributes]
        assert [each.attributes[s.DISPATCH_PHASE] for each in said] == ["after_end"]
        assert [each.attributes[s.TOOL_CALL_STATE] for each in said] == ["committed"]
        assert sum(scene.telemetry.points()[s.TOOL_CALLS.name].values()) == 1


def test_a_run_inside_a_run_of_nobodys_call(scene: Scene) -> None:
    """A tool that calls itself runs twice."""

    @otelstream.tool(effect="read")
    def look(deep: bool) -> str:
        return look(False) if deep else "calm"

    look(True)

    assert len(tools(scene)) == 2


@pytest.mark.parametrize("pieces", [TOOL, LATER], ids=["the last block", "more to come"])
@pytest.mark.parametrize("how", ["decorated", "its span only", "both"])
def test_an_eager_tool(scene: Scene, how: str, pieces: Any) -> None:
    """A tool that runs while its stream is open has its phase on its span, which ends before the stream does."""
    tracer = scene.telemetry.tracer_provider.get_tracer("framework")
    run: Any = lambda city: "calm"  # noqa: E731
    if how != "its span only":
        run = otelstream.tool(name="look", effect="read")(run)
    scene.plays(pieces)

    id_ = ""
    for item in scene.create():
        if item.type == "content_block_start" and item.content_block.type == "tool_use":
            id_ = item.content_block.id
        if item.type == "content_block_stop" and id_:
            if how == "decorated":
                run("Harbour Town")
            else:
                with tracer.start_as_current_span("theirs", attributes={s.TOOL_CALL_ID: id_}):
                    run("Harbour Town")
            id_ = ""

    (span,) = tools(scene)
    assert span.attributes[s.DISPATCH_PHASE] == "mid_stream"
    assert span.attributes[s.DISPATCH_EVIDENCE] == ("span" if how == "its span only" else "decorator")
    assert s.TOOL_CALL_SINCE_END not in span.attributes
    labels = [dict(labels) for labels in scene.telemetry.points()[s.TOOL_CALLS.name]]
    assert [each[s.DISPATCH_PHASE] for each in labels] == ["mid_stream"]


def test_before_its_input_is_whole(scene: Scene) -> None:
    """One that runs before that says so."""
    tracer = scene.telemetry.tracer_provider.get_tracer("framework")
    scene.plays(TOOL)

    for item in scene.create():
        if item.type == "content_block_start" and item.content_block.type == "tool_use":
            with tracer.start_as_current_span("theirs", attributes={s.TOOL_CALL_ID: item.content_block.id}):
                pass

    (span,) = tools(scene)
    assert span.attributes[s.DISPATCH_PHASE] == "before_ready"


@pytest.mark.parametrize("scope", ["com.anthropic.sdk.python", "com.anthropic.sdk.python.bedrock"])
def test_the_sdks_tool_spans(scene: Scene, scope: str) -> None:
    """The SDK's runner is told of by its adapter, whatever the platform of its client."""
    assert "com.anthropic.sdk.python" in told_elsewhere
    id_ = read(scene)

    with scene.telemetry.tracer_provider.get_tracer(scope).start_as_current_span(
        "theirs", attributes={s.TOOL_CALL_ID: id_}
    ):
        assert s.DISPATCH_PHASE not in trace.get_current_span().attributes  # type: ignore[attr-defined]
