# SPDX-License-Identifier: Apache-2.0
"""The hop from the browser to the application: middleware for aiohttp.web, which also opens the turn."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from otelstream._core.record.stream import StreamObservation
from otelstream._core.turns import turn as turns
from otelstream._face.hop import Connection, Hop
from otelstream._trouble import trouble

__all__ = ["stream_hop_middleware"]


async def stream_hop_middleware(request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
    """Every request is a turn; a client that goes away is a `client_disconnect` of the streams of its request.

    `web.Application(middlewares=[stream_hop_middleware])`, first of them. A websocket is a turn that outlives its
    questions: open an `otelstream.turn` for each, so that a Stop between two streams reaches the next one of it.
    """
    hop = _Socket() if _is_websocket(request) else _Hop()
    undo = _watch(request, hop)
    try:
        with turns.serving(hop.request):
            response = await handler(request)
    except BaseException as error:
        if _is_lost(request):
            hop.lost()
        hop.raised(error)
        raise
    else:
        hop.returned(response)
        return response
    finally:
        undo()
        hop.close()


stream_hop_middleware.__middleware_version__ = 1  # type: ignore[attr-defined] # what aiohttp's own decorator sets


def _is_websocket(request: Any) -> bool:
    return str(request.headers.get("Upgrade", "")).lower() == "websocket"


def _is_lost(request: Any) -> bool:
    transport = request.transport
    return transport is None or bool(transport.is_closing())


def _watch(request: Any, hop: _Hop | _Socket) -> Callable[[], None]:
    """Hear of the client's leave at once, and of what is sent to it; without these a failing write tells."""
    undone: list[Callable[[], object]] = []

    def undo() -> None:
        while undone:
            undone.pop()()

    try:
        own = vars(request)
        before, lost = (
            own.get("_cancel"),
            request._cancel,
        )  # called as the connection is lost, before the handler's cancel

        def cancel(error: BaseException) -> Any:
            hop.left()
            return lost(error)

        own["_cancel"] = cancel
        undone.append(lambda: own.update(_cancel=before) if before is not None else own.pop("_cancel"))
        writer = request.writer
        if getattr(writer, "_on_chunk_sent", False) is None:

            async def sent(_: Any) -> None:
                hop.sent()

            writer._on_chunk_sent = sent
            undone.append(lambda: setattr(writer, "_on_chunk_sent", None))
    except Exception:
        trouble("watching a client")
    return undo


class _Hop(Hop):
    """One request."""

    def returned(self, response: Any) -> None:
        """The handler is done; a response that it has not sent itself is written at once now."""
        self._status = getattr(response, "status", None)
        self._complete = True
        self.sent()

    def raised(self, error: BaseException) -> None:
        """The handler raised, which may be its way to answer."""
        status = getattr(error, "status", None)
        if isinstance(status, int) and hasattr(error, "prepare"):
            self.returned(error)
            return
        self.broken = True
        self._status = 500 if self._first_byte is None else 200


class _Socket(Connection):
    """One websocket, whose messages no middleware sees."""

    def __init__(self) -> None:
        super().__init__()
        self.accepted = True

    def _begun(self, stream: StreamObservation) -> None:
        super()._begun(stream)
        if self.request.own is not None:
            self.request.own.outlives = True

    def returned(self, _: Any) -> None:
        """The handler is done."""

    def raised(self, _: BaseException) -> None:
        """The handler raised."""
        self.broken = True
