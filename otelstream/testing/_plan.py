# SPDX-License-Identifier: Apache-2.0
"""What one reply will do, step by step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from otelstream.testing._events import Event
from otelstream.testing._schedule import Schedule
from otelstream.testing._scripts import Script

Ending = Literal["end", "fin", "reset", "hang"]


@dataclass(frozen=True)
class Step:
    """One event, the seconds before it, and how often a ping goes out in them (None: silence)."""

    event: Event
    pause: float = 0.0
    ping_every: float | None = None


@dataclass
class Plan:
    """Everything one reply will do; `ending` is how its connection ends after the last step."""

    script: Script
    steps: list[Step]
    schedule: Schedule
    fault: str = ""
    status: int = 200
    body: bytes | None = None  # of an error; None: what the API says of `error`
    error: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    headers_pause: float = 0.0
    before_headers: bool = False
    ending: Ending = "end"
    end_pause: float = 0.0  # seconds between the last step and a cut: without them the last bytes may go with it
    ping_every: float | None = None
    split: int | None = None
    split_gap: float = 0.0
    gzip: bool = False
