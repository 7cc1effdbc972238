# SPDX-License-Identifier: Apache-2.0
"""Every name that leaves the process: attributes, events, metrics, their labels, values, units and buckets.

Dashboards, rules, docs and tests read these names here; nothing else spells them. Names under `gen_ai.` and
`error.` are OpenTelemetry's (GenAI semantic conventions); all others are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

SCOPE: Final = "otelstream"
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.37.0"
OTHER: Final = "_OTHER"  # the conventions' word for a value beyond the bound

# --- closed sets ------------------------------------------------------------------------------------------

Outcome = Literal["completed", "truncated", "refused", "failed", "cancelled", "caller_error", "abandoned"]
Phase = Literal["before_response", "before_first_token", "mid_stream", "finished"]
Fault = Literal[
    "provider_error",
    "connection_lost",
    "cut_short",
    "timeout",
    "protocol_error",
    "request_error",
    "stalled",
    "content_filter",
    "tool_call_cut_off",
    "malformed_tool_call",
    "repetition",
    "none",
]
BlockKind = Literal["text", "thinking", "tool_input", "other"]
FirstTokenKind = Literal["text", "tool_input"]
CacheUse = Literal["read", "write", "none"]
StreamState = Literal["waiting_headers", "waiting_token", "flowing", "stalled"]
DropEffect = Literal["at_once", "gc", "never"]  # when the connection closes of a stream that is dropped
StallSource = Literal["provider", "server_tool", "consumer", "own_tool", "event_loop", "unknown"]
Trigger = Literal[
    "app_close",
    "task_cancel",
    "timeout",
    "generator_close",
    "client_disconnect",
    "user_stop",
    "judge",
    "gc",
    "shutdown",
]
CancelAt = Literal[
    "before_output", "text", "thinking", "tool_input", "block_boundary", "after_finish", "between_streams"
]
Propagation = Literal["closed", "closed_late", "closed_by_gc", "drained", "still_open", "not_needed"]
DispatchPhase = Literal["before_ready", "mid_stream", "after_end", "never"]
Effect = Literal["read", "write", "unknown"]
ToolInput = Literal["valid", "invalid", "incomplete"]
ToolState = Literal["ready", "running", "committed", "failed", "discarded", "withheld", "compensated"]
Evidence = Literal["decorator", "runner", "span", "tool_result"]
SideEffect = Literal["committed", "running", "discarded", "withheld", "compensated"]
RetractionReason = Literal["guardrail", "tool_failed", "contradicted", "other"]
HopOutcome = Literal["completed", "client_disconnect", "failed", "failed_after_200"]
ObjectiveKind = Literal["first_token", "completion", "integrity", "reversal"]
ObjectiveResult = Literal["good", "bad", "excluded"]

STREAM_STATES: Final = get_args(StreamState)
OBJECTIVE_RESULTS: Final[tuple[ObjectiveResult, ...]] = get_args(ObjectiveResult)
Ended = Literal["whole", "broken", "left"]  # an outcome in three words, for what cannot pay for seven
Folded = Literal["model", "route", "tool_name", "error_type", "labels"]
FOLDED_NAMES: Final[tuple[Folded, ...]] = get_args(Folded)

# --- attributes -------------------------------------------------------------------------------------------

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
REQUEST_TOP_P: Final = "gen_ai.request.top_p"
REQUEST_TOP_K: Final = "gen_ai.request.top_k"
REQUEST_STREAM: Final = "gen_ai.request.stream"
RESPONSE_ID: Final = "gen_ai.response.id"
RESPONSE_MODEL: Final = "gen_ai.response.model"
EXECUTE_TOOL: Final = "execute_tool"  # the conventions' operation of a tool's span
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
RESPONSE_TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
CACHE_WRITE_TOKENS: Final = "gen_ai.usage.cache_creation.input_tokens"
TOKEN_TYPE: Final = "gen_ai.token.type"
TOOL_NAME: Final = "gen_ai.tool.name"
TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
ERROR_TYPE: Final = "error.type"
OPENINFERENCE_KIND: Final = "openinference.span.kind"  # another convention's, read only

OUTCOME: Final = "otelstream.stream.outcome"
ENDED: Final = "otelstream.stream.ended"
PHASE: Final = "otelstream.stream.phase"
FAULT: Final = "otelstream.stream.fault"
SUCCEEDED_THEN_FAILED: Final = "otelstream.stream.succeeded_then_failed"
PARTIAL: Final = "otelstream.stream.partial"
TIME_TO_FIRST_CHUNK: Final = "otelstream.stream.time_to_first_chunk"
TIME_TO_FIRST_TOKEN: Final = "otelstream.stream.time_to_first_token"
WAIT_WITHOUT_TOKEN: Final = "otelstream.stream.wait_without_token"
ATTEMPTS: Final = "otelstream.stream.attempts"
LAST_ATTEMPT_DELAY: Final = "otelstream.stream.last_attempt_delay"
CHUNKS: Final = "otelstream.stream.chunks"
GAP_P50: Final = "otelstream.stream.gap.p50"
GAP_P95: Final = "otelstream.stream.gap.p95"
GAP_MAX: Final = "otelstream.stream.gap.max"
STALLS: Final = "otelstream.stream.stalls"
STALLS_PROVIDER: Final = "otelstream.stream.stalls.provider"
STALLED_TIME: Final = "otelstream.stream.stalled_time"
HOLD_TIME: Final = "otelstream.stream.hold_time"
VISIBLE_CHARS: Final = "otelstream.stream.visible_chars"
OUTPUT_RATE: Final = "otelstream.stream.output_rate"
STREAM_TOOL_CALLS: Final = "otelstream.stream.tool_calls"
STREAM_REPETITIONS: Final = "otelstream.stream.repetitions"
STREAM_STATE: Final = "otelstream.stream.state"

CANCEL_TRIGGER: Final = "otelstream.cancel.trigger"
CANCEL_PROPAGATION: Final = "otelstream.cancel.propagation"
CANCEL_AT: Final = "otelstream.cancel.at"
CANCEL_CLOSE_DELAY: Final = "otelstream.cancel.close_delay"
CANCEL_VISIBLE_CHARS: Final = "otelstream.cancel.visible_chars"
CANCEL_DELIVERED_CHUNKS: Final = "otelstream.cancel.delivered_after.chunks"
CANCEL_DELIVERED_CHARS: Final = "otelstream.cancel.delivered_after.chars"
SIDE_EFFECTS_COMMITTED: Final = "otelstream.cancel.side_effects.committed"
SIDE_EFFECTS_RUNNING: Final = "otelstream.cancel.side_effects.running"
SIDE_EFFECTS_DISCARDED: Final = "otelstream.cancel.side_effects.discarded"
SIDE_EFFECT: Final = "otelstream.cancel.side_effect"

OBJECTIVE_NAME: Final = "otelstream.objective.name"
OBJECTIVE_RESULT: Final = "otelstream.objective.result"
OBJECTIVE_FIRST_TOKEN: Final = "otelstream.objective.first_token"
OBJECTIVE_COMPLETION: Final = "otelstream.objective.completion"
OBJECTIVE_INTEGRITY: Final = "otelstream.objective.integrity"
OBJECTIVE_REVERSAL: Final = "otelstream.objective.reversal"
OBJECTIVES_HASH: Final = "otelstream.objectives.hash"

TURN_ID: Final = "otelstream.turn.id"
ROUTE: Final = "otelstream.route"
REQUEST_ID: Final = "otelstream.request.id"  # the provider's request id
VERSION: Final = "otelstream.version"
SDK_NAME: Final = "otelstream.sdk.name"
SDK_VERSION: Final = "otelstream.sdk.version"

ELAPSED: Final = "otelstream.elapsed"
CHUNK_INDEX: Final = "otelstream.chunk.index"
CHUNK_CHARS: Final = "otelstream.chunk.chars"
CHUNK_GAP: Final = "otelstream.chunk.gap"
BLOCK_KIND: Final = "otelstream.block.kind"
FIRST_TOKEN_KIND: Final = "otelstream.first_token.kind"
CACHE: Final = "otelstream.cache"
CADENCE_START: Final = "otelstream.cadence.start"
CADENCE_CHUNKS: Final = "otelstream.cadence.chunks"
CADENCE_GAP_P50: Final = "otelstream.cadence.gap.p50"
CADENCE_GAP_P95: Final = "otelstream.cadence.gap.p95"
CADENCE_GAP_MAX: Final = "otelstream.cadence.gap.max"
CADENCE_CHARS: Final = "otelstream.cadence.chars"
STALL_SOURCE: Final = "otelstream.stall.source"
STALL_DURATION: Final = "otelstream.stall.duration"
STALL_PING_SEEN: Final = "otelstream.stall.ping_seen"
REPETITION_PERIOD: Final = "otelstream.repetition.period"
REPETITION_COPIES: Final = "otelstream.repetition.copies"
REPETITION_START: Final = "otelstream.repetition.start"
REPETITION_WASTED: Final = "otelstream.repetition.wasted"
REPETITION_SUSPECTED: Final = "otelstream.repetition.suspected"
FINISH_REASON: Final = "otelstream.finish.reason"
FINISH_RAW_REASON: Final = "otelstream.finish.raw_reason"
FAILURE_VISIBLE_CHARS: Final = "otelstream.failure.visible_chars"
FAILURE_SINCE_FIRST_TOKEN: Final = "otelstream.failure.since_first_token"
TOOL_CALL_BYTES: Final = "otelstream.tool_call.bytes"
TOOL_CALL_INPUT: Final = "otelstream.tool_call.input"
TOOL_CALL_PAUSE: Final = "otelstream.tool_call.pause"
TOOL_CALL_PREAMBLE: Final = "otelstream.tool_call.preamble"
UNSEEN: Final = "otelstream.stream.unseen"
RECHUNKED: Final = "otelstream.stream.rechunked"
BROKEN_AFTER_END: Final = "otelstream.stream.broken_after_end"
TOOL_CALL_READY_EVIDENCE: Final = "otelstream.tool_call.ready.evidence"
TOOL_CALL_EFFECT: Final = "otelstream.tool_call.effect"
TOOL_CALL_STATE: Final = "otelstream.tool_call.state"
TOOL_CALL_SINCE_READY: Final = "otelstream.tool_call.since_ready"
TOOL_CALL_SINCE_END: Final = "otelstream.tool_call.since_end"
DISPATCH_PHASE: Final = "otelstream.tool_call.dispatch.phase"
DISPATCH_EVIDENCE: Final = "otelstream.tool_call.dispatch.evidence"
DISPATCH_GUESSED: Final = "otelstream.tool_call.dispatch.guessed"
RETRACTION_REASON: Final = "otelstream.retraction.reason"
RETRACTION_VISIBLE_CHARS: Final = "otelstream.retraction.visible_chars"
RETRACTION_EXPOSURE: Final = "otelstream.retraction.exposure"
ACTION_VISIBLE_CHARS: Final = "otelstream.action.visible_chars"
ACTION_LEAD: Final = "otelstream.action.lead"
JUDGE: Final = "otelstream.judge.name"
VERDICT: Final = "otelstream.judge.verdict"
VERDICT_VISIBLE_CHARS: Final = "otelstream.verdict.visible_chars"
VERDICT_SINCE_FIRST_TOKEN: Final = "otelstream.verdict.since_first_token"
REVERSAL_FROM: Final = "otelstream.reversal.from"
REVERSAL_TO: Final = "otelstream.reversal.to"
REVERSAL_EXPOSURE: Final = "otelstream.reversal.exposure"
REVERSAL_EXPOSED_CHARS: Final = "otelstream.reversal.exposed_chars"
REVERSAL_ACTED_ON: Final = "otelstream.reversal.acted_on"
HOP_OUTCOME: Final = "otelstream.hop.outcome"
FOLDED_WHAT: Final = "otelstream.folded.what"
GAP_LE: Final = "le"  # Prometheus's own word for a bucket's bound, so that histogram_quantile() reads it

# --- events -----------------------------------------------------------------------------------------------

EVENT_FIRST_CHUNK: Final = "otelstream.first_chunk"
EVENT_FIRST_TOKEN: Final = "otelstream.first_token"
EVENT_CADENCE: Final = "otelstream.cadence"
EVENT_CHUNK: Final = "otelstream.chunk"
EVENT_STALL: Final = "otelstream.stall"
EVENT_TOOL_READY: Final = "otelstream.tool_call.ready"
EVENT_TOOL_DISPATCHED: Final = "otelstream.tool_call.dispatched"
EVENT_TOOL_FINISHED: Final = "otelstream.tool_call.finished"
EVENT_REPETITION: Final = "otelstream.repetition"
EVENT_FINISH: Final = "otelstream.finish"
EVENT_FAILURE: Final = "otelstream.failure"
EVENT_CANCEL_REQUESTED: Final = "otelstream.cancel.requested"
EVENT_CANCEL_OUTCOME: Final = "otelstream.cancel.outcome"
EVENT_RETRACTION: Final = "otelstream.retraction"
EVENT_ACTION: Final = "otelstream.action"
EVENT_VERDICT: Final = "otelstream.verdict"
EVENT_REVERSAL: Final = "otelstream.reversal"

MAX_EVENTS: Final = 32  # on one stream


@dataclass(frozen=True, slots=True)
class Event:
    """One span event (or log record): its name, what it says, and its attributes beyond the common two."""

    name: str
    says: str
    attributes: tuple[str, ...]


EVENTS: Final[tuple[Event, ...]] = (
    Event(EVENT_FIRST_CHUNK, "the first non-empty delta of any kind arrived", (BLOCK_KIND,)),
    Event(EVENT_FIRST_TOKEN, "the first delta that a user can see arrived", (FIRST_TOKEN_KIND,)),
    Event(
        EVENT_CADENCE,
        "a window of chunks: 32 chunks, then doubling, the 12th open-ended",
        (CADENCE_START, CADENCE_CHUNKS, CADENCE_GAP_P50, CADENCE_GAP_P95, CADENCE_GAP_MAX, CADENCE_CHARS),
    ),
    Event(
        EVENT_STALL,
        "a gap over stall_threshold ended",
        (STALL_DURATION, STALL_SOURCE, STALL_PING_SEEN, BLOCK_KIND),
    ),
    Event(
        EVENT_TOOL_READY,
        "a tool call's input block ended: the only safe point to run it",
        (
            TOOL_NAME,
            TOOL_CALL_ID,
            TOOL_CALL_BYTES,
            TOOL_CALL_INPUT,
            TOOL_CALL_PAUSE,
            TOOL_CALL_PREAMBLE,
            TOOL_CALL_READY_EVIDENCE,
        ),
    ),
    Event(
        EVENT_TOOL_DISPATCHED,
        "the application started a tool",
        (
            TOOL_NAME,
            TOOL_CALL_ID,
            TOOL_CALL_SINCE_READY,
            TOOL_CALL_SINCE_END,
            DISPATCH_PHASE,
            TOOL_CALL_EFFECT,
            DISPATCH_EVIDENCE,
            DISPATCH_GUESSED,
        ),
    ),
    Event(
        EVENT_TOOL_FINISHED,
        "a tool returned or raised, or its hold refused the call",
        (
            TOOL_NAME,
            TOOL_CALL_ID,
            TOOL_CALL_SINCE_READY,
            TOOL_CALL_SINCE_END,
            TOOL_CALL_EFFECT,
            TOOL_CALL_STATE,
        ),
    ),
    Event(
        EVENT_REPETITION,
        "the answer repeats itself",
        (
            BLOCK_KIND,
            REPETITION_PERIOD,
            REPETITION_COPIES,
            REPETITION_START,
            REPETITION_WASTED,
            REPETITION_SUSPECTED,
        ),
    ),
    Event(EVENT_FINISH, "the provider gave its finish reason", (FINISH_REASON, FINISH_RAW_REASON)),
    Event(
        EVENT_FAILURE,
        "the stream went wrong: what, and what the user had seen",
        (FAULT, ERROR_TYPE, FAILURE_VISIBLE_CHARS, FAILURE_SINCE_FIRST_TOKEN),
    ),
    Event(
        EVENT_CANCEL_REQUESTED,
        "somebody asked for the stream to stop",
        (CANCEL_TRIGGER, CANCEL_AT, CANCEL_VISIBLE_CHARS),
    ),
    Event(
        EVENT_CANCEL_OUTCOME,
        "what became of the cancel",
        (
            CANCEL_TRIGGER,
            CANCEL_PROPAGATION,
            CANCEL_CLOSE_DELAY,
            CANCEL_DELIVERED_CHUNKS,
            CANCEL_DELIVERED_CHARS,
            SIDE_EFFECTS_COMMITTED,
            SIDE_EFFECTS_RUNNING,
            SIDE_EFFECTS_DISCARDED,
        ),
    ),
    Event(
        EVENT_RETRACTION,
        "what had been shown was withdrawn: by the application, or by the provider (a preview that comes to nothing)",
        (RETRACTION_REASON, RETRACTION_VISIBLE_CHARS, RETRACTION_EXPOSURE),
    ),
    Event(EVENT_ACTION, "the user acted on what was there so far", (ACTION_VISIBLE_CHARS, ACTION_LEAD)),
    Event(
        EVENT_VERDICT,
        "a judge of the application's changed its verdict on the visible text, or asked for its end (`stop`)",
        (JUDGE, VERDICT, VERDICT_VISIBLE_CHARS, VERDICT_SINCE_FIRST_TOKEN),
    ),
    Event(
        EVENT_REVERSAL,
        "a verdict that had been shown was taken back: after how long, and whether the user had acted on it",
        (
            JUDGE,
            REVERSAL_FROM,
            REVERSAL_TO,
            VERDICT_VISIBLE_CHARS,
            REVERSAL_EXPOSURE,
            REVERSAL_EXPOSED_CHARS,
            REVERSAL_ACTED_ON,
        ),
    ),
    Event(EVENT_CHUNK, "one chunk (chunk_events=all only)", (BLOCK_KIND, CHUNK_GAP, CHUNK_CHARS)),
)

# --- the span ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SpanAttribute:
    """One attribute of a stream's span: what kind of value it has and what it says. Absent where not known."""

    name: str
    kind: Literal["string", "bool", "int", "double", "string[]"]
    says: str


