# SPDX-License-Identifier: Apache-2.0
"""One streamed response as it is observed: facts in from an adapter, exactly one ended record out."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry.util.types import AttributeValue

from otelstream import _semconv as s
from otelstream._core.record.block import Block
from otelstream._core.record.cadence import Cadence
from otelstream._core.record.call import ToolCall
from otelstream._core.record.cancel import Ask, Cancel
from otelstream._core.record.ending import Ending, by_finish_reason, identity
from otelstream._core.record.facts import Key
from otelstream._core.record.grammar import Grammar
from otelstream._core.record.host import Host, Turn
from otelstream._core.record.objectives import Objective, succeeded_then_failed
from otelstream._core.record.place import here
from otelstream._core.record.repetition import Repetition, RepetitionDetector
from otelstream._trouble import trouble

if TYPE_CHECKING:
    from opentelemetry.trace import Span

MAX_TOOL_CALLS = 128  # remembered of one stream
_EVICTABLE = (  # what is dropped first of too many events
    s.EVENT_CHUNK,
    s.EVENT_CADENCE,
    s.EVENT_STALL,
    s.EVENT_TOOL_READY,
    s.EVENT_TOOL_FINISHED,
    s.EVENT_REPETITION,
    s.EVENT_TOOL_DISPATCHED,
)

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
    key: Key | None
    closed: bool = False  # its block has ended


class StreamObservation:
    """What is known of one stream. Times are seconds on `clock`; the adapter stamps, this class never blocks."""

    __slots__ = (
        "__weakref__", "actions", "activity", "attached", "attempts", "block", "blocks", "cache", "cadence", "cancel",
        "carry", "chars", "choices", "chunks", "datas", "drop", "emitted", "emitted_at", "end_at", "ending", "events",
        "exhausted", "finish_raw", "finish_reason", "finishes", "first_chunk_at", "first_chunk_kind", "first_token_at",
        "first_token_kind", "foreign", "garbled", "grammar", "judged", "last", "last_attempt_at", "last_chunk_at",
        "last_data", "leftover", "loop", "loops", "model", "native", "native_end", "once", "opened_under", "operation",
        "own_span", "ping_seen", "provider", "reader", "refusal", "request_id", "response_at", "response_id",
        "response_model", "route", "runtime", "server_tool", "span", "stalls", "started", "started_ns", "stop_asked",
        "summing", "text_before", "told", "tool_calls", "turn", "undecodable", "usage", "verdict", "visible_chars",
        "waiters", "waiting_since", "waits",
    )  # fmt: skip

    def __init__(
        self,
        runtime: Host,
        *,
        operation: str,
        provider: str,
        model: str,
        grammar: Grammar,
        turn: Turn | None = None,
        choices: int = 1,
    ) -> None:
        self.runtime = runtime
        self.operation, self.provider, self.model = operation, provider, model
        self.grammar, self.choices = grammar, choices
        self.turn = turn
        self.route = turn.route if turn is not None else None
        self.started = clock()
        self.started_ns = time.time_ns()
        self.once = [True]  # list.pop() is the one atomic test-and-set that a finaliser may run
        self.ending: Ending | None = None
        self.end_at: float | None = None
        self.span: Span | None = None
        self.own_span = self.native = self.foreign = False
        self.native_end: Callable[[], object] | None = None  # ends the SDK's own span, if that still lives
        self.opened_under = identity(sys.exc_info()[1])
        self.judged: tuple[tuple[Objective, s.ObjectiveResult], ...] = ()  # by the objectives, once it has ended
        self.told: Ending | None = None  # what the protocol said, until somebody ends the stream so
        self.verdict: Ending | None = None  # a verdict that waits for one that knows better
        self.attached: Any = None  # what the adapter keeps with it
        self.drop: s.DropEffect = "gc"  # what becomes of the connection of a stream that is dropped
        # the hot path's own
        self.waits: list[float] = []
        self.datas: list[str] = []
        self.last = self.activity = self.started
        self.waiting_since = 0.0  # when the reader last asked for an event; before `last` while nobody waits
        self.carry = 0.0  # waited since the last chunk, for protocol traffic
        self.leftover = 0.0  # waited for deltas that are no chunk
        self.last_data = ""  # of the last event
        self.block = Block(None, None)  # whose deltas come now
        self.blocks: dict[Key, Block] = {}  # those that are open
        self.server_tool = False  # a provider's own tool was called and its result is not here yet
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
        self.text_before = False
        self.tool_calls: list[ToolCall] = []
        self.reader: tuple[int, int] | None = None  # the thread and task that read the newest tool call
        self.waiters: list[Callable[[], object]] = []  # held calls, to be woken at the end
        self.stop_asked: Ask | None = None
        self.cancel: Cancel | None = None
        self.actions: list[tuple[float, int]] = []  # when the user acted, and what was there
        self.emitted = False
        self.emitted_at: float | None = None
        self.loops: list[Loop] = []
        self.loop: Any = None  # lag of the event loop that reads this stream
        self.garbled = False  # an event was no JSON, which only a reader that parses none gets past
        self.undecodable: s.Fault | None = None  # what a stream is that was left at an event nobody can parse
        self.exhausted = False
        self.refusal = False  # the model refused in words
        self.finishes: dict[int, tuple[str, str]] | None = None  # of several choices, by choice
        self.finish_reason: str | None = None
        self.finish_raw: str | None = None
        self.response_id: str | None = None
        self.response_model: str | None = None
        self.request_id: str | None = None
        self.usage: dict[str, int] = {}
        self.cache: s.CacheUse = "none"
        self.events: list[tuple[str, float, dict[str, AttributeValue]]] = []

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

    @property
    def active_block(self) -> s.BlockKind | None:
        """The kind of the block whose deltas come now."""
        return self.block.kind

    def block_opened(self, block: Block) -> None:
        """A block begins, and its deltas come next."""
        if block.key is not None:
            self.blocks[block.key] = block
        self.block = block

    def block_ended(self, block: Block, at: float) -> None:
        """A block is over; where others are open, their deltas come now."""
        self.close_detector(block, at)
        if block.kind == "text":
            self.text_before = True
        if block.key is not None:
            self.blocks.pop(block.key, None)
        if self.block is block:
            self.block = next(reversed(self.blocks.values()), None) or Block(None, None)

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

    def repeats(self, block: Block, text: str, at: float) -> bool:
        """Feed the text of a batch to the detector of its block; True when a loop was just seen and must stop it."""
        detector = block.detector
        if detector is None:
            detector = block.detector = RepetitionDetector()
        if not detector.feed(text):
            return False
        found = detector.latest
        if found is None:
            return False
        self.loops.append(Loop(block.kind or "other", found, at, block.key))
        # A suspicion (near-repeats) is an event only: it is right too seldom to stop, count or blame anybody.
        return not found.suspected and self.runtime.repetition_seen(self)

    def close_detector(self, block: Block, at: float) -> None:
        """Take the loops of a block that is over as they turned out."""
        detector, block.detector = block.detector, None
        if detector is None:
            return
        detector.finish()
        mine = [loop for loop in self.loops if loop.key == block.key and not loop.closed]
        seen = {(loop.repetition.start, loop.repetition.period): loop.at for loop in mine}
        self.loops = [loop for loop in self.loops if loop.closed or loop.key != block.key]
        for found in detector.repetitions:
            first_seen = seen.get((found.start, found.period), at)
            self.loops.append(Loop(block.kind or "other", found, first_seen, block.key, closed=True))

    def stalled(self, duration: float, source: s.StallSource, at: float) -> None:
        """A gap or a hold over the threshold ended at `at`."""
        kind = self.block.kind or "other"
        self.stalls.append(Stall(at - self.started, duration, source, kind, self.ping_seen))
        attributes: dict[str, AttributeValue] = {
            s.STALL_DURATION: duration,
            s.STALL_SOURCE: source,
            s.BLOCK_KIND: kind,
            s.STALL_PING_SEEN: self.ping_seen,
            s.CHUNK_INDEX: self.chunks,
        }
        self.event(s.EVENT_STALL, at, attributes)

    def tool_ready(self, call: ToolCall, at: float) -> None:
        """A tool call's input ended: the only safe point to run it."""
        call.ready = at - self.started
        if call.state is None:
            call.state = "ready"
        self.reader = here()
        self.keep_call(call)

    def keep_call(self, call: ToolCall) -> None:
        """Remember a tool call, while there is room."""
        if len(self.tool_calls) < MAX_TOOL_CALLS and call not in self.tool_calls:
            self.tool_calls.append(call)

    def all_tool_calls(self) -> list[ToolCall]:
        """The tool calls so far, those whose input is still streaming included."""
        calls = list(self.tool_calls)
        calls += [b.tool for b in list(self.blocks.values()) if b.tool is not None and b.tool not in calls]
        return calls

    def wake(self) -> None:
        """Let those look again who wait for this stream."""
        for waiter in list(self.waiters):
            waiter()

    def finish(self, choice: int, reason: str, raw: str, at: float) -> None:
        """A choice gave its finish reason. The stream has one when each choice has; cut ones count most."""
        self.event(s.EVENT_FINISH, at, {s.FINISH_REASON: reason, s.FINISH_RAW_REASON: raw})
        if self.choices > 1:
            self.finishes = self.finishes or {}
            self.finishes[choice] = (reason, raw)
            if len(self.finishes) < self.choices:
                return
            worst = ("length", "content_filter", "tool_calls", "stop")
            rank = {word: index for index, word in enumerate(worst)}
            reason, raw = min(self.finishes.values(), key=lambda said: rank.get(said[0], len(worst)))
        self.finish_reason, self.finish_raw = reason, raw

    def compensated(self, call: ToolCall) -> None:
        """The application undid the side effect of `call`; counted where a stop had found it."""
        try:
            if call.stood:
                self.runtime.metrics.side_effect(self, call, "compensated")
        except Exception:
            trouble("recording a compensation")

    def by_finish(self) -> Ending:
        """How a stream ended that nothing broke: as its finish reason says."""
        return by_finish_reason("content_filter" if self.refusal else self.finish_reason or "stop")

    @property
    def silence(self) -> float:
        """Seconds the provider has been silent while somebody waited; 0 while nobody reads."""
        return max(0.0, clock() - self.waiting_since) if self.waiting_since >= self.last else 0.0

    @property
    def repetitions(self) -> list[Loop]:
        """The loops, without mere suspicions."""
        return [loop for loop in self.loops if not loop.repetition.suspected]

    def event(self, name: str, at: float, attributes: dict[str, AttributeValue]) -> None:
        """Keep one event for the record: at most `MAX_EVENTS`, the first ones and the last word never evicted."""
        attributes[s.ELAPSED] = at - self.started
        self.events.append((name, at, attributes))
        if len(self.events) <= s.MAX_EVENTS:
            return
        for evictable in _EVICTABLE:
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
    def stopped_by(self) -> s.Trigger | None:
        """Who stopped it, or asked for that."""
        found = self.cancel or self.stop_asked
        return found.trigger if found is not None else None

    @property
    def stopped_where(self) -> s.CancelAt | None:
        """Where in the answer the stop came."""
        found = self.cancel or self.stop_asked
        return found.where if found is not None else None

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
