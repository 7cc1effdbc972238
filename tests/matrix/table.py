# SPDX-License-Identifier: Apache-2.0
"""The matrix as people read it: the page of endings, the short table, what was run and what cannot be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from otelstream import _semconv as s

from .apis import APIS
from .cells import ENDINGS, expected
from .columns import Shape
from .harness import Bench, cells, unable, version

# What a row shows is what came out of the first of these shapes that can express it.
REFERENCE = [
    Shape(asynchronous, api, reading, False, version(APIS[api].package))
    for api, reading in (
        ("messages", "create(stream=True)"),
        ("messages", "stream() by events"),
        ("messages", "with_streaming_response, iter_lines()"),
        ("chat.completions", "create(stream=True)"),
    )
    for asynchronous in (False, True)
]
SHORT = {
    "end_turn": "the model is done",
    "max_tokens": "the token limit was met",
    "refusal after text": "the provider declines after it showed text",
    "error event after the first token": "an `error` event after 200",
    "reset after the first token": "the connection breaks",
    "body ends after the first token": "the body just ends: nothing raises",
    "read time-out after the first token": "the SDK's time-out",
    "undecodable frame": "an event that is no JSON",
    "malformed tool input": "a tool input that is no JSON",
    "tool input cut by max_tokens": "a tool input cut off by the limit",
    "HTTP 400": "HTTP 400",
    "HTTP 529": "HTTP 529",
    "break inside `with`": "`break`, `close()`",
    "task.cancel()": "`task.cancel()`",
    "generator closed": "a generator that holds the stream is closed",
    "Ctrl-C": "Ctrl-C",
    "exception in the loop, with `with`": "the application's own exception",
    "dropped": "dropped without a close",
}

GENERATORS = """\
## Streams that are generators

The streams of `google-genai` are plain generators, several around one another, and nothing closes them but leaving
them. What differs, and what cannot be known:

- There is no terminal event: an answer is whole once each candidate has its finish reason and the body then ended
  properly. A body that ends without one is `cut_short`.
- A `break`, a `close()` and a drop are the same to a generator: `cancelled`, trigger `generator_close`; taken by the
  cyclic collector it is `abandoned`, `gc`. So is the application's own exception in a bare loop, which lets go of the
  generator while that is on its way. Inside `contextlib.closing()` it is `caller_error`.
- An async one that is left early is held by a cycle of the SDK's own, `aclose()` or not: its connection stays open till
  the collector takes it (`abandoned`, `gc`) or the event loop ends. With and without us.
- Safety, recitation, blocked prompts and the like are `refused`. A finish reason that says that the model wrote no
  sense (`MALFORMED_FUNCTION_CALL`) is `failed`, `provider_error`.
- The SDK takes comments in the stream for data and raises: there are no pings.
- An exception that the SDK raises above the body (an answer that its types refuse) looks like a close.

## Streams of a router

A call of `litellm` is one record, whatever SDK or HTTP client it goes through. `tests/router` runs its endings, through
the OpenAI SDK and through a client of its own; what differs, and what cannot be known:

- Chunks are the router's, made of the provider's: cadence and first token are as the application saw them
  (`otelstream.stream.rechunked`).
- 1.90.0 and 1.110.2 were run. In the older one an async stream that is cut ends as whole, with a finish reason that the
  router makes up: here it is `cut_short`. It has no `close()`, and what it reads by itself nobody can close.
- What an HTTP client of the router's own was told late is known by its status alone (`500` for an `overloaded_error`),
  and its retries below one call are not seen. The OpenAI SDK says both.
- An answer that the application leaves without `close()` is open until the collector takes it: `abandoned`, `gc`.
- A name that was bound before `instrument()` (`from litellm import completion`) is called past us.

## Managed agent sessions

`client.beta.sessions.events.stream()` of `anthropic`, and the stream of a session's thread, is one connection that
stays open: each request to a model on it is a record, from `span.model_request_start` to `span.model_request_end`, and
the connection itself is none. `tests/sessions` runs it; what differs, and what the wire cannot tell:

- First token and cadence are those of the previews. They are asked for by `event_deltas=["agent.message"]`. Without
  them a message arrives whole: no first token is claimed, none is missed, and objectives for it judge nothing.
  Previews are best effort: what the provider leaves out of them is neither a chunk nor a character.
- What a preview has shown and no message concludes is withdrawn with the end of the request: `cancelled`, trigger
  `user_stop` where a `user.interrupt` came before, `failed`, `provider_error` where the request says that it failed,
  else `failed`, `cut_short`; and `otelstream.retraction`, reason `other`, says how much it was and for how long. A Stop
  counts from where this process sends the interrupt, else from where the session shows it. One that comes between two
  requests stops none, and is not counted.
- A connection that is lost, left or closed between two requests fails nothing; in one it ends that as any stream. The
  SDK opens another without a word of the first: there is no count of that, and what is left of the request that
  the first was lost in has no record.
- A record begins as its first event arrives: what the request took to come to that is not in it. Its model is that of
  the session or thread, where this process was told it (`sessions.create()`, `retrieve()`, `list()`, and those of
  threads), else `unknown`: no event says it. It has no finish reason (a message that was cut by its limit, or refused,
  is `completed`), and no output rate.
- The provider runs its own tools and an MCP server's: from when it says so, or the user allows it, to their result;
  evidence `tool_result`, unless a run is seen here (a self-hosted environment). What is refused is `withheld`. Custom
  tools are the application's. Their input arrives whole. What another thread of the session asks for, which is shown
  on the session's stream too, is in the record of that thread's own stream, if that is read.
