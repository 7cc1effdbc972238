# SPDX-License-Identifier: Apache-2.0
"""*Tools and cancels*: when tools start, what a Stop does, what stood, and what reached the browser."""

from __future__ import annotations

from otelstream._objectives_file import SloConfig
from otelstream._semconv import (
    ACTION_LEAD_TIME,
    CANCEL_AT,
    CANCEL_PROPAGATION,
    CANCEL_TRIGGER,
    CANCELLATION_DELIVERED_AFTER,
    CANCELLATION_DURATION,
    CANCELLATION_PROGRESS,
    CANCELLATION_SIDE_EFFECTS,
    CANCELLATIONS,
    DISPATCH_PHASE,
    HOP_DURATION,
    HOP_FIRST_BYTE,
    HOP_OUTCOME,
    RETRACTION_EXPOSURE_TIME,
    RETRACTION_REASON,
    RETRACTIONS,
    SIDE_EFFECT,
    STREAM_TTFT,
    STREAMS,
    TOOL_CALL_EFFECT,
    TOOL_CALL_INPUT,
    TOOL_CALL_STATE,
    TOOL_CALLS,
    TOOL_DISPATCH_LAG,
    TOOL_DISPATCH_LEAD,
    TOOL_NAME,
    label_name,
)
from otelstream.grafana._queries import or_none, per_minute, per_second, quantile, share, total
from otelstream.grafana._vocabulary import Board, Query, Row, table, timeseries, traces

_NO_TOOLS = "No tool calls in this time range"
_NO_STOPS = "Nobody stopped a stream in this time range"


def dashboard(_config: SloConfig) -> Board:
    return Board(
        uid="otelstream-tools",
        title="Tools and cancels",
        description="What had already happened when a stream ended or was stopped. Tool calls carry no model label: "
        "their panels follow job and instance.",
        rows=(_tools(), _stops(), _after(), _shown()),
    )


def _legend(attribute: str) -> str:
    return f"{{{{{label_name(attribute)}}}}}"


def _tools() -> Row:
    return Row(
        "When do tools run?",
        (
            (
                6,
                timeseries(
                    "When do tools start?",
                    "Calls per minute by when they started. before_ready must be zero: the input was not complete. "
                    "mid_stream is eager: fine for reads, a risk for writes, since the answer may still fail or be "
                    "stopped.",
                    [
                        Query(
                            per_minute(TOOL_CALLS, by=(DISPATCH_PHASE, TOOL_CALL_EFFECT)),
                            f"{_legend(DISPATCH_PHASE)}, {_legend(TOOL_CALL_EFFECT)}",
                        )
                    ],
                    "cpm",
                    stack=True,
                    empty=_NO_TOOLS,
                ),
            ),
            (
                6,
                table(
                    "Which tools, and what became of them?",
                    "Calls in the time range by tool, effect and final state. failed and discarded point at the "
                    "tool; withheld is the gate that worked.",
                    [
                        Query(
                            f"{total(TOOL_CALLS, by=(TOOL_NAME, TOOL_CALL_EFFECT, TOOL_CALL_STATE))} > 0.5",
                            "",
                            instant=True,
                        )
                    ],
                    "short",
                    columns=(
                        (label_name(TOOL_NAME), "tool", ""),
                        (label_name(TOOL_CALL_EFFECT), "effect", ""),
                        (label_name(TOOL_CALL_STATE), "state", ""),
                        ("Value", "calls", "short"),
                    ),
                    sort="calls",
                    empty=_NO_TOOLS,
                ),
            ),
            (
                6,
                timeseries(
                    "How early or late do tools start?",
                    "p90 of seconds before the end of the stream (lead) and after it (lag). A long lead of writes is "
                    "speculation; a long lag is time people wait.",
                    [
                        Query(quantile(0.9, TOOL_DISPATCH_LEAD), "lead"),
                        Query(quantile(0.9, TOOL_DISPATCH_LAG), "lag"),
                    ],
                    "s",
                    empty=_NO_TOOLS,
                ),
            ),
            (
                6,
                timeseries(
                    "How good is tool input?",
                    "Share of calls by whether their input is valid JSON. incomplete: the answer hit max_tokens in "
                    "the call. invalid rises after a model swap.",
                    [
                        Query(
                            share(per_second(TOOL_CALLS, by=(TOOL_CALL_INPUT,)), per_second(TOOL_CALLS), on=()),
                            _legend(TOOL_CALL_INPUT),
                        )
                    ],
                    "percentunit",
                    stack=True,
                    top=1,
                    empty=_NO_TOOLS,
                ),
            ),
        ),
    )


