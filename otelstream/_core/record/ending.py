# SPDX-License-Identifier: Apache-2.0
"""How a stream ended, as a closed type, and the rules that decide it: the protocol first, control flow second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from otelstream._semconv import Fault, Outcome, Trigger

# The provider's own words are mapped to these by its adapter (OpenTelemetry's words for finish reasons).
TRUNCATED_REASONS: Final = frozenset({"length"})
REFUSED_REASONS: Final = frozenset({"content_filter"})


@dataclass(frozen=True, slots=True)
class Ending:
    """One verdict. `error_type` and `trigger` are None where the contract gives none."""

    outcome: Outcome
    fault: Fault = "none"
    error_type: str | None = None
    trigger: Trigger | None = None


def failed(fault: Fault, error_type: str | None = None) -> Ending:
    """The provider, the transport or the parser broke the stream."""
    return Ending("failed", fault, error_type or fault)


def cancelled(trigger: Trigger, fault: Fault = "none") -> Ending:
    """The application stopped the stream."""
    return Ending("cancelled", fault, trigger=trigger)


def abandoned(trigger: Trigger) -> Ending:
    """Nobody stopped the stream and nobody will read it."""
    return Ending("abandoned", trigger=trigger)


CALLER_ERROR: Final = Ending("caller_error")
CUT_SHORT: Final = failed("cut_short", "api_error")


def by_finish_reason(reason: str) -> Ending:
    """The verdict of a stream that gave its normalised finish reason and was not broken afterwards."""
    if reason in TRUNCATED_REASONS:
        return Ending("truncated")
    return Ending("refused" if reason in REFUSED_REASONS else "completed")


def by_departure(error: BaseException | None, *, opened_under: int = 0) -> Ending:
    """The verdict when control leaves an unfinished stream with `error` in flight.

    `opened_under` is the `identity()` of the exception that was being handled when the stream was opened: the same
    one in flight again says nothing about this stream.
    """
    if error is None or identity(error) == opened_under:
        return cancelled("app_close")
    if isinstance(error, GeneratorExit):
        return cancelled("generator_close")
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return cancelled("shutdown")
    if is_task_cancel(error):
        return cancelled("timeout", "timeout") if _says_deadline(error) else cancelled("task_cancel")
    if is_timeout(error):
        return cancelled("timeout", "timeout")
    return CALLER_ERROR


def identity(error: BaseException | None) -> int:
    """Tell one exception from another without holding it, its frames and what they hold; 0 for none.

    By where it was raised too: a later exception may get the address of one that is gone.
    """
    if error is None:
        return 0
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    origin = None if traceback is None else (id(traceback.tb_frame.f_code), traceback.tb_lasti)
    return hash((id(error), type(error), origin))


def is_task_cancel(error: BaseException) -> bool:
    """Whether an async framework is cancelling the task: asyncio, anyio and trio each by their own class."""
    return not isinstance(error, Exception) and type(error).__name__ in ("CancelledError", "Cancelled")


def is_timeout(error: BaseException) -> bool:
    """Whether somebody's patience ended: asyncio and concurrent.futures have classes of their own before 3.11."""
    return isinstance(error, TimeoutError) or any(kind.__name__ == "TimeoutError" for kind in type(error).__mro__)


def _says_deadline(error: BaseException) -> bool:
    # anyio names the reason of a cancel scope in the message; asyncio.timeout() leaves none.
    return "deadline" in str(error.args[0]) if error.args else False
