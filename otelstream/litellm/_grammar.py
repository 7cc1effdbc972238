# SPDX-License-Identifier: Apache-2.0
"""What the chunks of the router mean: a chat completion's, as objects. Most are one piece of text and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from json.encoder import encode_basestring_ascii
from typing import Any

from otelstream._core.record import facts as f
from otelstream.openai import _chat

PIECE = "piece"  # in the place of an event's name: its data is `{"content": "…"}`
_NOWHERE = "\0"
_NOTHING: Mapping[str, Any] = {}
_VISIBLE = {"content": True, "reasoning_content": False}


class Grammar(_chat.Grammar):
    """One stream's grammar: OpenAI's, with pieces that have a short way."""

    __slots__ = ()

    delta = PIECE

    def learned(self, prefix: str, data: str) -> None:
        """A piece is known by its name."""

    def piece(self, data: str) -> f.Delta | None:
        ((field, text),) = json.loads(data).items()
        visible = _VISIBLE[field]
        return f.Delta((0, field), field, text, "text" if visible else "thinking", visible)

    def structural(self, name: str | None, data: str) -> Iterator[f.Fact]:
        for fact in super().structural(name, data):
            # What a whole chunk looks like says nothing of how pieces do.
            yield fact._replace(field=_NOWHERE) if isinstance(fact, f.Delta) else fact

    @property
    def named(self) -> bool:
        """Whether a chunk has said who answers."""
        return self._named


def told(grammar: Grammar, chunk: Any, wrapper: Any) -> tuple[str | None, str]:
    """The name and the data of a chunk that `wrapper` gives; a finish reason that is not the provider's is left out."""
    own = chunk.__dict__
    choices = own["choices"]
    if len(choices) == 1 and own.get("usage") is None and grammar.named:
        data = _piece(choices[0])
        if data is not None:
            return PIECE, data
    whole = chunk.model_dump()
    if _makes_it_up(wrapper):
        whole["choices"] = [{**choice, "finish_reason": None} for choice in whole["choices"]]
    return None, json.dumps(whole, default=str)


def _makes_it_up(wrapper: Any) -> bool:
    """Whether a finish reason can only be the router's: some versions say `stop` where the provider was cut."""
    said = wrapper.__dict__
    return said.get("received_finish_reason", True) is None and not said.get("intermittent_finish_reason")


def _piece(choice: Any) -> str | None:
    """The one text that a choice gives, as the data of a piece; None where it says more, or nothing."""
    own = choice.__pydantic_extra__ or choice.__dict__
    if own["finish_reason"] is not None or own["index"]:
        return None
    delta, data = own["delta"], None
    for fields in (delta.__dict__, delta.__pydantic_extra__ or _NOTHING):
        for name, value in fields.items():
            if not value or name == "role":
                continue
            if data is not None or name not in _VISIBLE or value.__class__ is not str:
                return None
            data = f'{{"{name}": {encode_basestring_ascii(value)}}}'
    return data
