# SPDX-License-Identifier: Apache-2.0
"""The events of a stream as log records, with the context of its span."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry._logs import Logger, LogRecord, SeverityNumber

from otelstream import _semconv as s
from otelstream._core.emit.span import nanoseconds
from otelstream._core.record.stream import StreamObservation

_SEVERITY = {s.EVENT_FAILURE: SeverityNumber.WARN, s.EVENT_STALL: SeverityNumber.INFO}


def write(stream: StreamObservation, logger: Logger) -> None:
    """Emit one log record an event; its name is `event_name`, it has no body."""
    context = trace.set_span_in_context(stream.span) if stream.span is not None else None
    for name, at, attributes in stream.events:
        severity = _SEVERITY.get(name, SeverityNumber.DEBUG)
        logger.emit(
            LogRecord(
                timestamp=nanoseconds(stream, at),
                context=context,
                severity_number=severity,
                severity_text=severity.name,
                attributes=attributes,
                event_name=name,
            )
        )
