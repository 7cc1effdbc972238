# SPDX-License-Identifier: Apache-2.0
"""How an application leaves an answer: closed, dropped, cancelled; and what stays as it is without us."""

from __future__ import annotations

import asyncio
import gc
from contextlib import AsyncExitStack, closing, suppress
from typing import Any

import pytest

import otelstream
from otelstream import _semconv as s
from otelstream.testing import loop

from .conftest import CONVERSE, START, USAGE, WHOLE, WORDS, Scene, begin, delta, end, read, stop


class AppError(Exception):
    """The application's own."""


def said(scene: Scene) -> tuple[Any, ...]:
    view = scene.view
    return view.outcome, view.fault, view.trigger


def first(_: Any) -> bool:
    return True


def text(event: dict[str, Any]) -> bool:
    return "contentBlockDelta" in event


def test_a_close(scene: Scene) -> None:
    """`close()` before the end is the application's; the body is closed once, by the SDK."""
    scene.plays(WHOLE)

    with closing(scene.converse()) as stream:
        read(stream, text)

    assert scene.bodies[0].closed == 1
    assert said(scene) == ("cancelled", "none", "app_close")


@pytest.mark.parametrize(("error", "wanted"), [
    (AppError(), ("caller_error", "none", None)), (TimeoutError(), ("cancelled", "timeout", "timeout")),
    (KeyboardInterrupt(), ("cancelled", "none", "shutdown")),
])  # fmt: skip
def test_an_exception_of_the_application(scene: Scene, error: BaseException, wanted: tuple[Any, ...]) -> None:
    """What leaves a `with` that closes the stream says why."""
    scene.plays(WHOLE)

    with suppress(AppError, TimeoutError, KeyboardInterrupt), closing(scene.converse()) as stream:
        for _ in stream:
            raise error

    assert said(scene) == wanted


def test_closed_unread(scene: Scene) -> None:
    """A stream that is closed before it is read has one record."""
    scene.plays(WHOLE)

    scene.converse().close()

    assert said(scene) == ("cancelled", "none", "app_close")


def test_closed_inside_an_except(scene: Scene) -> None:
    """An exception that was handled when the stream was opened says nothing of it."""
    scene.plays(WHOLE)

    try:
        raise AppError
    except AppError:
        with closing(scene.converse()) as stream:
            read(stream, text)

    assert said(scene) == ("cancelled", "none", "app_close")


@pytest.mark.parametrize("closes", [True, False])
def test_left_after_the_stop(scene: Scene, closes: bool) -> None:
    """With its stop reason an answer is whole, though its usage was not waited for."""
    scene.plays(WHOLE)

    stream = scene.converse()
    read(stream, lambda event: "messageStop" in event)
    if closes:
        stream.close()
    del stream

    assert said(scene) == ("completed", "none", None)
    assert scene.view.attributes.get("gen_ai.usage.output_tokens") is None


@pytest.mark.parametrize("reads", [True, False])
def test_a_drop(scene: Scene, reads: bool) -> None:
    """A stream that nobody holds any more is abandoned, when the collector has taken it; so is one never read."""
    scene.plays(WHOLE)

    stream = scene.converse()
    if reads:
        read(stream, text)
    del stream

    assert said(scene) == ("abandoned", "none", "gc")


def test_a_break_is_no_end(scene: Scene) -> None:
    """The SDK's stream may be read on after a loop was left: it is one answer, whole in the end."""
    scene.plays(WHOLE)

    stream = scene.converse()
    events = [*read(stream, text), *stream]

    assert len(events) == len(WHOLE)
    assert (*said(scene), scene.view.chunks) == ("completed", "none", None, 4)


def test_a_stop_of_the_user(scene: Scene) -> None:
    """`record_stop()` is the trigger of the close that follows."""
    scene.plays(WHOLE)

    with otelstream.turn("chat") as turn, closing(scene.converse()) as stream:
        read(stream, text)
        otelstream.record_stop(turn="chat")

    (view,) = turn.streams
    assert (view.outcome, view.trigger) == ("cancelled", "user_stop")


