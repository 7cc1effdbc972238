# SPDX-License-Identifier: Apache-2.0
"""The OpenAI SDK over a transport in memory, and what was said of its streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any

import openai
import pytest
import shapes
from matrix.telemetry import Telemetry

import otelstream
from otelstream import _semconv as s
from otelstream.testing import Recorder

COUNTS = (s.INPUT_TOKENS, s.OUTPUT_TOKENS, s.CACHE_READ_TOKENS, s.REASONING_TOKENS)
MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "What blows over the harbour?"}]
CHAT: dict[str, Any] = {"model": "some-model", "messages": MESSAGES}
RESPONSES: dict[str, Any] = {"model": "some-model", "input": "What blows over the harbour?"}


def data(*payloads: Any, done: bool = True) -> list[bytes]:
    """Chunks as the provider frames them."""
    lines = [f"data: {json.dumps(payload, separators=(',', ':'))}\n\n" for payload in payloads]
    return [line.encode() for line in (*lines, *(["data: [DONE]\n\n"] if done else []))]


def chunk(delta: Any = None, *, index: int = 0, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """One chunk of one choice."""
    choice = {"index": index, "delta": delta or {}, "logprobs": None, "finish_reason": finish}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "some-model-1"}
    return {**head, "choices": [choice], "usage": None, **more}


def call(number: int, arguments: str | None = None, *, name: str | None = None, index: int = 0) -> dict[str, Any]:
    """A chunk with a piece of one tool call."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    head = {"id": f"call_{number}", "type": "function"} if name else {}
    return chunk({"tool_calls": [{"index": number, **head, "function": function}]}, index=index)


class Scene:
    """The clients of a test, what the provider answers, and what became of the streams."""

    def __init__(self, telemetry: Telemetry, recorder: Recorder) -> None:
        self.telemetry, self.recorder = telemetry, recorder
        self.transport = shapes.Transport()
        options: dict[str, Any] = {"api_key": "unused", "base_url": "http://provider.invalid/v1", "max_retries": 0}
        http = shapes.httpx
        self.client = openai.OpenAI(http_client=http.Client(transport=self.transport), **options)
        self.aclient = openai.AsyncOpenAI(http_client=http.AsyncClient(transport=self.transport), **options)

    def plays(self, *replies: Any) -> None:
        """Answer with these, the last one for ever."""
        self.transport.tape = shapes.Tape([r if isinstance(r, shapes.Reply) else shapes.Reply(r) for r in replies])

    def chat(self, **more: Any) -> Any:
        return self.client.chat.completions.create(**CHAT, **more, stream=True)

    def fails(self, api: str, ask: dict[str, Any], way: str) -> bool:
        """Read one answer of that API to its end; whether the SDK raised."""
        sync, asynchronous = (attrgetter(api)(client) for client in (self.client, self.aclient))

        async def areads() -> None:
            async for _ in await asynchronous.create(**ask, stream=True):
                continue

        try:
            if way == "create":
                read(sync.create(**ask, stream=True))
            elif way == "lines":
                with sync.with_streaming_response.create(**ask, stream=True) as response:
                    read(response.iter_lines())
            else:
                asyncio.run(areads())
        except Exception:
            return True
        return False

    def verdict(self) -> tuple[Any, ...]:
        """Outcome, fault and trigger of the one stream."""
        view = self.recorder.stream
        return view.outcome, view.fault, view.trigger


@pytest.fixture
def scene(telemetry: Telemetry) -> Iterator[Scene]:
    """A scene that is observed."""
    otelstream.instrument(tracer_provider=telemetry.tracer_provider, meter_provider=telemetry.meter_provider)
    with Recorder() as recorder:
        yield Scene(telemetry, recorder)
    otelstream.uninstrument()


def read(items: Sequence[Any] | Any, leave: Callable[[Any], bool] = lambda _: False) -> list[Any]:
    """What the application gets until it leaves."""
    got = []
    for item in items:
        got.append(item)
        if leave(item):
            break
    return got
