# SPDX-License-Identifier: Apache-2.0
"""A program that asks the local provider through LiteLLM, on each road and in each way, and prints its records.

A process of its own: the router starts threads that log, and reads prices from the network unless it is told not to.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm

import otelstream
from otelstream.testing import ProviderSimulator, Recorder, Script

MESSAGES = [{"role": "user", "content": "What blows over the harbour?"}]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
# A road through a provider's SDK, and one by an HTTP client of the router's own.
ROADS = {"openai/gpt-5": "/v1", "anthropic/claude-sonnet-4-5": ""}
ANSWER = Script().text("The wind turns north by noon, the harbour lies calm until then. " * 6).finished()
LOOP = Script().text("I am sorry, I cannot say that. Ask me again. " * 80).finished()
LEAVE = 12  # chunks


class GoneError(Exception):
    """The application's own."""


class Asked:
    """One call of the router, as the application makes it."""

    def __init__(self, model: str, url: str) -> None:
        self.model = model
        self.wishes: dict[str, Any] = {
            "model": model,
            "messages": MESSAGES,
            "api_key": "unused",
            "api_base": url + ROADS[model],
            "max_retries": 0,
            "stream": True,
        }

    def sync(self, **more: Any) -> Any:
        return litellm.completion(**self.wishes | more)

    async def asynchronous(self, **more: Any) -> Any:
        return await litellm.acompletion(**self.wishes | more)


def read(asked: Asked, **more: Any) -> list[Any]:
    return list(asked.sync(**more))


def aread(asked: Asked, **more: Any) -> list[Any]:
    async def reads() -> list[Any]:
        return [chunk async for chunk in await asked.asynchronous(**more)]

    return asyncio.run(reads())


def closed(asked: Asked) -> list[Any]:
    answer, got = asked.sync(), []
    for chunk in answer:
        got.append(chunk)
        if len(got) == LEAVE:
            answer.close()
    return got


def closed_below(asked: Asked) -> list[Any]:
    answer, got = asked.sync(), []
    for chunk in answer:
        got.append(chunk)
        if len(got) == LEAVE:
            answer.completion_stream.close()
            break
    return got


def with_block(asked: Asked) -> list[Any]:
    got = []
    with asked.sync() as answer:
        for chunk in answer:
            got.append(chunk)
            if len(got) == LEAVE:
                raise GoneError
    return got


def aclosed(asked: Asked) -> list[Any]:
    async def reads() -> list[Any]:
        answer, got = await asked.asynchronous(), []
        async for chunk in answer:
            got.append(chunk)
            if len(got) == LEAVE:
                await answer.aclose()
        return got

    return asyncio.run(reads())


def task_cancelled(asked: Asked) -> list[Any]:
    got: list[Any] = []

    async def reads(enough: asyncio.Event) -> None:
        async for chunk in await asked.asynchronous():
            got.append(chunk)  # kept by who is cancelled
            if len(got) == LEAVE:
                enough.set()

    async def cancels() -> None:
        enough = asyncio.Event()
        task = asyncio.create_task(reads(enough))
        await enough.wait()
        await asyncio.sleep(0.1)  # it waits in the hang by then
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.05)

    asyncio.run(cancels())
    return got


def by_a_loop(asked: Asked) -> list[Any]:
    @otelstream.on_repetition
    def stops(_: object) -> bool:
        return True

    try:
        return read(asked)
    finally:
        otelstream._face.instrumentor._repeats.clear()  # type: ignore[attr-defined]


def ways(sim: ProviderSimulator) -> dict[str, tuple[Any, Any, Callable[[Asked], list[Any]]]]:
    """By name: script, fault, and how it is read."""
    long = {"whole": None, "error": sim.error_after(chunks=LEAVE), "cut": sim.cut_after(chunks=LEAVE)}
    long |= {"reset": sim.reset_after(chunks=LEAVE), "ended": sim.end_after(chunks=LEAVE), "429": sim.http_error(429)}
    long |= {"400": sim.http_error(400)}
    made: dict[str, tuple[Any, Any, Callable[[Asked], list[Any]]]] = {}
    for name, fault in long.items():
        made[f"{name}, sync"] = ANSWER, fault, read
        made[f"{name}, async"] = ANSWER, fault, aread
    hang = sim.hang_after(chunks=LEAVE)
    made |= {
        "full, sync": ("text_max_tokens", None, read),
        "tools, sync": ("tool_use_two_tools", None, lambda asked: read(asked, tools=TOOLS)),
        "tools, async": ("tool_use_two_tools", None, lambda asked: aread(asked, tools=TOOLS)),
        "time-out, sync": (ANSWER, hang, lambda asked: read(asked, timeout=0.5)),
        "time-out, async": (ANSWER, hang, lambda asked: aread(asked, timeout=0.5)),
        "closed": (ANSWER, None, closed),
        "closed below": (ANSWER, None, closed_below),
        "error in a with block": (ANSWER, None, with_block),
        "closed, async": (ANSWER, None, aclosed),
        "task cancelled": (ANSWER, hang, task_cancelled),
        "a loop, stopped": (
            Script().text("I am sorry, I cannot say that. Ask me again. " * 80).finished(),
            None,
            by_a_loop,
        ),
        "usage, sync": (ANSWER, None, lambda asked: read(asked, stream_options={"include_usage": True})),
    }
    return made


def plain(chunk: Any) -> Any:
    """What two calls must have alike of a chunk."""
    said = chunk.model_dump()
    return [{**choice, "delta": dict(choice["delta"])} for choice in said["choices"]]


def run(sim: ProviderSimulator, model: str, way: tuple[Any, Any, Callable[[Asked], list[Any]]]) -> dict[str, Any]:
    """Play one way, twice: without otelstream and with it."""
    script, fault, reads = way
    found: dict[str, Any] = {}
    said = []
    for on in (False, True):
        sim.clear()
        sim.play(script, fault=fault, times=None)
        got, raised = [], None
        recorder = Recorder() if on else contextlib.nullcontext()
        with recorder:
            try:
                got = reads(Asked(model, sim.base_url))
            except Exception as error:
                raised = type(error).__name__
            if isinstance(recorder, Recorder):
                until = time.monotonic() + 20
                while not recorder.streams and time.monotonic() < until:
                    gc.collect()  # threads of the router's may have held the last stream till now
                    time.sleep(0.02)
                found["records"] = len(recorder.streams)
                if not recorder.streams:
                    continue
                view = recorder.streams[0]
                found |= {name: getattr(view, name) for name in ("outcome", "fault", "phase", "trigger", "error_type")}
                found |= {"calls": [call.name for call in view.tool_calls], "chars": view.visible_chars}
                found["attributes"] = {
                    name: value for name, value in view.attributes.items() if name[:3] in ("gen", "ote")
                }
        said.append(([plain(chunk) for chunk in got], raised))
    found["same"], found["raised"] = said[0] == said[-1], said[-1][1]
    text = "".join(choice["delta"].get("content") or "" for chunk in said[-1][0] for choice in chunk)
    found["text"] = len(text)
    return found


def main() -> None:
    litellm.suppress_debug_info = True
    wanted = sys.argv[1:]
    with ProviderSimulator() as sim:
        print(json.dumps({
            f"{model.partition('/')[0]}: {name}": run(sim, model, way)
            for model in ROADS for name, way in ways(sim).items() if not wanted or name in wanted
        }))  # fmt: skip


if __name__ == "__main__":
    main()
