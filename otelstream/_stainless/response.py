# SPDX-License-Identifier: Apache-2.0
"""A response that the application closes itself, from the loop or another thread: its stream knows of no close."""

from __future__ import annotations

import sys
from typing import Any

from otelstream._core.process import hooks
from otelstream._core.process.closing import decide, publish
from otelstream._core.record.stream import StreamObservation, clock
from otelstream._stainless.faults import is_sdk, leaving
from otelstream._trouble import trouble

_WRAPPERS = ("wrapt", hooks.__name__)
_STREAM = "_otelstream_read"  # on the response of a stream: its record


def watch_close(stream: StreamObservation, response: Any) -> None:
    """Hear of a close that neither the SDK nor its HTTP client makes."""
    response.__dict__[_STREAM] = stream


def close(wrapped: Any, response: Any, args: Any, kwargs: Any) -> Any:
    """Around the client's `Response.close`."""
    stream = _of_application(response, sys._getframe(1), "SyncByteStream")
    if stream is None:
        return wrapped(*args, **kwargs)
    _decide(stream, sys.exc_info()[1])
    try:
        return wrapped(*args, **kwargs)
    finally:
        publish(stream)


def aclose(wrapped: Any, response: Any, args: Any, kwargs: Any) -> Any:
    """Around the client's `Response.aclose`."""
    stream = _of_application(response, sys._getframe(1), "AsyncByteStream")
    if stream is None:
        return wrapped(*args, **kwargs)
    closing: Any = _aclosing(wrapped, args, kwargs, stream, sys.exc_info()[1])
    closing.__name__, closing.__qualname__ = wrapped.__name__, wrapped.__qualname__
    return closing


async def _aclosing(
    wrapped: Any, args: Any, kwargs: Any, stream: StreamObservation, flying: BaseException | None
) -> Any:
    """Decided by the first step: a close that nobody awaits closes nothing."""
    _decide(stream, flying or sys.exc_info()[1])
    try:
        return await wrapped(*args, **kwargs)
    finally:
        publish(stream)


def _of_application(response: Any, caller: Any, kind: str) -> StreamObservation | None:
    """The open stream of a response that neither the SDK nor its HTTP client closes."""
    stream: StreamObservation | None = response.__dict__.get(_STREAM)
    if stream is None or stream.ending is not None:
        return None
    try:
        module = sys.modules[type(response).__module__.partition(".")[0]]  # httpx, or httpx2
        if not isinstance(response.stream, getattr(module, kind)):
            return None  # a close of the wrong kind raises, and closes nothing
        while caller is not None and str(caller.f_globals.get("__name__", "")).startswith(_WRAPPERS):
            caller = caller.f_back
        if not stream.attached.raw and not is_sdk(stream, caller):
            return stream
    except Exception:
        trouble("closing a response")
    return None


def _decide(stream: StreamObservation, flying: BaseException | None) -> None:
    try:
        decide(stream, leaving(stream, flying), clock())
    except Exception:
        trouble("closing a response")
