# SPDX-License-Identifier: Apache-2.0
"""What applications do with a stream, written once: the synchronous twin of this module is made from its text.

The twin is real synchronous code, line for line, because how an exception leaves a frame is what these tests are about.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import sys
import types
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

ASYNC = True


class AppError(Exception):
    """The application's own exception."""


class Reading:
    """One way to read a stream of an API: the SDK's own objects, with nothing in between."""

    def __init__(self, api: Any, **request: Any) -> None:
        self.api = api
        self.request = request

    async def manager(self) -> Any:
        """What the application gives to `with`."""
        raise NotImplementedError

    async def bare(self) -> Any:
        """What the application holds when it uses no `with`."""
        return await (await self.manager()).__aenter__()

    async def items(self, handle: Any) -> Any:
        """What the application loops over."""
        return handle

    async def close(self, handle: Any) -> None:
        """Close what the application holds."""
        await resolved(handle.close())

    async def whole(self, handle: Any) -> None:
        """Read to the end."""
        async for _ in await self.items(handle):
            pass


class Create(Reading):
    async def manager(self) -> Any:
        return await self.api.create(stream=True, **self.request)

    async def bare(self) -> Any:
        return await self.manager()


class RawParse(Create):
    async def manager(self) -> Any:
        response = await self.api.with_raw_response.create(stream=True, **self.request)
        return await resolved(response.parse())


class Elsewhere(Create):
    async def manager(self) -> Any:
        return await elsewhere(super().manager)


class Helper(Reading):
    async def manager(self) -> Any:
        return self.api.stream(**self.request)


class Thread(Helper):
    async def manager(self) -> Any:
        return self.api.thread(**self.request).stream()


class Text(Helper):
    async def items(self, handle: Any) -> Any:
        return handle.text_stream


class FinalMessage(Helper):
    async def whole(self, handle: Any) -> None:
        await handle.get_final_message()


class FinalText(Helper):
    async def whole(self, handle: Any) -> None:
        await handle.get_final_text()


class FinalCompletion(Helper):
    async def whole(self, handle: Any) -> None:
        await handle.get_final_completion()


class FinalResponse(Helper):
    async def whole(self, handle: Any) -> None:
        await handle.get_final_response()


class UntilDone(Helper):
    async def whole(self, handle: Any) -> None:
        await handle.until_done()


class Response(Reading):
    async def manager(self) -> Any:
        return self.api.with_streaming_response.create(stream=True, **self.request)


class Lines(Response):
    async def items(self, handle: Any) -> Any:
        return handle.iter_lines()


class Bytes(Response):
    async def items(self, handle: Any) -> Any:
        return handle.iter_bytes()


class Parsed(Response):
    async def items(self, handle: Any) -> Any:
        return await resolved(handle.parse())


class Converse(Reading):
    """No context manager of the SDK's: the application closes it by one of its own."""

    async def manager(self) -> Any:
        return Closed(await self.bare())

    async def bare(self) -> Any:
        return await self.api(**self.request)


class Closed:
    def __init__(self, stream: Any) -> None:
        self.stream = stream

    async def __aenter__(self) -> Any:
        return self.stream

    async def __aexit__(self, *_: object) -> None:
        self.stream.close()


class Generated(Reading):
    """A plain generator: the application closes it by the standard library's context manager."""

    async def manager(self) -> Any:
        return aclosing(await self.bare())

    async def bare(self) -> Any:
        return await self.api(**self.request)

    async def close(self, handle: Any) -> None:
        await handle.aclose()


class Runner(Reading):
    """The runner is no context manager: it holds the `with` of each of its streams itself."""

    async def bare(self) -> Any:
        request = {name: value for name, value in self.request.items() if name != "tools"}
        return self.api.tool_runner(stream=True, tools=TOOLS, **request)

    async def items(self, handle: Any) -> Any:
        return each(handle)


async def each(streams: Any) -> AsyncIterator[Any]:
    async for stream in streams:
        async for item in stream:
            yield item


def tools() -> list[Any]:
    """What the runner may call: the one tool of the scripts."""
    try:
        from anthropic import beta_async_tool, beta_tool
    except ImportError:  # nor is there a runner then
        return []

    async def get_weather(city: str) -> str:
        return f"windy in {city}"

    return [(beta_async_tool if ASYNC else beta_tool)(get_weather)]


# Made once, and not by an application: pydantic keeps the frames that a tool is made under.
TOOLS = tools()


async def elsewhere(make: Callable[[], Any]) -> Any:
    """Run `make` in another task, or another thread."""
    if ASYNC:
        return await asyncio.create_task(make())
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(make).result()


async def resolved(value: Any) -> Any:
    """`parse()` of an async raw response was synchronous once."""
    return await value if inspect.isawaitable(value) else value


