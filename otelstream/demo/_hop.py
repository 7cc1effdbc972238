# SPDX-License-Identifier: Apache-2.0
"""A web application between browser and provider, on a real server: one endpoint heeds a browser that leaves."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import quote

from opentelemetry import context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from otelstream.asgi import StreamHopMiddleware

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Answer = Callable[[str], Any]  # of a story's name: the SDK's stream manager
_TRACE = TraceContextTextMapPropagator()


class Hop:
    """uvicorn in a thread, serving `/heeds/STORY` and `/burns/STORY`."""

    def __init__(self, answer: Answer) -> None:
        import uvicorn

        self._answer = answer
        self._ended: dict[str, threading.Event] = {}
        self._socket = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            self._serve, interface="asgi3", loop="asyncio", http="h11", lifespan="off", log_level="critical"
        )
        self._server = uvicorn.Server(config)
        self._app = StreamHopMiddleware(self._endpoint)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="uvicorn", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()

    def browse(self, path: str, story: str, until: int, limit: float) -> None:
        """Be a browser that reads *until* bytes of the answer and leaves; return when the server is done with it."""
        ended = self._ended[story] = threading.Event()
        headers: dict[str, str] = {"host": "localhost"}
        _TRACE.inject(headers)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        with socket.create_connection(self._socket.getsockname()) as browser:
            browser.sendall(f"GET /{path}/{quote(story)} HTTP/1.1\r\n{lines}\r\n".encode())
            read = 0
            while read < until and (got := len(browser.recv(4096))):
                read += got
        ended.wait(limit)

    async def _serve(self, scope: Any, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        finally:
            self._ended[scope["path"].split("/")[2]].set()

    async def _endpoint(self, scope: Any, receive: Receive, send: Send) -> None:
        _, path, story = scope["path"].split("/")
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        context.attach(_TRACE.extract(headers))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})

        async def answer() -> None:
            async with self._answer(story) as stream:
                async for text in stream.text_stream:
                    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b""})

        if path == "burns":
            await answer()
            return
        answering = asyncio.ensure_future(answer())
        leaving = asyncio.ensure_future(_left(receive))
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        for task in (answering, leaving):
            task.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
