# SPDX-License-Identifier: Apache-2.0
"""Numbers and durations, read and printed the way people write them."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

_UNITS: Final = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def number(value: float | Decimal) -> str:
    """Print a number without float noise: 0.001, 14.4, 3."""
    text = f"{Decimal(repr(value)) if isinstance(value, float) else Decimal(value):.10f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(ratio: float | Decimal) -> str:
    """Print a ratio as a percentage: 0.995 is `99.5%`."""
    return number(exact(ratio) * 100) + "%"


def exact(value: float | Decimal) -> Decimal:
    """Return the decimal a person meant by this float, so that 1 - 0.999 is 0.001."""
    return Decimal(repr(value)) if isinstance(value, float) else Decimal(value)


def parse_duration(text: str) -> Decimal | None:
    """Return the seconds of `2.5s`, `800ms`, `5m`, `1h`, `30d`; None for anything else."""
    found = _DURATION.fullmatch(text.strip())
    return Decimal(found[1]) * _UNITS[found[2]] if found else None


def duration(seconds: float | Decimal) -> str:
    """Print seconds in the largest unit that leaves a whole number: 3600 is `1h`, 2.5 is `2500ms`."""
    value = exact(seconds)
    for unit in ("d", "h", "m", "s", "ms"):
        count, rest = divmod(value, _UNITS[unit])
        if count and not rest:
            return f"{int(count)}{unit}"
    return f"{number(value)}s"


def spoken(seconds: float | Decimal) -> str:
    """Print a threshold as it is spoken: `2.5 s`, `800 ms`, `2 min`."""
    value = exact(seconds)
    if value < 1:
        return f"{number(value * 1000)} ms"
    if value >= 120 and value % 60 == 0:
        return f"{number(value / 60)} min"
    return f"{number(value)} s"
