# SPDX-License-Identifier: Apache-2.0
"""A response that the application closes itself, from the loop or another thread: its stream knows of no close."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any

from otelstream._core.process.closing import decide, publish
from otelstream._core.record.stream import StreamObservation, clock
from otelstream._stainless.faults import is_sdk, leaving
from otelstream._trouble import trouble


def watch_close(stream: StreamObservation, response: Any) -> None:
    """Hear of a close that neither the SDK nor its HTTP client makes."""
    name = "aclose" if hasattr(type(response), "aclose") and _asynchronous(response) else "close"
    original = getattr(type(response), name)
    # Weakly: a response that holds itself would wait for the cyclic collector to be closed.
    of = weakref.ref(response)

    def close() -> Any:
        _left(stream, sys._getframe(1))
        try:
            return original(of())
        finally:
            publish(stream)

    async def aclose() -> None:
        _left(stream, sys._getframe(1))
        try:
            await original(of())
        finally:
            publish(stream)

    chosen: Callable[[], Any] = close if name == "close" else aclose
    response.__dict__[name] = chosen


def _asynchronous(response: Any) -> bool:
    return hasattr(response.stream, "__aiter__") and not hasattr(response.stream, "__iter__")


def _left(stream: StreamObservation, caller: Any) -> None:
    try:
        if stream.ending is None and not stream.attached.raw and not is_sdk(stream, caller):
            decide(stream, leaving(stream, sys.exc_info()[1]), clock())
    except Exception:
        trouble("closing a response")
