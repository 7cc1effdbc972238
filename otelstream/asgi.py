# SPDX-License-Identifier: Apache-2.0
"""The hop from the browser to the application: middleware for any ASGI app, which also opens the turn."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from time import perf_counter as clock
from typing import Any

from otelstream import _semconv as s
from otelstream._core.process.stopping import stop
from otelstream._core.record.stream import StreamObservation
from otelstream._core.turns import turn as turns
from otelstream._errors import ConfigurationError
from otelstream._trouble import trouble

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

__all__ = ["StreamHopMiddleware"]


class StreamHopMiddleware:
    """Every HTTP request is a turn; a client that goes away is a `client_disconnect` of the streams of its request.

    It measures what the browser got of answers that were streamed from a provider, and passes everything on as it is:
    requests without such a stream, websockets and lifespan are not touched at all. A websocket is a turn as well; the
    next message after a Stop is another question.
    """

    def __init__(self, app: Any) -> None:
        _check(app)
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._connection(scope, receive, send)
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        hop = _Hop(receive, send, body_read=_bodiless(scope))
        try:
            with turns.serving(hop.request):
                await self.app(scope, hop.receive, hop.send)
        except BaseException:
            hop.broken = True
            raise
        finally:
            await hop.end()

    async def _connection(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        request = turns.Request()

        async def receive_next() -> Message:
            message = await receive()
            turns.asked_anew()
            return message

        try:
            with turns.serving(request):
                await self.app(scope, receive_next, send)
        finally:
            request.end()


def _check(app: Any) -> None:
    """Refuse at once what would fail at the first request."""
    if not callable(app):
        raise ConfigurationError(f"StreamHopMiddleware wraps an ASGI application, not {app!r}")
    try:
        inspect.signature(app).bind({}, None, None)
    except TypeError:
        raise ConfigurationError(
            f"StreamHopMiddleware wraps an ASGI application, called with scope, receive and send; {app!r} is called "
            f"otherwise: a WSGI application needs an adapter, such as a2wsgi.WSGIMiddleware"
        ) from None
    except ValueError:  # a callable that shows no signature
        return


def _bodiless(scope: MutableMapping[str, Any]) -> bool:
    """Whether the request has no body, so that looking ahead takes nothing from the application."""
    headers = dict(scope.get("headers") or ())
    if b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0":
        return False
    return b"content-length" in headers or scope.get("method") in ("GET", "HEAD")


class _Request(turns.Request):
    """The holder of one served request's turn, which tells of the streams that are begun in it."""

    __slots__ = ("_begun",)

    def __init__(self, begun: Callable[[StreamObservation], object]) -> None:
        super().__init__()
        self._begun = begun

    def begun(self, stream: StreamObservation) -> None:
        self._begun(stream)


class _Hop:
    """One request: what the client got and when, and whether it is still there."""

    def __init__(self, receive: Receive, send: Send, *, body_read: bool) -> None:
        self.request = _Request(self._begun)
        self._streams: deque[StreamObservation] = deque(maxlen=turns.MAX_STREAMS)
        self.broken = False
        self._receive, self._send = receive, send
        self._started = clock()
        self._first_byte: float | None = None
        self._last: float | None = None
        self._status: int | None = None
        self._complete = False
        self._gone = False
        self._body_read = body_read  # the application has all of the request's body, or there is none
        self._asked = 0  # calls of the application that wait for a message themselves
        self._ahead: deque[Message] = deque()  # read by the watcher, not yet by the application
        self._arrived = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:  # trio: a disconnect is noticed when the application looks for it
            self._loop = None

    # --- what the application sees ------------------------------------------------------------------------

    async def receive(self) -> Message:
        while not self._ahead and self._watcher is not None and not self._watcher.done():
            self._arrived.clear()
            await self._arrived.wait()
        if self._ahead:
            message = self._ahead.popleft()
        else:
            self._asked += 1
            try:
                message = await self._receive()
            finally:
                self._asked -= 1
                self._watch()
        self._note(message)
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._body_read = True
            self._watch()
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            self._status = message["status"]
            self._watch()
        last = kind == "http.response.body" and not message.get("more_body", False)
        if last and not self._gone:
            self._complete = True  # what the server says from now on is no early leave
        try:
            await self._send(message)
        except OSError:
            self._complete = False
            self._left()
            raise
        if kind == "http.response.body":
            now = clock()
            if message.get("body") and self._first_byte is None:
                self._first_byte = now
            if last:
                self._last = now

    # --- whether the client is there ----------------------------------------------------------------------

    def _begun(self, stream: StreamObservation) -> None:
        """A stream was begun in this request, maybe in another thread, maybe when the response was over."""
        if self._complete:
            return
        self._streams.append(stream)
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._watch)
            except RuntimeError:  # the loop is closed
                return

    def _watch(self) -> None:
        """Look for the client's leave, once there is a stream to care for and no unread body to disturb."""
        if self.request.over or self._loop is None or not self._streams or self._complete or self._gone:
            return
        if self._asked or self._ahead or (self._watcher is not None and not self._watcher.done()):
            return  # somebody looks, or has looked
        if self._body_read or self._status is not None:
            self._watcher = self._loop.create_task(self._look())

    async def _look(self) -> None:
        """Read what the server has for the application, and keep it for that; stop at more of a body."""
        try:
            while True:
                message = await self._receive()
                self._ahead.append(message)
                self._note(message)
                self._arrived.set()
                if message["type"] != "http.request" or message.get("more_body", False):
                    return
        except Exception:
            trouble("looking for a disconnect")
        finally:
            self._arrived.set()

    def _note(self, message: Message) -> None:
        if message["type"] == "http.disconnect":
            self._left()

    def _left(self) -> None:
        if self._complete or self._gone:
            return
        self._gone = True
        now = self._last = clock()
        for stream in list(self._streams):
            if isinstance(stream.turn, turns.Turn):
                # A turn inside another one of this request goes with that, and is counted with it.
                around = [turn for turn in stream.turn.chain() if turn in self.request.turns]
                stop(around[-1] if around else stream.turn, "client_disconnect", now)

    # --- the end ------------------------------------------------------------------------------------------

    async def end(self) -> None:
        """The application is done with the request. Never raises, but for a cancel of this very task."""
        watcher = self._watcher
        try:
            if watcher is not None and not watcher.done():
                watcher.cancel()
                await asyncio.wait([watcher])
        finally:  # where this task is cancelled, every await of it may raise
            self.request.end()
            try:
                self._record()
            except Exception:
                trouble("ending a hop")

    def _record(self) -> None:
        if not self._streams:
            return
        stream = self._streams[0]
        ended = self._last if self._last is not None else clock()
        first = None if self._first_byte is None else self._first_byte - self._started
        stream.runtime.metrics.hop(stream, self._outcome(), first, ended - self._started)

    def _outcome(self) -> s.HopOutcome:
        if self._gone:
            return "client_disconnect"
        if self._status is None or self._status >= 500:
            return "failed"
        return "failed_after_200" if self.broken or not self._complete else "completed"
