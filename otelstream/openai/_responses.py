# SPDX-License-Identifier: Apache-2.0
"""What the events of the Responses API mean: items and parts by index, each with a start and an end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from otelstream import _semconv as s
from otelstream._core.record import facts as f
from otelstream._core.record import given
from otelstream._core.record.ending import Ending
from otelstream._core.record.grammar import BY_SHAPE, UNKNOWN, Shape
from otelstream._core.record.text import printable
from otelstream.openai._chat import DONE, error_of, usage_of

# Deltas by the name of their event: what they are of, and whether a user sees it.
_DELTAS: dict[str, tuple[s.BlockKind, bool]] = {
    "response.output_text.delta": ("text", True),
    "response.refusal.delta": ("text", True),
    "response.reasoning_text.delta": ("thinking", False),
    "response.reasoning_summary_text.delta": ("thinking", False),
    "response.audio.transcript.delta": ("text", True),
    "response.function_call_arguments.delta": ("other", False),
    "response.custom_tool_call_input.delta": ("other", False),
}
# Items that the application is to run, by where their input stands; all other calls the provider runs itself.
_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
# Counts the events: behind the text of a delta, or before it.
_COUNTER = "sequence_number"
_PLACES = ("output_index", "content_index", "summary_index")
_INCOMPLETE = {"max_output_tokens": "length", "content_filter": "content_filter"}
_PARTS_DONE = frozenset({
    "response.output_text.done", "response.refusal.done", "response.reasoning_text.done",
    "response.reasoning_summary_text.done", "response.audio.transcript.done",
})  # fmt: skip


class Grammar:
    """One stream's grammar. Ids may change from event to event: blocks are known by their places alone."""

    __slots__ = ("_calls", "_named", "shape")

    delta = BY_SHAPE

    def __init__(self) -> None:
        self.shape = UNKNOWN
        self._calls: dict[f.Key, str] = {}  # those that are open, by where their input stands in their item
        self._named = False

    def learned(self, prefix: str, data: str) -> None:
        """An event is a mere delta of the same block if it begins like this one and names the same item and part."""
        self.shape = UNKNOWN
        if not prefix:
            return
        event = json.loads(data)
        places = [f'"{name}":{event[name]}' for name in _PLACES if name in event]
        if any(place not in data for place in places):  # written with blanks
            return
        # What stands before the text is compared when deltas are summed; here with what follows: 1 is not 12.
        behind = [(at, at + len(place) + 1) for place in places if (at := data.index(place)) >= len(prefix)]
        within = data[min(behind)[0] : max(behind)[1]] if behind else ""
        if _COUNTER not in within:
            head, counted, _ = prefix.partition(f'"{_COUNTER}":')
            self.shape = Shape(head + counted, within)

    def is_known(self, name: str | None) -> bool:
        return True

    def complete_at_eof(self, finish_reason: str | None) -> Ending | None:
        return None

    def piece(self, data: str) -> f.Delta | None:
        event = json.loads(data)
        return _delta(event, event["type"])

    def structural(self, name: str | None, data: str) -> Iterator[f.Fact]:
        if data.startswith(DONE):
            return
        event = json.loads(data)
        if not isinstance(event, dict):
            return
        kind = event.get("type", name)
        if not isinstance(kind, str):
            return
        if kind in _DELTAS:
            if kind == "response.refusal.delta":
                yield f.Refusal()
            delta = _delta(event, kind)
            if delta is not None:
                yield delta
        elif kind in _PARTS_DONE:
            yield f.Closed(_part(event))
        elif kind in ("response.output_item.added", "response.output_item.done"):
            yield from self._item(event, done=kind.endswith("done"))
        elif kind in ("keepalive", "ping"):
            yield f.Ping()
        elif kind == "error":
            yield f.Failed(error_of(event.get("error") or event))
        elif isinstance(event.get("response"), dict):
            yield from self._response(event["response"], kind)

    def _item(self, event: dict[str, Any], *, done: bool) -> Iterator[f.Fact]:
        item = event.get("item")
        if not isinstance(item, dict):
            return
        key, kind = _place(event), str(item.get("type"))
        where = _CALLS.get(kind)
        if where is not None and key not in self._calls and not done:
            self._calls[key] = where
            yield f.Opened(key, "tool_input", tool=(str(item.get("name")), str(item.get("call_id") or item.get("id"))))
        elif done and key in self._calls:
            yield f.Closed(key)
        elif not done:
            # A call that the provider runs itself: silence until the next item is its doing.
            yield f.Opened(key, "other", server_tool=kind.endswith("_call"))
        else:
            yield f.Closed(key)

    def _response(self, response: dict[str, Any], kind: str) -> Iterator[f.Fact]:
        if not self._named and response.get("id"):
            self._named = True
            yield f.Identity(given.word(response.get("id")), given.word(response.get("model")))
        usage = response.get("usage")
        if isinstance(usage, dict):
            yield f.Usage(usage_of(usage, "input_tokens", "output_tokens"))
        if kind == "response.failed":
            yield f.Failed(error_of(response.get("error")))
        elif kind == "response.completed":
            yield f.Finish(0, "tool_calls" if self._calls else "stop", "completed")
            yield f.Terminal()
        elif kind == "response.incomplete":
            details = response.get("incomplete_details")
            reason = str(details.get("reason")) if isinstance(details, dict) else "incomplete"
            yield f.Finish(0, _INCOMPLETE.get(reason, printable(reason)), reason)
            yield f.Terminal()
        elif kind == "response.cancelled":
            yield f.Failed("cancelled")


def _delta(event: dict[str, Any], kind: str) -> f.Delta | None:
    text = event.get("delta")
    if kind not in _DELTAS or not isinstance(text, str) or not text:
        return None
    block, visible = _DELTAS[kind]
    key = _place(event) if block == "other" else _part(event)
    return f.Delta(key, "delta", text, block, visible, _COUNTER)


def _place(event: dict[str, Any]) -> f.Key:
    index = event.get("output_index")
    return 0, index if isinstance(index, int) else 0


def _part(event: dict[str, Any]) -> f.Key:
    part = event.get("content_index", event.get("summary_index"))
    return 0, f"{_place(event)[1]}.{part}"
