# SPDX-License-Identifier: Apache-2.0
"""Spans made with the SDK alone, so that the view is tested against what an exporter really receives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, StatusCode

from otelstream import _semconv as names
from otelstream.view._record import SpanRecord
from otelstream.view._timeline import Timeline, timeline

START = 1_800_000_000

MakeSpan = Callable[..., ReadableSpan]


@pytest.fixture(scope="session")
def make_span() -> Iterator[MakeSpan]:
    """Make a finished span: `attributes`, and `events` as (name, elapsed, attributes)."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("otelstream")

    def make(
        attributes: dict[str, Any],
        events: list[tuple[str, float, dict[str, Any]]] | None = None,
        length: float = 4.0,
        start: float = START,
        name: str = "chat m",
        early: float = 0.0,
        links: tuple[ReadableSpan, ...] = (),
        status: StatusCode = StatusCode.UNSET,
    ) -> ReadableSpan:
        linked = [Link(other.get_span_context()) for other in links]
        span = tracer.start_span(name, start_time=int((start - early) * 1e9), attributes=attributes, links=linked)
        span.set_status(status)
        for event, elapsed, said in events or []:
            stamped = said if names.TOOL_CALL_ID in attributes else {names.ELAPSED: elapsed, **said}
            span.add_event(event, stamped, timestamp=int((start + elapsed) * 1e9))
        span.end(int((start + length) * 1e9))
        (finished,) = exporter.get_finished_spans()
        exporter.clear()
        return finished

    yield make
    provider.shutdown()


@pytest.fixture(scope="session")
def make_line(make_span: MakeSpan) -> Callable[..., Timeline]:
    """Make the timeline of a span that `stream_span` describes."""

    def make(**said: Any) -> Timeline:
        attributes, events, length = stream_span(**said)
        return timeline(SpanRecord.from_span(make_span(attributes, events, length)))

    return make


def stream_span(
    outcome: str = "completed",
    phase: str = "finished",
    fault: str = "none",
    *,
    length: float = 4.0,
    first_chunk: float | None = 0.5,
    first_token: float | None = 0.5,
    kind: str = "text",
    chunks: int = 40,
    chars: int = 400,
    stalls: list[tuple[float, float, str]] | None = None,
    tools: list[tuple[float, str, str]] | None = None,
    loop: tuple[float, int, float, int, int] | None = None,
    reason: str = "end_turn",
    error: str = "",
    trigger: str = "",
    propagation: str = "",
    asked: float | None = None,
    retraction: tuple[float, str, int, float] | None = None,
    attempts: int = 1,
    last_attempt: float = 0.0,
    last_chunk: float | None = None,
    model: str = "claude-test-1",
    **more: Any,
) -> tuple[dict[str, Any], list[tuple[str, float, dict[str, Any]]], float]:
    """Describe the span of one stream as the core would write it."""
    failed_after = phase != "before_response" and fault in {
        "provider_error", "connection_lost", "cut_short", "timeout", "protocol_error", "stalled",
        "content_filter", "malformed_tool_call",
    }  # fmt: skip
    attributes: dict[str, Any] = {
        names.OPERATION: "chat",
        names.PROVIDER: "anthropic",
        names.REQUEST_MODEL: model,
        names.OUTCOME: outcome,
        names.PHASE: phase,
        names.FAULT: fault,
        names.SUCCEEDED_THEN_FAILED: failed_after,
        names.PARTIAL: outcome != "completed",
        names.CHUNKS: chunks if first_chunk is not None else 0,
        names.VISIBLE_CHARS: chars,
        names.ATTEMPTS: attempts,
        names.LAST_ATTEMPT_DELAY: last_attempt,
        names.STALLS: len(stalls or []),
        **more,
    }
    events: list[tuple[str, float, dict[str, Any]]] = []
    if first_chunk is not None:
        attributes[names.TIME_TO_FIRST_CHUNK] = first_chunk
        events.append((names.EVENT_FIRST_CHUNK, first_chunk, {names.BLOCK_KIND: kind}))
    if first_token is not None:
        attributes[names.TIME_TO_FIRST_TOKEN] = first_token
        events.append((names.EVENT_FIRST_TOKEN, first_token, {names.FIRST_TOKEN_KIND: "text"}))
    for end, duration, source in stalls or []:
        events.append((names.EVENT_STALL, end, {names.STALL_DURATION: duration, names.STALL_SOURCE: source}))
    for at, name, state in tools or []:
        events.append((names.EVENT_TOOL_READY, at, {names.TOOL_NAME: name, names.TOOL_CALL_INPUT: state}))
    if loop:
        at, period, copies, began, wasted = loop
        events.append(
            (
                names.EVENT_REPETITION,
                at,
                {
                    names.BLOCK_KIND: "text",
                    names.REPETITION_PERIOD: period,
                    names.REPETITION_COPIES: copies,
                    names.REPETITION_START: began,
                    names.REPETITION_WASTED: wasted,
                },
            )
        )
    if first_chunk is not None and chunks:
        events.append(
            (
                names.EVENT_CADENCE,
                length if last_chunk is None else last_chunk,
                {names.CADENCE_START: first_chunk, names.CADENCE_CHUNKS: chunks, names.CADENCE_CHARS: chars},
            )
        )
    if asked is not None:
        events.append((names.EVENT_CANCEL_REQUESTED, asked, {names.CANCEL_TRIGGER: trigger}))
    if retraction:
        at, why, shown, exposure = retraction
        withdrawn = {
            names.RETRACTION_REASON: why,
            names.RETRACTION_VISIBLE_CHARS: shown,
            names.RETRACTION_EXPOSURE: exposure,
        }
        events.append((names.EVENT_RETRACTION, at, withdrawn))
    if trigger:
        attributes[names.CANCEL_TRIGGER] = trigger
    if propagation:
        attributes[names.CANCEL_PROPAGATION] = propagation
        events.append((names.EVENT_CANCEL_OUTCOME, length, {names.CANCEL_TRIGGER: trigger}))
    if phase == "finished":
        events.append((names.EVENT_FINISH, length, {names.FINISH_RAW_REASON: reason}))
    if error:
        attributes[names.ERROR_TYPE] = error
    if fault not in {"none", "repetition"}:
        events.append((names.EVENT_FAILURE, length, {names.FAULT: fault, names.ERROR_TYPE: error or fault}))
    return attributes, sorted(events, key=lambda event: event[1]), length
