# SPDX-License-Identifier: Apache-2.0
"""One received span as a plain timeline: what the terminal and the page draw."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from otelstream import _semconv as names

from ._record import Attributes, Moment, SpanRecord, plain

Grade = Literal["bad", "stopped", "flawed", "good", "open"]

# Silence shorter than this between the last chunk and the end is no hole worth drawing.
_TAIL_SILENCE = 0.5
# What an application does with an answer may come after the stream's end and says nothing of its length.
_AFTERWARDS = frozenset(
    {names.EVENT_RETRACTION, names.EVENT_ACTION, names.EVENT_TOOL_DISPATCHED, names.EVENT_TOOL_FINISHED}
)
# Elsewhere the ask and the close are one instant: the end mark shows it.
_ASKED_BEFORE = frozenset({"user_stop", "client_disconnect", "judge"})
_GIVEN_UP = ("cancelled", "abandoned", "caller_error")


@dataclass(frozen=True, slots=True)
class Flow:
    """A stretch in which chunks arrived evenly, as far as its cadence window tells."""

    start: float
    end: float
    chunks: float
    thinking: bool = False

    @property
    def rate(self) -> float:
        """Chunks a second."""
        return self.chunks / max(self.end - self.start, 0.001)


@dataclass(frozen=True, slots=True)
class Hole:
    """A stretch after the first chunk in which none arrived; `source` is empty for silence before the end."""

    start: float
    end: float
    source: str = ""
    ping_seen: bool = False

    @property
    def length(self) -> float:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Loop:
    """A repetition: where it seems to have begun, when it was found, and how bad it was."""

    start: float
    found: float
    period: int
    copies: float
    wasted: int
    suspected: bool


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool call whose input block ended."""

    at: float
    name: str
    input: str


@dataclass(frozen=True, slots=True)
class Retraction:
    """The application withdrew what it had shown."""

    at: float
    reason: str
    visible_chars: int
    exposure: float


@dataclass(frozen=True, slots=True)
class Reversal:
    """A judge's verdict that was shown and taken back; `exposure` in seconds."""

    at: float
    judge: str
    before: str
    after: str
    exposure: float
    acted_on: bool


@dataclass(frozen=True, slots=True)
class Effects:
    """How many tool calls a Stop found done, running and not begun, as the stream's span counts them."""

    committed: int = 0
    running: int = 0
    discarded: int = 0


@dataclass(frozen=True, slots=True)
class Timeline:
    """One stream: times are seconds since its request; what the span did not say is None, empty or zero."""

    record: SpanRecord
    model: str
    outcome: str  # `open` while the span still records
    phase: str
    fault: str
    error_type: str
    finish_reason: str
    partial: bool
    failed_after_200: bool
    length: float
    first_chunk: float | None
    first_token: float | None
    attempts: int
    last_attempt: float
    chunks: int
    visible_chars: int
    stalls: int
    stalled_time: float
    flows: tuple[Flow, ...]
    holes: tuple[Hole, ...]
    loops: tuple[Loop, ...]
    tools: tuple[Tool, ...]
    stop_asked: float | None
    trigger: str
    propagation: str
    close_delay: float | None
    shown_at_stop: int
    delivered_after: int
    effects: Effects
    retraction: Retraction | None
    reversals: tuple[Reversal, ...]
    stopped_at: float | None  # the ask, negative where it came between two streams; else the end of what was stopped

    @property
    def said_200(self) -> bool:
        """Whether a 2xx status line arrived."""
        return self.phase not in {"before_response", ""}

    @property
    def stall(self) -> Hole | None:
        """The longest stall."""
        return max((hole for hole in self.holes if hole.source), key=lambda hole: hole.length, default=None)

    @property
    def grade(self) -> Grade:
        """How much the stream wants to be looked at."""
        if self.outcome == "open":
            return "open"
        if self.outcome == "failed" or self.failed_after_200:
            return "bad"
        if self.outcome in _GIVEN_UP:
            return "stopped"
        if self.outcome != "completed" or self.fault != "none" or self.stalls or self.loops:
            return "flawed"
        if self.propagation == "drained" or self.retraction is not None or self.reversals:
            return "flawed"
        return "good"


