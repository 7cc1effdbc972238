# SPDX-License-Identifier: Apache-2.0
"""What the chunks of a Gemini answer mean. Nothing says that it is over: it is whole once each candidate finished."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from otelstream import _semconv as s
from otelstream._core.record import facts as f
from otelstream._core.record import given
from otelstream._core.record.grammar import BY_SHAPE, UNKNOWN, NoTerminal, Shape
from otelstream._core.record.text import printable

_REASONS = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    **dict.fromkeys(
        (
            "SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR", "JAILBREAK",
            "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION",
        ),
        "content_filter",
    ),
}  # fmt: skip
# Not how an answer ends, but why there is none: the provider could not make sense of what its model wrote.
_BROKEN = frozenset({
    "MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS",
    "MISSING_THOUGHT_SIGNATURE",
})  # fmt: skip
# Parts that are whole when they come and belong to no tool of the application's: what in them is text, and whether
# the provider is at work until the next part.
_WHOLE = {
    "executableCode": ("code", True),
    "codeExecutionResult": ("output", False),
    "toolCall": ("", True),
    "toolResponse": ("", False),
    "inlineData": ("", False),
    "fileData": ("", False),
}
_BESIDE = '"usageMetadata":'  # what follows it counts, and differs from chunk to chunk
_ANOTHER = "},{"  # another part, or another candidate


class Grammar(NoTerminal):
    """One stream's grammar: texts in deltas, tool calls whole, or piece by piece by the paths of their arguments."""

    __slots__ = ("_called", "_candidates", "_finished", "_named", "_open", "_places", "_prefix", "shape")

    delta = BY_SHAPE

    def __init__(self, candidates: int = 1) -> None:
        self.shape = UNKNOWN
        self._candidates = candidates
        self._prefix = ""  # of the deltas that come now
        self._named = False
        self._called: set[int] = set()  # candidates that asked for a tool
        self._finished: set[int] = set()
        self._places = 0  # blocks that came whole so far
        self._open: dict[int, _Arguments] = {}  # a candidate's call whose arguments come in pieces

    def learned(self, prefix: str, data: str) -> None:
        """A chunk is a mere delta if it says nothing but this one's text and other counts, and has no second part."""
        self.shape, self._prefix = UNKNOWN, prefix
        if not prefix:
            return
        text = json.JSONDecoder().raw_decode(data, len(prefix) - 1)[1]
        rest, counts, _ = data[text - 1 :].partition(_BESIDE)
        if "finishReason" in rest or ", " in prefix + rest or _ANOTHER in prefix + rest:
            return  # the last one; or written in a way that does not tell parts apart
        self.shape = (
            Shape(prefix, rest + counts, lacks=_ANOTHER) if counts else Shape(prefix, ends=rest, lacks=_ANOTHER)
        )

    def is_known(self, name: str | None) -> bool:
        return True

    def piece(self, data: str) -> f.Delta | None:
        candidate = json.loads(data)["candidates"][0]
        return _text(given.index(candidate), candidate["content"]["parts"][0])

    def structural(self, name: str | None, data: str) -> Iterator[f.Fact]:
        chunk = json.loads(data)
        if not isinstance(chunk, dict):
            return
        if not self._named and (chunk.get("responseId") or chunk.get("modelVersion")):
            self._named = True
            yield f.Identity(given.word(chunk.get("responseId")), given.word(chunk.get("modelVersion")))
        broken = None
        for candidate in given.objs(chunk.get("candidates")):
            index = given.index(candidate)
            for part in given.objs(given.obj(candidate.get("content")).get("parts")):
                yield from self._part(index, part)
        for candidate in given.objs(chunk.get("candidates")):
            reason = given.word(candidate.get("finishReason"))
            if reason:
                broken = reason if reason in _BROKEN else broken
                yield from self._finish(given.index(candidate), reason)
        blocked = given.word(given.obj(chunk.get("promptFeedback")).get("blockReason"))
        for index in range(self._candidates if blocked else 0):
            yield f.Finish(index, "content_filter", blocked or "")
        usage = chunk.get("usageMetadata")
        if isinstance(usage, dict):
            final = blocked is not None or len(self._finished) >= self._candidates
            yield f.Usage(usage_of(usage, final=final))
        error = chunk.get("error")
        if error:
            yield f.Failed(error_of(error))
        elif broken:
            yield f.Failed(broken)
        if self._prefix and data.startswith(self._prefix) and not self.shape.fits(data):
            self.learned(self._prefix, data)  # the one that was learned from said more, as the first one may

    def _part(self, index: int, part: dict[str, Any]) -> Iterator[f.Fact]:
        delta = _text(index, part)
        if delta is not None:
            yield delta
        call = part.get("functionCall")
        if isinstance(call, dict):
            yield from self._call(index, call)
        for name, (text, working) in _WHOLE.items():
            whole = part.get(name)
            if isinstance(whole, dict):
                self._places += 1
                said = whole.get(text) if text else None
                key = (index, self._places)
                seen = name in ("inlineData", "fileData")
                chars = len(said) if isinstance(said, str) else 0
                yield f.Opened(key, "other", visible=seen, server_tool=working, whole=chars)
                yield f.Closed(key)

    def _call(self, index: int, call: dict[str, Any]) -> Iterator[f.Fact]:
        self._called.add(index)
        pieces, going_on = self._open.get(index), call.get("willContinue") is True
        name = call.get("name")
        if isinstance(name, str) and name:
            if pieces is not None:  # whose end nobody said
                yield from self._whole(index, pieces, inferred=True)
                pieces = None
            self._places += 1
            key, id_ = (index, self._places), str(call.get("id") or "")
            if not going_on and "partialArgs" not in call:
                arguments = call.get("args")
                yield f.WholeTool(key, name, id_, json.dumps(arguments if arguments is not None else {}))
                return
            yield f.Opened(key, "tool_input", tool=(name, id_))
            pieces = self._open[index] = _Arguments(key)
        if pieces is None:
            return
        for argument in given.objs(call.get("partialArgs")):
            text = pieces.add(argument)
            if text:
                yield f.Delta(pieces.key, "stringValue", text)
        if not going_on:
            yield from self._whole(index, pieces)

    def _whole(self, index: int, pieces: _Arguments, *, inferred: bool = False) -> Iterator[f.Fact]:
        self._open.pop(index, None)
        rest = pieces.end()
        if rest:
            yield f.Delta(pieces.key, "stringValue", rest)
        yield f.Closed(pieces.key, inferred)

    def _finish(self, index: int, reason: str) -> Iterator[f.Fact]:
        known = _REASONS.get(reason) or ("error" if reason in _BROKEN else printable(reason.lower()))
        self._finished.add(index)
        pieces = self._open.get(index)
        if pieces is not None and known == "stop":
            yield from self._whole(index, pieces, inferred=True)
        yield f.Finish(index, "tool_calls" if known == "stop" and index in self._called else known, reason)


