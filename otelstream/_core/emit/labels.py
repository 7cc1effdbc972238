# SPDX-License-Identifier: Apache-2.0
"""Keep every metric bounded: whatever goes beyond its limit becomes `_OTHER`, and is counted."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

from otelstream import _semconv as s
from otelstream._core.record.text import printable

Asked = tuple[str, str, str, "str | None"]  # operation, provider, model, route


class Bounded:
    """A set of values that stops growing."""

    __slots__ = ("_seen", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._seen: set[Hashable] = set()

    @property
    def half_full(self) -> bool:
        return len(self._seen) >= self.limit // 2

    def admits(self, value: Hashable) -> bool:
        if value in self._seen:
            return True
        if len(self._seen) >= self.limit:
            return False
        self._seen.add(value)
        return True


@dataclass(frozen=True, slots=True)
class Common:
    """The common labels of one stream: as metrics with the route have them, those without, those that have it when
    all is asked for; and what was folded in them."""

    route: Mapping[str, str]
    model: Mapping[str, str]
    wide: Mapping[str, str]
    folded: tuple[s.Folded, ...] = ()

    def of(self, metric: s.Metric, *, lean: bool) -> Mapping[str, str]:
        scope = metric.common(lean=lean)
        if scope == "process":
            return {}
        if scope == "model":
            return self.model
        return self.route if metric.lean == "route" else self.wide


class Labels:
    """The bounds of one process."""

    def __init__(self) -> None:
        self.restart()
        self._objectives: set[str] = set()
        self._routes = Bounded(s.MAX_COMMON_SETS)
        self._models = Bounded(s.MAX_MODELS)
        self._wide = Bounded(s.MAX_WIDE_SETS)
        self._pairs = Bounded(s.MAX_FOLDED_PAIRS)
        self._tools = Bounded(s.MAX_TOOL_NAMES)
        self._errors = Bounded(s.MAX_ERROR_TYPES)
        self._extra: dict[tuple[str, bool], Bounded] = {}
        self._known: dict[Asked, Common] = {}

    def restart(self) -> None:
        """Count anew, in a forked child."""
        self.folded: Counter[s.Folded] = Counter()
        self._lock = threading.RLock()  # taken again by a signal handler or a finaliser that runs in its thread

    def fold(self, what: Iterable[s.Folded]) -> None:
        """Count what became `_OTHER`."""
        with self._lock:
            self.folded.update(what)

    def room_for(self, objectives: Iterable[str]) -> None:
        """Leave so many sets to models and routes that those of each objective stay under what the SDK keeps; those of
        an earlier file have theirs still."""
        self._objectives.update(objectives)
        points = len(self._objectives) * len(s.OBJECTIVE_RESULTS)
        if points:
            self._routes.limit = min(self._routes.limit, max(0, (s.MAX_SETS - 1) // points - s.MAX_FOLDED_SETS))

    @property
    def has_room(self) -> bool:
        """Whether what only a file names may still be told of: half is left to traffic that nobody named."""
        return not any(bound.half_full for bound in (self._routes, self._models, self._wide))

    def common(self, operation: str, provider: str, model: str, route: str | None) -> Common:
        """The common labels of a stream; a model or route over the bound is `_OTHER`."""
        asked = (operation, provider, model, route)
        known = self._known.get(asked)
        if known is None:
            known = self._common(operation, provider, printable(model), None if route is None else printable(route))
            if not known.folded:  # else there is no end to them
                self._known[asked] = known
        return known

    def _common(self, operation: str, provider: str, model: str, route: str | None) -> Common:
        folded: list[s.Folded] = []
        if self._models.admits((operation, provider, model)):
            kept = self._named(operation, provider, model)
        else:
            folded.append("model")
            kept = self._other(operation, provider)
        found = [kept]
        for bound in (self._routes, self._wide):
            if bound.admits((operation, provider, model, route)):
                found.append(self._named(operation, provider, model, route))
            else:
                found.append(self._other(operation, provider, route))
                if bound is self._routes and not folded:
                    folded.append("route")
        return Common(model=found[0], route=found[1], wide=found[2], folded=tuple(folded))

    @staticmethod
    def _named(operation: str, provider: str, model: str, route: str | None = None) -> Mapping[str, str]:
        labels = {s.OPERATION: operation, s.PROVIDER: provider, s.REQUEST_MODEL: model}
        return labels if route is None else {**labels, s.ROUTE: route}

    def _other(self, operation: str, provider: str, route: str | None = None) -> Mapping[str, str]:
        if not self._pairs.admits((operation, provider)):
            operation = provider = s.OTHER
        return self._named(operation, provider, s.OTHER, None if route is None else s.OTHER)

    def tool(self, name: str) -> str:
        return self._bounded(self._tools, name, "tool_name")

    def error(self, name: str) -> str:
        return self._bounded(self._errors, name, "error_type")

    def _bounded(self, bound: Bounded, name: str, what: s.Folded) -> str:
        name = printable(name)
        if bound.admits(name):
            return name
        self.fold((what,))
        return s.OTHER

    def extra(self, metric: s.Metric, labels: dict[str, str | bool], *, lean: bool) -> dict[str, str | bool]:
        """The labels of one data point beyond the common ones, folded once the metric has too many sets."""
        bound = self._extra.get((metric.name, lean))
        if bound is None:
            bound = self._extra.setdefault((metric.name, lean), Bounded(metric.max_extra(lean=lean)))
        if bound.admits(tuple(labels.values())):
            return labels
        self.fold(("labels",))
        return dict.fromkeys(labels, s.OTHER)
