# SPDX-License-Identifier: Apache-2.0
"""A Stop, as values: what it asked of a stream, what became of it, and which side effects stood when it came."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from otelstream import _semconv as s
from otelstream._core.record.call import ToolCall


@dataclass(frozen=True, slots=True)
class Ask:
    """One stream was asked to stop: where it was, and what had arrived by then."""

    trigger: s.Trigger
    at: float
    where: s.CancelAt
    visible_chars: int
    chunks: int
    chars: int  # generated, of any kind


@dataclass(frozen=True, slots=True)
class Ledger:
    """The tool calls of a stopped turn that are no mere reads, by where they stood at the Stop; newest first."""

    committed: tuple[ToolCall, ...] = ()  # done before
    running: tuple[ToolCall, ...] = ()  # started and not done; or started after all
    discarded: tuple[ToolCall, ...] = ()  # never started
    withheld: tuple[ToolCall, ...] = ()  # refused by their hold
    compensated: tuple[ToolCall, ...] = ()  # undone since

    def __iter__(self) -> Iterator[tuple[s.SideEffect, tuple[ToolCall, ...]]]:
        yield "committed", self.committed
        yield "running", self.running
        yield "discarded", self.discarded
        yield "withheld", self.withheld
        yield "compensated", self.compensated

    def __bool__(self) -> bool:
        return any(calls for _, calls in self)


@dataclass(frozen=True, slots=True)
class Cancel:
    """What became of a stop of one stream, decided with its terminal record. Delays in seconds."""

    trigger: s.Trigger
    where: s.CancelAt
    propagation: s.Propagation
    at: float
    visible_chars: int
    close_delay: float | None = None  # None: ask and close were one instant
    delivered_chunks: int | None = None
    delivered_chars: int | None = None
    ledger: Ledger = Ledger()


def ledger(calls: Iterable[ToolCall], at: float | None) -> Ledger:
    """Sort side effects by how they stood at an instant of the stream clock; None: now."""
    found: dict[s.SideEffect, list[ToolCall]] = {
        "committed": [],
        "running": [],
        "discarded": [],
        "withheld": [],
        "compensated": [],
    }
    for call in calls:
        stood = side_effect(call, at)
        if stood is not None:
            found[stood].append(call)
    newest_first = {name: tuple(sorted(group, key=_newest, reverse=True)) for name, group in found.items()}
    return Ledger(**newest_first)


def _newest(call: ToolCall) -> float:
    started: float = call.stream.started if call.stream is not None else 0.0
    return call.finished_at or call.dispatched_at or started + (call.ready or 0.0)


def side_effect(call: ToolCall, at: float | None) -> s.SideEffect | None:
    """How one call stood at an instant of the stream clock; None for what touches nothing."""
    if call.effect == "read":
        return None
    if call.state == "withheld":
        return "withheld"
    if call.state == "compensated":
        return "compensated"
    if call.dispatched_at is None:
        return "discarded" if call.state == "discarded" else None
    if call.finished_at is not None and (at is None or call.finished_at <= at):
        return "committed" if call.state == "committed" else None
    return "running"
