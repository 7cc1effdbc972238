# SPDX-License-Identifier: Apache-2.0
"""The proxy that is written in an afternoon: Starlette, httpx, `StreamingResponse`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

HOP = {"host", "connection", "content-length", "transfer-encoding"}


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with httpx.AsyncClient(base_url=os.environ["UPSTREAM"], timeout=600) as app.state.client:
        yield


async def proxy(request: Request) -> Response:
    headers = {key: value for key, value in request.headers.items() if key not in HOP}
    asked = request.app.state.client.build_request(
        request.method, request.url.path, content=await request.body(), headers=headers
    )
    answer = await request.app.state.client.send(asked, stream=True)
    kept = {key: value for key, value in answer.headers.items() if key not in HOP}
    return StreamingResponse(answer.aiter_raw(), answer.status_code, kept, background=BackgroundTask(answer.aclose))


class Untouched(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


wrapped = [Middleware(Untouched)] if os.environ.get("MIDDLEWARE") else []
app = Starlette(routes=[Route("/{path:path}", proxy, methods=["POST"])], middleware=wrapped, lifespan=lifespan)
