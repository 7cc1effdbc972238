# SPDX-License-Identifier: Apache-2.0
"""Timelines as rows of characters on one shared linear axis."""

from __future__ import annotations

import math
import os
import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Final, TextIO

from ._geometry import ENDS, Lane, axis_limit, call_lane, lane, lanes, ledger, tick_step, ticks
from ._sentences import row_sentence, seconds, sentence
from ._style import ASCII, UNICODE, Style, fit, painted, style_is_unicode, style_of, to_ascii
from ._timeline import Timeline
from ._turns import Call, Row, Stop, Turn

__all__ = [
    "ASCII",
    "UNICODE",
    "LiveTable",
    "Row",
    "Style",
    "access_line",
    "axis_limit",
    "draw",
    "legend",
    "pair",
    "style_of",
    "table",
    "tick_step",
]

_LABEL: Final = 18
_HTTP: Final = 8
_NATIVE: Final = 6
_SENTENCE: Final = 66
_WIDE: Final = 132
_GUTTER: Final = 3  # between two panels side by side
_ANSI: Final = re.compile(r"\x1b\[[0-9;]*m")
_MOST_CALLS: Final = 8


def table(rows: Sequence[Row], style: Style, *, sentences: bool = True, limit: float | None = None) -> list[str]:
    """Draw all rows: one line each where the width allows, else the sentence below; tool calls on lines of their own.

    The axis ends with the longest row, or at *limit* seconds.
    """
    measured = any(row.http or row.native for row in rows)
    left = _LABEL + 1 + (_HTTP + _NATIVE + 1 if measured else 0)
    wide = sentences and style.width >= _WIDE
    columns = style.width - left - (_SENTENCE + 1 if wide else 0)
    limit = axis_limit(rows) if limit is None else limit
    output = [_header(style, left, columns, limit, measured, wide)]
    for row in rows:
        grade = row.line.grade if row.line else "open"
        said = row_sentence(row) if sentences else ""
        if not style_is_unicode(style):
            said = to_ascii(said)
        found = _lanes(row, limit, columns, style)
        starts = [_start(row, style, measured)]
        starts += [style.paint(fit(label, left, style), "dim") for label, _ in found[1:]]
        drawn = [start + cells for start, (_, cells) in zip(starts, found, strict=True)]
        words = textwrap.wrap(said, _SENTENCE if wide else style.width - 2)
        if wide:
            blank = " " * (left + columns)
            for first, part in zip_longest(drawn, words, fillvalue=""):
                output.append(((first or blank) + " " + style.paint(part, grade)).rstrip())
        else:
            output += (line.rstrip() for line in drawn)
            output += ["  " + style.paint(part, grade) for part in words]
        if row.turn is not None and row.turn.stop is not None and sentences:
            output += _ledger(row.turn.stop, left if wide else 2, style)
    return output


def pair(rows: Sequence[Row], style: Style, limit: float) -> list[str]:
    """Draw rows that are to be compared: side by side where the width allows, all on the same axis."""
    width = (style.width - _GUTTER * (len(rows) - 1)) // len(rows)
    if style.width < _WIDE or len(rows) < 2:
        return table(rows, replace(style, width=min(style.width, _WIDE - 1)), limit=limit)
    panels = [table([row], replace(style, width=width), limit=limit) for row in rows]
    lines = []
    for parts in zip_longest(*panels, fillvalue=""):
        padded = [part + " " * (width - len(_ANSI.sub("", part))) for part in parts]
        lines.append((" " * _GUTTER).join(padded).rstrip())
    return lines


def legend(style: Style, *, lanes: bool = False) -> list[str]:
    """Say what the marks mean; with *lanes* those of tool calls too."""
    marks = style.glyphs
    items = [
        f"{marks.wait} waiting",
        f"{marks.thinking} thinking",
        f"{marks.density[0]}{marks.density[3]}{marks.density[-1]} chunks a second",
        "(blank) silence",
        f"{marks.first_token} first token",
        f"{marks.tool} tool input whole",
        f"{marks.loop} loop found",
        f"{marks.retry} retried",
        f"{marks.stop} asked to stop",
        *(f"{marks.ends[outcome]} {words}" for outcome, words in ENDS.items()),
    ]
    if lanes:
        items += [f"{marks.withdrawn} withdrawn", f"{marks.runs} tool runs"]
    lines = [""]
    for item in items:
        if lines[-1] and len(lines[-1]) + 2 + len(item) > style.width:
            lines.append("")
        lines[-1] += ("  " if lines[-1] else "") + item
    return [style.paint(line, "dim") for line in lines]


