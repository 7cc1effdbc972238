# SPDX-License-Identifier: Apache-2.0
"""The end of a stream: decided once, its record completed, and published once.

The end arrives more than once (a verdict of the protocol, the body's end, `close()`, the finaliser, exit): the first
one decides and emits, the others return.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import cast

from opentelemetry.util.types import AttributeValue

from otelstream import _semconv as s
from otelstream._core.emit import outbox
from otelstream._core.emit import tool as tool_spans
from otelstream._core.record import batch
from otelstream._core.record.call import ToolCall
from otelstream._core.record.cancel import Cancel
from otelstream._core.record.ending import Ending
from otelstream._core.record.hearing import Change
from otelstream._core.record.stream import StreamObservation, clock
from otelstream._core.record.text import printable
from otelstream._core.record.verdict import cancel_of, with_protocol
from otelstream._core.tools import hold
from otelstream._trouble import trouble


def end(stream: StreamObservation, ending: Ending, at: float | None = None) -> None:
    """Decide how the stream ended, and emit its record. The first call wins. Never raises.

    `at`: the arrival of the terminal event; without it the stream ended with its last activity, or now when it
    never had a response.
    """
    try:
        decide(stream, ending, at)
    finally:
        publish(stream)


def decide(stream: StreamObservation, ending: Ending, at: float | None = None) -> None:
    """`end()` for who has something to close first: `publish()` is to follow. Never raises."""
    if stream.ending is not None:
        return
    try:
        try:
            stream.once.pop()
        except IndexError:
            return
        _complete(stream, ending, at)
        stream.once.append(True)  # for whoever publishes first
    except BaseException as error:
        _make_do(stream, ending)
        stream.once[:] = [True]
        if not isinstance(error, Exception):  # Ctrl-C: nobody is sure to publish after it
            publish(stream)
            raise
        trouble("deciding how a stream ended")


def _complete(stream: StreamObservation, ending: Ending, at: float | None) -> None:
    if stream.verdict is not None and ending.trigger in ("gc", "generator_close", "shutdown"):
        ending = stream.verdict  # whoever drops or closes a stream after that knows no better
    silence = stream.silence
    now = clock()
    batch.left_open(stream, stream.last)
    _hear(stream)
    if at is None:
        at = max(stream.last, stream.activity)
        # What stops the wait is an activity too: a time-out, a cut, a task's cancel.
        if stream.waiting_since >= stream.last or stream.response_at is None:
            at = now
    stream.end_at = at
    for block in (*stream.blocks.values(), stream.block):
        stream.close_detector(block, at)
    stream.ending = with_protocol(stream, ending, silence)
    stream.cadence.close((stream.last_chunk_at or at) - stream.started)
    _judge(stream)
    hold.refuse_at_once(stream.all_tool_calls())
    stream.cancel = cancel_of(stream, stream.ending, at)
    stream.emitted_at = now
    _last_events(stream, at, now)


def _hear(stream: StreamObservation) -> None:
    """Take the last word of the judges that read the text, and let go of it."""
    visible = stream.visible
    if visible is None:
        return
    stream.heard = visible.heard()  # for who looks while the last word is waited for
    stream.visible = None
    try:
        waits = not outbox.finalising() and not outbox.reentered()  # else somebody's lock may be held here
        stream.changes = visible.close(stream.last, wait=waits)
        stream.heard = visible.heard()
    except Exception:
        trouble("hearing the judges")


def _judge(stream: StreamObservation) -> None:
    judged = stream.runtime.settings.objectives.judge(stream, stream.model, stream.route)
    if stream.unseen:
        judged = tuple((objective, "excluded") for objective, _ in judged)
    elif stream.untimed and stream.first_token_at is None and stream.outcome != "failed":
        judged = tuple((each, "excluded" if each.kind == "first_token" else found) for each, found in judged)
    stream.judged = judged


def _make_do(stream: StreamObservation, ending: Ending) -> None:
    """Something stopped the decision: what it had not come to is made up from what is there."""
    stream.end_at = at = stream.end_at or clock()
    try:
        if stream.ending is None:
            stream.ending = with_protocol(stream, ending, 0.0)
        if not stream.judged:
            _judge(stream)
        if stream.cancel is None:
            stream.cancel = cancel_of(stream, stream.ending, at)
    except Exception:
        trouble("deciding how a stream ended")
    stream.unseen = stream.unseen or stream.ending is None  # a held tool must not take it for a clean end
    stream.ending = stream.ending or ending
    stream.emitted_at = stream.emitted_at or at


def publish(stream: StreamObservation) -> None:
    """Emit the record, once, if the end is decided. Never raises."""
    try:
        if stream.ending is None:
            return
        stream.runtime.publish(stream)
    except BaseException:  # Ctrl-C, and it struck before the runtime took the record over
        if stream.ending is not None and stream.once:
            outbox.later(partial(stream.runtime.publish, stream))
        raise
    if stream.waiters:
        stream.wake()


def disown(stream: StreamObservation) -> None:
    """Leave the end to the parent process: this is the copy that a fork made."""
    stream.once.clear()
    stream.native_end = None


def _last_events(stream: StreamObservation, at: float, now: float) -> None:
    ending = cast("Ending", stream.ending)
    for window in stream.cadence.windows:
        attributes: dict[str, AttributeValue] = {
            s.CADENCE_START: window.start,
            s.CADENCE_CHUNKS: window.chunks,
            s.CADENCE_GAP_P50: window.p50,
            s.CADENCE_GAP_P95: window.p95,
            s.CADENCE_GAP_MAX: window.longest,
            s.CADENCE_CHARS: window.chars,
        }
        stream.event(s.EVENT_CADENCE, stream.started + window.end, attributes)
    for loop in stream.loops:
        found = loop.repetition
        attributes = {
            s.BLOCK_KIND: loop.kind,
            s.REPETITION_PERIOD: found.period,
            s.REPETITION_COPIES: found.copies,
            s.REPETITION_START: found.start,
            s.REPETITION_WASTED: found.wasted,
            s.REPETITION_SUSPECTED: found.suspected,
        }
        stream.event(s.EVENT_REPETITION, loop.at, attributes)
    for call in stream.tool_calls:
        if call.ready is not None:
            stream.event(s.EVENT_TOOL_READY, stream.started + call.ready, _ready_attributes(call))
        for name, when, values in tool_spans.events(call, before=now):
            stream.event(name, when, values)
    for when, visible in stream.actions:
        attributes = {s.ACTION_VISIBLE_CHARS: visible, s.ACTION_LEAD: at - when}
        stream.event(s.EVENT_ACTION, when, attributes)
    for change in stream.changes:
        for name, values in _change_events(stream, change):
            stream.event(name, change.at, values)
    if stream.cancel is not None:
        _cancel_events(stream, stream.cancel, at)
    if ending.fault not in ("none", "repetition"):
        attributes = {s.FAULT: ending.fault, s.FAILURE_VISIBLE_CHARS: stream.visible_chars}
        if ending.error_type:
            attributes[s.ERROR_TYPE] = ending.error_type
        if stream.first_token_at is not None:
            attributes[s.FAILURE_SINCE_FIRST_TOKEN] = at - stream.first_token_at
        stream.event(s.EVENT_FAILURE, at, attributes)
    stream.events.sort(key=lambda event: event[1])


def _change_events(stream: StreamObservation, change: Change) -> Iterator[tuple[str, dict[str, AttributeValue]]]:
    shown: dict[str, AttributeValue] = {
        s.JUDGE: change.judge, s.VERDICT: change.verdict, s.VERDICT_VISIBLE_CHARS: change.position
    }  # fmt: skip
    if stream.first_token_at is not None:
        shown[s.VERDICT_SINCE_FIRST_TOKEN] = max(0.0, change.at - stream.first_token_at)
    yield s.EVENT_VERDICT, shown
    taken_back = change.reverses(stream.actions)
    if taken_back is not None:
        yield (
            s.EVENT_REVERSAL,
            {
                s.JUDGE: change.judge,
                s.REVERSAL_FROM: taken_back.before,
                s.REVERSAL_TO: taken_back.after,
                s.VERDICT_VISIBLE_CHARS: change.position,
                s.REVERSAL_EXPOSURE: taken_back.exposure,
                s.REVERSAL_EXPOSED_CHARS: taken_back.exposed_chars,
                s.REVERSAL_ACTED_ON: taken_back.acted_on,
            },
        )


def _ready_attributes(call: ToolCall) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        s.TOOL_NAME: printable(call.name),
        s.TOOL_CALL_ID: printable(call.id),
        s.TOOL_CALL_BYTES: call.size,
        s.TOOL_CALL_PAUSE: call.pause,
        s.TOOL_CALL_PREAMBLE: call.preamble,
        s.TOOL_CALL_READY_EVIDENCE: "inferred" if call.inferred else "explicit",
    }
    if call.input is not None:
        attributes[s.TOOL_CALL_INPUT] = call.input
    return attributes


def _cancel_events(stream: StreamObservation, cancel: Cancel, at: float) -> None:
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
