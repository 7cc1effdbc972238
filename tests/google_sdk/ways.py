# SPDX-License-Identifier: Apache-2.0
"""Every way to read a stream of the Google Gen AI SDK, as steps that two runs can be compared by."""

from __future__ import annotations

from typing import Any

from google import genai
from shapes import Tape, Transport, httpx

PROMPT = "What blows over the harbour?"


def clients() -> tuple[Transport, Any, Any]:
    """A transport, and the sync and the async side of a client over it."""
    transport = Transport()
    options = {
        "base_url": "http://provider.invalid",
        "httpx_client": httpx.Client(transport=transport),
        "httpx_async_client": httpx.AsyncClient(transport=transport),
    }
    client = genai.Client(api_key="unused", http_options=options)
    return transport, client, client.aio


def generate(client: Any, _: Any, tape: Tape) -> None:
    stream = client.models.generate_content_stream(model="some-model", contents=PROMPT)
    tape.read(stream, stream.close)


def chat(client: Any, _: Any, tape: Tape) -> None:
    stream = client.chats.create(model="some-model").send_message_stream(PROMPT)
    tape.read(stream, stream.close)


async def agenerate(client: Any, _: Any, tape: Tape) -> None:
    stream = await client.models.generate_content_stream(model="some-model", contents=PROMPT)
    await tape.aread(stream, stream.aclose)


async def achat(client: Any, _: Any, tape: Tape) -> None:
    stream = await client.chats.create(model="some-model").send_message_stream(PROMPT)
    await tape.aread(stream, stream.aclose)


SYNC = {"generate": generate, "chat": chat}
ASYNC = {"agenerate": agenerate, "achat": achat}
