# SPDX-License-Identifier: Apache-2.0
"""What an answer that was not streamed says."""

from __future__ import annotations

import json
from typing import Any

from otelstream._core.record import facts as f
from otelstream._core.record.whole import Asked, Whole
from otelstream.google._grammar import Grammar

_WORST = ("length", "content_filter", "tool_calls", "stop")  # of several candidates


def whole(body: Any) -> Whole | None:
    """What it says, as the SDK has it: the text of its JSON, in a list. It is one chunk of a stream, and the last."""
    if not isinstance(body, list) or not body or not isinstance(body[0], str):
        return None
    found = list(Grammar().structural(None, body[0]))
    reasons = sorted(
        (fact.reason for fact in found if isinstance(fact, f.Finish)),
        key=lambda reason: _WORST.index(reason) if reason in _WORST else len(_WORST),
    )
    calls = (Asked(fact.name, fact.id, json.loads(fact.arguments)) for fact in found if isinstance(fact, f.WholeTool))
    return Whole(reasons[0] if reasons else None, tuple(calls))
