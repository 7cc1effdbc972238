# SPDX-License-Identifier: Apache-2.0
"""What the application and its user do about a turn: stop it, withdraw what was shown, act on what is there."""

from __future__ import annotations

from time import perf_counter as clock
from typing import get_args

from opentelemetry import trace
from opentelemetry.util.types import AttributeValue

from otelstream import _semconv as s
from otelstream._core.process import runtime as process
from otelstream._core.process.stopping import stop
from otelstream._core.record.batch import arrived
from otelstream._core.record.stream import StreamObservation
from otelstream._core.turns import turn as turns
from otelstream._errors import ConfigurationError
from otelstream._trouble import logger, trouble

MAX_ACTIONS = 64  # of one stream, that wait for its end
_not_found_said: list[bool] = []


def record_stop(turn: str | None = None) -> bool:
    """The user stopped a turn: the one of that id, from any request of this process, else the current one.

    It records, it does not stop: closing the stream stays the application's. It reaches what is open, in the turns
    inside it too, and in a turn that somebody opened what comes next; where only a trace holds a turn together, it does
    not reach what comes later. Returns whether it reached a stream or a tool, or a turn that still goes on; a turn that
    is not found is counted, and warned about once.
    """
    return _stop(turn, "user_stop", "record_stop()")


def client_gone(turn: str | None = None) -> bool:
    """The client of a turn left: the one of that id, else the current one and those around it.

    For servers that no middleware of ours can look into. Else it is as `record_stop`: it records, closing the stream
    stays the application's; of an answer that the client has in full it is not to be called.
    """
    return _stop(turn, "client_disconnect", "client_gone()")


def _stop(turn: str | None, trigger: s.Trigger, caller: str) -> bool:
    try:
        found = turns.current() if turn is None else turns.find(str(turn))
        if found is not None:
            if turn is None and trigger == "client_disconnect":
                *_, found = found.chain()  # nobody is there for any of them
            return stop(found, trigger, clock())
        for runtime in process.runtimes():
            runtime.metrics.add(s.STOPS_NOT_FOUND, None)
        if not _not_found_said:
            _not_found_said.append(True)
            logger.warning(
                "%s found no such turn in this process: open it with otelstream.turn(id), and let the "
                "request for the stop reach the process that streams",
                caller,
            )
    except Exception:
        trouble("recording a stop")
    return False


def record_retraction(*, reason: s.RetractionReason = "other", turn: str | None = None) -> bool:
    """What was shown of the newest answer of the turn is withdrawn: how much it was, and for how long, is recorded.

    Returns whether there was an answer.

    Raises:
        ConfigurationError: for a reason that is none.
    """
    if reason not in get_args(s.RetractionReason):
        allowed = " or ".join(map(repr, get_args(s.RetractionReason)))
        raise ConfigurationError(f"reason={reason!r} is not allowed: use {allowed}")
    try:
        now = clock()
        stream = _newest(turn)
        if stream is None:
            return False
        _, _, visible = arrived(stream)
        exposure = now - stream.first_token_at if stream.first_token_at is not None else 0.0
        attributes: dict[str, AttributeValue] = {
            s.RETRACTION_REASON: reason,
            s.RETRACTION_VISIBLE_CHARS: visible,
            s.RETRACTION_EXPOSURE: exposure,
        }
        _say(stream, s.EVENT_RETRACTION, now, attributes)
        metrics = stream.runtime.metrics
        metrics.add(s.RETRACTIONS, stream, {s.RETRACTION_REASON: reason})
        if stream.first_token_at is not None:
            metrics.add(s.RETRACTION_EXPOSURE_TIME, stream, {s.RETRACTION_REASON: reason}, exposure)
    except Exception:
        trouble("recording a retraction")
        return False
    return True


def record_action(*, turn: str | None = None, visible_chars: int | None = None) -> bool:
    """The user acted on what was there so far: how long before the end of the stream is recorded.

    `visible_chars`: characters that the page showed then, where it says so; without it those that had arrived here.
    Returns whether there was a stream to act on.

    Raises:
        ConfigurationError: for a count that is none.
    """
    if visible_chars is not None and (not isinstance(visible_chars, int) or visible_chars < 0):
        raise ConfigurationError(f"visible_chars={visible_chars!r} is no count of characters: leave it out or count")
    try:
        now = clock()
        stream = _newest(turn)
        if stream is None:
            return False
        visible = arrived(stream)[2] if visible_chars is None else visible_chars
        if stream.ending is None and len(stream.actions) < MAX_ACTIONS:
            stream.actions.append((now, visible))
        else:
            _say(stream, s.EVENT_ACTION, now, {s.ACTION_VISIBLE_CHARS: visible})
    except Exception:
        trouble("recording an action")
        return False
    return True


def _newest(id: str | None) -> StreamObservation | None:  # noqa: A002
    if id is None:
        return turns.newest()
    turn = turns.find(str(id))
    return turn.newest() if turn is not None else None


def _say(stream: StreamObservation, name: str, at: float, attributes: dict[str, AttributeValue]) -> None:
    """Put an event on the stream's record, or where that is out on the span that is current, linked to the stream's."""
    if stream.ending is None:
        stream.event(name, at, attributes)
        return
    span = trace.get_current_span()
    if not span.is_recording() or stream.runtime.settings.events not in ("span", "both"):
        return
    attributes[s.ELAPSED] = at - stream.started
    span.add_event(name, attributes)
    if stream.span is not None and hasattr(span, "add_link"):
        span.add_link(stream.span.get_span_context())
