# SPDX-License-Identifier: Apache-2.0
"""Streams that nobody holds any more: ended at once, or after the collection of garbage that found them."""

from __future__ import annotations

import _thread
import gc
from collections import deque
from collections.abc import Callable
from functools import partial

from otelstream._core.emit import outbox
from otelstream._core.process.closing import end
from otelstream._core.record.ending import abandoned
from otelstream._core.record.stream import StreamObservation
from otelstream._trouble import trouble

_dropped: deque[tuple[StreamObservation, Callable[[], object] | None]] = deque()


def collecting() -> bool:
    """Whether the cyclic collector is at work in this thread."""
    return outbox.collecting == _thread.get_ident()


def dropped(stream: StreamObservation, then: Callable[[], object] | None = None) -> None:
    """End a stream that nobody holds any more, and call `then`. Never raises.

    During a collection not before it is over: a generator that holds the stream's `with` may be taken later in the
    same one, and what its closing says goes first.
    """
    if collecting():
        _dropped.append((stream, then))
    else:
        outbox.finalise(partial(_decide, stream, then))


def _decide(stream: StreamObservation, then: Callable[[], object] | None) -> None:
    try:
        end(stream, abandoned("gc"))
        if then is not None:
            outbox.apart(then)
    except Exception:
        trouble("ending a dropped stream")


class Token:
    """Held by an SDK's object: the record of its stream ends with the last that holds it."""

    __slots__ = ("__weakref__", "stream")

    def __init__(self, stream: StreamObservation) -> None:
        self.stream = stream

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()  # whether a stream can be pickled is the SDK's affair

    def __del__(self) -> None:
        try:
            # Not only an undecided one: Ctrl-C may have kept a decided one from being published.
            if self.stream.once and self.left():
                dropped(self.stream)
        except Exception:
            return  # at interpreter exit anything may be gone

    def left(self) -> bool:
        """Whether nobody else can go on with what the stream was read from."""
        return True


def _on_collection(phase: str, _: dict[str, int]) -> None:
    while phase == "stop" and _dropped:
        _decide(*_dropped.popleft())
    outbox.collection(phase)


def watch() -> None:
    """Hear of collections."""
    if _on_collection not in gc.callbacks:
        gc.callbacks.append(_on_collection)


def unwatch() -> None:
    """Leave no callback behind."""
    if _on_collection in gc.callbacks:
        gc.callbacks.remove(_on_collection)
        outbox.collecting = 0


def restart() -> None:
    """Start anew, in a forked child."""
    _dropped.clear()
