# SPDX-License-Identifier: Apache-2.0
"""What the runbook says of each alert: meaning, first query, causes, steps, and what the provider needs."""

from __future__ import annotations

from typing import Final

from otelstream._promql import any_of, counted, eq, ne, series, sum_by
from otelstream._semconv import (
    BLOCK_KIND,
    CACHE,
    CANCEL_AT,
    CANCEL_PROPAGATION,
    CANCEL_TRIGGER,
    CANCELLATIONS,
    DISPATCH_PHASE,
    ERROR_TYPE,
    EVENT_REVERSAL,
    FAULT,
    FOLDED,
    FOLDED_WHAT,
    INFO,
    JUDGE,
    OBJECTIVES_HASH,
    OTHER,
    OUTCOME,
    PHASE,
    REPETITION_PERIOD,
    REQUEST_ID,
    REQUEST_MODEL,
    REVERSAL_ACTED_ON,
    REVERSALS,
    SDK_VERSION,
    SIDE_EFFECT,
    STALL_SOURCE,
    START_TIME,
    STREAM_ACTIVE,
    STREAM_FAILURES,
    STREAM_REPETITION_COUNT,
    STREAM_RETRIES,
    STREAM_STALLS,
    STREAM_STATE,
    STREAM_TTFT,
    STREAMS,
    SUCCEEDED_THEN_FAILED,
    TOOL_CALL_EFFECT,
    TOOL_CALL_INPUT,
    TOOL_CALLS,
    TOOL_NAME,
    TURN_ID,
    VERDICT,
    VERSION,
    Metric,
    label_name,
)
from otelstream._semconv import (
    CANCELLATION_SIDE_EFFECTS as SIDE_EFFECTS,
)
from otelstream.slo._alert import Entry


def _counted(metric: Metric, *matchers: str, hours: int = 1) -> str:
    """What was counted in these hours, as rules and panels count it; over lines, for people read it."""
    line = "\n "
    selected = series(metric, *matchers)
    return f"{line} {counted(selected, START_TIME.prometheus, f'{hours}h', str(hours * 3600), line)}"


_REQUEST_IDS = (
    f"Request ids (`{REQUEST_ID}` on the spans), model, region, the first and last minute in UTC, and the "
    "share of streams affected."
)
_THEIRS_OR_OURS = (
    "429 `rate_limit_error` is ours: over our own limit. 529 `overloaded_error`, `api_error` and 5xx are theirs. "
    "`connection_error` is the path between: proxy, DNS, egress."
)

