# SPDX-License-Identifier: Apache-2.0
"""The contract: how far each measure may rise or fall, checked as it is read, and judged against a comparison."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any, Final, Literal

from otelstream._objectives_file.kinds import Kind, OneOf, Version, WrongError
from otelstream._objectives_file.problems import ObjectivesError, Place, show
from otelstream._objectives_file.read import read
from otelstream._objectives_file.tables import Field, Table
from otelstream._objectives_file.text import parse_duration
from otelstream.texture._compare import Pair, Row
from otelstream.texture._measures import MEASURES, Unit

Direction = Literal["rise", "fall"]
Kept = Literal["kept", "broken", "undecided"]
_REMEDY: Final = "write `measures:`, and under it lines such as `first_token: {rise: 20%}`"
_PART: Final = r"(\d+(?:\.\d+)?)\s*%"
_MOST: Final = 1_000_000
_EXAMPLES: Final[Mapping[Unit, str]] = {"s": "0.3s", "tokens/s": "10", "chars": "200", "share": "0.1"}


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a measure may move: in its unit, or as a part of what it was before."""

    amount: float
    relative: bool

    def limit(self, row: Row) -> float:
        return self.amount * (row.before.middle or 0.0) if self.relative else self.amount


@dataclass(frozen=True, slots=True)
class _Allowed(Kind):
    """A tolerance of a measure in some unit."""

    unit: Unit

    def remedy(self) -> str:
        if self.unit == "share":
            return "write 0.1 for ten points of a hundred"
        part = "or as a part of what it was, 20%"
        return f"write it as {_EXAMPLES[self.unit]}" + (" (ms, s, m), " if self.unit == "s" else ", ") + part

    def check(self, value: Any) -> Tolerance:
        if isinstance(value, str) and (part := re.fullmatch(_PART, value.strip())) and self.unit != "share":
            return Tolerance(float(part[1]) / 100, True)
        if self.unit == "s":
            found = parse_duration(value) if isinstance(value, str) else None
            if found is None:
                raise WrongError(f"{show(value)} is no duration; {self.remedy()}")
            return Tolerance(float(found), False)
        most = 1 if self.unit == "share" else _MOST
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
            raise WrongError(f"{show(value)} is no number from 0 to {most}; {self.remedy()}")
        return Tolerance(float(value), False)

    def schema(self) -> dict[str, Any]:
        if self.unit == "share":
            return {"type": "number", "minimum": 0, "maximum": 1}
        if self.unit == "s":
            return {"type": "string", "pattern": rf"^\s*\d+(\.\d+)?(ms|s|m|h|d)\s*$|^\s*{_PART}\s*$"}
        return {
            "oneOf": [
                {"type": "number", "minimum": 0, "maximum": _MOST},
                {"type": "string", "pattern": rf"^\s*{_PART}\s*$"},
            ]
        }


def _table(unit: Unit) -> Table:
    return Table(
        (
            Field("rise", _Allowed(unit), "How far it may rise at most"),
            Field("fall", _Allowed(unit), "How far it may fall at most"),
        )
    )


FILE: Final = Table(
    (
        Field("version", Version(), default=1),
        Field(
            "undecided",
            OneOf(("pass", "fail")),
            "What becomes of a tolerance that the answers are too few to judge",
            default="pass",
        ),
        Field(
            "measures",
            Table(tuple(Field(measure.key, _table(measure.unit), measure.says) for measure in MEASURES)),
            "What may move, and how far; a measure that is not named may move as it likes",
            required=True,
        ),
    )
)


@dataclass(frozen=True, slots=True)
class Contract:
    """A checked contract."""

    tolerances: Mapping[str, Mapping[Direction, Tolerance]]
    undecided_fails: bool


def load(path: str | PathLike[str]) -> Contract:
    """Read a contract; ObjectivesError (a ValueError) lists every problem with its line."""
    data, lines = read(path, _REMEDY)
    if not isinstance(data, Mapping):
        raise ObjectivesError(fspath(path), [f"holds {show(data)}, no mapping; {_REMEDY}"])
    top = Place(lines=lines)
    told = FILE.values(data, top)
    tolerances: dict[str, dict[Direction, Tolerance]] = {}
    for key, both in (told["measures"] or {}).items():
        if both is not None:
            tolerances[key] = {word: both[word] for word in ("rise", "fall") if both[word] is not None}
            if not tolerances[key]:
                top.at("measures").at(key).problem("says nothing; give `rise`, `fall`, or both")
    if not tolerances and not top.problems:
        top.at("measures").problem(f"names no measure; {_REMEDY}")
    if top.problems:
        raise ObjectivesError(fspath(path), top.problems)
    return Contract(tolerances, told["undecided"] == "fail")


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the file, for editors."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "otelstream texture contract"}
    return {**head, **FILE.schema()}


@dataclass(frozen=True, slots=True)
class Clause:
    """One tolerance judged: broken where all of the interval is beyond it, kept where none of it is."""

    model: str
    row: Row
    direction: Direction
    limit: float
    kept: Kept
    one_of_many: bool  # whether other models were compared too

    def as_dict(self) -> dict[str, Any]:
        limit = float(f"{self.limit:.6g}")
        found = {"model": self.model, "measure": self.row.measure.key, "may": self.direction, "limit": limit}
        return {**found, "verdict": self.kept}


def judged(contract: Contract, pairs: Sequence[Pair]) -> Iterator[Clause]:
    """Judge every tolerance of the contract, for every pair of models."""
    for pair in pairs:
        for row in pair.rows:
            for direction, tolerance in contract.tolerances.get(row.measure.key, {}).items():
                limit = tolerance.limit(row)
                yield Clause(pair.after, row, direction, limit, _kept(row, direction, limit), len(pairs) > 1)


def _kept(row: Row, direction: Direction, limit: float) -> Kept:
    if row.low is None or row.high is None:
        return "undecided"
    near, far = (row.low, row.high) if direction == "rise" else (-row.high, -row.low)
    if near > limit:
        return "broken"
    return "kept" if far <= limit else "undecided"
