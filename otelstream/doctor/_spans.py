# SPDX-License-Identifier: Apache-2.0
"""The spans of the examined program as a processor sees them: who else traces a call, and who records its content."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from opentelemetry import trace

from otelstream import _semconv as s
from otelstream._core.record.stream import StreamObservation
from otelstream._trouble import trouble

KEPT = 4096
_NOT_CALLS = {"execute_tool", "invoke_agent", "create_agent", "embeddings"}
_MODELS = (s.REQUEST_MODEL, s.RESPONSE_MODEL, "llm.model_name")
# Names of attributes that hold prompts or answers, of the conventions and of other instrumentations.
_CONTENT = (
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.system_instructions",
    "gen_ai.prompt",
    "gen_ai.completion",
    "gen_ai.content.",
    "gen_ai.tool.call.arguments",
    "gen_ai.tool.call.result",
    "llm.input_messages",
    "llm.output_messages",
    "input.value",
    "output.value",
    "traceloop.entity.input",
    "traceloop.entity.output",
)


@dataclass(frozen=True, slots=True)
class _Call:
    scope: str
    id: int
    model: str
    start: int
    end: int


class SpanWatch:
    """A span processor that only reads."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Start anew, in a forked child."""
        self._lock = threading.Lock()
        self._calls: deque[_Call] = deque(maxlen=KEPT)
        self._content: dict[str, set[str]] = {}
        self._dropped = 0

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        return

    def _on_ending(self, span: Any) -> None:
        return

    def on_end(self, span: Any) -> None:
        try:
            attributes = span.attributes or {}
            scope = span.instrumentation_scope.name if span.instrumentation_scope else ""
            names = [name for name in _names(span) if name.startswith(_CONTENT)]
            models = [attributes[name] for name in _MODELS if isinstance(attributes.get(name), str)]
            is_call = bool(models) and attributes.get(s.OPERATION) not in _NOT_CALLS
            with self._lock:
                if names:
                    self._content.setdefault(scope, set()).update(names[:8])
                if is_call:
                    # Several names of one model: `requested` and `answered` may differ.
                    found = [_Call(scope, span.context.span_id, m, span.start_time, span.end_time) for m in models]
                    self._calls.extend(found)
                if s.OUTCOME in attributes:
                    self._dropped += span.dropped_events + span.dropped_attributes
        except Exception:
            trouble("examining a span")

    def shutdown(self) -> None:
        return

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True

    def beside(self, stream: StreamObservation, scope: str | None) -> list[str]:
        """The scopes of the spans that this call got, its own (`scope`) included."""
        if stream.span is None or stream.end_at is None:
            return []
        start = stream.started_ns
        end = start + int((stream.end_at - stream.started) * 1e9)
        with self._lock:
            found = {
                call.id: call.scope
                for call in self._calls
                if call.model in (stream.model, stream.response_model) and call.start <= end and call.end >= start
            }
        own = stream.span.get_span_context().span_id
        scopes = {scope for id_, scope in found.items() if id_ != own}
        # Another span of the same scope belongs to another call that ran at the same time.
        return sorted({scope, *scopes}) if scope else sorted(scopes)

    def facts(self) -> dict[str, Any]:
        with self._lock:
            content = {scope: sorted(names) for scope, names in self._content.items()}
            return {"content": content, "dropped": self._dropped}


def _names(span: Any) -> Iterator[str]:
    yield from span.attributes or ()
    for event in span.events:
        yield event.name
        yield from event.attributes or ()


def watch_providers(watch: SpanWatch) -> None:
    """Hear the spans of the global SDK provider, and of every one made from now on."""
    try:
        from opentelemetry.sdk.trace import TracerProvider
    except ImportError:
        return
    current = trace.get_tracer_provider()
    if isinstance(current, TracerProvider):
        current.add_span_processor(watch)  # type: ignore[arg-type]
    original = TracerProvider.__init__

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        original(self, *args, **kwargs)
        self.add_span_processor(watch)

    TracerProvider.__init__ = __init__  # type: ignore[method-assign]
