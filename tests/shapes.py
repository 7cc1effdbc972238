# SPDX-License-Identifier: Apache-2.0
"""Every way an application reads a stream, over a transport that notes each step: who read what, and when."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import os
import sys
import traceback
import zlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import anthropic

httpx: Any = importlib.import_module("httpx2" if "httpx2" in sys.modules else "httpx")

ASK: dict[str, Any] = {
    "model": "some-model",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "What blows over the harbour?"}],
}
How = Literal["read", "break", "close", "raise", "drop", "cancel"]


class AppError(Exception):
    """The application's own exception."""


@dataclass(frozen=True)
class Reply:
    """What the transport answers: body in `pieces`, then `error` instead of a clean end."""

    pieces: Sequence[bytes]
    error: Callable[[], BaseException] | None = None
    status: int = 200
    headers: tuple[tuple[str, str], ...] = (("content-type", "text/event-stream; charset=utf-8"),)


def gzipped(pieces: Sequence[bytes]) -> Reply:
    """The same pieces, each flushed through gzip."""
    packer = zlib.compressobj(wbits=31)
    packed = [packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH) for piece in pieces]
    return Reply([*packed, packer.flush()], headers=(*Reply(()).headers, ("content-encoding", "gzip")))


@dataclass
class Tape:
    """The steps of one run in their order, as plain values that two runs can be compared by."""

    replies: Sequence[Reply]
    how: How = "read"
    after: int = 1 << 30  # items the application takes before it leaves
    steps: list[Any] = field(default_factory=list)
    requests: int = 0
    brief: bool = False  # note what an item is, not all it carries

    def note(self, *step: Any) -> None:
        self.steps.append(step)

    # --- the provider's side ------------------------------------------------------------------------------

    def reply(self, request: Any, kind: type) -> Any:
        number = self.requests
        self.requests += 1
        self.note("request", number, request.method, request.url.path)
        reply = self.replies[min(number, len(self.replies) - 1)]
        headers = [*reply.headers, ("request-id", f"req_{number}")]
        return httpx.Response(reply.status, headers=headers, stream=kind(self, number, reply), request=request)

    def wire(self, number: int, reply: Reply) -> Iterator[bytes]:
        for index, piece in enumerate(reply.pieces):
            self.note("wire", number, index)
            yield piece
        self.note("wire", number, "end")
        if reply.error is not None:
            raise reply.error()

    # --- the application's side ---------------------------------------------------------------------------

    def got(self, item: Any) -> bool:
        """Take one item; True when it is time to leave."""
        self.note("got", _plain(item, self.brief))
        self.after -= 1
        if self.after > 0:
            return False
        if self.how == "raise":
            raise AppError("the application's own")
        return self.how in ("break", "drop", "close", "cancel")

    def read(self, items: Any, close: Callable[[], Any]) -> None:
        for item in items:
            if self.got(item):
                break
        else:
            self.note("exhausted")
            return
        if self.how == "close":
            close()
            self.note("closed")
            for item in items:
                self.note("got after close", _plain(item, self.brief))

    async def aread(self, items: Any, close: Callable[[], Awaitable[Any]]) -> None:
        async for item in items:
            if self.got(item):
                break
        else:
            self.note("exhausted")
            return
        if self.how == "close":
            await close()
            self.note("closed")
            async for item in items:
                self.note("got after close", _plain(item, self.brief))
        elif self.how == "cancel":
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_soon(task.cancel)
            async for item in items:
                self.note("got before cancel", _plain(item, self.brief))


class Body(httpx.SyncByteStream):  # type: ignore[misc]
    def __init__(self, tape: Tape, number: int, reply: Reply) -> None:
        self.tape, self.number, self.reply = tape, number, reply

    def __iter__(self) -> Iterator[bytes]:
        return self.tape.wire(self.number, self.reply)

    def close(self) -> None:
        self.tape.note("wire", self.number, "close")


