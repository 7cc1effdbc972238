# SPDX-License-Identifier: Apache-2.0
"""The Google Gen AI SDK over a transport in memory, and what was said of its streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import shapes
from google import genai
from matrix.telemetry import Telemetry

import otelstream
from otelstream.testing import Recorder

ASK: dict[str, Any] = {"model": "some-model", "contents": "What blows over the harbour?"}


def data(*payloads: Any) -> list[bytes]:
    """Chunks as the provider frames them."""
    return [f"data: {json.dumps(payload, separators=(',', ': '))}\r\n\r\n".encode() for payload in payloads]


def candidate(*parts: dict[str, Any], index: int = 0, finish: str | None = None) -> dict[str, Any]:
    """What one candidate says in a chunk."""
    content = {"content": {"parts": list(parts), "role": "model"}}
    return {**content, **({"finishReason": finish} if finish else {}), "index": index}


def chunk(*parts: dict[str, Any], index: int = 0, finish: str | None = None, **counts: int) -> dict[str, Any]:
    """One chunk of one candidate."""
    usage = {"promptTokenCount": 30, "totalTokenCount": 30, **counts}
    tail = {"usageMetadata": usage, "modelVersion": "some-model-1", "responseId": "answer-1"}
    return {"candidates": [candidate(*parts, index=index, finish=finish)], **tail}


def word(text: str, **more: Any) -> dict[str, Any]:
    return chunk({"text": text}, **more)


def call(name: str, _id: str | None = None, **arguments: Any) -> dict[str, Any]:
    """A part with a whole tool call."""
    return {"functionCall": {"name": name, "args": arguments, **({"id": _id} if _id else {})}}


class Scene:
    """The clients of a test, what the provider answers, and what became of the streams."""

    def __init__(self, telemetry: Telemetry, recorder: Recorder) -> None:
        self.telemetry, self.recorder = telemetry, recorder
        self.transport = shapes.Transport()
        self.sent: list[Any] = []
        hooks, ahooks = {"request": [self._sends]}, {"request": [self._asends]}
        options = {
            "base_url": "http://provider.invalid",
            "httpx_client": shapes.httpx.Client(transport=self.transport, event_hooks=hooks),
            "httpx_async_client": shapes.httpx.AsyncClient(transport=self.transport, event_hooks=ahooks),
        }
        self.client = genai.Client(api_key="unused", http_options=options)

    def _sends(self, request: Any) -> None:
        request.read()
        self.sent.append(json.loads(request.content))

    async def _asends(self, request: Any) -> None:
        await request.aread()
        self.sent.append(json.loads(request.content))

    def plays(self, *replies: Any) -> None:
        """Answer with these, the last one for ever."""
        self.transport.tape = shapes.Tape([r if isinstance(r, shapes.Reply) else shapes.Reply(r) for r in replies])

    def ask(self, **more: Any) -> Any:
        return self.client.models.generate_content_stream(**ASK, **more)

    async def aask(self, **more: Any) -> Any:
        return await self.client.aio.models.generate_content_stream(**ASK, **more)

    def fails(self, way: str, **more: Any) -> bool:
        """Read one answer to its end; whether the SDK raised."""

        async def areads() -> None:
            async for _ in await self.aask(**more):
                continue

        try:
            if way == "async":
                asyncio.run(areads())
            elif way == "chat":
                read(self.client.chats.create(model="some-model", **more).send_message_stream("What blows?"))
            else:
                read(self.ask(**more))
        except Exception:
            return True
        return False

    def verdict(self) -> tuple[Any, ...]:
        """Outcome, fault and trigger of the one stream."""
        (view,) = self.recorder.wait_for(1)
        return view.outcome, view.fault, view.trigger


@pytest.fixture
def scene(telemetry: Telemetry) -> Iterator[Scene]:
    """A scene that is observed."""
    otelstream.instrument(tracer_provider=telemetry.tracer_provider, meter_provider=telemetry.meter_provider)
    with Recorder() as recorder:
        yield Scene(telemetry, recorder)
    otelstream.uninstrument()


def read(items: Any, leave: Callable[[Any], bool] = lambda _: False) -> list[Any]:
    """What the application gets until it leaves."""
    got = []
    for item in items:
        got.append(item)
        if leave(item):
            break
    return got
