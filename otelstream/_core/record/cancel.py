# SPDX-License-Identifier: Apache-2.0
"""A Stop: what it asked of which stream, what became of it, and which side effects stood when it came."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from time import perf_counter as clock
from typing import TYPE_CHECKING

from opentelemetry.util.types import AttributeValue

from otelstream import _semconv as s
from otelstream._core.record.call import ToolCall
from otelstream._core.record.ending import Ending
from otelstream._trouble import trouble

if TYPE_CHECKING:
    from otelstream._core.record.stream import StreamObservation
    from otelstream._core.turns.turn import Turn


NEVER_AFTER = 300.0  # seconds that a stop of a trace waits for a next stream
MAX_PENDING = 256
_pending: deque[Turn] = deque()


@dataclass(frozen=True, slots=True)
class TurnStop:
    """Who stopped a turn, and when on the stream clock. The first Stop of a turn counts."""

    trigger: s.Trigger
    at: float


@dataclass(frozen=True, slots=True)
class Ask:
    """One stream was asked to stop: where it was, and what had arrived by then."""

    trigger: s.Trigger
    at: float
    where: s.CancelAt
    visible_chars: int
    chunks: int
    chars: int  # generated, of any kind


@dataclass(frozen=True, slots=True)
class Ledger:
    """The tool calls of a stopped turn that are no mere reads, by where they stood at the Stop; newest first."""

    committed: tuple[ToolCall, ...] = ()  # done before
    running: tuple[ToolCall, ...] = ()  # started and not done; or started after all
    discarded: tuple[ToolCall, ...] = ()  # never started
    withheld: tuple[ToolCall, ...] = ()  # refused by their hold
    compensated: tuple[ToolCall, ...] = ()  # undone since

    def __iter__(self) -> Iterator[tuple[s.SideEffect, tuple[ToolCall, ...]]]:
        yield "committed", self.committed
        yield "running", self.running
        yield "discarded", self.discarded
        yield "withheld", self.withheld
        yield "compensated", self.compensated

    def __bool__(self) -> bool:
        return any(calls for _, calls in self)


@dataclass(frozen=True, slots=True)
class Cancel:
    """What became of a stop of one stream, decided with its terminal record. Delays in seconds."""

    trigger: s.Trigger
    where: s.CancelAt
    propagation: s.Propagation
    at: float
    visible_chars: int
    close_delay: float | None = None  # None: ask and close were one instant
    delivered_chunks: int | None = None
    delivered_chars: int | None = None
    ledger: Ledger = Ledger()


def ledger(turn: Turn | None, at: float | None, calls: list[ToolCall] | None = None) -> Ledger:
    """Sort the side effects of `turn` by how they stood at an instant of the stream clock; None: now."""
    if turn is not None:
        calls = list(turn.tool_calls)
    found: dict[s.SideEffect, list[ToolCall]] = {
        "committed": [],
        "running": [],
        "discarded": [],
        "withheld": [],
        "compensated": [],
    }
    for call in calls or ():
        stood = side_effect(call, at)
        if stood is not None:
            found[stood].append(call)
    newest_first = {name: tuple(sorted(group, key=_newest, reverse=True)) for name, group in found.items()}
    return Ledger(**newest_first)


def _newest(call: ToolCall) -> float:
    started = call.stream.started if call.stream is not None else 0.0
    return call.finished_at or call.dispatched_at or started + (call.ready or 0.0)


def side_effect(call: ToolCall, at: float | None) -> s.SideEffect | None:
    """How one call stood at an instant of the stream clock; None for what touches nothing."""
    if call.effect == "read":
        return None
    if call.state == "withheld":
        return "withheld"
    if call.state == "compensated":
        return "compensated"
    if call.dispatched_at is None:
        return "discarded" if call.state == "discarded" else None
    if call.finished_at is not None and (at is None or call.finished_at <= at):
        return "committed" if call.state == "committed" else None
    return "running"


# --- asking -----------------------------------------------------------------------------------------------


def stop(turn: Turn, trigger: s.Trigger, at: float) -> None:
    """Ask every open stream of `turn` to stop; between streams, keep the ask for the next one. Never raises."""
    try:
        if turn.stopped is not None:
            return
        turn.stopped = TurnStop(trigger, at)
        reached = [stream for stream in turn.open_streams() if ask(stream, trigger, at)]
        _settle_held(turn.tool_calls)
        for call in turn.tool_calls:
            if call.stream is not None:
                call.stream.wake()  # a call that is held must not run any more
        if not reached:
            _tell_tools(turn, trigger)
            turn.over.append(_between_streams)
            if turn.by_trace:  # nobody says when a trace is over
                _pending.append(turn)
            else:
                turn.settle()
        sweep()
    except Exception:
        trouble("recording a stop")


def _tell_tools(turn: Turn, trigger: s.Trigger) -> None:
    """Between streams it is the tools that the stop finds: it goes on their spans."""
    for call in turn.tool_calls:
        if call.span is not None and call.span.is_recording():
            attributes: dict[str, AttributeValue] = {s.CANCEL_TRIGGER: trigger, s.CANCEL_AT: "between_streams"}
            call.span.add_event(s.EVENT_CANCEL_REQUESTED, attributes)


def sweep() -> None:
    """Give up on a next stream for stops of traces that are too long ago, or too many."""
    while _pending:
        turn = _pending[0]
        if turn.stopped is not None and clock() - turn.stopped.at < NEVER_AFTER and len(_pending) <= MAX_PENDING:
            return
        _pending.popleft()
        turn.settle()


def forget() -> None:
    """Start anew, in a forked child."""
    _pending.clear()


def ask(stream: StreamObservation, trigger: s.Trigger, at: float) -> bool:
    """Note that `stream` was asked to stop, and how far it was; False when it had been asked, or was over."""
    if stream.asked is not None or stream.end_at is not None:
        return False
    chunks, chars, visible = stream.arrived()
    stream.asked = Ask(trigger, at, stream.position, visible, chunks, chars)
    return True


def inherit(stream: StreamObservation, turn: Turn) -> None:
    """A stream begins, maybe in a turn that was stopped between two streams."""
    sweep()
    if turn.stopped is not None:
        stream.asked = Ask(turn.stopped.trigger, turn.stopped.at, "between_streams", 0, 0, 0)
        turn.over.clear()


# --- what became of it ------------------------------------------------------------------------------------


def settle(stream: StreamObservation, ending: Ending, at: float) -> Cancel | None:
    """Decide what became of the stop of `stream`, which ended at `at`; None for one that nobody stopped."""
    _settle_held(stream.all_tool_calls())
    asked = stream.asked
    if asked is None and ending.trigger is None:
        return None
    stopped_at = asked.at if asked is not None else at
    if ending.outcome in ("cancelled", "abandoned", "caller_error", "failed"):  # else they may still be started
        for call in stream.all_tool_calls():
            if call.dispatched_at is None and call.state in (None, "ready"):
                call.state = "discarded"
    found = ledger(stream.turn, stopped_at, stream.all_tool_calls())
    if asked is None:
        trigger = ending.trigger or "app_close"
        return Cancel(trigger, stream.position, _closed(ending), at, stream.visible_chars, ledger=found)
    propagation = _propagation(stream, asked, ending, at)
    # A stream that nobody closed ended with its last activity: it is let go only now.
    closed_at = clock() if propagation in ("closed_by_gc", "still_open") else at
    return Cancel(
        asked.trigger,
        asked.where,
        propagation,
        asked.at,
        asked.visible_chars,
        max(0.0, closed_at - asked.at),
        max(0, stream.chunks - asked.chunks),
        max(0, stream.chars - asked.chars),
        found,
    )


def _settle_held(calls: Collection[ToolCall]) -> None:
    """Withhold at once what is held and must not run any more: those who wait for it may be slow to look."""
    if any(call.held for call in calls):
        from otelstream._core.tools import hold as _hold

        _hold.settle(calls)


def _closed(ending: Ending) -> s.Propagation:
    if ending.trigger == "shutdown" and ending.outcome == "abandoned":
        return "still_open"
    return "closed_by_gc" if ending.trigger == "gc" else "closed"


def _propagation(stream: StreamObservation, asked: Ask, ending: Ending, at: float) -> s.Propagation:
    if asked.where == "after_finish":
        return "not_needed"
    if ending.outcome not in ("cancelled", "abandoned", "caller_error"):
        return "drained"
    closed = _closed(ending)
    late = at - asked.at > stream.runtime.settings.cancel_late_after
    return "closed_late" if closed == "closed" and late else closed


def events(stream: StreamObservation, cancel: Cancel, at: float) -> None:
    """Put the ask and its outcome among the events of `stream`."""
    requested: dict[str, AttributeValue] = {
        s.CANCEL_TRIGGER: cancel.trigger,
        s.CANCEL_AT: cancel.where,
        s.CANCEL_VISIBLE_CHARS: cancel.visible_chars,
    }
    stream.event(s.EVENT_CANCEL_REQUESTED, max(cancel.at, stream.started), requested)
    outcome: dict[str, AttributeValue] = {
        s.CANCEL_TRIGGER: cancel.trigger,
        s.CANCEL_PROPAGATION: cancel.propagation,
        s.SIDE_EFFECTS_COMMITTED: len(cancel.ledger.committed),
        s.SIDE_EFFECTS_RUNNING: len(cancel.ledger.running),
        s.SIDE_EFFECTS_DISCARDED: len(cancel.ledger.discarded),
    }
    if cancel.close_delay is not None:
        at = cancel.at + cancel.close_delay
        outcome[s.CANCEL_CLOSE_DELAY] = cancel.close_delay
        outcome[s.CANCEL_DELIVERED_CHUNKS] = cancel.delivered_chunks or 0
        outcome[s.CANCEL_DELIVERED_CHARS] = cancel.delivered_chars or 0
    stream.event(s.EVENT_CANCEL_OUTCOME, at, outcome)


def count(stream: StreamObservation, found: Ledger) -> None:
    """Count the side effects that a stop found, each call once under each word."""
    for word, calls in found:
        for call in calls:
            count_one(stream, call, word)


def count_one(stream: StreamObservation, call: ToolCall, word: s.SideEffect) -> None:
    if word in call.stood or (call.stood and word != "compensated"):
        return
    call.stood.add(word)
    metrics = stream.runtime.metrics
    metrics.add(s.CANCELLATION_SIDE_EFFECTS, metrics.common(stream), {s.SIDE_EFFECT: word})


def _between_streams(turn: Turn) -> None:
    """The turn is over and no stream took its Stop: it is counted with the newest one, which had ended."""
    stopped, stream = turn.stopped, turn.newest()
    if stopped is None:
        return
    if stream is None:
        from otelstream._core.process import runtime as _runtime

        for runtime in _runtime.runtimes():
            runtime.metrics.stopped_nothing(turn.route, stopped.trigger)
        return
    from otelstream._core.tools.registry import registry

    for call in turn.tool_calls:
        # A tool whose runs nobody can see may have run: its results would have come with the next request.
        if call.dispatched_at is None and call.state in (None, "ready") and registry.sees(call.name):
            call.state = "discarded"
    found = ledger(turn, stopped.at)
    stream.runtime.metrics.stopped_between(stream, stopped.trigger)
    count(stream, found)
    for call in found.discarded:
        registry.never(call)
