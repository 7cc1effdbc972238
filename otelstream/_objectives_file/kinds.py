# SPDX-License-Identifier: Apache-2.0
"""The kinds of value an objectives file holds: each checks one, says what is wrong with it, and states its schema."""

from __future__ import annotations

import difflib
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, Final

from otelstream._objectives_file.problems import Place, show
from otelstream._objectives_file.text import duration, exact, number, parse_duration

_UNITS: Final = "(ms, s, m, h, d)"
_LONGEST: Final = Decimal(86400) * 3650


class WrongError(Exception):
    """A value that is not allowed; the text says which, why, and what to write."""


class Kind(ABC):
    """What a value may be."""

    def read(self, value: Any, place: Place) -> Any:
        """Return the checked value; None when it was wrong, which is noted."""
        try:
            return self.check(value)
        except WrongError as error:
            place.problem(str(error))
            return None

    def check(self, value: Any) -> Any:
        """Return the checked value, or raise WrongError."""
        raise NotImplementedError

    @abstractmethod
    def remedy(self) -> str:
        """Say what to write."""

    @abstractmethod
    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def near_miss(value: object, known: Sequence[str]) -> str:
    """Return a question after the word of *known* that was probably meant, or nothing."""
    found = difflib.get_close_matches(value if isinstance(value, str) else show(value), known, 1)
    return f"did you mean `{found[0]}`?" if found else ""


@dataclass(frozen=True, slots=True)
class Seconds(Kind):
    """A duration with its unit, read as seconds."""

    example: str

    def remedy(self) -> str:
        return f"write it as {self.example} {_UNITS}"

    def check(self, value: Any) -> Decimal:
        if _is_number(value):
            raise WrongError(f"{show(value)} has no unit; {self.remedy()}")
        found = parse_duration(value) if isinstance(value, str) else None
        if (found is None and isinstance(value, str) and value.strip().startswith("-")) or found == 0:
            raise WrongError(f"{show(value)} is not positive; {self.remedy()}")
        if found is None:
            raise WrongError(f"{show(value)} is no duration; {self.remedy()}")
        if found > _LONGEST:
            raise WrongError(f"{show(value)} is over {duration(_LONGEST)}; {self.remedy()}")
        if found * 1000 % 1:
            raise WrongError(f"{show(value)} is finer than Prometheus measures; write whole milliseconds")
        return found

    def schema(self) -> dict[str, Any]:
        return {
            "type": "string",
            "pattern": r"^\s*(?!0+(\.0+)?[a-z])\d+(\.\d+)?(ms|s|m|h|d)\s*$",
            "description": "A number with its unit: 800ms, 2.5s, 5m, 1h, 30d",
        }


@dataclass(frozen=True, slots=True)
class Number(Kind):
    """A number between two bounds, both allowed."""

    example: float
    low: float = 0.000001
    high: float = 1_000_000

    def remedy(self) -> str:
        return f"write one such as {number(self.example)}"

    def check(self, value: Any) -> float:
        if _is_number(value) and self.low <= value <= self.high:
            return value  # type: ignore[no-any-return]
        raise WrongError(f"{show(value)} is no number from {number(self.low)} to {number(self.high)}; {self.remedy()}")

    def schema(self) -> dict[str, Any]:
        return {"type": "number", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True, slots=True)
class Ratio(Number):
    """A share between 0 and 1."""

    high: float = 0.999999

    def remedy(self) -> str:
        return f"write a ratio such as {number(self.example)}"

    def check(self, value: Any) -> float:
        given = value if _is_number(value) else -1
        if self.low <= given <= self.high:
            return float(given)
        if self.high < given < 1:
            left, least = (round(1 / (1 - exact(ratio))) for ratio in (given, self.high))
            most = f"{number(self.high)}, which leaves one in {least}"
            raise WrongError(f"{show(value)} leaves one in {left} for the rest; write at most {most}")
        low = number(self.low) if 0 < given < self.low else "0"
        hint = f"write {number(exact(given) / 100)} for {given}%" if 1 < given < 100 else self.remedy()
        raise WrongError(f"{show(value)} is not between {low} and 1; {hint}")


@dataclass(frozen=True, slots=True)
class Whole(Kind):
    """A count of at least 1."""

    example: int
    high: ClassVar[int] = 1_000_000

    def remedy(self) -> str:
        return f"write one such as {self.example}"

    def check(self, value: Any) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= self.high:
            return value
        raise WrongError(f"{show(value)} is no whole number from 1 to {self.high}; {self.remedy()}")

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": 1, "maximum": self.high}


@dataclass(frozen=True, slots=True)
class Version(Kind):
    """The one version of the file there is."""

    def remedy(self) -> str:
        return "write 1"

    def check(self, value: Any) -> int:
        if _is_number(value) and value == 1:
            return 1
        raise WrongError(f"{show(value)} is unknown; this otelstream reads version 1")

    def schema(self) -> dict[str, Any]:
        return {"const": 1}


@dataclass(frozen=True, slots=True)
class OneOf(Kind):
    """One of a closed set of words."""

    allowed: tuple[str, ...]

    def remedy(self) -> str:
        return f"allowed: {', '.join(self.allowed)}"

    def check(self, value: Any) -> str:
        if isinstance(value, str) and value in self.allowed:
            return value
        hint = " ".join(filter(None, (near_miss(value, self.allowed), self.remedy())))
        raise WrongError(f"{show(value)} is unknown; {hint}")

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.allowed)}


@dataclass(frozen=True, slots=True)
class Text(Kind):
    """A line of text; with a *pattern*, a name of that shape which is not *reserved*."""

    what: str
    hint: str = "write it in quotes"
    pattern: str = ""
    reserved: tuple[str, ...] = ()
    empty: bool = False

    def remedy(self) -> str:
        return self.hint

    def check(self, value: Any) -> str:
        fits = isinstance(value, str) and value.isprintable() and bool(value or self.empty)
        if not fits or (self.pattern and not re.fullmatch(self.pattern, value)):
            raise WrongError(f"{show(value)} is no {self.what}; {self.remedy()}")
        if value in self.reserved:
            raise WrongError(f"{show(value)} is set by the rules themselves; take another")
        return value  # type: ignore[no-any-return]

    def schema(self) -> dict[str, Any]:
        least = {} if self.empty or self.pattern else {"minLength": 1}
        return {"type": "string", **least, "pattern": f"^{self.pattern}$" if self.pattern else r"^[^\n]*$"}