class AsyncBody(httpx.AsyncByteStream):  # type: ignore[misc]
    def __init__(self, tape: Tape, number: int, reply: Reply) -> None:
        self.tape, self.number, self.reply = tape, number, reply

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.tape.wire(self.number, self.reply):
            if self.tape.how == "cancel":
                await asyncio.sleep(0)
            yield piece

    async def aclose(self) -> None:
        self.tape.note("wire", self.number, "close")


class Transport(httpx.BaseTransport, httpx.AsyncBaseTransport):  # type: ignore[misc]
    """Answers from the tape that `tape` holds at the moment."""

    tape: Tape

    def handle_request(self, request: Any) -> Any:
        request.read()
        return self.tape.reply(request, Body)

    async def handle_async_request(self, request: Any) -> Any:
        await request.aread()
        return self.tape.reply(request, AsyncBody)


def _plain(item: Any, brief: bool) -> Any:
    if isinstance(item, (str, bytes, type(None))):
        return item
    name = f"{type(item).__module__}.{type(item).__qualname__}"
    if not hasattr(item, "model_dump"):
        return name, repr(item)
    if brief:
        return name, getattr(item, "type", None), getattr(item, "index", None)
    return name, item.model_dump(warnings=False)


def clients(*, native: bool, **options: Any) -> tuple[Transport, Any, Any]:
    """A transport, and a sync and an async client over it; `native`: with the SDK's own tracing left on."""
    before = os.environ.get("ANTHROPIC_OPEN_TELEMETRY")
    os.environ["ANTHROPIC_OPEN_TELEMETRY"] = "true" if native else "false"
    try:
        transport = Transport()
        options = {"api_key": "unused", "base_url": "http://provider.invalid", "max_retries": 0, **options}
        return (
            transport,
            anthropic.Anthropic(http_client=httpx.Client(transport=transport), **options),
            anthropic.AsyncAnthropic(http_client=httpx.AsyncClient(transport=transport), **options),
        )
    finally:
        if before is None:
            del os.environ["ANTHROPIC_OPEN_TELEMETRY"]
        else:
            os.environ["ANTHROPIC_OPEN_TELEMETRY"] = before


_tapes: deque[Tape] = deque(maxlen=1)


@cache
def _tool(asynchronous: bool) -> Any:
    """The one tool of the runners, made once: its schema costs more than a stream."""

    def get_weather(city: str = "") -> str:
        """Look at the sky."""
        _tapes[-1].note("tool", city)
        return "calm"

    async def aget_weather(city: str = "") -> str:
        """Look at the sky."""
        return get_weather(city)

    if asynchronous:
        return anthropic.beta_async_tool(aget_weather, name="get_weather")
    return anthropic.beta_tool(get_weather)


# --- sync ways ------------------------------------------------------------------------------------------------


def create(client: Any, ask: Any, tape: Tape) -> None:
    stream = client.messages.create(**ask, stream=True)
    tape.note("type", type(stream) is anthropic.Stream, sorted(set(vars(stream)) - {"_otelstream"}))
    tape.read(stream, stream.close)


def create_with(client: Any, ask: Any, tape: Tape) -> None:
    with client.messages.create(**ask, stream=True) as stream:
        tape.read(stream, stream.close)
        tape.note("leaving")


def create_next(client: Any, ask: Any, tape: Tape) -> None:
    stream = client.beta.messages.create(**ask, stream=True)
    with contextlib.suppress(StopIteration):
        while not tape.got(next(stream)):
            continue
    if tape.how == "close":
        stream.close()
        tape.note("closed", next(stream, None) is None)


def create_stack(client: Any, ask: Any, tape: Tape) -> None:
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(client.messages.create(**ask, stream=True))
        tape.read(stream, stream.close)


def create_generator(client: Any, ask: Any, tape: Tape) -> None:
    def relay() -> Iterator[Any]:
        with client.messages.create(**ask, stream=True) as stream:
            yield from stream

    items = relay()
    tape.read(items, items.close)


