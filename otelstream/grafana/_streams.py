# SPDX-License-Identifier: Apache-2.0
"""*Streams*: are the promises kept, how fast, how do streams end, what breaks after a 200, where to look."""

from __future__ import annotations

from otelstream._objectives_file import SloConfig, duration, number
from otelstream._promql import any_of, eq, ne, sum_by
from otelstream._semconv import (
    ENDED,
    ERROR_TYPE,
    FAULT,
    INFO,
    OBJECTIVE_NAME,
    OBJECTIVE_RESULT,
    OBJECTIVE_STREAMS,
    OBJECTIVES_HASH,
    OUTCOME,
    PHASE,
    PROVIDER,
    REQUEST_MODEL,
    ROUTE,
    SDK_NAME,
    SDK_VERSION,
    STREAM_DURATION,
    STREAM_FAILURES,
    STREAM_RETRIES,
    STREAM_TTFT,
    STREAM_WAIT_WITHOUT_TOKEN,
    STREAMS,
    VERSION,
    label_name,
)
from otelstream.grafana._now import now
from otelstream.grafana._queries import JOB, WHERE, or_none, per_minute, per_second, quantile, share, total
from otelstream.grafana._vocabulary import (
    GREEN,
    ORANGE,
    OUTCOMES,
    RED,
    YELLOW,
    Board,
    Limit,
    Query,
    Row,
    objective_override,
    stat,
    table,
    timeseries,
    traces,
)

NAME = label_name(OBJECTIVE_NAME)


def _each(q: float) -> str:
    return f"p{round(q * 100)} {{{{{label_name(PROVIDER)}}}}} {{{{{label_name(REQUEST_MODEL)}}}}}"


def dashboard(config: SloConfig) -> Board:
    return Board(
        uid="otelstream-streams",
        title="Streams",
        description="Are streamed answers as good as promised, and if not, how do they fail? Start here.",
        rows=(now(config), _healthy(config), _endings(config), _fast(config), _where()),
    )


def _records(name: str) -> str:
    return f"{name}{{{JOB}}}"


def _healthy(config: SloConfig) -> Row:
    good = total(OBJECTIVE_STREAMS, eq(OBJECTIVE_RESULT, "good"), by=(OBJECTIVE_NAME,))
    judged = total(OBJECTIVE_STREAMS, any_of(OBJECTIVE_RESULT, "good", "bad"), by=(OBJECTIVE_NAME,))
    kept = [
        objective_override(
            promise.objective.name,
            [Limit(None, RED), Limit(promise.objective.target, GREEN)],
        )
        for promise in config.promises
    ]
    paging = [pair for promise in config.promises for pair in promise.burn_rates if pair.severity == "page"]
    lines = [Limit(1, YELLOW)] + ([Limit(float(min(pair.factor for pair in paging)), RED)] if paging else [])
    period = duration(config.window)
    return Row(
        "Is it healthy?",
        (
            (
                6,
                stat(
                    "Are the objectives kept?",
                    "Share of judged streams that were good in the time range shown, for each objective. Red is "
                    "under its target. Follows every variable. Next: the panel of that objective's kind below.",
                    [Query(share(good, judged), f"{{{{{NAME}}}}}", instant=True)],
                    "percentunit",
                    overrides=kept,
                    decimals=2,
                    empty="No stream was judged in this time range",
                ),
            ),
            (
                6,
                stat(
                    f"How much of the {period} budget is left?",
                    f"1 is untouched, 0 is spent, below 0 the promise of the last {period} is broken. Worst job. Comes "
                    "from the recording rules, so it follows the variable job only. Under a quarter: stop risky "
                    "changes.",
                    [
                        Query(
                            f"min by ({NAME}) ({_records('slo:period_error_budget_remaining:ratio')})",
                            f"{{{{{NAME}}}}}",
                            instant=True,
                        )
                    ],
                    "percentunit",
                    limits=[Limit(None, RED), Limit(0, ORANGE), Limit(0.25, GREEN)],
                    decimals=0,
                    empty="No recording rules: load otelstream.rules.yaml into Prometheus",
                ),
            ),
            (
                5,
                stat(
                    "When is the budget gone?",
                    "Time until nothing is left at the present burn rate. Shorter than a weekend: act before it. "
                    "The whole period while nothing burns.",
                    [
                        Query(
                            # Where nothing burns it lasts as long as the period.
                            f"min by ({NAME}) ({_records('slo:period_error_budget_exhaustion:seconds')})"
                            f" or min by ({NAME}) ({_records('slo:period_error_budget_remaining:ratio')}) * 0"
                            f" + {number(config.window)}",
                            f"{{{{{NAME}}}}}",
                            instant=True,
                        )
                    ],
                    "s",
                    limits=[Limit(None, RED), Limit(3 * 86400, ORANGE), Limit(float(config.window), GREEN)],
                    decimals=0,
                    empty="No recording rules, or none of an hour of streams",
                ),
            ),
            (
                7,
                timeseries(
                    "How fast does the budget burn?",
                    "1 spends the budget exactly in its period; the red line is where a page begins. Worst job, from "
                    "the recording rules. A spike that falls back is over; a plateau needs somebody.",
                    [
                        Query(
                            f"max by ({NAME}) ({_records('slo:current_burn_rate:ratio')})",
                            f"{{{{{NAME}}}}}",
                        )
                    ],
                    "none",
                    limits=lines,
                    empty="No recording rules: load otelstream.rules.yaml into Prometheus",
                ),
            ),
        ),
        height=6,
    )


