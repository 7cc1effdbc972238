# SPDX-License-Identifier: Apache-2.0
"""Chat completions: how they end, what was said, and whose doing it was."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import shapes

import otelstream
from openai_sdk.conftest import CHAT, COUNTS, Scene, call, chunk, data, read
from otelstream import _semconv as s

ROLE = chunk({"role": "assistant", "content": ""})
WORDS = [chunk({"content": word}) for word in ("Calm ", "seas, ", "then ", "wind.")]
STOP = chunk(finish="stop")
USAGE = {**chunk(), "choices": [], "usage": {
    "prompt_tokens": 30, "completion_tokens": 4, "total_tokens": 34, "prompt_tokens_details": {"cached_tokens": 20},
    "completion_tokens_details": {"reasoning_tokens": 3},
}}  # fmt: skip
ERROR = {"error": {"message": "no", "type": "server_error", "code": 500}}
FILTER = {**chunk(), "choices": [], "id": "", "model": "", "prompt_filter_results": []}

ENDINGS: dict[str, tuple[list[bytes], tuple[str, str, str]]] = {
    "whole": (data(ROLE, *WORDS, STOP), ("completed", "finished", "none")),
    "usage follows": (data(ROLE, *WORDS, STOP, USAGE), ("completed", "finished", "none")),
    "an empty first chunk": (data(FILTER, ROLE, *WORDS, STOP), ("completed", "finished", "none")),
    "no [DONE]": (data(ROLE, *WORDS, STOP, done=False), ("completed", "finished", "none")),
    "length": (data(ROLE, *WORDS, chunk(finish="length")), ("truncated", "finished", "none")),
    "filtered": (data(ROLE, *WORDS, chunk(finish="content_filter")), ("refused", "finished", "content_filter")),
    "refused in words": (
        data(ROLE, chunk({"refusal": "I will not."}), STOP), ("refused", "finished", "content_filter"),
    ),
    "a word and its finish at once": (data(ROLE, *WORDS, chunk({"content": "!"}, finish="stop")),
                                      ("completed", "finished", "none")),
    "the body ends in the middle": (data(ROLE, *WORDS, done=False), ("failed", "mid_stream", "cut_short")),
    "[DONE] without a finish": (data(ROLE, *WORDS), ("completed", "finished", "none")),
    "an error object": (data(ROLE, *WORDS, ERROR, done=False), ("failed", "mid_stream", "provider_error")),
    "an error object after the finish": (
        data(ROLE, *WORDS, STOP, ERROR, done=False), ("failed", "finished", "provider_error"),
    ),
    "nothing at all": ([], ("failed", "before_first_token", "cut_short")),
    "pings": ([b": PROCESSING\n\n", *data(ROLE, *WORDS, STOP)], ("completed", "finished", "none")),
    "a frame that is no JSON": (
        [*data(ROLE, *WORDS, done=False), b"data: {\"id\":\n\n"], ("failed", "mid_stream", "protocol_error"),
    ),
    "a tool call": (
        data(ROLE, call(0, "", name="look"), call(0, '{"city":'), call(0, ' "H"}'), chunk(finish="tool_calls")),
        ("completed", "finished", "none"),
    ),
    "a tool call that is cut": (
        data(ROLE, call(0, "", name="look"), call(0, '{"city":'), chunk(finish="length")),
        ("truncated", "finished", "tool_call_cut_off"),
    ),
    "a tool call that is no JSON": (
        data(ROLE, call(0, "", name="look"), call(0, '{"city":'), chunk(finish="tool_calls")),
        ("completed", "finished", "malformed_tool_call"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDINGS)
@pytest.mark.parametrize("way", ["create", "lines", "async create"])
def test_endings(scene: Scene, name: str, way: str) -> None:
    """Outcome, phase and fault are the protocol's, however it is read; the error of the SDK is the SDK's own."""
    pieces, wanted = ENDINGS[name]
    scene.plays(pieces)

    failed = scene.fails("chat.completions", CHAT, way)
    assert wanted[0] == "failed" or not failed
    gc.collect()

    view = scene.recorder.stream
    if way == "lines" and wanted[2] == "protocol_error":  # who parses nothing reads on to the end
        wanted = (*wanted[:2], "cut_short")
    assert (view.outcome, view.phase, view.fault) == wanted


def test_what_is_said(scene: Scene) -> None:
    """Names by the conventions, reasons raw and normalised, counts and cache; the first token is the first text."""
    scene.plays(data(ROLE, *WORDS, STOP, USAGE))

    read(scene.chat())

    (span,) = scene.telemetry.spans()
    has = dict(span.attributes or {})
    assert span.name == "chat some-model"
    assert (has[s.PROVIDER], has[s.OPERATION], has[s.RESPONSE_MODEL]) == ("openai", "chat", "some-model-1")
    assert [has[name] for name in COUNTS] == [30, 4, 20, 3]
    assert (has[s.CHUNKS], has[s.VISIBLE_CHARS], has[s.FINISH_REASONS]) == (4, 21, ("stop",))
    assert has[s.SERVER_ADDRESS] == "provider.invalid"


def test_interleaved_calls_and_choices(scene: Scene) -> None:
    """Calls are kept apart by choice and index; ready is inferred, and never for a call that is cut."""
    lines = [
        call(0, "", name="a"), call(0, '{"x"', index=0), call(0, "", name="b", index=1), call(0, ": 1}"),
        call(0, '{"y": 2', index=1), call(1, "", name="c"), call(1, "{}"), call(0, "}", index=1),
        chunk(finish="tool_calls"), chunk(index=1, finish="tool_calls"),
    ]  # fmt: skip
    scene.plays(data(ROLE, *lines), data(ROLE, *lines[:5], done=False))

    read(scene.chat(n=2))
    read(scene.chat(n=2))

    whole, cut = scene.recorder.streams
    assert whole.outcome == "completed"
    assert {(c.name, c.size, c.input, c.inferred) for c in whole.tool_calls or ()} == {
        ("a", 8, "valid", True), ("b", 8, "valid", True), ("c", 2, "valid", True),
    }  # fmt: skip
    assert (cut.outcome, cut.fault) == ("failed", "cut_short")
    assert [c.ready for c in cut.tool_calls or ()] == [None, None]


@pytest.mark.parametrize(("ends", "outcome"), [(("stop", "stop"), "completed"), (("stop", "length"), "truncated"),
                                               (("stop", None), "failed")])  # fmt: skip
def test_choices(scene: Scene, ends: tuple[str | None, ...], outcome: str) -> None:
    """A stream of several choices has finished when each has its reason; the cut of one is a cut."""
    words = [chunk({"content": f"{word} "}, index=index) for word in "abc" for index in (0, 1)]
    ended = [chunk(index=index, finish=end) for index, end in enumerate(ends) if end]
    scene.plays(data(ROLE, *words, *ended, done=False))

    read(scene.chat(n=2))

    view = scene.recorder.stream
    assert (view.outcome, view.chunks, view.visible_chars) == (outcome, 6, 12)


REASONING = ("reasoning_content", "reasoning", "thinking")


@pytest.mark.parametrize("field", REASONING)
def test_reasoning_of_compatible_servers(scene: Scene, field: str) -> None:
    """Thinking comes first under one of several names; it is no visible token."""
    scene.plays(data(ROLE, chunk({field: "Hm. "}), chunk({field: "Well."}), *WORDS, STOP))

    read(scene.chat())

    view = scene.recorder.stream
    assert (view.chunks, view.visible_chars) == (6, 21)
    assert view.events[0][2][s.BLOCK_KIND] == "thinking"
    assert (view.time_to_first_token or 0) >= (view.time_to_first_chunk or 0)


def test_padding_behind_the_text(scene: Scene) -> None:
    """The text of a delta stands at its own place: what is padded behind it is not counted, escapes are decoded."""
    texts = ["Calm ", 'say "x" ', "back\\slash ", "\u00e9t\u00e9 ", "\n", "wind"] * 20
    scene.plays(
        data(ROLE, *(chunk({"content": text}, obfuscation="x" * (n % 7)) for n, text in enumerate(texts)), STOP)
    )

    read(scene.chat())

    view = scene.recorder.stream
    assert (view.chunks, view.visible_chars) == (len(texts), len("".join(texts)))


def test_leaving(scene: Scene) -> None:
    """A break inside the `with`, of the stream or its helper, and an exception, are told apart."""
    scene.plays(data(ROLE, *WORDS, STOP))

    with scene.chat() as stream:
        next(iter(stream))
    if not hasattr(scene.client.chat.completions, "stream"):
        pytest.skip("a newer SDK has the helper")
    with scene.client.chat.completions.stream(**CHAT) as helper:
        next(iter(helper))
    with pytest.raises(shapes.AppError), scene.chat() as stream:  # noqa: PT012
        next(iter(stream))
        raise shapes.AppError

    assert [(v.outcome, v.trigger) for v in scene.recorder.streams] == [
        ("cancelled", "app_close"), ("cancelled", "app_close"), ("caller_error", None),
    ]  # fmt: skip


def test_a_helper_that_refuses_what_the_finish_says(scene: Scene) -> None:
    """`LengthFinishReasonError` of the parsing helper is no fault of the protocol: the finish reason decides."""
    pydantic = pytest.importorskip("pydantic")

    if not hasattr(scene.client.chat.completions, "stream"):
        pytest.skip("a newer SDK has the helper")

    class Sky(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        colour: str

    scene.plays(data(ROLE, chunk({"content": '{"colour":'}), chunk(finish="length")))

    with (
        pytest.raises(Exception, match="length"),
        scene.client.chat.completions.stream(**CHAT, response_format=Sky) as helper,
    ):
        read(helper)

    assert scene.verdict() == ("truncated", "none", None)


@pytest.mark.parametrize("status", [429, 500, 400])
def test_refused_requests(scene: Scene, status: int) -> None:
    """A request that is answered with an error ends before any response, in the API's own word."""
    body = b'{"error":{"message":"no","type":"insufficient_quota","code":"insufficient_quota"}}'
    scene.plays(shapes.Reply([body], None, status, (("content-type", "application/json"),)))

    with pytest.raises(Exception):  # noqa: B017, PT011
        scene.chat()

    view = scene.recorder.stream
    assert (view.outcome, view.phase, view.error_type) == ("failed", "before_response", "insufficient_quota")
    assert view.fault == ("request_error" if status == 400 else "provider_error")


