# SPDX-License-Identifier: Apache-2.0
"""The span of one stream: our own or somebody else's, and what is written on it before it ends."""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue

from otelstream import _semconv as s
from otelstream._core.record.stream import StreamObservation


def call_span() -> Span | None:
    """The recording client span of a GenAI call that is current, whoever made it."""
    span = model_span()
    return span if span is not None and getattr(span, "kind", None) is SpanKind.CLIENT else None


def model_span() -> Span | None:
    """The recording span of a model's call that is current, in OpenTelemetry's words or OpenInference's."""
    span = trace.get_current_span()
    if not span.is_recording():
        return None
    attributes = getattr(span, "attributes", None)
    if not attributes:
        return None
    if s.OPERATION in attributes and getattr(span, "kind", None) is SpanKind.CLIENT:
        return span
    return span if attributes.get(s.OPENINFERENCE_KIND) == "LLM" else None  # which leaves the kind alone


def start(tracer: Tracer, stream: StreamObservation, attributes: Mapping[str, AttributeValue]) -> Span:
    """Start a span of our own, as of the instant that the request was issued."""
    return tracer.start_span(
        f"{stream.operation} {stream.model}",
        kind=SpanKind.CLIENT,
        start_time=stream.started_ns,
        attributes={
            s.OPERATION: stream.operation,
            s.PROVIDER: stream.provider,
            s.REQUEST_MODEL: stream.model,
            **attributes,
        },
    )


def start_late(tracer: Tracer, stream: StreamObservation, ended: Span) -> Span:
    """Start a span of our own below the call span that somebody ended before the stream did."""
    context = trace.set_span_in_context(ended)
    attributes = {s.OPERATION: stream.operation, s.PROVIDER: stream.provider, s.REQUEST_MODEL: stream.model}
    name = f"{stream.operation} {stream.model}"
    return tracer.start_span(name, context, SpanKind.CLIENT, attributes, start_time=stream.started_ns)


def write(stream: StreamObservation, span: Span, *, events: bool, end: bool) -> None:
    """Write the summary on `span`, and end it if it is ours. A span that no longer records is left alone."""
    if span.is_recording():
        span.set_attributes(summary(stream))
        if events:
            for name, at, attributes in stream.events:
                span.add_event(name, attributes, timestamp=nanoseconds(stream, at))
        if stream.outcome == "failed":
            span.set_status(Status(StatusCode.ERROR))
    if end:
        span.end(nanoseconds(stream, stream.end_at) if stream.end_at is not None else None)


def nanoseconds(stream: StreamObservation, at: float) -> int:
    """The wall clock at an instant of the stream's monotonic one."""
    return stream.started_ns + int((at - stream.started) * 1e9)


def summary(stream: StreamObservation) -> dict[str, AttributeValue]:
    """The attributes that say how one ended stream went; what nobody knows is left out."""
    gaps = stream.cadence.all
    ended_without_token = stream.duration if stream.time_to_first_token is None else None
    values: dict[str, AttributeValue | None] = {
        s.OUTCOME: stream.outcome,
        s.PHASE: stream.phase,
        s.FAULT: stream.fault,
        s.SUCCEEDED_THEN_FAILED: stream.succeeded_then_failed,
        s.PARTIAL: stream.partial,
        s.TIME_TO_FIRST_CHUNK: stream.time_to_first_chunk,
        s.TIME_TO_FIRST_TOKEN: stream.time_to_first_token,
        s.WAIT_WITHOUT_TOKEN: ended_without_token,
        s.ATTEMPTS: max(1, stream.attempts),
        s.LAST_ATTEMPT_DELAY: stream.last_attempt_at - stream.started if stream.attempts > 1 else None,
        s.CHUNKS: stream.chunks,
        s.GAP_P50: gaps.quantile(0.5),
        s.GAP_P95: gaps.quantile(0.95),
        s.GAP_MAX: gaps.longest if gaps.count else None,
        s.STALLS: len(stream.stalls),
        s.STALLS_PROVIDER: sum(stall.source in ("provider", "server_tool") for stall in stream.stalls),
        s.STALLED_TIME: sum((stall.duration for stall in stream.stalls), 0.0),
        s.HOLD_TIME: stream.hold_time,
        s.VISIBLE_CHARS: stream.visible_chars,
        s.OUTPUT_RATE: stream.output_rate,
        s.STREAM_TOOL_CALLS: len(stream.tool_calls),
        s.STREAM_REPETITIONS: len(stream.repetitions),
        s.TURN_ID: stream.turn_id,
        s.ROUTE: stream.route,
        s.RESPONSE_ID: stream.response_id,
        s.RESPONSE_MODEL: stream.response_model,
        s.FINISH_REASONS: [stream.finish_reason or "error"],
        s.RESPONSE_TIME_TO_FIRST_CHUNK: stream.time_to_first_chunk,
        s.REQUEST_ID: stream.request_id,
        s.ERROR_TYPE: stream.error_type if stream.outcome == "failed" else None,
        **stream.usage,
    }
    cancel = stream.cancel
    if cancel is not None:
        values |= {
            s.CANCEL_TRIGGER: cancel.trigger,
            s.CANCEL_AT: cancel.where,
            s.CANCEL_PROPAGATION: cancel.propagation,
            s.CANCEL_CLOSE_DELAY: cancel.close_delay,
            s.SIDE_EFFECTS_COMMITTED: len(cancel.ledger.committed),
            s.SIDE_EFFECTS_RUNNING: len(cancel.ledger.running),
            s.SIDE_EFFECTS_DISCARDED: len(cancel.ledger.discarded),
        }
    for kind, name in (
        ("first_token", s.OBJECTIVE_FIRST_TOKEN),
        ("completion", s.OBJECTIVE_COMPLETION),
        ("integrity", s.OBJECTIVE_INTEGRITY),
    ):
        results = [result for objective, result in stream.judged if objective.kind == kind]
        if results:
            # Several of one kind: the worst verdict is the one a sampler must not miss.
            values[name] = next(word for word in ("bad", "good", "excluded") if word in results)
    return {name: value for name, value in values.items() if value is not None}
