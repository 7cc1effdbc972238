# SPDX-License-Identifier: Apache-2.0
"""What a record needs of the rooms above it, as protocols: the process that observes it, and its turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from opentelemetry.trace import Tracer

from otelstream import _semconv as s
from otelstream._core.record.call import ToolCall
from otelstream._core.record.settings import Settings


@dataclass(frozen=True, slots=True)
class TurnStop:
    """Who stopped a turn, and when on the stream clock. The first Stop of a turn counts."""

    trigger: s.Trigger
    at: float


class Turn(Protocol):
    """One question of a user, as far as records ask about it."""

    id: str | None
    route: str | None
    implicit: bool

    @property
    def tool_calls(self) -> Sequence[ToolCall]: ...
    def reached(self, begun: float) -> bool: ...
    def calls_with(self, begun: float) -> Sequence[ToolCall]: ...


class Host(Protocol):
    """The process that observes a stream: its settings, what it counts on, and whom to tell."""

    settings: Settings
    tracer: Tracer
    metrics: Any  # of `_core.emit`, as imports only go down

    def attach_span(self, stream: Any, attributes: Any, found: Any = None) -> None: ...
    def discard(self, stream: Any) -> None: ...
    def tool_opened(self, stream: Any, call: ToolCall) -> None: ...
    def repetition_seen(self, stream: Any) -> bool: ...
    def publish(self, stream: Any) -> None: ...
    def write_span(self, stream: Any) -> None: ...
    def write_early(self, stream: Any) -> None: ...


hosts: list[Host] = []  # those that still have something to observe, oldest first
