# SPDX-License-Identifier: Apache-2.0
"""Which fault an exception of the SDK or of one of its transports stands for, and what leaves a stream."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

from otelstream._core.process.closing import end
from otelstream._core.process.drops import collecting, dropped
from otelstream._core.process.tap import Attached
from otelstream._core.record.ending import Ending, cancelled, failed, identity, is_timeout
from otelstream._core.record.stream import StreamObservation
from otelstream._stainless import faults
from otelstream.google._grammar import error_of

# By class name: the SDK sends by httpx, httpx2, aiohttp or requests, as it finds them.
_TIMEOUTS = frozenset({"TimeoutException", "ServerTimeoutError", "Timeout"})
# That client's patience is a bare TimeoutError, as an alarm of the application's is.
_AIOHTTP = frozenset({"aiohttp", "asyncio", "async_timeout"})
_TRANSPORTS = frozenset({"TransportError", "RequestException", "ClientConnectionError", "ClientPayloadError"})


class Handle(Attached):
    """What is kept with one stream while it is open."""

    __slots__ = ("failed", "sending")
    sdk = SimpleNamespace(package="google")  # by which its frames are known
    frames: tuple[int, ...] = ()
    helped = False

    def __init__(self) -> None:
        self.sending = False  # within an attempt of the SDK's: a request is on its way
        self.failed: BaseException | None = None  # what the last attempt failed with

    def inert(self) -> Handle:
        """What stays with a stream whose record is out: one for all."""
        return _INERT

    def whose(self, stream: StreamObservation, error: BaseException) -> Ending:
        """The verdict when `error` came up out of the body."""
        return known(error) or faults.while_reading(stream, error)

    def reader_left(self, stream: StreamObservation) -> None:
        """What reads was closed, or dropped. Which of the two, and at a `break`, nobody can see."""
        flying = sys.exc_info()[1]
        if isinstance(flying, GeneratorExit):  # thrown in the midst of an exception, as by a `with closing()`?
            flying = flying.__context__
        if collecting():
            dropped(stream)
        elif flying is None or identity(flying) == stream.opened_under:
            end(stream, cancelled("generator_close"))
        else:
            end(stream, faults.leaving(stream, flying))


_INERT = Handle()


def before_stream(stream: StreamObservation, error: BaseException) -> Ending:
    """The verdict on a request that raised instead of returning a response."""
    return known(error) or faults.before_stream(stream, error)


def known(error: BaseException | None) -> Ending | None:
    """The verdict that the exception's class alone gives."""
    words = {kind.__name__ for kind in type(error).__mro__}
    if "APIError" in words:
        return _status(error)
    if words & _TIMEOUTS or (error is not None and is_timeout(error) and faults.raised_in(error) in _AIOHTTP):
        return failed("timeout", "client_timeout_error")
    return failed("connection_lost", "connection_error") if words & _TRANSPORTS else None


def _status(error: Any) -> Ending:
    code = error.code if isinstance(error.code, int) else 0
    kind = error_of({"status": error.status if isinstance(error.status, str) else None, "code": code})
    return faults.answered(code, kind)
