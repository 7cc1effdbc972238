# SPDX-License-Identifier: Apache-2.0
"""The span of one stream: our own or somebody else's, and what is written on it before it ends."""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue

from otelstream import _semconv as s
from otelstream._core.record.stream import StreamObservation

CALLS = ("chat", "text_completion", "generate_content")  # operations that are one call of a model
_TAKEN = "_otelstream_taken"  # on a span: a stream has it


def call_span() -> Span | None:
    """The recording client span of one GenAI call that is current, whoever made it."""
    span = model_span()
    return span if span is not None and getattr(span, "kind", None) is SpanKind.CLIENT else None


def model_span() -> Span | None:
    """The recording span of one model call that is current, in OpenTelemetry's words or OpenInference's.

    None for one that a stream has taken: what comes below it next is another call.
    """
    span = trace.get_current_span()
    if not span.is_recording() or _TAKEN in getattr(span, "__dict__", ()):
        return None
    attributes = getattr(span, "attributes", None) or {}
    if attributes.get(s.OPERATION) in CALLS and getattr(span, "kind", None) is SpanKind.CLIENT:
        return span
    # OpenInference leaves the span's kind alone; and its own, given after the start, it keeps till the end.
    late = getattr(span, "_self_important_attributes", None) or {}
    return span if "LLM" in (attributes.get(s.OPENINFERENCE_KIND), late.get(s.OPENINFERENCE_KIND)) else None


def unreadable_span() -> Span | None:
    """The recording span that is current, if its attributes cannot be read."""
    span = trace.get_current_span()
    readable = getattr(span, "attributes", None) is not None
    return None if readable or not span.is_recording() or _TAKEN in getattr(span, "__dict__", ()) else span


def take(span: Span) -> bool:
    """Let one stream have `span`; False when another one has it."""
    mine = object()
    try:
        return vars(span).setdefault(_TAKEN, mine) is mine
    except TypeError:  # it has slots, and nowhere to say so
        return True


def give_back(span: Span) -> None:
    """What took `span` was no stream."""
    getattr(span, "__dict__", {}).pop(_TAKEN, None)


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
        span.set_attributes(summary(stream) if end else _added(summary(stream), span))
        if events:
            for name, at, attributes in stream.events:
                span.add_event(name, attributes, timestamp=nanoseconds(stream, at))
        if stream.outcome == "failed" and (end or _status_is_open(span)):
            span.set_status(Status(StatusCode.ERROR))
    if end:
        span.end(nanoseconds(stream, stream.end_at) if stream.end_at is not None else None)


def _added(values: dict[str, AttributeValue], span: Span) -> dict[str, AttributeValue]:
    """What somebody else's span lacks: names of ours, and those of the conventions that its owner has not set."""
    known = getattr(span, "attributes", None)
    return {
        name: value
        for name, value in values.items()
        if name.startswith("otelstream.") or (known is not None and name not in known)
    }


def _status_is_open(span: Span) -> bool:
    """Whether its owner has set none; of a span that cannot be read nobody knows."""
    return getattr(getattr(span, "status", None), "status_code", None) is StatusCode.UNSET


def nanoseconds(stream: StreamObservation, at: float) -> int:
    """The wall clock at an instant of the stream's monotonic one."""
    return stream.started_ns + int((at - stream.started) * 1e9)


def _finish_reasons(stream: StreamObservation) -> list[str] | None:
    reason = stream.finish_reason or ("error" if stream.outcome == "failed" else None)
    return None if reason is None else [reason]


def early(stream: StreamObservation) -> dict[str, AttributeValue]:
    """What is known of a stream when its response is there, in names of ours."""
    known: dict[str, AttributeValue | None] = {
        s.ATTEMPTS: max(1, stream.attempts),
        s.LAST_ATTEMPT_DELAY: stream.last_attempt_at - stream.started if stream.attempts > 1 else None,
        s.TURN_ID: stream.turn_id,
        s.ROUTE: stream.route,
    }
    return {name: value for name, value in known.items() if value is not None}


def summary(stream: StreamObservation) -> dict[str, AttributeValue]:
    """The attributes that say how one ended stream went; what nobody knows is left out."""
    gaps = stream.cadence.all
    values: dict[str, AttributeValue | None] = {
        s.OUTCOME: stream.outcome,
        s.PHASE: stream.phase,
        s.FAULT: stream.fault,
        s.SUCCEEDED_THEN_FAILED: stream.succeeded_then_failed,
        s.PARTIAL: stream.partial,
        s.TIME_TO_FIRST_CHUNK: stream.time_to_first_chunk,
        s.TIME_TO_FIRST_TOKEN: stream.time_to_first_token,
        s.WAIT_WITHOUT_TOKEN: stream.wait_without_token,
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
        s.RESPONSE_ID: stream.response_id,
        s.RESPONSE_MODEL: stream.response_model,
        s.FINISH_REASONS: _finish_reasons(stream),
        s.UNSEEN: stream.unseen or None,
        s.RECHUNKED: stream.rechunked or None,
        s.RESPONSE_TIME_TO_FIRST_CHUNK: stream.time_to_first_chunk,
        s.REQUEST_ID: stream.request_id,
        s.ERROR_TYPE: stream.error_type if stream.outcome == "failed" else None,
        **early(stream),
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
        ("reversal", s.OBJECTIVE_REVERSAL),
    ):
        results = [result for objective, result in stream.judged if objective.kind == kind]
        if results:
            # Several of one kind: the worst verdict is the one a sampler must not miss.
            values[name] = next(word for word in ("bad", "good", "excluded") if word in results)
    return {name: value for name, value in values.items() if value is not None}
