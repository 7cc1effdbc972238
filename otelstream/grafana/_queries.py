# SPDX-License-Identifier: Apache-2.0
"""PromQL of the panels: every selector carries the dashboard's variables, every name comes from the contract."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from otelstream._promql import NO_OVERFLOW, began, labels
from otelstream._semconv import PROVIDER, REQUEST_MODEL, ROUTE, START_TIME, STREAMS, Metric, label_name

RATE: Final = "$__rate_interval"
RANGE: Final = "$__range"
JOB: Final = 'job=~"$job"'
INSTANCE: Final = 'instance=~"$instance"'
COMMON: Final = (
    f'{label_name(PROVIDER)}=~"$provider"',
    f'{label_name(REQUEST_MODEL)}=~"$model"',
    f'{label_name(ROUTE)}=~"$route"',
)
# A series without such a label has it empty: `.*` keeps it.
PLACE: Final = (JOB, INSTANCE, 'cluster=~"$cluster"', 'namespace=~"$namespace"')
WHERE: Final = ", ".join(PLACE)
START: Final = f"{START_TIME.prometheus}{{{WHERE}}}"
RATE_SECONDS: Final = "$__rate_interval_ms / 1000"


def of(metric: Metric, *matchers: str, suffix: str = "", whole: bool = False) -> str:
    """Select a metric under the dashboard's variables; those of model and route only where it has them.

    `whole` takes all models: what is compared with a metric that has none.
    """
    common = COMMON[: {"process": 0, "model": 2, "route": 3}["process" if whole else metric.common(lean=True)]]
    return f"{metric.prometheus}{suffix}{{{', '.join((WHERE, *common, *matchers, NO_OVERFLOW))}}}"


def per_second(
    metric: Metric, *matchers: str, by: Iterable[str] = (), suffix: str = "", past: str = "", whole: bool = False
) -> str:
    """Sum of rates; `past` looks back: ` offset 1w`."""
    return _sum(by, _each(of(metric, *matchers, suffix=suffix, whole=whole), past))


def _each(selected: str, past: str = "") -> str:
    """Events a second, births included: most rare ones are the first of their series, which `rate()` never sees.

    The same as `counted`, at a price that a line over hours can pay: who knows nothing of before a gap says nothing.
    """
    if past:
        return f"rate({selected}[{RATE}]{past})"
    return f"{drawn(selected)} / ({RATE_SECONDS})"


def drawn(selected: str) -> str:
    """What was counted between two points of a line."""
    now = f"last_over_time({selected}[{RATE}])"
    known = began(START, RATE, RATE_SECONDS, RATE)
    return f"({now} - last_over_time({selected}[{RATE}] offset {RATE}) >= 0 or {now} and on (job, instance) ({known}))"


def per_minute(metric: Metric, *matchers: str, by: Iterable[str] = (), suffix: str = "") -> str:
    """Sixty times that: who streams eight answers in a thousand seconds reads minutes."""
    return f"60 * {per_second(metric, *matchers, by=by, suffix=suffix)}"


def total(metric: Metric, *matchers: str, by: Iterable[str] = (), suffix: str = "") -> str:
    """How much was counted over the dashboard's time range, births included: the area under the line."""
    return _area(_sum(by, drawn(of(metric, *matchers, suffix=suffix))))


def _area(line: str) -> str:
    """A process that begins anew under its old name, and fails once in each life, shows no reset over hours."""
    return f"sum_over_time({line}[{RANGE}:{RATE}])"


def or_none(expr: str, attribute: str, *, over: str = "") -> str:
    """Zero under the word `none` where streams were counted and nothing of the kind; nothing where none were."""
    streams = over or per_second(STREAMS, whole=True)
    return f'{expr} or on () label_replace(0 * {streams}, "{label_name(attribute)}", "none", "", "")'


def _sum(by: Iterable[str], expr: str) -> str:
    names = labels(*by)
    return f"sum by ({names}) ({expr})" if names else f"sum({expr})"


def share(part: str, whole: str, *, on: Iterable[str] | None = None) -> str:
    """Part of a whole, absent where there is no whole; `on` names the labels of the whole."""
    names = None if on is None else labels(*on)
    match = "" if names is None else f" on ({names}) group_left ()"
    return f"{part} /{match} ({whole} > 0)"


def quantile(q: float, metric: Metric, *matchers: str, by: Iterable[str] = (), over: str = RATE, past: str = "") -> str:
    """A quantile of a histogram; ours of gaps are counters with `le`."""
    suffix = "_bucket" if metric.kind == "histogram" else ""
    names = labels("le", *by)
    selected = of(metric, *matchers, suffix=suffix)
    if over == RANGE:
        return f"histogram_quantile({q}, {_area(f'sum by ({names}) ({drawn(selected)})')})"
    return f"histogram_quantile({q}, sum by ({names}) ({_each(selected, past)}))"


def mean(metric: Metric, *matchers: str, by: Iterable[str] = ()) -> str:
    """Mean of a histogram; absent without samples."""
    return share(
        per_second(metric, *matchers, by=by, suffix="_sum"),
        per_second(metric, *matchers, by=by, suffix="_count"),
    )
