# SPDX-License-Identifier: Apache-2.0
"""What must have come out of a cell, read off the simulator's log: what was written, and who closed, and how."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from otelstream import _semconv as s
from otelstream.testing import Exchange, Write

from .api import Api, payload
from .cells import Ending
from .columns import Shape

if TYPE_CHECKING:
    from .harness import Bench

BY_REASON = {"length": "truncated", "content_filter": "refused"}
INTEGRITY = {
    "provider_error", "connection_lost", "cut_short", "timeout", "protocol_error", "stalled", "content_filter",
    "malformed_tool_call",
}  # fmt: skip
LEFT = ("cancelled", "abandoned")


def place() -> Any:
    from pydantic import BaseModel

    class Place(BaseModel):
        city: str

    return Place


class Truth:
    """What the log of one exchange says of the stream."""

    def __init__(self, exchange: Exchange, api: Api, seen: int | str | None) -> None:
        self.exchange, self.api = exchange, api
        self.read: list[Write] = _until(exchange.events, seen)
        self.answered = exchange.status is not None and exchange.status < 400
        self.ended = any(write.kind == "message_stop" for write in self.read)
        self.visible = any(write.chunk and self._shows(write) for write in self.read)
        self.usage: dict[str, int] = {}
        self.finish = "error"
        self.finishes: dict[int, str] = {}  # by choice, where there are several
        self.asked = False  # for a tool, where the finish reason does not say so
        self.senseless = False  # the provider says that its model wrote what nobody can read
        self.response_id: str | None = None
        for write in self.read:
            if data := payload(write.frame):
                api.learn(self, write.kind, data)

    def _shows(self, write: Write) -> bool:
        if write.kind == "text":
            return True
        if write.kind != "tool_input":
            return False
        starts = [payload(each.frame) for each in self.read if each.kind == "block_start"]
        index = payload(write.frame).get("index")
        server = [each for each in starts if each.get("content_block", {}).get("type") == "server_tool_use"]
        return index is None or all(each["index"] != index for each in server)

    @property
    def phase(self) -> str:
        if not self.answered:
            return "before_response"
        if self.finish != "error" or self.ended:
            return "finished"
        return "mid_stream" if self.visible else "before_first_token"

    def verdict(self) -> tuple[str, str] | None:
        """Outcome and fault where the server ended the reply; the fault of a whole one is not on the wire."""
        exchange = self.exchange
        if exchange.closed_by != "server":
            return None
        if exchange.status is None:
            return "failed", "connection_lost"
        if exchange.status >= 400:
            return "failed", "request_error" if exchange.status == 400 else "provider_error"
        if self.senseless or any(write.kind == "error" for write in exchange.events):
            return "failed", "provider_error"
        if exchange.how != "end":
            return "failed", "connection_lost"
        complete = exchange.complete and self.api.has_terminal
        if not complete and (self.api.needs_terminal or self.finish == "error"):
            return "failed", "cut_short"
        return BY_REASON.get(self.finish, "completed"), ""


def _until(events: list[Write], seen: int | str | None) -> list[Write]:
    if seen is None or not seen:
        return events if seen is None else []
    places = [
        i for i, write in enumerate(events, 1) if (write.kind == "message_delta" if seen == "finish" else write.chunk)
    ]
    return events[: places[0 if isinstance(seen, str) else seen - 1]]


def differences(shape: Shape, ending: Ending, bench: Bench) -> Iterator[str]:
    """What is not as it must be, in words."""
    from .harness import calls

    exchanges = calls(bench.sim.log)
    spans = [
        span
        for span in bench.telemetry.spans()
        if span.kind is SpanKind.CLIENT and (span.attributes or {}).get(s.OPERATION) == shape.of.operation
    ]
    spans.sort(key=lambda span: span.start_time or 0)
    points = bench.telemetry.points()
    if len(spans) != len(exchanges):
        yield f"{len(spans)} call spans of {len(exchanges)} streams: {[span.name for span in spans]}"
    if len(bench.ended) != len(exchanges):
        yield f"{len(bench.ended)} terminal records of {len(exchanges)} streams"
    if bench.telemetry.said or bench.noise:
        yield f"said: {bench.telemetry.said + bench.noise}"
    want_points: dict[str, Counter[Any]] = {}
    for number, ((exchange, attempts), span) in enumerate(zip(exchanges, spans, strict=False)):
        truth = Truth(exchange, shape.of, ending.seen if number == 0 else None)
        want = wanted(ending if number == 0 else None, truth)
        yield from _span_differences(shape, span, want, truth, attempts, ending)
        _add_points(want_points, want, truth, span, attempts, shape)
        if number == 0 and ending.by == "server":
            verdict = truth.verdict()
            if verdict is None:
                yield f"the log does not say that the server ended it: {exchange}"
            elif verdict[0] != ending.outcome or verdict[1] not in ("", ending.fault):
                yield f"the log says {verdict}, the table {(ending.outcome, ending.fault)}"
        left = number == 0 and ending.by == "app" and ending.outcome != "completed" and ending.closes
        if left and exchange.closed_by != "peer":
            yield f"the log does not say that the client left: {exchange}"
    yield from _point_differences(want_points, points)


def wanted(ending: Ending | None, truth: Truth) -> dict[str, Any]:
    """The record that must be, by attribute."""
    if ending is None:
        outcome, fault = truth.verdict() or ("", "")
        ending = Ending("", "server", outcome, fault or "none")
    finish = ending.finish or truth.finish
    phase = ending.phase or truth.phase
    seen_token = truth.visible
    broken = phase != "before_response" and ending.fault in INTEGRITY
    left, failed = ending.outcome in LEFT, ending.outcome == "failed"
    whole = ending.outcome in ("completed", "truncated", "refused")
    out = ending.fault == "request_error" or ending.outcome == "caller_error"
    usage = dict(truth.usage)
    # That a finish reason is missing says nothing then.
    told = truth.senseless or (truth.api.usage_last and truth.ended and not ending.finish)
    if finish == "error" and not told:
        usage.pop(s.OUTPUT_TOKENS, None)
        if truth.api.usage_last:
            usage.clear()
    return {
        s.OUTCOME: ending.outcome,
        s.PHASE: phase,
        s.FAULT: ending.fault,
        s.SUCCEEDED_THEN_FAILED: broken,
        s.PARTIAL: ending.outcome != "completed",
        s.CANCEL_TRIGGER: ending.trigger,
        s.ERROR_TYPE: ending.error_type,
        s.FINISH_REASONS: None if finish == "error" and ending.outcome != "failed" else (finish,),
        s.INPUT_TOKENS: usage.get(s.INPUT_TOKENS),
        s.OUTPUT_TOKENS: usage.get(s.OUTPUT_TOKENS),
        s.RESPONSE_ID: truth.response_id,
        s.OBJECTIVE_FIRST_TOKEN: "excluded" if out else "good" if seen_token else "bad" if failed else "excluded",
        s.OBJECTIVE_COMPLETION: "excluded" if out or left else "bad" if failed else "good" if whole else "excluded",
        s.OBJECTIVE_INTEGRITY: (
            "excluded" if out else "bad" if broken
            else "excluded" if phase == "before_response" or left else "good"
        ),
    }  # fmt: skip


def _span_differences(
    shape: Shape, span: ReadableSpan, want: dict[str, Any], truth: Truth, attempts: int, ending: Ending
) -> Iterator[str]:
    has = dict(span.attributes or {})
    for name, value in want.items():
        theirs = name == s.ERROR_TYPE and shape.native and has.get(name) == "client_error"  # the SDK's word stands
        if has.get(name) != value and not theirs:
            yield f"{name} is {has.get(name)!r}, not {value!r}"
    if has.get(s.ATTEMPTS) != attempts:
        yield f"{s.ATTEMPTS} is {has.get(s.ATTEMPTS)}, not {attempts}"
    if truth.answered and has.get(s.REQUEST_ID) != truth.exchange.request_id:
        yield f"{s.REQUEST_ID} is {has.get(s.REQUEST_ID)!r}, not {truth.exchange.request_id!r}"
    chunks = sum(write.chunk or (write.kind == "compaction" and write.chars > 0) for write in truth.read)
    told = [str(payload(write.frame)) for write in truth.read]
    whole = sum("_tool_result" in data or "redacted" in data for data in told)
    got = has.get(s.CHUNKS)
    exact = ending.by == "server" or ending.seen is not None
    if not isinstance(got, int) or got > chunks + whole or (exact and got != chunks + whole):
        yield f"{s.CHUNKS} is {got}, the log has {chunks + whole}"
    seen = has.get(s.TIME_TO_FIRST_TOKEN) is not None
    if seen is not truth.visible or (has.get(s.WAIT_WITHOUT_TOKEN) is None) is not seen:
        yield f"first token seen: {seen}, in the log: {truth.visible}"
    failed = want[s.OUTCOME] == "failed"
    status = span.status.status_code
    allowed = (
        {StatusCode.ERROR} if failed else {StatusCode.UNSET, StatusCode.OK} if shape.native else {StatusCode.UNSET}
    )
    if status not in allowed:
        yield f"the span's status is {status}"
    if shape.native is (span.instrumentation_scope is not None and span.instrumentation_scope.name == s.SCOPE):
        yield f"the span is one of {span.instrumentation_scope}"
    names = [event.name for event in span.events]
    if (s.EVENT_FAILURE in names) is not (want[s.FAULT] not in ("none", "repetition")):
        yield f"fault {want[s.FAULT]}, events {names}"


def _labels(**extra: Any) -> frozenset[tuple[str, Any]]:
    return frozenset({**extra}.items())


COMMON = (s.OPERATION, s.REQUEST_MODEL, s.PROVIDER)


def _add_points(
    points: dict[str, Counter[Any]],
    want: dict[str, Any],
    truth: Truth,
    span: ReadableSpan,
    attempts: int,
    shape: Shape,
) -> None:
    told = (shape.of.operation, "some-model", shape.of.provider or shape.of.package)
    common = dict(zip(COMMON, told, strict=True))

    def add(metric: s.Metric, amount: int = 1, labels: dict[str, Any] | None = None) -> None:
        scope = {} if metric.common(lean=True) == "process" else common
        own = {name: value for name, value in (labels or {}).items() if name not in metric.wide}
        points.setdefault(metric.name, Counter())[frozenset({**scope, **own}.items())] += amount

    outcome, fault, phase, trigger = want[s.OUTCOME], want[s.FAULT], want[s.PHASE], want[s.CANCEL_TRIGGER]
    add(s.STREAMS, labels={s.OUTCOME: outcome, s.PHASE: phase, s.FAULT: fault})
    if fault != "none":
        add(s.STREAM_FAILURES, labels={s.FAULT: fault, s.PHASE: phase, s.ERROR_TYPE: want[s.ERROR_TYPE] or fault})
    for name, attribute in (
        ("first-token", s.OBJECTIVE_FIRST_TOKEN), ("completion", s.OBJECTIVE_COMPLETION),
        ("integrity", s.OBJECTIVE_INTEGRITY),
    ):  # fmt: skip
        for metric in (s.OBJECTIVE_STREAMS, s.OBJECTIVE_TOTAL):
            add(metric, labels={s.OBJECTIVE_NAME: name, s.OBJECTIVE_RESULT: want[attribute]})
    ended = {"failed": "broken", "cancelled": "left", "caller_error": "left", "abandoned": "left"}.get(outcome, "whole")
    if outcome != "failed" or truth.visible:
        add(s.STREAM_DURATION, labels={s.ENDED: ended})
    if truth.visible:
        kind = next(write.kind for write in truth.read if write.chunk and truth._shows(write))
        add(s.STREAM_TTFT, labels={s.FIRST_TOKEN_KIND: kind, s.CACHE: "none"})
    else:
        add(s.STREAM_WAIT_WITHOUT_TOKEN, labels={s.OUTCOME: outcome})
    open_ = shape.of.package == "botocore" and shape.asynchronous  # whose transport holds what nobody else does
    if trigger:
        add(s.CANCELLATIONS, labels={
            s.CANCEL_TRIGGER: trigger,
            s.CANCEL_PROPAGATION: "closed" if trigger != "gc" else "still_open" if open_ else "closed_by_gc",
            s.CANCEL_AT: "text" if truth.visible else "before_output",
        })  # fmt: skip
    if attempts > 1:
        add(
            s.STREAM_RETRIES,
            attempts - 1,
            {s.ERROR_TYPE: shape.of.refused},
        )
    for token_type, name in (("input", s.INPUT_TOKENS), ("output", s.OUTPUT_TOKENS)):
        if want[name] is not None:
            add(s.CLIENT_TOKENS, labels={s.TOKEN_TYPE: token_type})


CHECKED = (
    s.STREAMS, s.STREAM_FAILURES, s.OBJECTIVE_STREAMS, s.OBJECTIVE_TOTAL, s.STREAM_DURATION, s.STREAM_TTFT,
    s.STREAM_WAIT_WITHOUT_TOKEN,
    s.CANCELLATIONS, s.STREAM_RETRIES, s.CLIENT_TOKENS, s.STREAM_STALLS, s.STREAM_REPETITION_COUNT,
)  # fmt: skip


def _point_differences(want: dict[str, Counter[Any]], has: dict[str, Counter[Any]]) -> Iterator[str]:
    for metric in CHECKED:
        wanted_points, points = want.get(metric.name, Counter()), has.get(metric.name, Counter())
        for labels in wanted_points.keys() | points.keys():
            if wanted_points[labels] != points[labels]:
                shown = {name: value for name, value in sorted(labels) if name not in COMMON}
                yield f"{metric.name}{shown}: {points[labels]}, not {wanted_points[labels]}"
