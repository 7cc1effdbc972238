# SPDX-License-Identifier: Apache-2.0
"""PromQL of the panels: every selector carries the dashboard's variables, every name comes from the contract."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from otelstream._promql import NO_OVERFLOW, labels
from otelstream._semconv import PROVIDER, REQUEST_MODEL, ROUTE, Metric, label_name

RATE: Final = "$__rate_interval"
RANGE: Final = "$__range"
JOB: Final = 'job=~"$job"'
INSTANCE: Final = 'instance=~"$instance"'
COMMON: Final = (
    f'{label_name(PROVIDER)}=~"$provider"',
    f'{label_name(REQUEST_MODEL)}=~"$model"',
    f'{label_name(ROUTE)}=~"$route"',
)


def of(metric: Metric, *matchers: str, suffix: str = "") -> str:
    """Select a metric under the dashboard's variables; those of model and route only where it has them."""
    common = COMMON[: {"process": 0, "model": 2, "route": 3}[metric.common(lean=True)]]
    return f"{metric.prometheus}{suffix}{{{', '.join((JOB, INSTANCE, *common, *matchers, NO_OVERFLOW))}}}"


def per_second(metric: Metric, *matchers: str, by: Iterable[str] = (), suffix: str = "", past: str = "") -> str:
    """Sum of rates; `past` looks back: ` offset 1w`."""
    return _sum(by, f"rate({of(metric, *matchers, suffix=suffix)}[{RATE}]{past})")


def total(metric: Metric, *matchers: str, by: Iterable[str] = (), suffix: str = "") -> str:
    """Sum of increases over the dashboard's time range."""
    return _sum(by, f"increase({of(metric, *matchers, suffix=suffix)}[{RANGE}])")


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
    inner = f"rate({of(metric, *matchers, suffix=suffix)}[{over}]{past})" if over == RATE else (
        f"increase({of(metric, *matchers, suffix=suffix)}[{over}]{past})"
    )  # fmt: skip
    return f"histogram_quantile({q}, sum by ({names}) ({inner}))"


def mean(metric: Metric, *matchers: str, by: Iterable[str] = ()) -> str:
    """Mean of a histogram; absent without samples."""
    return share(
        per_second(metric, *matchers, by=by, suffix="_sum"),
        per_second(metric, *matchers, by=by, suffix="_count"),
    )
