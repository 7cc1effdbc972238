# SPDX-License-Identifier: Apache-2.0
"""What is wrong with an objectives file: every problem with its line, field, value and remedy."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from otelstream._errors import ConfigurationError

Path = tuple[object, ...]
_SHOWN: Final = 60
# Bounded before it is text: an alias may stand for very much.
_repr: Final = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = _SHOWN


class ObjectivesError(ConfigurationError):
    """An objectives file that cannot be used; the message lists every problem, one a line."""

    def __init__(self, source: str, problems: list[str]) -> None:
        self.problems = tuple(problems)
        if len(problems) == 1:
            super().__init__(f"{source}: {problems[0]}")
        else:
            super().__init__(f"{source}: {len(problems)} problems\n" + "\n".join(f"  {p}" for p in problems))


def show(value: object) -> str:
    """Print a value of the file shortly, on one line."""
    try:
        text = _repr.repr(value)
    except ValueError:  # Python prints no number of over 4300 digits
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _step(key: object) -> str:
    plain = isinstance(key, str) and key.isprintable() and len(key) <= _SHOWN
    return f".{key}" if plain else f"[{show(key)}]"


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the file: where it is, and the list that every place shares of what is wrong."""

    path: Path = ()
    lines: Mapping[Path, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def at(self, key: object) -> Place:
        """The place of a key of this mapping, or of an item of this list."""
        return Place((*self.path, key), self.lines, self.problems)

    def __str__(self) -> str:
        """As people write it: `objectives[0].target`."""
        return "".join(map(_step, self.path)).removeprefix(".")

    def problem(self, message: str) -> None:
        """Note what is wrong here; what has no line of its own has that of what holds it."""
        held = (self.path[:length] for length in range(len(self.path), -1, -1))
        line = next((self.lines[path] for path in held if path in self.lines), None)
        self.problems.append(f"{f'line {line}: ' if line else ''}{self}: {message}")
