# SPDX-License-Identifier: Apache-2.0
"""A verdict that waits a few steps of the event loop: what stopped a read may show by then."""

from __future__ import annotations

import asyncio

from otelstream._core.emit import outbox
from otelstream._core.process.closing import end
from otelstream._core.record.ending import Ending
from otelstream._core.record.stream import StreamObservation, clock


def after_this_step(stream: StreamObservation, error: BaseException) -> None:
    """Decide on a task's cancel a few steps later: a time-out inside the stream's `with` shows by then.

    `asyncio.wait_for()` before Python 3.12 reads in a task of its own, whose cancel takes its steps to come back.
    """
    stream.verdict = stream.attached.whose(stream, error)
    stream.activity = clock()
    try:
        _Later(stream, stream.verdict, asyncio.get_running_loop())()
    except RuntimeError:
        end(stream, stream.verdict)


class _Later:
    """Ends a stream some steps of the loop from now, or when the loop is closed before."""

    __slots__ = ("_at", "_ending", "_loop", "_steps", "_stream")

    def __init__(self, stream: StreamObservation, ending: Ending, loop: asyncio.AbstractEventLoop) -> None:
        self._stream, self._ending, self._loop = stream, ending, loop
        self._at, self._steps = stream.activity, 16

    def __call__(self) -> None:
        if self._steps and self._stream.ending is None:
            self._steps -= 1
            self._loop.call_soon(self)
        else:
            end(self._stream, self._ending, self._at)

    def __del__(self) -> None:
        outbox.finalise(lambda: end(self._stream, self._ending, self._at))
