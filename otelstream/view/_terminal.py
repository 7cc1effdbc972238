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

from ._sentences import others, relative, row_sentence, seconds, sentence
from ._style import ASCII, UNICODE, Style, fit, painted, style_is_unicode, style_of, to_ascii
from ._timeline import Grade, Timeline
from ._turns import LEDGER, Call, Row, Stop, Turn

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
_STEPS: Final = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)


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
        grade: Grade = row.line.grade if row.line else "open"
        said = row_sentence(row) if sentences else ""
        if not style_is_unicode(style):
            said = to_ascii(said)
        lanes = _lanes(row, limit, columns, style)
        starts = [_start(row, style, measured)]
        starts += [style.paint(fit(label, left, style), "dim") for label, _ in lanes[1:]]
        drawn = [start + lane for start, (_, lane) in zip(starts, lanes, strict=True)]
        words = textwrap.wrap(said, _SENTENCE if wide else style.width - 2)
        if wide:
            blank = " " * (left + columns)
            for lane, part in zip_longest(drawn, words, fillvalue=""):
                output.append(((lane or blank) + " " + style.paint(part, grade)).rstrip())
        else:
            output += (lane.rstrip() for lane in drawn)
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
    ends = marks.ends
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
        f"{ends['completed']} complete",
        f"{ends['truncated']} cut by a limit",
        f"{ends['refused']} refused",
        f"{ends['failed']} failed",
        f"{ends['cancelled']} stopped",
        f"{ends['caller_error']} own error",
        f"{ends['abandoned']} dropped",
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


def draw(line: Timeline, limit: float, columns: int, style: Style, *, start: float = 0.0) -> str:
    """Draw one timeline into exactly *columns* cells that stand for 0 to *limit* seconds; it begins at *start*."""
    cells = [" "] * columns
    paints: list[str] = ["open"] * columns
    marks = style.glyphs
    step = limit / max(1, columns - 1)

    def column(at: float) -> int:
        return min(columns - 1, max(0, int((start + at) / step)))

    def put(at: float, mark: str, paint: str) -> None:
        index = column(at)
        cells[index], paints[index] = mark, paint

    end = column(line.length)
    waiting = end if line.first_chunk is None else column(line.first_chunk)
    for index in range(column(0.0), waiting):
        # Of a stream that runs nothing is known before its span ends, not even that it waits.
        cells[index], paints[index] = marks.running if line.outcome == "open" else marks.wait, "dim"
    for index, rate, thinking in _rates(line, start, step, columns):
        cells[index] = marks.thinking if thinking else marks.density[_level(rate, len(marks.density))]
        paints[index] = "dim" if thinking else "open"
    for hole in line.holes:
        _label_hole(cells, paints, column(hole.start) + 1, column(hole.end), seconds(hole.length))
    for loop in line.loops:
        put(loop.found, marks.loop, "flawed")
    for tool in line.tools:
        # A tool call that ends its stream shares the last column: keep both marks.
        at = tool.at if column(tool.at) < end else tool.at - step
        put(at, marks.tool, "good" if tool.input == "valid" else "bad")
    if line.attempts > 1:
        put(line.last_attempt, marks.retry, "flawed")
    if line.first_token is not None:
        put(line.first_token, marks.first_token, "bold")
    later: tuple[tuple[float | None, str, str], ...] = (
        (line.retraction.at if line.retraction else None, marks.withdrawn, "flawed"),
        (line.stop_asked, marks.stop, "stopped"),
    )
    for when, mark, paint in later:
        if when is not None:
            put(when if column(when) < end else when - step, mark, paint)
    if line.outcome != "open":
        put(line.length, marks.ends.get(line.outcome, "?"), line.grade)
    return painted(cells, paints, style)


def axis_limit(rows: Sequence[Row | Timeline]) -> float:
    """The right edge of the shared axis: the longest stream, or turn."""
    return max([row.length for row in rows] + [0.5]) * 1.001


def tick_step(limit: float, most: int) -> float:
    """The finest readable step that gives at most *most* ticks."""
    for step in _STEPS:
        if limit / step <= most:
            return step
    return float(3600 * math.ceil(limit / 3600 / max(1, most)))


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
    turn = row.turn
    lanes = [
        ("" if not index else f"  stream {index + 1}", draw(line, limit, columns, style, start=start))
        for index, (line, start) in enumerate(zip(turn.lines, turn.starts, strict=True))
    ]
    lanes += [(f"  {call.name}", _draw_call(call, turn, limit, columns, style)) for call in turn.calls[:_MOST_CALLS]]
    if len(turn.calls) > _MOST_CALLS:
        lanes.append((f"  {len(turn.calls) - _MOST_CALLS} more tool calls", " " * columns))
    return lanes