SPAN_ATTRIBUTES: Final[tuple[SpanAttribute, ...]] = (
    SpanAttribute(OUTCOME, "string", "how the stream ended"),
    SpanAttribute(PHASE, "string", "how far it got"),
    SpanAttribute(FAULT, "string", "what was wrong with it; `none` where nothing was"),
    SpanAttribute(SUCCEEDED_THEN_FAILED, "bool", "a 2xx, then a fault of the integrity objective's set"),
    SpanAttribute(PARTIAL, "bool", "the answer is not whole"),
    SpanAttribute(UNSEEN, "bool", "not all of it could be read here: no objective judges it"),
    SpanAttribute(RECHUNKED, "bool", "a router made these chunks of others: the cadence is its own"),
    SpanAttribute(BROKEN_AFTER_END, "bool", "the wire broke after the end of a whole answer"),
    SpanAttribute(TIME_TO_FIRST_CHUNK, "double", "seconds from the request to the first chunk of any kind"),
    SpanAttribute(TIME_TO_FIRST_TOKEN, "double", "seconds from the request to the first chunk a user can see"),
    SpanAttribute(
        WAIT_WITHOUT_TOKEN,
        "double",
        "how long it lasted, where no such chunk came and the protocol would have shown it",
    ),
    SpanAttribute(ATTEMPTS, "int", "HTTP requests sent, the first included"),
    SpanAttribute(LAST_ATTEMPT_DELAY, "double", "seconds from the first attempt to the last"),
    SpanAttribute(CHUNKS, "int", "generated, non-empty deltas that arrived"),
    SpanAttribute(GAP_P50, "double", "median gap between chunks; from buckets above 64 chunks"),
    SpanAttribute(GAP_P95, "double", "95th percentile of the gaps"),
    SpanAttribute(GAP_MAX, "double", "the longest gap"),
    SpanAttribute(STALLS, "int", "gaps and holds over `stall_threshold`"),
    SpanAttribute(STALLS_PROVIDER, "int", "those of the provider and its server tools"),
    SpanAttribute(STALLED_TIME, "double", "seconds spent in stalls"),
    SpanAttribute(HOLD_TIME, "double", "seconds the consumer kept the stream parked between first and last chunk"),
    SpanAttribute(VISIBLE_CHARS, "int", "characters of text that arrived"),
    SpanAttribute(OUTPUT_RATE, "double", "final output tokens a second, first to last chunk"),
    SpanAttribute(STREAM_TOOL_CALLS, "int", "tool calls asked for"),
    SpanAttribute(STREAM_REPETITIONS, "int", "repetition loops"),
    SpanAttribute(CANCEL_TRIGGER, "string", "who asked for the end"),
    SpanAttribute(CANCEL_AT, "string", "where in the answer that came"),
    SpanAttribute(CANCEL_PROPAGATION, "string", "what the next hop saw of it"),
    SpanAttribute(CANCEL_CLOSE_DELAY, "double", "seconds from the ask to the close"),
    SpanAttribute(SIDE_EFFECTS_COMMITTED, "int", "tool calls of the turn that had finished before the ask"),
    SpanAttribute(SIDE_EFFECTS_RUNNING, "int", "tool calls that ran at the ask"),
    SpanAttribute(SIDE_EFFECTS_DISCARDED, "int", "tool calls that the ask kept from running"),
    SpanAttribute(OBJECTIVE_FIRST_TOKEN, "string", "verdict: `good`, `bad` or `excluded`"),
    SpanAttribute(OBJECTIVE_COMPLETION, "string", "verdict"),
    SpanAttribute(OBJECTIVE_INTEGRITY, "string", "verdict"),
    SpanAttribute(OBJECTIVE_REVERSAL, "string", "verdict, where such an objective is asked for"),
    SpanAttribute(TURN_ID, "string", "the turn the stream belongs to"),
    SpanAttribute(ROUTE, "string", "the route that the application gave its turn"),
    SpanAttribute(REQUEST_ID, "string", "the provider's request id"),
    SpanAttribute(RESPONSE_ID, "string", "the provider's id of the response"),
    SpanAttribute(RESPONSE_MODEL, "string", "the model that answered"),
    SpanAttribute(FINISH_REASONS, "string[]", "finish reason in OpenTelemetry's words; `error` without one"),
    SpanAttribute(RESPONSE_TIME_TO_FIRST_CHUNK, "double", "as the conventions name it"),
    SpanAttribute(INPUT_TOKENS, "int", "cached tokens included"),
    SpanAttribute(OUTPUT_TOKENS, "int", "only once the provider has given its final count"),
    SpanAttribute(CACHE_READ_TOKENS, "int", "read from the prompt cache"),
    SpanAttribute(REASONING_TOKENS, "int", "of the output, spent on reasoning; where the provider tells"),
    SpanAttribute(CACHE_WRITE_TOKENS, "int", "written to the prompt cache"),
    SpanAttribute(ERROR_TYPE, "string", "the provider's or the transport's word for a failure"),
)

