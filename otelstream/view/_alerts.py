# SPDX-License-Identifier: Apache-2.0
"""Which of the generated alerts counts a stream: one table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from otelstream import _semconv as names

from ._timeline import Timeline


def _verdict(objective: str) -> Callable[[Timeline], bool]:
    return lambda line: line.record.attributes.get(objective) == "bad"


# Burn-rate alerts have one name for each window: `…1h`, `…6h`, `…1d`, `…3d`.
ALERTS: Final[tuple[tuple[str, Callable[[Timeline], bool]], ...]] = (
    ("OtelStreamIntegrityBudgetBurn", _verdict(names.OBJECTIVE_INTEGRITY)),
    ("OtelStreamFirstTokenBudgetBurn", _verdict(names.OBJECTIVE_FIRST_TOKEN)),
    ("OtelStreamCompletionBudgetBurn", _verdict(names.OBJECTIVE_COMPLETION)),
    (
        "OtelStreamCancelNotPropagated",
        lambda line: line.propagation in {"closed_late", "closed_by_gc", "drained", "still_open"},
    ),
    ("OtelStreamSideEffectsLeft", lambda line: bool(line.record.attributes.get(names.SIDE_EFFECTS_COMMITTED))),
    (
        "OtelStreamToolDispatchedEarly",
        lambda line: any(
            event.name == names.EVENT_TOOL_DISPATCHED and event.attributes.get(names.DISPATCH_PHASE) == "before_ready"
            for event in line.record.events
        ),
    ),
    ("OtelStreamRepetitionLoops", lambda line: bool(line.loops)),
    ("OtelStreamProviderStalls", lambda line: any(hole.source == "provider" for hole in line.holes)),
    ("OtelStreamRetriesRising", lambda line: line.attempts > 1),
)


def alerts(line: Timeline) -> tuple[str, ...]:
    """Name the alerts that enough streams like this one would set off."""
    return tuple(name for name, counts in ALERTS if counts(line))