BURN_ENTRIES: Final = {
    "first_token": Entry(
        title="First token objective",
        means="People wait longer for the first visible word than promised, or never see one. "
        "Thinking is not visible; a request that failed before its first token counts as bad.",
        first_query="histogram_quantile(0.95, "
        + sum_by(
            ("le", REQUEST_MODEL, CACHE),
            f"rate({series(STREAM_TTFT, suffix='_bucket')}[5m])",
        )
        + ")",
        look="*Streams* > How long until people see the first word?, then *Inside the stream* > "
        "Which part of the wait grew?",
        causes=(
            (
                f"The prompt cache was lost (`{label_name(CACHE)}` went from `read` to `none` or "
                "`write`): a changed prefix, a deploy that reordered the tools, a cache that expired."
            ),
            "The model thinks longer before it speaks: thinking time grew, time to first chunk did not.",
            "The provider queues: time to first chunk grew for every model and cache state.",
            f"Retries come before the answer: `{STREAM_RETRIES.prometheus}` rose. {_THEIRS_OR_OURS}",
            "Requests fail outright: see the completion objective, which then burns as well.",
        ),
        do=(
            "Compare cache states. If only `none` is slow, bring the stable prefix back and redeploy.",
            "If thinking grew, lower the thinking budget or show a progress line; tell the product owner.",
            (
                "If one model or provider is slow, move traffic to another; the *Compare* dashboard says what that "
                "costs."
            ),
            "If retries rose, lower concurrency (429) or fail over (529).",
        ),
        send=_REQUEST_IDS + " The p95 before and now, split by cache state.",
    ),
    "completion": Entry(
        title="Completion objective",
        means="Streams fail, or take longer from request to end than promised. Failures before the "
        "first byte count here too.",
        first_query=sum_by((OUTCOME, PHASE, FAULT), _counted(STREAMS)),
        look="*Streams* > How do streams end?, then *Streams* > Which errors?",
        causes=(
            f"Refused before any stream (`before_response`): {_THEIRS_OR_OURS}",
            "Failures after a 200 (`mid_stream`): the integrity objective burns as well.",
            (
                "Nothing fails but answers are slow: longer answers (tokens per answer), a slower model (output "
                "rate), stalls, or tools that run while the stream is parked."
            ),
        ),
        do=(
            "Split by phase and error type; follow the line that rose.",
            "429: lower concurrency or raise the limit. 529 and 5xx: fail over, then retry with back-off.",
            "Slow without errors: compare output rate and stalls with last week on *Compare*.",
        ),
        send=_REQUEST_IDS,
    ),
    "integrity": Entry(
        title="Integrity objective",
        means="Streams answer 200, show something, and then break: cut short, an error event, a reset, a "
        "silence. Status codes and access logs call these successes.",
        first_query=sum_by(
            (FAULT, ERROR_TYPE, REQUEST_MODEL),
            _counted(STREAM_FAILURES, ne(PHASE, "before_response")),
        ),
        look="*Streams* > 200 is not success: what breaks after it?, then "
        "*Streams* > How old are answers when they break?",
        causes=(
            (
                "`cut_short`: a proxy or gateway closes idle or long responses (its time-out is a round number of "
                "seconds: look at when streams die), or a deploy of it drops open connections."
            ),
            "`provider_error`: the provider sends an `error` event; `overloaded_error` is its load.",
            "`connection_lost`: resets on the path; compare one egress or zone with another.",
            "`timeout`, `stalled`: the provider went silent; the SDK or a person gave up.",
            (
                "`protocol_error`, `malformed_tool_call`: a gateway rewrites the stream, or a model swap changed how "
                "tools are called; check the SDK version."
            ),
            "`content_filter`: an answer was withdrawn after people had read some of it.",
        ),
        do=(
            "See whether one model, provider, route or instance has them all.",
            (
                "Look at the phase and seconds of death in the traces "
                f"(`{SUCCEEDED_THEN_FAILED}` = true): equal ages mean a time-out on the way."
            ),
            "Provider side: fail over. Gateway side: roll back its last change, raise its idle time-out.",
            "Make sure the product shows partial answers as partial and does not store them as complete.",
        ),
        send=_REQUEST_IDS + " For each the last event received and the seconds since the request.",
    ),
    "reversal": Entry(
        title="Reversal objective",
        means="Answers say one thing and take it back while people read: a judge of the application's gave a verdict "
        "on the text so far, and another one later. Nothing has failed, and no status says so.",
        first_query=sum_by((JUDGE, VERDICT, REVERSAL_ACTED_ON), _counted(REVERSALS)),
        look="*Inside the stream* > What is said and taken back?, then *Inside the stream* > How long did it stand?",
        causes=(
            "A prompt or a model that answers first and reasons after: the verdict comes before its grounds.",
            "The judge reads wrongly: a new phrase, another language. Compare some of its verdicts by hand.",
            "Thinking was switched off or its budget cut, so that the model thinks aloud in the answer.",
        ),
        do=(
            f"See which judge and verdict; `{label_name(REVERSAL_ACTED_ON)}` = true is what users acted on: first.",
            "Roll back the prompt or the model, or ask for the grounds before the verdict.",
            "Until then hold the verdict back in the product, or show it as provisional.",
        ),
        send=f"Nothing is the provider's. For the owner of the prompt: the traces with an event `{EVENT_REVERSAL}`.",
    ),
}

