# SPDX-License-Identifier: Apache-2.0
"""A stream of an SDK replayed from memory through the real SDK: no socket, so that only processor time is left."""

from __future__ import annotations

import importlib
import json
import random
from typing import Any

try:
    import httpx2 as httpx  # anthropic 1.0 and later
except ImportError:
    import httpx  # type: ignore[no-redef]

KINDS = {"text": "text_delta", "thinking": "thinking_delta", "tool": "input_json_delta"}
FIELDS = {"text": "text", "thinking": "thinking", "tool": "partial_json"}
BLOCKS = {
    "text": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
    "tool": {"type": "tool_use", "id": "toolu_1", "name": "write_file", "input": {}},
}


def frame(data: dict[str, Any]) -> bytes:
    """One server-sent event, as the provider writes it."""
    return f"event: {data['type']}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def chat(text: str, finish: str | None = None) -> bytes:
    """One chunk of a chat completion."""
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}
    data = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return f"data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def frames(chunks: int, size: int, kind: str = "text", seed: int = 1, sdk: str = "anthropic") -> list[bytes]:
    """A whole stream of `chunks` deltas of `size` characters each, without a loop in it."""
    rng = random.Random(seed)

    def word(length: int) -> str:
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(length))

    pieces = [(word(max(1, size - 1)) + " ")[:size] for _ in range(chunks)]
    if sdk == "openai":
        return [*map(chat, pieces), chat("", "stop"), b"data: [DONE]\n\n"]
    if kind == "tool":
        pieces = ['{"text": "', *pieces[:-2], '"}']
    usage = {"input_tokens": 10, "output_tokens": 1}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "m", "usage": usage}
    delta = KINDS[kind]
    return [
        frame({"type": "message_start", "message": {**message, "stop_reason": None, "stop_sequence": None}}),
        frame({"type": "content_block_start", "index": 0, "content_block": BLOCKS[kind]}),
        *(
            frame({"type": "content_block_delta", "index": 0, "delta": {"type": delta, FIELDS[kind]: piece}})
            for piece in pieces
        ),
        frame({"type": "content_block_stop", "index": 0}),
        frame(
            {
                "type": "message_delta",
                "delta": {"stop_reason": "tool_use" if kind == "tool" else "end_turn", "stop_sequence": None},
                "usage": {"output_tokens": chunks},
            }
        ),
        frame({"type": "message_stop"}),
    ]


class _Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    def __init__(self, body: list[bytes]) -> None:
        self._body = body

    def __iter__(self) -> Any:
        return iter(self._body)

    async def __aiter__(self) -> Any:
        for chunk in self._body:
            yield chunk


def clients(body: list[bytes], sdk: str = "anthropic") -> tuple[Any, Any]:
    """A sync and an async client whose every request is answered with `body`."""
    package = importlib.import_module(sdk)
    names = {"anthropic": ("Anthropic", "AsyncAnthropic"), "openai": ("OpenAI", "AsyncOpenAI")}[sdk]
    sync, asynchronous = (getattr(package, name) for name in names)

    def answer(_: Any) -> Any:
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=_Body(body))

    async def aanswer(_: Any) -> Any:
        return answer(_)

    return (
        sync(api_key="none", http_client=httpx.Client(transport=httpx.MockTransport(answer))),
        asynchronous(api_key="none", http_client=httpx.AsyncClient(transport=httpx.MockTransport(aanswer))),
    )
