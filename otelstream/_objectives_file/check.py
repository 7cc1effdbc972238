# SPDX-License-Identifier: Apache-2.0
"""Check an objectives file as a whole, all of it at once, and hand it on as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from os import PathLike, fspath
from typing import Any

from otelstream._core.record.objectives import INTEGRITY_FAULTS, Objective, Objectives
from otelstream._objectives_file.fields import FILE, LEAST_FACTOR
from otelstream._objectives_file.problems import ObjectivesError, Path, Place, show
from otelstream._objectives_file.promises import DAY, BurnRate, Promise, SloConfig, Symptom
from otelstream._objectives_file.read import read
from otelstream._objectives_file.text import duration, exact, number, percent

Row = Mapping[str, Any]


def load(path: str | PathLike[str]) -> Objectives:
    """Load the objectives of a file; ObjectivesError (a ValueError) lists every problem in it."""
    return load_config(path).objectives


def load_config(path: str | PathLike[str]) -> SloConfig:
    """Load the whole file; `.json` needs the standard library only, anything else ruamel.yaml."""
    data, lines = read(path)
    return parse(data, fspath(path), lines)


def parse(data: object, source: str = "objectives", lines: Mapping[Path, int] | None = None) -> SloConfig:
    """Check plain data and return the config; ObjectivesError lists every problem."""
    if not isinstance(data, Mapping):
        raise ObjectivesError(
            source, [f"holds {show(data)}, no mapping; start from the file `otelstream slo init` writes"]
        )
    top = Place(lines=lines or {})
    told = FILE.values(data, top)
    window = told["window"] or 30 * DAY
    usual = _burn_rates(told["burn_rates"], top, window, usual="burn_rates" not in data)
    promises = _promises(told["objectives"] or [], top.at("objectives"), window, usual, told["min_bad"])
    if top.problems:
        raise ObjectivesError(source, top.problems)
    return SloConfig(
        promises=promises,
        window=window,
        keep_firing=told["keep_firing"],
        keep_ticket=told["keep_ticket"],
        group_by=told["group_by"],
        labels=told["labels"],
        select=told["select"],
        runbook_url=told["runbook_url"],
        symptoms={name: _symptom(knobs) for name, knobs in told["symptoms"].items() if knobs},
    )


def _symptom(knobs: Row) -> Symptom:
    rest = {name: value for name, value in knobs.items() if name != "for"}
    return Symptom(hold=knobs["for"], **rest)


def _burn_rates(
    rows: list[Row | None] | None, owner: Place, window: Decimal, *, usual: bool = False
) -> tuple[BurnRate, ...]:
    found: list[BurnRate] = []
    longest = max((row["long"] for row in rows or () if row), default=Decimal(0))
    if usual and longest >= window:
        owner.at("window").problem(
            f"{duration(window)} is not over {duration(longest)}, the longest of the usual burn rates; "
            "lengthen it, or write `burn_rates`"
        )
        return ()
    for index, row in enumerate(rows or ()):
        if row is None:
            continue
        place = owner.at("burn_rates").at(index)
        long, short, hold = row["long"], row["short"], row["for"]
        if short >= long:
            place.at("short").problem(f"{duration(short)} is not under long ({duration(long)}); use a twelfth of it")
        if long >= window:
            place.at("long").problem(f"{duration(long)} is not under the window ({duration(window)}); shorten it")
        if hold >= long:
            place.at("for").problem(f"{duration(hold)} is not under long ({duration(long)}); shorten it")
        if any(pair.long == long for pair in found):
            place.at("long").problem(f"{duration(long)} is there twice; an alert is named after it, change one")
        found.append(BurnRate(row["severity"], long, short, _factor(row, place, window), hold))
    return tuple(found)


def _factor(row: Row, place: Place, window: Decimal) -> Decimal:
    """The burn rate of a pair: as written, or that which spends its share of the budget within the long window."""
    if row["factor"] is not None:
        return exact(row["factor"])
    share, long = exact(row["budget"]), row["long"]
    factor: Decimal = round(share * window / long, 6).normalize()
    if factor < LEAST_FACTOR:
        least = (LEAST_FACTOR * long / window).quantize(Decimal("1e-8"), rounding=ROUND_CEILING)
        place.at("budget").problem(
            f"{number(share)} x {duration(window)} / {duration(long)} = {number(factor)}, a factor under "
            f"{number(LEAST_FACTOR)}; write {number(least)} or more"
        )
    return factor


def _promises(
    rows: list[Row | None], owner: Place, window: Decimal, usual: tuple[BurnRate, ...], min_bad: int
) -> tuple[Promise, ...]:
    found: list[Promise] = []
    names: dict[str, int] = {}
    for index, row in enumerate(rows):
        if row is None:
            continue
        place = owner.at(index)
        first = names.setdefault(row["name"], index)
        if first != index:
            place.at("name").problem(f"{show(row['name'])} is taken by {owner.at(first)}; rename one")
        own = row["burn_rates"]
        promise = Promise(
            Objective(
                row["name"],
                row["kind"],
                row["target"],
                _whole(row["threshold"]),
                row["models"] or (),
                row["routes"] or (),
                frozenset(row["faults"] or INTEGRITY_FAULTS),
                row["judges"] or (),
            ),
            usual if own is None else _burn_rates(own, place, window),
            row["min_bad"] or min_bad,
            row["description"],
        )
        _check_reachable(promise, place.at("target"), window)
        found.append(promise)
    return tuple(found)


def _whole(seconds: Decimal | None) -> float | None:
    """Whole seconds as int, as histogram bounds want them."""
    if seconds is None:
        return None
    return int(seconds) if seconds == int(seconds) else float(seconds)


def _check_reachable(promise: Promise, place: Place, window: Decimal) -> None:
    budget = promise.budget
    for pair in promise.burn_rates:
        if pair.factor * budget < 1:
            continue
        usable = ((1 / budget) * 10).to_integral_value(rounding=ROUND_CEILING) / 10 - Decimal("0.1")
        share = (usable * pair.long / window).quantize(Decimal("0.0001"), rounding=ROUND_FLOOR)
        place.problem(
            f"{number(promise.target)} leaves a budget of {percent(budget)}; factor {number(pair.factor)} "
            f"({duration(pair.long)}/{duration(pair.short)}) x {number(budget)} = "
            f"{number(pair.factor * budget)} can never be exceeded; highest usable factor {number(usable)} "
            f"(budget {number(share)}): give this objective `burn_rates` of its own",
        )
