# SPDX-License-Identifier: Apache-2.0
"""Shapes of the protocol beside the beaten paths."""

from __future__ import annotations

import json
from typing import Any

import pytest

import otelstream
from otelstream import _semconv as s
from otelstream.testing import Script
from truth.conftest import ASK, Scene, frames

TEXT = frames(Script().text("Calm seas.", chunk=4))


def event(data: dict[str, Any]) -> bytes:
    return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n".encode()


def start(index: int, name: str) -> bytes:
    block = {"type": "tool_use", "id": f"toolu_{index}", "name": name, "input": {}}
    return event({"type": "content_block_start", "index": index, "content_block": block})


def delta(index: int, text: str) -> bytes:
    inner = {"type": "input_json_delta", "partial_json": text}
    return event({"type": "content_block_delta", "index": index, "delta": inner})


def stop(index: int) -> bytes:
    return event({"type": "content_block_stop", "index": index})


def test_interleaved_tool_calls(scene: Scene) -> None:
    """Two calls whose fragments alternate by index are two valid calls, as the application gets them."""
    head, tail = TEXT[:1], TEXT[-2:]
    scene.plays([
        *head, start(0, "a"), start(1, "b"), delta(0, '{"x":'), delta(1, '{"y"'), delta(0, " 1}"), delta(1, ": 2}"),
        stop(0), stop(1), *tail,
    ])  # fmt: skip

    list(scene.create())

    view = scene.recorder.stream
    assert [(c.name, c.input, c.size) for c in view.tool_calls or ()] == [("a", "valid", 8), ("b", "valid", 8)]
    assert (view.outcome, view.fault) == ("completed", "none")


def test_a_delta_without_data(scene: Scene) -> None:
    """A `content_block_delta` event without data is traffic, as the SDK takes it."""
    empty = b"event: content_block_delta\n\n"
    scene.plays([*TEXT[:4], empty, *TEXT[4:]])

    try:
        list(scene.create())
    except ValueError:
        pytest.skip("this version of the SDK parses it")

    assert scene.verdict() == ("completed", "none", None)


def test_frames_without_a_name(scene: Scene) -> None:
    """The SDK yields nothing for them, so that the application saw nothing; raw lines show what is inside."""
    bare = [b"data: " + piece.split(b"data: ")[1] for piece in TEXT]
    scene.plays(bare)

    assert list(scene.create()) == []
    with scene.client.messages.with_streaming_response.create(**ASK, stream=True) as response:
        list(response.iter_lines())

    parsed, raw = scene.recorder.streams
    assert (parsed.chunks, parsed.time_to_first_token, parsed.outcome) == (0, None, "failed")
    assert (raw.chunks, raw.outcome) == (3, "completed")


USAGE = {
    "input repeated without the cache": (
        {"input_tokens": 25, "cache_read_input_tokens": 750, "output_tokens": 1},
        {"input_tokens": 25, "output_tokens": 9},
        {s.INPUT_TOKENS: 775, s.CACHE_READ_TOKENS: 750, s.OUTPUT_TOKENS: 9},
    ),
    "input corrected later": (
        {"input_tokens": 10, "cache_creation_input_tokens": 1000, "output_tokens": 1},
        {"input_tokens": 12, "output_tokens": 9},
        {s.INPUT_TOKENS: 1012, s.CACHE_WRITE_TOKENS: 1000, s.OUTPUT_TOKENS: 9},
    ),
    "only output": (
        {"input_tokens": 10, "output_tokens": 1}, {"output_tokens": 9}, {s.INPUT_TOKENS: 10, s.OUTPUT_TOKENS: 9},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", USAGE)
def test_usage_is_merged_field_by_field(scene: Scene, name: str) -> None:
    """A `message_delta` that repeats some counts replaces those, and leaves the others."""
    first, last, wanted = USAGE[name]
    head = json.loads(TEXT[0].split(b"data: ")[1])
    head["message"]["usage"] = first
    tail = {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": last}
    scene.plays([event(head), *TEXT[1:-2], event(tail), TEXT[-1]])

    list(scene.create())

    attributes = scene.recorder.stream.attributes
    assert {key: attributes[key] for key in wanted} == wanted


def test_a_view_says_what_has_arrived(scene: Scene) -> None:
    """What a view of an open stream answers does not lag behind by what waits to be summed."""
    scene.plays(frames(Script().text("word " * 40, chunk=5)))
    seen = 0

    with scene.create() as stream:
        view = otelstream.get_stream(stream)
        for item in stream:
            if item.type == "content_block_delta":
                seen += len(item.delta.text)
                assert view.visible_chars == seen

    assert seen == 200


def test_finish_reasons(scene: Scene) -> None:
    """A failed stream without a reason says `error`; one that was left says none."""
    scene.plays(TEXT[:4])
    list(scene.create())
    with scene.create() as stream:
        next(iter(stream))

    failed, left = scene.recorder.streams
    assert failed.attributes[s.FINISH_REASONS] == ["error"]
    assert s.FINISH_REASONS not in left.attributes


@pytest.mark.parametrize(("forced", "calls"), [(True, 0), (False, 1)])
def test_an_output_tool_is_no_tool(scene: Scene, forced: bool, calls: int) -> None:
    """A tool that the request forces, and the application never declared, is an output schema: no call, no ledger."""
    scene.plays(frames(Script().tool_use("answer", {"city": "Harbour Town"})))
    tools = [{"name": "answer", "input_schema": {"type": "object"}}]
    choice = {"tool_choice": {"type": "tool", "name": "answer"}} if forced else {}

    with otelstream.turn("chat"), scene.create(tools=tools, **choice) as stream:
        for item in stream:
            if item.type == "content_block_delta" and item.delta.partial_json:
                break

    view = scene.recorder.stream
    assert len(view.tool_calls or ()) == calls
    assert view.ledger is not None
    assert len(view.ledger.discarded) == calls
    assert view.time_to_first_token is not None