def timeline(record: SpanRecord, now: float | None = None) -> Timeline:
    """Read a span's attributes and events; `now` (Unix seconds) draws one that still records up to there."""
    said = record.attributes
    events = record.events
    first_chunk = _moment(events, names.EVENT_FIRST_CHUNK)
    first_token = _moment(events, names.EVENT_FIRST_TOKEN)
    first_chunk_at = first_chunk.elapsed if first_chunk else maybe(said, names.TIME_TO_FIRST_CHUNK)
    first_token_at = first_token.elapsed if first_token else maybe(said, names.TIME_TO_FIRST_TOKEN)
    length = _length(record, now)
    stalls = tuple(_holes(events))
    windows = tuple(_windows(events, said, first_chunk_at, length))
    retracted = _moment(events, names.EVENT_RETRACTION)
    outcome = _moment(events, names.EVENT_CANCEL_OUTCOME)
    thinking_until = 0.0
    if first_chunk and first_chunk.attributes.get(names.BLOCK_KIND) == "thinking":
        thinking_until = length if first_token_at is None else first_token_at
    flows = tuple(_flows(windows, stalls, thinking_until))
    last_chunk = max((flow.end for flow in flows), default=first_chunk_at)
    tail: tuple[Hole, ...] = ()
    if names.OUTCOME in said and last_chunk is not None and length - last_chunk >= _TAIL_SILENCE:
        tail = (Hole(last_chunk, length),)
    finish = _moment(events, names.EVENT_FINISH)
    asked = request = _moment(events, names.EVENT_CANCEL_REQUESTED)
    if asked and asked.attributes.get(names.CANCEL_TRIGGER) not in _ASKED_BEFORE:
        asked = None
    return Timeline(
        record=record,
        model=text(said, names.RESPONSE_MODEL) or text(said, names.REQUEST_MODEL),
        outcome=text(said, names.OUTCOME) or "open",
        phase=text(said, names.PHASE),
        fault=text(said, names.FAULT) or "none",
        error_type=text(said, names.ERROR_TYPE) or _failure_type(events),
        finish_reason=_finish_reason(finish, said),
        partial=said.get(names.PARTIAL) is True,
        failed_after_200=said.get(names.SUCCEEDED_THEN_FAILED) is True,
        length=length,
        first_chunk=first_chunk_at,
        first_token=first_token_at,
        attempts=max(1, int(number(said, names.ATTEMPTS))),
        last_attempt=number(said, names.LAST_ATTEMPT_DELAY),
        chunks=int(number(said, names.CHUNKS)),
        visible_chars=int(number(said, names.VISIBLE_CHARS)),
        stalls=max(int(number(said, names.STALLS)), len(stalls)),
        stalled_time=number(said, names.STALLED_TIME) or sum(hole.length for hole in stalls),
        flows=flows,
        holes=stalls + tail,
        loops=tuple(_loops(events, windows, first_chunk_at)),
        tools=tuple(
            Tool(
                event.elapsed,
                text(event.attributes, names.TOOL_NAME),
                text(event.attributes, names.TOOL_CALL_INPUT),
            )
            for event in events
            if event.name == names.EVENT_TOOL_READY
        ),
        stop_asked=asked.elapsed if asked else None,
        trigger=text(said, names.CANCEL_TRIGGER),
        propagation=text(said, names.CANCEL_PROPAGATION),
        close_delay=maybe(said, names.CANCEL_CLOSE_DELAY),
        shown_at_stop=int(number(request.attributes, names.CANCEL_VISIBLE_CHARS)) if request else 0,
        delivered_after=int(number(outcome.attributes, names.CANCEL_DELIVERED_CHARS)) if outcome else 0,
        effects=Effects(
            int(number(said, names.SIDE_EFFECTS_COMMITTED)),
            int(number(said, names.SIDE_EFFECTS_RUNNING)),
            int(number(said, names.SIDE_EFFECTS_DISCARDED)),
        ),
        retraction=_retraction(retracted) if retracted else None,
        reversals=tuple(_reversal(event) for event in events if event.name == names.EVENT_REVERSAL),
        stopped_at=(outcome.elapsed if outcome else length) - number(said, names.CANCEL_CLOSE_DELAY)
        if names.CANCEL_TRIGGER in said
        else None,
    )


@dataclass(frozen=True, slots=True)
class _Window:
    start: float
    end: float
    chunks: int
    chars: int


def _length(record: SpanRecord, now: float | None) -> float:
    """The end of a stream is its last activity; the span may have been ended later, by a finaliser."""
    if record.ended is None and now is not None:
        return max(0.0, now - record.started)
    whole = max(0.0, (record.ended or record.started) - record.started)
    # What stops a wait leaves no event of its own, and ends the span at once.
    if record.attributes.get(names.OUTCOME) in {"cancelled", "caller_error"}:
        return whole
    activity = [event.elapsed for event in record.events if event.name not in _AFTERWARDS]
    if activity and record.is_stream:
        return max(activity)
    return whole