# --- metrics ----------------------------------------------------------------------------------------------

# Whole bounds are ints: the Python Prometheus exporter prints `2.0` where the Collector prints `2`.
# Of each list the `LEAN` ones are kept by default, at most ten; setting `metrics=all` keeps them all.
FIRST_TOKEN_BOUNDS: Final = (
    .1, .2, .3, .45, .5, .75, 1, 1.5, 2, 2.5, 3, 4.5, 6, 8, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300,
)  # fmt: skip
LEAN_FIRST_TOKEN_BOUNDS: Final = (.2, .5, 1, 1.5, 2.5, 4.5, 8, 15, 30, 60)  # fmt: skip
GAP_BOUNDS: Final = (
    .001, .002, .005, .01, .015, .02, .03, .04, .06, .08, .1, .15, .25, .5, .75, 1, 2, 5, 10, 30,
)  # fmt: skip
LEAN_GAP_BOUNDS: Final = (.005, .01, .02, .04, .08, .15, .5, 2, 5, 30)  # fmt: skip
LEAN_LONGEST_GAP_BOUNDS: Final = (.04, .1, .25, .5, 1, 2, 5, 10, 30)  # fmt: skip
DURATION_BOUNDS: Final = (
    .5, 1, 2, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 300, 480, 600, 900, 1800,
)  # fmt: skip
LEAN_DURATION_BOUNDS: Final = (1, 5, 10, 20, 30, 60, 120, 300, 600, 1800)
STALL_BOUNDS: Final = (2, 3, 5, 8, 15, 30, 60, 120, 300)
LEAD_BOUNDS: Final = (.01, .05, .1, .25, .5, 1, 2, 5, 10, 30, 60, 300)  # fmt: skip
LEAN_LEAD_BOUNDS: Final = (.05, .25, 1, 5, 30, 300)  # fmt: skip
CHAR_BOUNDS: Final = (100, 300, 1000, 3000, 10000, 30000, 100000)
RATE_BOUNDS: Final = (5, 10, 20, 30, 50, 80, 120, 200, 400, 800)
# The conventions' own advice for their own instruments.
TOKEN_BOUNDS: Final = (
    1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864,
)  # fmt: skip
LEAN_TOKEN_BOUNDS: Final = (16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)
CALL_BOUNDS: Final = (
    .01, .02, .04, .08, .16, .32, .64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
)  # fmt: skip
CHUNK_TIME_BOUNDS: Final = (.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5)  # fmt: skip

