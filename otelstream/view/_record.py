# SPDX-License-Identifier: Apache-2.0
"""What an exporter received of one span, in a form that crosses processes as one line of JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from otelstream import _semconv as names

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

Scalar: TypeAlias = "str | bool | int | float"
Value: TypeAlias = "Scalar | tuple[Scalar, ...]"
Attributes: TypeAlias = Mapping[str, Value]
# Of the conventions only what otelstream writes, or a span of its own begins with: no message content is among it.
_SHOWN = frozenset(
    {
        names.OPERATION,
        names.PROVIDER,
        names.REQUEST_MODEL,
        names.REQUEST_MAX_TOKENS,
        names.REQUEST_TEMPERATURE,
        names.REQUEST_TOP_P,
        names.REQUEST_TOP_K,
        names.REQUEST_STREAM,
        names.SERVER_ADDRESS,
        names.SERVER_PORT,
        *(attribute.name for attribute in names.SPAN_ATTRIBUTES),
        *(attribute for event in names.EVENTS for attribute in event.attributes),
    }
)


@dataclass(frozen=True, slots=True)
class Moment:
    """One span event: its name, when it happened in seconds since the request, its attributes."""

    name: str
    elapsed: float
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class SpanRecord:
    """One span as received, without what others wrote on it: a prompt or an answer may be in that."""

    name: str
    scope: str
    trace_id: str
    span_id: str
    started: float  # Unix seconds; of a stream: its request, which the span of another may begin before
    ended: float | None  # None while the span still records
    status: str  # UNSET, OK or ERROR
    attributes: Attributes
    events: tuple[Moment, ...]
    process: int
    links: tuple[str, ...] = ()  # ids of the spans it is linked to

    @property
    def is_stream(self) -> bool:
        """Whether the span carries a terminal record of a stream."""
        return names.OUTCOME in self.attributes

    @property
    def is_tool(self) -> bool:
        """Whether the span is that of a tool which serves a call."""
        return names.TOOL_CALL_ID in self.attributes and not self.is_stream

    @property
    def turn(self) -> str:
        """The turn it belongs to, by its id, else by its trace."""
        id_ = self.attributes.get(names.TURN_ID)
        return id_ if isinstance(id_, str) else self.trace_id

    def to_json(self) -> str:
        """Return one line, without its line feed."""
        return json.dumps(
            {
                "name": self.name,
                "scope": self.scope,
                "trace_id": self.trace_id,
                "span_id": self.span_id,
                "started": self.started,
                "ended": self.ended,
                "status": self.status,
                "attributes": dict(self.attributes),
                "events": [[event.name, event.elapsed, dict(event.attributes)] for event in self.events],
                "process": self.process,
                "links": self.links,
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, line: str | bytes) -> SpanRecord:
        """Read what `to_json` wrote."""
        data = json.loads(line)
        data["attributes"] = _frozen(data["attributes"])
        data["events"] = tuple(Moment(name, at, _frozen(attributes)) for name, at, attributes in data["events"])
        data["links"] = tuple(data["links"])
        return cls(**data)

    @classmethod
    def from_span(cls, span: ReadableSpan) -> SpanRecord:
        """Copy what a finished span, or one that still records, carries now."""
        start = span.start_time or 0
        context = span.get_span_context()
        is_stream = names.OUTCOME in (span.attributes or {})
        events = []
        for event in tuple(span.events):
            if not _ours(event.name):
                continue
            attributes = _shown(event.attributes)
            elapsed = attributes.get(names.ELAPSED)
            if not isinstance(elapsed, (int, float)):
                elapsed = (event.timestamp - start) / 1e9
            elif is_stream:
                start = event.timestamp - int(elapsed * 1e9)
            events.append(Moment(event.name, float(elapsed), attributes))
        scope = span.instrumentation_scope
        return cls(
            name=span.name,
            scope=scope.name if scope else "",
            trace_id=f"{context.trace_id:032x}" if context else "",
            span_id=f"{context.span_id:016x}" if context else "",
            started=start / 1e9,
            ended=span.end_time / 1e9 if span.end_time else None,
            status=span.status.status_code.name,
            attributes=_shown(span.attributes),
            events=tuple(events),
            process=os.getpid(),
            links=tuple(f"{link.context.span_id:016x}" for link in span.links),
        )


def plain(text: str) -> str:
    """Text of others with blanks for control characters and for the marks that turn text around."""
    return text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)


def _ours(name: str) -> bool:
    return name.startswith("otelstream.")


def _shown(attributes: Mapping[str, object] | None) -> dict[str, Value]:
    return _frozen({name: value for name, value in (attributes or {}).items() if _ours(name) or name in _SHOWN})


def _frozen(attributes: Mapping[str, object]) -> dict[str, Value]:
    """Lists and tuples are one kind of value: JSON knows no other."""
    frozen: dict[str, Value] = {}
    for key, value in dict(attributes).items():
        if isinstance(value, (str, bool, int, float)):
            frozen[key] = value
        elif isinstance(value, Sequence):
            frozen[key] = tuple(value)
    return frozen
