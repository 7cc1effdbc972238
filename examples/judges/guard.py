# SPDX-License-Identifier: Apache-2.0
"""A judge of what must not be shown: e-mail addresses and card numbers. A pattern, not a guarantee."""

from __future__ import annotations

import re

import otelstream

_ADDRESS = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]*\w")
_DIGITS = re.compile(r"(?<![\w-])\d(?:[ -]?\d){12,18}(?![\w-])")


@otelstream.judge("guard", verdicts=("address", "card"), every=40)
def guard(text: str) -> object:
    """An address is told; at a card number the stream is withdrawn and stopped."""
    if any(_is_card(found) for found in _DIGITS.findall(text)):
        otelstream.record_retraction(reason="guardrail")
        return otelstream.STOP
    return "address" if _ADDRESS.search(text) else None


def _is_card(found: str) -> bool:
    """Whether the digits are a card's: the last one makes the sum of Luhn's check end in 0 (ISO/IEC 7812-1)."""
    total = 0
    for place, digit in enumerate(int(each) for each in reversed(found) if each.isdigit()):
        total += digit if place % 2 == 0 else digit * 2 - (9 if digit > 4 else 0)
    return total % 10 == 0