MODEL_LABELS: Final = (OPERATION, PROVIDER, REQUEST_MODEL)
COMMON_LABELS: Final = (*MODEL_LABELS, ROUTE)
MAX_SETS: Final = 2000  # of one instrument: beyond, the SDK folds into otel.metric.overflow
MAX_MODELS: Final = 20
MAX_ROUTES: Final = 10
MAX_COMMON_SETS: Final = MAX_MODELS * MAX_ROUTES  # of what has the route by default
MAX_WIDE_SETS: Final = 32  # of what has it with `metrics=all` only
MAX_FOLDED_PAIRS: Final = 3  # of operation and provider that keep their names in a folded set
MAX_FOLDED_SETS: Final = 2 * (MAX_FOLDED_PAIRS + 1)  # each pair, and `_OTHER`: with a route and without
MAX_TOOL_NAMES: Final = 64
MAX_ERROR_TYPES: Final = 16
MAX_JUDGES: Final = 8
MAX_VERDICTS: Final = 8  # of one judge

MetricKind = Literal["counter", "histogram", "observable_counter", "observable_up_down_counter", "gauge"]


Scope = Literal["route", "model", "process"]  # whether a metric has all common labels, all but the route, or none


@dataclass(frozen=True, slots=True)
class Metric:
    """One instrument; `labels` are those beyond the common ones. What is `lean` holds unless `metrics=all`."""

    name: str
    kind: MetricKind
    unit: str
    says: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    scope: Scope = "route"
    lean: Scope | None = "model"  # None: not made at all
    wide: tuple[str, ...] = ()  # of the labels, those with `metrics=all` only
    lean_bounds: tuple[float, ...] | None = None
    threshold_kind: Literal["first_token", "completion"] | None = None  # objectives whose thresholds join the bounds
    semconv: bool = False  # a convention's metric, emitted as setting `semconv` says

    def common(self, *, lean: bool) -> Scope:
        """Which of the common labels it has."""
        return (self.lean or self.scope) if lean else self.scope

    def own(self, *, lean: bool) -> tuple[str, ...]:
        """The labels beyond those."""
        return tuple(label for label in self.labels if not (lean and label in self.wide))

    def buckets(self, *, lean: bool) -> tuple[float, ...]:
        return self.lean_bounds if lean and self.lean_bounds is not None else self.bounds

    def common_sets(self, *, lean: bool) -> int:
        """The distinct sets of common labels, folded ones among them."""
        scope = self.common(lean=lean)
        if scope == "process":
            return 1
        if scope == "model":
            return MAX_MODELS + MAX_FOLDED_PAIRS + 1
        return (MAX_COMMON_SETS if self.lean == "route" else MAX_WIDE_SETS) + MAX_FOLDED_SETS

    def max_extra(self, *, lean: bool) -> int:
        """The distinct sets of own labels that may be emitted before the rest fold into `_OTHER`.

        Times the common sets it stays under `MAX_SETS`, by construction.
        """
        return (MAX_SETS - 1) // self.common_sets(lean=lean) - 1

    @property
    def prometheus(self) -> str:
        """The series' base name in Prometheus (without `_bucket`, `_sum`, `_count`)."""
        return prometheus_name(self.name, self.unit, counter="counter" in self.kind and "up_down" not in self.kind)


