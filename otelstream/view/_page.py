# SPDX-License-Identifier: Apache-2.0
"""Timelines as one self-contained HTML page: inline SVG, no script, nothing fetched."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Final

from otelstream import _semconv as names

from ._alerts import alerts
from ._chart import DEFINITIONS, Axis, chart, compact, legend, spread, strip
from ._filter import Filter
from ._record import SpanRecord, Value, plain
from ._sentences import Headline, headline, row_sentence, seconds
from ._timeline import Timeline
from ._turns import Row

# Lanes drawn in full. The next ones are brief, folded until asked for; the rest are thin rows in the same groups.
FULL_LANES: Final = 30
BRIEF_LANES: Final = 170
_AT_LEAST: Final = 3  # in full, of each section
# What a section holds -> its grade, title, and the words of its rest.
_SECTIONS: Final = {
    "after": ("bad", "Failed after saying 200", "failed after saying 200"),
    "bad": ("bad", "Failed before any answer", "failed before any answer"),
    "stopped": ("stopped", "Stopped or dropped", "stopped or dropped"),
    "flawed": ("flawed", "Ended, with a flaw", "ended with a flaw"),
    "good": ("good", "Complete", "complete"),
    "open": ("open", "Still streaming", "still streaming"),
}
_OUTCOME_WORDS: Final = {
    "completed": "complete",
    "truncated": "cut by a limit",
    "refused": "refused",
    "failed": "failed",
    "cancelled": "stopped",
    "caller_error": "lost to an own error",
    "abandoned": "dropped",
    "open": "streaming",
}
_UNIT: Final = re.compile(r"(\d) (s|ms|min)\b")
_TAGLINE: Final = "how each stream really ended, as an exporter received it"
_FOOTER: Final = (
    "Time runs from each stream's own request. The height of a bar is chunks a second, on one logarithmic scale "
    "for all. A lane opens to everything its span carries."
)
SECURITY: Final = "default-src 'none'; style-src 'unsafe-inline'"


def page(
    rows: Sequence[Row],
    *,
    notes: Sequence[str] = (),
    grouped: bool = True,
    counted: Headline | None = None,
    outcomes: Counter[str] | None = None,
    pairs: Sequence[tuple[str, Sequence[Row]]] = (),
) -> str:
    """Draw *rows*: grouped with the bad ones first, or in the order given; below them *pairs* to be compared.

    *counted* and *outcomes* speak for a session of which *rows* are only the streams still held.
    """
    drawn = [row for row in rows if row.line]
    compared = [row for _, held in pairs for row in held if row.line]
    lines = [line for row in (*drawn, *compared) for line in row.lines]
    axis = Axis.of(drawn)
    total = counted or headline(lines)
    tally = outcomes or Counter(line.outcome for line in lines)
    shown = Filter(drawn if grouped else (), _OUTCOME_WORDS)
    body = _grouped(drawn, axis, shown) if grouped else _lanes(drawn, axis)
    left_out = total.streams - sum(line.outcome != "open" for line in lines)
    return "".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{SECURITY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(str(total))} otelstream</title>",
            f"<style>{stylesheet()}</style></head><body>",
            f'<a class="skip" href="#streams">To the streams</a>{DEFINITIONS}<header>',
            f'<p><span class="brand">otelstream</span> {_TAGLINE}</p>',
            f"<h1>{_emphasised(total)}</h1>",
            _tally(tally),
            *(f"<p>{escape(note)}</p>" for note in notes),
            f"<p>{left_out:,} earlier streams are counted but no longer held.</p>" if left_out > 0 else "",
            legend([*drawn, *compared]),
            shown.boxes(),
            '</header><main id="streams">',
            axis.header(),
            *body,
            *_pairs(pairs, Axis.of(compared)),
            f"</main><footer><p>{_FOOTER}</p></footer></body></html>\n",
        ]
    )


def write_page(path: Path, text: str) -> None:
    """Replace the page in one step, so that no reader ever sees half of it. It is for its owner alone."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def stylesheet(package: str = "otelstream.view") -> str:
    """The rules of a package's `page.css`, on one line."""
    text = resources.files(package).joinpath("page.css").read_text(encoding="utf-8")
    return "".join(line.strip() for line in text.splitlines() if not line.startswith("/*"))


