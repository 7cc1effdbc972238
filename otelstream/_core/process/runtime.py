# SPDX-License-Identifier: Apache-2.0
"""What one `instrument()` sets up for the process: the open streams, the emitters, and the way to a safe emission."""

from __future__ import annotations

import _thread
import atexit
import gc
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from opentelemetry.metrics import Meter
from opentelemetry.trace import Tracer
from opentelemetry.util.types import AttributeValue

from otelstream._core.emit import span as _span
from otelstream._core.emit.labels import Labels
from otelstream._core.emit.metrics import Metrics
from otelstream._core.record import cancel as _cancel
from otelstream._core.record.call import ToolCall
from otelstream._core.record.ending import abandoned
from otelstream._core.record.stream import StreamObservation
from otelstream._core.tools import parked as _parked
from otelstream._core.tools import spans as _processor
from otelstream._core.tools.registry import registry
from otelstream._core.turns import turn as _turn
from otelstream._face.config import Settings
from otelstream._semconv import StallSource
from otelstream._trouble import trouble


class Runtime:
    """The state behind the patches. Hooks reach it through the adapter; none of its methods raises."""

    def __init__(self, settings: Settings, tracer: Tracer, meter: Meter, logger: Any, info: Mapping[str, str]) -> None:
        self.settings = settings
        self.tracer = tracer
        self.labels = Labels()
        self._logger = logger
        self._open: dict[int, StreamObservation] = {}
        self._deferred: deque[StreamObservation] = deque()
        self._at_exit = False
        self.tracer_provider: Any = None  # None: the global one
        self._sees_tool_spans = False
        self.metrics = Metrics(meter, settings, self.labels, self.open_streams, info)
        self.stream_ended: list[Callable[[StreamObservation], object]] = []
        self.stream_repeats: list[Callable[[StreamObservation], object]] = []

    # --- streams ------------------------------------------------------------------------------------------

    def begin(self, *, operation: str, provider: str, model: str) -> StreamObservation:
        """Open the record of a stream whose request is about to be issued."""
        turn = _turn.for_stream()
        stream = StreamObservation(self, operation=operation, provider=provider, model=model, turn=turn)
        _cancel.inherit(stream, turn)
        turn.add(stream)
        _turn.begun(stream)
        registry.sweep()
        if not self._sees_tool_spans:  # not earlier: the provider may be set after `instrument()`
            self._sees_tool_spans = _processor.attach(self.tracer_provider)
        self._open[id(stream)] = stream
        if not self._at_exit:
            # Not earlier: exit handlers run last in first out, and the provider's own must run after ours.
            self._at_exit = True
            atexit.register(self._exit)
        self._drain()
        self.metrics.started(stream)
        return stream

    def forget(self, stream: StreamObservation) -> None:
        """Drop a record that turned out to be no stream."""
        self._open.pop(id(stream), None)
        if stream.turn is not None:
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

    def holder(self, stream: StreamObservation, start: float, end: float) -> StallSource:
        """Who kept `stream` parked between two instants of its clock."""
        return "own_tool" if _parked.by_tool(stream, start, end) else "consumer"

    def compensated(self, call: ToolCall) -> None:
        """The application undid the side effect of `call`; counted where a stop had found it."""
        try:
            if call.stream is not None and call.stood:
                _cancel.count_one(call.stream, call, "compensated")
        except Exception:
            trouble("recording a compensation")

    # --- spans --------------------------------------------------------------------------------------------

    def attach_span(self, stream: StreamObservation, attributes: Mapping[str, AttributeValue]) -> None:
        """Give `stream` the call span that is current, else one of our own, as setting `spans` says."""
        spans = self.settings.spans
        if spans in ("auto", "enrich"):
            stream.span = _span.model_span()
            if stream.span is not None:
                return
        if spans in ("auto", "own"):
            stream.span = _span.start(self.tracer, stream, attributes)
            stream.own_span = True

    # --- the end ------------------------------------------------------------------------------------------

    def finish(self, stream: StreamObservation) -> None:
        """Emit an ended record: at once, or from a thread of its own when the garbage collector got us here.

        The collector runs wherever it likes, also where this thread holds a lock of the OpenTelemetry SDK's.
        """
        self._open.pop(id(stream), None)
        stream.native_end = None  # it refers back to the stream
        if not _collecting:
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
                _cancel.count(stream, stream.cancel.ledger)
            if stream.turn is not None:
                stream.turn.settle()
        except Exception:
            trouble("recording metrics")
        if self.settings.events in ("log", "both"):
            try:
                from otelstream._core.emit import logs as _logs

                _logs.write(stream, self._logger)
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
                span, own = _span.start_late(self.tracer, stream, span), True
            _span.write(stream, span, events=self.settings.events in ("span", "both"), end=own)
        except Exception:
            trouble("writing a span")

    # --- the process --------------------------------------------------------------------------------------

    def _exit(self) -> None:
        for stream in self.open_streams():
            native_end = stream.native_end
            stream.end(abandoned("shutdown"))
            if native_end is not None:
                native_end()
        self._drain()
        _turn.exit()
        registry.exit()

    def forked(self) -> None:
        """Start anew in a forked child: the parent keeps its streams and its counts."""
        for stream in self._open.values():
            stream.disown()
        self._open = {}
        self._deferred.clear()
        self.metrics.forget()


_runtimes: list[Runtime] = []
_collecting = False
_dropped: deque[tuple[StreamObservation, Callable[[], object] | None]] = deque()


def _on_collection(phase: str, _: dict[str, int]) -> None:
    global _collecting
    if phase == "start":
        _collecting = True
        return
    while _dropped:
        _decide_drop(*_dropped.popleft())
    _collecting = False


def collecting() -> bool:
    """Whether the cyclic collector is at work."""
    return _collecting


def dropped(stream: StreamObservation, then: Callable[[], object] | None = None) -> None:
    """End a stream that nobody holds any more, and call `then`. Never raises.

    During a collection not before it is over: a generator that holds the stream's `with` may be taken later in the
    same one, and what its closing says goes first.
    """
    if _collecting:
        _dropped.append((stream, then))
    else:
        _decide_drop(stream, then)


def _decide_drop(stream: StreamObservation, then: Callable[[], object] | None) -> None:
    try:
        stream.end(abandoned("gc"))
        if then is not None:
            then()
    except Exception:
        trouble("ending a dropped stream")


def _after_fork() -> None:
    global _collecting
    _collecting = False
    _dropped.clear()
    registry.forget()
    _turn.forget()
    for runtime in _runtimes:
        runtime.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def register(runtime: Runtime) -> None:
    """Let collections and forks reach `runtime`; streams begun under an earlier one end under that."""
    _runtimes.append(runtime)
    if _on_collection not in gc.callbacks:
        gc.callbacks.append(_on_collection)


def unregister() -> None:
    """Leave no callback behind. Streams still open are kept until they end."""
    global _collecting
    _runtimes[:] = [runtime for runtime in _runtimes if next(runtime.open_streams(), None) is not None]
    if not _runtimes and _on_collection in gc.callbacks:
        gc.callbacks.remove(_on_collection)
        _collecting = False


def runtimes() -> Iterator[Runtime]:
    """The runtimes that still have something to observe."""
    return iter(list(_runtimes))
