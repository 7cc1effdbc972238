# SPDX-License-Identifier: Apache-2.0
"""What one `instrument()` sets up for the process: the open streams, the emitters, and the way to a safe emission."""

from __future__ import annotations

import _thread
import atexit
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from opentelemetry.metrics import Meter
from opentelemetry.trace import Tracer
from opentelemetry.util.types import AttributeValue

from otelstream._core.emit import span as emitted
from otelstream._core.emit.metrics import Metrics
from otelstream._core.emit.observed import everywhere
from otelstream._core.process import drops, stopping
from otelstream._core.process.closing import disown, end
from otelstream._core.record.call import ToolCall
from otelstream._core.record.ending import abandoned
from otelstream._core.record.grammar import Grammar
from otelstream._core.record.host import hosts
from otelstream._core.record.settings import Settings
from otelstream._core.record.stream import StreamObservation
from otelstream._core.tools import spans as tool_spans
from otelstream._core.tools.registry import registry
from otelstream._core.turns import turn as turns
from otelstream._trouble import trouble


class Runtime:
    """The state behind the patches. Hooks reach it through the adapter; none of its methods raises."""

    def __init__(
        self,
        settings: Settings,
        tracer: Tracer,
        meter: Meter,
        logger: Any,
        info: Mapping[str, str],
        providers: Sequence[str] = (),
    ) -> None:
        self.settings = settings
        self.tracer = tracer
        self._logger = logger
        self._open: dict[int, StreamObservation] = {}
        self._deferred: deque[StreamObservation] = deque()
        self._at_exit = False
        self.tracer_provider: Any = None  # None: the global one
        self._sees_tool_spans = False
        self.metrics = Metrics(meter, settings, self.open_streams, info, providers)
        self.stream_ended: list[Callable[[StreamObservation], object]] = []
        self.stream_repeats: list[Callable[[StreamObservation], object]] = []

    # --- streams ------------------------------------------------------------------------------------------

    def begin(
        self, *, operation: str, provider: str, model: str, grammar: Grammar, choices: int = 1
    ) -> StreamObservation:
        """Open the record of a stream whose request is about to be issued."""
        turn = turns.for_stream()
        stream = StreamObservation(
            self, operation=operation, provider=provider, model=model, grammar=grammar, turn=turn, choices=choices
        )
        stopping.inherit(stream, turn)
        turn.add(stream)
        turns.begun(stream)
        registry.sweep()
        if not self._sees_tool_spans:  # not earlier: the provider may be set after `instrument()`
            self._sees_tool_spans = tool_spans.attach(self.tracer_provider)
        self._open[id(stream)] = stream
        if not self._at_exit:
            # Not earlier: exit handlers run last in first out, and the provider's own must run after ours.
            self._at_exit = True
            atexit.register(self._exit)
        self._drain()
        self.metrics.started(stream)
        return stream

    def discard(self, stream: StreamObservation) -> None:
        """Take back a record that turned out to be no stream."""
        self._open.pop(id(stream), None)
        if isinstance(stream.turn, turns.Turn):
            stream.turn.drop(stream)

    def open_streams(self) -> Iterator[StreamObservation]:
        """The streams that have not ended, oldest first."""
        return iter(list(self._open.values()))

    def repetition_seen(self, stream: StreamObservation) -> bool:
        """Tell the application of a loop; True when it asks for the stream to be closed."""
        stop = False
        for callback in self.stream_repeats:
            try:
                stop = callback(stream) is True or stop
            except Exception:
                trouble("an on_repetition callback")
        return stop

    def tool_opened(self, stream: StreamObservation, call: ToolCall) -> None:
        """The model began to ask for a tool."""
        registry.opened(stream, call)

    # --- spans --------------------------------------------------------------------------------------------

    def attach_span(self, stream: StreamObservation, attributes: Mapping[str, AttributeValue]) -> None:
        """Give `stream` the call span that is current, else one of our own, as setting `spans` says."""
        spans = self.settings.spans
        if spans in ("auto", "enrich"):
            stream.span = emitted.model_span()
            if stream.span is not None:
                return
        if spans in ("auto", "own"):
            stream.span = emitted.start(self.tracer, stream, attributes)
            stream.own_span = True

    # --- the end ------------------------------------------------------------------------------------------

    def publish(self, stream: StreamObservation) -> None:
        """Emit an ended record: at once, or from a thread of its own when the garbage collector got us here.

        The collector runs wherever it likes, also where this thread holds a lock of the OpenTelemetry SDK's.
        """
        self._open.pop(id(stream), None)
        stream.native_end = None  # it refers back to the stream
        if not drops.collecting():
            self._emit(stream, in_finaliser=False)
            self._drain()
            return
        if not stream.own_span and stream.span is not None:
            self.write_span(stream)  # somebody else ends that span now: later is too late
        self._deferred.append(stream)
        try:
            _thread.start_new_thread(self._drain, ())
        except RuntimeError:  # no threads any more: exit drains
            return

    def _drain(self) -> None:
        while self._deferred:
            try:
                stream = self._deferred.popleft()
            except IndexError:
                return
            self._emit(stream, in_finaliser=True)

    def _emit(self, stream: StreamObservation, *, in_finaliser: bool) -> None:
        if stream.own_span or not in_finaliser:
            self.write_span(stream)
        try:
            stream.emitted = True
            self.metrics.ended(stream)
            registry.ended(stream)
            if stream.cancel is not None:
                self.metrics.cancelled(stream, stream.cancel)
                stopping.count(stream, stream.cancel.ledger)
            if isinstance(stream.turn, turns.Turn):
                stream.turn.call_if_over()
        except Exception:
            trouble("recording metrics")
        if self.settings.events in ("log", "both"):
            try:
                from otelstream._core.emit import logs

                logs.write(stream, self._logger)
            except Exception:
                trouble("writing log records")
        for callback in self.stream_ended:
            try:
                callback(stream)
            except Exception:
                trouble("an on_stream_end callback")

    def write_span(self, stream: StreamObservation) -> None:
        """Write the record on the span, as far as that still records. Never raises."""
        span, own = stream.span, stream.own_span
        if span is None:
            return
        try:
            if not own and not stream.native and not span.is_recording() and self.settings.spans == "auto":
                # A companion that ends its span when the call returns: what it started with would be all there is.
                span, own = emitted.start_late(self.tracer, stream, span), True
            emitted.write(stream, span, events=self.settings.events in ("span", "both"), end=own)
        except Exception:
            trouble("writing a span")

    # --- the process --------------------------------------------------------------------------------------

    def _exit(self) -> None:
        for stream in self.open_streams():
            native_end = stream.native_end
            end(stream, abandoned("shutdown"))
            if native_end is not None:
                native_end()
        self._drain()
        turns.exit()
        registry.exit()

    def restart(self) -> None:
        """Start anew in a forked child: the parent keeps its streams and its counts."""
        for stream in self._open.values():
            disown(stream)
        self._open = {}
        self._deferred.clear()


def _after_fork() -> None:
    drops.restart()
    registry.restart()
    turns.restart()
    stopping.restart()
    for runtime in runtimes():
        runtime.restart()
    for observed in everywhere():
        observed.restart()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def register(runtime: Runtime) -> None:
    """Let collections and forks reach `runtime`; streams begun under an earlier one end under that."""
    hosts.append(runtime)
    drops.watch()


def unregister() -> None:
    """Leave no callback behind. Streams still open are kept until they end."""
    hosts[:] = [runtime for runtime in runtimes() if next(runtime.open_streams(), None) is not None]
    if not hosts:
        drops.unwatch()


def runtimes() -> Iterator[Runtime]:
    """The runtimes that still have something to observe."""
    return iter([host for host in hosts if isinstance(host, Runtime)])
