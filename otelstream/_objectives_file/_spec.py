# SPDX-License-Identifier: Apache-2.0
"""The objectives file: read it, check all of it at once, and hand it on as frozen values."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from os import PathLike
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

from otelstream._objectives import INTEGRITY_FAULTS, Objective, Objectives
from otelstream._objectives_file._problems import LABEL_NAME, ObjectivesError, Reader, show
from otelstream._objectives_file._text import duration, exact, number, percent
from otelstream._semconv import MAX_COMMON_SETS, Fault, ObjectiveKind

Severity = Literal["page", "ticket"]
DAY: Final = Decimal(86400)
KINDS: Final = get_args(ObjectiveKind)
# `request_error` is our caller's mistake and always excluded; `none` is no fault.
FAULTS: Final = tuple(fault for fault in get_args(Fault) if fault not in ("none", "request_error"))
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9_-]{0,38}[a-z0-9])?")
RESERVED_LABELS: Final = ("alertname", "severity", "long", "short", "exhaustion", "otelstream_objective_name")


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


SYMPTOMS: Final[Mapping[str, Symptom]] = {
    "hanging": Symptom("page", Decimal(300), threshold=0.2, at_least=3),
    "cancels": Symptom("ticket", Decimal(300), threshold=0.2, at_least=3, window=Decimal(3600)),
    "side_effects": Symptom("ticket", Decimal(900), at_least=1, window=Decimal(21600)),
    "early_tools": Symptom("ticket", Decimal(60), at_least=1, window=Decimal(3600)),
    "invalid_tools": Symptom("ticket", Decimal(60), at_least=1, window=Decimal(3600)),
    "repetition": Symptom("ticket", Decimal(300), threshold=0.01, at_least=3, window=Decimal(3600)),
    "provider_stalls": Symptom("ticket", Decimal(600), threshold=0.05, at_least=5, window=Decimal(1800)),
    "retries": Symptom("ticket", Decimal(600), threshold=0.1, at_least=3, window=Decimal(1800)),
    "overflow": Symptom("ticket", Decimal(300)),
    "objectives_differ": Symptom("ticket", Decimal(900)),
    "silent": Symptom("ticket", Decimal(600), window=Decimal(21600)),
}


@dataclass(frozen=True, slots=True)
class Promise:
    """One objective with what its rules need."""

    objective: Objective
    burn_rates: tuple[BurnRate, ...]
    min_bad: int
    description: str = ""

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
    window: Decimal = 30 * DAY
    keep_firing: Decimal = Decimal(900)
    group_by: tuple[str, ...] = ("job",)
    labels: tuple[tuple[str, str], ...] = ()
    select: tuple[tuple[str, str], ...] = ()
    runbook_url: str = "runbook.md"
    symptoms: Mapping[str, Symptom] = field(default_factory=lambda: dict(SYMPTOMS))

    @property
    def objectives(self) -> Objectives:
        """What the process judges streams by."""
        return Objectives(tuple(promise.objective for promise in self.promises))


def load(path: str | PathLike[str]) -> Objectives:
    """Load the objectives of a file; ObjectivesError (a ValueError) lists every problem in it."""
    return load_config(path).objectives


def load_config(path: str | PathLike[str]) -> SloConfig:
    """Load the whole file; `.json` needs the standard library only, anything else PyYAML."""
    source = Path(path)
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ObjectivesError(
            str(path), [f"cannot be read ({reason}); `otelstream slo init` writes one to edit"]
        ) from None
    data = _parse_json(text, str(path)) if source.suffix == ".json" else _parse_yaml(text, str(path))
    return parse(data, str(path))


def _parse_json(text: str, source: str) -> object:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            keys = [key for key, _ in items]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ObjectivesError(source, [f"key {show(twice)} is there twice; keep one"])
        return found

    try:
        return json.loads(text, object_pairs_hook=pairs)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ObjectivesError(source, [f"is no JSON ({error}); mend it there"]) from None


def _parse_yaml(text: str, source: str) -> object:
    try:
        import yaml
    except ImportError:
        raise ObjectivesError(
            source,
            ['needs PyYAML; `pip install "otelstream[dashboards]"`, or write the same as a .json file'],
        ) from None

    # PyYAML keeps the last of two equal keys silently: half of somebody's objectives would vanish.
    def mapping(loader: Any, node: Any) -> dict[object, object]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = loader.construct_object(key_node, deep=True)
            if isinstance(key, (str, int, float, bool)) and key in seen:
                line = key_node.start_mark.line + 1
                raise ObjectivesError(source, [f"line {line}: key {show(key)} is there twice; keep one"])
            if isinstance(key, (str, int, float, bool)):
                seen.add(key)
        return cast(dict[object, object], loader.construct_mapping(node, deep=True))

    loader: Any = type("Loader", (yaml.SafeLoader,), {})
    loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    try:
        return yaml.load(text, Loader=loader)
    except ObjectivesError:
        raise
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ObjectivesError(source, [f"{where}is no YAML ({what}); mend it there"]) from None


_TOP: Final = (
    "version",
    "window",
    "min_bad",
    "keep_firing",
    "group_by",
    "select",
    "labels",
    "runbook_url",
    "burn_rates",
    "objectives",
    "symptoms",
)
_OBJECTIVE: Final = (
    "name", "kind", "target", "threshold", "models", "routes", "faults", "min_bad", "burn_rates",
    "description",
)  # fmt: skip


def parse(data: object, source: str = "objectives") -> SloConfig:
    """Check plain data and return the config; ObjectivesError lists every problem."""
    if not isinstance(data, Mapping):
        raise ObjectivesError(
            source, [f"holds {show(data)}, no mapping; start from the file `otelstream slo init` writes"]
        )
    problems: list[str] = []
    top = Reader(data, "", problems)
    top.known(_TOP)
    if data.get("version", 1) != 1:
        top.problem("version", f"{show(data.get('version'))} is unknown; this otelstream reads version 1")
    window = top.seconds("window", 30 * DAY, "30d") or 30 * DAY
    keep_firing = top.seconds("keep_firing", Decimal(900), "15m") or Decimal(900)
    min_bad = top.whole("min_bad", 3)
    group_by = top.names("group_by", "job") or ("job",)
    for name in group_by:
        if not LABEL_NAME.fullmatch(name) or name in RESERVED_LABELS:
            top.problem("group_by", f"{show(name)} is no label to group by; use names such as job or namespace")
    default_pairs = _burn_rates(top, "burn_rates", window) if "burn_rates" in data else default_burn_rates(window)
    config = SloConfig(
        promises=_promises(top, window, default_pairs, min_bad),
        window=window,
        keep_firing=keep_firing,
        group_by=group_by,
        labels=_labels(top, "labels"),
        select=_labels(top, "select"),
        runbook_url=top.text("runbook_url", "runbook.md"),
        symptoms=_symptoms(top),
    )
    if problems:
        raise ObjectivesError(source, problems)
    return config


def default_burn_rates(window: Decimal) -> tuple[BurnRate, ...]:
    """The four pairs everybody knows, by share of the budget: 30 d gives x14.4, x6, x3, x1."""
    shares: tuple[tuple[Severity, str, int, int, int], ...] = (
        ("page", "0.02", 3600, 300, 120),
        ("page", "0.05", 21600, 1800, 900),
        ("ticket", "0.1", 86400, 7200, 3600),
        ("ticket", "0.1", 259200, 21600, 10800),
    )
    return tuple(
        BurnRate(
            severity,
            Decimal(long),
            Decimal(short),
            factor_of(Decimal(share), window, Decimal(long)),
            Decimal(hold),
        )
        for severity, share, long, short, hold in shares
    )


def factor_of(budget_share: Decimal, window: Decimal, long: Decimal) -> Decimal:
    """The burn rate that spends this share of the budget within the long window."""
    return round(budget_share * window / long, 6).normalize()


def _burn_rates(owner: Reader, key: str, window: Decimal) -> tuple[BurnRate, ...]:
    pairs: list[BurnRate] = []
    for item in owner.mappings(key):
        before = len(item.problems)
        item.known(("severity", "long", "short", "budget", "factor", "for"))
        severity = item.one_of("severity", get_args(Severity))
        long = item.seconds("long", None, "1h")
        short = item.seconds("short", None, "5m")
        hold = item.seconds("for", None, "2m")
        factor: Decimal | None = None
        if ("budget" in item.data) == ("factor" in item.data):
            item.problem("budget", "give either `budget` (share of the budget, 0.02) or `factor` (14.4)")
        elif "factor" in item.data:
            factor = exact(item.positive("factor", 14.4))
        else:
            share = item.ratio("budget", "write the share of the budget such as 0.02")
            if share and long:
                factor = factor_of(exact(share), window, long)
        if len(item.problems) > before or not (severity and long and short and hold and factor):
            continue
        if short >= long:
            item.problem("short", f"{duration(short)} is not under long ({duration(long)}); use a twelfth of it")
        if long >= window:
            item.problem("long", f"{duration(long)} is not under the window ({duration(window)}); shorten it")
        if hold >= long:
            item.problem("for", f"{duration(hold)} is not under long ({duration(long)}); shorten it")
        if any(pair.long == long for pair in pairs):
            item.problem("long", f"{duration(long)} is there twice; an alert is named after it, change one")
        pairs.append(BurnRate(cast(Severity, severity), long, short, factor, hold))
    return tuple(pairs)


def _promises(top: Reader, window: Decimal, default_pairs: tuple[BurnRate, ...], min_bad: int) -> tuple[Promise, ...]:
    found: list[Promise] = []
    names: dict[str, str] = {}
    items = top.mappings("objectives")
    if len(items) > MAX_COMMON_SETS:
        top.problem("objectives", f"{len(items)} are more than {MAX_COMMON_SETS}; keep the ones people act on")
    for item in items:
        before = len(item.problems)
        item.known(_OBJECTIVE)
        name = item.data.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            item.problem("name", f"{show(name)} is no name; use 1-40 of a-z, 0-9, _ and -, such as chat-first-token")
        elif name in names:
            item.problem("name", f"{show(name)} is taken by {names[name]}; rename one")
        else:
            names[name] = item.path
        kind = item.one_of("kind", KINDS)
        target = (
            item.ratio("target", "write a ratio such as 0.99")
            if item.required("target", "write a ratio such as 0.99")
            else None
        )
        threshold = _threshold(item, kind)
        faults = _faults(item, kind)
        pairs = _burn_rates(item, "burn_rates", window) if "burn_rates" in item.data else default_pairs
        promise = Promise(
            Objective(
                name if isinstance(name, str) else "",
                cast(ObjectiveKind, kind),
                target or 0.5,
                threshold,
                item.names("models", "model-a"),
                item.names("routes", "chat"),
                faults,
            ),
            pairs,
            item.whole("min_bad", min_bad),
            item.text("description", ""),
        )
        if target:
            _check_reachable(item, promise, window)
        if len(item.problems) == before:
            found.append(promise)
    return tuple(found)


def _threshold(item: Reader, kind: str | None) -> float | None:
    if kind == "integrity":
        if "threshold" in item.data:
            item.problem("threshold", f"{show(item.data['threshold'])} means nothing for integrity; remove it")
        return None
    if not item.required("threshold", "write it as 2.5s (ms, s, m, h, d)"):
        return None
    seconds = item.seconds("threshold", None, "2.5s")
    if seconds is None:
        return None
    return int(seconds) if seconds == int(seconds) else float(seconds)


def _faults(item: Reader, kind: str | None) -> frozenset[Fault]:
    if "faults" not in item.data:
        return INTEGRITY_FAULTS
    if kind in ("first_token", "completion"):
        item.problem("faults", f"means nothing for {kind}; remove it, only integrity has a fault set")
        return INTEGRITY_FAULTS
    found = item.names("faults", "provider_error, cut_short")
    for fault in found:
        if fault not in FAULTS:
            item.problem("faults", f"{show(fault)} is unknown; allowed: {', '.join(FAULTS)}")
    return cast("frozenset[Fault]", frozenset(found))


def _check_reachable(item: Reader, promise: Promise, window: Decimal) -> None:
    budget = promise.budget
    for pair in promise.burn_rates:
        if pair.factor * budget < 1:
            continue
        usable = ((1 / budget) * 10).to_integral_value(rounding="ROUND_CEILING") / 10 - Decimal("0.1")
        share = (usable * pair.long / window).quantize(Decimal("0.0001"), rounding="ROUND_FLOOR")
        item.problem(
            "target",
            f"{number(promise.target)} leaves a budget of {percent(budget)}; factor {number(pair.factor)} "
            f"({duration(pair.long)}/{duration(pair.short)}) x {number(budget)} = "
            f"{number(pair.factor * budget)} can never be exceeded; highest usable factor {number(usable)} "
            f"(budget {number(share)}): give this objective `burn_rates` of its own",
        )


def _labels(top: Reader, key: str) -> tuple[tuple[str, str], ...]:
    reader = top.mapping(key)
    found: list[tuple[str, str]] = []
    for name, value in reader.data.items() if reader else ():
        path = f"{key}.{name}"
        if not isinstance(name, str) or not LABEL_NAME.fullmatch(name) or name.startswith("__"):
            top.problem(path, f"{show(name)} is no label name; use letters, digits and _, such as team")
        elif key == "labels" and name in RESERVED_LABELS:
            top.problem(path, "is set by the rules themselves; rename it")
        elif not isinstance(value, str) or not value or "\n" in value:
            top.problem(path, f"{show(value)} is no label value; write it in quotes")
        else:
            found.append((name, value))
    return tuple(sorted(found))


def _symptoms(top: Reader) -> dict[str, Symptom]:
    found = dict(SYMPTOMS)
    reader = top.mapping("symptoms")
    if reader is None:
        return found
    reader.known(tuple(SYMPTOMS))
    for key, default in SYMPTOMS.items():
        value = reader.data.get(key)
        if key not in reader.data:
            continue
        if value is False or value == "off":  # YAML 1.1 reads a bare `off` as false
            del found[key]
            continue
        item = reader.mapping(key)
        if item is None:
            continue
        names = {"severity": default.severity, "for": default.hold, "threshold": default.threshold,
                 "at_least": default.at_least, "window": default.window}  # fmt: skip
        item.known(tuple(name for name, value in names.items() if value is not None))
        severity = item.one_of("severity", get_args(Severity), default.severity)
        found[key] = replace(
            default,
            severity=cast(Severity, severity or default.severity),
            hold=item.seconds("for", default.hold, "5m") or default.hold,
            threshold=item.positive("threshold", default.threshold) if default.threshold else None,
            at_least=item.whole("at_least", default.at_least) if default.at_least else None,
            window=item.seconds("window", default.window, "1h") if default.window else None,
        )
    return found
