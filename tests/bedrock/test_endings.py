# SPDX-License-Identifier: Apache-2.0
"""How the answers of `converse_stream` end, and what was said."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import pytest
import urllib3

from otelstream import _semconv as s
from otelstream.testing._bedrock import Corrupt

from .conftest import START, USAGE, WHOLE, WORDS, Scene, begin, delta, end, frame, stop

THROTTLED = frame("throttlingException", exception=True, message="slow down")
BAD = Corrupt("contentBlockDelta", b"{}").frame
TOOL = [begin(1, "look"), delta(1, toolUse={"input": '{"city":'}), delta(1, toolUse={"input": ' "H"}'})]


def unmodelled() -> bytes:
    """An error that the protocol of frames has, and no model of an operation."""
    head = b"".join(
        struct.pack("!B", len(name)) + name + struct.pack("!BH", 7, len(value)) + value
        for name, value in ((b":message-type", b"error"), (b":error-code", b"ModelGone"), (b":error-message", b"no"))
    )
    prelude = struct.pack("!II", len(head) + 16, len(head))
    body = prelude + struct.pack("!I", zlib.crc32(prelude)) + head
    return body + struct.pack("!I", zlib.crc32(body))


# Outcome, phase, fault, and what is raised.
ENDINGS: dict[str, tuple[list[Any], tuple[str, str, str], str]] = {
    "whole": (WHOLE, ("completed", "finished", "none"), ""),
    "no usage": (WHOLE[:-1], ("completed", "finished", "none"), ""),
    "length": ([*WHOLE[:-2], end("max_tokens"), USAGE], ("truncated", "finished", "none"), ""),
    "full": ([*WHOLE[:-2], end("model_context_window_exceeded"), USAGE], ("truncated", "finished", "none"), ""),
    "guardrail": ([*WHOLE[:-2], end("guardrail_intervened"), USAGE], ("refused", "finished", "content_filter"), ""),
    "guardrail at once": ([START, end("guardrail_intervened"), USAGE], ("refused", "finished", "none"), ""),
    "filtered": ([*WHOLE[:-2], end("content_filtered"), USAGE], ("refused", "finished", "content_filter"), ""),
    "a reason nobody knows": ([*WHOLE[:-2], end("tired"), USAGE], ("completed", "finished", "none"), ""),
    "the body ends in the middle": ([START, *WORDS], ("failed", "mid_stream", "cut_short"), ""),
    "the body ends inside a frame": ([START, *WORDS, USAGE[:9]], ("failed", "mid_stream", "cut_short"), ""),
    "nothing at all": ([], ("failed", "before_first_token", "cut_short"), ""),
    "exception": ([START, *WORDS, THROTTLED], ("failed", "mid_stream", "provider_error"), "EventStreamError"),
    "exception at once": ([THROTTLED], ("failed", "before_first_token", "provider_error"), "EventStreamError"),
    "exception after the stop": (
        [*WHOLE[:-1], THROTTLED], ("failed", "finished", "provider_error"), "EventStreamError",
    ),
    "an error of the frames": (
        [START, *WORDS, unmodelled()], ("failed", "mid_stream", "provider_error"), "EventStreamError",
    ),
    "checksum": ([START, *WORDS, BAD], ("failed", "mid_stream", "protocol_error"), "ChecksumMismatch"),
    "connection": (
        [START, *WORDS, urllib3.exceptions.ProtocolError("gone")],
        ("failed", "mid_stream", "connection_lost"), "ProtocolError",
    ),
    "connection after the usage": (
        [*WHOLE, urllib3.exceptions.ProtocolError("gone")], ("completed", "finished", "none"), "ProtocolError",
    ),
    "time-out": (
        [START, *WORDS, urllib3.exceptions.ReadTimeoutError(None, "/", "slow")],  # type: ignore[arg-type]
        ("failed", "mid_stream", "timeout"), "ReadTimeoutError",
    ),
    "a tool": ([START, *WORDS, stop(), *TOOL, stop(1), end("tool_use"), USAGE], ("completed", "finished", "none"), ""),
    "a tool that is cut": (
        [START, *TOOL[:2], end("max_tokens"), USAGE], ("truncated", "finished", "tool_call_cut_off"), "",
    ),
    "a tool that is no JSON": (
        [START, *TOOL[:2], stop(1), end("tool_use"), USAGE], ("completed", "finished", "malformed_tool_call"), "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("name", ENDINGS)
def test_endings(scene: Scene, name: str, asynchronous: bool) -> None:
    """Outcome, phase and fault are the protocol's, and what is raised is the SDK's own."""
    pieces, wanted, raised = ENDINGS[name]
    scene.plays(pieces)

    _, error = scene.reads("converse", asynchronous)

    view = scene.view
    assert error.partition(":")[0] == raised
    assert (view.outcome, view.phase, view.fault) == wanted


def test_what_is_said(scene: Scene) -> None:
    """Names by the conventions, reasons raw and normalised; usage comes after the stop, cached input is input."""
    scene.plays(WHOLE)

    list(scene.converse(inferenceConfig={"maxTokens": 9, "temperature": 0.5, "topP": 1.0}))

    (span,) = scene.telemetry.spans()
    has = dict(span.attributes or {})
    assert span.name == "chat some-model"
    assert (has[s.PROVIDER], has[s.OPERATION], has[s.REQUEST_MODEL]) == ("aws.bedrock", "chat", "some-model")
    assert [has[name] for name in (s.INPUT_TOKENS, s.CACHE_READ_TOKENS, s.CACHE_WRITE_TOKENS)] == [55, 20, 5]
    assert (has[s.OUTPUT_TOKENS], has[s.CHUNKS], has[s.VISIBLE_CHARS]) == (4, 4, 21)
    assert (has[s.FINISH_REASONS], has[s.REQUEST_ID], has[s.ATTEMPTS]) == (("stop",), "request-1", 1)
    assert (has[s.SERVER_ADDRESS], has[s.SERVER_PORT]) == ("bedrock.invalid", 81)
    assert (has[s.REQUEST_MAX_TOKENS], has[s.REQUEST_TEMPERATURE], has[s.REQUEST_TOP_P]) == (9, 0.5, 1.0)


def test_the_words_of_errors(scene: Scene) -> None:
    """A frame's exception is named as the SDK names it, also one that no model has."""
    scene.plays([START, *WORDS, THROTTLED], [START, unmodelled()])

    scene.reads("converse", False)
    scene.reads("converse", False)

    assert [view.attributes[s.ERROR_TYPE] for view in scene.recorder.wait_for(2)] == [
        "throttlingException", "ModelGone",
    ]  # fmt: skip


