# SPDX-License-Identifier: Apache-2.0
"""The metrics of `_semconv.METRICS`: instruments made once, points recorded when a stream has ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics import Meter

from otelstream import _semconv as s
from otelstream._core.emit import outbox
from otelstream._core.emit.labels import Common
from otelstream._core.emit.observed import Key, Source, observed
from otelstream._core.record.call import ToolCall
from otelstream._core.record.cancel import Cancel
from otelstream._core.record.hearing import Change
from otelstream._core.record.objectives import Objective
from otelstream._core.record.settings import Settings
from otelstream._core.record.stream import StreamObservation

_ENDED: Mapping[s.Outcome, s.Ended] = {
    "completed": "whole", "truncated": "whole", "refused": "whole", "failed": "broken",
    "cancelled": "left", "caller_error": "left", "abandoned": "left",
}  # fmt: skip


def _judged(objective: str, result: s.ObjectiveResult) -> dict[str, str]:
    return {s.OBJECTIVE_NAME: objective, s.OBJECTIVE_RESULT: result}


class Metrics:
    """What one process counts. Every method is called outside the hot path."""

    def __init__(
        self,
        meter: Meter,
        settings: Settings,
        open_streams: Callable[[], Iterable[StreamObservation]],
        info: Mapping[str, str],
        providers: Sequence[str] = (),
        due: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._lean = settings.metrics == "lean"
        self._observed = observed(meter)
        self._labels = self._observed.labels
        self._labels.room_for(objective.name for objective in settings.objectives)
        self._source = Source(open_streams, info, due)
        self._observed.join(self._source)
        self._known: set[Key] = set()  # the common labels whose zeros are out, under these settings
        self._instruments: dict[str, list[Any]] = {}
        for metric in s.METRICS:
            if metric.lean is not None or not self._lean:
                self._create(meter, metric)
        outbox.emit(
            deque(
                partial(self._observed.count, s.OBJECTIVE_TOTAL, _judged(objective.name, result), 0)
                for objective in settings.objectives
                for result in s.OBJECTIVE_RESULTS
            )
        )
        for objective in settings.objectives:
            for model in objective.models:
                for route in objective.routes or (None,):
                    for provider in providers:
                        if self._labels.has_room:  # else its zeros come with its first request
                            self._zeros(self._labels.common("chat", provider, model, route))

    def _create(self, meter: Meter, metric: s.Metric) -> None:
        if metric.kind == "histogram":
            bounds = {*metric.buckets(lean=self._lean)}
            if metric.threshold_kind is not None:
                bounds.update(self._settings.objectives.thresholds(metric.threshold_kind))
            self._instruments[metric.name] = [
                self._observed.histogram(meter, name, metric, sorted(bounds)) for name in self._names(metric)
            ]
        elif metric.kind == "counter":
            self._instruments[metric.name] = [meter.create_counter(metric.name, metric.unit, metric.says)]
        elif metric not in (s.STREAM_GAP_BUCKET, s.STREAM_GAP_SUM) or self._settings.chunk_metric == "buckets":
            self._observed.create(meter, metric, lean=self._lean)

    def retire(self) -> None:
        """Leave the observables to those that begin later, and to the streams that are still open."""
        self._source.on = False

    def _names(self, metric: s.Metric) -> tuple[str, ...]:
        """The released name of a conventions' metric, the coming one, or both, as setting `semconv` says."""
        if not metric.semconv:
            return (metric.name,)
        if metric is s.CLIENT_TIME_PER_CHUNK and self._settings.chunk_metric != "semconv":
            return ()
        latest = metric.name.replace(".operation.", ".inference.")
        return {"released": (metric.name,), "latest": (latest,), "dup": (metric.name, latest)}[self._settings.semconv]

    # --- recording ----------------------------------------------------------------------------------------

    def add(
        self,
        metric: s.Metric,
        stream: StreamObservation | None,
        extra: dict[str, str | bool] | None = None,
        amount: float = 1,
    ) -> None:
        """Count, or record into a histogram, with labels bounded: those of `stream`, and `extra`."""
        self._add(metric, None if stream is None else self._observed.common(stream), extra, amount)

    def _add(
        self, metric: s.Metric, common: Common | None, extra: dict[str, str | bool] | None = None, amount: float = 1
    ) -> None:
        outbox.emit(deque(self._points(metric, common, extra, amount)))

    def _points(
        self,
        metric: s.Metric,
        common: Common | None,
        extra: dict[str, str | bool] | None = None,
        amount: float = 1,
        context: Context | None = None,
    ) -> Iterator[outbox.Step]:
        instruments = self._instruments.get(metric.name)
        if not instruments:
            return
        labels: dict[str, str | bool] = {} if common is None else {**common.of(metric, lean=self._lean)}
        if extra:
            if self._lean and metric.wide:
                extra = {name: value for name, value in extra.items() if name not in metric.wide}
            labels.update(self._labels.extra(metric, extra, lean=self._lean))
        for instrument in instruments:
            yield partial(instrument.record if metric.kind == "histogram" else instrument.add, amount, labels, context)

    def started(self, stream: StreamObservation) -> None:
        """The first request of a model exports its zeros: `rate()` never sees a series' first increment."""
        common = self._observed.common(stream)
        if tuple(common.route.items()) not in self._known:
            self._zeros(common)

    def _zeros(self, common: Common) -> None:
        self._known.add(tuple(common.route.items()))
        self._observed.knows(common)
        model, route = common.route[s.REQUEST_MODEL], common.route.get(s.ROUTE)
        outbox.emit(
            deque(
                partial(
                    self._observed.count, s.OBJECTIVE_STREAMS, {**common.route, **_judged(objective.name, result)}, 0
                )
                for objective in self._settings.objectives
                if objective.covers(model, route)
                for result in s.OBJECTIVE_RESULTS
            )
        )

    def retried(self, stream: StreamObservation, error_type: str) -> None:
        self.add(s.STREAM_RETRIES, stream, {s.ERROR_TYPE: self._labels.error(error_type)})

    def chunk_times(self, stream: StreamObservation, gaps: Iterable[float]) -> None:
        """Record every gap on the conventions' histogram: `chunk_metric=semconv` only, 7 µs each."""
        for gap in () if stream.suppressed else gaps:
            self.add(s.CLIENT_TIME_PER_CHUNK, stream, amount=gap)

    def ended(self, stream: StreamObservation) -> list[outbox.Step]:
        """The points of everything that one ended stream says."""
        common = self._observed.common(stream)
        points: list[outbox.Step] = [partial(self._labels.fold, common.folded)] if common.folded else []
        context = trace.set_span_in_context(stream.span) if stream.span is not None else None
        outcome, fault, phase = stream.outcome or "failed", stream.fault, stream.phase
        duration = stream.duration or 0.0

        def add(metric: s.Metric, amount: float = 1, **extra: Any) -> None:
            points.extend(self._points(metric, common, extra.get("labels"), amount, context))

        add(s.STREAMS, labels={s.OUTCOME: outcome, s.PHASE: phase, s.FAULT: fault})
        if fault != "none":
            error = self._labels.error(stream.error_type or fault)
            add(s.STREAM_FAILURES, labels={s.FAULT: fault, s.PHASE: phase, s.ERROR_TYPE: error})
        if stream.judged:
            points.append(partial(self._judge, common, stream.judged))
        if outcome != "failed" or stream.wait_without_token is None:
            # How old an answer was when it broke: what failed before its first word has the wait for that instead.
            add(s.STREAM_DURATION, duration, labels={s.ENDED: _ENDED[outcome], s.OUTCOME: outcome})
        self._first_token(stream, add, outcome)
        for stall in stream.stalls:
            stall_labels = {s.STALL_SOURCE: stall.source, s.BLOCK_KIND: stall.kind}
            add(s.STREAM_STALLS, labels=dict(stall_labels))
            add(s.STREAM_STALL_DURATION, stall.duration, labels=stall_labels)
        if stream.stalls:
            longest = max(stream.stalls, key=lambda stall: stall.duration)
            add(s.STREAM_STALLED, labels={s.STALL_SOURCE: longest.source})
        rate = stream.output_rate
        if rate is not None:
            add(s.STREAM_OUTPUT_RATE, rate)
        for loop in stream.repetitions:
            add(s.STREAM_REPETITION_COUNT, labels={s.BLOCK_KIND: loop.kind})
            add(s.STREAM_REPETITION_WASTED, loop.repetition.wasted, labels={s.BLOCK_KIND: loop.kind})
        for when, _ in stream.actions:
            add(s.ACTION_LEAD_TIME, max(0.0, (stream.end_at or when) - when))
        for change in stream.changes:
            points.extend(self._verdict(change, stream.actions))
        gaps = stream.cadence.all
        if gaps.count:
            add(s.STREAM_GAP_MAX, gaps.longest)
            if self._settings.chunk_metric == "buckets":
                labels = common.of(s.STREAM_GAP_BUCKET, lean=self._lean)
                points.append(partial(self._observed.add_gaps, labels, gaps.counts, gaps.total))
        if not stream.foreign:
            self._conventions(stream, add, duration)
        if stream.cancel is not None:
            self._cancelled(stream, stream.cancel, add)
        return points

    def _judge(self, common: Common, judged: Iterable[tuple[Objective, s.ObjectiveResult]]) -> None:
        for objective, result in judged:
            labels = _judged(objective.name, result)
            self._observed.count(s.OBJECTIVE_TOTAL, labels)
            self._observed.count(s.OBJECTIVE_STREAMS, {**common.route, **labels})

    def verdict(self, change: Change, actions: Iterable[tuple[float, int]]) -> None:
        """Count a verdict that came after the end of its stream."""
        outbox.emit(deque(self._verdict(change, actions)))

    def _verdict(self, change: Change, actions: Iterable[tuple[float, int]]) -> Iterator[outbox.Step]:
        yield from self._points(s.VERDICTS, None, {s.JUDGE: change.judge, s.VERDICT: change.verdict})
        found = change.reverses(actions)
        if found is not None:
            labels: dict[str, str | bool] = {s.JUDGE: found.judge, s.VERDICT: found.before}
            yield from self._points(s.REVERSAL_EXPOSURE_TIME, None, dict(labels), found.exposure)
            yield from self._points(s.REVERSALS, None, {**labels, s.REVERSAL_ACTED_ON: found.acted_on})

    def stopped_between(self, stream: StreamObservation, trigger: s.Trigger) -> None:
        """Count a stop that came when `stream` was over and no other one followed."""
        self._stopped(self._observed.common(stream), trigger)

    def stopped_nothing(self, route: str | None, trigger: s.Trigger) -> None:
        """Count a stop of a turn that had no stream at all."""
        self._stopped(self._labels.common("chat", s.OTHER, s.OTHER, route), trigger)

    def _stopped(self, common: Common, trigger: s.Trigger) -> None:
        labels: dict[str, str | bool] = {
            s.CANCEL_TRIGGER: trigger,
            s.CANCEL_PROPAGATION: "not_needed",
            s.CANCEL_AT: "between_streams",
        }
        self._add(s.CANCELLATIONS, common, labels)

    def hop(self, stream: StreamObservation, outcome: s.HopOutcome, first_byte: float | None, duration: float) -> None:
        """Record what the browser got of the request that `stream` was begun in."""
        labels: dict[str, str | bool] = {s.HOP_OUTCOME: outcome}
        if first_byte is not None:
            self.add(s.HOP_FIRST_BYTE, stream, dict(labels), first_byte)
        self.add(s.HOP_DURATION, stream, labels, duration)

    def tool_call(self, stream: StreamObservation, call: ToolCall) -> None:
        """Count one tool call, whose fate is known and whose stream has ended."""
        labels: dict[str, str | bool] = {
            s.TOOL_NAME: self._labels.tool(call.name),
            s.TOOL_CALL_EFFECT: call.effect,
            s.DISPATCH_PHASE: call.phase or "never",
            s.TOOL_CALL_INPUT: call.input or s.OTHER,
            s.TOOL_CALL_STATE: call.state or "discarded",
        }
        self.add(s.TOOL_CALLS, None, labels)
        since_end = call.since_end
        if since_end is None:
            return
        metric = s.TOOL_DISPATCH_LEAD if since_end < 0 else s.TOOL_DISPATCH_LAG
        self.add(metric, stream, {s.TOOL_CALL_EFFECT: call.effect}, abs(since_end))

    def side_effect(self, stream: StreamObservation, call: ToolCall, word: s.SideEffect) -> None:
        """Count one call as a stop found it: once, and once more when it is compensated."""
        if word in call.stood or (call.stood and word != "compensated"):
            return
        call.stood |= {word}
        self.add(s.CANCELLATION_SIDE_EFFECTS, stream, {s.SIDE_EFFECT: word})

    def _first_token(self, stream: StreamObservation, add: Any, outcome: str) -> None:
        first_token, wait = stream.time_to_first_token, stream.wait_without_token
        if wait is not None:
            add(s.STREAM_WAIT_WITHOUT_TOKEN, wait, labels={s.OUTCOME: outcome})
        if first_token is None:
            return
        kind = stream.first_token_kind or "text"
        cache = "none" if self._lean and stream.cache == "write" else stream.cache
        add(s.STREAM_TTFT, first_token, labels={s.FIRST_TOKEN_KIND: kind, s.CACHE: cache})
        first_chunk = stream.time_to_first_chunk
        if stream.first_chunk_kind == "thinking" and first_chunk is not None:
            add(s.STREAM_THINKING_TIME, first_token - first_chunk)

    @staticmethod
    def _cancelled(stream: StreamObservation, cancel: Cancel, add: Any) -> None:
        at: dict[str, str | bool] = {s.CANCEL_PROPAGATION: cancel.propagation, s.CANCEL_AT: cancel.where}
        add(s.CANCELLATIONS, labels={s.CANCEL_TRIGGER: cancel.trigger, **at})
        if stream.first_token_at is not None:
            progress = max(0.0, cancel.at - stream.first_token_at)
            add(s.CANCELLATION_PROGRESS, progress, labels={s.CANCEL_TRIGGER: cancel.trigger})
        if cancel.close_delay is not None:
            add(s.CANCELLATION_DURATION, cancel.close_delay, labels={s.CANCEL_PROPAGATION: cancel.propagation})
            add(s.CANCELLATION_DELIVERED_AFTER, cancel.delivered_chars or 0)

    def _conventions(self, stream: StreamObservation, add: Any, duration: float) -> None:
        failed = stream.outcome == "failed" and stream.error_type
        labels = {s.ERROR_TYPE: self._labels.error(failed)} if failed else None
        add(s.CLIENT_DURATION, duration, labels=labels)
        if stream.time_to_first_chunk is not None:
            add(s.CLIENT_TIME_TO_FIRST_CHUNK, stream.time_to_first_chunk)
        for token_type, name in (("input", s.INPUT_TOKENS), ("output", s.OUTPUT_TOKENS)):
            if name in stream.usage:
                add(s.CLIENT_TOKENS, stream.usage[name], labels={s.TOKEN_TYPE: token_type})
