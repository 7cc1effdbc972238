# SPDX-License-Identifier: Apache-2.0
"""The verdicts on one stream: how it ended once the protocol has been heard, and what became of a stop of it."""

from __future__ import annotations

from dataclasses import replace

from otelstream import _semconv as s
from otelstream._core.record.batch import arrived
from otelstream._core.record.cancel import Ask, Cancel, ledger
from otelstream._core.record.ending import Ending, failed
from otelstream._core.record.stream import StreamObservation, clock

_LEFT = ("cancelled", "abandoned", "caller_error")


def with_protocol(stream: StreamObservation, ending: Ending, silence: float) -> Ending:
    """Apply what the protocol said to a verdict that control flow gave, and find the fault.

    `silence`: seconds that the provider had been silent for while somebody waited.
    """
    left = ending.outcome in _LEFT
    if left and stream.finish_reason is not None:
        ending, left = stream.by_finish(), False
    if left and stream.undecodable is not None:
        ending, left = failed(stream.undecodable), False
    if stream.unseen:
        return replace(ending, trigger=None)
    if ending.fault != "none":
        return ending
    fault = _fault(stream, ending, silence)
    return ending if fault == "none" else replace(ending, fault=fault, error_type=ending.error_type or fault)


def _fault(stream: StreamObservation, ending: Ending, silence: float) -> s.Fault:
    frozen = silence >= stream.runtime.settings.freeze_threshold and stream.first_chunk_at is not None
    if stream.garbled:
        return "protocol_error"
    if frozen and ending.outcome in ("cancelled", "abandoned"):
        return "stalled"
    if ending.outcome == "refused" and stream.first_token_at is not None:
        return "content_filter"
    if _last_input_cut(stream, ending):
        return "tool_call_cut_off"
    if any(call.input == "invalid" for call in stream.tool_calls):
        return "malformed_tool_call"
    return "repetition" if stream.repetitions else "none"


def _last_input_cut(stream: StreamObservation, ending: Ending) -> bool:
    """Whether the finish reason explains why the last tool input is no valid JSON."""
    last = stream.tool_calls[-1] if stream.tool_calls else None
    if last is None or last.input in ("valid", None) or ending.outcome not in ("truncated", "refused"):
        return False
    last.input = "incomplete"
    return True


def ask_to_stop(stream: StreamObservation, trigger: s.Trigger, at: float) -> bool:
    """Note that `stream` was asked to stop, and how far it was; False when it had been asked, or was over."""
    if stream.stop_asked is not None or stream.end_at is not None:
        return False
    chunks, chars, visible = arrived(stream)
    stream.stop_asked = Ask(trigger, at, stream.position, visible, chunks, chars)
    return True


def cancel_of(stream: StreamObservation, ending: Ending, at: float) -> Cancel | None:
    """Decide what became of the stop of `stream`, which ended at `at`; None for one that nobody stopped."""
    asked = stream.stop_asked
    if asked is None and ending.trigger is None:
        return None
    calls = stream.all_tool_calls()
    if ending.outcome in (*_LEFT, "failed"):  # else they may still be started
        for call in calls:
            if call.dispatched_at is None and call.state in (None, "ready"):
                call.state = "discarded"
    of_turn = stream.turn.calls_with(stream.started) if stream.turn is not None else calls
    found = ledger(of_turn, asked.at if asked is not None else at)
    if asked is None:
        trigger = ending.trigger or "app_close"
        return Cancel(trigger, stream.position, _closed(stream, ending), at, stream.visible_chars, ledger=found)
    propagation = _propagation(stream, asked, ending, at)
    # Of a stream that nobody closed, `at` is its last activity, but its connection was open until now.
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


def _closed(stream: StreamObservation, ending: Ending) -> s.Propagation:
    if ending.trigger == "shutdown" and ending.outcome == "abandoned":
        return "still_open"
    if ending.trigger == "gc":
        return "still_open" if stream.drop == "never" else "closed_by_gc"
    return "closed"


def _propagation(stream: StreamObservation, asked: Ask, ending: Ending, at: float) -> s.Propagation:
    if asked.where == "after_finish":
        return "not_needed"
    if ending.outcome not in _LEFT:
        return "drained"
    closed = _closed(stream, ending)
    late = at - asked.at > stream.runtime.settings.cancel_late_after
    return "closed_late" if closed == "closed" and late else closed
