# SPDX-License-Identifier: Apache-2.0
"""What one `instrument()` sets up for the process: the open streams, the emitters, and the way to a safe emission."""

from __future__ import annotations

import atexit
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from opentelemetry.metrics import Meter
from opentelemetry.trace import Span, Tracer
from opentelemetry.util.types import AttributeValue

from otelstream._core.emit import outbox
from otelstream._core.emit import span as emitted
from otelstream._core.emit.metrics import Metrics
from otelstream._core.emit.observed import everywhere
from otelstream._core.process import drops, judges, stopping
from otelstream._core.process.closing import disown, end
from otelstream._core.record.call import ToolCall
from otelstream._core.record.ending import abandoned
from otelstream._core.record.grammar import Grammar
from otelstream._core.record.host import hosts
from otelstream._core.record.settings import Settings
from otelstream._core.record.stream import StreamObservation
from otelstream._core.tools import spans as tool_spans
from otelstream._core.tools.registry import declared, registry
from otelstream._core.turns import turn as turns
from otelstream._trouble import trouble

Callbacks = deque[Callable[[StreamObservation], object]]


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
        self.on = True
        self._at_exit = False
        self.tracer_provider: Any = None  # None: the global one
        self.suppressed_by: set[str] = set()  # scopes of the companions that were said to suppress us; "": nobody known
        self._sees_tool_spans = False
        self.metrics = Metrics(meter, settings, self.open_streams, info, providers, registry.sweep)
        self.listeners: list[Callable[[StreamObservation], object]] = []  # of ours: they hold no lock, and never wait
        self.stream_ended: list[Callable[[StreamObservation], object]] = []
        self.stream_repeats: list[Callable[[StreamObservation], object]] = []

    # --- streams ------------------------------------------------------------------------------------------

    def begin(
        self,
        *,
        operation: str,
        provider: str,
        model: str,
        grammar: Grammar,
        choices: int = 1,
        output_tools: frozenset[str] = frozenset(),
    ) -> StreamObservation:
        """Open the record of a stream whose request is about to be issued.

        `output_tools`: what the request forces the model to call; a name that the application declared is a tool.
        """
        turn = turns.for_stream()
        stream = StreamObservation(
            self,
            operation=operation,
            provider=provider,
            model=model,
            grammar=grammar,
            turn=turn,
            choices=choices,
            output_tools=output_tools and output_tools - declared.keys() - self.settings.tools.keys(),
        )
        turn.add(stream)  # before it is asked: a Stop that comes meanwhile finds it here or there
        stopping.inherit(stream, turn)
        judges.attend(stream)
        turns.begun(stream)
        registry.sweep()
        if not self._sees_tool_spans:  # not earlier: the provider may be set after `instrument()`
            self._sees_tool_spans = tool_spans.attach(self.tracer_provider)
        self._open[id(stream)] = stream
        if not self._at_exit:
            # Not earlier: exit handlers run last in first out, and the provider's own must run after ours.
            self._at_exit = True
            atexit.register(self._exit)
        self.metrics.started(stream)
        return stream

    def discard(self, stream: StreamObservation) -> None:
        """Take back a record that turned out to be no stream."""
        self._open.pop(id(stream), None)
        if isinstance(stream.turn, turns.Turn):
            stream.turn.drop(stream)
        if stream.span is not None and not stream.own_span:
            emitted.give_back(stream.span)
        self._settled()

    def _settled(self) -> None:
        if not self.on and not self._open:
            try:
                _settle()
            except Exception:
                trouble("taking off the last wrapper")

    @property
    def idle(self) -> bool:
        return not self._open

    def open_streams(self) -> Iterator[StreamObservation]:
        """The streams that have not ended, oldest first."""
        return iter(list(self._open.values()))

    def repetition_seen(self, stream: StreamObservation) -> bool:
        """Tell the application of a loop; True when it asks for the stream to be closed."""
        if self.stream_repeats and outbox.finalising():  # where there is nothing left to close
            outbox.later(partial(self._call_repeats, stream))
            return False
        return self._call_repeats(stream)

    def _call_repeats(self, stream: StreamObservation) -> bool:
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

    def attach_span(
        self, stream: StreamObservation, attributes: Mapping[str, AttributeValue], taken: Span | None = None
    ) -> None:
        """Give `stream` the call span that it has `taken` or that is current, else one of our own, as setting `spans`
        says."""
        spans = self.settings.spans
        if spans in ("auto", "enrich"):
            span = taken or emitted.model_span()
            if span is not None and (span is taken or emitted.take(span)):
                stream.span = span
                return
        if spans in ("auto", "own") and not stream.suppressed:
            stream.span = emitted.start(self.tracer, stream, attributes)
            stream.own_span = True

    # --- the end ------------------------------------------------------------------------------------------

    def publish(self, stream: StreamObservation) -> None:
        """Emit a record whose end is decided, once: at once, or from a thread of its own where that is not safe."""
        steps: deque[outbox.Step] = deque()
        phases: deque[outbox.Step] = deque((
            partial(self._prepare, stream, steps),
            partial(outbox.take, steps),
            partial(self._count, stream),
            partial(self._tell, stream, deque(self.listeners), deque(self.stream_ended)),
            self._settled,
        ))  # fmt: skip
        mine = False
        try:
            mine = stream.once.pop()
            self._open.pop(id(stream), None)
            stream.native_end = None  # it refers back to the stream
            if not outbox.reentered():
                _leave(phases)
                return
            if not stream.own_span and stream.span is not None and stream.span.is_recording():
                self.write_span(stream)  # somebody else ends that span now: later is too late
                phases[0] = partial(self._prepare, stream, steps, span=False)
            outbox.later(partial(_leave, phases))
        except IndexError:
            return
        except BaseException:  # Ctrl-C: what has not left yet leaves from a thread
            if mine or not (stream.once or stream.emitted):
                self._open.pop(id(stream), None)
                outbox.later(partial(_leave, phases))
            raise

    def _prepare(self, stream: StreamObservation, steps: deque[outbox.Step], *, span: bool = True) -> None:
        """Everything that leaves of a stream, in steps."""
        steps.clear()
        if span:
            steps.append(partial(self.write_span, stream))
        try:
            stream.emitted = True
            steps += self.metrics.ended(stream)
        except Exception:
            trouble("recording metrics")
        if self.settings.events in ("log", "both") and not stream.suppressed:
            steps.append(partial(self._log, stream))

    def _count(self, stream: StreamObservation) -> None:
        try:
            registry.ended(stream)
            if stream.cancel is not None:
                stopping.count(stream, stream.cancel.ledger)
            if isinstance(stream.turn, turns.Turn):
                stream.turn.call_if_over()
        except Exception:
            trouble("recording metrics")

    @staticmethod
    def _tell(stream: StreamObservation, listeners: Callbacks, callbacks: Callbacks) -> None:
        """Listeners of ours hear at once; the application's callbacks never in a finaliser."""
        _call(listeners, stream)
        if callbacks and outbox.finalising():
            outbox.later(partial(_call, callbacks, stream))
        else:
            _call(callbacks, stream)
        if stream.turn is not None and not stream.turn.implicit:
            stream.shed()  # a turn keeps it for long

    def _log(self, stream: StreamObservation) -> None:
        try:
            from otelstream._core.emit import logs

            logs.write(stream, self._logger)
        except Exception:
            trouble("writing log records")

    def write_span(self, stream: StreamObservation) -> None:
        """Write the record on the span, as far as that still records. Never raises."""
        span, own = stream.span, stream.own_span
        if span is None or (own and not span.is_recording()):  # written already, or nobody looks at it
            return
        try:
            ended = not own and not stream.native and not span.is_recording()
            if ended and self.settings.spans == "auto" and not stream.suppressed:
                # A companion that ends its span when the call returns: what it started with would be all there is.
                span, own = emitted.start_late(self.tracer, stream, span), True
            events = self.settings.events in ("span", "both") and not stream.suppressed
            emitted.write(stream, span, events=events, end=own)
        except Exception:
            trouble("writing a span")

    def write_early(self, stream: StreamObservation) -> None:
        """Write what a response tells on the span of a companion, which may end with the call. Never raises."""
        try:
            if stream.span is not None and stream.span.is_recording():
                stream.span.set_attributes(emitted.early(stream))
        except Exception:
            trouble("writing a span")

    # --- the process --------------------------------------------------------------------------------------

    def _exit(self) -> None:
        for stream in self.open_streams():
            native_end = stream.native_end
            end(stream, abandoned("shutdown"))
            if id(stream) in self._open:  # Ctrl-C struck where nothing could catch it
                stream.once[:] = [True]
                end(stream, abandoned("shutdown"))
            if native_end is not None:
                native_end()
        outbox.settle()
        turns.exit()
        registry.exit()
        outbox.settle()

    def restart(self) -> None:
        """Start anew in a forked child: the parent keeps its streams and its counts."""
        for stream in self._open.values():
            disown(stream)
        self._open = {}


