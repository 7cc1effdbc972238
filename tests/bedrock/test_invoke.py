# SPDX-License-Identifier: Apache-2.0
"""`invoke_model_with_response_stream`: each vendor's dialect is told by its first chunk."""

from __future__ import annotations

from typing import Any

import pytest

from otelstream import _semconv as s

from .conftest import Reply, Scene, chunk, frame

COUNTS = {"inputTokenCount": 7, "outputTokenCount": 3}
LAST: dict[str, Any] = {"amazon-bedrock-invocationMetrics": COUNTS}


def claude(reason: str = "end_turn") -> list[bytes]:
    usage = {"input_tokens": 7, "output_tokens": 1}
    message = {"id": "msg_1", "model": "claude-x", "role": "assistant", "content": [], "usage": usage}
    words = [
        chunk(type="content_block_delta", index=0, delta={"type": "text_delta", "text": word}) for word in ("Calm", "!")
    ]
    return [
        chunk(type="message_start", message=message),
        chunk(type="content_block_start", index=0, content_block={"type": "text", "text": ""}), *words,
        chunk(type="content_block_stop", index=0),
        chunk(type="message_delta", delta={"stop_reason": reason}, usage={"output_tokens": 3}),
        chunk(type="message_stop", **LAST),
    ]  # fmt: skip


def completion(text: str | None, finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish}
    return chunk(id="c1", object="chat.completion.chunk", choices=[choice], **more)


def titan(text: str, reason: str | None, **more: Any) -> bytes:
    return chunk(outputText=text, index=0, totalOutputTextTokenCount=None, completionReason=reason, **more)


VENDORS: dict[str, tuple[list[bytes], str]] = {
    "claude": (claude(), "completed"),
    "claude, cut by length": (claude("max_tokens"), "truncated"),
    "claude, before messages": (
        [chunk(completion="Calm", stop_reason=None), chunk(completion="!", stop_reason="stop_sequence", **LAST)],
        "completed",
    ),
    "nova": (
        [chunk(messageStart={"role": "assistant"}),
         *(chunk(contentBlockDelta={"delta": {"text": word}, "contentBlockIndex": 0}) for word in ("Calm", "!")),
         chunk(contentBlockStop={"contentBlockIndex": 0}), chunk(messageStop={"stopReason": "end_turn"}),
         chunk(metadata={"usage": {"inputTokens": 7, "outputTokens": 3}}, **LAST)],
        "completed",
    ),
    "titan": ([titan("Calm", None), titan("!", "FINISH", **LAST)], "completed"),
    "titan, filtered": ([titan("Calm", None), titan("!", "CONTENT_FILTERED", **LAST)], "refused"),
    "llama": (
        [chunk(generation="Calm", prompt_token_count=7, generation_token_count=1, stop_reason=None),
         chunk(generation="!", prompt_token_count=None, generation_token_count=2, stop_reason="length", **LAST)],
        "truncated",
    ),
    "cohere": (
        [chunk(index=0, is_finished=False, text="Calm"), chunk(index=0, is_finished=False, text="!"),
         chunk(finish_reason="COMPLETE", is_finished=True, **LAST)],
        "completed",
    ),
    "mistral": (
        [chunk(outputs=[{"text": "Calm", "stop_reason": None}]),
         chunk(outputs=[{"text": "!", "stop_reason": "stop"}], **LAST)],
        "completed",
    ),
    "chat completions": ([completion("Calm"), completion("!"), completion(None, "stop", **LAST)], "completed"),
}  # fmt: skip


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("name", VENDORS)
def test_vendors(scene: Scene, name: str, asynchronous: bool) -> None:
    """Text, finish reason and counts are read in the words of each vendor."""
    pieces, outcome = VENDORS[name]
    scene.plays(pieces)

    scene.reads("invoke", asynchronous)

    view = scene.view
    assert (view.outcome, view.chunks, view.visible_chars) == (outcome, 2, 5)
    assert (view.attributes[s.INPUT_TOKENS], view.attributes[s.OUTPUT_TOKENS]) == (7, 3)
    assert view.attributes.get(s.UNSEEN) is None


@pytest.mark.parametrize("name", VENDORS)
def test_cut_short(scene: Scene, name: str) -> None:
    """A body that ends before the finish reason is cut short, in every dialect."""
    pieces, _ = VENDORS[name]
    scene.plays(pieces[:-4] if name == "nova" or "max" in name else pieces[:1])

    scene.reads("invoke", False)

    assert (scene.view.outcome, scene.view.fault) == ("failed", "cut_short")


