# SPDX-License-Identifier: Apache-2.0
"""What is known of one stream: its fields, and what they say together."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
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
from otelstream._core.record.hearing import Change, JudgeReport, Visible
from otelstream._core.record.host import Host, Turn
from otelstream._core.record.objectives import Objective, succeeded_then_failed
from otelstream._core.record.place import Reader
from otelstream._core.record.repetition import Repetition

if TYPE_CHECKING:
    from opentelemetry.trace import Span

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


class Known:
    """The fields of one stream. Times are seconds on `clock`."""

    __slots__ = (
        "__weakref__", "actions", "activity", "attached", "attempts", "block", "blocks", "cache", "cadence", "cancel",
        "carry", "changes", "chars", "choices", "chunks", "datas", "drop", "emitted", "emitted_at", "end_at",
        "ending", "events", "exhausted", "finish_raw", "finish_reason", "finishes", "first_chunk_at",
        "first_chunk_kind", "first_token_at", "first_token_kind", "foreign", "garbled", "grammar", "heard", "judged",
        "last", "last_attempt_at", "last_chunk_at", "last_data", "leftover", "loop", "loops", "model", "native",
        "native_end", "once", "opened_under", "operation", "output_tools", "own_span", "ping_seen", "provider",
        "reader", "rechunked", "refusal", "request_id", "response_at", "response_id", "response_model", "route",
        "runtime", "server_tool", "span", "stalls", "started", "started_ns", "stop_asked", "summing", "suppressed",
        "text_before", "told", "tool_calls", "turn", "undecodable", "unseen", "untimed", "usage", "verdict",
        "visible", "visible_chars", "waiters", "waiting_since", "waits",
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
        output_tools: frozenset[str] = frozenset(),
    ) -> None:
        self.runtime = runtime
        self.operation, self.provider, self.model = operation, provider, model
        self.grammar, self.choices = grammar, choices
        self.output_tools = output_tools  # names that are forced as the schema of the answer: no tools
        self.turn = turn
        self.route = turn.route if turn is not None else None
        self.started = clock()
        self.started_ns = time.time_ns()
        self.once = [True]  # list.pop() is the one atomic test-and-set that a finaliser may run
        self.ending: Ending | None = None
        self.end_at: float | None = None
        self.span: Span | None = None
        self.own_span = self.native = self.foreign = False
        self.suppressed = False  # as instrumentation was: only names on a companion's span, and metrics
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
        self.reader: Reader | None = None  # of the newest tool call, or block after it
        self.waiters: list[Callable[[], object]] = []  # held calls, to be woken at the end
        self.stop_asked: Ask | None = None
        self.cancel: Cancel | None = None
        self.actions: list[tuple[float, int]] = []  # when the user acted, and what was there
        self.visible: Visible | None = None  # the text, while there are judges to read it
        self.changes: list[Change] = []  # of their verdicts
        self.heard: tuple[JudgeReport, ...] = ()  # what became of each judge
        self.emitted = False
        self.emitted_at: float | None = None
        self.loops: list[Loop] = []
        self.loop: Any = None  # lag of the event loop that reads this stream
        self.garbled = False  # an event was no JSON, which only a reader that parses none gets past
        self.undecodable: s.Fault | None = None  # what a stream is that was left at an event nobody can parse
        self.unseen = False  # something passed that nobody here can read, or failed to
        self.untimed = False  # when its first token came is not on the wire, unless one was seen
        self.exhausted = False
        self.rechunked = False  # by a router: the cadence is its own
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

    # --- what they say ------------------------------------------------------------------------------------

    @property
    def active_block(self) -> s.BlockKind | None:
        """The kind of the block whose deltas come now."""
        return self.block.kind

    @property
    def silence(self) -> float:
        """Seconds the provider has been silent while somebody waited; 0 while nobody reads."""
        return max(0.0, clock() - self.waiting_since) if self.waiting_since >= self.last else 0.0

    @property
    def repetitions(self) -> list[Loop]:
        """The loops, without mere suspicions."""
        return [loop for loop in self.loops if not loop.repetition.suspected]

    def by_finish(self) -> Ending:
        """How a stream ended that nothing broke: as its finish reason says."""
        return by_finish_reason("content_filter" if self.refusal else self.finish_reason or "stop")

    @property
    def reversals(self) -> dict[str, int]:
        """How often each judge that had a verdict took one back."""
        return {judge.name: judge.reversals for judge in self.heard if judge.verdict is not None}

    def all_tool_calls(self) -> list[ToolCall]:
        """The tool calls so far, those whose input is still streaming included."""
        calls = list(self.tool_calls)
        calls += [b.tool for b in list(self.blocks.values()) if b.tool is not None and b.tool not in calls]
        return calls

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
        whole = self.outcome in ("completed", "truncated", "refused") and not self.unseen
        if self.finish_reason is not None or whole:
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
    def wait_without_token(self) -> float | None:
        """How long an answer lasted without a token, where it is known that none came."""
        return None if self.untimed or self.first_token_at is not None else self.duration

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
        settings = self.runtime.settings
        limit = settings.hangs_after(self.model) if self.first_chunk_at is None else settings.stall_threshold
        if clock() - max(self.last, self.activity, self.last_attempt_at or 0.0) > limit:
            return "stalled"
        if self.response_at is None:
            return "waiting_headers"
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