def _fast(config: SloConfig) -> Row:
    first = [Limit(float(t), RED) for t in config.objectives.thresholds("first_token")]
    whole = [Limit(float(t), RED) for t in config.objectives.thresholds("completion")]
    return Row(
        "How fast is it?",
        (
            (
                8,
                timeseries(
                    "How long until people see the first word?",
                    "Request to first visible token; thinking is not visible. The line is the objective's threshold. "
                    "If p95 rises and p50 does not, some requests queue or retry; if both rise, see Inside the "
                    "stream.",
                    [
                        Query(quantile(q, STREAM_TTFT, by=(PROVIDER, REQUEST_MODEL)), _each(q), exemplars=q == 0.95)
                        for q in (0.5, 0.95)
                    ],
                    "s",
                    limits=first,
                    link=traces(
                        "Traces with a late first token", "{ span.otelstream.stream.time_to_first_token > 2.5 }"
                    ),
                ),
            ),
            (
                8,
                timeseries(
                    "How long do whole answers take?",
                    "Request to end, of answers that ended well. Long is not bad by itself: compare with the output "
                    "rate and with stalls on Inside the stream.",
                    [
                        Query(
                            quantile(q, STREAM_DURATION, eq(ENDED, "whole")),
                            f"p{round(q * 100)}",
                            exemplars=q == 0.95,
                        )
                        for q in (0.5, 0.95)
                    ],
                    "s",
                    limits=whole,
                ),
            ),
            (
                8,
                timeseries(
                    "How long do people wait who never see a word?",
                    "p90 of how long a stream lasted that showed nothing, by how it ended. Cancelled and abandoned: "
                    "people's patience. Failed: how long an error takes to show.",
                    [
                        Query(
                            quantile(0.9, STREAM_WAIT_WITHOUT_TOKEN, by=(OUTCOME,)),
                            f"{{{{{label_name(OUTCOME)}}}}}",
                        )
                    ],
                    "s",
                    empty="Everybody saw a first word",
                ),
            ),
        ),
    )


def _endings(config: SloConfig) -> Row:
    broke = (ne(PHASE, "before_response"), any_of(FAULT, *sorted(config.objectives.faults)))
    fault, error = label_name(FAULT), label_name(ERROR_TYPE)
    errors = total(STREAM_FAILURES, by=(ERROR_TYPE, PHASE))
    return Row(
        "How do streams end?",
        (
            (
                7,
                timeseries(
                    "How do streams end?",
                    "Streams per minute by outcome, stacked: the height is the traffic. Refused and truncated are "
                    "answers; failed is not; cancelled and abandoned are people.",
                    [Query(per_minute(STREAMS, by=(OUTCOME,)), f"{{{{{label_name(OUTCOME)}}}}}")],
                    "cpm",
                    stack=True,
                    colours=OUTCOMES,
                ),
            ),
            (
                7,
                timeseries(
                    "200 is not success: what breaks after it?",
                    "Share of streams that got a 200 and then failed, by fault: what status codes never show. Next: "
                    "the table beside it for error types, the link for traces with request ids.",
                    [
                        Query(
                            or_none(share(per_second(STREAMS, *broke, by=(FAULT,)), per_second(STREAMS), on=()), FAULT),
                            f"{{{{{fault}}}}}",
                        )
                    ],
                    "percentunit",
                    stack=True,
                    link=traces(
                        "Traces with this fault",
                        f'{{ span.{FAULT} = "${{__field.labels.{fault}}}" }}',
                    ),
                ),
            ),
            (
                5,
                table(
                    "Which errors?",
                    "Streams with a fault in the time range, in the provider's word. A rate limit (429) is ours, an "
                    "overload (529, 503) is theirs, connection_error is the path between.",
                    [Query(or_none(f"{errors} > 0.5", ERROR_TYPE, over=total(STREAMS)), "", instant=True)],
                    "short",
                    columns=((error, "error", ""), (label_name(PHASE), "phase", ""), ("Value", "streams", "short")),
                    sort="streams",
                    link=traces("Traces with this error", f'{{ span.{ERROR_TYPE} = "${{__data.fields.error}}" }}'),
                ),
            ),
            (
                5,
                timeseries(
                    "Do requests need retries?",
                    "Retries per stream by what made them needed. People see them as a late first word only. 429: "
                    "lower concurrency. 529, 503: fail over, more retries add load.",
                    [
                        Query(
                            or_none(
                                share(per_second(STREAM_RETRIES, by=(ERROR_TYPE,)), per_second(STREAMS), on=()),
                                ERROR_TYPE,
                            ),
                            f"{{{{{error}}}}}",
                        )
                    ],
                    "percentunit",
                ),
            ),
        ),
        height=9,
    )


