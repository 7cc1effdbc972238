# SPDX-License-Identifier: Apache-2.0
"""Read plain data into checked values, collecting every problem with its path, value and remedy."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Final

from otelstream._objectives_file._text import parse_duration

_SHOWN: Final = 60


class ObjectivesError(ValueError):
    """An objectives file that cannot be used; the message lists every problem, one a line."""

    def __init__(self, source: str, problems: list[str]) -> None:
        self.problems = tuple(problems)
        if len(problems) == 1:
            super().__init__(f"{source}: {problems[0]}")
        else:
            super().__init__(f"{source}: {len(problems)} problems\n" + "\n".join(f"  {p}" for p in problems))


def show(value: object) -> str:
    """Print a value of the file shortly, on one line."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


class Reader:
    """One mapping of the file and its path; readers of nested mappings share the list of problems."""

    def __init__(self, data: Mapping[str, object], path: str, problems: list[str]) -> None:
        self.data, self.path, self.problems = data, path, problems

    def at(self, key: str | int) -> str:
        if isinstance(key, int):
            return f"{self.path}[{key}]"
        return f"{self.path}.{key}" if self.path else key

    def problem(self, key: str | int, message: str) -> None:
        self.problems.append(f"{self.at(key)}: {message}")

    def known(self, keys: Collection[str]) -> None:
        """Report keys that nothing reads, with the likely spelling."""
        for key in self.data:
            if key not in keys:
                near = difflib.get_close_matches(str(key), keys, 1)
                remedy = f"did you mean `{near[0]}`?" if near else "remove it; known keys: " + ", ".join(keys)
                self.problem(str(key), f"unknown key; {remedy}")

    def required(self, key: str, remedy: str) -> bool:
        if self.data.get(key) is None:
            self.problem(key, f"missing; {remedy}")
            return False
        return True

    def ratio(self, key: str, remedy: str) -> float | None:
        value = self.data.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1:
            return float(value)
        hint = remedy
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 1 < value < 100:
            hint = f"write {Decimal(repr(value)) / 100} for {value}%"
        self.problem(key, f"{show(value)} is not between 0 and 1; {hint}")
        return None

    def positive(self, key: str, default: float) -> float:
        value = self.data.get(key, default)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf:
            return value
        self.problem(key, f"{show(value)} is no positive number; write one such as {default}")
        return default

    def whole(self, key: str, default: int) -> int:
        value = self.data.get(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1_000_000:
            return value
        self.problem(key, f"{show(value)} is no whole number of at least 1; write one such as {default}")
        return default

    def seconds(self, key: str, default: Decimal | None, example: str) -> Decimal | None:
        value = self.data.get(key)
        if value is None and default is not None and key not in self.data:
            return default
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            self.problem(key, f"{show(value)} has no unit; write it as {example} (ms, s, m, h, d)")
            return default
        found = parse_duration(value) if isinstance(value, str) else None
        if found is None:
            negative = isinstance(value, str) and value.strip().startswith("-")
            what = "is not positive" if negative else "is no duration"
            self.problem(key, f"{show(value)} {what}; write it as {example} (ms, s, m, h, d)")
            return default
        if found <= 0:
            self.problem(key, f"{show(value)} is not positive; write it as {example}")
            return default
        return found

    def one_of(self, key: str, allowed: Collection[str], default: str | None = None) -> str | None:
        value = self.data.get(key, default)
        if isinstance(value, str) and value in allowed:
            return value
        near = difflib.get_close_matches(str(value), list(allowed), 1)
        hint = f"did you mean `{near[0]}`? allowed" if near else "allowed"
        self.problem(key, f"{show(value)} is unknown; {hint}: {', '.join(allowed)}")
        return None

    def text(self, key: str, default: str) -> str:
        value = self.data.get(key, default)
        if isinstance(value, str) and "\n" not in value:
            return value
        self.problem(key, f"{show(value)} is no line of text; write it in quotes")
        return default

    def names(self, key: str, what: str) -> tuple[str, ...]:
        value = self.data.get(key)
        if key not in self.data:
            return ()
        if (
            isinstance(value, list)
            and value
            and all(isinstance(item, str) and item and "\n" not in item for item in value)
        ):
            if len(set(value)) == len(value):
                return tuple(value)
            self.problem(key, f"{show(value)} names one twice; keep each once")
            return ()
        self.problem(key, f"{show(value)} is no list of names; write [{what}] or leave the key out for all")
        return ()

    def mapping(self, key: str) -> Reader | None:
        value = self.data.get(key)
        if key not in self.data:
            return None
        if isinstance(value, Mapping):
            return Reader(value, self.at(key), self.problems)
        self.problem(key, f"{show(value)} is no mapping; write `key: value` lines under it")
        return None

    def mappings(self, key: str) -> list[Reader]:
        """The items of a list of mappings; anything else in it is a problem."""
        value = self.data.get(key)
        if not isinstance(value, list) or not value:
            self.problem(key, f"{show(value)} is no list with an entry; write `- ...` lines under it")
            return []
        found = []
        for index, item in enumerate(value):
            path = f"{self.at(key)}[{index}]"
            if isinstance(item, Mapping):
                found.append(Reader(item, path, self.problems))
            else:
                self.problems.append(f"{path}: {show(item)} is no mapping; write `key: value` lines")
        return found


LABEL_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
