# SPDX-License-Identifier: Apache-2.0
"""Which fault an exception of the SDK or its transport stands for, and whose exception it is."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from types import TracebackType
from typing import Any

from otelstream._core.process.drops import collecting
from otelstream._core.record.ending import (
    Ending,
    by_departure,
    cancelled,
    failed,
    identity,
    is_client_gone,
    is_task_cancel,
    is_timeout,
)
from otelstream._core.record.stream import StreamObservation

__all__ = [
    "PROVIDER_STATUSES",
    "answered",
    "before_stream",
    "collecting",
    "is_sdk",
    "leaving",
    "malformed",
    "observed",
    "raised_in",
    "while_reading",
]

# The 4xx that a provider answers under load or to a conflict; any other is the request's own fault.
PROVIDER_STATUSES = frozenset({408, 409, 429})
# What an SDK calls while it reads: their frames below the SDK's are the SDK's doing.
_LIBRARIES = frozenset(
    {
        "httpx", "httpx2", "httpcore", "httpcore2", "h11", "h2", "anyio", "asyncio", "ssl", "socket",
        "pydantic", "pydantic_core", "json", "jiter", "contextlib", "typing", "typing_extensions", "codecs", "zlib",
        "encodings", "otelstream", "wrapt", "trio", "sniffio", "truststore", "botocore", "selectors", "aiohttp",
        "requests", "urllib3", "tenacity",
    }
)  # fmt: skip


def before_stream(
    stream: StreamObservation, error: BaseException, by_class: Callable[[Exception], Ending | None] | None = None
) -> Ending:
    """The verdict on a request that raised instead of returning a stream; `by_class`: for another make of SDK."""
    known = (by_class or _known)(error) if isinstance(error, Exception) else None
    if known is None and isinstance(error, Exception) and stream.response_at is not None:
        return failed("protocol_error")
    # Without an answer it never got as far as the provider: no key, a body that does not encode, a hook that raised.
    return known or by_departure(error)


def answered(status: int, kind: str, provider: Container[int] = PROVIDER_STATUSES) -> Ending:
    """The verdict on an answer that is an error: the request's own fault, but for 4xx that are the `provider`'s."""
    mistaken = 400 <= status < 500 and status not in provider
    return failed("request_error" if mistaken else "provider_error", kind)


def while_reading(stream: StreamObservation, error: BaseException) -> Ending:
    """The verdict when `error` came up out of the body or its decoder."""
    if isinstance(error, GeneratorExit) or is_task_cancel(error) or not isinstance(error, Exception):
        return by_departure(error)
    known = _known(error)
    if known is not None:
        return known
    if is_timeout(error):  # an alarm handler of the application's, raised inside our wait
        return by_departure(error)
    if isinstance(error, OSError):  # up out of the body: a transport of the application's own
        return failed("connection_lost", "connection_error")
    frames = [*_frames(error.__traceback__)]
    return malformed(stream) if not frames or is_sdk(stream, frames[-1]) else by_departure(error)


def leaving(stream: StreamObservation, error: BaseException | None) -> Ending:
    """The verdict when the stream is closed with `error` in flight."""
    news = error is not None and identity(error) != stream.opened_under
    if news and isinstance(error, Exception) and _raised_reading(stream, error):
        if stream.finish_reason is not None:  # a helper that refuses what the finish reason says already
            return cancelled("app_close")
        return _known(error) or malformed(stream)
    if stream.attached.helped and stream.verdict is not None and stream.verdict.outcome == "failed":
        if not news or isinstance(error, GeneratorExit):
            return stream.verdict  # the helper failed, and the application went on, or dropped what held it
        stream.verdict = None  # what ended the helper is in flight: an interrupt, a time limit
    asked = stream.stop_asked
    if news and error is not None and is_client_gone(error) and asked and asked.trigger == "client_disconnect":
        return cancelled("client_disconnect")  # which a middleware of ours has seen
    return by_departure(error, opened_under=stream.opened_under)


def malformed(stream: StreamObservation) -> Ending:
    """The parser refused an event: a tool's input if one is open, else the protocol."""
    if any(block.tool is not None for block in stream.blocks.values()):
        return failed("malformed_tool_call")
    return failed("protocol_error")


def _known(error: Exception) -> Ending | None:
    """The verdict that the exception's class alone gives, by the classes' names: httpx and httpx2 share them."""
    words = {kind.__name__ for kind in type(error).__mro__}
    if words & {"APITimeoutError", "TimeoutException"}:
        return failed("timeout", "client_timeout_error")
    if "APIStatusError" in words:
        return _status(error)
    if "APIResponseValidationError" in words:
        return failed("protocol_error")
    if words & {"APIConnectionError", "TransportError"}:
        return failed("connection_lost", "connection_error")
    return None


def _status(error: Any) -> Ending:
    status = int(getattr(error, "status_code", 0) or 0)
    return answered(status, error_word(getattr(error, "body", None)) or str(status))


def word(stream: StreamObservation, status: int | None, error: BaseException | None) -> str:
    """What an attempt failed with that another follows, as failures say it: its body is never read."""
    if status:
        return stream.attached.sdk.words.get(status) or str(status)
    known = _known(error) if isinstance(error, Exception) else None
    return (known and known.error_type) or "connection_error"


def error_word(body: Any) -> str | None:
    """The API's own word for an error, out of the body of its answer."""
    inner = body.get("error", body) if isinstance(body, dict) else None
    kind = inner.get("type") or inner.get("code") if isinstance(inner, dict) else None
    return kind if isinstance(kind, str) and kind else None


def raised_in(error: BaseException) -> str:
    """The package whose code raised it; "" where no traceback says so."""
    frame = next(reversed([*_frames(error.__traceback__)]), None)
    return _package(frame) if frame is not None else ""


def _package(frame: Any) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _frames(traceback: TracebackType | None) -> Iterator[Any]:
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next


def is_sdk(stream: StreamObservation, frame: Any) -> bool:
    """Whether the SDK of `stream`, or a library that it calls, runs that frame."""
    package = _package(frame)
    return package in _LIBRARIES or package == stream.attached.sdk.package


def _raised_reading(stream: StreamObservation, error: Exception) -> bool:
    """Whether reading this very stream raised `error`: below the last application frame one that reads it."""
    for frame in reversed([*_frames(error.__traceback__)]):
        if not is_sdk(stream, frame):
            return False
        if id(frame) in stream.attached.frames:
            return True
    return False


def observed(thing: Any) -> StreamObservation | None:
    """The record of an SDK stream or of the helper around it, if it has one."""
    try:
        held = vars(thing)
        for name in held:
            # A manager keeps its stream under a private name, and so do helpers and the managers of raw responses.
            if name in ("_raw_stream", "http_response") or name.endswith(("Manager__stream", "Manager__response")):
                return observed(held[name])
        found = held["_otelstream"]
        stream: StreamObservation | None = getattr(found, "stream", found)
        return stream
    except Exception:  # a proxy that stands for nothing raises what it likes
        return None
