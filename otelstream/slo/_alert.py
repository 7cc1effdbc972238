# SPDX-License-Identifier: Apache-2.0
"""One alert with its runbook entry: the plain values that every renderer reads."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Entry:
    """What the runbook says of an alert (or of the four alerts of one objective kind)."""

    title: str
    means: str
    first_query: str
    look: str
    causes: tuple[str, ...]
    do: tuple[str, ...]
    send: str


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert. `raw` is the same condition without recorded series, for rulers that have none of ours."""

    name: str
    severity: str
    expr: str
    hold: Decimal
    summary: str
    description: str
    entry: Entry
    keep: Decimal | None = None
    labels: tuple[tuple[str, str], ...] = ()
    raw: str = ""
    plain: str = ""  # the description where templates cannot query
    windows: tuple[str, ...] = ()  # of an objective's: "1h / 5m, 14.4 times too fast, all gone in 2d2h"
    holds: tuple[Decimal, ...] = ()  # how long each of them has to burn
    objective: str = ""
    panel: tuple[str, str] | None = None  # dashboard uid and panel title it is best seen on

    @property
    def without_records(self) -> str:
        return self.raw or self.expr