def test_calls_in_parallel(scene: Scene) -> None:
    """Calls are kept apart by the index of their block, and each is ready with its stop."""
    scene.plays([
        START, begin(0, "a"), begin(1, "b"), delta(0, toolUse={"input": '{"x"'}), delta(1, toolUse={"input": "{}"}),
        delta(0, toolUse={"input": ": 1}"}), stop(1), stop(0), end("tool_use"), USAGE,
    ])  # fmt: skip

    list(scene.converse())

    calls = scene.view.tool_calls
    assert {(call.name, call.id, call.size, call.input, call.inferred) for call in calls} == {
        ("a", "tooluse_0", 8, "valid", False), ("b", "tooluse_1", 2, "valid", False),
    }  # fmt: skip


def test_reasoning(scene: Scene) -> None:
    """Thinking is no visible token, its signature no chunk; a redacted block is one, of no text."""
    scene.plays([
        START, *(delta(0, reasoningContent={"text": word}) for word in ("Hm. ", 'So "x".')),
        delta(0, reasoningContent={"signature": "c2ln"}), stop(0),
        delta(1, reasoningContent={"redactedContent": "c2VjcmV0"}), stop(1),
        *(delta(2, text=word) for word in ("Calm ", "seas.")), stop(2), end(), USAGE,
    ])  # fmt: skip

    list(scene.converse())

    view = scene.view
    assert (view.chunks, view.visible_chars) == (5, 10)
    assert [attributes[s.BLOCK_KIND] for name, _, attributes in view.events if name == s.EVENT_FIRST_CHUNK] == [
        "thinking"
    ]
    assert (view.time_to_first_token or 0) >= (view.time_to_first_chunk or 0)


def test_a_tool_of_the_providers_own(scene: Scene) -> None:
    """What the provider runs itself is no call of the application's; its result comes whole."""
    result = frame("contentBlockStart", contentBlockIndex=1, start={"toolResult": {"toolUseId": "t", "status": "ok"}})
    scene.plays([
        START, begin(0, "nova_code_interpreter", type="server_tool_use"), delta(0, toolUse={"input": "{}"}), stop(0),
        result, delta(1, toolResult=[{"json": {}}]), stop(1), delta(2, text="Done."), stop(2), end(), USAGE,
    ])  # fmt: skip

    list(scene.converse())

    assert (scene.view.tool_calls, scene.view.chunks) == ((), 3)


def test_escapes_and_padding(scene: Scene) -> None:
    """The text of a delta stands at its own place: what is padded behind it is not counted, escapes are decoded."""
    texts = ["Calm ", 'say "x" ', "back\\slash ", "\u00e9t\u00e9 ", "\n", "wind"] * 20
    scene.plays([START, *(delta(text=text) for text in texts), stop(), end(), USAGE])

    list(scene.converse())

    assert (scene.view.chunks, scene.view.visible_chars) == (len(texts), len("".join(texts)))
