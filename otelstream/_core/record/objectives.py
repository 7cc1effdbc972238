# SPDX-License-Identifier: Apache-2.0
"""The objectives, and the verdict on one ended stream: good, bad or excluded, judged in process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Final, Protocol

from otelstream._semconv import Fault, ObjectiveKind, ObjectiveResult, Outcome, Phase

INTEGRITY_FAULTS: Final[frozenset[Fault]] = frozenset(
    {
        "provider_error",
        "connection_lost",
        "cut_short",
        "timeout",
        "protocol_error",
        "stalled",
        "content_filter",
        "malformed_tool_call",
    }
)


class Judged(Protocol):
    """What a verdict needs to know of an ended stream; durations in seconds."""

    @property
    def model(self) -> str: ...
    @property
    def route(self) -> str | None: ...
    @property
    def outcome(self) -> Outcome | None: ...
    @property
    def phase(self) -> Phase | None: ...
    @property
    def fault(self) -> Fault: ...
    @property
    def duration(self) -> float | None: ...
    @property
    def time_to_first_token(self) -> float | None: ...
    @property
    def reversals(self) -> Mapping[str, int]: ...  # by judge that had a verdict


@dataclass(frozen=True, slots=True)
class Objective:
    """One objective: `target` is a ratio (0.95), `threshold` seconds (None where the kind has none)."""

    name: str
    kind: ObjectiveKind
    target: float
    threshold: float | None = None
    models: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    faults: frozenset[Fault] = INTEGRITY_FAULTS
    judges: tuple[str, ...] = ()

    def covers(self, model: str, route: str | None) -> bool:
        """Whether streams of this model and route are judged; an empty list names all."""
        return (not self.models or model in self.models) and (not self.routes or route in self.routes)

    def judge(self, stream: Judged) -> ObjectiveResult:
        """Judge one ended stream. Never raises."""
        if stream.fault == "request_error" or stream.outcome == "caller_error":
            return "excluded"
        if self.kind == "integrity":
            return self._judge_integrity(stream)
        if self.kind == "reversal":
            return self._judge_reversal(stream)
        threshold = self.threshold or 0.0
        slow = (stream.duration or 0.0) > threshold
        given_up = stream.outcome in ("cancelled", "abandoned")
        if self.kind == "completion":
            if stream.outcome == "failed":
                return "bad"
            if given_up:
                return "bad" if slow else "excluded"
            return "bad" if slow else "good"
        first_token = stream.time_to_first_token
        if first_token is not None:
            return "good" if first_token <= threshold else "bad"
        if stream.outcome == "failed":
            return "bad"
        if given_up or stream.outcome in ("completed", "truncated"):
            return "bad" if slow else "excluded"
        return "excluded"

    def _judge_reversal(self, stream: Judged) -> ObjectiveResult:
        found = [count for judge, count in stream.reversals.items() if not self.judges or judge in self.judges]
        if not found:
            return "excluded"  # no judge had anything to say
        return "bad" if any(found) else "good"

    def _judge_integrity(self, stream: Judged) -> ObjectiveResult:
        if succeeded_then_failed(stream, self.faults):
            return "bad"
        if stream.phase == "before_response" or stream.outcome in ("cancelled", "abandoned"):
            return "excluded"
        return "good"


def succeeded_then_failed(stream: Judged, faults: frozenset[Fault] = INTEGRITY_FAULTS) -> bool:
    """Whether the caller got a 2xx and then a fault of the set."""
    return stream.phase != "before_response" and stream.fault in faults


BUNDLED_OBJECTIVES: Final = (
    Objective("first-token", "first_token", 0.95, 2.5),
    Objective("completion", "completion", 0.99, 120),
    Objective("integrity", "integrity", 0.995),
)


@dataclass(frozen=True, slots=True)
class Objectives:
    """The loaded objectives, in file order."""

    items: tuple[Objective, ...] = field(default=BUNDLED_OBJECTIVES)

    def __iter__(self) -> Iterator[Objective]:
        return iter(self.items)

    @property
    def hash(self) -> str:
        """Twelve hex digits that change with anything that changes a verdict."""
        plain = [
            {
                **{name: value for name, value in asdict(item).items() if name != "judges" or value},
                "faults": sorted(item.faults),
                "models": sorted(item.models),
                "routes": sorted(item.routes),
                "threshold": item.threshold and float(item.threshold),
            }
            for item in self.items
        ]
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def faults(self) -> frozenset[Fault]:
        """The faults that make a stream succeeded-then-failed: those of the first integrity objective."""
        return next((item.faults for item in self.items if item.kind == "integrity"), INTEGRITY_FAULTS)

    def for_stream(self, model: str, route: str | None) -> tuple[Objective, ...]:
        return tuple(item for item in self.items if item.covers(model, route))

    def judge(self, stream: Judged, model: str, route: str | None) -> tuple[tuple[Objective, ObjectiveResult], ...]:
        """The verdict of each objective that covers an ended stream."""
        return tuple((item, item.judge(stream)) for item in self.for_stream(model, route))

    def thresholds(self, kind: ObjectiveKind) -> tuple[float, ...]:
        """The thresholds of one kind, in seconds, as bounds of histograms (whole ones as int)."""
        found: Iterable[float] = (item.threshold for item in self.items if item.kind == kind and item.threshold)
        return tuple(sorted({int(value) if value == int(value) else value for value in found}))
