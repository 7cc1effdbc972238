# SPDX-License-Identifier: Apache-2.0
"""Every way to read a stream of the OpenAI SDK, as steps that two runs can be compared by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
from shapes import Tape, Transport, httpx

MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "What blows over the harbour?"}]
ASK: dict[str, dict[str, Any]] = {
    "chat": {"model": "some-model", "messages": MESSAGES},
    "responses": {"model": "some-model", "input": "What blows over the harbour?"},
}


def clients(**options: Any) -> tuple[Transport, Any, Any]:
    """A transport, and a sync and an async client over it."""
    transport = Transport()
    options = {"api_key": "unused", "base_url": "http://provider.invalid", "max_retries": 0, **options}
    return (
        transport,
        openai.OpenAI(http_client=httpx.Client(transport=transport), **options),
        openai.AsyncOpenAI(http_client=httpx.AsyncClient(transport=transport), **options),
    )


def _of(client: Any, api: str) -> Any:
    return client.chat.completions if api == "chat" else client.responses


def _whole(api: str) -> str:
    return "get_final_completion" if api == "chat" else "get_final_response"


def create(api: Any, ask: Any, tape: Tape, _: str) -> None:
    stream = api.create(**ask, stream=True)
    tape.note("type", type(stream) is openai.Stream, sorted(set(vars(stream)) - {"_otelstream"}))
    tape.read(stream, stream.close)


def create_with(api: Any, ask: Any, tape: Tape, _: str) -> None:
    with api.create(**ask, stream=True) as stream:
        tape.read(stream, stream.close)
        tape.note("leaving")


def stream_events(api: Any, ask: Any, tape: Tape, _: str) -> None:
    with api.stream(**ask) as stream:
        tape.read(stream, stream.close)
        tape.note("leaving")


def until_done(api: Any, ask: Any, tape: Tape, _: str) -> None:
    with api.stream(**ask) as stream:
        stream.until_done()
        tape.note("done")


def final(api: Any, ask: Any, tape: Tape, whole: str) -> None:
    with api.stream(**ask) as stream:
        tape.got(getattr(stream, whole)())


def raw_parsed(api: Any, ask: Any, tape: Tape, _: str) -> None:
    stream = api.with_raw_response.create(**ask, stream=True).parse()
    tape.read(stream, stream.close)


def streaming_lines(api: Any, ask: Any, tape: Tape, _: str) -> None:
    with api.with_streaming_response.create(**ask, stream=True) as response:
        tape.read(response.iter_lines(), response.close)
        tape.note("leaving")


def streaming_bytes(api: Any, ask: Any, tape: Tape, _: str) -> None:
    with api.with_streaming_response.create(**ask, stream=True) as response:
        tape.read(response.iter_bytes(), response.close)


def streaming_parsed(api: Any, ask: Any, tape: Tape, _: str) -> None:
    with api.with_streaming_response.create(**ask, stream=True) as response:
        stream = response.parse()
        tape.read(stream, stream.close)


def never_read(api: Any, ask: Any, tape: Tape, _: str) -> None:
    stream = api.create(**ask, stream=True)
    if tape.how == "close":
        stream.close()
    tape.note("unread", type(stream).__name__)


async def acreate(api: Any, ask: Any, tape: Tape, _: str) -> None:
    stream = await api.create(**ask, stream=True)
    tape.note("type", type(stream) is openai.AsyncStream, sorted(set(vars(stream)) - {"_otelstream"}))
    await tape.aread(stream, stream.close)


async def acreate_with(api: Any, ask: Any, tape: Tape, _: str) -> None:
    async with await api.create(**ask, stream=True) as stream:
        await tape.aread(stream, stream.close)
        tape.note("leaving")


async def astream_events(api: Any, ask: Any, tape: Tape, _: str) -> None:
    async with api.stream(**ask) as stream:
        await tape.aread(stream, stream.close)
        tape.note("leaving")


async def auntil_done(api: Any, ask: Any, tape: Tape, _: str) -> None:
    async with api.stream(**ask) as stream:
        await stream.until_done()
        tape.note("done")


async def afinal(api: Any, ask: Any, tape: Tape, whole: str) -> None:
    async with api.stream(**ask) as stream:
        tape.got(await getattr(stream, whole)())


async def astreaming_lines(api: Any, ask: Any, tape: Tape, _: str) -> None:
    async with api.with_streaming_response.create(**ask, stream=True) as response:
        await tape.aread(response.iter_lines(), response.close)
        tape.note("leaving")


async def astreaming_bytes(api: Any, ask: Any, tape: Tape, _: str) -> None:
    async with api.with_streaming_response.create(**ask, stream=True) as response:
        await tape.aread(response.iter_bytes(), response.close)


async def anever_read(api: Any, ask: Any, tape: Tape, _: str) -> None:
    stream = await api.create(**ask, stream=True)
    if tape.how == "close":
        await stream.close()
    tape.note("unread", type(stream).__name__)


def _bound(way: Callable[..., Any], api: str) -> Callable[..., Any]:
    return lambda client, _, tape: way(_of(client, api), ASK[api], tape, _whole(api))


_SYNC = (
    create, create_with, stream_events, until_done, final, raw_parsed, streaming_lines, streaming_bytes,
    streaming_parsed, never_read,
)  # fmt: skip
_ASYNC = (
    acreate, acreate_with, astream_events, auntil_done, afinal, astreaming_lines, astreaming_bytes, anever_read,
)  # fmt: skip
# By names such as `chat create`: functions of a client, nothing, and the tape.
SYNC = {f"{api} {way.__name__}": _bound(way, api) for api in ASK for way in _SYNC}
ASYNC = {f"{api} {way.__name__}": _bound(way, api) for api in ASK for way in _ASYNC}
