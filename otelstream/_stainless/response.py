# SPDX-License-Identifier: Apache-2.0
"""A response that the application closes itself, from the loop or another thread: its stream knows of no close."""

from __future__ import annotations

import sys
from typing import Any

from otelstream._core.process.closing import decide, publish
from otelstream._core.record.stream import StreamObservation, clock
from otelstream._stainless.faults import is_sdk, leaving
from otelstream._trouble import trouble

_STREAM = "_otelstream_read"  # on the response of a stream: its record


def watch_close(stream: StreamObservation, response: Any) -> None:
    """Hear of a close that neither the SDK nor its HTTP client makes."""
    response.__dict__[_STREAM] = stream


def close(wrapped: Any, response: Any, args: Any, kwargs: Any) -> Any:
    """Around the client's `Response.close`."""
    stream = _left(response, sys._getframe(1), "SyncByteStream")
    try:
        return wrapped(*args, **kwargs)
    finally:
        if stream is not None:
            publish(stream)


def aclose(wrapped: Any, response: Any, args: Any, kwargs: Any) -> Any:
    """Around the client's `Response.aclose`."""
    stream = _left(response, sys._getframe(1), "AsyncByteStream")
    return wrapped(*args, **kwargs) if stream is None else _published_after(wrapped, args, kwargs, stream)


async def _published_after(wrapped: Any, args: Any, kwargs: Any, stream: StreamObservation) -> Any:
    try:
        return await wrapped(*args, **kwargs)
    finally:
        publish(stream)


def _left(response: Any, caller: Any, kind: str) -> StreamObservation | None:
    stream: StreamObservation | None = response.__dict__.get(_STREAM)
    if stream is None or stream.ending is not None:
        return None
    try:
        module = sys.modules[type(response).__module__.partition(".")[0]]  # httpx, or httpx2
        if not isinstance(response.stream, getattr(module, kind)):
            return None  # a close of the wrong kind raises, and closes nothing
        while caller is not None and caller.f_globals.get("__name__", "").partition(".")[0] == "wrapt":
            caller = caller.f_back
        if not stream.attached.raw and not is_sdk(stream, caller):
            decide(stream, leaving(stream, sys.exc_info()[1]), clock())
            return stream
    except Exception:
        trouble("closing a response")
    return None
