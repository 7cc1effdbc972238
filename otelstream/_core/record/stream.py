# SPDX-License-Identifier: Apache-2.0
"""One streamed response as it is observed: facts in from an adapter, exactly one ended record out."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from opentelemetry.util.types import AttributeValue

from otelstream import _semconv as s
from otelstream._core.emit import tool as _tool
from otelstream._core.record import cancel as _cancel
from otelstream._core.record.cadence import Cadence
from otelstream._core.record.call import ToolCall
from otelstream._core.record.ending import Ending, by_finish_reason, failed, identity
from otelstream._core.record.objectives import succeeded_then_failed
from otelstream._core.record.repetition import Repetition, RepetitionDetector
from otelstream._core.tools.parked import here
from otelstream._core.tools.registry import registry
from otelstream._trouble import trouble

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from otelstream._core.process.runtime import Runtime
    from otelstream._core.record.objectives import Objective
    from otelstream._core.turns.turn import Turn

BATCH = 32  # chunks summed at once: with 48 a chunk costs 50 ns less, and an open stream keeps 3 KiB more
MAX_TOOL_CALLS = 128  # remembered of one stream
MAX_INPUT_CHARS = 256 * 1024  # of one tool input kept for its validity; beyond, that is left out

clock = time.perf_counter  # CLOCK_MONOTONIC on Linux, in seconds


@dataclass(slots=True)
class Stall:
    """One gap or hold over the threshold. `at` is its end; times in seconds."""

    at: float
    duration: float
    source: s.StallSource
    kind: s.BlockKind
    ping_seen: bool


@dataclass(slots=True)
class Loop:
    """One repetition loop, in a block of `kind`."""

    kind: s.BlockKind
    repetition: Repetition
    at: float
    closed: bool = False  # its block has ended


class StreamObservation:
    """What is known of one stream. Times are seconds on `clock`; the adapter stamps, this class never blocks.

    The end arrives more than once (a verdict of the protocol, the body's end, `close()`, the finaliser, exit): the
    first `end()` decides and emits, the others return.
    """

    __slots__ = (
        "__weakref__",
        "_attributes",
        "_detectors",
        "_once",
        "actions",
        "active_block",
        "activity",
        "ask",
        "asked",
        "attempts",
        "cache",
        "cadence",
        "cancel",
        "carry",
        "chars",
        "chunks",
        "datas",
        "emitted",
        "emitted_at",
        "end_at",
        "ending",
        "events",
        "exhausted",
        "finish_raw",
        "finish_reason",
        "first_chunk_at",
        "first_chunk_kind",
        "first_token_at",
        "first_token_kind",
        "flush_pending",
        "foreign",
        "garbled",
        "judged",
        "last",
        "last_attempt_at",
        "last_chunk_at",
        "loop",
        "loops",
        "model",
        "native",
        "native_end",
        "open_call",
        "opened_under",
        "operation",
        "own_span",
        "pending",
        "ping_seen",
        "provider",
        "reader",
        "reading",
        "request_id",
        "response_at",
        "response_id",
        "response_model",
        "route",
        "runtime",
        "span",
        "stalls",
        "started",
        "started_ns",
        "summing",
        "text_before",
        "tool_calls",
        "turn",
        "undecodable",
        "usage",
        "verdict",
        "visible_chars",
        "waiters",
        "waits",
    )  # fmt: skip

    def __init__(
        self,
        runtime: Runtime,
        *,
        operation: str,
        provider: str,
        model: str,
        turn: Turn | None = None,
    ) -> None:
        self.runtime = runtime
        self.operation, self.provider, self.model = operation, provider, model
        self.turn = turn
        self.route = turn.route if turn is not None else None
        self.started = clock()
        self.started_ns = time.time_ns()
        self._once = [True]  # list.pop() is the one atomic test-and-set that a finaliser may run
        self.ending: Ending | None = None
        self.end_at: float | None = None
        self.span: Span | None = None
        self.own_span = self.native = self.foreign = False
        self.native_end: Callable[[], object] | None = None  # ends the SDK's own span, if that still lives
        self.opened_under = identity(sys.exc_info()[1])
        self.judged: tuple[tuple[Objective, s.ObjectiveResult], ...] = ()  # by the objectives, once it has ended
        self.verdict: Ending | None = None  # a verdict that waits for one that knows better
        # the hot path's own: see the adapter's readers
        self.waits: list[float] = []
        self.datas: list[str] = []
        self.last = self.activity = self.started
        self.ask = 0.0  # when the reader last asked for an event; before `last` while nobody waits
        self.carry = 0.0  # waited since the last chunk, for protocol traffic
        self.flush_pending: Callable[[StreamObservation, float], object] | None = None
        self.pending: Callable[[StreamObservation], tuple[int, int, int]] | None = None  # what waits to be summed
        self.reading: Any = None  # the adapter's own place in the protocol
        # clock points
        self.attempts = 0
        self.last_attempt_at = self.started
        self.response_at: float | None = None
        self.first_chunk_at: float | None = None
        self.first_chunk_kind: s.BlockKind | None = None
        self.first_token_at: float | None = None
        self.first_token_kind: s.FirstTokenKind | None = None
        self.last_chunk_at: float | None = None
        # facts
        self.cadence = Cadence()
        self.chunks = 0
        self.summing = False  # a batch was taken and is not counted yet
        self.chars = 0  # generated, of any kind
        self.visible_chars = 0
        self.stalls: list[Stall] = []
        self.ping_seen = False
        self.active_block: s.BlockKind | None = None
        self.text_before = False
        self.tool_calls: list[ToolCall] = []
        self.open_call: ToolCall | None = None  # its input is still streaming
        self.reader: tuple[int, int] | None = None  # the thread and task that read the newest tool call
        self.waiters: list[Callable[[], object]] = []  # held calls, to be woken at the end
        self.asked: _cancel.Ask | None = None
        self.cancel: _cancel.Cancel | None = None
        self.actions: list[tuple[float, int]] = []  # when the user acted, and what was there
        self.emitted = False
        self.emitted_at: float | None = None
        self.loops: list[Loop] = []
        self.loop: Any = None  # lag of the event loop that reads this stream
        self._detectors: dict[s.BlockKind, RepetitionDetector] = {}
        self.garbled = False  # an event was no JSON, which only a reader that parses none gets past
        self.undecodable: s.Fault | None = None  # what a stream is that was left at an event nobody can parse
        self.exhausted = False
        self.finish_reason: str | None = None
        self.finish_raw: str | None = None
        self.response_id: str | None = None
        self.response_model: str | None = None
        self.request_id: str | None = None
        self.usage: dict[str, int] = {}
        self.cache: s.CacheUse = "none"
        self.events: list[tuple[str, float, dict[str, AttributeValue]]] = []
        self._attributes: dict[str, AttributeValue] | None = None

    # --- the request --------------------------------------------------------------------------------------

    def attempt(self) -> None:
        """An HTTP request is about to be sent: the first, or a retry."""
        self.attempts += 1
        self.last_attempt_at = clock()

    def retry(self, error_type: str) -> None:
        """The last attempt failed with `error_type` and another follows."""
        self.runtime.metrics.retried(self, error_type)

    def responded(self, request_id: str | None) -> None:
        """A 2xx status line and headers arrived."""
        if self.response_at is None:
            self.response_at = self.last = self.activity = clock()
        if request_id:
            self.request_id = request_id

    # --- the answer ---------------------------------------------------------------------------------------

    def block_started(self, kind: s.BlockKind) -> None:
        self.active_block = kind
        detector = self._detectors.get(kind)
        if detector is not None:
            detector.reset()

    def block_ended(self, at: float) -> None:
        self._close_detector(at)
        if self.active_block == "text":
            self.text_before = True
        self.active_block = None

    def first_chunk(self, kind: s.BlockKind, at: float) -> None:
        """The first non-empty delta of any kind arrived."""
        self.first_chunk_at, self.first_chunk_kind = at, kind
        self.cadence.open(at - self.started)
        self.event(s.EVENT_FIRST_CHUNK, at, {s.BLOCK_KIND: kind, s.CHUNK_INDEX: 0})

    def first_token(self, kind: s.FirstTokenKind, at: float) -> None:
        """The first delta that a user can see arrived."""
        self.first_token_at, self.first_token_kind = at, kind
        self.event(s.EVENT_FIRST_TOKEN, at, {s.FIRST_TOKEN_KIND: kind, s.CHUNK_INDEX: self.chunks})

    def add_chunks(
        self, kind: s.BlockKind, gaps: Sequence[float], longest: float, chunks: int, chars: int, at: float
    ) -> None:
        """Add a batch: `gaps` in seconds, the longest of them; one fewer than `chunks` if it holds the first of all."""
        settings = self.runtime.settings
        if settings.chunk_events:
            for index, gap in enumerate(gaps, self.chunks + chunks - len(gaps)):
                self.event(s.EVENT_CHUNK, at, {s.BLOCK_KIND: kind, s.CHUNK_INDEX: index, s.CHUNK_GAP: gap})
        if settings.chunk_metric == "semconv":
            self.runtime.metrics.chunk_times(self, gaps)
        self.chunks += chunks
        self.chars += chars
        self.summing = False
        self.last_chunk_at = at
        if kind == "text":
            self.visible_chars += chars
        self.cadence.add(gaps, longest, chars, at - self.started)
        self.ping_seen = False

    def repeats(self, kind: s.BlockKind, text: str, at: float) -> bool:
        """Feed the text of a batch to the detector of its kind; True when a loop was just seen and must stop it."""
        detector = self._detectors.get(kind)
        if detector is None:
            detector = self._detectors[kind] = RepetitionDetector()
        if not detector.feed(text):
            return False
        found = detector.latest
        if found is None:
            return False
        self.loops.append(Loop(kind, found, at))
        # A suspicion (near-repeats) is an event only: it is right too seldom to stop, count or blame anybody.
        return not found.suspected and self.runtime.repetition_seen(self)

    def stalled(self, duration: float, source: s.StallSource, at: float) -> None:
        """A gap or a hold over the threshold ended at `at`."""
        kind = self.active_block or "other"
        self.stalls.append(Stall(at - self.started, duration, source, kind, self.ping_seen))
        attributes: dict[str, AttributeValue] = {
            s.STALL_DURATION: duration,
            s.STALL_SOURCE: source,
            s.BLOCK_KIND: kind,
            s.STALL_PING_SEEN: self.ping_seen,
            s.CHUNK_INDEX: self.chunks,
        }
        self.event(s.EVENT_STALL, at, attributes)

    def tool_opened(self, call: ToolCall) -> None:
        """The model began to ask for a tool."""
        if len(self.tool_calls) < MAX_TOOL_CALLS:
            self.open_call = call
            registry.opened(self, call)

    def tool_ready(self, call: ToolCall, at: float) -> None:
        """A tool call's input ended: the only safe point to run it."""
        call.ready = at - self.started
        if call.state is None:
            call.state = "ready"
        self.open_call = None
        self.reader = here()
        if len(self.tool_calls) < MAX_TOOL_CALLS:
            self.tool_calls.append(call)

    def all_tool_calls(self) -> list[ToolCall]:
        """The tool calls so far, the one whose input is still streaming included."""
        calls, open_call = list(self.tool_calls), self.open_call
        return [*calls, open_call] if open_call is not None and open_call not in calls else calls

    def arrived(self) -> tuple[int, int, int]:
        """Chunks, characters and visible characters so far, those that wait to be summed included; from any thread."""
        found = (0, 0, 0)
        for _ in range(1000):  # bounded: a signal handler may have interrupted the very sum it waits for
            before = self.chunks
            if not self.summing:
                chunks, chars, visible = self.pending(self) if self.pending is not None else (0, 0, 0)
                found = (before + chunks, self.chars + chars, self.visible_chars + visible)
                if before == self.chunks and not self.summing:
                    return found
            time.sleep(0)
        return found if any(found) else (self.chunks, self.chars, self.visible_chars)

    def wake(self) -> None:
        """Let those look again who wait for this stream."""
        for waiter in list(self.waiters):
            waiter()

    def finish(self, reason: str, raw: str, at: float) -> None:
        """The provider gave its finish reason: normalised, and in its own word."""
        self.finish_reason, self.finish_raw = reason, raw
        self.event(s.EVENT_FINISH, at, {s.FINISH_REASON: reason, s.FINISH_RAW_REASON: raw})

    def terminal(self, at: float) -> None:
        """The terminal event arrived: the stream ended as its finish reason says."""
        self.exhausted = True
        self.end(by_finish_reason(self.finish_reason or "stop"), at)

    # --- the end ------------------------------------------------------------------------------------------

    @property
    def silence(self) -> float:
        """Seconds the provider has been silent while somebody waited; 0 while nobody reads."""
        return max(0.0, clock() - self.ask) if self.ask >= self.last else 0.0

    def end(self, ending: Ending, at: float | None = None) -> None:
        """Decide how the stream ended, and emit its record. The first call wins. Never raises.

        `at`: the arrival of the terminal event; without it the stream ended with its last activity, or now when it
        never had a response.
        """
        self.decide(ending, at)
        self.publish()

    def decide(self, ending: Ending, at: float | None = None) -> None:
        """`end()` for who has something to close first: `publish()` is to follow. Never raises."""
        if self.ending is not None:
            return
        try:
            self._once.pop()
        except IndexError:
            return
        try:
            if self.verdict is not None and ending.trigger in ("gc", "generator_close", "shutdown"):
                ending = self.verdict  # whoever lets go of a stream after that knows no better
            silence = self.silence
            now = clock()
            self._flush(self.last)
            if at is None:
                at = max(self.last, self.activity)
                # What stops the wait is an activity too: a time-out, a cut, a task's cancel.
                if self.ask >= self.last or self.response_at is None:
                    at = now
            self.end_at = at
            self._close_detector(at)
            self.ending = self._settle(ending, silence)
            self.cadence.close((self.last_chunk_at or at) - self.started)
            self.judged = self.runtime.settings.objectives.judge(self, self.model, self.route)
            self.cancel = _cancel.settle(self, self.ending, at)
            self.emitted_at = now
            self._last_events(at, now)
        except Exception:
            trouble("settling a stream")
            self.end_at = self.end_at or clock()
            self.ending = self.ending or ending
        self._once.append(True)  # for whoever publishes first

    def publish(self) -> None:
        """Emit the record, once, if the end is decided. Never raises."""
        try:
            if self.ending is None:
                return
            self._once.pop()
        except IndexError:
            return
        self.runtime.finish(self)
        if self.waiters:
            self.wake()

    def disown(self) -> None:
        """Leave the end to the parent process: this is the copy that a fork made."""
        self._once.clear()
        self.native_end = None

    def _flush(self, now: float) -> None:
        flush, self.flush_pending = self.flush_pending, None
        if flush is not None:
            flush(self, now)

    def _settle(self, ending: Ending, silence: float) -> Ending:
        """Apply what the protocol said to a verdict that control flow gave, and find the fault."""
        left = ending.outcome in ("cancelled", "abandoned", "caller_error")
        if left and self.finish_reason is not None:
            ending, left = by_finish_reason(self.finish_reason), False
        if left and self.undecodable is not None:
            ending, left = failed(self.undecodable), False
        if ending.fault != "none":
            return ending
        fault: s.Fault = "none"
        frozen = silence >= self.runtime.settings.freeze_threshold and self.first_chunk_at is not None
        if self.garbled:
            fault = "protocol_error"
        elif frozen and ending.outcome in ("cancelled", "abandoned"):
            fault = "stalled"
        elif ending.outcome == "refused" and self.first_token_at is not None:
            fault = "content_filter"
        elif self._last_input_cut(ending):
            fault = "tool_call_cut_off"
        elif any(call.input == "invalid" for call in self.tool_calls):
            fault = "malformed_tool_call"
        elif self.repetitions:
            fault = "repetition"
        if fault == "none":
            return ending
        return replace(ending, fault=fault, error_type=ending.error_type or fault)

    def _last_input_cut(self, ending: Ending) -> bool:
        """Whether the finish reason explains why the last tool input is no valid JSON."""
        last = self.tool_calls[-1] if self.tool_calls else None
        if last is None or last.input in ("valid", None) or ending.outcome not in ("truncated", "refused"):
            return False
        last.input = "incomplete"
        return True

    def _close_detector(self, at: float) -> None:
        kind = self.active_block
        detector = self._detectors.get(kind) if kind is not None else None
        if detector is None or kind is None:
            return
        detector.finish()
        seen = {(loop.repetition.start, loop.repetition.period): loop.at for loop in self.loops if loop.kind == kind}
        final = [Loop(kind, found, seen.get((found.start, found.period), at)) for found in detector.repetitions]
        self.loops = [loop for loop in self.loops if loop.kind != kind or loop.closed] + final
        for loop in final:
            loop.closed = True
        detector.reset()

    @property
    def repetitions(self) -> list[Loop]:
        """The loops, without mere suspicions."""
        return [loop for loop in self.loops if not loop.repetition.suspected]

    def _last_events(self, at: float, now: float) -> None:
        ending = cast("Ending", self.ending)
        for window in self.cadence.windows:
            attributes: dict[str, AttributeValue] = {
                s.CADENCE_START: window.start,
                s.CADENCE_CHUNKS: window.chunks,
                s.CADENCE_GAP_P50: window.p50,
                s.CADENCE_GAP_P95: window.p95,
                s.CADENCE_GAP_MAX: window.longest,
                s.CADENCE_CHARS: window.chars,
            }
            self.event(s.EVENT_CADENCE, self.started + window.end, attributes)
        for loop in self.loops:
            found = loop.repetition
            attributes = {
                s.BLOCK_KIND: loop.kind,
                s.REPETITION_PERIOD: found.period,
                s.REPETITION_COPIES: found.copies,
                s.REPETITION_START: found.start,
                s.REPETITION_WASTED: found.wasted,
                s.REPETITION_SUSPECTED: found.suspected,
            }
            self.event(s.EVENT_REPETITION, loop.at, attributes)
        for call in self.tool_calls:
            if call.ready is not None:
                self.event(s.EVENT_TOOL_READY, self.started + call.ready, self._ready_attributes(call))
            for name, when, values in _tool.events(call, before=now):
                self.event(name, when, values)
        for when, visible in self.actions:
            attributes = {s.ACTION_VISIBLE_CHARS: visible, s.ACTION_LEAD: at - when}
            self.event(s.EVENT_ACTION, when, attributes)
        if self.cancel is not None:
            _cancel.events(self, self.cancel, at)
        if ending.fault not in ("none", "repetition"):
            attributes = {s.FAULT: ending.fault, s.FAILURE_VISIBLE_CHARS: self.visible_chars}
            if ending.error_type:
                attributes[s.ERROR_TYPE] = ending.error_type
            if self.first_token_at is not None:
                attributes[s.FAILURE_SINCE_FIRST_TOKEN] = at - self.first_token_at
            self.event(s.EVENT_FAILURE, at, attributes)
        self.events.sort(key=lambda event: event[1])

    def _ready_attributes(self, call: ToolCall) -> dict[str, AttributeValue]:
        attributes: dict[str, AttributeValue] = {
            s.TOOL_NAME: self.runtime.labels.text(call.name),
            s.TOOL_CALL_ID: self.runtime.labels.text(call.id),
            s.TOOL_CALL_BYTES: call.size,
            s.TOOL_CALL_PAUSE: call.pause,
            s.TOOL_CALL_PREAMBLE: call.preamble,
        }
        if call.input is not None:
            attributes[s.TOOL_CALL_INPUT] = call.input
        return attributes

    def event(self, name: str, at: float, attributes: dict[str, AttributeValue]) -> None:
        """Keep one event for the record: at most `MAX_EVENTS`, the first ones and the last word never evicted."""
        attributes[s.ELAPSED] = at - self.started
        self.events.append((name, at, attributes))
        if len(self.events) <= s.MAX_EVENTS:
            return
        for evictable in (
            s.EVENT_CHUNK,
            s.EVENT_CADENCE,
            s.EVENT_STALL,
            s.EVENT_TOOL_READY,
            s.EVENT_TOOL_FINISHED,
            s.EVENT_REPETITION,
            s.EVENT_TOOL_DISPATCHED,
        ):
            for index, (other, _, _) in enumerate(self.events[:-1]):
                if other == evictable:
                    del self.events[index]
                    return
        del self.events[-1]

    # --- what the ended record says -----------------------------------------------------------------------

    @property
    def outcome(self) -> s.Outcome | None:
        return self.ending.outcome if self.ending else None

    @property
    def fault(self) -> s.Fault:
        return self.ending.fault if self.ending else "none"

    @property
    def error_type(self) -> str | None:
        return self.ending.error_type if self.ending else None

    @property
    def phase(self) -> s.Phase:
        """How far the stream got."""
        if self.finish_reason is not None or self.outcome in ("completed", "truncated", "refused"):
            return "finished"
        if self.first_token_at is not None:
            return "mid_stream"
        return "before_response" if self.response_at is None else "before_first_token"

    @property
    def duration(self) -> float | None:
        return None if self.end_at is None else self.end_at - self.started

    @property
    def time_to_first_chunk(self) -> float | None:
        return None if self.first_chunk_at is None else self.first_chunk_at - self.started

    @property
    def time_to_first_token(self) -> float | None:
        return None if self.first_token_at is None else self.first_token_at - self.started

    @property
    def hold_time(self) -> float:
        """Seconds the consumer kept the stream parked between its first and its last chunk."""
        if self.first_chunk_at is None or self.last_chunk_at is None:
            return 0.0
        return max(0.0, self.last_chunk_at - self.first_chunk_at - self.cadence.all.total)

    @property
    def partial(self) -> bool | None:
        """Whether the answer is not whole; None while it runs."""
        return None if self.ending is None else self.ending.outcome != "completed"

    @property
    def succeeded_then_failed(self) -> bool:
        return succeeded_then_failed(self, self.runtime.settings.objectives.faults)

    @property
    def state(self) -> s.StreamState:
        """What an autoscaler should read, while the stream is open."""
        if self.response_at is None:
            return "waiting_headers"
        if clock() - max(self.last, self.activity) > self.runtime.settings.stall_threshold and self.first_chunk_at:
            return "stalled"
        return "flowing" if self.first_token_at is not None else "waiting_token"

    @property
    def position(self) -> s.CancelAt:
        """Where in the answer it is."""
        if self.finish_reason is not None:
            return "after_finish"
        if self.first_chunk_at is None:
            return "before_output"
        block = self.active_block
        return "block_boundary" if block is None or block == "other" else block

    @property
    def turn_id(self) -> str | None:
        return self.turn.id if self.turn is not None else None

    @property
    def output_rate(self) -> float | None:
        """Final output tokens a second between the first and the last chunk; None without a final count."""
        tokens = self.usage.get(s.OUTPUT_TOKENS)
        if not tokens or self.finish_reason is None or self.first_chunk_at is None or self.last_chunk_at is None:
            return None
        span = self.last_chunk_at - self.first_chunk_at
        return tokens / span if span > 0 else None