class _Arguments:
    """Arguments that come by their paths, put together as the JSON of one object: a member for each path."""

    __slots__ = ("_begun", "_path", "key")

    def __init__(self, key: f.Key) -> None:
        self.key = key
        self._begun = False
        self._path: str | None = None  # of a string that goes on

    def add(self, argument: dict[str, Any]) -> str:
        path = str(argument.get("jsonPath", "")).removeprefix("$.")
        value = next((argument[kind] for kind in _VALUES if kind in argument), None)
        goes_on = argument.get("willContinue") is True
        if self._path == path and isinstance(value, str):
            text = json.dumps(value)[1:-1]
        else:
            text = ('"' if self._path is not None else "") + ("," if self._begun else "{") + json.dumps(path) + ":"
            text += json.dumps(value)[:-1] if isinstance(value, str) else json.dumps(value)
            self._begun = True
            self._path = path if isinstance(value, str) else None
        if self._path is not None and not goes_on:
            self._path, text = None, text + '"'
        return text

    def end(self) -> str:
        text = ('"' if self._path is not None else "") + ("}" if self._begun else "")
        self._path = None
        return text


_VALUES = ("stringValue", "numberValue", "boolValue", "nullValue")


def _text(index: int, part: dict[str, Any]) -> f.Delta | None:
    text = part.get("text")
    if not isinstance(text, str) or not text:
        return None
    if part.get("thought") is True:
        return f.Delta((index, "thought"), "text", text, "thinking")
    return f.Delta((index, "text"), "text", text, "text", visible=True)


def usage_of(usage: dict[str, Any], *, final: bool) -> dict[str, int]:
    """Token counts as the conventions name them; what is generated is counted while it comes, and final at the end."""
    counts = {s.INPUT_TOKENS: usage.get("promptTokenCount"), s.CACHE_READ_TOKENS: usage.get("cachedContentTokenCount")}
    if final:
        counts[s.OUTPUT_TOKENS] = usage.get("candidatesTokenCount")
        counts[s.REASONING_TOKENS] = usage.get("thoughtsTokenCount")
    known = given.counts(counts)
    if s.REASONING_TOKENS in known:  # which are part of the output, as others count it
        known[s.OUTPUT_TOKENS] = known.get(s.OUTPUT_TOKENS, 0) + known[s.REASONING_TOKENS]
    return known


def error_of(error: Any) -> str:
    """The API's word for an error: its status, else its code."""
    known = given.obj(error)
    word = known.get("status") or known.get("code")
    return printable(str(word)) if isinstance(word, (str, int)) and word else "api_error"
