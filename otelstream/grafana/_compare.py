# SPDX-License-Identifier: Apache-2.0
"""*Compare*: models and SDK versions side by side, this week against last, and the texture of answers."""

from __future__ import annotations

from typing import Final

from otelstream._objectives_file import SloConfig
from otelstream._promql import any_of, eq, ne
from otelstream._semconv import (
    FAULT,
    INFO,
    OBJECTIVE_NAME,
    OBJECTIVE_RESULT,
    OBJECTIVE_STREAMS,
    PHASE,
    PROVIDER,
    REQUEST_MODEL,
    SDK_NAME,
    SDK_VERSION,
    STREAM_GAP_BUCKET,
    STREAM_OUTPUT_RATE,
    STREAM_STALLS,
    STREAM_TTFT,
    STREAMS,
    TOOL_CALL_PREAMBLE,
    TOOL_PAUSE,
    label_name,
)
from otelstream.grafana._queries import JOB, RANGE, RATE, WHERE, per_minute, per_second, quantile, share, total
from otelstream.grafana._vocabulary import Board, Query, Row, table, timeseries, variable

WEEK: Final = " offset 1w"
# Two providers may serve a model of one name, and not alike.
_BY: Final = (PROVIDER, REQUEST_MODEL)
_MODEL = " ".join(f"{{{{{label_name(name)}}}}}" for name in _BY)
_VERSION = label_name(SDK_VERSION)
_LAST_WEEK = "No data a week ago"


def dashboard(config: SloConfig) -> Board:
    return Board(
        uid="otelstream-compare",
        title="Compare",
        description="Before and after a model swap, an SDK upgrade, a week: what changed for people.",
        rows=(_models(config), _weeks(config), _texture(), _versions(config)),
        variables=(
            # As each process tells them: those of one in one value, for it has one series.
            variable("sdk", "SDK", f"label_values({INFO.prometheus}{{{JOB}}}, {label_name(SDK_NAME)})",
                     everything="", multi=False),
        ),
    )  # fmt: skip


def _broke(config: SloConfig) -> tuple[str, str]:
    return ne(PHASE, "before_response"), any_of(FAULT, *sorted(config.objectives.faults))


def _models(config: SloConfig) -> Row:
    by = _BY
    columns = (
        (total(STREAMS, by=by), "streams", "short"),
        (quantile(0.95, STREAM_TTFT, by=by, over=RANGE), "p95 first word", "s"),
        (quantile(0.95, STREAM_GAP_BUCKET, by=by, over=RANGE), "p95 gap", "s"),
        (quantile(0.5, STREAM_OUTPUT_RATE, by=by, over=RANGE), "tokens/s", "short"),
        (share(total(STREAM_STALLS, by=by), total(STREAMS, by=by)), "pauses a stream", "none"),
        (share(total(STREAMS, *_broke(config), by=by), total(STREAMS, by=by)), "broke after 200", "percentunit"),
    )
    return Row(
        "Which model is better at what?",
        (
            (
                24,
                table(
                    "Which model is better at what?",
                    "Every provider's models over the time range shown. Read a line before and after a swap; a cell "
                    "without value had no such event.",
                    [Query(expr, title, instant=True) for expr, title, _ in columns],
                    "short",
                    columns=(
                        (label_name(PROVIDER), "provider", ""),
                        (label_name(REQUEST_MODEL), "model", ""),
                        *((f"Value #{chr(ord('A') + n)}", title, unit) for n, (_, title, unit) in enumerate(columns)),
                    ),
                    sort="streams",
                ),
            ),
        ),
        height=5,
    )


def _weeks(config: SloConfig) -> Row:
    def bad(past: str) -> str:
        return share(
            per_second(OBJECTIVE_STREAMS, eq(OBJECTIVE_RESULT, "bad"), by=(OBJECTIVE_NAME,), past=past),
            per_second(OBJECTIVE_STREAMS, any_of(OBJECTIVE_RESULT, "good", "bad"), by=(OBJECTIVE_NAME,), past=past),
        )

    def broke(past: str) -> str:
        return share(per_second(STREAMS, *_broke(config), past=past), per_second(STREAMS, past=past))

    name = f"{{{{{label_name(OBJECTIVE_NAME)}}}}}"
    return Row(
        "This week against last",
        (
            (
                8,
                timeseries(
                    "Are first words slower than last week?",
                    "p95 to the first word now and at the same time a week ago: the daily swing cancels out.",
                    [
                        Query(quantile(0.95, STREAM_TTFT), "now"),
                        Query(quantile(0.95, STREAM_TTFT, past=WEEK), "a week ago"),
                    ],
                    "s",
                ),
            ),
            (
                8,
                timeseries(
                    "Do more answers break than last week?",
                    "Share of streams that broke after a 200, now and a week ago.",
                    [Query(broke(""), "now"), Query(broke(WEEK), "a week ago")],
                    "percentunit",
                    empty="Nothing broke after a 200",
                ),
            ),
            (
                8,
                timeseries(
                    "Are more promises broken than last week?",
                    "Share of bad streams by objective, now and a week ago. A gap in one objective only says which "
                    "kind of trouble it is.",
                    [Query(bad(""), f"{name}, now"), Query(bad(WEEK), f"{name}, a week ago")],
                    "percentunit",
                    empty=_LAST_WEEK,
                ),
            ),
        ),
    )