- `on_repetition` and judges are told as of any stream, but what they ask for closes nothing: the connection carries
  more than that answer, and what stops that is `user.interrupt`. What no preview shows is read by no judge.
- `get_stream(stream)` is of the newest request. Two connections to one session are two records of each. What is read
  as lines or bytes has none.
"""


@dataclass(frozen=True)
class Row:
    """One ending as it was measured."""

    name: str
    says: str
    outcome: str
    phase: str
    fault: str
    error: str
    trigger: str
    broken: bool
    notes: tuple[str, ...]


def rows(bench: Bench) -> list[Row]:
    """Run each ending once and keep what its span said."""
    found = []
    for name, ending in ENDINGS.items():
        shape = next(each for each in REFERENCE if expected(name, each)[0].by != "skip" and not unable(each, ending))
        wrong = bench.check(shape, name)
        assert not wrong, (name, wrong)
        span = min(bench.telemetry.spans(), key=lambda span: span.start_time or 0)
        has = dict(span.attributes or {})
        found.append(
            Row(
                name,
                ending.says,
                str(has[s.OUTCOME]),
                str(has[s.PHASE]),
                str(has[s.FAULT]),
                str(has.get(s.ERROR_TYPE, "")),
                str(has.get(s.CANCEL_TRIGGER, "")),
                bool(has[s.SUCCEEDED_THEN_FAILED]),
                tuple(_notes(name)),
            )
        )
    return found


def _notes(name: str) -> Iterable[str]:
    for unlike in ENDINGS[name].unlike:
        told = {"outcome": "", "fault": "fault ", "trigger": "trigger "}
        said = [f"{word}`{unlike.changes[key]}`" for key, word in told.items() if unlike.changes.get(key)]
        if said:
            yield f"{', '.join(said)} where {unlike.why}"


def page(found: list[Row]) -> str:
    """The page of the docs."""
    notes: list[str] = []
    lines = [
        "<!-- Generated by the matrix test (make table); do not edit. -->",
        "# How streams end",
        "",
        "Each row was run: sync and async, in every way the SDK can read a stream, against a provider on a real socket",
        "whose log says what was really written and who closed. A footnote tells where some way of reading sees",
        "something else. `completed`, `truncated` and `refused` are the protocol's word, `failed` is the provider's,",
        "the network's or the parser's doing, the rest is the application's.",
        "",
        "| How it ends | | Outcome | Phase | Fault | `error.type` | Trigger | Succeeded, then failed |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in found:
        marks = ""
        for note in row.notes:
            if note not in notes:
                notes.append(note)
            marks += f" [{notes.index(note) + 1}]"
        fault = f"`{row.fault}`" if row.fault != "none" else ""
        error = f"`{row.error}`" if row.error else ""
        trigger = f"`{row.trigger}`" if row.trigger else ""
        lines.append(
            f"| {row.name}{marks} | {row.says} | `{row.outcome}` | `{row.phase}` | {fault} | {error} | {trigger} | "
            f"{'yes' if row.broken else ''} |"
        )
    lines += ["", *(f"[{number}] {note}.\n" for number, note in enumerate(notes, 1))]
    lines += [
        "A stream that is open when the interpreter exits is `abandoned`, trigger `shutdown`, and is exported, by a",
        "batch processor too. A span of ours is `ERROR` where the outcome is `failed` and unset otherwise; the SDK's",
        "own span says `OK` where ours is unset. On a span that is not ours we only add: what its owner has set stays.",
        "If the wire breaks after the terminal event, the outcome and the SDK's status stand, and",
        "`otelstream.stream.broken_after_end` is set on its span.",
        "",
        "Some of it is otherwise, or cannot be known, in some APIs alone:",
        "",
        "| API | how it ends | |",
        "| --- | --- | --- |",
        *_apart(),
        "",
    ]
    lines += [GENERATORS]
    return "\n".join(lines)


def _apart() -> Iterable[str]:
    """What some APIs have another way than the others, by reason."""
    where: dict[tuple[str, str], list[str]] = {}
    for api in APIS.values():
        whys: dict[str, list[str]] = {}
        for name in api.unlike:
            for unlike in api.unlikes(name):
                whys.setdefault(unlike.why, []).append(name)
        for why, names in whys.items():
            where.setdefault((", ".join(names), why), []).append(f"`{api.name}`")
    for (endings, why), apis in where.items():
        yield f"| {', '.join(apis)} | {endings} | {why} |"


def short(found: list[Row]) -> str:
    """The README's table."""
    lines = ["| What happens | Outcome | Fault | Succeeded, then failed |", "| --- | --- | --- | --- |"]
    for row in found:
        if row.name in SHORT:
            fault = f"`{row.fault}`" if row.fault != "none" else ""
            lines.append(f"| {SHORT[row.name]} | `{row.outcome}` | {fault} | {'yes' if row.broken else ''} |")
    return "\n".join(lines)


def skipped(package: str) -> list[str]:
    """Every cell that this SDK has not, by reason."""
    where: dict[str, dict[str, set[str]]] = {}
    counts = Counter(why for _, _, why in cells(package) if why)
    for shape, name, why in cells(package):
        if why:
            where.setdefault(why, {}).setdefault(name, set()).add(shape.reading)
    lines = []
    if package == "anthropic":
        lines.append(
            "beta.messages is crossed where its classes are its own; what it shares with messages is run there."
        )
    for why, count in counts.most_common():
        lines.append(f"{count:4} cells: {why}")
        lines += [f"        {name}: {', '.join(sorted(readings))}" for name, readings in where[why].items()]
    return lines
