# SPDX-License-Identifier: Apache-2.0
"""Answers of Gemini: how they end, what was said, and whose doing it was."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import Any

import pytest
import shapes

import otelstream
from google_sdk.conftest import ASK, Scene, call, candidate, chunk, data, read, word
from otelstream import _semconv as s

WORDS = [word(text) for text in ("Calm ", "seas, ", "then ", "wind.")]
STOP = word("", finish="STOP", candidatesTokenCount=4, thoughtsTokenCount=3, cachedContentTokenCount=20)
ERROR = {"error": {"code": 503, "message": "no", "status": "UNAVAILABLE"}}
BLOCKED = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 3}}
LOOK = call("look", city="H")

ENDINGS: dict[str, tuple[list[bytes], tuple[str, str, str]]] = {
    "whole": (data(*WORDS, STOP), ("completed", "finished", "none")),
    "a word and its finish at once": (data(*WORDS, word("!", finish="STOP")), ("completed", "finished", "none")),
    "length": (data(*WORDS, word("", finish="MAX_TOKENS")), ("truncated", "finished", "none")),
    **{
        reason: (data(*WORDS, chunk(finish=reason)), ("refused", "finished", "content_filter"))
        for reason in ("SAFETY", "RECITATION", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "LANGUAGE")
    },
    "refused before a word": (data(chunk(finish="SAFETY")), ("refused", "finished", "none")),
    "the prompt is blocked": (data(BLOCKED), ("refused", "finished", "none")),
    "a reason that nobody knows": (data(*WORDS, chunk(finish="TIDE_IS_OUT")), ("completed", "finished", "none")),
    "the model's call makes no sense": (
        data(*WORDS, chunk(finish="MALFORMED_FUNCTION_CALL")), ("failed", "finished", "provider_error"),
    ),
    "the body ends in the middle": (data(*WORDS), ("failed", "mid_stream", "cut_short")),
    "an error object": (data(*WORDS, ERROR), ("failed", "mid_stream", "provider_error")),
    "an error object, not as an event": (
        [*data(*WORDS), json.dumps(ERROR, indent=1).encode()], ("failed", "mid_stream", "provider_error"),
    ),
    "an error object first": (data(ERROR), ("failed", "before_first_token", "provider_error")),
    "nothing at all": ([], ("failed", "before_first_token", "cut_short")),
    "a frame that is no JSON": (
        [*data(*WORDS), b"data: {\"candidates\":\r\n\r\n"], ("failed", "mid_stream", "protocol_error"),
    ),
    "a comment, which the SDK takes for data": (
        [*data(*WORDS), b": PROCESSING\r\n\r\n"], ("failed", "mid_stream", "protocol_error"),
    ),
    "a tool call": (data(chunk(LOOK), STOP), ("completed", "finished", "none")),
    "a tool call that is cut": (
        data(chunk({"functionCall": {"name": "look", "willContinue": True}}),
             chunk({"functionCall": {"partialArgs": [{"jsonPath": "$.city", "stringValue": "H"}],
                                     "willContinue": True}}),
             chunk(finish="MAX_TOKENS")),
        ("truncated", "finished", "tool_call_cut_off"),
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:TIDE_IS_OUT")
@pytest.mark.parametrize("name", ENDINGS)
@pytest.mark.parametrize("way", ["sync", "async", "chat"])
def test_endings(scene: Scene, name: str, way: str) -> None:
    """Outcome, phase and fault are the protocol's, however it is read; the error of the SDK is the SDK's own."""
    pieces, wanted = ENDINGS[name]
    scene.plays(pieces)

    failed = scene.fails(way)
    assert wanted[0] == "failed" or not failed
    gc.collect()

    view = scene.recorder.stream
    assert (view.outcome, view.phase, view.fault) == wanted


def test_what_is_said(scene: Scene) -> None:
    """Names by the conventions, reasons raw and normalised, counts, cache and thoughts; output counts thoughts too."""
    scene.plays(data(*WORDS, STOP))

    read(scene.ask(config={"temperature": 0.5, "max_output_tokens": 64}))

    (span,) = scene.telemetry.spans()
    has = dict(span.attributes or {})
    assert span.name == "generate_content some-model"
    assert (has[s.PROVIDER], has[s.OPERATION]) == ("gcp.gemini", "generate_content")
    assert (has[s.RESPONSE_ID], has[s.RESPONSE_MODEL]) == ("answer-1", "some-model-1")
    counts = (s.INPUT_TOKENS, s.OUTPUT_TOKENS, s.CACHE_READ_TOKENS, s.REASONING_TOKENS)
    assert [has[name] for name in counts] == [30, 7, 20, 3]
    assert (has[s.CHUNKS], has[s.VISIBLE_CHARS], has[s.FINISH_REASONS]) == (4, 21, ("stop",))
    assert (has[s.REQUEST_TEMPERATURE], has[s.REQUEST_MAX_TOKENS]) == (0.5, 64)
    assert has[s.SERVER_ADDRESS] == "provider.invalid"


def test_counts_of_a_cut_answer(scene: Scene) -> None:
    """What the provider had not finished counting is left out: the input is known, the output is not."""
    scene.plays(data(word("Calm ", candidatesTokenCount=1)))

    read(scene.ask())

    (span,) = scene.telemetry.spans()
    has = dict(span.attributes or {})
    assert has[s.INPUT_TOKENS] == 30
    assert s.OUTPUT_TOKENS not in has


@pytest.mark.parametrize("spaced", [True, False], ids=["as Google writes", "compact"])
def test_all_of_a_text_is_counted(scene: Scene, spaced: bool) -> None:
    """A chunk that only looks like the one before is read whole: another part, thinking, a tool call, another
    candidate, quotes and braces in the text."""
    parts: list[tuple[dict[str, Any], ...]] = [
        ({"text": "Calm "},), ({"text": 'say "x" '},), ({"text": "a},{b"},), ({"text": "back\\slash\n"},),
        ({"text": "one"}, {"text": "two"}), ({"text": "Hm.", "thought": True},),
        ({"text": "Well.", "thought": True}, {"text": "So"}), ({"text": "signed", "thoughtSignature": "abc"},),
        ({"text": ""},), ({"text": "I look."}, {**LOOK, "thoughtSignature": "abc"}), ({"text": "\u00e9t\u00e9"},),
        ({"inlineData": {"mimeType": "image/png", "data": "aGk="}},), ({"text": "}],\"role\": \"model\"}"},),
    ]  # fmt: skip
    lines = [chunk(*each) for each in parts * 9]
    separators = (",", ": ") if spaced else (",", ":")
    pieces = [f"data: {json.dumps(line, separators=separators)}\r\n\r\n".encode() for line in [*lines, STOP]]
    scene.plays(pieces)

    got = read(scene.ask())

    view = scene.recorder.stream
    texts = [part for item in got for part in item.candidates[0].content.parts if part.text]
    visible = sum(len(part.text) for part in texts if not part.thought)
    assert (view.outcome, view.visible_chars) == ("completed", visible)
    assert view.chunks == len(texts) + 2 * 9
    assert len(view.tool_calls or ()) == 9


@pytest.mark.parametrize(("ends", "outcome"), [(("STOP", "STOP"), "completed"), (("STOP", "MAX_TOKENS"), "truncated"),
                                               (("STOP", None), "failed")])  # fmt: skip
def test_candidates(scene: Scene, ends: tuple[str | None, ...], outcome: str) -> None:
    """A stream of several candidates has finished when each has its reason; the cut of one is a cut."""
    words = [word(f"{text} ", index=index) for text in "abc" for index in (0, 1)]
    ended = [word("", index=index, finish=end) for index, end in enumerate(ends) if end]
    scene.plays(data(*words, *ended))

    read(scene.ask(config={"candidate_count": 2}))

    view = scene.recorder.stream
    assert (view.outcome, view.chunks, view.visible_chars) == (outcome, 6, 12)


@pytest.mark.parametrize("ends", [1, 2])
def test_counts_of_candidates(scene: Scene, ends: int) -> None:
    """What is generated is counted once all candidates have finished: while one goes on, the count does."""
    ended = [word("", index=index, finish="STOP", candidatesTokenCount=8) for index in range(ends)]
    scene.plays(data(word("Calm "), word("Wind ", index=1), *ended))

    read(scene.ask(config={"candidate_count": 2}))

    (span,) = scene.telemetry.spans()
    assert (span.attributes or {}).get(s.OUTPUT_TOKENS) == (8 if ends == 2 else None)


def test_candidates_of_one_chunk(scene: Scene) -> None:
    """Candidates that come in one chunk are each read."""
    both = {"candidates": [candidate({"text": "a"}), candidate({"text": "b"}, index=1)]}
    ends = {"candidates": [candidate(finish="STOP"), candidate(index=1, finish="SAFETY")]}
    scene.plays(data(both, both, ends))

    read(scene.ask(config={"candidate_count": 2}))

    assert (scene.recorder.stream.chunks, scene.recorder.stream.visible_chars) == (4, 4)


def test_arguments_in_pieces(scene: Scene) -> None:
    """A call whose arguments come by their paths is ready when it says so, valid, and known by its arguments."""

    def piece(*arguments: dict[str, Any], more: bool = True, **head: Any) -> dict[str, Any]:
        partial = {"partialArgs": list(arguments)} if arguments else {}
        return chunk({"functionCall": {**head, **partial, **({"willContinue": True} if more else {})}})

    scene.plays(
        data(
            piece(name="gaze", id="c1"),
            piece({"jsonPath": "$.city", "stringValue": 'Har"b', "willContinue": True}),
            piece({"jsonPath": "$.city", "stringValue": "our", "willContinue": True}),
            piece({"jsonPath": "$.city", "stringValue": ""}, {"jsonPath": "$.days", "numberValue": 3}),
            piece(more=False),
            piece(name="wait"),
            piece(more=False),
            STOP,
        )
    )

    @otelstream.tool
    def gaze(city: str, days: int) -> None:
        return None

    with otelstream.turn() as turn:
        read(scene.ask(config={"automatic_function_calling": {"disable": True}}))
        gaze(city='Har"bour', days=3)

    first, second = turn.tool_calls
    assert (first.name, first.id, first.input, first.inferred, first.state, first.guessed) == (
        "gaze", "c1", "valid", False, "committed", False,
    )  # fmt: skip
    assert (second.name, second.input, second.size) == ("wait", "valid", 0)


@pytest.mark.parametrize("status", [429, 503, 400])
@pytest.mark.parametrize("way", ["sync", "async"])
def test_refused_requests(scene: Scene, status: int, way: str) -> None:
    """A request that is answered with an error ends before any response, in the API's own word."""
    body = json.dumps({"error": {"code": status, "message": "no", "status": "SOME_STATUS"}}).encode()
    scene.plays(shapes.Reply([body], None, status, (("content-type", "application/json"),)))

    assert scene.fails(way)

    view = scene.recorder.stream
    assert (view.outcome, view.phase, view.error_type) == ("failed", "before_response", "SOME_STATUS")
    assert view.fault == ("request_error" if status == 400 else "provider_error")


