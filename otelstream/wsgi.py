# SPDX-License-Identifier: Apache-2.0
"""The hop from the browser to the application: middleware for any WSGI app, which also opens the turn."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

from otelstream._core.record.ending import is_client_gone
from otelstream._core.turns import turn as turns
from otelstream._errors import ConfigurationError
from otelstream._face.hop import Hop

__all__ = ["StreamHopMiddleware"]


class StreamHopMiddleware:
    """Every request is a turn; a client that goes away is a `client_disconnect` of the streams of its request.

    A WSGI server learns of a leave from the write that fails, and then closes the answer: so do we. An answer that is
    a list, or the server's own file wrapper, is handed on as it is.
    """

    def __init__(self, app: Any) -> None:
        _check(app)
        self.app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        hop = _Hop()
        try:
            with turns.serving(hop.request):
                answer = self.app(environ, hop.starts(start_response))
        except BaseException:
            hop.broken = True
            hop.close()
            raise
        if _is_made(answer, environ):
            hop.sent()
            hop.all_sent()
            hop.close()
            return answer
        return _Answer(answer, hop, wanted=environ.get("REQUEST_METHOD") != "HEAD")


def _check(app: Any) -> None:
    """Refuse at once what would fail at the first request."""
    if not callable(app):
        raise ConfigurationError(f"StreamHopMiddleware wraps a WSGI application, not {app!r}")
    call = app if inspect.isroutine(app) or inspect.isclass(app) else type(app).__call__
    if inspect.iscoroutinefunction(call):
        raise ConfigurationError(
            f"StreamHopMiddleware wraps a WSGI application, called with environ and start_response; {app!r} is "
            f"asynchronous: for an ASGI application there is otelstream.asgi.StreamHopMiddleware"
        )
    try:
        inspect.signature(app).bind({}, None)
    except TypeError:
        raise ConfigurationError(
            f"StreamHopMiddleware wraps a WSGI application, called with environ and start_response; {app!r} is called "
            f"otherwise (of Flask it is app.wsgi_app that is wrapped: app.wsgi_app = StreamHopMiddleware(app.wsgi_app))"
        ) from None
    except ValueError:  # a callable that shows no signature
        return


def _is_made(answer: Any, environ: dict[str, Any]) -> bool:
    """Whether the whole answer is there, or the server knows better how to send it: servers look at its type."""
    wrapper = environ.get("wsgi.file_wrapper")
    return hasattr(answer, "__len__") or (isinstance(wrapper, type) and isinstance(answer, wrapper))


class _Hop(Hop):
    """One request, whose status the application tells and whose body the server takes piece by piece."""

    def starts(self, start_response: Callable[..., Any]) -> Callable[..., Any]:
        """`start_response` for the application."""

        def start(status: str, *args: Any, **kwargs: Any) -> Any:
            write = start_response(status, *args, **kwargs)
            code = str(status)[:3]
            self._status = int(code) if code.isdigit() else None
            return self._writes(write)

        return start

    def _writes(self, write: Any) -> Any:
        """The imperative way to write, as old as WSGI."""

        def written(data: bytes) -> Any:
            try:
                result = write(data)
            except OSError:
                self.left()
                raise
            self.sent()
            return result

        return written

    def all_sent(self) -> None:
        """There is no more to come."""
        self._complete = True


class _Answer:
    """The body of one answer: each step of it is taken inside the request's turn."""

    __slots__ = ("_handed", "_hop", "_over", "_source", "_steps", "_wanted")

    def __init__(self, source: Any, hop: _Hop, *, wanted: bool) -> None:
        self._source, self._hop, self._wanted = source, hop, wanted
        self._steps: Iterator[bytes] | None = None
        self._handed = False  # the server has a piece, and has not come back from writing it
        self._over = False

    def __iter__(self) -> _Answer:
        return self

    def __next__(self) -> bytes:
        if self._handed:
            self._handed = False
            self._hop.sent()
        try:
            with turns.serving(self._hop.request):
                if self._steps is None:
                    self._steps = iter(self._source)
                piece = next(self._steps)
        except StopIteration:
            self._hop.all_sent()
            self._end()
            raise
        except BaseException:
            self._hop.broken = True
            self._end()
            raise
        self._handed = bool(piece)
        return piece

    def close(self) -> None:
        """The server is done with the answer: before its end when the write of a piece failed, as the client left."""
        if not self._over and self._wanted and _by_a_leave(sys.exc_info()[1]):
            self._hop.left()
        elif not self._wanted:
            self._hop.all_sent()
        else:
            self._hop.broken = self._hop.broken or not self._over
        try:
            with turns.serving(self._hop.request):
                close = getattr(self._source, "close", None)
                if close is not None:
                    close()
        finally:
            self._end()

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._hop.close()


def _by_a_leave(error: BaseException | None) -> bool:
    """Whether a server that closes an answer early, with `error` in flight, does so because its client is gone.

    Those that are not written in Python have nothing in flight. What is no Exception ends the server, not the client.
    """
    return error is None or isinstance(error, OSError) or is_client_gone(error)