def _windows(events: Iterable[Moment], said: Attributes, first_chunk: float | None, length: float) -> Iterable[_Window]:
    found = False
    for event in events:
        if event.name == names.EVENT_CADENCE:
            found = True
            start = number(event.attributes, names.CADENCE_START)
            count = int(number(event.attributes, names.CADENCE_CHUNKS))
            chars = int(number(event.attributes, names.CADENCE_CHARS))
            yield _Window(start, max(start, event.elapsed), count, chars)
    chunks = int(number(said, names.CHUNKS))
    if not found and first_chunk is not None and chunks:
        yield _Window(first_chunk, max(first_chunk, length), chunks, 0)


def _flows(windows: Iterable[_Window], holes: Iterable[Hole], thinking_until: float) -> Iterable[Flow]:
    """Spread the chunks of each window over what its stalls left of it."""
    for window in windows:
        pieces = [(window.start, window.end)]
        for hole in holes:
            pieces = [
                piece
                for start, end in pieces
                for piece in ((start, min(end, hole.start)), (max(start, hole.end), end))
                if piece[1] > piece[0]
            ]
        if not pieces:
            pieces = [(window.start, window.end)]
        whole = sum(end - start for start, end in pieces)
        for start, end in pieces:
            share = window.chunks * (end - start) / whole if whole else window.chunks / len(pieces)
            if start < thinking_until < end:
                part = (thinking_until - start) / (end - start)
                yield Flow(start, thinking_until, share * part, thinking=True)
                yield Flow(thinking_until, end, share * (1 - part))
            else:
                yield Flow(start, end, share, thinking=end <= thinking_until)


def _holes(events: Iterable[Moment]) -> Iterable[Hole]:
    for event in events:
        if event.name == names.EVENT_STALL:
            yield Hole(
                max(0.0, event.elapsed - number(event.attributes, names.STALL_DURATION)),
                event.elapsed,
                text(event.attributes, names.STALL_SOURCE) or "unknown",
                event.attributes.get(names.STALL_PING_SEEN) is True,
            )


def _loops(events: Iterable[Moment], windows: tuple[_Window, ...], first: float | None) -> Iterable[Loop]:
    for event in events:
        if event.name == names.EVENT_REPETITION:
            yield Loop(
                start=_time_of_char(windows, number(event.attributes, names.REPETITION_START), event.elapsed)
                if windows
                else first or 0.0,
                found=event.elapsed,
                period=int(number(event.attributes, names.REPETITION_PERIOD)),
                copies=number(event.attributes, names.REPETITION_COPIES),
                wasted=int(number(event.attributes, names.REPETITION_WASTED)),
                suspected=event.attributes.get(names.REPETITION_SUSPECTED) is True,
            )


def _time_of_char(windows: tuple[_Window, ...], char: float, latest: float) -> float:
    """Where in time a character arrived, as even as its window is: good enough to place a bracket."""
    for window in windows:
        if char < window.chars:
            return min(latest, window.start + (window.end - window.start) * char / window.chars)
        char -= window.chars
    return latest


def _retraction(event: Moment) -> Retraction:
    return Retraction(
        event.elapsed,
        text(event.attributes, names.RETRACTION_REASON),
        int(number(event.attributes, names.RETRACTION_VISIBLE_CHARS)),
        number(event.attributes, names.RETRACTION_EXPOSURE),
    )


def _reversal(event: Moment) -> Reversal:
    said = event.attributes
    return Reversal(
        event.elapsed,
        text(said, names.JUDGE),
        text(said, names.REVERSAL_FROM),
        text(said, names.REVERSAL_TO),
        number(said, names.REVERSAL_EXPOSURE),
        said.get(names.REVERSAL_ACTED_ON) is True,
    )


def _finish_reason(finish: Moment | None, said: Attributes) -> str:
    if finish:
        return text(finish.attributes, names.FINISH_RAW_REASON) or text(finish.attributes, names.FINISH_REASON)
    reasons = said.get(names.FINISH_REASONS)
    return plain(str(reasons[0])) if isinstance(reasons, tuple) and reasons and reasons[0] != "error" else ""


def _failure_type(events: Iterable[Moment]) -> str:
    failure = _moment(events, names.EVENT_FAILURE)
    return text(failure.attributes, names.ERROR_TYPE) if failure else ""


def _moment(events: Iterable[Moment], name: str) -> Moment | None:
    return next((event for event in events if event.name == name), None)


def maybe(attributes: Attributes, name: str) -> float | None:
    value = attributes.get(name)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def number(attributes: Attributes, name: str) -> float:
    return maybe(attributes, name) or 0.0


def text(attributes: Attributes, name: str) -> str:
    """A word as it may be shown: values are other people's text, also where ours are a closed set."""
    value = attributes.get(name)
    return plain(value) if isinstance(value, str) else ""
