# SPDX-License-Identifier: Apache-2.0
"""What the application may know of a stream: a live view of its record, without any text of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from otelstream import _semconv as s
from otelstream._core.record.call import ToolCall
from otelstream._core.record.cancel import Ledger
from otelstream._core.record.stream import StreamObservation

_FIELDS = (
    "outcome", "phase", "fault", "error_type", "trigger", "partial", "succeeded_then_failed", "visible_chars", "chunks",
    "time_to_first_chunk", "time_to_first_token", "duration", "model", "route", "response_id", "finish_reason",
    "cancelled_at", "propagation", "close_delay", "delivered_after", "turn_id",
)  # fmt: skip


class StreamView:
    """One stream, open or ended. Of an unobserved one every value is None and every method a no-op.

    Durations are seconds from the request. `outcome`, `fault` and `partial` are None while the stream runs.
    """

    __slots__ = ("_stream",)

    def __init__(self, stream: StreamObservation | None) -> None:
        self._stream = stream

    def _get(self, name: str) -> Any:
        return None if self._stream is None else getattr(self._stream, name)

    @property
    def observed(self) -> bool:
        """Whether otelstream saw this stream at all."""
        return self._stream is not None

    @property
    def outcome(self) -> s.Outcome | None:
        """How it ended."""
        outcome: s.Outcome | None = self._get("outcome")
        return outcome

    @property
    def phase(self) -> s.Phase | None:
        """How far it got."""
        phase: s.Phase | None = self._get("phase")
        return phase

    @property
    def fault(self) -> s.Fault | None:
        """What was wrong with it; `none` where nothing was."""
        return self._stream.fault if self._stream is not None and self._stream.ending is not None else None

    @property
    def error_type(self) -> str | None:
        """The provider's own word for the failure."""
        error_type: str | None = self._get("error_type")
        return error_type

    @property
    def trigger(self) -> s.Trigger | None:
        """Who stopped it, or asked for that."""
        stream = self._stream
        if stream is None:
            return None
        if stream.cancel is not None:
            return stream.cancel.trigger
        return stream.asked.trigger if stream.asked is not None else None

    @property
    def cancelled_at(self) -> s.CancelAt | None:
        """Where in the answer the stop came."""
        stream = self._stream
        if stream is None:
            return None
        if stream.cancel is not None:
            return stream.cancel.where
        return stream.asked.where if stream.asked is not None else None

    @property
    def propagation(self) -> s.Propagation | None:
        """What became of the stop, once the stream has ended."""
        cancel = self._get("cancel")
        propagation: s.Propagation | None = cancel.propagation if cancel is not None else None
        return propagation

    @property
    def close_delay(self) -> float | None:
        """Seconds from the ask to the end of the stream; None where both were one instant."""
        cancel = self._get("cancel")
        delay: float | None = cancel.close_delay if cancel is not None else None
        return delay

    @property
    def delivered_after(self) -> int | None:
        """Characters that arrived after the ask."""
        cancel = self._get("cancel")
        delivered: int | None = cancel.delivered_chars if cancel is not None else None
        return delivered

    @property
    def turn_id(self) -> str | None:
        """The id of its turn, where somebody opened one."""
        turn_id: str | None = self._get("turn_id")
        return turn_id

    @property
    def ledger(self) -> Ledger | None:
        """The side effects of its turn as the stop found them, newest first; None for a stream nobody stopped."""
        cancel = self._get("cancel")
        ledger: Ledger | None = cancel.ledger if cancel is not None else None
        return ledger

    @property
    def partial(self) -> bool | None:
        """Whether the answer is not whole."""
        partial: bool | None = self._get("partial")
        return partial

    @property
    def succeeded_then_failed(self) -> bool | None:
        """Whether the caller got a 200 and then a fault."""
        value: bool | None = self._get("succeeded_then_failed")
        return value

    @property
    def visible_chars(self) -> int | None:
        """Characters of text that arrived."""
        chars: int | None = self._get("visible_chars")
        return chars

    @property
    def chunks(self) -> int | None:
        """Generated, non-empty deltas that arrived."""
        chunks: int | None = self._get("chunks")
        return chunks

    @property
    def time_to_first_chunk(self) -> float | None:
        """Seconds from the request to the first chunk of any kind."""
        value: float | None = self._get("time_to_first_chunk")
        return value

    @property
    def time_to_first_token(self) -> float | None:
        """Seconds from the request to the first chunk that a user can see."""
        value: float | None = self._get("time_to_first_token")
        return value

    @property
    def duration(self) -> float | None:
        """Seconds from the request to the end."""
        value: float | None = self._get("duration")
        return value

    @property
    def model(self) -> str | None:
        """The model that was asked for."""
        model: str | None = self._get("model")
        return model

    @property
    def route(self) -> str | None:
        """The route of its turn."""
        route: str | None = self._get("route")
        return route

    @property
    def response_id(self) -> str | None:
        """The provider's id of the response."""
        value: str | None = self._get("response_id")
        return value

    @property
    def finish_reason(self) -> str | None:
        """The finish reason, in OpenTelemetry's words."""
        value: str | None = self._get("finish_reason")
        return value

    @property
    def tool_calls(self) -> tuple[ToolCall, ...] | None:
        """The tool calls that the model asked for."""
        return None if self._stream is None else tuple(self._stream.all_tool_calls())

    def as_dict(self) -> dict[str, Any]:
        """Everything above as plain values; empty for an unobserved stream."""
        if self._stream is None:
            return {}
        return {name: getattr(self, name) for name in _FIELDS}

    def __repr__(self) -> str:
        if self._stream is None:
            return "<StreamView unobserved>"
        known = ", ".join(f"{name}={value!r}" for name, value in self.as_dict().items() if value is not None)
        return f"<StreamView {known}>"

    def _repr_html_(self) -> str:
        from html import escape

        rows = "".join(
            f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>"
            for name, value in self.as_dict().items()
            if value is not None
        )
        return f"<table>{rows}</table>" if rows else "<em>unobserved stream</em>"


Lookup = Callable[[Any], StreamObservation | None]