def _h(name: str, unit: str, says: str, *labels: str, bounds: tuple[float, ...], **more: object) -> Metric:
    return Metric(name, "histogram", unit, says, labels, bounds, **more)  # type: ignore[arg-type]


def _c(name: str, unit: str, says: str, *labels: str, **more: object) -> Metric:
    return Metric(name, "counter", unit, says, labels, **more)  # type: ignore[arg-type]


STREAMS: Final = _c("otelstream.streams", "{stream}", "Streams that ended, by how", OUTCOME, PHASE, FAULT)
OBJECTIVE_STREAMS: Final = Metric(
    "otelstream.objective.streams",
    "observable_counter",  # kept in process: three to a stream, and zeros from the first collection
    "{stream}",
    "Streams judged against the loaded objectives",
    (OBJECTIVE_NAME, OBJECTIVE_RESULT),
    lean="route",
)
OBJECTIVE_TOTAL: Final = Metric(
    "otelstream.objective.total",
    "observable_counter",
    "{stream}",
    "The same whatever the model and the route; what the rules read",
    (OBJECTIVE_NAME, OBJECTIVE_RESULT),
    scope="process",
    lean="process",
)
STREAM_ACTIVE: Final = Metric(
    "otelstream.stream.active",
    "observable_up_down_counter",
    "{stream}",
    "Streams open now, by state",
    (STREAM_STATE,),
)
STREAM_FAILURES: Final = _c(
    "otelstream.stream.failures",
    "{stream}",
    "Streams with a fault, by error type",
    FAULT,
    PHASE,
    ERROR_TYPE,
    wide=(FAULT,),
)
STREAM_RETRIES: Final = _c(
    "otelstream.stream.retries", "{retry}", "Attempts beyond the first, by what made them needed", ERROR_TYPE
)
STREAM_TTFT: Final = _h(
    "otelstream.stream.time_to_first_token",
    "s",
    "Request issued to first visible token",
    FIRST_TOKEN_KIND,
    CACHE,
    bounds=FIRST_TOKEN_BOUNDS,
    threshold_kind="first_token",
    wide=(FIRST_TOKEN_KIND,),
    lean_bounds=LEAN_FIRST_TOKEN_BOUNDS,
)
STREAM_THINKING_TIME: Final = _h(
    "otelstream.stream.thinking_time",
    "s",
    "First chunk to first visible token, where thinking came first",
    bounds=FIRST_TOKEN_BOUNDS,
    lean_bounds=(),
)
STREAM_WAIT_WITHOUT_TOKEN: Final = _h(
    "otelstream.stream.wait_without_token",
    "s",
    "How long a stream lasted that never showed a token",
    OUTCOME,
    bounds=FIRST_TOKEN_BOUNDS,
    threshold_kind="first_token",
    lean="process",
    lean_bounds=LEAN_FIRST_TOKEN_BOUNDS,
)
STREAM_DURATION: Final = _h(
    "otelstream.stream.duration",
    "s",
    "Request issued to end of stream; what failed before its first token has the wait for that",
    ENDED,
    OUTCOME,
    bounds=DURATION_BOUNDS,
    threshold_kind="completion",
    wide=(OUTCOME,),
    lean_bounds=LEAN_DURATION_BOUNDS,
)
STREAM_STALLED: Final = _c(
    "otelstream.stream.stalled",
    "{stream}",
    "Streams that froze at least once, by source of the longest",
    STALL_SOURCE,
)
STREAM_STALLS: Final = _c("otelstream.stream.stalls", "{stall}", "Stalls", STALL_SOURCE, BLOCK_KIND)
STREAM_STALL_DURATION: Final = _h(
    "otelstream.stream.stall.duration",
    "s",
    "Length of a stall",
    STALL_SOURCE,
    BLOCK_KIND,
    bounds=STALL_BOUNDS,
    lean="process",
    wide=(BLOCK_KIND,),
)
STREAM_OUTPUT_RATE: Final = _h(
    "otelstream.stream.output_rate",
    "{token}/s",
    "Final output tokens over first to last chunk",
    bounds=RATE_BOUNDS,
)
STREAM_GAP_BUCKET: Final = Metric(
    "otelstream.stream.chunk_gap.bucket",
    "observable_counter",
    "{chunk}",
    "Chunks whose gap was at most `le` seconds; `+Inf` is the count",
    (GAP_LE,),
    GAP_BOUNDS,
    lean_bounds=LEAN_GAP_BOUNDS,
)
STREAM_GAP_SUM: Final = Metric(
    "otelstream.stream.chunk_gap.sum", "observable_counter", "s", "Seconds waited between chunks", ()
)
STREAM_GAP_MAX: Final = _h(
    "otelstream.stream.chunk_gap.max",
    "s",
    "The longest gap of a stream",
    bounds=GAP_BOUNDS,
    lean="process",
    lean_bounds=LEAN_LONGEST_GAP_BOUNDS,
)
STREAM_REPETITION_COUNT: Final = _c("otelstream.stream.repetitions", "{loop}", "Repetition loops", BLOCK_KIND)
STREAM_REPETITION_WASTED: Final = _h(
    "otelstream.stream.repetition.wasted",
    "{char}",
    "Characters of a loop beyond its first copy",
    BLOCK_KIND,
    bounds=CHAR_BOUNDS,
    lean="process",
    wide=(BLOCK_KIND,),
)
TOOL_CALLS: Final = _c(
    "otelstream.tool_calls",
    "{call}",
    "Tool calls, by when they ran and what became of them",
    TOOL_NAME,
    TOOL_CALL_EFFECT,
    DISPATCH_PHASE,
    TOOL_CALL_INPUT,
    TOOL_CALL_STATE,
    scope="process",
    lean="process",
)
TOOL_DISPATCH_LEAD: Final = _h(
    "otelstream.tool_call.dispatch_lead",
    "s",
    "Tool start to end of its stream, for tools started before that",
    TOOL_CALL_EFFECT,
    bounds=LEAD_BOUNDS,
    lean="process",
    wide=(TOOL_CALL_EFFECT,),
    lean_bounds=LEAN_LEAD_BOUNDS,
)
TOOL_DISPATCH_LAG: Final = _h(
    "otelstream.tool_call.dispatch_lag",
    "s",
    "End of the stream to tool start, for tools started after that",
    TOOL_CALL_EFFECT,
    bounds=LEAD_BOUNDS,
    lean="process",
    wide=(TOOL_CALL_EFFECT,),
    lean_bounds=LEAN_LEAD_BOUNDS,
)
TOOL_PAUSE: Final = _h(
    "otelstream.tool_call.pause",
    "s",
    "Silence before a tool call's input",
    TOOL_CALL_PREAMBLE,
    bounds=LEAD_BOUNDS,
    lean_bounds=LEAN_LEAD_BOUNDS,
)
CANCELLATIONS: Final = _c(
    "otelstream.cancellations",
    "{cancellation}",
    "Streams that were asked to stop",
    CANCEL_TRIGGER,
    CANCEL_PROPAGATION,
    CANCEL_AT,
    lean="process",
)
CANCELLATION_DURATION: Final = _h(
    "otelstream.cancellation.duration",
    "s",
    "Ask to upstream close",
    CANCEL_PROPAGATION,
    bounds=LEAD_BOUNDS,
    lean="process",
    wide=(CANCEL_PROPAGATION,),
    lean_bounds=LEAN_LEAD_BOUNDS,
)
CANCELLATION_PROGRESS: Final = _h(
    "otelstream.cancellation.progress",
    "s",
    "First visible token to the ask: how long people had read",
    CANCEL_TRIGGER,
    bounds=LEAD_BOUNDS,
    lean="process",
    wide=(CANCEL_TRIGGER,),
    lean_bounds=LEAN_LEAD_BOUNDS,
)
CANCELLATION_DELIVERED_AFTER: Final = _h(
    "otelstream.cancellation.delivered_after",
    "{char}",
    "Characters delivered after the ask",
    bounds=CHAR_BOUNDS,
    lean="process",
)
CANCELLATION_SIDE_EFFECTS: Final = _c(
    "otelstream.cancellation.side_effects",
    "{call}",
    "Tool calls of stopped turns, by where they stood",
    SIDE_EFFECT,
    lean="process",
)
STOPS_NOT_FOUND: Final = _c(
    "otelstream.cancellations.not_found",
    "{stop}",
    "Stops of a turn that this process does not know: the route to the right process is missing",
    scope="process",
    lean="process",
)
RETRACTIONS: Final = _c(
    "otelstream.retractions",
    "{retraction}",
    "Answers withdrawn after they were shown",
    RETRACTION_REASON,
    lean="process",
)
RETRACTION_EXPOSURE_TIME: Final = _h(
    "otelstream.retraction.exposure",
    "s",
    "First visible token to withdrawal",
    RETRACTION_REASON,
    bounds=LEAD_BOUNDS,
    lean="process",
    wide=(RETRACTION_REASON,),
    lean_bounds=LEAN_LEAD_BOUNDS,
)
ACTION_LEAD_TIME: Final = _h(
    "otelstream.action.lead",
    "s",
    "User's action to end of the stream",
    bounds=LEAD_BOUNDS,
    lean="process",
    lean_bounds=LEAN_LEAD_BOUNDS,
)
VERDICTS: Final = _c(
    "otelstream.verdicts",
    "{verdict}",
    "Verdicts that judges gave, changes only; `stop`: that a stream be stopped",
    JUDGE,
    VERDICT,
    scope="process",
    lean="process",
)
REVERSALS: Final = _c(
    "otelstream.reversals",
    "{reversal}",
    "Verdicts that were shown and then taken back",
    JUDGE,
    VERDICT,
    REVERSAL_ACTED_ON,
    scope="process",
    lean="process",
)
REVERSAL_EXPOSURE_TIME: Final = _h(
    "otelstream.reversal.exposure",
    "s",
    "How long a verdict stood that was then taken back",
    JUDGE,
    VERDICT,
    bounds=LEAD_BOUNDS,
    scope="process",
    lean="process",
    wide=(VERDICT,),
    lean_bounds=LEAN_LEAD_BOUNDS,
)
HOP_FIRST_BYTE: Final = _h(
    "otelstream.hop.first_byte",
    "s",
    "Request to first body byte as the browser got it",
    HOP_OUTCOME,
    bounds=FIRST_TOKEN_BOUNDS,
    lean="process",
    wide=(HOP_OUTCOME,),
    lean_bounds=LEAN_FIRST_TOKEN_BOUNDS,
)
HOP_DURATION: Final = _h(
    "otelstream.hop.duration",
    "s",
    "Request to last body byte as the browser got it",
    HOP_OUTCOME,
    bounds=DURATION_BOUNDS,
    lean="process",
    lean_bounds=LEAN_DURATION_BOUNDS,
)
INFO: Final = Metric(
    "otelstream.info",
    "gauge",
    "{info}",  # the unit `1` would give three names: Python's exporter drops it, the others append `_ratio`
    "Versions and the hash of the loaded objectives",
    (VERSION, SDK_NAME, SDK_VERSION, OBJECTIVES_HASH),
    scope="process",
    lean="process",
)
START_TIME: Final = Metric(
    "otelstream.start_time", "gauge", "s", "When this process began to count (unix)", scope="process", lean="process"
)
CLOCK: Final = Metric(
    "otelstream.clock",
    "gauge",
    "s",
    "Now, at the collection (unix): how old the gauges are",
    scope="process",
    lean="process",
)
FOLDED: Final = Metric(
    "otelstream.folded",
    "observable_counter",
    "{point}",
    "What was counted under `_OTHER`, for its name was one too many",
    (FOLDED_WHAT,),
    scope="process",
    lean="process",
)
CLIENT_DURATION: Final = _h(
    "gen_ai.client.operation.duration",
    "s",
    "GenAI operation duration",
    ERROR_TYPE,
    bounds=CALL_BOUNDS,
    semconv=True,
    lean=None,
)
CLIENT_TIME_TO_FIRST_CHUNK: Final = _h(
    "gen_ai.client.operation.time_to_first_chunk",
    "s",
    "Time to receive the first chunk, measured from when the client issues the request",
    bounds=CALL_BOUNDS,
    semconv=True,
    lean=None,
)
CLIENT_TIME_PER_CHUNK: Final = _h(
    "gen_ai.client.operation.time_per_output_chunk",
    "s",
    "Time per output chunk after the first (chunk_metric=semconv only)",
    bounds=CHUNK_TIME_BOUNDS,
    semconv=True,
)
CLIENT_TOKENS: Final = _h(
    "gen_ai.client.token.usage",
    "{token}",
    "Number of input and output tokens used",
    TOKEN_TYPE,
    bounds=TOKEN_BOUNDS,
    semconv=True,
    lean_bounds=LEAN_TOKEN_BOUNDS,
)

