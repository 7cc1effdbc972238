# SPDX-License-Identifier: Apache-2.0
"""What the chunks of `invoke_model_with_response_stream` mean: the dialect of the model's vendor, told by its first.

The name of a model does not always tell its vendor (an inference profile has a name of its own). Whoever it is, Bedrock
puts its counts into the last chunk.
"""

from __future__ import annotations

import json
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from otelstream import _semconv as s
from otelstream._core.record import facts as f
from otelstream._core.record import given
from otelstream._core.record.batch import NO_DATA
from otelstream._core.record.ending import Ending
from otelstream._core.record.grammar import BY_SHAPE, UNKNOWN, NoTerminal, Shape
from otelstream._core.record.text import printable
from otelstream.anthropic import _grammar as anthropic
from otelstream.bedrock import _converse as converse
from otelstream.openai import _chat as chat

METRICS = "amazon-bedrock-invocationMetrics"
GUARDRAIL = "amazon-bedrock-guardrailAction"
_CHUNK = "chunk"
_PLAIN = b'{"bytes":"'
_NEVER = b"\0"  # what no payload begins with
# The dialects that are nothing but text: where a chunk has it, and its finish reason.
_TEXTS = {
    "outputText": "completionReason",  # Titan
    "generation": "stop_reason",  # Llama
    "completion": "stop_reason",  # Claude's, before its messages
    "text": "finish_reason",  # Cohere: each generation by its index
}
_REASONS = {
    "stop": "stop", "finish": "stop", "complete": "stop", "stop_sequence": "stop", "stop_criteria_met": "stop",
    "length": "length", "max_tokens": "length", "content_filtered": "content_filter", "error_toxic": "content_filter",
}  # fmt: skip


