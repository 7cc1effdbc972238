# SPDX-License-Identifier: Apache-2.0
"""What the application may know of a stream: a live view of its record, without any text of it."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any, Generic, TypeVar, overload

from otelstream import _semconv as s
from otelstream._core.record.batch import arrived
from otelstream._core.record.call import ToolCall
from otelstream._core.record.cancel import Cancel, Ledger
from otelstream._core.record.hearing import JudgeReport, Reversal
from otelstream._core.record.stream import StreamObservation

T = TypeVar("T")
_NOT_PLAIN = ("judges", "ledger", "reversals", "tool_calls")


class _Known(Generic[T]):
    """One value of a view, read anew each time; None of a stream that is not observed."""

    def __init__(self, says: str, read: Callable[[StreamObservation], T | None]) -> None:
        self.__doc__ = says
        self._read = read

    @overload
    def __get__(self, view: None, owner: type | None = None) -> _Known[T]: ...
    @overload
    def __get__(self, view: StreamView, owner: type | None = None) -> T | None: ...
    def __get__(self, view: StreamView | None, owner: type | None = None) -> _Known[T] | T | None:
        if view is None:
            return self
        return None if view._stream is None else self._read(view._stream)

    def __set__(self, view: StreamView, value: object) -> None:
        raise AttributeError("a view is read only")


def _of_cancel(read: Callable[[Cancel], T | None]) -> Callable[[StreamObservation], T | None]:
    return lambda stream: read(stream.cancel) if stream.cancel is not None else None


class StreamView:
    """One stream, open or ended. Of an unobserved one every value is None and every method a no-op.

    Durations are seconds from the request. `outcome`, `fault` and `partial` are None while the stream runs.
    """

    __slots__ = ("_stream",)

    def __init__(self, stream: StreamObservation | None) -> None:
        self._stream = stream

    outcome = _Known[s.Outcome]("How it ended.", lambda stream: stream.outcome)
    phase = _Known[s.Phase]("How far it got.", lambda stream: stream.phase)
    fault = _Known[s.Fault](
        "What was wrong with it; `none` where nothing was.",
        lambda stream: stream.fault if stream.ending is not None else None,
    )
    error_type = _Known[str]("The provider's own word for the failure.", lambda stream: stream.error_type)
    trigger = _Known[s.Trigger]("Who stopped it, or asked for that.", lambda stream: stream.stopped_by)
    partial = _Known[bool]("Whether the answer is not whole.", lambda stream: stream.partial)
    succeeded_then_failed = _Known[bool](
        "Whether the caller got a 200 and then a fault.", lambda stream: stream.succeeded_then_failed
    )
    visible_chars = _Known[int](
        "Characters of text that arrived.",
        lambda stream: arrived(stream)[2] if stream.ending is None else stream.visible_chars,
    )
    chunks = _Known[int](
        "Generated, non-empty deltas that arrived.",
        lambda stream: arrived(stream)[0] if stream.ending is None else stream.chunks,
    )
    time_to_first_chunk = _Known[float](
        "Seconds from the request to the first chunk of any kind.", lambda stream: stream.time_to_first_chunk
    )
    time_to_first_token = _Known[float](
        "Seconds from the request to the first chunk that a user can see.", lambda stream: stream.time_to_first_token
    )
    duration = _Known[float]("Seconds from the request to the end.", lambda stream: stream.duration)
    model = _Known[str]("The model that was asked for.", lambda stream: stream.model)
    route = _Known[str]("The route of its turn.", lambda stream: stream.route)
    response_id = _Known[str]("The provider's id of the response.", lambda stream: stream.response_id)
    finish_reason = _Known[str]("The finish reason, in OpenTelemetry's words.", lambda stream: stream.finish_reason)
    cancelled_at = _Known[s.CancelAt]("Where in the answer the stop came.", lambda stream: stream.stopped_where)
    propagation = _Known[s.Propagation](
        "What became of the stop, once the stream has ended.", _of_cancel(lambda cancel: cancel.propagation)
    )
    close_delay = _Known[float](
        "Seconds from the ask to the end of the stream; None where both were one instant.",
        _of_cancel(lambda cancel: cancel.close_delay),
    )
    delivered_after = _Known[int](
        "Characters that arrived after the ask.", _of_cancel(lambda cancel: cancel.delivered_chars)
    )
    turn_id = _Known[str]("The id of its turn, where somebody opened one.", lambda stream: stream.turn_id)
    ledger = _Known[Ledger](
        "The side effects of its turn as the stop found them, newest first; None for a stream nobody stopped.",
        _of_cancel(lambda cancel: cancel.ledger),
    )
    tool_calls = _Known[tuple[ToolCall, ...]](
        "The tool calls that the model asked for.", lambda stream: tuple(stream.all_tool_calls())
    )

    judges = _Known[tuple[JudgeReport, ...]](
        "What became of each judge: its last verdict, its reversals, what it cost.",
        lambda stream: visible.heard() if (visible := stream.visible) is not None else stream.heard,
    )

    reversals = _Known[tuple[Reversal, ...]](
        "The verdicts that its judges took back, once the stream has ended.",
        lambda stream: tuple(filter(None, (change.reverses(stream.actions) for change in stream.changes))),
    )

    @property
    def observed(self) -> bool:
        """Whether otelstream saw this stream at all."""
        return self._stream is not None

    def as_dict(self) -> dict[str, Any]:
        """Everything above that is a plain value; empty for an unobserved stream."""
        return {} if self._stream is None else {name: getattr(self, name) for name in _PLAIN}

    def _known(self) -> list[tuple[str, Any]]:
        return [(name, value) for name, value in self.as_dict().items() if value is not None]

    def __repr__(self) -> str:
        if self._stream is None:
            return "<StreamView unobserved>"
        return f"<StreamView {', '.join(f'{name}={value!r}' for name, value in self._known())}>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in self._known()
        )
        return f"<table>{rows}</table>" if rows else "<em>unobserved stream</em>"


_PLAIN = tuple(name for name, value in vars(StreamView).items() if isinstance(value, _Known) and name not in _NOT_PLAIN)
