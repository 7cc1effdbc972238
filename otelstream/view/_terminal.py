# SPDX-License-Identifier: Apache-2.0
"""Timelines as rows of characters on one shared linear axis."""

from __future__ import annotations

import math
import os
import shutil
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TextIO

from ._sentences import seconds, sentence
from ._timeline import Grade, Row, Timeline

_LABEL: Final = 18
_HTTP: Final = 8
_NATIVE: Final = 6
_SENTENCE: Final = 66
_WIDE: Final = 132
_STEPS: Final = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)

_COLOURS: Final[dict[str, str]] = {
    "bad": "31",
    "stopped": "33",
    "flawed": "35",
    "good": "32",
    "open": "0",
    "dim": "2",
    "bold": "1",
}


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The marks of a timeline; `ends` by outcome, so that colour is never the only carrier."""

    density: str
    wait: str
    running: str
    thinking: str
    first_token: str
    tool: str
    loop: str
    retry: str
    stop: str
    ends: dict[str, str]
    arrow: str
    ellipsis: str


UNICODE: Final = Glyphs(
    density="▁▂▃▄▅▆▇█",
    wait="·",
    running="╌",
    thinking="░",
    first_token="◆",
    tool="▼",
    loop="↻",
    retry="↷",
    stop="!",
    ends={
        "completed": "┃",
        "truncated": "┨",
        "refused": "⊘",
        "failed": "✗",
        "cancelled": "■",
        "caller_error": "‼",
        "abandoned": "○",
    },
    arrow="→",
    ellipsis="…",
)
ASCII: Final = Glyphs(
    density="-==++##M",
    wait=".",
    running=":",
    thinking="~",
    first_token="*",
    tool="v",
    loop="@",
    retry="r",
    stop="!",
    ends={
        "completed": "|",
        "truncated": ">",
        "refused": "%",
        "failed": "X",
        "cancelled": "]",
        "caller_error": "E",
        "abandoned": "o",
    },
    arrow=">",
    ellipsis="~",
)


@dataclass(frozen=True, slots=True)
class Style:
    """What the place written to can show."""

    width: int = 80
    colour: bool = False
    glyphs: Glyphs = UNICODE

    def paint(self, text: str, name: str) -> str:
        code = _COLOURS[name]
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and code != "0" and text.strip() else text


def style_of(stream: TextIO, width: int | None = None) -> Style:
    """Find out what *stream* can show: colour on a terminal that wants it, else none; ASCII without UTF-8."""
    environment = os.environ
    terminal = stream.isatty()
    if width is None:
        width = shutil.get_terminal_size((100, 24)).columns
    colour = terminal and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"
    return Style(max(width, 40), colour, UNICODE if _utf8(stream) else ASCII)


def _utf8(stream: TextIO) -> bool:
    # Under LC_ALL=C Python itself still writes UTF-8: the locale, not the stream, says what is shown.
    environment = os.environ
    locale = environment.get("LC_ALL") or environment.get("LC_CTYPE") or environment.get("LANG") or "C.UTF-8"
    written = (getattr(stream, "encoding", None) or "").lower().replace("-", "")
    return written == "utf8" and "utf8" in locale.lower().replace("-", "")


def table(rows: Sequence[Row], style: Style, *, sentences: bool = True) -> list[str]:
    """Draw all rows: one line each where the width allows, else the sentence on a second."""
    measured = any(row.http or row.native for row in rows)
    left = _LABEL + 1 + (_HTTP + _NATIVE + 1 if measured else 0)
    wide = sentences and style.width >= _WIDE
    columns = style.width - left - (_SENTENCE + 1 if wide else 0)
    limit = axis_limit([row.line for row in rows if row.line])
    output = [_header(style, left, columns, limit, measured, wide)]
    for row in rows:
        grade: Grade = row.line.grade if row.line else "open"
        start = style.paint(fit(row.label, _LABEL, style), "bold") + " "
        if measured:
            misled = row.line is not None and row.line.failed_after_200 and row.native != "ERROR"
            native = style.paint(fit(row.native, _NATIVE, style), "bad" if misled else "dim")
            start += fit(row.http, _HTTP, style) + native + " "
        drawn = draw(row.line, limit, columns, style) if row.line else " " * columns
        said = sentence(row.line) if row.line else ""
        if not style_is_unicode(style):
            said = to_ascii(said)
        if wide:
            first, *rest = textwrap.wrap(said, _SENTENCE) or [""]
            output.append((start + drawn + " " + style.paint(first, grade)).rstrip())
            output += [" " * (left + columns + 1) + style.paint(more, grade) for more in rest]
            continue
        output.append((start + drawn).rstrip())
        if sentences:
            output += ["  " + style.paint(part, grade) for part in textwrap.wrap(said, style.width - 2)]
    return output


def legend(style: Style) -> list[str]:
    """Say what the marks mean."""
    marks = style.glyphs
    ends = marks.ends
    items = (
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
    )
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


def draw(line: Timeline, limit: float, columns: int, style: Style) -> str:
    """Draw one timeline into exactly *columns* cells that stand for 0 to *limit* seconds."""
    cells = [" "] * columns
    paints: list[str] = ["open"] * columns
    marks = style.glyphs
    step = limit / max(1, columns - 1)

    def column(at: float) -> int:
        return min(columns - 1, max(0, int(at / step)))

    def put(at: float, mark: str, paint: str) -> None:
        index = column(at)
        cells[index], paints[index] = mark, paint

    end = column(line.length)
    waiting = end if line.first_chunk is None else column(line.first_chunk)
    for index in range(waiting):
        # Of a stream that runs nothing is known before its span ends, not even that it waits.
        cells[index], paints[index] = marks.running if line.outcome == "open" else marks.wait, "dim"
    for index, rate, thinking in _rates(line, step, columns):
        cells[index] = marks.thinking if thinking else marks.density[_level(rate, len(marks.density))]
        paints[index] = "dim" if thinking else "open"
    for hole in line.holes:
        _label_hole(cells, paints, column(hole.start) + 1, column(hole.end), seconds(hole.length))
    for loop in line.loops:
        put(loop.found, marks.loop, "flawed")
    for tool in line.tools:
        # A tool call that ends its stream shares the last column: keep both marks.
        at = tool.at if column(tool.at) < end else max(0.0, (end - 1) * step)
        put(at, marks.tool, "good" if tool.input == "valid" else "bad")
    if line.attempts > 1:
        put(line.last_attempt, marks.retry, "flawed")
    if line.first_token is not None:
        put(line.first_token, marks.first_token, "bold")
    if line.stop_asked is not None:
        put(line.stop_asked, marks.stop, "stopped")
    if line.outcome != "open":
        put(line.length, marks.ends.get(line.outcome, "?"), line.grade)
    return _painted(cells, paints, style)


def axis_limit(lines: Sequence[Timeline]) -> float:
    """The right edge of the shared axis: the longest stream."""
    return max([line.length for line in lines] + [0.5]) * 1.001


def tick_step(limit: float, most: int) -> float:
    """The finest readable step that gives at most *most* ticks."""
    for step in _STEPS:
        if limit / step <= most:
            return step
    return float(3600 * math.ceil(limit / 3600 / max(1, most)))


def fit(text: str, width: int, style: Style) -> str:
    """Cut or pad *text* to *width* cells; control characters become blanks."""
    clean = "".join(char if char.isprintable() else " " for char in text)
    if not style_is_unicode(style):
        clean = to_ascii(clean)
    used = 0
    kept: list[str] = []
    for char in clean:
        cells = _cells(char)
        if used + cells > width:
            while kept and used + 1 > width:
                used -= _cells(kept.pop())
            kept.append(style.glyphs.ellipsis)
            used += 1
            break
        kept.append(char)
        used += cells
    return "".join(kept) + " " * (width - used)


def style_is_unicode(style: Style) -> bool:
    return style.glyphs is UNICODE


def to_ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode("ascii")


def _cells(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


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


def _rates(line: Timeline, step: float, columns: int) -> Iterator[tuple[int, float, bool]]:
    """Give the chunks a second of every column that saw any."""
    chunks = [0.0] * columns
    covered = [0.0] * columns
    thinking = [0.0] * columns
    for flow in line.flows:
        first, last = int(flow.start / step), int(flow.end / step)
        for index in range(max(0, first), min(columns - 1, last) + 1):
            inside = min(flow.end, (index + 1) * step) - max(flow.start, index * step)
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


def _painted(cells: list[str], paints: list[str], style: Style) -> str:
    if not style.colour:
        return "".join(cells)
    output, start = [], 0
    for index in range(1, len(cells) + 1):
        if index == len(cells) or paints[index] != paints[start]:
            output.append(style.paint("".join(cells[start:index]), paints[start]))
            start = index
    return "".join(output)


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
