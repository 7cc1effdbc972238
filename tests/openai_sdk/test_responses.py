# SPDX-License-Identifier: Apache-2.0
"""The Responses API: items and parts by index, and how it ends."""

from __future__ import annotations

import gc
import json
from typing import Any

import openai
import pytest

import otelstream
from openai_sdk.conftest import COUNTS, RESPONSES, Scene, read
from otelstream import _semconv as s
from otelstream._core.record.batch import BATCH
from otelstream.openai import _responses

pytestmark = pytest.mark.skipif(not hasattr(openai.OpenAI, "responses"), reason="a newer SDK has the Responses API")


def event(kind: str, **more: Any) -> bytes:
    payload = json.dumps({"type": kind, **more}, separators=(",", ":"))
    return f"event: {kind}\ndata: {payload}\n\n".encode()


def response(kind: str, **more: Any) -> bytes:
    body = {"id": "resp_1", "object": "response", "created_at": 1, "model": "some-model-1", "output": [], "tools": [],
            "parallel_tool_calls": True, "tool_choice": "auto", "status": "in_progress", **more}  # fmt: skip
    return event(f"response.{kind}", response=body, sequence_number=0)


def message(index: int, *words: str, kind: str = "output_text") -> list[bytes]:
    item = {"id": f"msg_{index}", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    part = {"type": "output_text", "text": "", "annotations": []}
    place = {"item_id": f"msg_{index}", "output_index": index, "content_index": 0}
    return [
        event("response.output_item.added", output_index=index, item=item),
        event("response.content_part.added", **place, part=part),
        *(event(f"response.{kind}.delta", content_index=0, delta=word, item_id=f"msg_{index}", logprobs=[],
                obfuscation="x" * n, output_index=index, sequence_number=n) for n, word in enumerate(words)),
        event(f"response.{kind}.done", **place, text="".join(words), refusal="".join(words), logprobs=[]),
        event("response.output_item.done", output_index=index, item={**item, "status": "completed"}),
    ]  # fmt: skip


def function(index: int, *pieces: str) -> tuple[bytes, list[bytes], list[bytes]]:
    item = {"id": f"fc_{index}", "type": "function_call", "name": f"tool_{index}", "call_id": f"call_{index}",
            "arguments": "", "status": "in_progress"}  # fmt: skip
    whole = "".join(pieces)
    return (
        event("response.output_item.added", output_index=index, item=item),
        [event("response.function_call_arguments.delta", delta=piece, item_id=f"fc_{index}", obfuscation="y" * n,
               output_index=index, sequence_number=n) for n, piece in enumerate(pieces)],
        [event("response.function_call_arguments.done", arguments=whole, item_id=f"fc_{index}", output_index=index),
         event("response.output_item.done", output_index=index, item={**item, "arguments": whole})],
    )  # fmt: skip


BEGIN = [response("created"), response("in_progress")]
USAGE = {"input_tokens": 30, "output_tokens": 9, "total_tokens": 39, "input_tokens_details": {"cached_tokens": 8},
         "output_tokens_details": {"reasoning_tokens": 5}}  # fmt: skip
END = response("completed", status="completed", usage=USAGE)
TEXT = message(0, "Calm ", "seas, ", "then ", "wind.")
HEAD, PIECES, TAIL = function(1, '{"city":', ' "H"}')
CUT = response("incomplete", status="incomplete", incomplete_details={"reason": "max_output_tokens"})
FAILED = response("failed", status="failed", error={"code": "server_error", "message": "no"})

ENDINGS: dict[str, tuple[list[bytes], tuple[str, str, str]]] = {
    "whole": ([*BEGIN, *TEXT, END], ("completed", "finished", "none")),
    "a function": ([*BEGIN, *TEXT, HEAD, *PIECES, *TAIL, END], ("completed", "finished", "none")),
    "incomplete": ([*BEGIN, *TEXT[:5], CUT], ("truncated", "finished", "none")),
    "incomplete in a function": ([*BEGIN, HEAD, PIECES[0], CUT], ("truncated", "finished", "tool_call_cut_off")),
    "filtered": (
        [*BEGIN, *TEXT, response("incomplete", incomplete_details={"reason": "content_filter"})],
        ("refused", "finished", "content_filter"),
    ),
    "refused in words": ([*BEGIN, *message(0, "No, ", "not.", kind="refusal"), END],
                         ("refused", "finished", "content_filter")),
    "failed": ([*BEGIN, *TEXT[:5], FAILED], ("failed", "mid_stream", "provider_error")),
    "an error": ([*BEGIN, *TEXT[:5], event("error", code="server_error", message="no", param=None)],
                 ("failed", "mid_stream", "provider_error")),
    "cut": ([*BEGIN, *TEXT], ("failed", "mid_stream", "cut_short")),
    "keepalive": ([*BEGIN, event("keepalive", sequence_number=2), *TEXT, END], ("completed", "finished", "none")),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDINGS)
@pytest.mark.parametrize("way", ["create", "lines", "async create"])
def test_endings(scene: Scene, name: str, way: str) -> None:
    """Outcome, phase and fault are the protocol's, however it is read."""
    pieces, wanted = ENDINGS[name]
    scene.plays(pieces)

    failed = scene.fails("responses", RESPONSES, way)
    gc.collect()

    view = scene.recorder.stream
    assert (view.outcome, view.phase, view.fault) == wanted
    assert wanted[0] == "failed" or not failed


def test_what_is_said(scene: Scene) -> None:
    """Names, counts and cache; text by its own place, whatever is padded behind; a function call is explicit."""
    scene.plays([*BEGIN, *TEXT, HEAD, *PIECES, *TAIL, END])

    read(scene.client.responses.create(**RESPONSES, stream=True))

    view = scene.recorder.stream
    has = view.attributes
    assert (has[s.RESPONSE_ID], has[s.RESPONSE_MODEL]) == ("resp_1", "some-model-1")
    assert [has[name] for name in COUNTS] == [30, 9, 8, 5]
    assert (view.chunks, view.visible_chars, view.finish_reason) == (6, 21, "tool_calls")
    (call,) = view.tool_calls or ()
    assert (call.name, call.id, call.size, call.input, call.inferred, call.preamble) == (
        "tool_1", "call_1", 13, "valid", False, True,
    )  # fmt: skip


def test_interleaved_functions(scene: Scene) -> None:
    """Deltas of two functions that alternate go to their own, by place and not by id."""
    head, pieces, tail = function(2, '{"x"', ": 1", "}")
    mixed = [HEAD, head, PIECES[0], pieces[0], PIECES[1], pieces[1], pieces[2], *TAIL, *tail]
    scene.plays([*BEGIN, *mixed, END])

    read(scene.client.responses.create(**RESPONSES, stream=True))

    assert [(c.name, c.size, c.input) for c in scene.recorder.stream.tool_calls or ()] == [
        ("tool_1", 13, "valid"), ("tool_2", 8, "valid"),
    ]  # fmt: skip


@pytest.mark.parametrize("early", [True, False], ids=["before the text", "behind it"])
def test_numbers_of_events(scene: Scene, early: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the number of an event stands, deltas are read unparsed but for the first of a block,
    and those of the batch in which another block begins that nothing announced."""
    words = ["Calm ", 'say "x" ', "back\\slash ", "\u00e9t\u00e9 ", "\n", ',"delta":"no" '] * 40

    def deltas(item: int, first: int) -> list[bytes]:
        numbers = [{"sequence_number": n} for n in range(first, first + len(words))]  # of one to three digits
        places = {"item_id": f"msg_{item}", "output_index": item, "content_index": 0}
        return [
            event("response.output_text.delta", **(number if early else {}), **places, delta=word, logprobs=[],
                  obfuscation="x" * (len(word) % 5), **({} if early else number))
            for number, word in zip(numbers, words, strict=True)
        ]  # fmt: skip

    scene.plays([*BEGIN, *deltas(1, 4), *deltas(12, 900), END])
    parsed: list[Any] = []
    whole = _responses._delta
    monkeypatch.setattr(_responses, "_delta", lambda *args: (parsed.append(args), whole(*args))[1])

    read(scene.client.responses.create(**RESPONSES, stream=True))

    view = scene.recorder.stream
    assert (view.chunks, view.visible_chars) == (480, 2 * len("".join(words)))
    assert len(parsed) <= 2 + BATCH


def test_the_helper(scene: Scene) -> None:
    """`responses.stream()` is observed as `create()` is; a break inside its `with` is the application's."""
    scene.plays([*BEGIN, *TEXT, END])

    with scene.client.responses.stream(**RESPONSES) as helper:
        read(helper)
    with scene.client.responses.stream(**RESPONSES) as helper:
        next(iter(helper))

    assert [(v.outcome, v.trigger) for v in scene.recorder.streams] == [("completed", None), ("cancelled", "app_close")]


def test_outputs_of_functions(scene: Scene) -> None:
    """A `function_call_output` item of a later request says that its call was run, if nobody saw it."""
    scene.plays([*BEGIN, HEAD, *PIECES, *TAIL, END], [*BEGIN, *TEXT, END])

    with otelstream.turn("chat") as turn:
        read(scene.client.responses.create(**RESPONSES, stream=True))
        output = [{"type": "function_call_output", "call_id": "call_1", "output": "calm"}]
        read(scene.client.responses.create(model="m", input=output, stream=True))

    (ran,) = turn.tool_calls
    assert (ran.state, ran.evidence) == ("committed", "tool_result")
