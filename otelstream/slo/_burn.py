# SPDX-License-Identifier: Apache-2.0
"""Recording rules and burn-rate alerts of one objective."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from otelstream._objectives_file import DAY, BurnRate, Promise, Severity, SloConfig, duration, number, percent, spoken
from otelstream._promql import any_of, counted, eq, quoted, series
from otelstream._semconv import (
    COMMON_LABELS,
    OBJECTIVE_NAME,
    OBJECTIVE_RESULT,
    OBJECTIVE_STREAMS,
    OBJECTIVE_TOTAL,
    START_TIME,
    label_name,
)
from otelstream.slo._alert import Alert
from otelstream.slo._entries import BURN_ENTRIES

# Windows beyond this change slowly: their rules run every two minutes, not at every evaluation.
SLOW_WINDOW: Final = Decimal(7200)
SLOW_INTERVAL: Final = Decimal(120)
RAW_WINDOW: Final = Decimal(3600)  # up to which the raw counter is asked
KIND_WORDS: Final = {
    "first_token": "FirstToken", "completion": "Completion", "integrity": "Integrity", "reversal": "Reversal"
}  # fmt: skip


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
            ("sloth_slo", self.name),
        )

    @property
    def base(self) -> Decimal:
        """The shortest window: what the whole period is summed from."""
        return self.promise.windows[0]

    @property
    def interval(self) -> Decimal:
        """How often the shortest window is recorded: what the long ones are summed from."""
        return min(Decimal(60), self.base)

    def counts(self, window: Decimal) -> tuple[str, str]:
        """Return the rates of bad and of judged streams, from the raw counter."""
        routed = {label_name(name) for name in COMMON_LABELS} & {
            *self.config.group_by,
            *(key for key, _ in self.config.select),
        }
        metric = OBJECTIVE_STREAMS if routed else OBJECTIVE_TOTAL
        mine = (*self.where, eq(OBJECTIVE_NAME, self.name))
        bad = series(metric, *mine, eq(OBJECTIVE_RESULT, "bad"))
        total = series(metric, *mine, any_of(OBJECTIVE_RESULT, "good", "bad"))
        start = f"{START_TIME.prometheus}{{{', '.join(self.where)}}}"
        span = number(window)
        counts = (counted(each, start, duration(window), span) for each in (bad, total))
        first, second = (f"sum by ({self.by}) ({count}) / {span}" for count in counts)
        return first, second

    def rates(self, window: Decimal) -> tuple[str, str]:
        """The same out of what is recorded, for the long windows: what the raw counter says costs more there."""
        if window <= RAW_WINDOW:
            return self.counts(window)
        base, span = duration(self.base), duration(window)
        share = f"* {number(self.interval)} / {number(window)}"
        bad, total = (f"sum_over_time(slo:sli_{what}:rate{base}{self.mine}[{span}])" for what in ("bad", "total"))
        drop = "max without (sloth_window)"
        return f"{drop} ({bad}) {share}", f"{drop} ({total}) {share}"

    def named(self, expr: str) -> str:
        """Put sloth's ids on it: they differ by group, for its dashboards show one at a time."""
        groups = ", ".join(quoted(name) for name in self.config.group_by)
        return (
            f'label_replace(label_join({expr}, "sloth_service", "/", {groups}),'
            f' "sloth_id", "otelstream-{self.name}-$1", "sloth_service", "(.*)")'
        )

    def sli_records(self, windows: tuple[Decimal, ...]) -> tuple[Record, ...]:
        """Bad rate, total rate and their ratio for each window; the ratio is absent without traffic."""
        found: list[Record] = []
        for window in windows:
            span = duration(window)
            labels = (*self.id_labels, ("sloth_window", span))
            bad, total = self.rates(window)
            found.append(Record(f"slo:sli_bad:rate{span}", self.named(bad), labels))
            found.append(Record(f"slo:sli_total:rate{span}", self.named(total), labels))
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
        ratio = (
            f"sum_over_time(slo:sli_bad:rate{base}{self.mine}[{period}])"
            f" / (sum_over_time(slo:sli_total:rate{base}{self.mine}[{period}]) > 0)"
        )
        if self.config.window > DAY:
            # The first hour says nothing of a month: three bad of four would be a budget of minus 14 900 %.
            ratio += f"\nand last_over_time(slo:sli_total:rate{base}{self.mine}[10m] offset 1h)"
        return Record(f"slo:sli_error:ratio_rate{period}", ratio, (*self.id_labels, ("sloth_window", period)))

    @property
    def outlook(self) -> Decimal:
        """The window whose burn rate tells when the budget is gone: the longest that pages, else the longest."""
        paging = [pair.long for pair in self.promise.burn_rates if pair.severity == "page"]
        return max(paging or [pair.long for pair in self.promise.burn_rates])

    def meta_records(self) -> tuple[Record, ...]:
        budget, period = number(self.promise.budget), duration(self.config.window)
        outlook = f"slo:sli_error:ratio_rate{duration(self.outlook)}{self.mine}"
        remaining = f"slo:period_error_budget_remaining:ratio{self.mine}"
        there = f"0 * max without (sloth_window) (slo:sli_total:rate{duration(self.base)}{self.mine})"
        about = (
            ("sloth_mode", "cli-gen-prom"), ("sloth_objective", number(self.promise.target * 100)),
            ("sloth_spec", "prometheus/v1"), ("sloth_version", "otelstream"),
        )  # fmt: skip
        info = Record("sloth_slo_info", f"{there} + 1", (*self.id_labels, *about))
        return info, *(
            Record(name, expr, self.id_labels)
            for name, expr in (
                ("slo:objective:ratio", f"{there} + {number(self.promise.target)}"),
                ("slo:error_budget:ratio", f"{there} + {budget}"),
                ("slo:time_period:days", f"{there} + {number(self.config.window / DAY)}"),
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

    def alerts(self) -> tuple[Alert, ...]:
        """One alert for each severity, with all of its pairs."""
        found: dict[Severity, list[BurnRate]] = {}
        for pair in self.promise.burn_rates:
            found.setdefault(pair.severity, []).append(pair)
        return tuple(self.alert(severity, pairs) for severity, pairs in found.items())

    def alert(self, severity: Severity, pairs: list[BurnRate]) -> Alert:
        promise, kind, config = self.promise, self.promise.objective.kind, self.config
        hold = min(pair.hold for pair in pairs)
        what = {
            "first_token": f"showed no visible token within {spoken(promise.objective.threshold or 0)}",
            "completion": f"failed or took over {spoken(promise.objective.threshold or 0)}",
            "integrity": "began to answer and then failed",
            "reversal": "took back a verdict that people had read",
        }[kind]
        who = ", ".join(f"{{{{ $labels.{name} }}}}" for name in config.group_by)
        allowed = f"the objective {self.name} allows {percent(promise.budget)}"
        windows = tuple(self._spoken(pair) for pair in pairs)
        return Alert(
            name=f"OtelStream{KIND_WORDS[kind]}BudgetBurn{severity.capitalize()}",
            severity=severity,
            expr="max without (sloth_window) (\n" + "\nor\n".join(self._recorded(pair, hold) for pair in pairs) + "\n)",
            raw="max by (" + self.by + ") (\n" + "\nor\n".join(self._raw(pair) for pair in pairs) + "\n)",
            hold=hold,
            keep=config.keep_firing if severity == "page" else config.keep_ticket,
            summary=f"Streams break the {kind.replace('_', ' ')} objective {self.name}.",
            description=(
                f"{who}: {{{{ $value | humanizePercentage }}}} of streams {what}; {allowed}. Now: "
                f"{' · '.join(self._now(pair) for pair in pairs)}."
            ),
            plain=(
                f"{who}: {{{{ $value | humanizePercentage }}}} of streams {what}; {allowed}. "
                f"A pair of windows burns: {' · '.join(windows)}."
            ),
            entry=BURN_ENTRIES[kind],
            labels=((label_name(OBJECTIVE_NAME), self.name),),
            objective=self.name,
            windows=windows,
            holds=tuple(pair.hold for pair in pairs),
        )

    def _limits(self, pair: BurnRate) -> tuple[str, str]:
        """The ratio over which a pair burns; how many bad streams there must be: `increase()` interpolates, and three
        can come out as 2.9."""
        return f"{number(pair.factor)} * {number(self.promise.budget)}", number(self.promise.min_bad - Decimal("0.5"))

    def _recorded(self, pair: BurnRate, hold: Decimal) -> str:
        limit, enough = self._limits(pair)
        long, short = duration(pair.long), duration(pair.short)
        # The alert waits for its quickest pair; a slower one has to have burned for the rest.
        rest = f"[{duration(pair.hold - hold)}])" if pair.hold > hold else ""
        ratios = (
            f"{'min_over_time(' if rest else ''}slo:sli_error:ratio_rate{window}{self.mine}{rest} > {limit}"
            for window in (long, short)
        )
        bad = f"slo:sli_bad:rate{long}{self.mine}"
        conditions = (*ratios, f"{bad} * {number(pair.long)} > {enough}", self._lasting(pair, bad))
        return "(\n" + "\nand ignoring (sloth_window)\n".join(conditions) + "\n)"

    @property
    def _plenty(self) -> str:
        """So many bad streams are an incident however short it was; a few within minutes are over when somebody looks,
        unless there were some before."""
        return number(3 * self.promise.min_bad - Decimal("0.5"))

    def _lasting(self, pair: BurnRate, bad: str) -> str:
        before = duration(pair.short + pair.hold)
        return f"({bad} * {number(pair.long)} > {self._plenty} or {bad} offset {before} > 0)"

    def _raw(self, pair: BurnRate) -> str:
        limit, enough = self._limits(pair)
        (bad_l, total_l), (bad_s, total_s) = self.counts(pair.long), self.counts(pair.short)
        recent = pair.short + pair.hold
        lately, _ = self.counts(recent)
        enough_bad = f"({bad_l}) * {number(pair.long)}"
        conditions = (
            f"({bad_l}) / (({total_l}) > 0) > {limit}",
            f"({bad_s}) / (({total_s}) > 0) > {limit}",
            f"{enough_bad} > {enough}",
            f"({enough_bad} > {self._plenty} or {enough_bad} > ({lately}) * {number(recent)} + 0.5)",
        )
        return "(\n" + "\nand\n".join(conditions) + "\n)"

    def _spoken(self, pair: BurnRate) -> str:
        gone = self.config.window / pair.factor
        left = duration(gone.quantize(Decimal(3600) if gone > DAY else Decimal(1)))
        limit = percent(pair.factor * self.promise.budget)
        return f"{duration(pair.long)} and {duration(pair.short)} over {limit} (the budget gone in {left})"

    def _now(self, pair: BurnRate) -> str:
        """What the long window of a pair says when the alert is sent: which of them burns."""
        where = ",".join(f"{name}='%s'" for name in self.config.group_by)
        query = f"slo:sli_error:ratio_rate{duration(pair.long)}{{{label_name(OBJECTIVE_NAME)}='{self.name}',{where}}}"
        values = " ".join(f"$labels.{name}" for name in self.config.group_by)
        share = "{{ . | first | value | humanizePercentage }}{{ else }}none{{ end }}"
        asked = f'{{{{ with printf "{query}" {values} | query }}}}{share}'
        return f"{asked} in {duration(pair.long)}, limit {percent(pair.factor * self.promise.budget)}"
