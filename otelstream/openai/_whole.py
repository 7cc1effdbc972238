# SPDX-License-Identifier: Apache-2.0
"""What an answer that was not streamed says: a chat completion, or a response."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from otelstream._core.record.text import printable
from otelstream._core.record.whole import Asked, Whole, part, parts
from otelstream.openai._chat import _REASONS
from otelstream.openai._responses import _INCOMPLETE

_WORST = ("length", "content_filter", "tool_calls", "stop")  # of several choices


def whole(answer: Any) -> Whole | None:
    """What it says, as an object of the SDK's or as its JSON."""
    if isinstance(part(answer, "choices"), (list, tuple)):
        return _completion(answer)
    if isinstance(part(answer, "output"), (list, tuple)):
        return _response(answer)
    return None


def _completion(answer: Any) -> Whole:
    choices = parts(answer, "choices")
    said = [str(part(choice, "finish_reason")) for choice in choices]
    reasons = [_REASONS.get(reason, printable(reason)) for reason in said]
    reasons.sort(key=lambda reason: _WORST.index(reason) if reason in _WORST else len(_WORST))
    calls = tuple(call for choice in choices for call in _calls(part(choice, "message")))
    return Whole(reasons[0] if reasons else None, calls)


def _calls(message: Any) -> Iterator[Asked]:
    for call in parts(message, "tool_calls"):
        function, custom = part(call, "function"), part(call, "custom")
        what = function if function is not None else custom
        arguments = part(what, "arguments") if function is not None else {"input": part(what, "input")}
        yield Asked(str(part(what, "name")), str(part(call, "id") or ""), arguments)
    function = part(message, "function_call")  # the way before there were ids
    if function is not None:
        yield Asked(str(part(function, "name")), "", part(function, "arguments"))


def _response(answer: Any) -> Whole:
    calls = tuple(
        Asked(
            str(part(item, "name")),
            str(part(item, "call_id") or ""),
            part(item, "arguments") if part(item, "type") == "function_call" else {"input": part(item, "input")},
        )
        for item in parts(answer, "output")
        if part(item, "type") in ("function_call", "custom_tool_call")
    )
    if part(answer, "status") == "incomplete":
        reason = str(part(part(answer, "incomplete_details"), "reason"))
        return Whole(_INCOMPLETE.get(reason, printable(reason)), calls)
    return Whole("tool_calls" if calls else "stop", calls)