def test_a_loop_is_stopped(scene: Scene) -> None:
    """`on_repetition` that returns True closes the body before the next read; the application's loop just ends."""
    unit = loop(16, 200)
    scene.plays([START, *(delta(text=unit[at : at + 16]) for at in range(0, len(unit), 16)), stop(), end(), USAGE])

    @otelstream.on_repetition
    def stop_it(view: Any) -> bool:
        return True

    events = read(scene.converse())

    assert 10 < len(events) < 200
    assert scene.bodies[0].closed == 1
    assert said(scene) == ("cancelled", "repetition", "app_close")


def test_a_response_is_the_same(scene: Scene) -> None:
    """The application holds the SDK's own objects, and reads what it reads without us."""
    scene.plays([START, begin(0, "look"), stop(0), *WORDS, end(), USAGE])
    answer = scene.client.converse_stream(**CONVERSE)
    observed = type(answer["stream"]), list(answer["stream"]), answer["ResponseMetadata"]
    otelstream.uninstrument()
    answer = scene.client.converse_stream(**CONVERSE)

    assert observed == (type(answer["stream"]), list(answer["stream"]), answer["ResponseMetadata"])


def test_lazy(scene: Scene) -> None:
    """Nothing is read of a body before the application asks for it."""
    asked: list[int] = []

    def pieces() -> Any:
        for number, piece in enumerate(WHOLE):
            asked.append(number)
            yield piece

    scene.plays(pieces())  # type: ignore[arg-type]

    stream = scene.converse()
    assert asked == []
    events = iter(stream)
    next(events)

    assert asked == [0]
    stream.close()


def test_get_stream(scene: Scene) -> None:
    """`get_stream()` knows an event stream; anything else is not observed."""
    scene.plays(WHOLE)

    answer = scene.client.converse_stream(**CONVERSE)

    assert otelstream.get_stream(answer["stream"]).model == "some-model"
    assert not otelstream.get_stream(answer).observed
    answer["stream"].close()


# --- asyncio ----------------------------------------------------------------------------------------------


def arun(scene: Scene, use: Any) -> None:
    """Let `use` have a stream that falls silent behind its first words."""
    scene.plays([START, *WORDS])
    scene.held = True

    async def main() -> None:
        async with AsyncExitStack() as stack:
            client = await scene.amake(stack)
            await use((await client.converse_stream(**CONVERSE))["stream"])
            gc.collect()
            for _ in range(40):  # a task's cancel is decided some steps later
                await asyncio.sleep(0)

    asyncio.run(main())


async def areads(stream: Any) -> None:
    async for _ in stream:
        pass


async def until_token() -> None:
    while not any(view.time_to_first_token for view in otelstream.open_streams()):  # noqa: ASYNC110
        await asyncio.sleep(0)


def test_a_task_is_cancelled(scene: Scene) -> None:
    """A cancel of the task that reads is told as such."""

    async def use(stream: Any) -> None:
        task = asyncio.ensure_future(areads(stream))
        await until_token()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    arun(scene, use)

    assert said(scene) == ("cancelled", "none", "task_cancel")


def test_a_deadline(scene: Scene) -> None:
    """A time-out that leaves the `with` of the stream is known as one."""

    async def use(stream: Any) -> None:
        with suppress(asyncio.TimeoutError), closing(stream):
            await asyncio.wait_for(areads(stream), 0.05)

    arun(scene, use)

    assert said(scene) == ("cancelled", "timeout", "timeout")


def test_an_async_close_and_drop(scene: Scene) -> None:
    """An async stream is closed by the same `close()`, and abandoned when nobody holds it."""

    async def closes(stream: Any) -> None:
        async for _ in stream:
            break
        stream.close()

    async def drops(stream: Any) -> None:
        async for _ in stream:
            break

    arun(scene, closes)
    arun(scene, drops)
    gc.collect()

    assert [(v.outcome, v.trigger, v.attributes[s.CANCEL_PROPAGATION]) for v in scene.recorder.wait_for(2)] == [
        ("cancelled", "app_close", "closed"), ("abandoned", "gc", "still_open"),
    ]  # fmt: skip