def _stops() -> Row:
    return Row(
        "What happens on Stop?",
        (
            (
                6,
                timeseries(
                    "How often are streams stopped?",
                    "Cancels per stream by who asked. user_stop rising: answers got worse or too long. "
                    "client_disconnect: people leave. timeout: our own limits.",
                    [
                        Query(
                            or_none(
                                share(
                                    per_second(CANCELLATIONS, by=(CANCEL_TRIGGER,)),
                                    per_second(STREAMS, whole=True),
                                    on=(),
                                ),
                                CANCEL_TRIGGER,
                            ),
                            _legend(CANCEL_TRIGGER),
                        )
                    ],
                    "percentunit",
                    stack=True,
                    empty=_NO_STOPS,
                ),
            ),
            (
                6,
                timeseries(
                    "Where in the answer do they stop?",
                    "Cancels per minute by what was being written. before_output: it was too slow. text: they had "
                    "enough. tool_input: they saw what it was about to do.",
                    [Query(per_minute(CANCELLATIONS, by=(CANCEL_AT,)), _legend(CANCEL_AT))],
                    "cpm",
                    stack=True,
                    empty=_NO_STOPS,
                ),
            ),
            (
                6,
                timeseries(
                    "How long had people read before?",
                    "Seconds from the first word to the ask. A low p50 with many user_stops: the first sentence "
                    "tells people that the answer is wrong.",
                    [Query(quantile(q, CANCELLATION_PROGRESS), f"p{round(q * 100)}") for q in (0.5, 0.9)],
                    "s",
                    empty=_NO_STOPS,
                ),
            ),
            (
                6,
                timeseries(
                    "What became of a Stop?",
                    "Cancels per minute by whether the upstream stream was closed. drained, closed_late, "
                    "closed_by_gc and still_open cost money and may still run tools.",
                    [Query(per_minute(CANCELLATIONS, by=(CANCEL_PROPAGATION,)), _legend(CANCEL_PROPAGATION))],
                    "cpm",
                    stack=True,
                    empty=_NO_STOPS,
                    link=traces("Traces read on after a Stop", '{ span.otelstream.cancel.propagation = "drained" }'),
                ),
            ),
        ),
    )


def _after() -> Row:
    return Row(
        "What came after it?",
        (
            (
                6,
                timeseries(
                    "How long until a Stop closes the stream?",
                    "p90 of ask to upstream close. Only Stops whose ask comes before the close "
                    "(user_stop, client_disconnect) have a delay.",
                    [Query(quantile(q, CANCELLATION_DURATION), f"p{round(q * 100)}") for q in (0.5, 0.9)],
                    "s",
                    empty=_NO_STOPS,
                ),
            ),
            (
                6,
                timeseries(
                    "How much was delivered after Stop?",
                    "Characters that still arrived after the ask: generated, paid for, read by nobody.",
                    [Query(quantile(q, CANCELLATION_DELIVERED_AFTER), f"p{round(q * 100)}") for q in (0.5, 0.9)],
                    "short",
                    empty=_NO_STOPS,
                ),
            ),
            (
                6,
                timeseries(
                    "Which side effects stood after a Stop?",
                    "Tool calls of stopped turns per minute. committed without compensated is what users did not "
                    "want and got; withheld is what the gate held back.",
                    [Query(per_minute(CANCELLATION_SIDE_EFFECTS, by=(SIDE_EFFECT,)), _legend(SIDE_EFFECT))],
                    "cpm",
                    stack=True,
                    empty="No tool call stood in a stopped turn",
                ),
            ),
            (
                6,
                timeseries(
                    "How often is an answer withdrawn?",
                    "Retractions per stream by reason: what people saw and should not have. guardrail: the filter is "
                    "later than the text.",
                    [
                        Query(
                            or_none(
                                share(
                                    per_second(RETRACTIONS, by=(RETRACTION_REASON,)),
                                    per_second(STREAMS, whole=True),
                                    on=(),
                                ),
                                RETRACTION_REASON,
                            ),
                            _legend(RETRACTION_REASON),
                        )
                    ],
                    "percentunit",
                    empty="No answer was withdrawn",
                ),
            ),
        ),
    )


def _shown() -> Row:
    return Row(
        "What did people see, and do?",
        (
            (
                6,
                timeseries(
                    "How long was it shown before?",
                    "p90 of first word to withdrawal: how long people read what was then taken back.",
                    [Query(quantile(q, RETRACTION_EXPOSURE_TIME), f"p{round(q * 100)}") for q in (0.5, 0.9)],
                    "s",
                    empty="No answer was withdrawn",
                ),
            ),
            (
                6,
                timeseries(
                    "Do people act too soon?",
                    "Seconds between a user's action and the end of the answer it was based on. Large: they act on "
                    "half.",
                    [Query(quantile(q, ACTION_LEAD_TIME), f"p{round(q * 100)}") for q in (0.5, 0.9)],
                    "s",
                    empty="No action was recorded",
                ),
            ),
            (
                6,
                timeseries(
                    "How does the browser's hop end?",
                    "Our own responses per minute by how they ended. failed_after_200: the browser got half an "
                    "answer and a success.",
                    [Query(per_minute(HOP_DURATION, by=(HOP_OUTCOME,), suffix="_count"), _legend(HOP_OUTCOME))],
                    "cpm",
                    stack=True,
                    empty="The ASGI middleware is not installed",
                ),
            ),
            (
                6,
                timeseries(
                    "How much do we add to the wait?",
                    "p95 to the first byte at the browser's hop, and to the first word from the provider. The "
                    "distance is ours: buffering, guardrails, templates.",
                    [
                        Query(quantile(0.95, HOP_FIRST_BYTE), "first byte to the browser"),
                        Query(quantile(0.95, STREAM_TTFT), "first word from the provider"),
                    ],
                    "s",
                    empty="The ASGI middleware is not installed",
                ),
            ),
        ),
        collapsed=True,
    )
