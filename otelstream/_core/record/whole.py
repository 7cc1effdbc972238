# SPDX-License-Identifier: Apache-2.0
"""An answer that came whole, without a stream: what an adapter says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Asked:
    """One tool call in it; `arguments` as the SDK has them: an object, or its JSON."""

    name: str
    id: str
    arguments: Any


@dataclass(frozen=True, slots=True)
class Whole:
    """The tool calls of one answer, and its finish reason in OpenTelemetry's words."""

    finish_reason: str | None = None
    calls: tuple[Asked, ...] = ()


def part(thing: Any, name: str) -> Any:
    """A field of an SDK's object, or of the JSON it is made of."""
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)


def parts(thing: Any, name: str) -> tuple[Any, ...]:
    """A field that is a list; nothing where it is none."""
    found = part(thing, name)
    return tuple(found) if isinstance(found, (list, tuple)) else ()
