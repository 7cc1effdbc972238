# SPDX-License-Identifier: Apache-2.0
"""The hop from the browser to the application: middleware for any ASGI app, which also opens the turn."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from time import perf_counter as clock
from typing import Any

from otelstream._core.record.stream import StreamObservation
from otelstream._core.turns import turn as turns
from otelstream._errors import ConfigurationError
from otelstream._face.hop import Connection, Hop
from otelstream._trouble import trouble

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
# Frameworks type scope and messages in ways of their own, so only the shape of the call is held.
Application = Callable[[Any, Any, Any], Awaitable[object]]

__all__ = ["StreamHopMiddleware"]


class StreamHopMiddleware:
    """Every HTTP request is a turn; a client that goes away is a `client_disconnect` of the streams of its request.

    It measures what the browser got of answers that were streamed from a provider, and passes everything on as it is:
    requests without such a stream and lifespan are not touched at all. A websocket is a turn as well, and the next
    message after a Stop is another question; each message that a stream follows is a hop.
    """

    def __init__(self, app: Application) -> None:
        _check(app)
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        hop: _Hop | _Socket
        web = scope["type"] == "http"
        hop = _Hop(receive, send, body_read=_bodiless(scope)) if web else _Socket(receive, send)
        try:
            with turns.serving(hop.request):
                await self.app(scope, hop.receive, hop.send)
        except BaseException:
            hop.broken = True
            raise
        finally:
            await hop.end()


def _check(app: Any) -> None:
    """Refuse at once what would fail at the first request."""
    if not callable(app):
        raise ConfigurationError(f"StreamHopMiddleware wraps an ASGI application, not {app!r}")
    try:
        inspect.signature(app).bind({}, None, None)
    except TypeError:
        raise ConfigurationError(
            f"StreamHopMiddleware wraps an ASGI application, called with scope, receive and send; {app!r} is called "
            f"otherwise: for a WSGI application there is otelstream.wsgi.StreamHopMiddleware"
        ) from None
    except ValueError:  # a callable that shows no signature
        return


def _bodiless(scope: MutableMapping[str, Any]) -> bool:
    """Whether the request has no body, so that looking ahead takes nothing from the application."""
    headers = dict(scope.get("headers") or ())
    if b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0":
        return False
    return b"content-length" in headers or scope.get("method") in ("GET", "HEAD")


class _Looking(Hop):
    """A hop that reads ahead for the client's leave, and keeps what it reads for the application."""

    def __init__(self, receive: Receive, send: Send) -> None:
        super().__init__()
        self._receive, self._send = receive, send
        self._reading = 0  # calls of the application that wait for a message themselves
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
            self._reading += 1
            try:
                message = await self._receive()
            finally:
                self._reading -= 1
                self._watch()
        self._note(message)
        self._taken(message)
        return message

    def _taken(self, message: Message) -> None:
        """The application takes a message."""

    # --- whether the client is there ----------------------------------------------------------------------

    def _may_look(self) -> bool:
        """Whether to read ahead disturbs nothing."""
        raise NotImplementedError

    def _begun(self, stream: StreamObservation) -> None:
        if self._complete:
            return
        super()._begun(stream)
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._watch)
            except RuntimeError:  # the loop is closed
                return

    def _watch(self) -> None:
        """Look for the client's leave, once there is a stream to care for and no unread body to disturb."""
        if self.request.over or self._loop is None or not self._streams or self._complete or self._gone:
            return
        if self._reading or self._ahead or (self._watcher is not None and not self._watcher.done()):
            return  # somebody looks, or has looked
        if self._may_look():
            self._watcher = self._loop.create_task(self._look())

    async def _look(self) -> None:
        """Read what the server has for the application, and keep it for that; stop at more of a body, or a message."""
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
        if message["type"] in ("http.disconnect", "websocket.disconnect"):
            self.left()

    async def end(self) -> None:
        """The application is done with the request. Never raises, but for a cancel of this very task."""
        watcher = self._watcher
        try:
            if watcher is not None and not watcher.done():
                watcher.cancel()
                await asyncio.wait([watcher])
        finally:  # where this task is cancelled, every await of it may raise
            self.close()


class _Hop(_Looking):
    """One HTTP request."""

    def __init__(self, receive: Receive, send: Send, *, body_read: bool) -> None:
        super().__init__(receive, send)
        self._body_read = body_read  # the application has all of the request's body, or there is none

    def _taken(self, message: Message) -> None:
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._body_read = True
            self._watch()

    def _may_look(self) -> bool:
        return self._body_read or self._status is not None

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
            self.left()
            raise
        if kind == "http.response.body":
            now = clock()
            if message.get("body") and self._first_byte is None:
                self._first_byte = now
            if last:
                self._last = now


class _Socket(_Looking, Connection):
    """One websocket."""

    def _taken(self, message: Message) -> None:
        if message["type"] == "websocket.receive":
            self.asked()
            self._watch()  # one is read ahead at most: the rest waits where it would without us

    def _may_look(self) -> bool:
        return self.accepted and not self._away

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            self.accepted = True
            self._watch()
        elif kind == "websocket.close":
            self._complete = True  # the application leaves, not the client
        try:
            await self._send(message)
        except OSError:
            self._complete = False
            self.left()
            raise
        if kind == "websocket.send":
            self.sent()
