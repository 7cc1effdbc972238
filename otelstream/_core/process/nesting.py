# SPDX-License-Identifier: Apache-2.0
"""Whose request is being made here: a request made inside another one's is its own business."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, Token
from typing import NamedTuple

from otelstream._core.record.stream import StreamObservation
from otelstream._core.turns.variable import put, reset


class _Making(NamedTuple):
    stream: StreamObservation | None
    router: bool  # what it calls below is this very stream
    begin: Callable[[], StreamObservation | None] | None = None  # its record, put off till the first attempt
    under: StreamObservation | None = None  # the router's, which this is a request for


_making: ContextVar[_Making | None] = ContextVar("otelstream_request", default=None)
Mark = Token["_Making | None"]


def enter(stream: StreamObservation | None, *, router: bool = False) -> Mark:
    """A request begins: of `stream`, or of nobody that is observed. To be left by `leave()` in the same context."""
    around = _making.get()
    under = around.stream if around is not None and around.router else None
    return put(_making, _Making(stream, router, under=under))


def put_off(begin: Callable[[], StreamObservation | None]) -> Mark:
    """A request begins whose record shall begin with its first attempt. To be left by `leave()`."""
    return put(_making, _Making(None, False, begin))


def leave(mark: Mark) -> None:
    """The request is made."""
    reset(_making, mark)


def entered() -> bool:
    """Whether a request is being made in this context, observed or not."""
    return _making.get() is not None


def current() -> StreamObservation | None:
    """The stream whose request is being made in this context; a router makes none itself."""
    making = _making.get()
    return making.stream if making is not None and not making.router else None


def attempted() -> StreamObservation | None:
    """The stream that an attempt in this context is one of: begun here if that was put off, or a router's."""
    making = _making.get()
    if making is not None and making.begin is not None and making.stream is None:
        put(_making, making._replace(stream=making.begin()))  # whoever put it off sets back what was before
    return current() or (making.under if making is not None else None)


def late() -> StreamObservation | None:
    """The stream whose request is being made in this context, if its beginning was put off."""
    making = _making.get()
    return making.stream if making is not None and making.begin is not None else None


def routed() -> bool:
    """Whether an SDK that observes itself calls another one here: one record, the outer's."""
    making = _making.get()
    return making is not None and making.router
