# SPDX-License-Identifier: Apache-2.0
"""The results of tools that later requests carry: what nobody saw run has run by then. Ids only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from time import perf_counter as clock
from typing import Any

from otelstream._core.tools.registry import registry
from otelstream._trouble import trouble


def ran(found: Iterable[tuple[str, bool]]) -> None:
    """These calls have run: the id of each, and whether it failed."""
    now = clock()
    for id_, failed in found:
        call = registry.by_id(id_)
        if call is not None and registry.dispatched(call, "tool_result", now):
            registry.finished(call, "failed" if failed else "committed", now)


def carried(found: Callable[[Mapping[str, Any]], Iterable[tuple[str, bool]]]) -> Callable[[Any], None]:
    """What is to hear of every request: `found` gives the ids of the calls in a body, and whether each failed."""

    def request(options: Any) -> None:
        """A request goes out, streaming or not. Never raises."""
        if registry.idle:
            return
        try:
            body = getattr(options, "json_data", None)
            if not isinstance(body, Mapping):
                return
            ran(found(body))
        except Exception:
            trouble("reading tool results")

    return request
