# SPDX-License-Identifier: Apache-2.0
"""*Inside the stream*: how text flows, who makes it pause, why the first word is late, what is open now."""

from __future__ import annotations

from otelstream._objectives_file import SloConfig
from otelstream._semconv import (
    BLOCK_KIND,
    CACHE,
    JUDGE,
    PROVIDER,
    REQUEST_MODEL,
    REVERSAL_ACTED_ON,
    REVERSAL_EXPOSURE_TIME,
    REVERSALS,
    STALL_SOURCE,
    STREAM_ACTIVE,
    STREAM_GAP_BUCKET,
    STREAM_GAP_MAX,
    STREAM_OUTPUT_RATE,
    STREAM_REPETITION_COUNT,
    STREAM_REPETITION_WASTED,
    STREAM_STALL_DURATION,
    STREAM_STALLED,
    STREAM_STALLS,
    STREAM_STATE,
    STREAM_THINKING_TIME,
    STREAM_TTFT,
    STREAMS,
    VERDICT,
    VERDICTS,
    label_name,
)
from otelstream.grafana._queries import drawn, of, per_minute, per_second, quantile, share
from otelstream.grafana._vocabulary import Board, Query, Row, heatmap, timeseries, traces


def dashboard(_config: SloConfig) -> Board:
    return Board(
        uid="otelstream-inside",
        title="Inside the stream",
        description="How answers feel while they come: cadence, pauses, loops, and why the first word is late.",
        rows=(_flow(), _pauses(), _wait(), _loops(), _verdicts(), _worst()),
    )


def _legend(attribute: str) -> str:
    return f"{{{{{label_name(attribute)}}}}}"


def _flow() -> Row:
    return Row(
        "How does text flow?",
        (
            (
                8,
                timeseries(
                    "How even is the flow?",
                    "Seconds of waiting between two chunks. p50 is the rhythm, p99 the hiccups people notice. A "
                    "chunk is not a token. A change without a deploy of ours is the provider's or a gateway's.",
                    [Query(quantile(q, STREAM_GAP_BUCKET), f"p{round(q * 100)}") for q in (0.5, 0.95, 0.99)],
                    "s",
                    log=True,
                ),
            ),
            (
                8,
                heatmap(
                    "Where do the gaps lie?",
                    "Chunks by the gap before them. A dark band at one height far from the rest is a buffer on the "
                    "way that flushes in lumps; a smear upwards is load.",
                    Query(f"sum by (le) ({drawn(of(STREAM_GAP_BUCKET))})", "{{le}}"),
                    "s",
                ),
            ),
            (
                8,
                timeseries(
                    "How fast does text come?",
                    "Output tokens per second from first to last chunk, of answers with a final count. p10 is what "
                    "the unlucky get. Below some 15 people read faster than it comes.",
                    [Query(quantile(q, STREAM_OUTPUT_RATE), f"p{round(q * 100)}") for q in (0.1, 0.5, 0.9)],
                    "short",
                    axis="tokens/s",
                ),
            ),
        ),
    )


def _pauses() -> Row:
    return Row(
        "Who makes it pause?",
        (
            (
                8,
                timeseries(
                    "How many answers freeze?",
                    "Share of streams that froze at least once, by the source of the longest pause. provider: send "
                    "request ids. event_loop, consumer, own_tool: ours, look at the newest deploy.",
                    [
                        Query(
                            share(per_second(STREAM_STALLED, by=(STALL_SOURCE,)), per_second(STREAMS), on=()),
                            _legend(STALL_SOURCE),
                        )
                    ],
                    "percentunit",
                    stack=True,
                    empty="No answer froze",
                    link=traces("Traces that froze", "{ span.otelstream.stream.stalls > 0 }"),
                ),
            ),
            (
                8,
                timeseries(
                    "Who makes streams pause?",
                    "Pauses per minute by source and by what was being written. The provider's pauses before "
                    "tool_input are its buffering and alert nobody.",
                    [
                        Query(
                            per_minute(STREAM_STALLS, by=(STALL_SOURCE, BLOCK_KIND)),
                            f"{_legend(STALL_SOURCE)}, {_legend(BLOCK_KIND)}",
                        )
                    ],
                    "cpm",
                    stack=True,
                    empty="No pauses",
                ),
            ),
            (
                8,
                timeseries(
                    "How long are the pauses?",
                    "p90 of a pause by source. Round numbers of seconds are somebody's time-out or flush interval.",
                    [Query(quantile(0.9, STREAM_STALL_DURATION, by=(STALL_SOURCE,)), _legend(STALL_SOURCE))],
                    "s",
                    empty="No pauses",
                ),
            ),
        ),
    )


