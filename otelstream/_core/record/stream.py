# SPDX-License-Identifier: Apache-2.0
"""One streamed response as it is observed: facts in from an adapter, one record out."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.trace import NonRecordingSpan
from opentelemetry.util.types import AttributeValue

from otelstream import _semconv as s
from otelstream._core.record.block import Block
from otelstream._core.record.cadence import NOTHING
from otelstream._core.record.call import ToolCall
from otelstream._core.record.grammar import SILENT
from otelstream._core.record.known import Known, Loop, Stall, clock
from otelstream._core.record.place import Reader, here, stack
from otelstream._core.record.repetition import RepetitionDetector
from otelstream._trouble import trouble

__all__ = ["StreamObservation", "clock"]

MAX_TOOL_CALLS = 128  # remembered of one stream
_EVICTABLE = (  # what is dropped first of too many events
    s.EVENT_CHUNK,
    s.EVENT_CADENCE,
    s.EVENT_VERDICT,
    s.EVENT_STALL,
    s.EVENT_TOOL_READY,
    s.EVENT_TOOL_FINISHED,
    s.EVENT_REPETITION,
    s.EVENT_REVERSAL,
    s.EVENT_TOOL_DISPATCHED,
)

_NO_BLOCK = Block(None, None)


class StreamObservation(Known):
    """The record of one stream as it grows; the adapter stamps, this class never blocks."""

    __slots__ = ()

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()  # whether what holds it can be pickled is the SDK's affair

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

    def block_opened(self, block: Block) -> None:
        """A block begins, and its deltas come next."""
        if block.key is not None:
            self.blocks[block.key] = block
        self.block = block
        self.read_here()

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
        self.keep_call(call)
        self.read_here()

    def read_here(self) -> None:
        """Note who reads, of a stream that asked for a tool: a run of that may come back to wait for it."""
        if self.tool_calls:
            self.reader = Reader(here(), stack(), self.last)

    def keep_call(self, call: ToolCall) -> None:
        """Remember a tool call, while there is room."""
        if len(self.tool_calls) < MAX_TOOL_CALLS and call not in self.tool_calls:
            self.tool_calls.append(call)

    def wake(self) -> None:
        """Let those look again who wait for this stream."""
        for waiter in list(self.waiters):
            try:
                waiter()
            except Exception:
                trouble("waking a held tool")

    def finish(self, choice: int, reason: str, raw: str, at: float) -> None:
        """A choice gave its finish reason. The stream has one when each choice has; cut ones count most."""
        self.read_here()
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

    def shed(self) -> None:
        """Keep what a turn asks of a stream whose record is out: no text, no span, no way that it came."""
        self.events, self.loops = [], []
        self.waits, self.datas, self.blocks = [], [], {}
        self.block, self.last_data = _NO_BLOCK, ""
        self.cadence = NOTHING
        self.grammar, self.loop = SILENT, None
        self.attached = self.attached.inert() if self.attached is not None else None
        self.judged, self.usage = (), {}
        if self.span is not None:
            self.span = NonRecordingSpan(self.span.get_span_context())

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