def stream_events(client: Any, ask: Any, tape: Tape) -> None:
    with client.messages.stream(**ask) as stream:
        tape.note("type", type(stream) is anthropic.lib.streaming.MessageStream)
        tape.read(stream, stream.close)
        tape.note("leaving")


def stream_text(client: Any, ask: Any, tape: Tape) -> None:
    with client.messages.stream(**ask) as stream:
        tape.read(stream.text_stream, stream.close)
    tape.note("text", stream.current_message_snapshot.model_dump() if tape.how == "read" else None)


def final_message(client: Any, ask: Any, tape: Tape) -> None:
    with client.messages.stream(**ask) as stream:
        tape.got(stream.get_final_message())


def final_text(client: Any, ask: Any, tape: Tape) -> None:
    with client.beta.messages.stream(**ask) as stream:
        tape.got(stream.get_final_text())


def until_done(client: Any, ask: Any, tape: Tape) -> None:
    with client.messages.stream(**ask) as stream:
        stream.until_done()
        tape.note("done")


def raw_parsed(client: Any, ask: Any, tape: Tape) -> None:
    response = client.messages.with_raw_response.create(**ask, stream=True)
    tape.note("headers", response.headers.get("request-id"), type(response).__name__)
    stream = response.parse()
    tape.note("type", type(stream) is anthropic.Stream, response.parse() is stream)
    tape.read(stream, stream.close)


def streaming_lines(client: Any, ask: Any, tape: Tape) -> None:
    with client.messages.with_streaming_response.create(**ask, stream=True) as response:
        tape.read(response.iter_lines(), response.close)
        tape.note("leaving")


def streaming_bytes(client: Any, ask: Any, tape: Tape) -> None:
    with client.messages.with_streaming_response.create(**ask, stream=True) as response:
        tape.read(response.iter_bytes(), response.close)


def streaming_whole(client: Any, ask: Any, tape: Tape) -> None:
    with client.messages.with_streaming_response.create(**ask, stream=True) as response:
        tape.got(response.read())


def streaming_parsed(client: Any, ask: Any, tape: Tape) -> None:
    with client.messages.with_streaming_response.create(**ask, stream=True) as response:
        stream = response.parse()
        tape.read(stream, stream.close)


def never_read(client: Any, ask: Any, tape: Tape) -> None:
    stream = client.messages.create(**ask, stream=True)
    if tape.how == "close":
        stream.close()
    tape.note("unread", type(stream).__name__)


def tool_runner(client: Any, ask: Any, tape: Tape) -> None:
    runner = client.beta.messages.tool_runner(**ask, tools=[_tool(False)], stream=True, max_iterations=2)
    _tapes.append(tape)
    for stream in runner:
        tape.read(stream, stream.close)


def thread_stream(client: Any, ask: Any, tape: Tape) -> None:
    thread = client.beta.messages.thread(**ask)
    with thread.stream() as stream:
        tape.read(stream, stream.close)
    tape.note("thread", thread.messages, thread.previous_message_id)


def thread_runner(client: Any, ask: Any, tape: Tape) -> None:
    thread = client.beta.messages.thread(**ask, tools=[_tool(False)])
    runner = thread.tool_runner(stream=True, max_iterations=2)
    _tapes.append(tape)
    for stream in runner:
        tape.read(stream, stream.close)
    tape.note("thread", thread.messages, thread.previous_message_id)


# --- async ways -----------------------------------------------------------------------------------------------


async def acreate(client: Any, ask: Any, tape: Tape) -> None:
    stream = await client.messages.create(**ask, stream=True)
    tape.note("type", type(stream) is anthropic.AsyncStream, sorted(set(vars(stream)) - {"_otelstream"}))
    await tape.aread(stream, stream.close)


async def acreate_with(client: Any, ask: Any, tape: Tape) -> None:
    async with await client.messages.create(**ask, stream=True) as stream:
        await tape.aread(stream, stream.close)
        tape.note("leaving")


