# SPDX-License-Identifier: Apache-2.0
"""A tool call on spans: that of its run, our own or somebody else's, and its dispatch and end as events."""

from __future__ import annotations

from collections.abc import Iterator

from opentelemetry.trace import Link, Span, SpanKind
from opentelemetry.util.types import AttributeValue

from otelstream import _semconv as s
from otelstream._core.emit.span import nanoseconds
from otelstream._core.record.call import ToolCall
from otelstream._core.record.host import Host
from otelstream._core.record.text import printable


def carries(span: Span, name: str, call: ToolCall | None) -> bool:
    """Whether `span` is about this run of the tool `name`, and can be written on.

    A framework may say which call it was only when the tool has returned: until then the tool's name has to do.
    """
    attributes = getattr(span, "attributes", None)
    if attributes is None or not span.is_recording():
        return False
    id_ = attributes.get(s.TOOL_CALL_ID)
    if id_ is not None:
        return call is not None and bool(id_ == call.id)
    if getattr(getattr(span, "instrumentation_scope", None), "name", None) == s.SCOPE:
        return False  # of a run around this one, of nobody's call
    named = attributes.get(s.TOOL_NAME)
    if named is not None:
        return bool(named == name and attributes.get(s.OPERATION) == s.EXECUTE_TOOL)
    return getattr(span, "name", None) == f"{s.EXECUTE_TOOL} {name}"


def start(runtime: Host, name: str, call: ToolCall | None) -> Span:
    """Start a span of our own for a run of the tool `name`, linked to that of the stream that asked for it."""
    attributes: dict[str, AttributeValue] = {s.OPERATION: s.EXECUTE_TOOL, s.TOOL_NAME: printable(name)}
    links = []
    if call is not None:
        if call.id:
            attributes[s.TOOL_CALL_ID] = printable(call.id)
        if call.stream is not None and call.stream.span is not None:
            links.append(Link(call.stream.span.get_span_context()))
            call.told |= {"link"}
    name = f"{s.EXECUTE_TOOL} {printable(name)}"
    return runtime.tracer.start_span(name, kind=SpanKind.INTERNAL, attributes=attributes, links=links)


def write(call: ToolCall, span: Span) -> None:
    """Say on the span of a tool what its call was; with its events where the stream's span has ended before."""
    stream = call.stream
    span.set_attributes(_attributes(call))
    if stream is None or stream.runtime.settings.events not in ("span", "both"):
        return
    if stream.span is not None and hasattr(span, "add_link") and "link" not in call.told:
        call.told |= {"link"}
        span.add_link(stream.span.get_span_context())
    for name, at, attributes in events(call, after=stream.emitted_at):
        if name not in call.told:
            call.told |= {name}
            span.add_event(name, attributes, timestamp=nanoseconds(stream, at))


def _attributes(call: ToolCall) -> dict[str, AttributeValue]:
    found: dict[str, AttributeValue | None] = {
        s.TOOL_CALL_EFFECT: call.effect,
        s.TOOL_CALL_STATE: call.state,
        # Whose stream is still open, and may get its end before this run is over: that span must not wait for it.
        s.DISPATCH_PHASE: call.phase or (None if call.dispatched_at is None else "mid_stream"),
        s.DISPATCH_EVIDENCE: call.evidence,
        s.DISPATCH_GUESSED: call.guessed,
        s.TOOL_CALL_SINCE_END: call.since_end,
        s.TOOL_CALL_SINCE_READY: _since_ready(call, call.dispatched_at),
    }
    return {name: value for name, value in found.items() if value is not None}


def _since_ready(call: ToolCall, at: float | None) -> float | None:
    if call.stream is None or call.ready is None or at is None:
        return None
    return float(at - call.stream.started - call.ready)


def events(
    call: ToolCall, *, before: float | None = None, after: float | None = None
) -> Iterator[tuple[str, float, dict[str, AttributeValue]]]:
    """The dispatch and the end of `call` as events: those that were known `before` an instant, or came `after`."""
    stream = call.stream
    if stream is None:
        return
    over = call.finished_at if call.withheld_at is None else call.withheld_at
    for name, at in ((s.EVENT_TOOL_DISPATCHED, call.dispatched_at), (s.EVENT_TOOL_FINISHED, over)):
        if at is None or (before is not None and at > before) or (after is None) == (before is None):
            continue
        if after is not None and at <= after:
            continue
        values: dict[str, AttributeValue | None] = {
            s.TOOL_NAME: printable(call.name),
            s.TOOL_CALL_ID: printable(call.id),
            s.TOOL_CALL_SINCE_READY: _since_ready(call, at),
            s.TOOL_CALL_SINCE_END: None if stream.end_at is None else at - stream.end_at,
            s.TOOL_CALL_EFFECT: call.effect,
        }
        if name == s.EVENT_TOOL_DISPATCHED:
            values |= {
                s.DISPATCH_PHASE: call.phase,
                s.DISPATCH_EVIDENCE: call.evidence,
                s.DISPATCH_GUESSED: call.guessed,
            }
        else:
            values[s.TOOL_CALL_STATE] = call.state
        yield name, at, {key: value for key, value in values.items() if value is not None}