class Application:
    """One run: it reads as `reading` does and leaves where its ending says."""

    def __init__(self, reading: Reading, enough: Callable[[Any], bool]) -> None:
        self.reading = reading
        self.enough = enough  # whether it is time to leave, given one more item

    async def take(self, handle: Any) -> None:
        """Read until it is enough."""
        async for item in await self.reading.items(handle):
            if self.enough(item):
                break

    # --- to the end ---------------------------------------------------------------------------------------

    async def read_bare(self) -> None:
        await self.reading.whole(await self.reading.bare())

    async def read_inside(self) -> None:
        async with await self.reading.manager() as handle:
            await self.reading.whole(handle)

    async def read_inside_except(self) -> None:
        try:
            raise AppError("before the stream")
        except AppError:
            await self.read_inside()

    # --- leaving ------------------------------------------------------------------------------------------

    async def break_inside(self) -> None:
        async with await self.reading.manager() as handle:
            async for item in await self.reading.items(handle):
                if self.enough(item):
                    break

    async def break_outside(self) -> None:
        handle = await self.reading.bare()
        async for item in await self.reading.items(handle):
            if self.enough(item):
                break

    async def close(self) -> None:
        handle = await self.reading.bare()
        await self.take(handle)
        await self.reading.close(handle)

    async def close_unread(self) -> None:
        async with await self.reading.manager():
            pass

    async def exit_stack(self) -> None:
        async with AsyncExitStack() as stack:
            handle = await stack.enter_async_context(await self.reading.manager())
            await self.take(handle)

    async def drop(self) -> None:
        handle = await self.reading.bare()
        items = aiter(await self.reading.items(handle))
        while not self.enough(await anext(items)):
            pass
        del items, handle

    async def never_read(self) -> None:
        await self.reading.bare()

    async def raise_inside(self) -> None:
        async with await self.reading.manager() as handle:
            async for item in await self.reading.items(handle):
                if self.enough(item):
                    raise AppError("in the loop")

    async def raise_outside(self) -> None:
        handle = await self.reading.bare()
        async for item in await self.reading.items(handle):
            if self.enough(item):
                raise AppError("in the loop")

    async def raise_timeout_inside(self) -> None:
        async with await self.reading.manager() as handle:
            async for item in await self.reading.items(handle):
                if self.enough(item):
                    raise TimeoutError("too slow for us")

    async def break_inside_except(self) -> None:
        try:
            raise AppError("before the stream")
        except AppError:
            await self.break_inside()

    async def raise_inside_except(self) -> None:
        try:
            raise AppError("before the stream")
        except AppError:
            await self.raise_inside()

    async def exit_inside(self) -> None:
        async with await self.reading.manager() as handle:
            async for item in await self.reading.items(handle):
                if self.enough(item):
                    raise SystemExit(0)

    async def generate(self) -> AsyncIterator[Any]:
        async with await self.reading.manager() as handle:
            async for item in await self.reading.items(handle):
                yield item

    async def generate_bare(self) -> AsyncIterator[Any]:
        handle = await self.reading.bare()
        async for item in await self.reading.items(handle):
            yield item

    async def close_generator(self) -> None:
        async with aclosing(self.generate()) as items:
            async for item in items:
                if self.enough(item):
                    break

    async def drop_generator(self) -> None:
        async for item in self.generate():
            if self.enough(item):
                break

    async def close_bare_generator(self) -> None:
        async with aclosing(self.generate_bare()) as items:
            async for item in items:
                if self.enough(item):
                    break


READINGS: dict[str, type[Reading]] = {
    "create(stream=True)": Create,
    "stream() by events": Helper,
    "text_stream": Text,
    "thread().stream()": Thread,
    "get_final_message()": FinalMessage,
    "get_final_text()": FinalText,
    "get_final_completion()": FinalCompletion,
    "get_final_response()": FinalResponse,
    "until_done()": UntilDone,
    "create(), read in another task or thread": Elsewhere,
    "with_raw_response, parse()": RawParse,
    "with_streaming_response, iter_lines()": Lines,
    "with_streaming_response, iter_bytes()": Bytes,
    "with_streaming_response, parse()": Parsed,
    "tool_runner(stream=True)": Runner,
    "converse_stream()": Converse,
    "invoke_model_with_response_stream()": Converse,
    "generate_content_stream()": Generated,
    "send_message_stream()": Generated,
    "automatic_function_calling()": Generated,
}

_PLAIN = {
    "AsyncExitStack": "ExitStack",
    "enter_async_context": "enter_context",
    "AsyncIterator": "Iterator",
    "aclosing": "closing",
    "aclose": "close",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "aiter": "iter",
    "anext": "next",
    "ASYNC = True": "ASYNC = False",
}


def synchronous() -> types.ModuleType:
    """This module without its `async` and `await`."""
    name = f"{__name__}_sync"
    if name in sys.modules:
        return sys.modules[name]
    text = Path(__file__).read_text(encoding="utf-8")
    for word, plain in _PLAIN.items():
        text = text.replace(word, plain)
    text = re.sub(r"\basync (?=def|for|with)|\bawait ", "", text)
    module = types.ModuleType(name)
    module.__dict__["__file__"] = __file__
    sys.modules[name] = module
    exec(compile(text, __file__, "exec"), module.__dict__)
    return module
