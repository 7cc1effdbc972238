# SPDX-License-Identifier: Apache-2.0
"""What the matrix has to know of an API: how an application asks, what it sees of an answer, what the log tells."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from otelstream.testing._bedrock import payload_of

if TYPE_CHECKING:
    from .columns import Shape
    from .expectations import Truth

NEVER = b"\0"  # nobody reads these as bytes
# What the log of the simulator calls a finish reason, as otelstream does.
NORMAL = {
    "end_turn": "stop", "stop_sequence": "stop", "tool_use": "tool_calls", "max_tokens": "length",
    "model_context_window_exceeded": "length", "refusal": "content_filter", "pause_turn": "pause_turn",
    "max_output_tokens": "length", "guardrail_intervened": "content_filter",
}  # fmt: skip


@dataclass(frozen=True)
class Unlike:
    """Shapes for which something else is true, and why. With no changes: they cannot express the ending."""

    when: Callable[[Shape], bool]
    why: str
    changes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Api:
    """One API of one SDK; `unlike` is what differs of it from the table, by ending."""

    name: str  # where a client has it
    package: str
    ask: Mapping[str, Any]
    readings: tuple[str, ...]
    text: bytes  # stands in a body once for each piece of text
    finish: bytes  # stands in a body where the finish reason does
    shows: Callable[[Any], bool]  # whether an object of the SDK's has a piece of text
    tells: Callable[[Any], bool]  # whether it has the finish reason
    learn: Callable[[Truth, str, dict[str, Any]], None]
    tool: Callable[[dict[str, Any]], dict[str, Any]] = lambda tool: tool
    structured: str = "output_format"  # the parameter of helpers that takes a class
    needs_terminal: bool = True  # a body that ends after the finish reason is cut short
    has_terminal: bool = True  # something says that no more comes
    usage_last: bool = False  # no usage before the end
    unlike: Mapping[str, Unlike | tuple[Unlike, ...]] = field(default_factory=dict)
    provider: str = ""  # as it is told, where that is not the name of the package
    operation: str = "chat"
    refused: str = "529"  # its word for an attempt that was refused and made again

    def of(self, client: Any) -> Any:
        """Where `client` has it; AttributeError if that version has not."""
        for name in self.name.split("."):
            client = getattr(client, name)
        return client

    def unlikes(self, name: str) -> tuple[Unlike, ...]:
        """What is otherwise of an ending."""
        found = self.unlike.get(name, ())
        return found if isinstance(found, tuple) else (found,)

    def request(self, ending: Mapping[str, Any]) -> dict[str, Any]:
        """What is asked, the wishes of an ending included."""
        wishes = dict(ending)
        if tools := wishes.pop("tools", None):
            wishes["tools"] = [self.tool(tool) for tool in tools]
        if shape := wishes.pop("output_format", None):
            wishes[self.structured] = shape
        return {**self.ask, **wishes}


def always(why: str, **changes: Any) -> Unlike:
    """Of every shape of an API."""
    return Unlike(lambda shape: True, why, changes)


def payload(frame: bytes) -> dict[str, Any]:
    """The JSON object of a frame; empty where there is none."""
    try:
        data = payload_of(frame) if frame.startswith(b"\0") else json.loads(frame.partition(b"data: ")[2])
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}
