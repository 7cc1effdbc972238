# SPDX-License-Identifier: Apache-2.0
"""The stories: what the simulated provider plays, and what the application does meanwhile."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import otelstream
from otelstream.testing import Fault, ProviderSimulator, Schedule, Script, loop, prose, script

fault = ProviderSimulator
Act = Callable[[Any, dict[str, Any]], object]  # called with a client of the SDK and the arguments of its request


@dataclass(frozen=True)
class Play:
    """One reply of the provider."""

    script: Script
    schedule: Schedule
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True)
class Story:
    """One stream: the replies that its attempts get, and the application's part."""

    name: str
    plays: tuple[Play, ...]
    act: Act
    client: dict[str, Any] = field(default_factory=dict)

    def faster(self, speed: float) -> Story:
        """The same story in 1/*speed* of the time."""
        plays = tuple(replace(play, schedule=_faster(play.schedule, speed)) for play in self.plays)
        timeout = self.client.get("timeout")
        client = {**self.client, "timeout": timeout / speed} if timeout else self.client
        return replace(self, plays=plays, client=client)


def _faster(schedule: Schedule, speed: float) -> Schedule:
    gap = schedule.gap if isinstance(schedule.gap, (int, float)) else max(schedule.gap)
    pauses = {index: pause / speed for index, pause in schedule.pauses.items()}
    return replace(
        schedule, first=schedule.first / speed, gap=gap / speed, headers=schedule.headers / speed, pauses=pauses
    )


def read(client: Any, request: dict[str, Any]) -> None:
    """Read the stream to its end, as most code does."""
    with client.messages.stream(**request) as stream:
        for _ in stream:
            pass


def read_text(client: Any, request: dict[str, Any]) -> None:
    with client.messages.stream(**request) as stream:
        for _ in stream.text_stream:
            pass


def read_raw(client: Any, request: dict[str, Any]) -> None:
    for _ in client.messages.create(stream=True, **request):
        pass


def stop(client: Any, request: dict[str, Any]) -> None:
    """Stop in the middle of the text: the user's ask comes first, the close when the loop sees it."""
    with otelstream.turn("demo"), client.messages.stream(**request) as stream:
        for index, _ in enumerate(stream.text_stream):
            if index == 40:
                otelstream.record_stop()
            if index == 43:
                return


def drop(client: Any, request: dict[str, Any]) -> None:
    """Stop reading and forget the stream, without closing it."""
    stream = client.messages.create(stream=True, **request)
    for _ in range(30):
        next(stream)
    del stream
    gc.collect()


def never_read(client: Any, request: dict[str, Any]) -> None:
    stream = client.messages.create(stream=True, **request)
    del stream
    gc.collect()


def fail(client: Any, request: dict[str, Any]) -> None:
    """Run into an error of the application's own while reading."""
    with client.messages.stream(**request) as stream:
        for index, _ in enumerate(stream.text_stream):
            if index == 30:
                raise LookupError("no such order")


def cancel(client: Any, request: dict[str, Any]) -> None:
    """Cancel the task that reads."""

    async def answer(own: Any, shown: asyncio.Event) -> None:
        async with own.messages.stream(**request) as stream:
            async for index, _ in _numbered(stream.text_stream):
                if index == 25:
                    shown.set()

    async def serve() -> None:
        import anthropic

        shown = asyncio.Event()
        async with anthropic.AsyncAnthropic(base_url=str(client.base_url), api_key=client.api_key) as own:
            task = asyncio.create_task(answer(own, shown))
            await shown.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(serve())


def chat(client: Any, request: dict[str, Any]) -> None:
    """Ask the same with OpenAI's SDK, and read chat completions."""
    with _openai(client) as own:
        for _ in own.chat.completions.create(stream=True, **_asked(request), messages=request["messages"]):
            pass


def responses(client: Any, request: dict[str, Any]) -> None:
    """Ask the same with OpenAI's SDK, and read a response."""
    with _openai(client) as own, own.responses.stream(**_asked(request), input=request["messages"]) as stream:
        for _ in stream:
            pass


def _openai(client: Any) -> Any:
    import openai

    return openai.OpenAI(base_url=str(client.base_url), api_key=client.api_key, max_retries=0)


def _asked(request: dict[str, Any]) -> dict[str, Any]:
    return {"model": "gpt-5", "extra_headers": request["extra_headers"]}


async def _numbered(texts: AsyncIterator[str]) -> AsyncIterator[tuple[int, str]]:
    index = 0
    async for text in texts:
        yield index, text
        index += 1


def play_of(what: str | Script, first: float, gap: float, *faults: Fault, seed: int = 1) -> Play:
    """One reply: seconds to its first chunk, and between two."""
    played = script(what) if isinstance(what, str) else what
    return Play(played, Schedule(first=first, gap=gap, jitter=0.5, seed=seed), faults)