def access_line(line: Timeline, style: Style, clock: str) -> str:
    """One finished stream as a line of a log: when, how it ended, how long, and the sentence."""
    mark = style.glyphs.ends.get(line.outcome, "?")
    said = sentence(line)
    if not style_is_unicode(style):
        said = to_ascii(said)
    first = f"first {seconds(line.first_token)}" if line.first_token is not None else "first -"
    outcome = style.paint(f"{mark} {line.outcome:<12}", line.grade)
    model = style.paint(fit(line.model, 26, style), "dim")
    return f"{clock}  {outcome} {seconds(line.length):>7}  {first:<13} {model} {said}".rstrip()


def draw(line: Timeline | Lane, limit: float, columns: int, style: Style) -> str:
    """Draw one stream into exactly *columns* cells that stand for 0 to *limit* seconds."""
    drawn = line if isinstance(line, Lane) else lane(line)
    line = drawn.line
    row = _Cells(limit, columns)
    glyphs = style.glyphs
    kinds = {
        "tool": glyphs.tool,
        "retry": glyphs.retry,
        "first": glyphs.first_token,
        "withdrawn": glyphs.withdrawn,
        "ask": glyphs.stop,
    }
    end = row.column(drawn.end)
    # Of a stream that runs nothing is known before its span ends, not even that it waits.
    waits = glyphs.running if line.outcome == "open" else glyphs.wait
    row.fill(row.column(drawn.start), row.column(drawn.waits_until), waits, "dim")
    for index, rate, thinking in _rates(drawn, row.step, columns):
        mark = glyphs.thinking if thinking else glyphs.density[_level(rate, len(glyphs.density))]
        row.put(index, mark, "dim" if thinking else "open")
    for hole in drawn.holes:
        _label_hole(row, row.column(hole.start) + 1, row.column(hole.end), seconds(hole.length))
    for loop in drawn.loops:
        row.put(row.column(loop.found), glyphs.loop, "flawed")
    for each in drawn.marks:
        at = row.column(each.at)
        if at >= end and each.kind in _BEFORE_END:
            # It shares the last column with the end: keep both marks.
            at = row.column(each.at - row.step)
        row.put(at, kinds[each.kind], "bold" if each.kind == "first" else each.grade)
    if line.outcome != "open":
        row.put(end, glyphs.ends.get(line.outcome, "?"), line.grade)
    return row.painted(style)


_BEFORE_END: Final = frozenset({"tool", "withdrawn", "ask"})


class _Cells:
    """A row of cells on the axis, each with its colour."""

    def __init__(self, limit: float, columns: int) -> None:
        self.cells = [" "] * columns
        self.paints = ["open"] * columns
        self.step = limit / max(1, columns - 1)

    def column(self, at: float) -> int:
        return min(len(self.cells) - 1, max(0, int(at / self.step)))

    def put(self, index: int, words: str, paint: str) -> None:
        """Write *words* from a cell on."""
        for offset, char in enumerate(words):
            self.cells[index + offset], self.paints[index + offset] = char, paint

    def fill(self, begin: int, end: int, mark: str, paint: str) -> None:
        self.put(begin, mark * (end - begin), paint)

    def painted(self, style: Style) -> str:
        return painted(self.cells, self.paints, style)


def _start(row: Row, style: Style, measured: bool) -> str:
    """What stands before the first lane of a row."""
    start = style.paint(fit(row.label, _LABEL, style), "bold") + " "
    if measured:
        misled = row.line is not None and row.line.failed_after_200 and row.native != "ERROR"
        native = style.paint(fit(row.native, _NATIVE, style), "bad" if misled else "dim")
        start += fit(row.http, _HTTP, style) + native + " "
    return start


def _lanes(row: Row, limit: float, columns: int, style: Style) -> list[tuple[str, str]]:
    """The lanes of a row with their labels: its streams, then their tool calls, and a Stop through all of them."""
    if row.turn is None:
        return [("", draw(row.line, limit, columns, style) if row.line else " " * columns)]
    drawn = [
        ("" if not index else f"  stream {index + 1}", draw(each, limit, columns, style))
        for index, each in enumerate(lanes(row))
    ]
    calls = row.turn.calls
    drawn += [(f"  {call.name}", _draw_call(call, row.turn, limit, columns, style)) for call in calls[:_MOST_CALLS]]
    if len(calls) > _MOST_CALLS:
        drawn.append((f"  {len(calls) - _MOST_CALLS} more tool calls", " " * columns))
    return drawn


