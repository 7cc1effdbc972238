# SPDX-License-Identifier: Apache-2.0
"""The results of tools that later requests carry: what nobody saw run has run by then. Ids only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from time import perf_counter as clock
from typing import Any

from otelstream._core.tools.registry import registry
from otelstream._trouble import trouble


def request(options: Any) -> None:
    """A request goes out, streaming or not. Never raises."""
    if registry.idle:
        return
    try:
        body = getattr(options, "json_data", None)
        if isinstance(body, Mapping):
            now = clock()
            for id_ in (*_of_chat(body.get("messages")), *_of_responses(body.get("input"))):
                call = registry.by_id(id_)
                if call is not None and registry.dispatched(call, "tool_result", now):
                    registry.finished(call, "committed", now)
    except Exception:
        trouble("reading tool results")


def _of_chat(messages: object) -> Iterator[str]:
    for message in reversed(messages if isinstance(messages, (list, tuple)) else ()):
        if not isinstance(message, Mapping) or message.get("role") != "tool":
            return
        yield str(message.get("tool_call_id"))


def _of_responses(items: object) -> Iterator[str]:
    for item in items if isinstance(items, (list, tuple)) else ():
        if isinstance(item, Mapping) and str(item.get("type")).endswith("_call_output"):
            yield str(item.get("call_id"))
