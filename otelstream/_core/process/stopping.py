# SPDX-License-Identifier: Apache-2.0
"""A Stop reaches a turn: its open streams, its tools, and the stream that follows."""

from __future__ import annotations

from collections import deque
from time import perf_counter as clock

from opentelemetry.util.types import AttributeValue

from otelstream import _semconv as s
from otelstream._core.record.cancel import Ask, Ledger, ledger
from otelstream._core.record.host import TurnStop, hosts
from otelstream._core.record.stream import StreamObservation
from otelstream._core.record.verdict import ask_to_stop
from otelstream._core.tools import hold
from otelstream._core.tools.registry import registry
from otelstream._core.turns.turn import Turn
from otelstream._trouble import trouble

NEVER_AFTER = 300.0  # seconds that a stop of a trace waits for a next stream
MAX_PENDING = 256
_pending: deque[Turn] = deque()


def stop(turn: Turn, trigger: s.Trigger, at: float) -> None:
    """Ask every open stream of `turn` to stop; between streams, keep the ask for the next one. Never raises."""
    try:
        if turn.stopped is not None:
            return
        turn.stopped = TurnStop(trigger, at)
        reached = [stream for stream in turn.open_streams() if ask_to_stop(stream, trigger, at)]
        hold.refuse_at_once(turn.tool_calls)
        for call in turn.tool_calls:
            if call.stream is not None:
                call.stream.wake()  # a call that is held must not run any more
        if not reached:
            _tell_tools(turn, trigger)
            turn.over.append(_between_streams)
            if turn.by_trace:  # nobody says when a trace is over
                _pending.append(turn)
            else:
                turn.call_if_over()
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
        turn.call_if_over()


def restart() -> None:
    """Start anew, in a forked child."""
    _pending.clear()


def inherit(stream: StreamObservation, turn: Turn) -> None:
    """A stream begins, maybe in a turn that was stopped between two streams."""
    sweep()
    if turn.stopped is not None:
        stream.stop_asked = Ask(turn.stopped.trigger, turn.stopped.at, "between_streams", 0, 0, 0)
        turn.over.clear()


def count(stream: StreamObservation, found: Ledger) -> None:
    """Count the side effects that a stop found, each call once under each word."""
    for word, calls in found:
        for call in calls:
            stream.runtime.metrics.side_effect(stream, call, word)


def _between_streams(turn: Turn) -> None:
    """The turn is over and no stream took its Stop: it is counted with the newest one, which had ended."""
    stopped, stream = turn.stopped, turn.newest()
    if stopped is None:
        return
    if stream is None:
        for host in list(hosts):
            host.metrics.stopped_nothing(turn.route, stopped.trigger)
        return
    for call in turn.tool_calls:
        # A tool whose runs nobody can see may have run: its results would have come with the next request.
        if call.dispatched_at is None and call.state in (None, "ready") and registry.sees(call.name):
            call.state = "discarded"
    found = ledger(turn.tool_calls, stopped.at)
    stream.runtime.metrics.stopped_between(stream, stopped.trigger)
    count(stream, found)
    for call in found.discarded:
        registry.never(call)