def _texture() -> Row:
    spoke = per_second(TOOL_PAUSE, eq(TOOL_CALL_PREAMBLE, "true"), by=_BY, suffix="_count")
    calls = per_second(TOOL_PAUSE, by=_BY, suffix="_count")
    no_tools = "No tool calls in this time range"
    return Row(
        "Texture: how do answers feel?",
        (
            (
                6,
                timeseries(
                    "How fast does each model write?",
                    "Median output tokens per second by model. A swap that halves it doubles how long people watch.",
                    [Query(quantile(0.5, STREAM_OUTPUT_RATE, by=_BY), _MODEL)],
                    "short",
                    axis="tokens/s",
                ),
            ),
            (
                6,
                timeseries(
                    "How even is each model's flow?",
                    "p95 gap between chunks by model. Larger, rarer chunks look like slowness though the rate is the "
                    "same.",
                    [Query(quantile(0.95, STREAM_GAP_BUCKET, by=_BY), _MODEL)],
                    "s",
                ),
            ),
            (
                6,
                timeseries(
                    "How long is the pause before a tool call?",
                    "p90 of the silence before a tool's input, by model: people see nothing move.",
                    [Query(quantile(0.9, TOOL_PAUSE, by=_BY), _MODEL)],
                    "s",
                    empty=no_tools,
                ),
            ),
            (
                6,
                timeseries(
                    "Does the model speak before it calls a tool?",
                    "Share of tool calls with text before them. Without it the same pause feels longer.",
                    [Query(share(spoke, calls), _MODEL)],
                    "percentunit",
                    top=1,
                    empty=no_tools,
                ),
            ),
        ),
    )


def _versions(config: SloConfig) -> Row:
    # Of a process that has gone the last counts are still drawn: so is what it was.
    version = (
        f" * on (job, instance) group_left ({_VERSION}) group by (job, instance, {_VERSION}) "
        f'(last_over_time({INFO.prometheus}{{{WHERE}, {label_name(SDK_NAME)}="$sdk"}}[{RATE}]))'
    )

    def by_version(expr: str) -> str:
        return f"sum by ({_VERSION}) ({expr}{version})"

    def first_word() -> str:
        inner = per_second(STREAM_TTFT, by=("job", "instance", "le"), suffix="_bucket")
        return f"histogram_quantile(0.95, sum by (le, {_VERSION}) ({inner}{version}))"

    each = ("job", "instance")
    return Row(
        "SDK versions",
        (
            (
                8,
                timeseries(
                    "How much runs on which SDK version?",
                    "Streams per minute by the SDK's version; choose the SDK above. Watch a rollout here. A process "
                    "with several SDKs tells all versions, in the order of their names: choose the provider, too.",
                    [Query(by_version(per_minute(STREAMS, by=each)), f"{{{{{_VERSION}}}}}")],
                    "cpm",
                    stack=True,
                ),
            ),
            (
                8,
                timeseries(
                    "Does an SDK version break more answers?",
                    "Share of streams that broke after a 200, by SDK version.",
                    [
                        Query(
                            share(
                                by_version(per_second(STREAMS, *_broke(config), by=each)),
                                by_version(per_second(STREAMS, by=each)),
                            ),
                            f"{{{{{_VERSION}}}}}",
                        )
                    ],
                    "percentunit",
                    empty="Nothing broke after a 200",
                ),
            ),
            (
                8,
                timeseries(
                    "Is an SDK version slower to the first word?",
                    "p95 to the first word by SDK version: an upgrade that buffers shows here first.",
                    [Query(first_word(), f"{{{{{_VERSION}}}}}")],
                    "s",
                ),
            ),
        ),
    )
