# SPDX-License-Identifier: Apache-2.0
"""What the events of an Anthropic message stream mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from otelstream import _semconv as s
from otelstream._core.record import facts as f
from otelstream._core.record import given
from otelstream._core.record.ending import Ending
from otelstream._core.record.grammar import UNKNOWN
from otelstream._core.record.text import printable
from otelstream._core.record.whole import Asked, Whole, part, parts

DELTA = "content_block_delta"
_EVENTS = frozenset(
    {DELTA, "content_block_start", "content_block_stop", "message_start", "message_delta", "message_stop", "error"}
)
# Bedrock names every event `completion`, raw lines may have no name: then the type inside is the name. Without any
# (None) the SDK skips an event, and so do we.
_UNNAMED = frozenset({"completion", ""})
_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_READ, _WRITE = "cache_read_input_tokens", "cache_creation_input_tokens"
_COUNTS = ("input_tokens", _READ, _WRITE, "output_tokens")
# Of the generated output; signatures and citations are protocol traffic.
_FIELDS = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "input_json_delta": "partial_json",
    "compaction_delta": "content",
}


class Grammar:
    """The grammar of one stream: blocks by index, each with a start and a stop, and `message_stop` at the end."""

    __slots__ = ("used",)

    delta = DELTA
    shape = UNKNOWN

    def __init__(self) -> None:
        self.used: dict[str, int] = {}  # token counts as the provider names them

    def learned(self, prefix: str, data: str) -> None:
        return

    def is_known(self, name: str | None) -> bool:
        return name in _EVENTS

    def complete_at_eof(self, finish_reason: str | None) -> Ending | None:
        return None

    def piece(self, data: str) -> f.Delta | None:
        return _piece(json.loads(data))

    def structural(self, name: str | None, data: str) -> Iterator[f.Fact]:
        if name == "ping":
            yield f.Ping()
        elif data and (name in _EVENTS or name in _UNNAMED):
            event = given.obj(json.loads(data))
            kind = event.get("type", name)
            if kind in ("message_start", "message_delta"):
                yield from self._usage(event, kind)
            tell = _TELL.get(kind) if isinstance(kind, str) else None
            if tell is not None:
                yield from tell(event)

    def _usage(self, event: dict[str, Any], kind: str) -> Iterator[f.Fact]:
        """What the provider has finished saying, merged field by field as the SDK does.

        Output tokens are a placeholder before `message_delta`.
        """
        said = given.obj((given.obj(event.get("message")) if kind == "message_start" else event).get("usage"))
        self.used |= used(said)
        final = kind == "message_delta" and "output_tokens" in said
        yield f.Usage(tokens(self.used if final else {**self.used, "output_tokens": None}))


def used(said: Mapping[str, Any]) -> dict[str, int]:
    """The token counts of a usage, as the provider names them."""
    counts = {name: given.count(said.get(name)) for name in _COUNTS}
    return {name: value for name, value in counts.items() if value is not None}


def tokens(used: Mapping[str, int | None]) -> dict[str, int]:
    """The same as the conventions name them: they count cached tokens as input, which Anthropic's field leaves out."""
    read, write, fresh = used.get(_READ), used.get(_WRITE), used.get("input_tokens")
    counts = {
        s.INPUT_TOKENS: None if fresh is None else fresh + (read or 0) + (write or 0),
        s.CACHE_READ_TOKENS: read,
        s.CACHE_WRITE_TOKENS: write,
        s.OUTPUT_TOKENS: used.get("output_tokens"),
    }
    return {name: value for name, value in counts.items() if value is not None}


def _piece(event: Any) -> f.Delta | None:
    delta = event["delta"]
    field = _FIELDS.get(delta["type"], "")
    text = delta.get(field)
    return f.Delta(_key(event), field, text) if isinstance(text, str) and text else None


def _delta(event: dict[str, Any]) -> Iterator[f.Fact]:
    try:
        piece = _piece(event)
    except (TypeError, KeyError, AttributeError):
        return
    if piece is not None:
        yield piece


def _message_start(event: dict[str, Any]) -> Iterator[f.Fact]:
    message = given.obj(event.get("message"))
    yield f.Restarted()  # a fallback splices a second message in
    yield f.Identity(given.word(message.get("id")), given.word(message.get("model")))


def _message_delta(event: dict[str, Any]) -> Iterator[f.Fact]:
    reason = given.obj(event.get("delta")).get("stop_reason")
    if isinstance(reason, str):
        yield f.Finish(0, _REASONS.get(reason, printable(reason)), reason)


def _block_start(event: dict[str, Any]) -> Iterator[f.Fact]:
    block = given.obj(event.get("content_block"))
    key, kind = _key(event), str(block.get("type"))
    server_tool = kind in ("server_tool_use", "mcp_tool_use")
    if kind.endswith("tool_use"):
        tool = None if server_tool else (str(block.get("name")), str(block.get("id") or ""))
        yield f.Opened(key, "tool_input", tool=tool, server_tool=server_tool)
    elif kind in ("text", "thinking"):
        whole = given.word(block.get(kind))
        block_kind: s.BlockKind = "text" if kind == "text" else "thinking"
        visible = kind == "text"
        text = whole or "" if visible else ""
        yield f.Opened(key, block_kind, visible=visible, whole=None if whole is None else len(whole), text=text)
    else:
        if kind == "fallback":
            yield f.Identity(None, given.word(given.obj(block.get("to")).get("model")))
        block_kind = "thinking" if kind == "redacted_thinking" else "other"
        yield f.Opened(key, block_kind, whole=None if kind in ("compaction", "fallback") else 0)


def _block_stop(event: dict[str, Any]) -> Iterator[f.Fact]:
    yield f.Closed(_key(event))


def _message_stop(_: dict[str, Any]) -> Iterator[f.Fact]:
    yield f.Terminal()


def _error(event: dict[str, Any]) -> Iterator[f.Fact]:
    yield f.Failed(given.word(given.obj(event.get("error")).get("type")) or "api_error")


def whole(answer: Any) -> Whole | None:
    """What a message that was not streamed says: an object of the SDK's, or its JSON."""
    if part(answer, "type") != "message":
        return None
    reason = part(answer, "stop_reason")
    calls = tuple(
        Asked(str(part(block, "name")), str(part(block, "id") or ""), part(block, "input"))
        for block in parts(answer, "content")
        if part(block, "type") == "tool_use"
    )
    return Whole(_REASONS.get(reason, printable(reason)) if isinstance(reason, str) else None, calls)


_TELL: dict[str, Callable[[dict[str, Any]], Iterator[f.Fact]]] = {
    DELTA: _delta,
    "content_block_start": _block_start,
    "content_block_stop": _block_stop,
    "message_start": _message_start,
    "message_delta": _message_delta,
    "message_stop": _message_stop,
    "error": _error,
}


def _key(event: dict[str, Any]) -> f.Key:
    index = event.get("index")
    return 0, index if isinstance(index, (int, str)) else None
