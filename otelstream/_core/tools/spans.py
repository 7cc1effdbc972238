# SPDX-License-Identifier: Apache-2.0
"""Tools seen by their spans: any span with `gen_ai.tool.call.id`, whoever makes it."""

from __future__ import annotations

import time
from time import perf_counter as clock
from typing import Any

from opentelemetry import trace

from otelstream import _semconv as s
from otelstream._core.emit.tool import write
from otelstream._core.tools.registry import registry
from otelstream._trouble import trouble

# Scopes of SDKs whose tool spans an adapter writes on as the tool ends, when all is known.
told_elsewhere: set[str] = set()
_FLAG = "_otelstream_tools"


class ToolSpans:
    """A span processor; it only reads, and writes what is known of the call on the span before it ends."""

    enabled = True

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if registry.idle or not self.enabled:
            return
        try:
            call = _call(span)
            if call is not None:
                registry.dispatched(call, "span", _at(span.start_time))
                scope = getattr(getattr(span, "instrumentation_scope", None), "name", None)
                # At once, also of an eager tool whose stream is still open: an ended span takes nothing any more.
                if call.evidence == "span" and not _told_elsewhere(scope):
                    write(call, span)
        except Exception:
            trouble("reading the start of a span")

    def _on_ending(self, span: Any) -> None:
        return  # the span cannot be written any more

    def on_end(self, span: Any) -> None:
        if registry.idle or not self.enabled:
            return
        try:
            call = _call(span)
            if call is not None and call.evidence in (None, "span"):
                _done(call, span)
        except Exception:
            trouble("reading the end of a span")

    def shutdown(self) -> None:
        return

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True


def _told_elsewhere(scope: object) -> bool:
    return isinstance(scope, str) and any(scope == known or scope.startswith(f"{known}.") for known in told_elsewhere)


def _call(span: Any) -> Any:
    id_ = (getattr(span, "attributes", None) or {}).get(s.TOOL_CALL_ID)
    return registry.by_id(id_) if isinstance(id_, str) else None


def _done(call: Any, span: Any) -> None:
    registry.dispatched(call, "span", _at(span.start_time))
    if call.evidence == "span":
        failed = span.status.status_code is trace.StatusCode.ERROR
        registry.finished(call, "failed" if failed else "committed", _at(span.end_time))


def _at(nanoseconds: int | None) -> float:
    """The instant on the stream clock of a span's wall-clock stamp, which is of just now."""
    if nanoseconds is None:
        return clock()
    return clock() - max(0.0, (time.time_ns() - nanoseconds) / 1e9)


def attach(provider: Any) -> bool:
    """Add a processor to an SDK provider, once; False for what takes none (yet)."""
    provider = trace.get_tracer_provider() if provider is None else provider
    known = getattr(provider, _FLAG, None)
    if known is not None:
        known.enabled = True
        return True
    add = getattr(provider, "add_span_processor", None)
    if add is None:
        return False
    try:
        processor = ToolSpans()
        add(processor)
        setattr(provider, _FLAG, processor)
    except Exception:
        trouble("adding a span processor")
    return True


def detach(provider: Any) -> None:
    """Let the processor of a provider rest: a provider gives none back."""
    provider = trace.get_tracer_provider() if provider is None else provider
    known = getattr(provider, _FLAG, None)
    if known is not None:
        known.enabled = False
