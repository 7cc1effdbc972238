# SPDX-License-Identifier: Apache-2.0
"""Where the requests of this SDK carry the results of tools."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from otelstream._stainless.results import carried


def _found(body: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    messages, items = body.get("messages"), body.get("input")
    for message in reversed(messages if isinstance(messages, (list, tuple)) else ()):
        if not isinstance(message, Mapping) or message.get("role") != "tool":
            break
        yield str(message.get("tool_call_id")), False
    for item in items if isinstance(items, (list, tuple)) else ():
        if isinstance(item, Mapping) and str(item.get("type")).endswith("_call_output"):
            yield str(item.get("call_id")), False


request = carried(_found)