def _wait() -> Row:
    before = share(
        f"({per_second(STREAM_TTFT, suffix='_sum')} - {per_second(STREAM_THINKING_TIME, suffix='_sum')})",
        per_second(STREAM_TTFT, suffix="_count"),
    )
    thinking = share(per_second(STREAM_THINKING_TIME, suffix="_sum"), per_second(STREAM_TTFT, suffix="_count"))
    return Row(
        "Why is the first word late, and what is open now?",
        (
            (
                8,
                timeseries(
                    "Which part of the wait grew?",
                    "Mean seconds to the first visible word, stacked: until the first chunk (queue, prompt, "
                    "retries), then thinking. If the first grew, see the cache beside; if thinking grew, the model "
                    "or its budget did.",
                    [Query(before, "until the first chunk"), Query(thinking, "thinking")],
                    "s",
                    stack=True,
                ),
            ),
            (
                8,
                timeseries(
                    "Does the prompt cache help?",
                    "p95 to the first word by what the cache did. When read turns into none or write and the wait "
                    "rises, the prefix changed: look at the last deploy.",
                    [
                        Query(quantile(0.95, STREAM_TTFT, by=(CACHE,)), f"p95, {_legend(CACHE)}"),
                    ],
                    "s",
                ),
            ),
            (
                8,
                timeseries(
                    "What are open streams doing?",
                    "Open streams by state; the height is what an autoscaler should read, not CPU. Many stalled: "
                    "they hang now. Many waiting_headers: the provider or a connection pool queues.",
                    [Query(f"sum by ({label_name(STREAM_STATE)}) ({of(STREAM_ACTIVE)})", _legend(STREAM_STATE))],
                    "short",
                    stack=True,
                    empty="No process reports open streams",
                ),
            ),
        ),
    )


def _loops() -> Row:
    return Row(
        "Does it repeat itself, and where did the cache go?",
        (
            (
                8,
                timeseries(
                    "Do answers repeat themselves?",
                    "Loops per stream by model and by what was being written. Any steady share is a model or prompt "
                    "change: on_repetition can stop loops as they happen.",
                    [
                        Query(
                            share(
                                per_second(STREAM_REPETITION_COUNT, by=(PROVIDER, REQUEST_MODEL, BLOCK_KIND)),
                                per_second(STREAMS, by=(PROVIDER, REQUEST_MODEL)),
                                on=(PROVIDER, REQUEST_MODEL),
                            ),
                            f"{_legend(PROVIDER)} {_legend(REQUEST_MODEL)}, {_legend(BLOCK_KIND)}",
                        )
                    ],
                    "percentunit",
                    empty="No loops",
                ),
            ),
            (
                8,
                timeseries(
                    "How much do loops waste?",
                    "p90 of the characters of a loop beyond its first copy. People pay for these and read them.",
                    [
                        Query(
                            quantile(0.9, STREAM_REPETITION_WASTED),
                            "p90",
                        )
                    ],
                    "short",
                    empty="No loops",
                ),
            ),
            (
                8,
                timeseries(
                    "How many first words come with a cached prompt?",
                    "Share of answers by what the cache did. A fall of read is the cheapest explanation of slow "
                    "first words and of a higher bill.",
                    [
                        Query(
                            share(
                                per_second(STREAM_TTFT, by=(CACHE,), suffix="_count"),
                                per_second(STREAM_TTFT, suffix="_count"),
                                on=(),
                            ),
                            _legend(CACHE),
                        )
                    ],
                    "percentunit",
                    stack=True,
                    top=1,
                ),
            ),
        ),
    )


def _verdicts() -> Row:
    return Row(
        "Is a word kept?",
        (
            (
                8,
                timeseries(
                    "What is said and taken back?",
                    "Verdicts per minute that judges of yours gave and later changed, by judge and by what was taken "
                    "back; true: users had acted on it. A step is a prompt or a model, or a judge that reads wrongly.",
                    [
                        Query(
                            per_minute(REVERSALS, by=(JUDGE, VERDICT, REVERSAL_ACTED_ON)),
                            f"{_legend(JUDGE)}: {_legend(VERDICT)}, {_legend(REVERSAL_ACTED_ON)}",
                        )
                    ],
                    "cpm",
                    stack=True,
                    empty="Nothing was taken back, or nobody judges",
                    link=traces("Traces with a reversal", '{ event:name = "otelstream.reversal" }'),
                ),
            ),
            (
                8,
                timeseries(
                    "How long did it stand?",
                    "Seconds that a verdict stood before it was taken back: what people read and believed meanwhile.",
                    [Query(quantile(q, REVERSAL_EXPOSURE_TIME), f"p{round(q * 100)}") for q in (0.5, 0.9)],
                    "s",
                    empty="Nothing was taken back, or nobody judges",
                ),
            ),
            (
                8,
                timeseries(
                    "What do judges say?",
                    "Verdicts per minute by judge, changes only; stop: that the stream be stopped.",
                    [Query(per_minute(VERDICTS, by=(JUDGE, VERDICT)), f"{_legend(JUDGE)}: {_legend(VERDICT)}")],
                    "cpm",
                    stack=True,
                    empty="Nobody judges",
                ),
            ),
        ),
    )


def _worst() -> Row:
    return Row(
        "More",
        (
            (
                8,
                timeseries(
                    "What is the worst gap of an answer?",
                    "The longest gap of each stream: half of the answers stay under p50. Works in back-ends without "
                    "PromQL buckets too.",
                    [Query(quantile(q, STREAM_GAP_MAX), f"p{round(q * 100)}") for q in (0.5, 0.95)],
                    "s",
                ),
            ),
        ),
        collapsed=True,
    )
