# SPDX-License-Identifier: Apache-2.0
"""Bodies that somebody reads past the SDK's parser: the truth where the bytes pass us, else an explicit "unseen"."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import anthropic
import pytest
import shapes

from otelstream import _semconv as s
from otelstream._core.process.tap import Attached
from otelstream._stainless.raw import MAX_LINE, Lines
from otelstream.anthropic import _grammar
from otelstream.testing import Script
from truth.conftest import ASK, Scene, frames

TEXT = frames(Script().text("Calm seas, then wind from the west.", chunk=4))
READS: dict[str, Callable[[Any], Any]] = {
    "raw_events": lambda stream: anthropic.Stream.raw_events(stream.response),
    "iter_lines": lambda stream: stream.response.iter_lines(),
    "iter_bytes": lambda stream: stream.response.iter_bytes(),
}


def reads() -> list[Any]:
    old = not hasattr(anthropic.Stream, "raw_events")
    return [pytest.param(name, marks=pytest.mark.skipif(old and name == "raw_events", reason="a newer SDK has it"))
            for name in READS]  # fmt: skip


@pytest.mark.parametrize("name", reads())
@pytest.mark.parametrize(("pieces", "wanted"), [(TEXT, "completed"), (TEXT[:-1], "failed"), (TEXT[:6], "failed")])
def test_the_response_of_a_stream(scene: Scene, name: str, pieces: Any, wanted: str) -> None:
    """What reads `s.response` of a `create()` stream is read along: whole is completed, cut is cut."""
    scene.plays(pieces)
    stream = scene.create()

    for _ in READS[name](stream):
        pass

    view = scene.recorder.stream
    assert (view.outcome, view.fault) == (wanted, "none" if wanted == "completed" else "cut_short")
    assert view.chunks == sum(b"content_block_delta" in piece for piece in pieces)


@pytest.mark.parametrize("name", reads())
def test_the_response_of_a_stream_is_left(scene: Scene, name: str) -> None:
    """One that is left in the middle and closed was stopped."""
    scene.plays(TEXT)
    with scene.create() as stream:
        next(iter(READS[name](stream)))

    assert scene.verdict() == ("cancelled", "none", "app_close")


@pytest.mark.parametrize("how", ["for", "async for"])
def test_what_is_below_a_helper_is_left(scene: Scene, how: str) -> None:
    """Who reads the stream below a helper, as a framework does, and leaves its own loop has not met a fault."""
    scene.plays(TEXT)

    def read() -> None:
        with scene.client.messages.stream(**ASK) as helper:
            for _ in helper._raw_stream:
                return

    async def aread() -> None:
        async with scene.aclient.messages.stream(**ASK) as helper:
            async for _ in helper._raw_stream:
                return

    read() if how == "for" else asyncio.run(aread())

    assert (scene.recorder.stream.outcome, scene.recorder.stream.fault) == ("cancelled", "none")


@pytest.mark.parametrize(("pieces", "wanted"), [(TEXT, "completed"), (TEXT[:-1], "failed")])
def test_a_body_that_a_hook_has_read(scene: Scene, pieces: Any, wanted: str) -> None:
    """A hook of the HTTP client that reads the whole body takes nothing away from the record."""
    scene.client._client.event_hooks = {"request": [], "response": [lambda response: response.read()]}
    scene.plays(pieces)

    with scene.client.messages.with_streaming_response.create(**ASK, stream=True) as response:
        list(response.iter_lines())

    assert scene.recorder.stream.outcome == wanted


@pytest.mark.parametrize("header", [("content-encoding", "br"), ("content-type", "application/vnd.amazon.eventstream")])
@pytest.mark.parametrize(("leave", "outcome"), [(False, "completed"), (True, "cancelled")])
def test_what_nobody_here_can_read(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, header: tuple[str, str], leave: bool, outcome: str
) -> None:
    """The outcome follows control flow and says that it was not seen: no trigger, no fault, judged by no objective."""
    httpx = shapes.httpx
    monkeypatch.delitem(httpx._decoders.SUPPORTED_DECODERS, "br", raising=False)
    plain = shapes.Reply(TEXT)
    headers = tuple(each for each in plain.headers if each[0] != header[0])
    scene.plays(shapes.Reply(TEXT, headers=(*headers, header)))

    with scene.client.messages.with_streaming_response.create(**ASK, stream=True) as response:
        for _ in response.iter_bytes():
            if leave:
                break

    view = scene.recorder.stream
    assert (view.outcome, view.fault, view.trigger, view.phase) == (outcome, "none", None, "before_first_token")
    assert view.attributes[s.UNSEEN] is True
    assert {view.attributes[name] for name in (s.OBJECTIVE_COMPLETION, s.OBJECTIVE_INTEGRITY)} == {"excluded"}


def test_a_long_line_is_read_in_linear_time(scene: Scene) -> None:
    """Ten times the pieces of one line cost about ten times the steps; a line without end is given up on."""
    scene.plays(TEXT)
    stream = scene.create()
    record = stream.__dict__["_otelstream"].stream
    record.attached = record.attached or Attached()

    def seconds(size: int) -> float:
        lines = Lines(record, bytes)
        began = time.process_time()
        for _ in range(size // 1024):
            lines.feed(b"x" * 1024, 0.0, 0.0)
        return time.process_time() - began

    small, large = (min(seconds(size) for _ in range(5)) for size in (256 * 1024, 2560 * 1024))
    assert large < 40 * small + 0.05
    assert not record.unseen
    seconds(MAX_LINE + 2048)
    assert record.unseen
    stream.close()


@pytest.mark.parametrize("name", ["message_start", "content_block_start", "content_block_stop", "message_stop"])
def test_an_event_that_we_fail_to_read(scene: Scene, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A bug of ours in an event is said to be one: whole stays whole, nothing is called a failure, none is judged."""
    grammar = _grammar.Grammar
    rightly = grammar.structural

    def wrongly(self: Any, event: str | None, data: str) -> Any:
        if event == name:
            raise ZeroDivisionError("a bug")
        return rightly(self, event, data)

    monkeypatch.setattr(grammar, "structural", wrongly)
    scene.plays(TEXT)
    list(scene.create())

    view = scene.recorder.stream
    assert (view.outcome, view.fault) == ("completed", "none")
    assert view.attributes[s.UNSEEN] is True
    assert {view.attributes[each] for each in (s.OBJECTIVE_COMPLETION, s.OBJECTIVE_INTEGRITY)} == {"excluded"}
