# SPDX-License-Identifier: Apache-2.0
"""Stop must reach the provider within 200 ms."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import anthropic
import pytest

import otelstream
from otelstream.testing import Exchange, ProviderSimulator, Recorder, Schedule

LIMIT = 0.2  # seconds


class Chat:
    """Streams an answer in a task of its own, which Stop cancels."""

    def __init__(self) -> None:
        self.client = anthropic.AsyncAnthropic(max_retries=0)
        self.shown = ""
        self.task: asyncio.Task[None] | None = None

    def start(self, question: str) -> None:
        self.task = asyncio.create_task(self.answer(question))

    async def answer(self, question: str) -> None:
        with otelstream.turn("chat-1"):
            async for text in self.texts(question):
                self.show(text)

    async def texts(self, question: str) -> AsyncIterator[str]:
        async with self.client.messages.stream(
            model="claude-example", max_tokens=1024, messages=[{"role": "user", "content": question}]
        ) as stream:
            async for text in stream.text_stream:
                yield text

    def show(self, text: str) -> None:
        self.shown += text

    async def stop(self) -> None:
        otelstream.record_stop(turn="chat-1")
        assert self.task is not None
        self.task.cancel()


class LooksNowAndThen(Chat):
    """Wrong: looks whether it was stopped when the next text arrives, and a silent provider sends none."""

    stopped = False

    async def answer(self, question: str) -> None:
        with otelstream.turn("chat-1"):
            async for text in self.texts(question):
                if self.stopped:
                    break
                self.show(text)

    async def stop(self) -> None:
        otelstream.record_stop(turn="chat-1")
        self.stopped = True


class StopsShowing(LooksNowAndThen):
    """Wrong: shows nothing more, and reads and pays to the end."""

    async def answer(self, question: str) -> None:
        with otelstream.turn("chat-1"):
            async for text in self.texts(question):
                if not self.stopped:
                    self.show(text)


def silent(log: list[Exchange]) -> int:
    """The characters sent before the silence, once it has begun."""
    chunks = log[0].chunks if log else []
    return sum(chunk.chars for chunk in chunks) if len(chunks) == 20 else 0


async def recipe(chat: Chat, provider: ProviderSimulator, recorder: Recorder) -> None:
    # Stop comes in a second of silence; text to the end follows, in another second.
    provider.play("text_long", fault=provider.stall_after(1, chunks=20), schedule=Schedule(gap=0.01))
    async with chat.client:
        chat.start("Why does the wind turn?")
        sent = await asyncio.to_thread(provider.wait_for, silent)
        while len(chat.shown) < sent:  # noqa: ASYNC110 - the reader knows nothing of us
            await asyncio.sleep(0.001)

        asked = time.perf_counter()
        await chat.stop()
        closed: Exchange = await asyncio.to_thread(provider.wait_for, lambda log: log[0].closed_at and log[0])
        stream = (await asyncio.to_thread(recorder.wait_for))[0]

    assert closed.closed_at is not None
    took = closed.closed_at - asked
    assert closed.closed_by == "peer", f"read to the end\n{recorder.timeline()}"
    assert took < LIMIT, f"closed {took:.3f} s after Stop\n{recorder.timeline()}"
    assert (stream.trigger, stream.propagation) == ("user_stop", "closed"), recorder.timeline()


def test_stop_reaches_the_provider(otelstream_provider: ProviderSimulator, otelstream_recorder: Recorder) -> None:
    async def run() -> None:
        await recipe(Chat(), otelstream_provider, otelstream_recorder)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("wrong", "says"), [(LooksNowAndThen, r"closed \d\.\d+ s after Stop"), (StopsShowing, "read to the end")]
)
def test_the_recipe_can_fail(
    wrong: type[Chat], says: str, otelstream_provider: ProviderSimulator, otelstream_recorder: Recorder
) -> None:
    async def run() -> None:
        await recipe(wrong(), otelstream_provider, otelstream_recorder)

    with pytest.raises(AssertionError, match=says + "\n(?s:.*)claude-example"):
        asyncio.run(run())
