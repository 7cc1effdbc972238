# SPDX-License-Identifier: Apache-2.0
"""Keep every metric bounded: whatever goes beyond its limit becomes `_OTHER`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

from otelstream import _semconv as s
from otelstream._core.record.text import printable

K = TypeVar("K", bound=Hashable)


class Bounded:
    """A set of values that stops growing."""

    __slots__ = ("_limit", "_seen")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: set[Hashable] = set()

    def admits(self, value: Hashable) -> bool:
        if value in self._seen:
            return True
        if len(self._seen) >= self._limit:
            return False
        self._seen.add(value)
        return True


class Labels:
    """The bounds of one process."""

    def __init__(self) -> None:
        self._common = Bounded(s.MAX_COMMON_SETS)
        self._named = Bounded(s.MAX_NAMED_SETS)
        self._folded = Bounded(s.MAX_FOLDED_PAIRS)
        self._tools = Bounded(s.MAX_TOOL_NAMES)
        self._errors = Bounded(s.MAX_ERROR_TYPES)
        self._extra = {metric.name: Bounded(metric.max_extra) for metric in s.METRICS}

    def common(self, operation: str, provider: str, model: str, route: str | None) -> Mapping[str, str]:
        """The common labels of a stream; a model or route over the bound is `_OTHER`."""
        model = printable(model)
        if route is not None:
            route = printable(route)
        if not self._common.admits((operation, provider, model, route)):
            model, route = s.OTHER, None if route is None else s.OTHER
            if not self._folded.admits((operation, provider)):
                operation = provider = s.OTHER
        labels = {s.OPERATION: operation, s.PROVIDER: provider, s.REQUEST_MODEL: model}
        if route is not None:
            labels[s.ROUTE] = route
        return labels

    def named(self, operation: str, provider: str, model: str, route: str | None) -> Mapping[str, str] | None:
        """Those of a model and route that an objective names, while that leaves room for traffic nobody named."""
        if not self._named.admits((operation, provider, model, route)):
            return None
        return self.common(operation, provider, model, route)

    def tool(self, name: str) -> str:
        name = printable(name)
        return name if self._tools.admits(name) else s.OTHER

    def error(self, name: str) -> str:
        name = printable(name)
        return name if self._errors.admits(name) else s.OTHER

    def extra(self, metric: s.Metric, labels: dict[str, str | bool]) -> dict[str, str | bool]:
        """The labels of one data point beyond the common ones, folded once the metric has too many sets."""
        if self._extra[metric.name].admits(tuple(labels.values())):
            return labels
        return dict.fromkeys(labels, s.OTHER)
