# SPDX-License-Identifier: Apache-2.0
"""What the events of any provider's stream can say: a closed set, told by a grammar and taken in by the record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from otelstream._semconv import BlockKind

Key = tuple[int, object]  # of a block: the choice it belongs to, and its index there


class Identity(NamedTuple):
    """The provider's id of the response, and the model that answers; None for what it does not say."""

    id: str | None
    model: str | None


class Restarted(NamedTuple):
    """Another message takes the place of the first: what that said of its end no longer holds."""


class Opened(NamedTuple):
    """A block begins. `tool`: the name and id of the call that the application is to run."""

    key: Key
    kind: BlockKind
    tool: tuple[str, str] | None = None
    visible: bool = False  # whether its chunks are what a user sees
    server_tool: bool = False  # the provider runs a tool of its own until the next block
    whole: int | None = None  # characters of a chunk that arrived with it; 0 for one that has no text
    text: str = ""  # the characters themselves, where a user sees them


BARE = "\0"  # in the place of a field: the data of the deltas that follow is their text


class Delta(NamedTuple):
    """One generated piece: the JSON string under `field` of its event, decoded. Opens its block where nobody has.

    `counter` names a number that is another in each event, where it may stand before the text.
    """

    key: Key
    field: str
    text: str
    kind: BlockKind = "other"
    visible: bool = False
    counter: str = ""


class Closed(NamedTuple):
    """A block ends. `inferred`: the protocol has no word for it, and more of the block would take it back."""

    key: Key
    inferred: bool = False


class WholeTool(NamedTuple):
    """A tool call that arrives in one piece; `arguments` is its input as JSON."""

    key: Key
    name: str
    id: str
    arguments: str


class Refusal(NamedTuple):
    """The model said in its own words that it refuses."""


class Finish(NamedTuple):
    """A choice gave its finish reason: normalised (`stop`, `length`, …), and in the provider's own word."""

    choice: int
    reason: str
    raw: str


class Usage(NamedTuple):
    """Token counts that are final, by attribute name; later ones replace those of the same name."""

    counts: Mapping[str, int]


class Terminal(NamedTuple):
    """The terminal event of the protocol."""


class Ping(NamedTuple):
    """A sign of life without content."""


class Failed(NamedTuple):
    """The provider broke the stream, in its own word."""

    error_type: str


class Garbled(NamedTuple):
    """An event of the protocol that nobody can decode."""


Fact = (
    Identity
    | Restarted
    | Opened
    | Delta
    | Closed
    | WholeTool
    | Refusal
    | Finish
    | Usage
    | Terminal
    | Ping
    | Failed
    | Garbled
)