async def acreate_next(client: Any, ask: Any, tape: Tape) -> None:
    stream = await client.beta.messages.create(**ask, stream=True)
    with contextlib.suppress(StopAsyncIteration):
        while not tape.got(await anext(stream)):
            continue
    if tape.how == "close":
        await stream.close()
        tape.note("closed", await anext(stream, None) is None)


async def acreate_stack(client: Any, ask: Any, tape: Tape) -> None:
    async with contextlib.AsyncExitStack() as stack:
        stream = await stack.enter_async_context(await client.messages.create(**ask, stream=True))
        await tape.aread(stream, stream.close)


async def acreate_generator(client: Any, ask: Any, tape: Tape) -> None:
    async def relay() -> AsyncIterator[Any]:
        async with await client.messages.create(**ask, stream=True) as stream:
            async for item in stream:
                yield item

    items: Any = relay()
    await tape.aread(items, items.aclose)


async def astream_events(client: Any, ask: Any, tape: Tape) -> None:
    async with client.messages.stream(**ask) as stream:
        tape.note("type", type(stream) is anthropic.lib.streaming.AsyncMessageStream)
        await tape.aread(stream, stream.close)
        tape.note("leaving")


async def astream_text(client: Any, ask: Any, tape: Tape) -> None:
    async with client.messages.stream(**ask) as stream:
        await tape.aread(stream.text_stream, stream.close)
    tape.note("text", stream.current_message_snapshot.model_dump() if tape.how == "read" else None)


async def afinal_message(client: Any, ask: Any, tape: Tape) -> None:
    async with client.messages.stream(**ask) as stream:
        tape.got(await stream.get_final_message())


async def afinal_text(client: Any, ask: Any, tape: Tape) -> None:
    async with client.beta.messages.stream(**ask) as stream:
        tape.got(await stream.get_final_text())


async def auntil_done(client: Any, ask: Any, tape: Tape) -> None:
    async with client.messages.stream(**ask) as stream:
        await stream.until_done()
        tape.note("done")


async def araw_parsed(client: Any, ask: Any, tape: Tape) -> None:
    response = await client.messages.with_raw_response.create(**ask, stream=True)
    stream = response.parse()
    if asyncio.iscoroutine(stream):
        stream = await stream
    await tape.aread(stream, stream.close)


async def astreaming_lines(client: Any, ask: Any, tape: Tape) -> None:
    async with client.messages.with_streaming_response.create(**ask, stream=True) as response:
        await tape.aread(response.iter_lines(), response.close)
        tape.note("leaving")


async def astreaming_bytes(client: Any, ask: Any, tape: Tape) -> None:
    async with client.messages.with_streaming_response.create(**ask, stream=True) as response:
        await tape.aread(response.iter_bytes(), response.close)


async def astreaming_whole(client: Any, ask: Any, tape: Tape) -> None:
    async with client.messages.with_streaming_response.create(**ask, stream=True) as response:
        tape.got(await response.read())


async def astreaming_parsed(client: Any, ask: Any, tape: Tape) -> None:
    async with client.messages.with_streaming_response.create(**ask, stream=True) as response:
        stream = await response.parse()
        await tape.aread(stream, stream.close)


async def anever_read(client: Any, ask: Any, tape: Tape) -> None:
    stream = await client.messages.create(**ask, stream=True)
    if tape.how == "close":
        await stream.close()
    tape.note("unread", type(stream).__name__)


async def atool_runner(client: Any, ask: Any, tape: Tape) -> None:
    runner = client.beta.messages.tool_runner(**ask, tools=[_tool(True)], stream=True, max_iterations=2)
    _tapes.append(tape)
    async for stream in runner:
        await tape.aread(stream, stream.close)


async def athread_stream(client: Any, ask: Any, tape: Tape) -> None:
    thread = client.beta.messages.thread(**ask)
    async with thread.stream() as stream:
        await tape.aread(stream, stream.close)
    tape.note("thread", thread.messages, thread.previous_message_id)


