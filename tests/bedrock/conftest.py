# SPDX-License-Identifier: Apache-2.0
"""Clients of botocore and aiobotocore whose provider is in memory, and what was said of their streams."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from matrix.telemetry import Telemetry

import otelstream
from otelstream.testing import Recorder
from otelstream.testing._bedrock import Frame

pytest.importorskip("botocore")

MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": [{"text": "What blows over the harbour?"}]}]
CONVERSE: dict[str, Any] = {"modelId": "some-model", "messages": MESSAGES}
INVOKE: dict[str, Any] = {"modelId": "some-model", "body": json.dumps({"messages": MESSAGES})}
KEYS = {"aws_access_key_id": "unused", "aws_secret_access_key": "unused", "region_name": "us-east-1"}


def frame(name: str, *, exception: bool = False, **values: Any) -> bytes:
    """One frame of the wire, padded as Bedrock pads it."""
    data = json.dumps(dict(sorted({**values, "p": "abcdef"}.items())), separators=(",", ":"))
    return Frame(name, data.encode(), "error" if exception else "other").frame


def delta(index: int = 0, **values: Any) -> bytes:
    return frame("contentBlockDelta", contentBlockIndex=index, delta=values)


def begin(index: int, name: str, **more: Any) -> bytes:
    tool = {"name": name, "toolUseId": f"tooluse_{index}", **more}
    return frame("contentBlockStart", contentBlockIndex=index, start={"toolUse": tool})


def stop(index: int = 0) -> bytes:
    return frame("contentBlockStop", contentBlockIndex=index)


def end(reason: str = "end_turn") -> bytes:
    return frame("messageStop", stopReason=reason)


def chunk(**values: Any) -> bytes:
    """One chunk of `invoke_model_with_response_stream`."""
    inner = json.dumps(values, separators=(",", ":")).encode()
    return frame("chunk", bytes=base64.b64encode(inner).decode())


START = frame("messageStart", role="assistant")
WORDS = [delta(text=word) for word in ("Calm ", "seas, ", "then ", "wind.")]
USAGE = frame("metadata", metrics={"latencyMs": 9}, usage={
    "inputTokens": 30, "outputTokens": 4, "totalTokens": 34, "cacheReadInputTokens": 20, "cacheWriteInputTokens": 5,
})  # fmt: skip
WHOLE = [START, *WORDS, stop(), end(), USAGE]


@dataclass
class Reply:
    """What the provider answers: pieces of a body, of which an exception is raised; or a status."""

    pieces: Sequence[bytes | Exception] = ()
    status: int = 200
    error: str = "ValidationException"
    headers: dict[str, str] = field(default_factory=lambda: {"x-amzn-requestid": "request-1"})


class Body:
    """The raw body as both SDKs' HTTP clients have it."""

    def __init__(self, reply: Reply) -> None:
        self.pieces, self.status, self.closed = reply.pieces, reply.status, 0
        self.error = json.dumps({"__type": reply.error, "message": "no"}).encode()
        self.held: asyncio.Event | None = None  # what an async reader waits for behind the last piece
        self.content = self
        self.raw_headers = ()

    def stream(self) -> Iterator[bytes]:
        for piece in [self.error] if self.status != 200 else self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    async def iter_chunks(self) -> AsyncIterator[tuple[bytes, bool]]:
        for piece in self.stream():
            yield piece, True
        if self.held is not None:
            await self.held.wait()

    async def read(self) -> bytes:
        return b"".join(self.stream())

    def close(self) -> None:
        self.closed += 1


class AsyncAnswer(AWSResponse):  # type: ignore[misc]
    """As aiobotocore has it: its content is awaited."""

    @property
    async def content(self) -> bytes:
        return await self.raw.read()  # type: ignore[no-any-return]


@cache
def session(package: str) -> Any:
    """One for all: it has read what describes the service."""
    return pytest.importorskip(f"{package}.session").get_session()


class Scene:
    """The clients of a test, what the provider answers, and what became of the streams."""

    def __init__(self, telemetry: Telemetry, recorder: Recorder) -> None:
        self.telemetry, self.recorder = telemetry, recorder
        self.replies: list[Reply] = []
        self.bodies: list[Body] = []
        self.held = False
        self.client = self.make()

    def make(self, **config: Any) -> Any:
        """A client whose requests never leave the process."""
        settings = {"retries": {"total_max_attempts": 1, "mode": "standard"}, **config}
        made = session("botocore").create_client(
            "bedrock-runtime",
            endpoint_url="http://bedrock.invalid:81",
            config=Config(**settings),
            **KEYS,
        )
        made.meta.events.register("before-send.*", lambda request, **_: self._answer(request))
        return made

    async def amake(self, stack: AsyncExitStack) -> Any:
        made = await stack.enter_async_context(
            session("aiobotocore").create_client(
                "bedrock-runtime",
                endpoint_url="http://bedrock.invalid:81",
                config=pytest.importorskip("aiobotocore.config").AioConfig(
                    retries={"total_max_attempts": 1, "mode": "standard"}
                ),
                **KEYS,
            )
        )
        made.meta.events.register("before-send.*", lambda request, **_: self._answer(request, AsyncAnswer))
        return made

    def _answer(self, request: Any, kind: Any = AWSResponse) -> Any:
        reply = self.replies[0] if len(self.replies) == 1 else self.replies.pop(0)
        self.bodies.append(Body(reply))
        if self.held:
            self.bodies[-1].held = asyncio.Event()
        return kind(request.url, reply.status, reply.headers, self.bodies[-1])

    def plays(self, *replies: Any) -> None:
        """Answer with these, the last one for ever."""
        self.replies = [reply if isinstance(reply, Reply) else Reply(reply) for reply in replies]

    def converse(self, **more: Any) -> Any:
        return self.client.converse_stream(**CONVERSE, **more)["stream"]

    def invoke(self, **more: Any) -> Any:
        return self.client.invoke_model_with_response_stream(**{**INVOKE, **more})["body"]

    def reads(self, operation: str, asynchronous: bool) -> tuple[list[Any], str]:
        """Read one answer to its end: what the application got, and what was raised."""
        got: list[Any] = []

        async def areads() -> None:
            async with AsyncExitStack() as stack:
                client = await self.amake(stack)
                async for event in await asked(client):
                    got.append(event)  # noqa: PERF401  # what came before an exception counts

        async def asked(client: Any) -> Any:
            if operation == "converse":
                return (await client.converse_stream(**CONVERSE))["stream"]
            return (await client.invoke_model_with_response_stream(**INVOKE))["body"]

        try:
            if asynchronous:
                asyncio.run(areads())
            else:
                got.extend(self.converse() if operation == "converse" else self.invoke())
        except Exception as error:
            return got, f"{type(error).__name__}: {error}"
        return got, ""

    @property
    def view(self) -> Any:
        """The one stream, once it is collected if nobody closed it."""
        gc.collect()
        (view,) = self.recorder.wait_for(1)
        return view


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