def _leave(phases: deque[outbox.Step]) -> None:
    while phases:
        phases[0]()  # again, if Ctrl-C strikes in it: each goes on where it was
        phases.popleft()


def _call(callbacks: Callbacks, stream: StreamObservation) -> None:
    while callbacks:
        try:
            callbacks.popleft()(stream)
        except Exception:
            trouble("an on_stream_end callback")


def _after_fork() -> None:
    outbox.restart()
    drops.restart()
    registry.restart()
    turns.restart()
    stopping.restart()
    judges.restart()
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
    """Observe nothing that begins from now on. Runtimes whose streams are open are kept until those end."""
    for runtime in runtimes():
        runtime.on = False
        runtime.metrics.retire()
    _settle()


def when_idle(callback: Callable[[], object]) -> None:
    """Call `callback` once no stream is open, now if none is."""
    _waiting.append(callback)
    _settle()


_waiting: list[Callable[[], object]] = []


def _settle() -> None:
    """Let go of what is off and has nothing open, and call who waits for that."""
    hosts[:] = [runtime for runtime in runtimes() if runtime.on or not runtime.idle]
    if not hosts:
        drops.unwatch()
    if all(runtime.idle for runtime in runtimes()):
        while _waiting:
            _waiting.pop()()


def runtimes() -> Iterator[Runtime]:
    """The runtimes that still have something to observe."""
    return iter([host for host in hosts if isinstance(host, Runtime)])