def _where() -> Row:
    model, route = label_name(REQUEST_MODEL), label_name(ROUTE)
    bad = total(OBJECTIVE_STREAMS, eq(OBJECTIVE_RESULT, "bad"), by=(PROVIDER, REQUEST_MODEL, ROUTE, OBJECTIVE_NAME))
    judged = total(OBJECTIVE_STREAMS, any_of(OBJECTIVE_RESULT, "good", "bad"))
    info = sum_by(("job", VERSION, SDK_NAME, SDK_VERSION, OBJECTIVES_HASH), f"{INFO.prometheus}{{{WHERE}}}")
    return Row(
        "Where to look",
        (
            (
                5,
                timeseries(
                    "How old are answers when they break?",
                    "Seconds from request to end of streams that failed after their first word. p50 and p90 close "
                    "together: a time-out on the way cuts them. Far apart: the provider. Traces have the exact ages.",
                    [
                        Query(quantile(q, STREAM_DURATION, eq(ENDED, "broken")), f"p{round(q * 100)}")
                        for q in (0.5, 0.9)
                    ],
                    "s",
                    empty="No stream broke, or none was counted",
                ),
            ),
            (
                6,
                table(
                    "Which model and route breaks which promise?",
                    "Bad streams in the time range. One line that leads the table names the culprit; all alike means "
                    "the provider or the network.",
                    [Query(or_none(f"{bad} > 0.5", OBJECTIVE_NAME, over=judged), "", instant=True)],
                    "short",
                    columns=(
                        (label_name(PROVIDER), "provider", ""),
                        (model, "model", ""),
                        (route, "route", ""),
                        (NAME, "objective", ""),
                        ("Value", "bad streams", "short"),
                    ),
                    sort="bad streams",
                ),
            ),
            (
                5,
                table(
                    "Which alerts fire?",
                    "Alerts of otelstream for the jobs chosen. Their links lead to the runbook.",
                    [
                        Query(
                            "group by (alertname, severity, job, otelstream_objective_name) "
                            f'(ALERTS{{alertname=~"OtelStream.+", alertstate="firing", {JOB}}})',
                            "",
                            instant=True,
                        )
                    ],
                    "short",
                    columns=(
                        ("severity", "severity", ""),
                        ("alertname", "alert", ""),
                        (NAME, "objective", ""),
                        ("job", "job", ""),
                    ),
                    hidden=("Value",),
                    empty="No alert fires",
                ),
            ),
            (
                8,
                table(
                    "What is running?",
                    "Processes by version and by the hash of the objectives they judge by. Two hashes in one job: a "
                    "deploy is half done, or somebody judges by another file.",
                    [Query(info, "", instant=True)],
                    "short",
                    columns=(
                        ("job", "job", ""),
                        (label_name(VERSION), "otelstream", ""),
                        (label_name(SDK_NAME), "SDK", ""),
                        (label_name(SDK_VERSION), "SDK version", ""),
                        (label_name(OBJECTIVES_HASH), "objectives", ""),
                        ("Value", "processes", "short"),
                    ),
                    empty="No process reports",
                ),
            ),
        ),
        collapsed=True,
    )
