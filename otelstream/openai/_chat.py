# SPDX-License-Identifier: Apache-2.0
"""What the chunks of a chat completion mean, OpenAI's own and those of the servers that speak it too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from otelstream import _semconv as s
from otelstream._core.record import facts as f
from otelstream._core.record import given
from otelstream._core.record.grammar import BY_SHAPE, UNKNOWN, NoTerminal, Shape
from otelstream._core.record.text import printable

DONE = "[DONE]"
_REASONS = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    # of servers that speak the same protocol
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "max_tokens": "length",
}
# Where a delta has its text, and what that is: the servers' names for reasoning vary.
_FIELDS: dict[str, tuple[s.BlockKind, bool]] = {
    "content": ("text", True),
    "refusal": ("text", True),
    "reasoning_content": ("thinking", False),
    "reasoning": ("thinking", False),
    "thinking": ("thinking", False),
}


class Grammar(NoTerminal):
    """One stream's grammar. A tool call has no end of its own: ready is inferred, and taken back if it goes on."""

    __slots__ = ("_calls", "_finished", "_named", "shape")

    delta = BY_SHAPE

    def __init__(self) -> None:
        self.shape = UNKNOWN
        self._calls: dict[f.Key, bool] = {}  # those so far, and whether they were closed
        self._finished: dict[int, str] = {}
        self._named = False

    def learned(self, prefix: str, data: str) -> None:
        """A chunk is a mere delta if it differs from this one in its text and its padding only."""
        self.shape = UNKNOWN
        if not prefix:
            return
        text = json.JSONDecoder().raw_decode(data, len(prefix) - 1)[1]
        rest, padding, _ = data[text:].partition('"obfuscation":"')
        if '"finish_reason":"' not in rest:
            self.shape = Shape(prefix, within=rest) if padding else Shape(prefix, ends=rest)

    def is_known(self, name: str | None) -> bool:
        return True

    def piece(self, data: str) -> f.Delta | None:
        choice = json.loads(data)["choices"][0]
        return next(_texts(choice), None) or next(_arguments(choice), None)

    def structural(self, name: str | None, data: str) -> Iterator[f.Fact]:
        if data.startswith(DONE):
            yield f.Terminal()
            return
        chunk = json.loads(data)
        if not isinstance(chunk, dict):
            return
        if not self._named and chunk.get("id"):
            self._named = True
            yield f.Identity(given.word(chunk.get("id")), given.word(chunk.get("model")))
        for choice in given.objs(chunk.get("choices")):
            yield from self._choice(choice)
        usage = chunk.get("usage") or given.obj(chunk.get("x_groq")).get("usage")
        if isinstance(usage, dict):
            yield f.Usage(usage_of(usage, "prompt_tokens", "completion_tokens"))
        error = chunk.get("error")
        if error or name == "error":
            yield f.Failed(error_of(error or chunk))

    def _choice(self, choice: dict[str, Any]) -> Iterator[f.Fact]:
        index = given.index(choice)
        for delta in _texts(choice):
            if delta.field == "refusal":
                yield f.Refusal()
            yield delta
        for key, name, id_ in _calls(choice):
            if key not in self._calls:
                # The next call of a choice: those before it had their input.
                yield from self._close(index)
                self._calls[key] = False
                yield f.Opened(key, "tool_input", tool=(name, id_))
        for delta in _arguments(choice):
            self._calls[delta.key] = False
            yield delta
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason and self._finished.get(index) != reason:
            self._finished[index] = reason
            yield from self._close(index)
            yield f.Finish(index, _REASONS.get(reason, printable(reason)), reason)

    def _close(self, choice: int) -> Iterator[f.Fact]:
        for key, closed in self._calls.items():
            if key[0] == choice and not closed:
                self._calls[key] = True
                yield f.Closed(key, inferred=True)


def _texts(choice: dict[str, Any]) -> Iterator[f.Delta]:
    index, delta = given.index(choice), choice.get("delta")
    if not isinstance(delta, dict):  # a legacy completion
        text = choice.get("text")
        if isinstance(text, str) and text:
            yield f.Delta((index, "text"), "text", text, "text", visible=True)
        return
    for field, (kind, visible) in _FIELDS.items():
        value = delta.get(field)
        if isinstance(value, str) and value:
            yield f.Delta((index, field), field, value, kind, visible)
        elif field == "content" and isinstance(value, list):
            yield from _parts(index, value)
    audio = delta.get("audio")
    if isinstance(audio, dict) and isinstance(audio.get("transcript"), str) and audio["transcript"]:
        yield f.Delta((index, "audio"), "transcript", audio["transcript"], "text", visible=True)


def _parts(index: int, parts: list[Any]) -> Iterator[f.Delta]:
    """The content of a delta as a list of parts: text, and thinking that has parts of its own."""
    for part in given.objs(parts):
        if isinstance(part.get("text"), str) and part["text"]:
            yield f.Delta((index, "content"), "text", part["text"], "text", visible=True)
        for inner in given.objs(part.get("thinking")):
            if isinstance(inner.get("text"), str) and inner["text"]:
                yield f.Delta((index, "thinking"), "text", inner["text"], "thinking")


def _tool_parts(choice: dict[str, Any]) -> Iterator[tuple[f.Key, dict[str, Any], dict[str, Any]]]:
    index, delta = given.index(choice), given.obj(choice.get("delta"))
    for place, part in enumerate(given.objs(delta.get("tool_calls"))):
        at = part.get("index")
        yield (index, at if isinstance(at, int) else place), part, given.obj(part.get("function"))
    if isinstance(delta.get("function_call"), dict):
        yield (index, "function_call"), {}, delta["function_call"]


def _calls(choice: dict[str, Any]) -> Iterator[tuple[f.Key, str, str]]:
    for key, part, function in _tool_parts(choice):
        if isinstance(function.get("name"), str):
            yield key, function["name"], str(part.get("id") or "")


def _arguments(choice: dict[str, Any]) -> Iterator[f.Delta]:
    for key, _, function in _tool_parts(choice):
        value = function.get("arguments")
        text = json.dumps(value) if isinstance(value, dict) and value else value
        if isinstance(text, str) and text:
            yield f.Delta(key, "arguments", text)


def usage_of(usage: dict[str, Any], input_name: str, output_name: str) -> dict[str, int]:
    """Token counts as the conventions name them; cached ones are part of the input here, reasoning of the output."""
    read = given.obj(usage.get(f"{input_name}_details"))
    written = given.obj(usage.get(f"{output_name}_details"))
    counts = {
        s.INPUT_TOKENS: usage.get(input_name),
        s.OUTPUT_TOKENS: usage.get(output_name),
        s.CACHE_READ_TOKENS: read.get("cached_tokens"),
        s.REASONING_TOKENS: written.get("reasoning_tokens"),
    }
    return given.counts(counts)


def error_of(error: Any) -> str:
    """The API's word for an error: its type, else its code."""
    known = given.obj(error)
    kind = known.get("type")
    word = kind if kind != "error" and kind else known.get("code")  # an event of that type has its word beside
    return printable(str(word)) if isinstance(word, (str, int)) and word else "api_error"