@pytest.mark.parametrize("way", ["sync", "async"])
def test_retries(scene: Scene, way: str) -> None:
    """Each attempt of the SDK's is counted with what the one before it failed with: one record."""
    body = b'{"error": {"code": 429, "message": "no", "status": "RESOURCE_EXHAUSTED"}}'
    refused = shapes.Reply([body], None, 429, (("content-type", "application/json"),))
    lost = shapes.Reply([], None, 503, (("content-type", "text/plain"),))
    scene.plays(refused, lost, data(*WORDS, STOP))
    retries = {"attempts": 3, "initial_delay": 0.001, "max_delay": 0.001, "jitter": 0.001}

    assert not scene.fails(way, config={"http_options": {"retry_options": retries}})

    assert scene.recorder.stream.attributes[s.ATTEMPTS] == 3
    assert scene.recorder.stream.outcome == "completed"
    points = scene.telemetry.points()["otelstream.stream.retries"]
    assert sorted(dict(labels)[s.ERROR_TYPE] for labels in points) == ["RESOURCE_EXHAUSTED", "Service Unavailable"]


def test_a_retry_that_fails(scene: Scene) -> None:
    """The last attempt is no retry that another follows; the next request of the client begins anew."""
    lost = shapes.Reply([], None, 503, (("content-type", "text/plain"),))
    scene.plays(lost, lost, data(*WORDS, STOP))
    retries = {"attempts": 2, "initial_delay": 0.001, "max_delay": 0.001, "jitter": 0.001}

    assert scene.fails("sync", config={"http_options": {"retry_options": retries}})
    assert not scene.fails("sync")

    assert [view.attributes[s.ATTEMPTS] for view in scene.recorder.streams] == [2, 1]


