# SPDX-License-Identifier: Apache-2.0
"""Lists and mappings of an objectives file, and the fields that their tables are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from otelstream._objectives_file.kinds import Kind, Text, near_miss
from otelstream._objectives_file.problems import Place, show

_LINES: Final = "write `key: value` lines under it"


@dataclass(frozen=True, slots=True)
class Names(Kind):
    """A list of names, each there once."""

    item: Kind
    example: str

    def remedy(self) -> str:
        return f"write [{self.example}] or leave the key out"

    def read(self, value: Any, place: Place) -> tuple[str, ...] | None:
        if not isinstance(value, list) or not value:
            place.problem(f"{show(value)} is no list of names; {self.remedy()}")
            return None
        found = [self.item.read(item, place.at(index)) for index, item in enumerate(value)]
        if None in found:
            return None
        if len(set(found)) < len(found):
            place.problem(f"{show(value)} names one twice; keep each once")
            return None
        return tuple(found)

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self.item.schema(), "minItems": 1, "uniqueItems": True}


@dataclass(frozen=True, slots=True)
class Labels(Kind):
    """A mapping of label names to texts, read as sorted pairs."""

    name: Text
    value: Text

    def remedy(self) -> str:
        return _LINES

    def read(self, value: Any, place: Place) -> tuple[tuple[str, str], ...] | None:
        if not isinstance(value, Mapping):
            place.problem(f"{show(value)} is no mapping; {self.remedy()}")
            return None
        found = [
            (self.name.read(key, place.at(key)), self.value.read(item, place.at(key))) for key, item in value.items()
        ]
        return None if any(None in pair for pair in found) else tuple(sorted(found))

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "propertyNames": {"pattern": self.name.schema()["pattern"]},
            "additionalProperties": self.value.schema(),
        }


@dataclass(frozen=True, slots=True)
class Field:
    """One key of a mapping. `default` is written as in the file; `when` names the only values of another key
    that it may stand beside, and `required` then means beside those."""

    name: str
    kind: Kind
    says: str = ""
    default: Any = None
    required: bool = False
    when: tuple[str, tuple[str, ...]] | None = None

    def read(self, row: Mapping[str, Any], place: Place, beside: Any) -> Any:
        """Return the checked value or the default, where *beside* is the value of the key of `when`."""
        value, there = row.get(self.name), self.name in row
        if self.when and beside is not None and beside not in self.when[1]:
            if there:
                place.problem(f"{show(value)} means nothing for {beside}; remove it")
            return None
        # Beside what is wrong itself, nothing can be missing.
        if self.required and value is None and (there or not self.when or beside is not None):
            place.problem(f"missing; {self.kind.remedy()}")
            return None
        if not there and self.default is None:
            return None
        return self.kind.read(value if there else self.default, place)

    def schema(self) -> dict[str, Any]:
        said = {"description": self.says} if self.says else {}
        usual = {} if self.default in (None, "", {}) else {"default": self.default}
        return {**self.kind.schema(), **said, **usual}


@dataclass(frozen=True, slots=True)
class Table(Kind):
    """A mapping with these keys; exactly one key of `either` is there."""

    fields: tuple[Field, ...]
    either: tuple[str, ...] = ()

    def remedy(self) -> str:
        return _LINES

    def read(self, value: Any, place: Place) -> dict[str, Any] | None:
        before = len(place.problems)
        found = self.values(value, place)
        return found if len(place.problems) == before else None

    def values(self, value: Any, place: Place) -> dict[str, Any]:
        """Return what could be read of each key, and None for the others."""
        if not isinstance(value, Mapping):
            place.problem(f"{show(value)} is no mapping; {self.remedy()}")
            return dict.fromkeys(item.name for item in self.fields)
        known = [item.name for item in self.fields]
        for key in value:
            if key not in known:
                hint = near_miss(key, known) or f"remove it; known keys: {', '.join(known)}"
                place.at(key).problem(f"unknown key; {hint}")
        if self.either and sum(key in value for key in self.either) != 1:
            place.at(self.either[0]).problem(f"give either {' or '.join(f'`{key}`' for key in self.either)}")
        found: dict[str, Any] = {}
        for item in self.fields:
            beside = found[item.when[0]] if item.when else None
            found[item.name] = item.read(value, place.at(item.name), beside)
        return found

    def schema(self) -> dict[str, Any]:
        found = {
            "type": "object",
            "properties": {item.name: item.schema() for item in self.fields},
            "required": [item.name for item in self.fields if item.required and not item.when],
            "additionalProperties": False,
        }
        if self.either:
            found["oneOf"] = [{"required": [key]} for key in self.either]
        conditions = [
            {
                "if": {"properties": {item.when[0]: {"enum": list(item.when[1])}}},
                "then": {"required": [item.name]} if item.required else {},
                "else": {"properties": {item.name: False}},
            }
            for item in self.fields
            if item.when
        ]
        return {**found, "allOf": conditions} if conditions else found


@dataclass(frozen=True, slots=True)
class Rows(Kind):
    """A list of mappings; what is wrong with one leaves None in its place."""

    row: Table
    most: int | None = None

    def remedy(self) -> str:
        return "write `- ...` lines under it"

    def read(self, value: Any, place: Place) -> list[dict[str, Any] | None] | None:
        if not isinstance(value, list) or not value:
            place.problem(f"{show(value)} is no list with an entry; {self.remedy()}")
            return None
        if self.most and len(value) > self.most:
            place.problem(f"{len(value)} are more than {self.most}; keep the ones people act on")
        return [self.row.read(item, place.at(index)) for index, item in enumerate(value)]

    def schema(self) -> dict[str, Any]:
        most = {"maxItems": self.most} if self.most else {}
        return {"type": "array", "minItems": 1, **most, "items": self.row.schema()}


@dataclass(frozen=True, slots=True)
class OrOff(Kind):
    """A mapping, or `off`, which is read as an empty one."""

    table: Table

    def remedy(self) -> str:
        return f"write `off`, or {_LINES}"

    def read(self, value: Any, place: Place) -> dict[str, Any] | None:
        # YAML 1.1 reads a bare `off` as false.
        return {} if value is False or value == "off" else self.table.read(value, place)

    def schema(self) -> dict[str, Any]:
        return {"oneOf": [{"enum": [False, "off"]}, self.table.schema()]}
