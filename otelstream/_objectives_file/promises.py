# SPDX-License-Identifier: Apache-2.0
"""What an objectives file comes to: frozen values for the process, the rules and the dashboards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal

from otelstream._core.record.objectives import Objective, Objectives
from otelstream._objectives_file.text import exact

Severity = Literal["page", "ticket"]
DAY: Final = Decimal(86400)


@dataclass(frozen=True, slots=True)
class BurnRate:
    """One pair of windows: alert when both burn faster than `factor`; durations in seconds."""

    severity: Severity
    long: Decimal
    short: Decimal
    factor: Decimal
    hold: Decimal


@dataclass(frozen=True, slots=True)
class Symptom:
    """The knobs of one alert that needs no objective; what does not apply is None."""

    severity: Severity
    hold: Decimal
    threshold: float | None = None
    at_least: int | None = None
    window: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Promise:
    """One objective with what its rules need."""

    objective: Objective
    burn_rates: tuple[BurnRate, ...]
    min_bad: int
    description: str

    @property
    def target(self) -> Decimal:
        return exact(self.objective.target)

    @property
    def budget(self) -> Decimal:
        """The share of streams that may be bad: 1 - target, without float noise."""
        return 1 - self.target

    @property
    def windows(self) -> tuple[Decimal, ...]:
        """Every window the rules record, shortest first."""
        return tuple(sorted({w for pair in self.burn_rates for w in (pair.long, pair.short)}))


@dataclass(frozen=True, slots=True)
class SloConfig:
    """The whole objectives file."""

    promises: tuple[Promise, ...]
    window: Decimal
    keep_firing: Decimal
    keep_ticket: Decimal
    group_by: tuple[str, ...]
    labels: tuple[tuple[str, str], ...]
    select: tuple[tuple[str, str], ...]
    runbook_url: str
    symptoms: Mapping[str, Symptom]

    @property
    def objectives(self) -> Objectives:
        """What the process judges streams by."""
        return Objectives(tuple(promise.objective for promise in self.promises))
