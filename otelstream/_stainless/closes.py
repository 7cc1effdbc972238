# SPDX-License-Identifier: Apache-2.0
"""What the application closes: a stream, a helper around one, a raw response."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from otelstream._core.process.closing import decide, publish
from otelstream._core.record.stream import StreamObservation, clock
from otelstream._stainless import raw
from otelstream._stainless.faults import leaving, observed
from otelstream._stainless.sdk import carrier_of
from otelstream._trouble import trouble

CLOSE_PATIENCE = 1.0  # seconds that a record waits for a close, which may hang

# A close must not wait for what a record costs, exporters perhaps: it is decided before and published after.


def close(wrapped: Any, closed: Any, args: Any, kwargs: Any) -> Any:
    """Around the close of anything sync."""
    stream = _left(closed)
    try:
        return wrapped(*args, **kwargs)
    finally:
        if stream is not None:
            publish(stream)


def aclose(wrapped: Any, closed: Any, args: Any, kwargs: Any) -> Any:
    """Around the close of anything async."""
    if not _is_open(closed):
        return wrapped(*args, **kwargs)
    closing: Any = _aclosing(wrapped, closed, args, kwargs, sys.exc_info()[1])
    closing.__name__, closing.__qualname__ = wrapped.__name__, wrapped.__qualname__  # for who forgets to await it
    return closing


async def _aclosing(wrapped: Any, closed: Any, args: Any, kwargs: Any, flying: BaseException | None) -> Any:
    """Decided by the first step: a close that nobody awaits closes nothing."""
    stream = _left(closed, flying)
    if stream is None:
        return await wrapped(*args, **kwargs)
    try:
        patience = asyncio.get_running_loop().call_later(CLOSE_PATIENCE, publish, stream)
    except RuntimeError:  # trio
        patience = None
    try:
        return await wrapped(*args, **kwargs)
    finally:
        if patience is not None:
            patience.cancel()
        publish(stream)


def _is_open(closed: Any) -> bool:
    try:
        stream = observed(closed)
        return stream is not None and stream.ending is None
    except Exception:
        trouble("closing a stream")
        return False


def _left(closed: Any, flying: BaseException | None = None) -> StreamObservation | None:
    """The stream that the application ends by closing this SDK stream or raw response, decided here."""
    flying = flying or sys.exc_info()[1]
    try:
        if hasattr(closed, "http_response"):
            return raw.close(closed, flying)
        carrier = carrier_of(closed)
        if carrier is not None:
            carrier.closed(flying)
        stream = observed(closed)
        if stream is not None and stream.ending is None:
            decide(stream, leaving(stream, flying), clock())
            if stream.span is not None and not stream.own_span and not stream.native:
                publish(stream)  # who made that span may end it with the close
            return stream
    except Exception:
        trouble("closing a stream")
    return None
