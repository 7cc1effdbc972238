# SPDX-License-Identifier: Apache-2.0
"""Recording rules and burn-rate alerts of one objective."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from otelstream._objectives_file import DAY, BurnRate, Promise, SloConfig, duration, number, percent, spoken
from otelstream._promql import any_of, eq, quoted, series
from otelstream._semconv import OBJECTIVE_NAME, OBJECTIVE_RESULT, OBJECTIVE_STREAMS, label_name
from otelstream.slo._alert import Alert
from otelstream.slo._entries import BURN_ENTRIES

# Windows beyond this change slowly: their rules run every two minutes, not at every evaluation.
SLOW_WINDOW: Final = Decimal(7200)
SLOW_INTERVAL: Final = Decimal(120)
KIND_WORDS: Final = {"first_token": "FirstToken", "completion": "Completion", "integrity": "Integrity"}


@dataclass(frozen=True, slots=True)
class Record:
    """One recording rule."""

    name: str
    expr: str
    labels: tuple[tuple[str, str], ...]


class Burn:
    """The rules of one promise. Record names are sloth's, so that its dashboards read them."""

    def __init__(self, config: SloConfig, promise: Promise) -> None:
        self.config, self.promise = config, promise
        self.name = promise.objective.name
        self.by = ", ".join(config.group_by)
        self.where = tuple(f"{key}={quoted(value)}" for key, value in config.select)
        self.mine = f"{{{eq(OBJECTIVE_NAME, self.name)}}}"
        self.id_labels = (
            (label_name(OBJECTIVE_NAME), self.name),
            ("sloth_id", f"otelstream-{self.name}"),
            ("sloth_service", "otelstream"),
            ("sloth_slo", self.name),
        )

    @property
    def base(self) -> Decimal:
        """The shortest window: what the whole period is summed from."""
        return self.promise.windows[0]

    def counts(self, window: Decimal) -> tuple[str, str]:
        """Return the rates of bad and of judged streams, from the raw counter."""
        bad = series(OBJECTIVE_STREAMS, *self.where, eq(OBJECTIVE_NAME, self.name), eq(OBJECTIVE_RESULT, "bad"))
        total = series(
            OBJECTIVE_STREAMS,
            *self.where,
            eq(OBJECTIVE_NAME, self.name),
            any_of(OBJECTIVE_RESULT, "good", "bad"),
        )
        span = duration(window)
        return (
            f"sum by ({self.by}) (rate({bad}[{span}]))",
            f"sum by ({self.by}) (rate({total}[{span}]))",
        )

    def sli_records(self, windows: tuple[Decimal, ...]) -> tuple[Record, ...]:
        """Bad rate, total rate and their ratio for each window; the ratio is absent without traffic."""
        found: list[Record] = []
        for window in windows:
            span = duration(window)
            labels = (*self.id_labels, ("sloth_window", span))
            bad, total = self.counts(window)
            found.append(Record(f"slo:sli_bad:rate{span}", bad, labels))
            found.append(Record(f"slo:sli_total:rate{span}", total, labels))
            found.append(
                Record(
                    f"slo:sli_error:ratio_rate{span}",
                    f"slo:sli_bad:rate{span}{self.mine} / (slo:sli_total:rate{span}{self.mine} > 0)",
                    labels,
                )
            )
        return tuple(found)

    def period_record(self) -> Record:
        """The ratio over the whole period, weighted by streams: a quiet night counts as little as it was."""
        base, period = duration(self.base), duration(self.config.window)
        return Record(
            f"slo:sli_error:ratio_rate{period}",
            f"sum_over_time(slo:sli_bad:rate{base}{self.mine}[{period}])"
            f" / (sum_over_time(slo:sli_total:rate{base}{self.mine}[{period}]) > 0)",
            (*self.id_labels, ("sloth_window", period)),
        )

    @property
    def outlook(self) -> Decimal:
        """The window whose burn rate tells when the budget is gone: the longest that pages, else "
        "the longest."""
        paging = [pair.long for pair in self.promise.burn_rates if pair.severity == "page"]
        return max(paging or [pair.long for pair in self.promise.burn_rates])

    def meta_records(self) -> tuple[Record, ...]:
        budget, period = number(self.promise.budget), duration(self.config.window)
        outlook = f"slo:sli_error:ratio_rate{duration(self.outlook)}{self.mine}"
        remaining = f"slo:period_error_budget_remaining:ratio{self.mine}"
        return tuple(
            Record(name, expr, self.id_labels)
            for name, expr in (
                ("slo:objective:ratio", f"vector({number(self.promise.target)})"),
                ("slo:error_budget:ratio", f"vector({budget})"),
                ("slo:time_period:days", f"vector({number(self.config.window / DAY)})"),
                (
                    "slo:current_burn_rate:ratio",
                    f"slo:sli_error:ratio_rate{duration(self.base)}{self.mine} / {budget}",
                ),
                ("slo:period_burn_rate:ratio", f"slo:sli_error:ratio_rate{period}{self.mine} / {budget}"),
                ("slo:period_error_budget_remaining:ratio", f"1 - slo:period_burn_rate:ratio{self.mine}"),
                # Budget left, at the burn rate of the outlook window; absent while nothing burns.
                (
                    "slo:period_error_budget_exhaustion:seconds",
                    (
                        f"clamp_min({remaining}, 0) * {number(self.config.window)}"
                        f" / ignoring (sloth_window) ({outlook} / {budget} > 0)"
                    ),
                ),
            )
        )

    def alert(self, pair: BurnRate) -> Alert:
        """The alert of one pair of windows."""
        promise, kind = self.promise, self.promise.objective.kind
        limit = f"{number(pair.factor)} * {number(promise.budget)}"
        enough = f"{number(promise.min_bad - Decimal('0.5'))}"
        long, short = duration(pair.long), duration(pair.short)
        # `increase()` interpolates: three bad streams can come out as 2.9.
        guard = f"slo:sli_bad:rate{long}{self.mine} * {number(pair.long)} > {enough}"
        expr = (
            f"slo:sli_error:ratio_rate{long}{self.mine} > {limit}\n"
            f"and ignoring (sloth_window)\n"
            f"slo:sli_error:ratio_rate{short}{self.mine} > {limit}\n"
            f"and ignoring (sloth_window)\n"
            f"{guard}"
        )
        (bad_l, total_l), (bad_s, total_s) = self.counts(pair.long), self.counts(pair.short)
        raw = (
            f"{bad_l} / ({total_l} > 0) > {limit}\n"
            f"and\n{bad_s} / ({total_s} > 0) > {limit}\n"
            f"and\n{bad_l} * {number(pair.long)} > {enough}"
        )
        spent = pair.factor * pair.long / self.config.window
        gone = self.config.window / pair.factor
        what = {
            "first_token": f"showed no visible token within {spoken(promise.objective.threshold or 0)}",
            "completion": f"failed or took over {spoken(promise.objective.threshold or 0)}",
            "integrity": "began to answer and then failed",
        }[kind]
        who = ", ".join(f"{{{{ $labels.{name} }}}}" for name in self.config.group_by)
        return Alert(
            name=f"OtelStream{KIND_WORDS[kind]}BudgetBurn{long}",
            severity=pair.severity,
            expr=expr,
            raw=raw,
            hold=pair.hold,
            keep=self.config.keep_firing if pair.severity == "page" else None,
            summary=f"Streams break the {kind.replace('_', ' ')} objective {self.name}.",
            description=(
                f"{who}: {{{{ $value | humanizePercentage }}}} of streams of the last {long} {what}; the "
                f"objective {self.name} allows {percent(promise.budget)}. Both {long} and {short} "
                "burn the budget "
                f"more than {number(pair.factor)} times too fast: {percent(spent)} of the "
                f"{duration(self.config.window)} budget goes in {long}, all of it in "
                f"{duration(gone.quantize(Decimal(3600) if gone > DAY else Decimal(1)))}."
            ),
            entry=BURN_ENTRIES[kind],
            labels=(
                ("exhaustion", duration(gone.quantize(Decimal(3600) if gone > DAY else Decimal(1)))),
                ("long", long),
                (label_name(OBJECTIVE_NAME), self.name),
                ("short", short),
            ),
            objective=self.name,
        )

    def alerts(self) -> tuple[Alert, ...]:
        return tuple(self.alert(pair) for pair in self.promise.burn_rates)