def _draw_call(call: Call, turn: Turn, limit: float, columns: int, style: Style) -> str:
    """Draw one tool call: when it was ready, from when to when it ran, what became of it, in a word as well."""
    drawn = call_lane(call, turn)
    row = _Cells(limit, columns)
    glyphs = style.glyphs
    begin, runs, end = row.column(drawn.begin), row.column(drawn.runs), row.column(drawn.end)
    row.fill(begin, runs, glyphs.wait, "dim")
    row.fill(runs, end, glyphs.runs, drawn.grade)
    if drawn.ready is not None:
        row.put(begin, glyphs.tool, drawn.ready.grade)
    if turn.stop is not None:
        stop = row.column(turn.stop.at)
        row.put(stop, glyphs.stop, "stopped")
        if end == stop:
            end = max(begin, end - 1) if drawn.ran else min(columns - 1, end + 1)
    row.put(end, glyphs.states.get(drawn.state, glyphs.wait), drawn.grade)
    _beside(row, drawn.state, begin, drawn.grade)
    return row.painted(style)


def _beside(row: _Cells, word: str, begin: int, paint: str) -> None:
    """Write a word right of what is drawn, or left of it where the right has no room."""
    last = max(index for index, cell in enumerate(row.cells) if cell != " ")
    at = last + 2 if last + 2 + len(word) <= len(row.cells) else begin - 1 - len(word)
    if at >= 0:
        row.put(at, word, paint)


def _ledger(stop: Stop, indent: int, style: Style) -> list[str]:
    """What a Stop found, one line for each word that holds anything."""
    lines = []
    for word, read, calls in ledger(stop):
        said = "  ".join(calls)
        head = f"{style.glyphs.states[word]} {read}"
        if not style_is_unicode(style):
            said = to_ascii(said)
        lines.append(" " * indent + style.paint(fit(f"{head:<23} {said}", style.width - indent, style).rstrip(), "dim"))
    return lines


def _header(style: Style, left: int, columns: int, limit: float, measured: bool, wide: bool) -> str:
    head = fit("", _LABEL, style) + " "
    if measured:
        head += fit("HTTP", _HTTP, style) + fit("native", _NATIVE, style) + " "
    head = fit(head, left, style)
    row = _Cells(limit, columns)
    for at, label in ticks(limit, tick_step(limit, max(1, columns // 9))):
        if int(at / row.step) + len(label) <= columns:
            row.put(int(at / row.step), label, "open")
    text = head + "".join(row.cells) + (" what became of it" if wide else "")
    return style.paint(text.rstrip(), "dim")


def _rates(drawn: Lane, step: float, columns: int) -> Iterator[tuple[int, float, bool]]:
    """Give the chunks a second of every column that saw any."""
    chunks = [0.0] * columns
    covered = [0.0] * columns
    thinking = [0.0] * columns
    for flow in drawn.flows:
        begin, end = flow.start, flow.end
        for index in range(max(0, int(begin / step)), min(columns - 1, int(end / step)) + 1):
            inside = min(end, (index + 1) * step) - max(begin, index * step)
            # A window of one instant still has its chunks.
            share = 1.0 if flow.end <= flow.start else max(0.0, inside) / (flow.end - flow.start)
            chunks[index] += flow.chunks * share
            covered[index] += max(inside, step / 8)
            thinking[index] += flow.chunks * share if flow.thinking else 0.0
    for index in range(columns):
        if chunks[index] > 0 and covered[index] >= step / 8:
            yield index, chunks[index] / covered[index], thinking[index] * 2 > chunks[index]


def _level(rate: float, levels: int) -> int:
    """Chunks a second on a logarithmic scale that is the same for every stream: 1 … 128 and more."""
    return min(levels - 1, max(0, round(math.log2(max(rate, 1.0)))))


def _label_hole(row: _Cells, start: int, end: int, label: str) -> None:
    row.fill(start, end, " ", "open")
    if end - start >= len(label) + 2:
        row.put(start + (end - start - len(label)) // 2, label, "flawed")


class LiveTable:
    """A table redrawn in place on a terminal; on anything else only its final form is written."""

    def __init__(self, stream: TextIO, style: Style) -> None:
        self._stream = stream
        self._style = style
        self._drawn = 0
        self.live = stream.isatty() and os.environ.get("TERM") != "dumb"

    def update(self, rows: Sequence[Row]) -> None:
        """Redraw; without a terminal do nothing."""
        if self.live:
            height = shutil.get_terminal_size((80, 24)).lines
            lines = table(rows, self._style)
            if len(lines) >= height:
                lines = table(rows, self._style, sentences=False)
            if len(lines) >= height:
                ended = sum(1 for row in rows if row.line and row.line.outcome != "open")
                lines = [f"{ended} of {len(rows)} streams ended"]
            self._replace(lines)

    def finish(self, rows: Sequence[Row]) -> None:
        """Write the final table."""
        self._replace(table(rows, self._style))
        self._drawn = 0

    def _replace(self, lines: list[str]) -> None:
        erase = f"\x1b[{self._drawn}F\x1b[J" if self._drawn else ""
        self._stream.write(erase + "".join(line + "\n" for line in lines))
        self._stream.flush()
        self._drawn = len(lines)
