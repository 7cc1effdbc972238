# SPDX-License-Identifier: Apache-2.0
"""A proxy as an aiohttp handler."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

from aiohttp import ClientSession, ClientTimeout, web

HOP = {"host", "connection", "content-length", "transfer-encoding"}
CLIENT = web.AppKey("client", ClientSession)


async def client(app: web.Application) -> AsyncIterator[None]:
    timeout = ClientTimeout(total=None, sock_read=600)
    async with ClientSession(os.environ["UPSTREAM"], timeout=timeout, auto_decompress=False) as app[CLIENT]:
        yield


async def proxy(request: web.Request) -> web.StreamResponse:
    headers = {key: value for key, value in request.headers.items() if key.lower() not in HOP}
    async with request.app[CLIENT].post(request.path, data=await request.read(), headers=headers) as answer:
        kept = {key: value for key, value in answer.headers.items() if key.lower() not in HOP}
        sent = web.StreamResponse(status=answer.status, headers=kept)
        await sent.prepare(request)
        async for piece in answer.content.iter_any():
            await sent.write(piece)
        await sent.write_eof()
        return sent


app = web.Application(client_max_size=64 << 20)
app.cleanup_ctx.append(client)
app.router.add_post("/{path:.*}", proxy)
web.run_app(
    app, host="127.0.0.1", port=int(os.environ["PORT"]), print=None, handler_cancellation=bool(os.environ.get("RIGHT"))
)
