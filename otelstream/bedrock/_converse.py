# SPDX-License-Identifier: Apache-2.0
"""What the events of Bedrock's `converse_stream` mean: blocks by index, the stop reason, and then the usage."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from otelstream import _semconv as s
from otelstream._core.record import facts as f
from otelstream._core.record import given
from otelstream._core.record.grammar import UNKNOWN, NoTerminal
from otelstream._core.record.text import printable
from otelstream._core.record.whole import Asked, Whole, part, parts

DELTA = "contentBlockDelta"
EXCEPTION = "!"  # before the name of a frame that is one
EVENTS = frozenset({DELTA, "contentBlockStart", "contentBlockStop", "messageStart", "messageStop", "metadata"})
_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}


class Grammar(NoTerminal):
    """One stream's grammar. With its stop reason the answer is whole; what says that no more comes is the usage."""

    __slots__ = ()

    delta = DELTA
    shape = UNKNOWN

    def learned(self, prefix: str, data: str) -> None:
        return

    def is_known(self, name: str | None) -> bool:
        return name in EVENTS

    def piece(self, data: str) -> f.Delta | None:
        return piece(json.loads(data))

    def structural(self, name: str | None, data: str) -> Iterator[f.Fact]:
        if name is not None and name.startswith(EXCEPTION):
            yield f.Failed(printable(name[1:]) or "api_error")
        elif name in EVENTS:
            yield from said(name, json.loads(data))


def said(name: str | None, event: Any) -> Iterator[f.Fact]:
    """What one event says; those that are none of the protocol's say nothing."""
    if not isinstance(event, dict):
        return
    key = _key(event)
    if name == DELTA:
        delta = piece(event)
        if delta is not None:
            yield delta
    elif name == "contentBlockStart":
        yield from _start(key, given.obj(event.get("start")))
    elif name == "contentBlockStop":
        yield f.Closed(key)
    elif name == "messageStop":
        reason = event.get("stopReason")
        if isinstance(reason, str):
            yield f.Finish(0, _REASONS.get(reason, printable(reason)), reason)
    elif name == "metadata":
        yield f.Usage(_usage(given.obj(event.get("usage"))))
        yield f.Terminal()


def piece(event: dict[str, Any]) -> f.Delta | None:
    """The generated text of a delta. Only tools announce their blocks."""
    key, delta = _key(event), given.obj(event.get("delta"))
    reasoning = given.obj(delta.get("reasoningContent"))
    if isinstance(delta.get("text"), str) and delta["text"]:
        return f.Delta(key, "text", delta["text"], "text", visible=True)
    if isinstance(reasoning.get("text"), str) and reasoning["text"]:
        return f.Delta(key, "text", reasoning["text"], "thinking")
    if reasoning.get("redactedContent"):
        return f.Delta(key, "redactedContent", "", "thinking")  # one chunk, of no text
    text = given.obj(delta.get("toolUse")).get("input")
    return f.Delta(key, "input", text) if isinstance(text, str) and text else None


def _start(key: f.Key, start: dict[str, Any]) -> Iterator[f.Fact]:
    tool = start.get("toolUse")
    if isinstance(tool, dict):
        server = tool.get("type") == "server_tool_use"
        asked = None if server else (str(tool.get("name")), str(tool.get("toolUseId") or ""))
        yield f.Opened(key, "tool_input", tool=asked, server_tool=server)
    elif start:
        yield f.Opened(key, "other", whole=0)  # a result of the provider's own tool, an image


def _usage(usage: dict[str, Any]) -> dict[str, int]:
    """Token counts as the conventions name them: cached ones are input too, which Bedrock counts apart."""

    def count(*names: str) -> int | None:
        found = (usage.get(name) for name in names)
        return next((n for n in found if given.count(n) is not None), None)

    read = count("cacheReadInputTokens", "cacheReadInputTokenCount")
    written = count("cacheWriteInputTokens", "cacheWriteInputTokenCount")
    fresh = count("inputTokens")
    counts = {
        s.INPUT_TOKENS: None if fresh is None else fresh + (read or 0) + (written or 0),
        s.OUTPUT_TOKENS: count("outputTokens"),
        s.CACHE_READ_TOKENS: read,
        s.CACHE_WRITE_TOKENS: written,
    }
    return {name: value for name, value in counts.items() if value is not None}


def whole(answer: Mapping[str, Any]) -> Whole:
    """What a `converse` answer says, which was not streamed."""
    reason = part(answer, "stopReason")
    calls = (part(block, "toolUse") for block in parts(part(part(answer, "output"), "message"), "content"))
    return Whole(
        _REASONS.get(reason, printable(reason)) if isinstance(reason, str) else None,
        tuple(
            Asked(str(part(call, "name")), str(part(call, "toolUseId") or ""), part(call, "input"))
            for call in calls
            if call is not None
        ),
    )


def results(request: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """The tool results that a request carries: ids, and whether each failed."""
    messages = request.get("messages")
    for message in reversed(messages if isinstance(messages, (list, tuple)) else ()):
        if not isinstance(message, Mapping) or message.get("role") == "assistant":
            return
        content = message.get("content")
        for block in content if isinstance(content, (list, tuple)) else ():
            result = block.get("toolResult") if isinstance(block, Mapping) else None
            if isinstance(result, Mapping):
                yield str(result.get("toolUseId")), result.get("status") == "error"


def _key(event: dict[str, Any]) -> f.Key:
    index = event.get("contentBlockIndex")
    return 0, index if isinstance(index, int) else 0
