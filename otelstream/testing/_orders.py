# SPDX-License-Identifier: Apache-2.0
"""What somebody asks to be played, in objects or in text, as the plan of a reply."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from otelstream.testing._bundled import script
from otelstream.testing._events import ScriptError
from otelstream.testing._faults import Fault, Faults
from otelstream.testing._plan import Plan, Step
from otelstream.testing._schedule import Schedule
from otelstream.testing._scripts import Script


def make_plan(what: str | Script, fault: Fault | str | Iterable[Fault | str] | None, when: Schedule | None) -> Plan:
    """Join script, schedule and faults; faults come last, in order, on events that have their times."""
    played = (script(what) if isinstance(what, str) else what).finished()
    schedule = when or Schedule()
    steps = [Step(event, pause) for event, pause in zip(played.events, schedule.gaps(played.events), strict=True)]
    plan = Plan(played, steps, schedule, headers_pause=schedule.headers, split=schedule.split)
    faults = [fault] if isinstance(fault, (str, Fault)) else list(fault or ())
    each: Fault | None = None
    try:
        for each in [parse_fault(item) if isinstance(item, str) else item for item in faults]:
            each.apply(plan)
    except ScriptError as error:
        raise ScriptError(f"{each} on script {played.name!r}: {error}" if each else str(error)) from None
    plan.fault = ", ".join(map(str, faults))
    return plan


def fault_names() -> list[str]:
    """The names of all faults."""
    return sorted(name for name in vars(Faults) if not name.startswith("_"))


def parse_fault(text: str) -> Fault:
    """Read a fault from text: `cut_after=chunks:40`, `http_error=529,retry_after:0.1`, `gzip`."""
    name, _, given = text.strip().partition("=")
    if name not in fault_names():
        raise ScriptError(f"no fault {name!r}; there are: {', '.join(fault_names())}")
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in given.split(","))):
        key, colon, value = part.partition(":")
        if colon:
            kwargs[key] = _value(value)
        else:
            args.append(_value(part))
    try:
        fault: Fault = getattr(Faults, name)(*args, **kwargs)
    except (TypeError, ValueError) as error:
        raise ScriptError(f"fault {text.strip()!r}: {str(error).removeprefix(f'Faults.{name}() ')}") from None
    return fault


def parse_play(text: str) -> tuple[str, list[Fault], Schedule]:
    """Read the control header: `text_long; cut_after=chunks:40; gap=0.01`; every part may be left out."""
    name, faults = "text_short", []
    times: dict[str, Any] = {}
    for i, part in enumerate(filter(None, (part.strip() for part in text.split(";")))):
        key, equals, value = part.partition("=")
        if key in {"headers", "first", "gap", "jitter", "seed", "coalesce", "split"} and equals:
            number = _value(value)
            if not isinstance(number, (int, float)):
                raise ScriptError(f"{part!r}: {key} is a number")
            times[key] = number
        elif i == 0 and not equals and key not in fault_names():
            name = key
        else:
            faults.append(parse_fault(part))
    return name, faults, Schedule(**times)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
