# SPDX-License-Identifier: Apache-2.0
"""The alerts that need no objective: what is wrong whatever was promised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from otelstream._objectives_file import SloConfig, Symptom, duration, number, percent
from otelstream._promql import any_of, counted, eq, ne, quoted, series, sum_by
from otelstream._semconv import (
    BLOCK_KIND,
    CANCEL_PROPAGATION,
    CANCELLATION_SIDE_EFFECTS,
    CANCELLATIONS,
    CLOCK,
    DISPATCH_PHASE,
    FOLDED,
    FOLDED_WHAT,
    INFO,
    OBJECTIVES_HASH,
    OTHER,
    OUTCOME,
    PROVIDER,
    REQUEST_MODEL,
    SIDE_EFFECT,
    STALL_SOURCE,
    START_TIME,
    STREAM_ACTIVE,
    STREAM_REPETITION_COUNT,
    STREAM_RETRIES,
    STREAM_STALLS,
    STREAM_STATE,
    STREAMS,
    TOOL_CALL_INPUT,
    TOOL_CALLS,
    TOOL_NAME,
    Metric,
    label_name,
)
from otelstream.slo._alert import Alert
from otelstream.slo._entries import SYMPTOM_ENTRIES

DAY = "1d"


@dataclass(frozen=True, slots=True)
class _Told:
    """What differs from alert to alert."""

    name: str
    expr: str
    summary: str
    description: str
    keep: bool = False
    raw: str = ""


class Symptoms:
    """Builds the alerts of one config; one method an alert, found by its key in the objectives file."""

    def __init__(self, config: SloConfig) -> None:
        self.config = config
        self.where = tuple(f"{key}={quoted(value)}" for key, value in config.select)
        self.group = config.group_by
        self.by_model = (*config.group_by, PROVIDER, REQUEST_MODEL)
        self.who = ", ".join(f"{{{{ $labels.{name} }}}}" for name in config.group_by)
        self.who_model = f"{self.who}, {{{{ $labels.{label_name(REQUEST_MODEL)} }}}}"

    def alerts(self) -> tuple[Alert, ...]:
        """Every symptom alert that is on."""
        builders: dict[str, Callable[[Symptom], _Told]] = {
            "hanging": self._hanging,
            "cancels": self._cancels,
            "side_effects": self._side_effects,
            "early_tools": self._early_tools,
            "invalid_tools": self._invalid_tools,
            "repetition": self._repetition,
            "provider_stalls": self._provider_stalls,
            "retries": self._retries,
            "overflow": self._overflow,
            "names": self._names,
            "objectives_differ": self._objectives_differ,
            "silent": self._silent,
        }
        found = []
        for key, knobs in self.config.symptoms.items():
            told = builders[key](knobs)
            found.append(
                Alert(
                    name=told.name,
                    severity=knobs.severity,
                    expr=told.expr,
                    raw=told.raw,
                    hold=knobs.hold,
                    keep=self.config.keep_firing if told.keep and knobs.severity == "page" else None,
                    summary=told.summary,
                    description=told.description,
                    entry=SYMPTOM_ENTRIES[key],
                )
            )
        return tuple(found)

    def records(self) -> dict[str, str]:
        """What alerts read of the past, by name."""
        knobs = self.config.symptoms.get("retries")
        return self._retried(knobs) if knobs else {}

    def _events(self, metric: Metric, window: Decimal | None, *matchers: str) -> str:
        """Count events, births included."""
        span = window or Decimal(0)
        start = f"{START_TIME.prometheus}{{{', '.join(self.where)}}}"
        return counted(series(metric, *self.where, *matchers), start, duration(span), number(span))

    def _share(self, part: str, whole: str, knobs: Symptom) -> str:
        enough = number(Decimal(knobs.at_least or 1) - Decimal("0.5"))
        return f"{part} / ({whole} > 0) > {number(knobs.threshold or 0)}\nand\n{part} > {enough}"

    def _hanging(self, knobs: Symptom) -> _Told:
        # The gauges of a process that is gone are kept for a while, behind a Collector for longer: its clock stands.
        clock = f"{CLOCK.prometheus}{{{', '.join(self.where)}}}"
        alive = f"and on (job, instance) (time() - {clock} < 120)"
        stalled = sum_by(self.by_model, f"{series(STREAM_ACTIVE, *self.where, eq(STREAM_STATE, 'stalled'))} {alive}")
        active = sum_by(self.by_model, f"{series(STREAM_ACTIVE, *self.where)} {alive}")
        whole = sum_by(
            self.by_model, self._events(STREAMS, Decimal(300), any_of(OUTCOME, "completed", "truncated", "refused"))
        )
        return _Told(
            "OtelStreamStreamsHanging",
            # A model that thinks for minutes is silent and healthy: its streams complete.
            f"{self._share(stalled, active, knobs)}\nunless\n{whole} >= {stalled}",
            "Open streams are silent right now.",
            f"{self.who_model}: {{{{ $value | humanizePercentage }}}} of the open streams have stalled, for "
            f"{duration(knobs.hold)}, more than have completed; the limit is {percent(knobs.threshold or 0)} and "
            f"{knobs.at_least} streams.",
            keep=True,
        )

    def _cancels(self, knobs: Symptom) -> _Told:
        lost = sum_by(
            self.group,
            self._events(
                CANCELLATIONS,
                knobs.window,
                any_of(CANCEL_PROPAGATION, "closed_by_gc", "closed_late", "drained", "still_open"),
            ),
        )
        asked = sum_by(self.group, self._events(CANCELLATIONS, knobs.window, ne(CANCEL_PROPAGATION, "not_needed")))
        return _Told(
            "OtelStreamCancelNotPropagated",
            self._share(lost, asked, knobs),
            "Stop does not reach the provider.",
            f"{self.who}: {{{{ $value | humanizePercentage }}}} of the cancels of the last "
            f"{duration(knobs.window or 0)} closed the upstream stream late or not at all; the limit is "
            f"{percent(knobs.threshold or 0)}.",
        )

    def _side_effects(self, knobs: Symptom) -> _Told:
        stood = sum_by(
            self.group,
            self._events(CANCELLATION_SIDE_EFFECTS, knobs.window, eq(SIDE_EFFECT, "committed")),
        )
        undone = sum_by(
            self.group,
            self._events(CANCELLATION_SIDE_EFFECTS, knobs.window, eq(SIDE_EFFECT, "compensated")),
        )
        enough = number(Decimal(knobs.at_least or 1) - Decimal("0.5"))
        return _Told(
            "OtelStreamSideEffectsLeft",
            # Without a compensated series nothing was compensated: all that stood is left.
            f"({stood} - {undone} > {enough})\nor\n({stood} unless {undone}) > {enough}",
            "Stopped turns left side effects behind.",
            f"{self.who}: {{{{ $value | humanize }}}} tool calls had run when their turn was stopped "
            "in the last "
            f"{duration(knobs.window or 0)} and were not compensated.",
        )

    def _early_tools(self, knobs: Symptom) -> _Told:
        early = sum_by(
            (*self.group, TOOL_NAME),
            self._events(TOOL_CALLS, knobs.window, eq(DISPATCH_PHASE, "before_ready")),
        )
        return _Told(
            "OtelStreamToolDispatchedEarly",
            f"{early} > {number(Decimal(knobs.at_least or 1) - Decimal('0.5'))}",
            "A tool ran before its input was complete.",
            f"{self.who}: {{{{ $labels.{label_name(TOOL_NAME)} }}}} started {{{{ $value | humanize "
            "}} times in the "
            f"last {duration(knobs.window or 0)} before its input block had ended.",
        )

    def _invalid_tools(self, knobs: Symptom) -> _Told:
        broken = sum_by(
            (*self.group, TOOL_NAME),
            self._events(
                TOOL_CALLS,
                knobs.window,
                any_of(TOOL_CALL_INPUT, "invalid", "incomplete"),
                ne(DISPATCH_PHASE, "never"),
            ),
        )
        return _Told(
            "OtelStreamToolInputInvalid",
            f"{broken} > {number(Decimal(knobs.at_least or 1) - Decimal('0.5'))}",
            "A tool ran with input that is no valid JSON.",
            f"{self.who}: {{{{ $labels.{label_name(TOOL_NAME)} }}}} ran {{{{ $value | humanize }}}} "
            "times in the last "
            f"{duration(knobs.window or 0)} with invalid or cut-off input.",
        )

    def _repetition(self, knobs: Symptom) -> _Told:
        loops = sum_by(self.by_model, self._events(STREAM_REPETITION_COUNT, knobs.window))
        return _Told(
            "OtelStreamRepetitionLoops",
            self._share(loops, sum_by(self.by_model, self._events(STREAMS, knobs.window)), knobs),
            "Answers repeat themselves.",
            f"{self.who_model}: {{{{ $value | humanizePercentage }}}} of the streams of the last "
            f"{duration(knobs.window or 0)} ran into a loop; the limit is {percent(knobs.threshold or 0)}.",
        )

    def _provider_stalls(self, knobs: Symptom) -> _Told:
        stalls = sum_by(
            self.by_model,
            self._events(STREAM_STALLS, knobs.window, eq(STALL_SOURCE, "provider"), ne(BLOCK_KIND, "tool_input")),
        )
        return _Told(
            "OtelStreamProviderStalls",
            self._share(stalls, sum_by(self.by_model, self._events(STREAMS, knobs.window)), knobs),
            "The provider pauses mid-answer.",
            f"{self.who_model}: {{{{ $value | humanize }}}} stalls of the provider a stream in the last "
            f"{duration(knobs.window or 0)}; the limit is {number(knobs.threshold or 0)}.",
        )

    def _retries(self, knobs: Symptom) -> _Told:
        where, span = self.where, duration(knobs.window or 0)
        counts = self._retried(knobs)
        # Of yesterday every minute's count was recorded: a day of raw samples would cost more than all the rest.
        recorded = [f"sum_over_time({name}[{DAY}] offset {span})" for name in counts]
        plain = [
            sum_by(self.by_model, f"increase({series(metric, *where)}[{DAY}] offset {span})")
            for metric in (STREAM_RETRIES, STREAMS)
        ]

        def rising(now: str, streams: str, before: str, of: str) -> str:
            usual = f"3 * ({before} / ({of} > 0))"
            return f"({self._share(now, streams, knobs)})\nunless\n{now} / ({streams} > 0) <= {usual}"

        return _Told(
            "OtelStreamRetriesRising",
            # A model without yesterday has no usual ratio, and is judged by the limit alone.
            rising(*counts, *recorded),
            "Requests need more retries than usual.",
            f"{self.who_model}: {{{{ $value | humanize }}}} retries a stream in the last {span}, over "
            f"{number(knobs.threshold or 0)} and three times the ratio of the day before.",
            raw=rising(*counts.values(), *plain),
        )

    def _retried(self, knobs: Symptom) -> dict[str, str]:
        """Retries and streams of the window by model: what records them, and how."""
        span = duration(knobs.window or 0)
        return {
            f"slo:{name}:count{span}": sum_by(self.by_model, self._events(metric, knobs.window))
            for name, metric in (("stream_retries", STREAM_RETRIES), ("streams", STREAMS))
        }

    def _overflow(self, knobs: Symptom) -> _Told:
        names = '__name__=~"otelstream_.+|gen_ai_client_.+"'
        where = ", ".join((*self.where, names, 'otel_metric_overflow="true"'))
        folded = sum_by((*self.group, FOLDED_WHAT), self._events(FOLDED, knobs.window))
        return _Told(
            "OtelStreamLabelOverflow",
            f"{folded} > 0.5\nor\ncount by ({', '.join(self.group)}) ({{{where}}}) > 0",
            "More models, routes or tools than there is room for.",
            f"{self.who}: {{{{ $value | humanize }}}} points of the last {duration(knobs.window or 0)} were "
            f"counted under `{OTHER}` ({{{{ $labels.{label_name(FOLDED_WHAT)} }}}}); "
            "numbers by model, route or tool are incomplete.",
        )

    def _names(self, _knobs: Symptom) -> _Told:
        # With dots, without its suffix, or both: every name but the one that all else asks for.
        other = f'__name__=~"{START_TIME.name}(_seconds)?", __name__!="{START_TIME.prometheus}"'
        where = ", ".join((*self.where, other))
        return _Told(
            "OtelStreamNamesUntranslated",
            f"count by ({', '.join(self.group)}) ({{{where}}}) > 0",
            "Prometheus stores the metrics under names that no rule and no panel asks for.",
            f"{self.who}: {START_TIME.name} is not stored as {START_TIME.prometheus}. Set `otlp: translation_strategy: "
            "UnderscoreEscapingWithSuffixes` in prometheus.yml; until then every other alert is blind.",
        )

    def _objectives_differ(self, _knobs: Symptom) -> _Told:
        mine = self.config.objectives.hash
        others = f"{INFO.prometheus}{{{', '.join((*self.where, ne(OBJECTIVES_HASH, mine)))}}}"
        return _Told(
            "OtelStreamObjectivesDiffer",
            f"count by ({', '.join((*self.group, label_name(OBJECTIVES_HASH)))}) ({others}) > 0",
            "A process judges streams by another objectives file than the rules.",
            f"{self.who}: {{{{ $value }}}} processes loaded objectives {{{{ "
            f"$labels.{label_name(OBJECTIVES_HASH)} }}}}; "
            f"these rules were made from {mine}.",
        )

    def _silent(self, knobs: Symptom) -> _Told:
        info, span = f"{INFO.prometheus}{{{', '.join(self.where)}}}", duration(knobs.window or 0)
        if not self.where:
            info = INFO.prometheus
        by = ", ".join(self.group)
        return _Told(
            "OtelStreamTelemetrySilent",
            f"group by ({by}) (present_over_time({info}[{span}]))\nunless\ngroup by ({by}) ({info})",
            "A job stopped sending stream telemetry.",
            f"{self.who}: reported within the last {span} and reports nothing now. A job without "
            "traffic still "
            f"reports {INFO.prometheus}.",
        )