async def athread_runner(client: Any, ask: Any, tape: Tape) -> None:
    thread = client.beta.messages.thread(**ask, tools=[_tool(True)])
    runner = thread.tool_runner(stream=True, max_iterations=2)
    _tapes.append(tape)
    async for stream in runner:
        await tape.aread(stream, stream.close)
    tape.note("thread", thread.messages, thread.previous_message_id)


_SYNC = (
    create, create_with, create_next, create_stack, create_generator, stream_events, stream_text, final_message,
    final_text, until_done, raw_parsed, streaming_lines, streaming_bytes, streaming_whole, streaming_parsed, never_read,
)  # fmt: skip
_ASYNC = (
    acreate, acreate_with, acreate_next, acreate_stack, acreate_generator, astream_events, astream_text, afinal_message,
    afinal_text, auntil_done, araw_parsed, astreaming_lines, astreaming_bytes, astreaming_whole, astreaming_parsed,
    anever_read,
)  # fmt: skip
RUNNER = hasattr(anthropic, "beta_tool") and hasattr(anthropic.resources.beta.messages.Messages, "tool_runner")
THREADS = hasattr(anthropic.resources.beta.messages.Messages, "thread")
SYNC: dict[str, Callable[..., None]] = {
    way.__name__: way
    for way in (*_SYNC, *((tool_runner,) if RUNNER else ()), *((thread_stream, thread_runner) if THREADS else ()))
}
ASYNC: dict[str, Callable[..., Awaitable[None]]] = {
    way.__name__: way
    for way in (*_ASYNC, *((atool_runner,) if RUNNER else ()), *((athread_stream, athread_runner) if THREADS else ()))
}
WHOLE = frozenset({
    "final_message", "final_text", "until_done", "streaming_whole", "never_read", "tool_runner", "thread_runner",
})  # fmt: skip


# --- one run --------------------------------------------------------------------------------------------------


def signature(error: BaseException | None, depth: int = 4) -> Any:
    """What an application can tell of an exception: its type, text, where it was raised, and what it came of."""
    if error is None or not depth:
        return None
    frames = [
        (frame.filename, frame.name)
        for frame in traceback.extract_tb(error.__traceback__)
        if f"{os.sep}otelstream{os.sep}" not in frame.filename and f"{os.sep}wrapt{os.sep}" not in frame.filename
    ]
    return (
        type(error),
        str(error),
        frames[-1:],
        error.__suppress_context__,
        signature(error.__cause__, depth - 1),
        signature(error.__context__, depth - 1),
    )


def run(way: Callable[..., None], client: Any, tape: Tape, ask: Any = ASK, *, collect: bool = True) -> list[Any]:
    """Run one sync way to its end and past it: the exception cleared, the garbage collected."""
    try:
        way(client, ask, tape)
    except BaseException as error:
        tape.note("raised", signature(error))
        if isinstance(error, (KeyboardInterrupt, SystemExit)) and not error.args:
            raise
    tape.note("left")
    if collect:
        gc.collect()
        tape.note("collected")
    return tape.steps


async def arun(
    way: Callable[..., Awaitable[None]], client: Any, tape: Tape, ask: Any = ASK, *, collect: bool = True
) -> list[Any]:
    """Run one async way in a task of its own, then let the loop turn until what it started is over."""

    async def guarded() -> None:
        try:
            await way(client, ask, tape)
        except (KeyboardInterrupt, SystemExit) as error:  # would leave the loop over the head of whoever waits here
            tape.note("raised", signature(error))

    task = asyncio.ensure_future(guarded())
    await asyncio.wait([task])
    if task.cancelled():
        tape.note("cancelled")
    else:
        error = task.exception()
        if error is not None:
            tape.note("raised", signature(error))
        del error
    del task
    tape.note("left")
    for turn in range(3):
        await asyncio.sleep(0)
        tape.note("turn", turn)
    if collect:
        gc.collect()
        await asyncio.sleep(0)
        tape.note("collected")
    return tape.steps
