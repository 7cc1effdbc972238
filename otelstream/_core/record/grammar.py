# SPDX-License-Identifier: Apache-2.0
"""What one provider's events mean: the part of an adapter that the record asks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from otelstream._core.record.ending import Ending, by_finish_reason
from otelstream._core.record.facts import Delta, Fact

BY_SHAPE = "\0"  # in the place of a name: no event has it


class Shape(NamedTuple):
    """What the data of a mere delta begins with, has somewhere, ends with and lacks; none, while it begins with ""."""

    begins: str = ""
    within: str = ""
    ends: str = ""
    lacks: str = ""  # "": no matter what it has; else what parts a second piece from the first

    def fits(self, data: str) -> bool:
        """Whether `data` is such a delta. The hot path has this written out."""
        begins, within, ends, lacks = self
        return (
            bool(begins)
            and data.startswith(begins)
            and data.endswith(ends)
            and within in data
            and not (lacks and lacks in data)
        )


UNKNOWN = Shape()


class Grammar(Protocol):
    """One stream's grammar; it may keep a state. Nothing of it is called once per chunk.

    Where its adapter keeps deltas as bytes, `plain(batch)` decodes them, and `piece` takes those too.
    """

    delta: str  # the event name that makes a delta; BY_SHAPE where the name does not tell
    shape: Shape  # where the name does not tell: set by `learned`

    def structural(self, name: str | None, data: str) -> Iterable[Fact]:
        """Say what any other event means, in order. A ValueError says that nobody can decode it."""
        ...

    def piece(self, data: str) -> Delta | None:
        """Decode one delta; None for one without generated text. A ValueError says that nobody can."""
        ...

    def learned(self, prefix: str, data: str) -> None:
        """The deltas of the block that is read now begin with `prefix`, up to their text, as `data` does.

        Both are "" when that is unknown again. The number of a `counter` is left out of `prefix`.
        """
        ...

    def is_known(self, name: str | None) -> bool:
        """Whether an event of that name belongs to the protocol, so that one without sense is a fault."""
        ...

    def complete_at_eof(self, finish_reason: str | None) -> Ending | None:
        """How a stream ended whose body ended without a terminal event; None: it was cut short."""
        ...


class NoTerminal:
    """For protocols that end with their body: whole once every choice has its finish reason."""

    def complete_at_eof(self, finish_reason: str | None) -> Ending | None:
        """The finish reason's verdict, if there is one."""
        return None if finish_reason is None else by_finish_reason(finish_reason)


class Silent(NoTerminal):
    """Of a stream whose record is out: hears nothing."""

    delta = BY_SHAPE
    shape = UNKNOWN

    def structural(self, name: str | None, data: str) -> Iterable[Fact]:
        return ()

    def piece(self, data: str) -> Delta | None:
        return None

    def learned(self, prefix: str, data: str) -> None:
        return

    def is_known(self, name: str | None) -> bool:
        return False


SILENT = Silent()
