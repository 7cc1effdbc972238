# SPDX-License-Identifier: Apache-2.0
"""A Stop reaches a turn: its open streams, its tools, and where somebody opened it the stream that follows."""

from __future__ import annotations

from collections import deque
from time import perf_counter as clock

from opentelemetry.util.types import AttributeValue

from otelstream import _semconv as s
from otelstream._core.record.call import ToolCall
from otelstream._core.record.cancel import Ask, Ledger, ledger
from otelstream._core.record.host import TurnStop, hosts
from otelstream._core.record.stream import StreamObservation
from otelstream._core.record.verdict import ask_to_stop
from otelstream._core.tools import hold
from otelstream._core.tools.registry import registry
from otelstream._core.turns.turn import Turn
from otelstream._trouble import trouble

NEVER_AFTER = 300.0  # seconds that a stop of a trace waits for what becomes of its tools
MAX_PENDING = 256
_pending: deque[Turn] = deque()


def stop(turn: Turn, trigger: s.Trigger, at: float) -> bool:
    """Ask every open stream of `turn` to stop; between streams, keep the ask for the next one. Never raises.

    Returns whether it reached a stream or a tool, or somebody who is still in the turn.
    """
    try:
        before = turn.stopped
        if not turn.lasting and turn.reached(at):
            return turn.live or bool(_under_way(turn))  # pressed again
        newest = turn.newest()
        if before is not None and (newest is None or newest.started <= before.at):
            return bool(turn.open_streams() or _under_way(turn))  # pressed again, and nothing came meanwhile
        turn.settle()
        turn.stopped = TurnStop(trigger, at)
        tools = _under_way(turn)
        asked = [ask_to_stop(stream, trigger, at) or stream.stop_asked is not None for stream in turn.open_streams()]
        calls = turn.tool_calls
        hold.refuse_at_once(calls)
        for call in calls:
            if call.stream is not None:
                call.stream.wake()  # a call that is held must not run any more
        if not any(asked):
            _tell_tools(turn, trigger)
            turn.over.append(_between_streams)
            if turn.by_trace:  # nobody says when a trace is over
                _pending.append(turn)
            else:
                turn.call_if_over()
        sweep()
        return bool(any(asked) or tools) or (not turn.lasting and turn.live)
    except Exception:
        trouble("recording a stop")
    return False


def _under_way(turn: Turn) -> list[ToolCall]:
    """The tools of `turn` that run now, or that their gate will not let run any more."""
    return [call for call in turn.tool_calls if call.finished_at is None and (_runs(call) or hold.awaited(call))]


def under_way(turn: Turn) -> bool:
    """Whether a stream of `turn` is open, or a tool of it runs or waits for its gate."""
    return bool(turn.open_streams() or _under_way(turn))


def _runs(call: ToolCall) -> bool:
    return call.dispatched_at is not None and call.state == "running"


def _tell_tools(turn: Turn, trigger: s.Trigger) -> None:
    """Between streams it is the tools that the stop finds: it goes on their spans."""
    for call in turn.tool_calls:
        if call.span is not None and call.span.is_recording():
            attributes: dict[str, AttributeValue] = {s.CANCEL_TRIGGER: trigger, s.CANCEL_AT: "between_streams"}
            call.span.add_event(s.EVENT_CANCEL_REQUESTED, attributes)


def sweep() -> None:
    """Give up on what else comes of a stopped trace, when its Stop is too long ago, or there are too many."""
    while True:
        try:
            turn = _pending.popleft()
        except IndexError:  # none are left, or another thread has the last
            return
        if turn.stopped is not None and clock() - turn.stopped.at < NEVER_AFTER and len(_pending) < MAX_PENDING:
            _pending.appendleft(turn)
            return
        turn.settle()


def restart() -> None:
    """Start anew, in a forked child."""
    _pending.clear()


def inherit(stream: StreamObservation, turn: Turn) -> None:
    """A stream begins, maybe in a turn that was stopped between two streams. Never raises."""
    try:
        sweep()
        stopped = turn.stopped_by(stream.started)
        if stopped is not None and stopped.stopped is not None and stream.stop_asked is None:
            stream.stop_asked = Ask(stopped.stopped.trigger, stopped.stopped.at, "between_streams", 0, 0, 0)
        for each in turn.chain():
            if each.lasting and each is not stopped:
                each.settle()  # it goes on with something else
            elif each.stopped is not None:
                each.over.clear()
    except Exception:
        trouble("looking for a stop")


def count(stream: StreamObservation, found: Ledger) -> None:
    """Count the side effects that a stop found, each call once under each word."""
    for word, calls in found:
        for call in calls:
            stream.runtime.metrics.side_effect(stream, call, word)


def _between_streams(turn: Turn) -> None:
    """The turn is over and no stream took its Stop: it is counted with the newest one, which had ended."""
    stopped = turn.stopped
    if stopped is None:
        return
    stream = next((each for each in reversed(turn.answers) if each.started <= stopped.at), None)
    if stream is None:
        for host in list(hosts):
            host.metrics.stopped_nothing(turn.route, stopped.trigger)
        return
    calls = turn.stopped_calls()
    for call in calls:
        # A tool whose runs nobody can see may have run: its results would have come with the next request.
        if call.dispatched_at is None and call.state in (None, "ready") and registry.sees(call.name):
            call.state = "discarded"
    found = ledger(calls, stopped.at)
    stream.runtime.metrics.stopped_between(stream, stopped.trigger)
    count(stream, found)
    for call in found.discarded:
        registry.never(call)
