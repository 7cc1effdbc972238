# SPDX-License-Identifier: Apache-2.0
"""One application, with the ways people stream an answer through a framework."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
from fastapi import FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from sse_starlette import EventSourceResponse
from starlette.middleware.base import BaseHTTPMiddleware
from tools.bench import ASK

import otelstream
from otelstream.asgi import StreamHopMiddleware

ROUTES = ("/async-generator", "/sync-generator", "/def-endpoint", "/event-source")


def application(base_url: str, *, base_http: str = "") -> FastAPI:
    """The application, with a `BaseHTTPMiddleware` `inside` or `outside` of ours, or none."""
    app = FastAPI()
    client = anthropic.AsyncAnthropic(base_url=base_url, api_key="unused", max_retries=0)
    sync_client = anthropic.Anthropic(base_url=base_url, api_key="unused", max_retries=0)
    background: set[asyncio.Task[None]] = set()

    async def chunks(id: str) -> AsyncIterator[str]:  # noqa: A002
        with otelstream.turn(id):
            async with client.messages.stream(**ASK) as stream:
                async for text in stream.text_stream:
                    yield text

    def sync_chunks(id: str) -> Iterator[str]:  # noqa: A002
        with otelstream.turn(id), sync_client.messages.stream(**ASK) as stream:
            yield from stream.text_stream

    @app.get("/async-generator")
    async def async_generator(id: str) -> StreamingResponse:  # noqa: A002
        return StreamingResponse(chunks(id))

    @app.get("/sync-generator")
    async def sync_generator(id: str) -> StreamingResponse:  # noqa: A002
        return StreamingResponse(sync_chunks(id))

    @app.get("/def-endpoint")
    def def_endpoint(id: str) -> StreamingResponse:  # noqa: A002
        return StreamingResponse(sync_chunks(id))

    @app.get("/event-source")
    async def event_source(id: str) -> EventSourceResponse:  # noqa: A002
        return EventSourceResponse({"data": text} async for text in chunks(id))

    @app.get("/burns-on")
    async def burns_on(id: str) -> StreamingResponse:  # noqa: A002
        """The answer is read to its end in a task of its own, whoever is there to see it."""
        queue: asyncio.Queue[str | None] = asyncio.Queue()

        async def pump() -> None:
            async for text in chunks(id):
                queue.put_nowait(text)
            queue.put_nowait(None)

        task = asyncio.create_task(pump())
        background.add(task)
        task.add_done_callback(background.discard)

        async def relay() -> AsyncIterator[str]:
            while (text := await queue.get()) is not None:
                yield text

        return StreamingResponse(relay())

    @app.get("/waits")
    async def waits(id: str) -> dict[str, str]:  # noqa: A002
        with otelstream.turn(id):
            message = ""
            async with client.messages.stream(**ASK) as stream:
                async for text in stream.text_stream:
                    message += text
        return {"message": message}

    @app.post("/echo")
    async def echo(body: dict[str, Any]) -> StreamingResponse:
        return StreamingResponse(chunks(body["id"]))

    @app.get("/plain")
    async def plain() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/breaks")
    async def breaks(id: str) -> StreamingResponse:  # noqa: A002
        async def broken() -> AsyncIterator[str]:
            async for text in chunks(id):
                yield text
                raise RuntimeError("the application's own")

        return StreamingResponse(broken())

    @app.websocket("/socket")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        while (text := await websocket.receive_text()) != "end":
            await websocket.send_text(text.upper())
        await websocket.close()

    async def pass_on(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    if base_http == "inside":
        app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
    app.add_middleware(StreamHopMiddleware)
    if base_http == "outside":
        app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
    return app
