# SPDX-License-Identifier: Apache-2.0
"""Automatic function calling runs tools inside one call over several streams; and what later requests tell of tools."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import otelstream
from google_sdk.conftest import ASK, Scene, call, chunk, data, read, word
from otelstream import _semconv as s

ANSWER = data(word("Calm "), word("seas."), word("", finish="STOP"))
ASKS = data(word("I look."), chunk(call("look", city="H"), call("fail")), word("", finish="STOP"))
RAN: list[str] = []


def look(city: str) -> str:
    """Look at the sky."""
    RAN.append(city)
    return "calm"


def fail() -> str:
    """Fail."""
    raise ValueError("no")


async def alook(city: str) -> str:
    """Look at the sky."""
    return look(city)


async def afail() -> str:
    """Fail."""
    return fail()


alook.__name__, afail.__name__ = "look", "fail"
WAYS = ("sync", "chat", "async", "async functions", "async chat")


def run(scene: Scene, way: str) -> list[str]:
    """One call of the application's with functions; the texts it gets."""

    async def main() -> list[str]:
        config: Any = {"tools": [alook, afail] if way == "async functions" else [look, fail]}
        if way == "async chat":
            chat = scene.client.aio.chats.create(model="some-model", config=config)
            stream = await chat.send_message_stream("What blows?")
        else:
            stream = await scene.aask(config=config)
        return [part.text async for item in stream for part in item.candidates[0].content.parts if part.text]

    if way.startswith("async"):
        return asyncio.run(main())
    config: Any = {"tools": [look, fail]}
    if way == "chat":
        stream = scene.client.chats.create(model="some-model", config=config).send_message_stream("What blows?")
    else:
        stream = scene.ask(config=config)
    return [part.text for item in read(stream) for part in item.candidates[0].content.parts if part.text]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("way", WAYS)
def test_automatic_function_calling(scene: Scene, way: str) -> None:
    """One record for each stream, one turn, and the runs as the SDK made them: in the stream, after their input."""
    scene.plays(ASKS, ANSWER)
    RAN.clear()

    with otelstream.turn() as turn:
        texts = run(scene, way)

    assert texts == ["I look.", "Calm ", "seas."]
    assert RAN == ["H"]
    first, second = turn.streams
    assert (first.outcome, first.finish_reason, second.outcome) == ("completed", "tool_calls", "completed")
    assert [(c.name, c.state, c.evidence, c.guessed) for c in turn.tool_calls] == [
        ("look", "committed", "runner", False), ("fail", "failed", "runner", False),
    ]  # fmt: skip
    phases = [
        values[s.DISPATCH_PHASE]
        for span in scene.telemetry.spans()
        for event in span.events
        if event.name == s.EVENT_TOOL_DISPATCHED and (values := dict(event.attributes or {}))
    ]
    assert phases == ["mid_stream", "mid_stream"]


@pytest.mark.parametrize("way", WAYS)
def test_the_same_requests_and_results(scene: Scene, way: str) -> None:
    """With and without us the functions are called with the same, and the provider is told the same of them."""
    scene.plays(ASKS, ANSWER)
    RAN.clear()
    observed = run(scene, way), list(RAN), list(scene.sent)
    RAN.clear()
    scene.sent.clear()
    otelstream.uninstrument()
    scene.plays(ASKS, ANSWER)

    assert (run(scene, way), list(RAN), list(scene.sent)) == observed
    assert len(scene.sent) == 2


def test_a_function_that_tells_by_itself(scene: Scene) -> None:
    """A function that the application declared knows better: it is the evidence, once."""
    ran = []

    @otelstream.tool(effect="write")
    def book(city: str) -> str:
        """Book."""
        ran.append(city)
        return "booked"

    scene.plays(data(chunk(call("book", "c1", city="H")), word("", finish="STOP")), ANSWER)

    with otelstream.turn() as turn:
        read(scene.ask(config={"tools": [book]}))

    assert ran == ["H"]
    assert [(c.id, c.state, c.evidence) for c in turn.tool_calls] == [("c1", "committed", "decorator")]


def test_results_of_tools(scene: Scene) -> None:
    """A function's response in a later request says that its call was run, if nobody saw it."""
    asks = chunk(call("look", "c1", city="H"), call("send", "c2"), call("wait", "c3"), finish="STOP")
    scene.plays(data(asks), ANSWER)
    result = {"functionResponse": {"name": "look", "id": "c1", "response": {"result": "calm"}}}
    failed = {"functionResponse": {"name": "send", "id": "c2", "response": {"error": "no"}}}
    contents = [{"role": "user", "parts": [{"text": "Hi"}]}, {"role": "user", "parts": [result, failed]}]

    with otelstream.turn() as turn:
        read(scene.ask())
        read(scene.client.models.generate_content_stream(model=ASK["model"], contents=contents))

    assert [(c.name, c.state, c.evidence) for c in turn.tool_calls] == [
        ("look", "committed", "tool_result"), ("send", "failed", "tool_result"), ("wait", "ready", None),
    ]  # fmt: skip


def test_a_stop_between_two_streams(scene: Scene) -> None:
    """A Stop in a tool reaches the stream that follows, as it does everywhere in an explicit turn."""
    scene.plays(data(chunk(call("press")), word("", finish="STOP")), ANSWER)

    def press() -> str:
        """Press Stop."""
        otelstream.record_stop(turn="question")
        return "pressed"

    with otelstream.turn("question") as turn:
        read(scene.ask(config={"tools": [press]}))

    assert [view.trigger for view in turn.streams] == ["user_stop", "user_stop"]
