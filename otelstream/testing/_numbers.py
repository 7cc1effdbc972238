# SPDX-License-Identifier: Apache-2.0
"""What may be given to a fault or a schedule, by the name of the parameter."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from otelstream.testing._events import ScriptError


class _Range(NamedTuple):
    least: float
    most: float = math.inf
    whole: bool = False
    above: bool = False  # more than the least

    def __str__(self) -> str:
        start = f"a{' whole' if self.whole else ''} number"
        if self.most < math.inf:
            return f"{start} from {self.least:g} to {self.most:g}"
        return f"{start}, {'more than' if self.above else 'at least'} {self.least:g}"

    def holds(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        return math.isfinite(value) and self.least <= value <= self.most and not (self.above and value == self.least)


_SECONDS, _COUNT, _SIZE = _Range(0), _Range(0, whole=True), _Range(1, whole=True)
_RANGES = {
    **dict.fromkeys(
        ("seconds", "seconds before the headers", "retry_after", "first", "gap", "pauses", "jitter"), _SECONDS
    ),
    **dict.fromkeys(("chunks", "events", "choice"), _COUNT),
    **dict.fromkeys(("period", "chunk", "chars", "size", "coalesce", "split"), _SIZE),
    "every": _Range(0, above=True),
    "copies": _Range(0, above=True),
    "share": _Range(0, 1),
    "status": _Range(400, 599, whole=True),
}
_WORDS = ("type", "message", "category", "stop_reason", "body")
_PLACES = ("request", "headers", "finish")


def check(given: Mapping[str, Any]) -> None:
    """Raise ScriptError for the first value that its parameter cannot have; None stands for "not given"."""
    for name, value in given.items():
        if value is None:
            continue
        allowed = _RANGES.get(name)
        if name == "point" and value not in _PLACES and not _COUNT.holds(value):
            raise ScriptError(f"{value!r} is no point: a whole number of chunks, or {', '.join(map(repr, _PLACES))}")
        if allowed is not None and not allowed.holds(value):
            raise ScriptError(f"{name}={value!r}: {allowed}")
        if name == "headers" and not isinstance(value, Mapping):
            raise ScriptError(f"headers={value!r}: a mapping of names to values")
        if name in _WORDS and not isinstance(value, str):
            raise ScriptError(f"{name}={value!r}: text")
