# SPDX-License-Identifier: Apache-2.0
"""What the chunks of the router mean: a chat completion's, as objects. Most are one piece of text and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from otelstream._core.record import facts as f
from otelstream.openai import _chat

PIECE = "piece"  # in the place of an event's name: its data is a text of the field that the one before had
_VISIBLE = {"content": True, "reasoning_content": False}


class Grammar(_chat.Grammar):
    """One stream's grammar: OpenAI's, with pieces that have a short way."""

    __slots__ = ("field",)

    delta = PIECE

    def __init__(self) -> None:
        super().__init__()
        self.field: str | None = None  # of the pieces that come now

    def learned(self, prefix: str, data: str) -> None:
        """A piece is known by its name."""

    def piece(self, data: str) -> f.Delta | None:
        field = self.field or "content"
        visible = _VISIBLE[field]
        return f.Delta((0, field), f.BARE, data, "text" if visible else "thinking", visible)

    def structural(self, name: str | None, data: str) -> Iterator[f.Fact]:
        for fact in super().structural(name, data):
            if isinstance(fact, f.Delta):
                self.field = fact.field if fact.field in _VISIBLE and fact.key == (0, fact.field) else None
                yield fact._replace(field=f.BARE)
            else:
                yield fact


def told(grammar: Grammar, chunk: Any, wrapper: Any) -> tuple[str | None, str]:
    """The name and the data of a chunk that `wrapper` gives; a finish reason that is not the provider's is left out."""
    own = chunk.__dict__
    choices = own["choices"]
    if len(choices) == 1 and grammar.field is not None and own.get("usage") is None:
        choice = choices[0]
        own = choice.__pydantic_extra__ or choice.__dict__
        if own["finish_reason"] is None and not own["index"]:
            text = _piece(own["delta"], grammar.field)
            if text is not None:
                return PIECE, text
    whole = chunk.model_dump()
    if _makes_it_up(wrapper):
        whole["choices"] = [{**choice, "finish_reason": None} for choice in whole["choices"]]
    return None, json.dumps(whole, default=str)


def _makes_it_up(wrapper: Any) -> bool:
    """Whether a finish reason can only be the router's: some versions say `stop` where the provider was cut."""
    said = wrapper.__dict__
    return said.get("received_finish_reason", True) is None and not said.get("intermittent_finish_reason")


def _piece(delta: Any, field: str) -> str | None:
    """The one text that a delta gives, if that is all it says, but for its role; None where there is more, or less."""
    fields, more = delta.__dict__, delta.__pydantic_extra__
    text = fields.get(field) or (more and more.get(field))
    if text.__class__ is not str:
        return None
    said = [*filter(None, fields.values())]
    if more:
        said += filter(None, more.values())
    return text if len(said) == (2 if fields.get("role") else 1) and text else None