def _emphasised(total: Headline) -> str:
    """The sentence, its counts set large; 200 is a status code, not a count."""
    words = escape(str(total)).split(" ")
    counts = [index for index, word in enumerate(words) if word[-1].isdigit()]
    return " ".join(f"<b>{word}</b>" if index in counts else word for index, word in enumerate(words))


def _tally(outcomes: Counter[str]) -> str:
    items = (f"<li>{outcomes[outcome]:,} {word}</li>" for outcome, word in _OUTCOME_WORDS.items() if outcomes[outcome])
    return f'<ul class="counts">{"".join(items)}</ul>'


def _grouped(rows: Sequence[Row], axis: Axis, shown: Filter) -> Iterator[str]:
    sections: dict[str, list[Row]] = {name: [] for name in _SECTIONS}
    for row in sorted(rows, key=lambda row: -_line(row).record.started):
        line = _line(row)
        sections["after" if line.grade == "bad" and line.said_200 else line.grade].append(row)
    room = FULL_LANES - sum(min(_AT_LEAST, len(held)) for held in sections.values())
    brief = BRIEF_LANES
    for name, (grade, title, words) in _SECTIONS.items():
        held = sections[name]
        if not held:
            continue
        full = min(len(held), _AT_LEAST + max(0, room))
        room -= max(0, full - _AT_LEAST)
        yield f"<h2>{title} ({len(held):,})</h2>"
        yield from _lanes(held[:full], axis, shown)
        rest = held[full:]
        if rest:
            yield _more(rest, rest[:brief], grade, words, axis, shown)
            brief -= len(rest[:brief])


def _pairs(pairs: Sequence[tuple[str, Sequence[Row]]], axis: Axis) -> Iterator[str]:
    """What is to be compared, side by side where the width allows, on one axis of their own."""
    style, ticks = axis.ticks()
    for title, rows in pairs:
        shown = [row for row in rows if row.line]
        halves = (
            f'<div><div class="half" aria-hidden="true">{ticks}</div>{lane}</div>' for lane in _lanes(shown, axis)
        )
        yield f'<h2>{escape(title)}</h2><section class="pair" style="{style}">{"".join(halves)}</section>'