def test_long_answers(scene: Scene) -> None:
    """Deltas that look alike are summed by their shape; none is lost, and the one that says more is read."""
    words = [f"word{n} " for n in range(200)]
    llama = [
        chunk(generation=word, prompt_token_count=None, generation_token_count=n, stop_reason=None)
        for n, word in enumerate(words)
    ]
    scene.plays([*llama, chunk(generation="!", generation_token_count=201, stop_reason="stop", **LAST)])

    scene.reads("invoke", False)

    view = scene.view
    assert (view.outcome, view.chunks, view.visible_chars) == ("completed", 201, len("".join(words)) + 1)


@pytest.mark.parametrize("kind", [("text_delta", "text"), ("thinking_delta", "thinking")])
def test_all_of_a_text_is_counted(scene: Scene, kind: tuple[str, str]) -> None:
    """Deltas that are kept as they came are read as any other: escapes, letters of several bytes, blocks in turns."""
    words = ["Calm ", 'say "x" ', "a},{b", "back\\slash\n", "\u00e9t\u00e9 \U0001f30a", "{}" * 40] * 9

    def delta(word: str, index: int = 0) -> bytes:
        name, field = kind if index == 0 else ("text_delta", "text")
        return chunk(type="content_block_delta", index=index, delta={"type": name, field: word})

    start, *_ = claude()
    opened, other = (
        chunk(type="content_block_start", index=index, content_block={"type": type_, type_: ""})
        for index, type_ in enumerate((kind[1], "text"))
    )
    deltas = [each for word in words for each in (delta(word), delta(word), delta(word, 1))]
    no_text = chunk(type="content_block_delta", index=0, delta={"type": kind[0], kind[1]: 5})
    scene.plays([start, opened, other, *deltas, no_text, *map(delta, words), *claude()[-3:]])

    list(scene.invoke())

    assert (scene.view.outcome, scene.view.chunks) == ("completed", 4 * len(words))
    assert scene.view.visible_chars == (4 if kind[1] == "text" else 1) * len("".join(words))


def test_a_vendor_nobody_knows(scene: Scene) -> None:
    """Of a dialect that nobody here reads there is a cadence and an end, and no objective judges it."""
    scene.plays([*(chunk(woerter=[n]) for n in range(5)), chunk(woerter=[], **LAST)])

    scene.reads("invoke", False)

    view = scene.view
    assert (view.outcome, view.visible_chars, view.attributes[s.UNSEEN]) == ("completed", 0, True)
    assert view.chunks == 6
    assert view.attributes[s.OBJECTIVE_FIRST_TOKEN] == "excluded"


@pytest.mark.parametrize(
    "pieces", [[frame("chunk", bytes="%%%")], [frame("chunk", words=1)], [chunk()], [frame("chunk", bytes="WzFd")]]
)
def test_what_is_no_chunk(scene: Scene, pieces: list[bytes]) -> None:
    """Nothing that a chunk may have in it comes up into the application."""
    scene.plays(pieces)

    got, error = scene.reads("invoke", False)

    assert len(got) == 1 or "Incorrect padding" in error or "base64" in error.lower()
    assert scene.view.outcome in ("completed", "failed")


def test_a_guardrail(scene: Scene) -> None:
    """Where a guardrail stepped in, the answer is refused, whatever the finish word."""
    scene.plays([titan("Sorry.", "FINISH", **{**LAST, "amazon-bedrock-guardrailAction": "INTERVENED"})])

    scene.reads("invoke", False)

    assert (scene.view.outcome, scene.view.fault) == ("refused", "content_filter")


def test_an_exception(scene: Scene) -> None:
    """An exception in a frame is the provider's error here too."""
    scene.plays([*claude()[:3], frame("modelStreamErrorException", exception=True, message="no")])

    _, error = scene.reads("invoke", False)

    assert error.startswith("EventStreamError")
    assert (scene.view.fault, scene.view.attributes[s.ERROR_TYPE]) == ("provider_error", "modelStreamErrorException")


def test_a_forced_tool(scene: Scene) -> None:
    """A tool that the body forces is the schema of an answer: no call."""
    tool = [
        chunk(type="message_start", message={"id": "m", "usage": {}}),
        chunk(type="content_block_start", index=0, content_block={"type": "tool_use", "id": "toolu_1", "name": "a"}),
        chunk(type="content_block_stop", index=0), chunk(type="message_stop", **LAST),
    ]  # fmt: skip
    scene.plays(Reply(tool))

    list(scene.invoke(body='{"tool_choice": {"type": "tool", "name": "a"}}'))
    list(scene.invoke(body=b'{"tool_choice": {"type": "auto"}}'))

    forced, free = scene.recorder.wait_for(2)
    assert (len(forced.tool_calls), len(free.tool_calls)) == (0, 1)
