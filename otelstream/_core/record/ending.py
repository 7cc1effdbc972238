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


# Whose patience ended, by class name: libraries that are not imported here, and workers' limits that are Exceptions.
_TIME_LIMITS: Final = frozenset({"TimeoutError", "Timeout", "SoftTimeLimitExceeded", "JobTimeoutException"})
_KILLED: Final = frozenset({"GreenletExit"})
_PANICS: Final = frozenset({"PanicException"})  # a native extension crashed
# The client went away, as servers and frameworks raise it in the write (or the read of a websocket).
_CLIENT_GONE: Final = frozenset(
    {
        "ConnectionResetError", "BrokenPipeError", "WebSocketDisconnect", "ClientDisconnect", "ClientDisconnected",
        "ConnectionClosed", "StreamClosedError",
    }
)  # fmt: skip
# Where they write to their client: the same classes from anywhere else are the application's affair.
_SERVER_WRITES: Final = (
    "aiohttp.web_", "starlette.responses", "starlette.websockets", "starlette.requests", "fastapi.routing",
    "sse_starlette", "uvicorn.protocols", "hypercorn", "daphne", "granian", "gunicorn.http", "gunicorn.workers",
    "wsgiref.handlers", "werkzeug.serving", "waitress", "gevent.pywsgi", "tornado.web", "tornado.websocket",
    "tornado.http1connection", "websockets.asyncio.server", "websockets.sync.server", "websockets.legacy.server",
    "sanic", "quart", "litestar", "channels", "cheroot", "eventlet.wsgi",
)  # fmt: skip


def by_departure(error: BaseException | None, *, opened_under: int = 0) -> Ending:
    """The verdict when control leaves an unfinished stream with `error` in flight.

    `opened_under` is the `identity()` of the exception that was being handled when the stream was opened: the same
    one in flight again says nothing about this stream.
    """
    if error is None or identity(error) == opened_under:
        return cancelled("app_close")
    verdicts = [_by_leaf(leaf) for leaf in _leaves(error)]
    return CALLER_ERROR if CALLER_ERROR in verdicts else verdicts[0]


def _by_leaf(error: BaseException) -> Ending:
    words = _words(error)
    if isinstance(error, GeneratorExit):
        return cancelled("generator_close")
    if is_task_cancel(error):
        return cancelled("timeout", "timeout") if _says_deadline(error) else cancelled("task_cancel")
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return cancelled("shutdown")
    if is_timeout(error):
        return cancelled("timeout", "timeout")
    if words & _KILLED:
        return cancelled("task_cancel")
    if is_client_gone(error) and _in_a_servers_write(error):
        return cancelled("client_disconnect")
    # What is no Exception is control flow: a framework stops its script, or runs it again.
    if isinstance(error, Exception) or words & _PANICS:
        return CALLER_ERROR
    return cancelled("app_close")


def _words(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _leaves(error: BaseException) -> list[BaseException]:
    """The exceptions of a group, of groups in it too; by name, for before Python 3.11 it is a package's."""
    if "BaseExceptionGroup" not in _words(error):
        return [error]
    return [leaf for inner in getattr(error, "exceptions", ()) for leaf in _leaves(inner)] or [error]


def is_client_gone(error: BaseException) -> bool:
    """Whether an exception of that class says that somebody at the other end of a connection left."""
    return bool(_words(error) & _CLIENT_GONE)


def _in_a_servers_write(error: BaseException) -> bool:
    traceback = error.__traceback__
    while traceback is not None:
        if str(traceback.tb_frame.f_globals.get("__name__", "")).startswith(_SERVER_WRITES):
            return True
        traceback = traceback.tb_next
    return False


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
    """Whether somebody's patience ended: by class, and by name for those of libraries and older Pythons."""
    return isinstance(error, TimeoutError) or bool(_words(error) & _TIME_LIMITS)


def _says_deadline(error: BaseException) -> bool:
    # anyio names the reason of a cancel scope in the message; asyncio.timeout() leaves none.
    return "deadline" in str(error.args[0]) if error.args else False