# Of one file: each comes with every result, and is never folded.
MAX_OBJECTIVES: Final = 16

METRICS: Final[tuple[Metric, ...]] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))

# --- labels -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Label:
    """One metric label: its attribute, and its values where they are a closed set."""

    attribute: str
    values: tuple[str, ...] = ()
    limit: int = 0  # distinct values, where the set is open

    @property
    def prometheus(self) -> str:
        return self.attribute.replace(".", "_")


LABELS: Final[tuple[Label, ...]] = (
    Label(OPERATION, limit=MAX_MODELS),
    Label(PROVIDER, limit=MAX_MODELS),
    Label(REQUEST_MODEL, limit=MAX_MODELS),
    Label(ROUTE, limit=MAX_COMMON_SETS),
    Label(OUTCOME, get_args(Outcome)),
    Label(ENDED, get_args(Ended)),
    Label(PHASE, get_args(Phase)),
    Label(FAULT, get_args(Fault)),
    Label(ERROR_TYPE, limit=MAX_ERROR_TYPES),
    Label(OBJECTIVE_NAME, limit=MAX_OBJECTIVES),
    Label(OBJECTIVE_RESULT, get_args(ObjectiveResult)),
    Label(STREAM_STATE, get_args(StreamState)),
    Label(FIRST_TOKEN_KIND, get_args(FirstTokenKind)),
    Label(CACHE, get_args(CacheUse)),
    Label(STALL_SOURCE, get_args(StallSource)),
    Label(BLOCK_KIND, get_args(BlockKind)),
    Label(GAP_LE, limit=len(GAP_BOUNDS) + 1),
    Label(TOOL_NAME, limit=MAX_TOOL_NAMES),
    Label(TOOL_CALL_EFFECT, get_args(Effect)),
    Label(DISPATCH_PHASE, get_args(DispatchPhase)),
    Label(TOOL_CALL_INPUT, get_args(ToolInput)),
    Label(TOOL_CALL_STATE, get_args(ToolState)),
    Label(TOOL_CALL_PREAMBLE, ("true", "false")),
    Label(CANCEL_TRIGGER, get_args(Trigger)),
    Label(CANCEL_PROPAGATION, get_args(Propagation)),
    Label(CANCEL_AT, get_args(CancelAt)),
    Label(SIDE_EFFECT, get_args(SideEffect)),
    Label(RETRACTION_REASON, get_args(RetractionReason)),
    Label(JUDGE, limit=MAX_JUDGES),
    Label(VERDICT, limit=MAX_JUDGES * MAX_VERDICTS + 1),
    Label(REVERSAL_ACTED_ON, ("true", "false")),
    Label(HOP_OUTCOME, get_args(HopOutcome)),
    Label(FOLDED_WHAT, get_args(Folded)),
    Label(VERSION, limit=1),
    Label(SDK_NAME, limit=4),
    Label(SDK_VERSION, limit=4),
    Label(OBJECTIVES_HASH, limit=1),
    Label(TOKEN_TYPE, ("input", "output")),
)

# --- Prometheus -------------------------------------------------------------------------------------------

_UNIT_SUFFIX: Final = {"s": "seconds", "{token}/s": "per_second"}


def prometheus_name(name: str, unit: str, *, counter: bool) -> str:
    """The series name that the Python exporter, the Collector's and Prometheus's OTLP receiver all give.

    Dots become underscores, a real unit becomes a suffix, annotations in braces vanish, counters get `_total`.
    """
    series = name.replace(".", "_")
    suffix = _UNIT_SUFFIX.get(unit, "")
    if suffix and not series.endswith("_" + suffix):
        series += "_" + suffix
    return series.removesuffix("_total") + "_total" if counter else series


def label_name(attribute: str) -> str:
    """The Prometheus label of an attribute."""
    return attribute.replace(".", "_")