def _more(rows: Sequence[Row], brief: Sequence[Row], grade: str, words: str, axis: Axis, shown: Filter) -> str:
    """The rest of a section, folded: lanes in brief, and thin rows for all that is beyond those."""
    middle = sorted(row.length for row in rows)[len(rows) // 2]
    return _lane(
        grade,
        f"<b>{len(rows):,} more</b><small>{words}</small>",
        spread(rows, axis),
        f"<span>When they ended; open for one row each.</span><small>half of them within {seconds(middle)}</small>",
        "".join(_brief(row, axis, shown) for row in brief)
        + (f'<div class="row thin"><div>{compact(thin, axis)}</div></div>' if (thin := rows[len(brief) :]) else ""),
    )


def _brief(row: Row, axis: Axis, shown: Filter) -> str:
    """One lane in as few elements as it can be; what its span carries is there as plain lines."""
    line = _line(row)
    spans = [each.record for each in row.lines] + list(row.turn.tools if row.turn is not None else ())
    return _lane(
        f"{line.grade} brief {shown.classes(row)}",
        f"<b>{_text(row.label)}</b>",
        strip(row, axis),
        f"<span>{escape(row_sentence(row))}</span>",
        f"<pre>{_text(chr(10).join(_listed(record) for record in spans), lines=True)}</pre>",
        codes(line),
    )


def _listed(record: SpanRecord) -> str:
    """A span as lines: its name, its attributes, its events."""
    lines = [f"Span {plain(record.name)}, status {record.status}"]
    lines += [f"  {plain(name)} = {_said(value)}" for name, value in sorted(record.attributes.items())]
    for event in record.events:
        more = [
            f"{plain(key)} = {_said(value)}" for key, value in sorted(event.attributes.items()) if key != names.ELAPSED
        ]
        lines.append(f"  {event.elapsed:.3f} s  {plain(event.name)}  {', '.join(more)}".rstrip())
    return "\n".join(lines)


def _lane(grade: str, name: str, drawn: str, said: str, inside: str, hover: str = "") -> str:
    title = f' title="{escape(hover)}"' if hover else ""
    return (
        f'<details class="lane {grade}"><summary class="row"><div class="name">{name}</div>{drawn}'
        f'<div class="said"{title}>{_unbroken(said)}</div></summary>{inside}</details>'
    )


def _lanes(rows: Sequence[Row], axis: Axis, shown: Filter | None = None) -> Iterator[str]:
    for row in rows:
        line = _line(row)
        yield _lane(
            f"{line.grade} {shown.classes(row)}" if shown is not None else line.grade,
            f"<b>{_text(row.label)}</b><small>{_beside(row, line)}</small>",
            chart(row, axis),
            f"<span>{escape(row_sentence(row))}</span><small>{_times(row)}</small>",
            "".join(_inside(each) for each in row.lines) + _tool_spans(row),
            codes(line),
        )


def _beside(row: Row, line: Timeline) -> str:
    if not row.http and not row.native:
        clock = time.strftime("%H:%M:%S", time.localtime(line.record.started))
        if row.turn is not None:
            clock += f" · {_count(len(row.turn.lines), 'stream')}, {_count(row.turn.asked_for, 'tool call')}"
        return f"{clock} · {_OUTCOME_WORDS.get(line.outcome, escape(line.outcome))}"
    misled = line.failed_after_200 and row.native != "ERROR"
    native = f"native span: {escape(row.native)}" if row.native != "none" else "no native span"
    return f"HTTP {escape(row.http)} · " + (f'<span class="lie">{native}</span>' if misled else native)


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _times(row: Row) -> str:
    line = _line(row)
    token, end = row.lines[0].first_token, line.length
    if row.turn is not None:
        end += row.turn.starts[row.turn.lines.index(line)]
    first = f"first token {seconds(token)}" if token is not None else "no visible token"
    return f"{first} · {_OUTCOME_WORDS.get(line.outcome, escape(line.outcome))} at {seconds(end)}"


def _unbroken(text: str) -> str:
    """Keep a number and its unit on one line."""
    return _UNIT.sub("\\1\u00a0\\2", text)


def codes(line: Timeline) -> str:
    """The closed-set values behind the sentence, as span attributes have them."""
    parts = [f"outcome {line.outcome}", f"phase {line.phase or '-'}", f"fault {line.fault}"]
    if line.error_type:
        parts.append(f"error.type {line.error_type}")
    if line.finish_reason:
        parts.append(f"finish reason {line.finish_reason}")
    if line.trigger:
        parts.append(f"trigger {line.trigger}")
    if line.propagation:
        parts.append(f"propagation {line.propagation}")
    return " · ".join(parts)


def _tool_spans(row: Row) -> str:
    tools = row.turn.tools if row.turn is not None else ()
    return "".join(f'<div class="inside">{_span(tool)}</div>' for tool in tools)


def _inside(line: Timeline) -> str:
    caught = alerts(line)
    woken = (
        "Alerts that enough streams like this one would set off: "
        + ", ".join(f"<code>{escape(name)}</code>" for name in caught)
        if caught
        else "No alert counts this stream."
    )
    return f'<div class="inside"><p>{woken}</p>{_span(line.record)}</div>'


def _span(record: SpanRecord) -> str:
    attributes = "".join(
        f"<tr><th scope=row>{_code(name)}<td>{_value(value)}" for name, value in sorted(record.attributes.items())
    )
    events = "".join(
        f"<tr><th scope=row>{event.elapsed:.3f} s<td>{_code(event.name)}"
        + "".join(
            f"<br>{_code(key)} {_value(value)}"
            for key, value in sorted(event.attributes.items())
            if key != names.ELAPSED
        )
        for event in record.events
    )
    title = f"Span {_text(record.name)} ({_text(record.scope)}), status {record.status}"
    return f"<table><caption>{title}</caption>{attributes}</table><table><caption>Events</caption>{events}</table>"


def _code(name: str) -> str:
    """A dotted name that may break at its dots."""
    return f"<code>{escape(plain(name)).replace('.', '.<wbr>')}</code>"


def _value(value: Value) -> str:
    return _text(_said(value))


def _said(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple):
        return ", ".join(_said(item) for item in value)
    return plain(str(value))


def _text(value: str, *, lines: bool = False) -> str:
    """Other people's text, which acts on nothing around it; with *lines* it was made plain line by line."""
    said = escape(value if lines else plain(value))
    return said if said.isascii() else f"<bdi>{said}</bdi>"


def _line(row: Row) -> Timeline:
    assert row.line is not None
    return row.line
