# SPDX-License-Identifier: Apache-2.0
"""PromQL built from the telemetry names, so that rules and panels cannot misspell a series."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from otelstream._semconv import PROVIDER, REQUEST_MODEL, Metric, label_name

# Folded label sets belong to nobody; the overflow alert tells of them.
NO_OVERFLOW: Final = 'otel_metric_overflow!="true"'


def quoted(value: str) -> str:
    """Return a PromQL string."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def eq(attribute: str, value: str) -> str:
    return f"{label_name(attribute)}={quoted(value)}"


def ne(attribute: str, value: str) -> str:
    return f"{label_name(attribute)}!={quoted(value)}"


def any_of(attribute: str, *values: str) -> str:
    return f"{label_name(attribute)}=~{quoted('|'.join(values))}"


def none_of(attribute: str, *values: str) -> str:
    return f"{label_name(attribute)}!~{quoted('|'.join(values))}"


def series(metric: Metric, *matchers: str, suffix: str = "") -> str:
    """Return the selector of a metric: `series(STREAMS, eq(OUTCOME, "failed"))`."""
    return f"{metric.prometheus}{suffix}{{{', '.join((*matchers, NO_OVERFLOW))}}}"


def counted(selected: str, start: str, window: str, seconds: str, line: str = "") -> str:
    """How much a counter counted in a window that ends now, births included; `increase()` where it was reset.

    Plain `increase()` never sees what a series was born with: a process that lives for two scrapes would count for
    nothing. What a series had before: its value then; nothing, if its process was there without it, or has begun since;
    else (a new Prometheus, a gap) the least that was seen. `start` selects `otelstream.start_time`, which tells that.
    Less than before: it began anew under its old name just before the window, and all that it has is new.
    `line` begins each line where people read it.
    """
    now = f"last_over_time({selected}[{window}])"
    then = f"last_over_time({selected}[5m] offset {window})"
    born = began(start, window, seconds)
    return (
        f"(((({now}{line} - ({then}"
        f"{line} or 0 * {now} and on (job, instance) ({born})"
        f"{line} or min_over_time({selected}[{window}]))) >= 0 or {now}){line} unless resets({selected}[{window}]) > 0)"
        f"{line} or increase({selected}[{window}]))"
    )


def began(start: str, window: str, seconds: str, before: str = "5m") -> str:
    """The processes that were there before a window, or have begun in it: what is new of theirs is new."""
    return (
        f"last_over_time({start}[{before}] offset {window})"
        f" or last_over_time({start}[{window}]) > time() - {seconds} - 120"
    )


def labels(*attributes: str) -> str:
    """Return the label list of a `by (...)`."""
    return ", ".join(label_name(attribute) for attribute in attributes)


def sum_by(by: Iterable[str], expr: str) -> str:
    return f"sum by ({labels(*by)}) ({expr})"


MODEL: Final = (PROVIDER, REQUEST_MODEL)
