# SPDX-License-Identifier: Apache-2.0
"""What a provider's JSON gives: each value where it is what the protocol says, and nothing where it is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def obj(value: Any) -> dict[str, Any]:
    """An object; empty where there is none: the SDKs take that too."""
    return value if isinstance(value, dict) else {}


def objs(value: Any) -> Iterator[dict[str, Any]]:
    """The objects of a list."""
    return (each for each in value if isinstance(each, dict)) if isinstance(value, list) else iter(())


def word(value: Any) -> str | None:
    """A string that is not empty."""
    return value if isinstance(value, str) and value else None


def index(of: Mapping[str, Any]) -> int:
    """The index of one of several answers; the first where none is said."""
    said = of.get("index")
    return said if isinstance(said, int) else 0


def count(value: Any) -> int | None:
    """A number of tokens, as far as an attribute can hold it."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53 else None


def counts(values: Mapping[str, Any]) -> dict[str, int]:
    """Those that are numbers of tokens."""
    return {name: number for name, value in values.items() if (number := count(value)) is not None}