def test_results_of_tools(scene: Scene) -> None:
    """A `tool` message of a later request says that its call was run, if nobody saw it."""
    scene.plays(data(ROLE, call(0, "{}", name="look"), chunk(finish="tool_calls")), data(ROLE, *WORDS, STOP))

    with otelstream.turn("chat") as turn:
        read(scene.chat())
        messages = [{"role": "assistant", "content": None, "tool_calls": []},
                    {"role": "tool", "tool_call_id": "call_0", "content": "calm"}]  # fmt: skip
        read(scene.client.chat.completions.create(model="m", messages=messages, stream=True))

    (ran,) = turn.tool_calls
    assert (ran.state, ran.evidence) == ("committed", "tool_result")


def test_both_providers_in_one_turn(scene: Scene) -> None:
    """A turn holds the streams of both SDKs; a Stop reaches whichever is open."""
    scene.plays(data(ROLE, *WORDS, STOP))
    transport, anthropic_client, _ = shapes.clients(native=False)
    from truth.conftest import TEXT_FRAMES

    transport.tape = shapes.Tape([shapes.Reply(TEXT_FRAMES)])
    with otelstream.turn("chat") as turn:
        read(anthropic_client.messages.create(**shapes.ASK, stream=True))
        with scene.chat() as stream:
            next(iter(stream))
            otelstream.record_stop(turn="chat")

    assert [view.model for view in turn.streams] == ["some-model", "some-model"]
    assert [view.trigger for view in turn.streams] == [None, "user_stop"]


def everything(client: Any, kind: str) -> list[Any]:
    if kind == "create":
        return [item.model_dump(warnings=False) for item in client.chat.completions.create(**CHAT, stream=True)]
    with client.chat.completions.with_streaming_response.create(**CHAT, stream=True) as response:
        return list(response.iter_bytes())


@pytest.mark.parametrize("kind", ["create", "bytes"])
def test_nothing_changes(scene: Scene, kind: str) -> None:
    """The application gets the same, with and without us."""
    scene.plays(data(ROLE, *WORDS, call(0, "{}", name="look"), chunk(finish="tool_calls"), USAGE))

    observed = everything(scene.client, kind)
    otelstream.uninstrument()
    bare = everything(scene.client, kind)

    assert observed == bare
