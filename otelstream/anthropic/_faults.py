# SPDX-License-Identifier: Apache-2.0
"""Which fault an exception of the Anthropic SDK or its transport stands for, and whose exception it is."""

from __future__ import annotations

import sys
import weakref
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from otelstream._core.process.runtime import collecting
from otelstream._core.record.ending import Ending, by_departure, failed, identity, is_task_cancel, is_timeout

if TYPE_CHECKING:
    from otelstream._core.record.stream import StreamObservation

# The 4xx that a provider answers under load or to a conflict; any other is the request's own fault.
_PROVIDER_STATUSES = frozenset({408, 409, 429})
# What the SDK calls while it reads: their frames below the SDK's are the SDK's doing.
_LIBRARIES = frozenset(
    {
        "anthropic", "httpx", "httpx2", "httpcore", "httpcore2", "h11", "h2", "anyio", "asyncio", "ssl", "socket",
        "pydantic", "pydantic_core", "json", "jiter", "contextlib", "typing", "typing_extensions", "codecs", "zlib",
        "encodings", "otelstream", "wrapt", "trio", "sniffio", "truststore", "botocore", "selectors",
    }
)  # fmt: skip


def _words(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def before_stream(stream: StreamObservation, error: BaseException) -> Ending:
    """The verdict on a request that raised instead of returning a stream."""
    known = _known(error) if isinstance(error, Exception) else None
    if known is None and isinstance(error, Exception) and stream.response_at is not None:
        return failed("protocol_error")
    # Without an answer it never got as far as the provider: no key, a body that does not encode, a hook that raised.
    return known or by_departure(error)


def while_reading(stream: StreamObservation, error: BaseException) -> Ending:
    """The verdict when `error` came up out of the body or its decoder."""
    if isinstance(error, GeneratorExit) or is_task_cancel(error) or not isinstance(error, Exception):
        return by_departure(error)
    known = _known(error)
    if known is not None:
        return known
    if is_timeout(error):  # an alarm handler of the application's, raised inside our wait
        return by_departure(error)
    return malformed(stream) if _raised_by_sdk(error.__traceback__) else by_departure(error)


def leaving(stream: StreamObservation, error: BaseException | None) -> Ending:
    """The verdict when the stream is closed with `error` in flight."""
    if isinstance(error, Exception) and identity(error) != stream.opened_under and of_this_stream(stream, error):
        return _known(error) or malformed(stream)
    return by_departure(error, opened_under=stream.opened_under)


def malformed(stream: StreamObservation) -> Ending:
    """The parser refused an event: a tool's input if one is open, else the protocol."""
    if stream.reading.tool is not None:
        return failed("malformed_tool_call")
    return failed("protocol_error")


def _known(error: Exception) -> Ending | None:
    """The verdict that the exception's class alone gives, by the classes' names: httpx and httpx2 share them."""
    words = _words(error)
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
    body = getattr(error, "body", None)
    inner = body.get("error") if isinstance(body, dict) else None
    kind = inner.get("type") if isinstance(inner, dict) else None
    kind = kind if isinstance(kind, str) and kind else str(status)
    if 400 <= status < 500 and status not in _PROVIDER_STATUSES:
        return failed("request_error", kind)
    return failed("provider_error", kind)


def _frames(traceback: TracebackType | None) -> list[Any]:
    frames = []
    while traceback is not None:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    return frames


def _package(frame: Any) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _raised_by_sdk(traceback: TracebackType | None) -> bool:
    """Whether the frame that raised belongs to the SDK or what it calls, not to the application."""
    frames = _frames(traceback)
    return not frames or _package(frames[-1]) in _LIBRARIES


def of_this_stream(stream: StreamObservation, error: Exception) -> bool:
    """Whether reading this very stream raised `error`: below the last application frame the SDK reads it."""
    below: list[Any] = []
    for frame in reversed(_frames(error.__traceback__)):
        if _package(frame) not in _LIBRARIES:
            break
        below.append(frame)
    return any(observed(frame.f_locals.get("self")) is stream for frame in below)


def watch_helper(stream: StreamObservation, sdk_stream: Any, events: Any) -> None:
    """Learn when the SDK's helper fails on an event: then its loop over `events` is over, and `sdk_stream` is not.

    Nothing else tells where nobody closes, or where a tool runner does, whose closing looks like a dropped generator.
    """
    frame: FrameType | None = sys._getframe(2)
    for _ in range(3):  # wrapt's own frames, where it has some
        # Never the application's frames: before 3.13, to ask for their locals keeps every one alive to their end.
        ours = frame is not None and _package(frame) == "anthropic"
        known = getattr(frame.f_locals.get("self"), "__dict__", {}) if frame is not None and ours else {}
        if known.get("_raw_stream") is sdk_stream:
            break
        frame = frame and frame.f_back
    else:
        return

    def over(_: object) -> None:
        stream.reading.helper = None
        # The collector takes a loop that was left; a cancel has its own verdict.
        if stream.ending is None and stream.verdict is None and not collecting():
            stream.undecodable = malformed(stream).fault

    stream.reading.helper = weakref.ref(events, over)


def observed(thing: Any) -> Any:
    """The observation of an SDK stream or of the helper around it, if it has one."""
    try:
        held = vars(thing)
        for name in held:
            # A manager keeps its stream under a private name, and so do helpers and the managers of raw responses.
            if name in ("_raw_stream", "http_response") or name.endswith(("Manager__stream", "Manager__response")):
                return observed(held[name])
        found = held["_otelstream"]
        return getattr(found, "stream", found)
    except (TypeError, KeyError, AttributeError):
        return None