SYMPTOM_ENTRIES: Final = {
    "hanging": Entry(
        title="Streams hang now",
        means="A large share of the open streams has been silent for longer than the stall threshold. People "
        "look at half a sentence.",
        first_query=sum_by((STREAM_STATE, REQUEST_MODEL), STREAM_ACTIVE.prometheus),
        look="*Inside the stream* > What are open streams doing?",
        causes=(
            "The provider stopped sending and keeps the connection: stalls of source `provider`.",
            "Our own event loop is blocked or consumers are slow: sources `event_loop` and `consumer`.",
            "A tool runs inside the reading loop: source `own_tool`.",
        ),
        do=(
            (
                "Look at the source of the stalls. `provider`: fail over, and lower the read time-out so that people "
                "get an error instead of a frozen page."
            ),
            "`event_loop` or `consumer`: find the blocking call in the newest deploy; roll back.",
        ),
        send=_REQUEST_IDS,
    ),
    "cancels": Entry(
        title="Stop does not stop",
        means="People press Stop or leave, and the upstream stream is not closed, is closed late, "
        "or is read on to its end. Tokens nobody reads are generated and billed, and tools may still run.",
        first_query=sum_by((CANCEL_TRIGGER, CANCEL_PROPAGATION, CANCEL_AT), _counted(CANCELLATIONS)),
        look="*Tools and cancels* > What became of a Stop?",
        causes=(
            "`drained`: a gateway or the application reads the upstream to the end after the client left.",
            "`closed_by_gc`: the stream is dropped without `close()`; a missing `with` or `aclose()`.",
            "`closed_late`: the reader is busy (a tool, a blocked loop) and sees the Stop late.",
            "`still_open` at exit: workers are killed with streams open; drain before a deploy.",
        ),
        do=(
            (
                "Find the trigger. `client_disconnect`: does the server see the disconnect behind the proxy? Many "
                "buffer it."
            ),
            "Close the stream in the handler's `finally`; use the SDK's context manager.",
        ),
        send="Nothing: this hop is ours. For a bought gateway: the request ids and when the client closed.",
    ),
    "side_effects": Entry(
        title="Stopped turns left side effects",
        means="A user stopped a turn whose tools had already acted on the world, and nobody recorded a compensation.",
        first_query=sum_by((SIDE_EFFECT,), _counted(SIDE_EFFECTS, hours=6)),
        look="*Tools and cancels* > Which side effects stood after a Stop?",
        causes=(
            "Write tools run mid-stream, before people could stop them.",
            "Compensation exists but does not call `record_compensated()`.",
        ),
        do=(
            f"Take the turn ids from the traces (`{TURN_ID}`) and undo or confirm each with its owner.",
            'Gate the tool: `@otelstream.tool(effect="write", hold=True)` runs it only after a clean end.',
        ),
        send="Nothing.",
    ),
    "early_tools": Entry(
        title="A tool ran before its input was complete",
        means="A tool started while its input block was still arriving. It acted on a guess.",
        first_query=sum_by(
            (TOOL_NAME, TOOL_CALL_EFFECT, DISPATCH_PHASE),
            _counted(TOOL_CALLS, eq(DISPATCH_PHASE, "before_ready")),
        ),
        look="*Tools and cancels* > When do tools start?",
        causes=(
            "The application parses partial JSON and dispatches early.",
            "An eager runner without its ready check.",
        ),
        do=(
            "Dispatch on the end of the tool's block, not on a parseable prefix.",
            "Check what the tool did with it.",
        ),
        send="Nothing.",
    ),
    "invalid_tools": Entry(
        title="A tool ran with input that is no valid JSON",
        means="A tool was dispatched although its input was invalid or cut off.",
        first_query=sum_by(
            (TOOL_NAME, TOOL_CALL_INPUT),
            _counted(TOOL_CALLS, any_of(TOOL_CALL_INPUT, "invalid", "incomplete")),
        ),
        look="*Tools and cancels* > How good is tool input?",
        causes=(
            "`incomplete`: the answer hit `max_tokens` inside the tool call.",
            ("`invalid`: the model wrote broken JSON, often after a model swap; or a lenient parser repairs it."),
        ),
        do=("Raise `max_tokens`, or refuse to dispatch what does not parse.", "Compare models on *Compare*."),
        send="For `invalid`: request ids and the tool's schema.",
    ),
    "repetition": Entry(
        title="Answers repeat themselves",
        means="The model loops: the same words over and over until the token limit. People pay for it and read it.",
        first_query=sum_by((REQUEST_MODEL, BLOCK_KIND), _counted(STREAM_REPETITION_COUNT)),
        look="*Inside the stream* > Do answers repeat themselves?",
        causes=(
            "A model or sampling change (temperature 0 with long lists), a prompt that quotes itself.",
            "Block kind `tool_input`: a tool schema the model cannot satisfy.",
        ),
        do=(
            "Stop loops as they happen: `@otelstream.on_repetition` may close the stream.",
            "Undo the model or prompt change; see *Compare* for which model has them.",
        ),
        send=f"Request ids, the period (`{REPETITION_PERIOD}`) and where the loop began.",
    ),
    "provider_stalls": Entry(
        title="The provider pauses mid-answer",
        means="Answers freeze between two chunks while the provider is silent. Pauses before tool "
        "input are left out: providers buffer that.",
        first_query=sum_by((STALL_SOURCE, BLOCK_KIND, REQUEST_MODEL), _counted(STREAM_STALLS)),
        look="*Inside the stream* > Who makes streams pause?",
        causes=(
            "Load at the provider.",
            "A gateway that buffers and flushes in lumps: gaps are then regular.",
        ),
        do=(
            "Look at the gap heat map: a band at one height is a buffer on the way, a smear is load.",
            "Move traffic to another model or provider if it lasts.",
        ),
        send=_REQUEST_IDS,
    ),
    "retries": Entry(
        title="Retries rise",
        means="Requests need several attempts. People only see a late first token, until the retries run out.",
        first_query=sum_by((ERROR_TYPE, REQUEST_MODEL), _counted(STREAM_RETRIES)),
        look="*Streams* > Do requests need retries?",
        causes=(_THEIRS_OR_OURS,),
        do=(
            "429: lower concurrency, spread batch jobs, ask for a higher limit.",
            "529: fail over; do not add retries, they add load.",
        ),
        send=_REQUEST_IDS + " The error types with their share.",
    ),
    "overflow": Entry(
        title="Metrics lost their labels",
        means=f"There were more models, routes, tools or error types than a process has room for: what came after is "
        f"counted as `{OTHER}`. Totals and objectives hold; numbers by model, route or tool are incomplete.",
        first_query=sum_by(("job", FOLDED_WHAT), _counted(FOLDED)) + " > 0",
        look='The query above says what; `{otel_metric_overflow="true"}` finds what the SDK folded beyond us.',
        causes=(
            "Too many routes or models: ids in a route name, a model name with a date or a tenant in it.",
            "A view or another library raised the number of label sets.",
        ),
        do=("Give routes a name from a small set.", f"Find the label that became `{OTHER}` or many."),
        send="Nothing.",
    ),
    "names": Entry(
        title="Metrics under names that nobody asks for",
        means="Prometheus takes OTLP in and keeps the dots in the names, or leaves their suffixes out. Every rule and "
        "panel asks for underscores and suffixes: they find nothing, and nothing is what they say.",
        first_query=f'count by (job, __name__) ({{__name__=~"{START_TIME.name}.*"}})',
        look="prometheus.yml: `otlp: translation_strategy`.",
        causes=(
            "Another `translation_strategy` than the default in prometheus.yml.",
            "VictoriaMetrics takes OTLP in without `-opentelemetry.usePrometheusNaming`.",
        ),
        do=(
            "Set `otlp: translation_strategy: UnderscoreEscapingWithSuffixes`, which is the default.",
            "Or scrape the processes, or a Collector's `prometheus` exporter.",
        ),
        send="Nothing.",
    ),
    "objectives_differ": Entry(
        title="Process and rules judge by different objectives",
        means="A process loaded another objectives file than these rules were made from, so budgets mix two promises.",
        first_query=f"count by (job, {label_name(OBJECTIVES_HASH)}) ({INFO.prometheus})",
        look="The query above; the rules' own hash is in the alert.",
        causes=(
            "The file changed and the rules or a service were not redeployed.",
            "A service runs without `OTELSTREAM_OBJECTIVES` and judges by the bundled objectives.",
        ),
        do=("Deploy the same file to both; `otelstream slo check FILE` prints its hash.",),
        send="Nothing.",
    ),
    "silent": Entry(
        title="Telemetry went silent",
        means="A job that reported streams' telemetry no longer reports anything. No traffic looks "
        "different: then the information series is still there.",
        first_query=f"count by (job, {label_name(VERSION)}, {label_name(SDK_VERSION)}) ({INFO.prometheus})",
        look="`up` of the job, or the Collector in between.",
        causes=(
            "The job is gone on purpose: silence this until the window has passed.",
            "Scraping or the exporter broke: `up` is 0, or the Collector drops.",
            ("otelstream is off: not installed in the new image, `OTEL_SDK_DISABLED`, a configuration error at start."),
        ),
        do=("`otelstream doctor` inside the container says what is patched and where data goes.",),
        send="Nothing.",
    ),
}