class Grammar(NoTerminal):
    """One stream's grammar. A chunk is a mere delta if it differs from the one before in its text only."""

    __slots__ = ("_chat", "_head", "_messages", "_say", "met", "raw", "shape")

    delta = BY_SHAPE

    def __init__(self) -> None:
        self.shape = UNKNOWN
        self.raw, self._head = _NEVER, ""  # how the payloads of the deltas that come now begin, and their data
        self.met = False  # its first chunk
        self._messages = anthropic.Grammar()
        self._chat = chat.Grammar()
        self._say: Callable[[dict[str, Any], str], Iterator[f.Fact]] = _unknown

    def meet(self, data: str) -> bool:
        """Look at the first chunk, whose vendor the others have too; False if nobody here knows that."""
        self.met = True
        try:
            first = json.loads(data)
        except ValueError:
            return False
        if not isinstance(first, dict):
            return False
        if first.keys() & _TEXTS.keys() or "is_finished" in first:
            self._say = _plain
        elif isinstance(first.get("outputs"), list):
            self._say = _mistral
        elif isinstance(first.get("type"), str):
            self._say = self._claude
        elif first.keys() & converse.EVENTS:
            self._say = _nova
        elif isinstance(first.get("choices"), list):
            self._say = self._completion
        return self._say is not _unknown

    def learned(self, prefix: str, data: str) -> None:
        self.shape, self.raw = UNKNOWN, _NEVER
        if not prefix:
            return
        if (
            self._say in (self._claude, _nova) and prefix.isascii()
        ):  # whose finish reason comes in another kind of chunk
            self._head = prefix[: len(prefix) // 3 * 3]  # as base64 has it: four characters for three
            self.raw = _PLAIN + b2a_base64(self._head.encode(), newline=False)
            return
        rest = data[json.JSONDecoder().raw_decode(data, len(prefix) - 1)[1] :]
        # Where a count of its own stands behind the text, what must not differ is that there is no reason yet.
        unfinished = next((word for word in map('"{}":null'.format, _TEXTS.values()) if word in rest), "")
        self.shape = Shape(prefix, within=unfinished) if unfinished else Shape(prefix, ends=rest)

    def is_known(self, name: str | None) -> bool:
        return name == _CHUNK

    def complete_at_eof(self, finish_reason: str | None) -> Ending | None:
        return None if self._say == self._claude else super().complete_at_eof(finish_reason)

    def plain(self, batch: Sequence[bytes]) -> list[str]:
        """The data of deltas that were kept as they came."""
        head, start = self._head, len(self.raw)
        try:
            return [head + a2b_base64(each[start : each.find(b'"', start)]).decode() for each in batch]
        except ValueError:
            return [_or_nothing(each) for each in batch]

    def piece(self, data: str | bytes) -> f.Delta | None:
        data = text_of(data) if isinstance(data, bytes) else data
        said = self._say(json.loads(data), data)
        return next((fact for fact in said if isinstance(fact, f.Delta)), None)

    def structural(self, name: str | None, data: str) -> Iterator[f.Fact]:
        if name is not None and name.startswith(converse.EXCEPTION):
            yield f.Failed(printable(name[1:]) or "api_error")
            return
        event = json.loads(data)
        if name != _CHUNK or not isinstance(event, dict):
            return
        if event.get(GUARDRAIL) == "INTERVENED":
            yield f.Refusal()
        yield from self._say(event, data)
        counts = event.get(METRICS)
        if isinstance(counts, dict) and self._say != self._claude:
            if self._say is not _nova:
                yield f.Usage(_counted(counts))
            yield f.Terminal()

    def _claude(self, event: dict[str, Any], data: str) -> Iterator[f.Fact]:
        kind = event.get("type")
        yield from self._messages.structural(kind if isinstance(kind, str) else "", data)

    def _completion(self, event: dict[str, Any], data: str) -> Iterator[f.Fact]:
        yield from self._chat.structural(None, data)


def text_of(payload: bytes) -> str:
    """The data of a chunk, which is JSON in base64 in JSON."""
    try:
        plain = payload.startswith(_PLAIN)
        return a2b_base64(payload[10 : payload.find(b'"', 10)] if plain else json.loads(payload)["bytes"]).decode()
    except (TypeError, KeyError):
        return payload.decode()


def _or_nothing(payload: bytes) -> str:
    try:
        return text_of(payload)
    except ValueError:
        return NO_DATA


def _nova(event: dict[str, Any], _: str) -> Iterator[f.Fact]:
    for name, inner in event.items():
        yield from (fact for fact in converse.said(name, inner) if not isinstance(fact, f.Terminal))


def _mistral(event: dict[str, Any], _: str) -> Iterator[f.Fact]:
    outputs = event.get("outputs")
    for index, output in enumerate(outputs if isinstance(outputs, list) else ()):
        if isinstance(output, dict):
            yield from _text(index, output.get("text"), "text", output.get("stop_reason"))


def _plain(event: dict[str, Any], _: str) -> Iterator[f.Fact]:
    index = event.get("index")
    field = next((name for name in _TEXTS if name in event), "text")
    yield from _text(index if isinstance(index, int) else 0, event.get(field), field, event.get(_TEXTS[field]))


def _text(index: int, text: Any, field: str, reason: Any) -> Iterator[f.Fact]:
    if isinstance(text, str) and text:
        # One answer is asked for, mostly; where more come in turns, each is a block.
        yield f.Delta((0, index), field, text, "text", visible=True)
    if isinstance(reason, str) and reason:
        yield f.Finish(0, _REASONS.get(reason.lower(), printable(reason)), reason)


def _unknown(_: dict[str, Any], __: str) -> Iterator[f.Fact]:
    """Its cadence is all that is to be seen."""
    yield f.Delta((0, None), "", "")


def _counted(counts: dict[str, Any]) -> dict[str, int]:
    names = {"inputTokenCount": s.INPUT_TOKENS, "outputTokenCount": s.OUTPUT_TOKENS}
    found = {attribute: counts.get(name) for name, attribute in names.items()}
    return given.counts(found)
