# SPDX-License-Identifier: Apache-2.0
"""Names that come from outside (a model, a tool, a route), made short and printable."""

from __future__ import annotations

MAX_TEXT = 128  # characters


def printable(value: str) -> str:
    """Cut `value` to `MAX_TEXT` characters, each of them printable."""
    value = value[:MAX_TEXT]
    return value if value.isprintable() else "".join(c if c.isprintable() else "?" for c in value)