TRANSPORT = {
    "reset": (lambda: shapes.httpx.ReadError("reset by peer"), "connection_lost", "connection_error"),
    "read time-out": (lambda: shapes.httpx.ReadTimeout("no bytes"), "timeout", "client_timeout_error"),
    "OSError": (lambda: ConnectionResetError("reset"), "connection_lost", "connection_error"),
}


@pytest.mark.parametrize("name", TRANSPORT)
@pytest.mark.parametrize("way", ["sync", "async"])
def test_transport(scene: Scene, name: str, way: str) -> None:
    """What comes up out of the body is the transport's doing."""
    make, fault, kind = TRANSPORT[name]
    scene.plays(shapes.Reply(data(*WORDS), make))

    assert scene.fails(way)

    view = scene.recorder.stream
    assert (view.outcome, view.phase, view.fault, view.error_type) == ("failed", "mid_stream", fault, kind)


def test_what_is_not_streamed_is_no_stream(scene: Scene) -> None:
    """A whole answer has no record; in a turn it is counted, and its tools are the turn's."""
    answer = json.dumps(chunk(LOOK, finish="STOP")).encode()
    scene.plays(shapes.Reply([answer], None, 200, (("content-type", "application/json"),)))
    disabled = {"automatic_function_calling": {"disable": True}}

    scene.client.models.generate_content(**ASK, config=disabled)
    with otelstream.turn() as turn:
        scene.client.models.generate_content(**ASK, config=disabled)
        asyncio.run(_whole(scene, disabled))

    assert scene.recorder.streams == []
    assert [call.name for call in turn.tool_calls] == ["look", "look"]


async def _whole(scene: Scene, config: Any) -> None:
    await scene.client.aio.models.generate_content(**ASK, config=config)


def test_vertex(scene: Scene) -> None:
    """Vertex has a provider's name of its own, by whatever host it is reached; its model is the last of the path."""
    from google import genai
    from google.auth.credentials import AnonymousCredentials

    scene.plays(data(*WORDS, STOP))
    options = {"base_url": "http://provider.invalid", "httpx_client": shapes.httpx.Client(transport=scene.transport)}
    credentials = AnonymousCredentials()  # type: ignore[no-untyped-call]
    credentials.token = "unused"
    client = genai.Client(
        vertexai=True, project="some-project", location="some-place", credentials=credentials, http_options=options
    )

    read(client.models.generate_content_stream(**ASK))

    has = scene.recorder.stream.attributes
    (span,) = scene.telemetry.spans()
    assert (span.attributes or {})[s.PROVIDER] == "gcp.vertex_ai"
    assert span.name == "generate_content some-model"
    assert has[s.OUTCOME] == "completed"
