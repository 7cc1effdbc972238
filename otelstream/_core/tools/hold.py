# SPDX-License-Identifier: Apache-2.0
"""The gate of `@tool(hold=True)`: a call runs only after a clean end of the stream that asked for it."""

from __future__ import annotations

import _thread
import asyncio
import math
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from time import perf_counter as clock

from otelstream._core.record.call import ToolCall
from otelstream._core.record.place import here, went_on
from otelstream._core.record.stream import StreamObservation
from otelstream._core.tools.registry import declared, registry
from otelstream._errors import ConfigurationError, ToolWithheld
from otelstream._trouble import logger, trouble

LOOK = 0.05  # seconds between two looks at a reader that may have stopped reading
_ungated: set[str] = set()


@dataclass(frozen=True, slots=True)
class Hold:
    """How a tool is held; durations in seconds."""

    ack: bool
    timeout: float
    patience: float

    @classmethod
    def checked(cls, hold: object, timeout: object, patience: object) -> Hold:
        """Check what the application asked for.

        Raises:
            ConfigurationError: names the argument, the value and what is allowed.
        """
        if hold is not True and hold != "ack":
            raise ConfigurationError(f"hold={hold!r} is not allowed: use True or False or 'ack'")
        numbers = []
        for name, value in (("hold_timeout", timeout), ("hold_patience", patience)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise ConfigurationError(f"{name}={value!r} is not allowed: use a positive number of seconds")
            numbers.append(float(value))
        return cls(hold == "ack", *numbers)

    def unmatched(self, name: str) -> None:
        """Nobody knows which call a run of `name` serves: it may run where the model asked for none, said once.

        Raises:
            ToolWithheld: the run may serve a call that we could not tell.
        """
        if registry.asked_for(name):
            raise ToolWithheld(
                f"tool {name!r} was not run: which of the model's calls of it that would be is not known"
            )
        if registry.overlooked():
            raise ToolWithheld(f"tool {name!r} was not run: a stream of its turn could not be seen")
        if name not in _ungated:
            _ungated.add(name)
            logger.warning("tool %r is held, but no streamed call of that name is known: it runs at once", name)

    def pass_(self, call: ToolCall) -> None:
        """Return when `call` may run; the calling thread waits. Raises ToolWithheld when it must not."""
        lock = _thread.allocate_lock()
        lock.acquire()
        began = clock()

        def wake() -> None:
            try:
                lock.release()
            except RuntimeError:  # somebody else did
                return

        with _Waiting(call, wake):
            while not self._may_run(call, began, blocking=True):
                lock.acquire(timeout=LOOK)

    async def apass(self, call: ToolCall) -> None:
        """Return when `call` may run; the calling task waits. Raises ToolWithheld when it must not."""
        began = clock()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            sleep = _trio_sleep()
            with _Waiting(call, lambda: None):
                while not self._may_run(call, began, blocking=False):
                    await sleep(LOOK)
            return
        event = asyncio.Event()
        with _Waiting(call, lambda: _wake(loop, event)):
            while not self._may_run(call, began, blocking=False):
                event.clear()
                waiting = asyncio.ensure_future(event.wait())
                try:
                    await asyncio.wait([waiting], timeout=LOOK)
                finally:
                    waiting.cancel()

    def _may_run(self, call: ToolCall, began: float, *, blocking: bool) -> bool:
        """True to run, False to wait on; raises ToolWithheld, and records it, to refuse. Our own errors refuse too."""
        try:
            reason = _refusal(call) or self._impatience(call, began, blocking=blocking)
            if reason is None:
                stream = call.stream
                if stream is not None and (stream.ending is None or (self.ack and not call.released)):
                    return False
                if registry.pass_gate(call):
                    return True
                reason = _refusal(call) or "its gate let it run before"
            registry.withhold(call)
        except Exception as error:
            raise failed(call.name, error, call) from error
        raise ToolWithheld(f"tool {call.name!r} was not run: {reason}")

    def _impatience(self, call: ToolCall, began: float, *, blocking: bool) -> str | None:
        """Why this caller waits no longer for what is still open."""
        stream, now = call.stream, clock()
        if stream is None:
            return None
        if stream.ending is not None:
            if self.ack and not call.released and now - began > self.timeout:
                return f"it was not released within {self.timeout:g} s"
            return None
        if stream.waiting_since >= stream.last:
            return None  # somebody is reading
        if _reads(stream, blocking=blocking):
            return "its caller is the reader of the stream, which cannot end meanwhile"
        if now - max(began, stream.last, stream.activity) > self.patience:
            return f"nobody has read its stream for {self.patience:g} s"
        return None


def _reads(stream: StreamObservation, *, blocking: bool) -> bool:
    """Whether `stream` cannot be read on before our caller goes on.

    The same thread or task proves nothing: a pool gives a thread to the read, and then to the tool.
    """
    reader, me = stream.reader, here()
    if reader is None or stream.last > reader.last or reader.place[0] != me[0]:
        return False  # or nobody noted who has read since
    if blocking and reader.place[1]:
        return True  # the loop of the task that reads
    return (blocking or (reader.place == me and me[1] != 0)) and went_on(reader.stack)


def failed(name: str, error: Exception, call: ToolCall | None = None) -> ToolWithheld:
    """What a run of a held tool gets where we failed: nobody knows whether it may run. The error's text stays out."""
    trouble("holding a tool")
    try:
        if call is not None:
            registry.withhold(call)
    except Exception:
        trouble("withholding a tool")
    return ToolWithheld(f"tool {name!r} was not run: otelstream failed to find out if it may ({type(error).__name__})")


def awaited(call: ToolCall) -> bool:
    """Whether `call` is one of a held tool, whose gate has not let it run and may still."""
    spec = declared.get(call.name)
    open_ = call.dispatched_at is None and call.state in (None, "ready") and not call.decided_never
    return call.gated or (open_ and spec is not None and spec.hold is not None)


def _refusal(call: ToolCall) -> str | None:
    """Why `call` must not run, whoever asks and however long they wait; None while that is open, or when it may."""
    stream = call.stream
    if stream is not None:
        if stream.stop_asked is not None or (stream.turn is not None and stream.turn.reached(stream.started)):
            return "its turn was stopped"
        if stream.ending is not None and stream.outcome != "completed":
            return f"its stream ended {stream.outcome}"
        if stream.ending is not None and stream.unseen:
            return "its stream could not be seen"
        if stream.ending is not None and (call.ready is None or call.input == "invalid"):
            return "its input is not whole"
    return "it was withheld before" if call.state == "withheld" else None


def refuse_at_once(calls: Iterable[ToolCall]) -> None:
    """Withhold what is gated and must not run any more: those who wait there may be slow to look."""
    for call in calls:
        if call.gated and _refusal(call) is not None:
            registry.withhold(call)


class _Waiting:
    """While inside, the end of the call's stream, its release and a Stop wake the one who waits."""

    __slots__ = ("_call", "_wake")

    def __init__(self, call: ToolCall, wake: Callable[[], object]) -> None:
        self._call, self._wake = call, wake

    def __enter__(self) -> None:
        self._call.gated = self._call.state != "withheld"
        if self._call.stream is not None:
            self._call.stream.waiters.append(self._wake)

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if self._call.stream is not None and self._wake in self._call.stream.waiters:
            self._call.stream.waiters.remove(self._wake)
        if error is not None and not isinstance(error, ToolWithheld):
            self._call.gated = False
            self._call.claims.append(True)  # interrupted while it waited: it has not been run


def _wake(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    try:
        loop.call_soon_threadsafe(event.set)
    except RuntimeError:  # the loop is closed
        return


def _trio_sleep() -> Callable[[float], Awaitable[object]]:
    trio = sys.modules.get("trio")
    if trio is None:
        raise ToolWithheld("a held tool waits under asyncio or trio")
    sleep: Callable[[float], Awaitable[object]] = trio.sleep
    return sleep
