# SPDX-License-Identifier: Apache-2.0
"""The first row of *Streams*: what fires, what is open, how much, how fast, how well, at this moment."""

from __future__ import annotations

from otelstream._objectives_file import SloConfig
from otelstream._promql import any_of, ne
from otelstream._semconv import (
    CLIENT_TOKENS,
    FAULT,
    INFO,
    OUTCOME,
    PHASE,
    STREAM_ACTIVE,
    STREAM_STATE,
    STREAM_TTFT,
    STREAMS,
    TOKEN_TYPE,
    label_name,
)
from otelstream.grafana._queries import JOB, WHERE, of, per_minute, per_second, quantile, share
from otelstream.grafana._vocabulary import GREEN, RED, STATES, Limit, Query, Row, stat, timeseries

_SILENT = "No process reports: is it scraped?"
_WELL = ("completed", "truncated", "refused")


def now(config: SloConfig) -> Row:
    firing = f'ALERTS{{alertname=~"OtelStream.+", alertstate="firing", {JOB}}}'
    reports = f"{INFO.prometheus}{{{WHERE}}}"
    broke = (ne(PHASE, "before_response"), any_of(FAULT, *sorted(config.objectives.faults)))
    first = [Limit(None, GREEN), *(Limit(float(t), RED) for t in config.objectives.thresholds("first_token")[:1])]
    tokens = per_minute(CLIENT_TOKENS, by=(TOKEN_TYPE,), suffix="_sum")
    completion = next((p for p in config.promises if p.objective.kind == "completion"), config.promises[0])
    whole = [Limit(None, RED), Limit(float(completion.target), GREEN)]
    state, streams = label_name(STREAM_STATE), per_second(STREAMS)
    judged = per_second(STREAMS, any_of(OUTCOME, *_WELL, "failed"))
    return Row(
        "Right now",
        (
            (
                3,
                stat(
                    "What fires?",
                    "Alerts of otelstream that fire for the jobs chosen; *Which alerts fire?* at the end of the page "
                    "names them.",
                    [Query(f"count({firing}) or on () 0 * count({reports})", "alerts", instant=True)],
                    "short",
                    limits=[Limit(None, GREEN), Limit(1, RED)],
                    empty=_SILENT,
                ),
            ),
            (
                6,
                timeseries(
                    "What is open?",
                    "Streams open now, by state. stalled: nothing came for longer than people wait; more of those than "
                    "flow is a hang. waiting_headers: the provider has not answered.",
                    [Query(f"sum by ({state}) ({of(STREAM_ACTIVE)})", f"{{{{{state}}}}}")],
                    "short",
                    stack=True,
                    colours=STATES,
                    empty=_SILENT,
                ),
            ),
            (
                3,
                stat(
                    "Traffic?",
                    "Streams that ended, a minute, over what is chosen above. Half of the usual is news, too.",
                    [Query(per_minute(STREAMS), "streams a minute", instant=True)],
                    "cpm",
                    empty=_SILENT,
                ),
            ),
            (
                3,
                stat(
                    "First word?",
                    "p95 of the last minutes over all models chosen. Red is later than the objective promises.",
                    [Query(quantile(0.95, STREAM_TTFT), "p95", instant=True)],
                    "s",
                    limits=first,
                    empty="No stream has shown a word lately",
                ),
            ),
            (
                3,
                stat(
                    "Ended well?",
                    "Of the streams that nobody left: the share that completed, was truncated or refused.",
                    [Query(share(per_second(STREAMS, any_of(OUTCOME, *_WELL)), judged), "end well", instant=True)],
                    "percentunit",
                    limits=whole,
                    decimals=1,
                    empty="No stream has ended lately",
                ),
            ),
            (
                3,
                stat(
                    "Broke after 200?",
                    "Share of streams that got their 200 and then failed: what no status code shows.",
                    [Query(f"({share(per_second(STREAMS, *broke), streams)}) or 0 * {streams}", "broke", instant=True)],
                    "percentunit",
                    limits=[Limit(None, GREEN), Limit(0.005, RED)],
                    decimals=2,
                    empty="No stream has ended lately",
                ),
            ),
            (
                3,
                stat(
                    "Tokens?",
                    "Tokens a minute, read and written, of streams whose provider told.",
                    [Query(tokens, f"{{{{{label_name(TOKEN_TYPE)}}}}}", instant=True)],
                    "cpm",
                    empty="No stream has told its tokens lately",
                ),
            ),
        ),
        height=5,
    )