def story_of(name: str, play: Play | tuple[Play, ...], act: Act = read, **client: Any) -> Story:
    """A story whose client does not retry unless it says so."""
    return Story(name, play if isinstance(play, tuple) else (play,), act, {"max_retries": 0, **client})


def stall(seconds: float, chunks: int) -> Callable[[Play], Play]:
    """Put a silence into a play, where `Story.faster` finds it."""

    def apply(play: Play) -> Play:
        places = [index for index, event in enumerate(play.script.finished().events) if event.chunk]
        pauses = {**play.schedule.pauses, places[chunks]: seconds}
        return replace(play, schedule=replace(play.schedule, pauses=pauses))

    return apply


_LOOP = Script("loop").text(prose(240) + loop(48, 26), chunk=12).end("max_tokens", output_tokens=370)
_BOOK = {"flight": "OS 172", "seat": "14C", "passenger": {"name": "M. Keller", "documents": ["passport"]}}
_BOOKING = Script("booking").text(prose(220)).tool_use("book_flight", _BOOK, chunk=4)

STORIES: tuple[Story, ...] = (
    story_of("clean answer", play_of("text_long", 0.5, 0.035)),
    story_of("thinking, text", play_of("thinking_long", 0.4, 0.032)),
    story_of("tool use", play_of("tool_use_opus", 0.5, 0.04)),
    story_of("three-second stall", stall(3.0, 45)(play_of("text_long", 0.5, 0.02))),
    story_of("error after 200", play_of("text_long", 0.5, 0.035, fault.error_after(chunks=60))),
    story_of("cut connection", play_of("text_long", 0.4, 0.04, fault.cut_after(chunks=45)), read_text),
    story_of("body just ends", play_of("text_long", 0.6, 0.035, fault.end_after(chunks=70)), read_text),
    story_of("malformed tool", play_of(_BOOKING, 0.5, 0.05, fault.malformed_tool_json("middle"))),
    story_of("tool cut off", play_of(_BOOKING, 0.6, 0.05, fault.tool_input_cut_off(0.6))),
    story_of("refusal after text", play_of("refusal_after_text", 0.5, 0.08)),
    story_of("repetition loop", play_of(_LOOP, 0.5, 0.035), read_raw),
    story_of("Stop pressed", play_of("text_long", 0.5, 0.04), stop),
    story_of("client time-out", play_of("text_long", 0.5, 0.04, fault.slow_headers(60.0)), timeout=3.5),
    story_of("dropped stream", play_of("text_long", 0.4, 0.05), drop),
    story_of("app's own error", play_of("text_long", 0.6, 0.04), fail),
    story_of(
        "529, then fine",
        (
            play_of("text_short", 0, 0, fault.http_error(529, retry_after=1.0)),
            play_of("text_stream_manager", 0.5, 0.05),
        ),
        max_retries=1,
    ),
    story_of("chat just ends", play_of("text_long", 0.5, 0.035, fault.end_after(chunks=55)), chat),
    story_of("response, tool", play_of("tool_use_two_tools", 0.5, 0.06), responses),
)

MORE: tuple[Story, ...] = (
    story_of("out of tokens", play_of("text_max_tokens", 0.5, 0.08), read_text),
    story_of("stop sequence", play_of("stop_sequence", 0.5, 0.08)),
    story_of("paused turn", play_of("pause_turn", 0.5, 0.08)),
    story_of("refused at once", play_of("refusal", 0.8, 0.05)),
    story_of("redacted thinking", play_of("redacted_thinking", 0.5, 0.06)),
    story_of("server tool runs", stall(2.5, 10)(play_of("server_tool_code_execution", 0.5, 0.05))),
    story_of("two tools", play_of("parallel_tools", 0.5, 0.06)),
    story_of("400", play_of("text_short", 0, 0, fault.http_error(400))),
    story_of("529, no retry", play_of("text_short", 0, 0, fault.http_error(529))),
    story_of("reset before text", play_of("text_long", 0.6, 0.04, fault.reset_after(chunks=0))),
    story_of("unreadable frame", play_of("text_long", 0.5, 0.04, fault.malformed_frame_after(chunks=35)), read_raw),
    story_of("hangs mid-answer", play_of("text_long", 0.5, 0.03, fault.hang_after(chunks=50)), timeout=3.0),
    story_of("ends after reason", play_of("text_short", 0.5, 0.1, fault.end_after("finish"))),
    story_of("task cancelled", play_of("text_long", 0.5, 0.04), cancel),
    story_of("chat, thinking", play_of("thinking_then_text", 0.5, 0.06), chat),
    story_of("chat, filtered", play_of("refusal_after_text", 0.5, 0.08), chat),
    story_of("response cut", play_of("text_long", 0.4, 0.04, fault.cut_after(chunks=45)), responses),
    story_of("never read", play_of("text_long", 0.4, 0.04), never_read),
)
