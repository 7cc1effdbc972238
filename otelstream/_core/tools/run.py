# SPDX-License-Identifier: Apache-2.0
"""One run of a tool: the call it serves, when it began and ended, and its span."""

from __future__ import annotations

from time import perf_counter as clock
from types import TracebackType
from typing import Any, final

from opentelemetry import trace
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.trace import Span, Status, StatusCode

from otelstream import _semconv as s
from otelstream._core.emit import tool as tool_spans
from otelstream._core.record.call import ToolCall
from otelstream._core.record.host import Host, hosts
from otelstream._core.record.place import here
from otelstream._core.tools import parked
from otelstream._core.tools.registry import registry, serving
from otelstream._core.turns import turn as turns
from otelstream._core.turns import variable
from otelstream._trouble import trouble


@final
class Run:
    """Goes around a run of a tool, `call` None where nobody knows which one it serves. Raises nothing of its own.

    Not `stamped`: the tool has a gate of its own, which says when it starts.
    """

    __slots__ = ("_began", "_context", "_own_span", "_stamped", "_token", "call", "evidence", "failed", "guessed",
                 "name", "span")  # fmt: skip

    def __init__(
        self, name: str, call: ToolCall | None, evidence: s.Evidence, *, guessed: bool = False, stamped: bool = True
    ) -> None:
        self.name, self.call, self.evidence, self.guessed = name, call, evidence, guessed
        self.failed = False  # it returned, and what it returned says that it failed
        self.span: Span | None = None
        self._stamped = stamped
        self._own_span = False
        self._began = 0.0
        self._token: Any = None
        self._context: Any = None

    def __enter__(self) -> Run:
        try:
            self._began = clock()
            call = self.call
            if call is not None and self._stamped:
                registry.dispatched(call, self.evidence, self._began, guessed=self.guessed)
            if call is not None:
                self._token = variable.put(serving, call)
            self._open_span()
            if call is not None and self.span is not None:
                call.span = self.span
        except Exception:
            trouble("starting a tool")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            now = clock()
            call = self.call
            if self._token is not None:
                variable.reset(serving, self._token)
            if call is None:
                parked.ran(self._began, now, here(), turns.current())
            else:
                call.span = None
                registry.finished(call, "failed" if error is not None or self.failed else "committed", now)
            self._close_span(error)
        except Exception:
            trouble("ending a tool")

    def refused(self, error: BaseException) -> None:
        """The hold of the call refused it: that goes on a span of the tool's once the stream's record is out."""
        try:
            call = self.call
            out = call.stream.emitted_at if call is not None and call.stream is not None else None
            if call is None or out is None or call.withheld_at is None or call.withheld_at <= out:
                return
            if call.span is None:  # else the run around this one says it
                self._open_span()
                self._close_span(error)
        except Exception:
            trouble("saying that a tool was withheld")

    def _open_span(self) -> None:
        current = trace.get_current_span()
        if tool_spans.carries(current, self.name, self.call):
            self.span = current
            return
        runtime = _host_of(self.call)
        if self.evidence != "decorator" or runtime is None or runtime.settings.spans not in ("auto", "own"):
            return
        if not is_instrumentation_enabled():
            return
        self.span, self._own_span = tool_spans.start(runtime, self.name, self.call), True
        self._context = variable.current(self.span)
        self._context.__enter__()

    def _close_span(self, error: BaseException | None) -> None:
        if self._context is not None:
            self._context.__exit__(None, None, None)
        span = self.span
        if span is None:
            return
        if span.is_recording():
            if self.call is not None:
                tool_spans.write(self.call, span)
            if self._own_span and error is not None:
                span.set_attribute(s.ERROR_TYPE, type(error).__qualname__)
                span.set_status(Status(StatusCode.ERROR))
        if self._own_span:
            span.end()


def _host_of(call: ToolCall | None) -> Host | None:
    if call is not None and call.stream is not None:
        host: Host = call.stream.runtime
        return host
    return hosts[-1] if hosts else None