def _draw_call(call: Call, turn: Turn, limit: float, columns: int, style: Style) -> str:
    """Draw one tool call: when it was ready, from when to when it ran, what became of it, in a word as well."""
    cells = [" "] * columns
    paints: list[str] = ["open"] * columns
    marks = style.glyphs
    step = limit / max(1, columns - 1)

    def column(at: float) -> int:
        return min(columns - 1, max(0, int(at / step)))

    stop = None if turn.stop is None else turn.stop.at
    state = turn.state(call)
    paint = _STATE_PAINTS.get(state, "open")
    end = column(call.ended if call.ended is not None else turn.length)
    if call.started is None and call.ended is None and stop is not None:
        end = column(stop)
    begin = column(call.ready if call.ready is not None else call.started or 0.0)
    runs = end if call.started is None else column(call.started)
    for index in range(begin, runs):
        cells[index], paints[index] = marks.wait, "dim"
    for index in range(runs, end):
        cells[index], paints[index] = marks.runs, paint
    if call.ready is not None:
        cells[begin], paints[begin] = marks.tool, "good" if call.input != "invalid" else "bad"
    if stop is not None:
        cells[column(stop)], paints[column(stop)] = marks.stop, "stopped"
        if end == column(stop):
            end = min(columns - 1, end + 1) if call.started is None else max(begin, end - 1)
    cells[end], paints[end] = marks.states.get(state, marks.wait), paint
    _beside(cells, paints, state, begin, end, paint)
    return painted(cells, paints, style)


_MOST_CALLS: Final = 8
_STATE_PAINTS: Final = {
    "committed": "good",
    "running": "stopped",
    "failed": "bad",
    "discarded": "stopped",
    "withheld": "flawed",
    "compensated": "flawed",
}


def _beside(cells: list[str], paints: list[str], word: str, begin: int, end: int, paint: str) -> None:
    """Write a word right of what is drawn, or left of it where the right has no room."""
    last = max(index for index, cell in enumerate(cells) if cell != " ")
    at = last + 2 if last + 2 + len(word) <= len(cells) else begin - 1 - len(word)
    if at >= 0:
        for offset, char in enumerate(word):
            cells[at + offset], paints[at + offset] = char, paint


def _ledger(stop: Stop, indent: int, style: Style) -> list[str]:
    """What a Stop found, one line for each word that holds anything."""
    lines = []
    for word, calls, more in stop:
        said = "  ".join([*(_entry(call, word, stop) for call in calls), *([others(more)] if more else [])])
        head = f"{style.glyphs.states[word]} {LEDGER[word]}"
        if not style_is_unicode(style):
            said = to_ascii(said)
        lines.append(" " * indent + style.paint(fit(f"{head:<23} {said}", style.width - indent, style).rstrip(), "dim"))
    return lines


def _entry(call: Call, word: str, stop: Stop) -> str:
    at = call.started if word == "running" else call.ended
    return call.name if at is None or word == "withheld" else f"{call.name} ({relative(at - stop.at)})"


def _header(style: Style, left: int, columns: int, limit: float, measured: bool, wide: bool) -> str:
    head = fit("", _LABEL, style) + " "
    if measured:
        head += fit("HTTP", _HTTP, style) + fit("native", _NATIVE, style) + " "
    head = fit(head, left, style)
    cells = [" "] * columns
    step = tick_step(limit, max(1, columns // 9))
    scale = limit / max(1, columns - 1)
    count = 0
    while count * step <= limit:
        label = f"{count * step:g} s"
        at = int(count * step / scale)
        if at + len(label) <= columns:
            cells[at : at + len(label)] = label
        count += 1
    text = head + "".join(cells) + (" what became of it" if wide else "")
    return style.paint(text.rstrip(), "dim")


def _rates(line: Timeline, start: float, step: float, columns: int) -> Iterator[tuple[int, float, bool]]:
    """Give the chunks a second of every column that saw any."""
    chunks = [0.0] * columns
    covered = [0.0] * columns
    thinking = [0.0] * columns
    for flow in line.flows:
        begin, end = start + flow.start, start + flow.end
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


def _label_hole(cells: list[str], paints: list[str], start: int, end: int, label: str) -> None:
    for index in range(start, min(end, len(cells))):
        cells[index] = " "
    room = end - start
    if room >= len(label) + 2:
        at = start + (room - len(label)) // 2
        for offset, char in enumerate(label):
            cells[at + offset], paints[at + offset] = char, "flawed"


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
