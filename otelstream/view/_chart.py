# SPDX-License-Identifier: Apache-2.0
"""The SVG of one timeline, of many thin ones, and of the axis they share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Final

from ._sentences import others, relative, row_sentence, seconds, sentence
from ._terminal import axis_limit, tick_step
from ._timeline import Flow, Timeline
from ._turns import LEDGER, Call, Row, Stop, Turn

_TICKS: Final = 8
_BASE: Final = 42  # y of the baseline of a lane, in pixels
_ROWS: Final = 100  # thin rows in one image
_ROW: Final = 7  # height of a thin row
_BINS: Final = 80
# A label needs this share of the chart at 390 px, and at a desk.
_NARROW_LABEL: Final = 13.0
_LABEL: Final = 6.0

_CALL: Final = 30  # height of a tool lane: its words, and below them its bar
_MOST_CALLS: Final = 12  # of one turn
_NAME: Final = 28  # characters of a tool's name

_MARKS: Final = {
    "completed": '<circle r="4"/>',
    "truncated": '<path d="M-5-4h6l5 4-5 4h-6z"/>',
    "refused": '<path d="M-4-5h8v10h-8zM-4 5 4-5" fill="none" stroke-width="2"/>',
    "failed": '<path d="M-4-4 4 4M-4 4 4-4" stroke-width="3"/>',
    "cancelled": '<path d="M-4-4h8v8h-8z"/>',
    "caller_error": '<path d="M0-6 6 5H-6z" fill="none" stroke-width="2"/>',
    "abandoned": '<circle r="4" fill="none" stroke-width="2"/>',
}
_WORDS: Final = {
    "completed": "complete",
    "truncated": "cut by a limit",
    "refused": "refused",
    "failed": "failed",
    "cancelled": "stopped",
    "caller_error": "own error",
    "abandoned": "dropped",
}
_GRADES: Final = {
    "completed": "good",
    "truncated": "flawed",
    "refused": "flawed",
    "failed": "bad",
}
_STATES: Final = {
    "committed": '<circle r="5"/>',
    "running": '<path d="M-4-5 4 0-4 5z"/>',
    "failed": '<path d="M-4-4 4 4M-4 4 4-4" stroke-width="3"/>',
    "withheld": '<path d="M-3-3 3 3M4.5 0A4.5 4.5 0 1 1-4.5 0 4.5 4.5 0 1 1 4.5 0z" fill="none" stroke-width="2"/>',
    "compensated": '<path d="M5-5-3 0 5 5" fill="none" stroke-width="2.5"/>',
    "discarded": '<circle r="4" fill="none" stroke-width="2"/>',
}
_STATE_GRADES: Final = {
    "committed": "good",
    "running": "stopped",
    "failed": "bad",
    "withheld": "flawed",
    "compensated": "flawed",
    "discarded": "stopped",
}
_ASKED: Final = {
    "user_stop": "Stop",
    "client_disconnect": "client left",
    "task_cancel": "task cancelled",
    "timeout": "time-out",
    "shutdown": "program ended",
    "gc": "dropped",
}
DEFINITIONS: Final = (
    '<svg class="defs" width="0" height="0" aria-hidden="true"><defs>'
    '<pattern id="thinking" width="4" height="4" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<path class="hatch" d="M0 0v4" stroke-width="3"/></pattern>'
    '<path id="first" d="M0-5 5 0 0 5-5 0z"/><path id="tool" d="M-5-4H5L0 5z"/>'
    '<path id="retry" d="M-4-4 4 0-4 4z"/><path id="beyond" d="M-8-5 0 0-8 5z"/>'
    '<path id="ask" d="M-1.5-6h3v12h-3z"/>'
    '<path id="withdrawn" d="M-4-7h-3v7h-5v-4l-7 5.5 7 5.5v-4h8z"/>'
    + "".join(f'<g id="call-{state}">{shape}</g>' for state, shape in _STATES.items())
    + "".join(f'<g id="end-{outcome}">{shape}</g>' for outcome, shape in _MARKS.items())
    + "</defs></svg>"
)


def legend(rows: Iterable[Row]) -> str:
    """Say what the marks mean; those of tool calls and of withdrawn answers only where there are any."""

    def item(drawn: str, words: str, grade: str = "open") -> str:
        return f'<li class="{grade}"><svg viewBox="0 0 24 16" aria-hidden="true">{drawn}</svg>{words}</li>'

    items = [
        item('<line class="w" x1="2" x2="22" y1="12" y2="12"/>', "waiting"),
        item('<rect class="t" x="2" y="4" width="20" height="9"/>', "thinking"),
        item(
            '<rect class="f" x="2" y="9" width="7" height="4"/><rect class="f" x="10" y="3" width="12" height="10"/>',
            "chunks",
        ),
        item('<rect class="h" x="2" y="3" width="20" height="10"/>', "silence"),
        item('<use class="k" href="#first" x="12" y="8"/>', "first token"),
        item('<use class="x" href="#tool" x="12" y="8"/>', "tool input whole"),
        item('<line class="l" x1="2" x2="22" y1="4" y2="4"/>', "loop"),
        item('<use class="x" href="#retry" x="12" y="8"/>', "retried"),
        item('<use class="x" href="#ask" x="12" y="8"/>', "asked to stop"),
    ]
    items += [
        item(f'<use class="m" href="#end-{outcome}" x="12" y="8"/>', words, _GRADES.get(outcome, "stopped"))
        for outcome, words in _WORDS.items()
    ]
    rows = list(rows)
    if any(line.retraction for row in rows for line in row.lines):
        items.append(item('<use class="x" href="#withdrawn" x="23" y="8"/>', "withdrawn"))
    if any(row.turn for row in rows):
        items.append(item('<rect class="r" x="2" y="4" width="20" height="8"/>', "tool runs"))
        items += [
            item(f'<use class="m" href="#call-{state}" x="12" y="8"/>', f"call {state}", _STATE_GRADES[state])
            for state in _STATES
        ]
    return f'<ul class="legend">{"".join(items)}</ul>'


@dataclass(frozen=True, slots=True)
class Axis:
    """The shared linear axis, from every stream's own request to *limit* seconds."""

    limit: float
    step: float
    start: float = 0.0  # where what is drawn begins

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Axis:
        """Fit all streams but the few outliers that would press all others flat: they run off the edge."""
        limit = axis_limit(rows)
        lengths = sorted(row.length for row in rows)
        common = lengths[int(len(lengths) * 0.98)] if lengths else limit
        if limit > 3 * common and common > 0:
            limit = common * 1.25
        return cls(limit, tick_step(limit, _TICKS))

    def begin(self, start: float) -> Axis:
        """The same axis for what begins at *start*."""
        return replace(self, start=start)

    def at(self, seconds_: float) -> float:
        """Where a moment lies, in per cent of the chart's width."""
        return min(100.0, max(0.0, 100 * (self.start + seconds_) / self.limit))

    def beyond(self, seconds_: float) -> bool:
        """Whether a moment lies off the right edge."""
        return self.start + seconds_ > self.limit

    def header(self) -> str:
        """The ticks, above all lanes; the style carries their distance to the lines behind each lane."""
        return f'<style>:root{{{self.ticks()[0]}}}</style><div class="axis" aria-hidden="true">{self.ticks()[1]}</div>'

    def ticks(self) -> tuple[str, str]:
        """The distance of two ticks as a style, and the ticks."""
        ticks = []
        for count in range(int(self.limit / self.step) + 1):
            left = self.at(count * self.step)
            if left > 96:
                break
            wide = ' class="wide"' if count % 2 else ""
            ticks.append(f'<span{wide} style="left:{left:.2f}%">{count * self.step:g} s</span>')
        tick = 100 * self.step / self.limit
        return f"--tick:{tick:.3f}%", f'<div class="ticks">{"".join(ticks)}</div>'


def chart(line: Timeline, axis: Axis, *, stop: Stop | None = None) -> str:
    """Draw one lane; it stretches to any width because every x is in per cent. *stop* goes through it as a line."""
    parts = [f'<svg class="chart" role="img" aria-label="{escape(sentence(line))}">']
    if stop is not None:
        parts.append(_stop_line(stop, replace(axis, start=0.0)))
    waited = line.length if line.first_chunk is None else line.first_chunk
    if axis.at(waited) - axis.at(0.0) > 0.5:
        parts.append(_dots(max(0.3, axis.at(0.0)), axis.at(waited), _BASE - 2))
    parts += (_bar(flow, axis) for flow in line.flows if not axis.beyond(flow.start))
    for hole in line.holes:
        left, right = axis.at(hole.start), axis.at(hole.end)
        source = f"stall, source {hole.source}" if hole.source else "silence before the end"
        parts.append(
            f"<g><title>{source}: {seconds(hole.length)}{', pings came' if hole.ping_seen else ''}</title>"
            + _rect("h", left, 18, right - left, _BASE - 18)
        )
        if right - left >= _LABEL:
            narrow = "" if right - left >= _NARROW_LABEL else ' class="wide"'
            parts.append(f'<text{narrow} x="{(left + right) / 2:.2f}%" y="34">{seconds(hole.length)}</text>')
        parts.append("</g>")
    for loop in line.loops:
        left, right = axis.at(loop.start), axis.at(line.length)
        copies = f"{loop.copies:.0f} copies of {loop.period} characters"
        parts.append(f"<g><title>loop: {copies}, {loop.wasted:,} wasted</title>")
        parts.append(f'<line class="l" x1="{left:.2f}%" x2="{right:.2f}%" y1="13" y2="13"/>')
        if right - left >= _NARROW_LABEL * 1.5:
            parts.append(f'<text x="{(left + right) / 2:.2f}%" y="9">{loop.copies:.0f} copies</text>')
        parts.append("</g>")
    if line.attempts > 1:
        parts.append(_mark("retry", "x", axis.at(line.last_attempt), _BASE - 2, f"attempt {line.attempts}"))
    if line.first_token is not None:
        title = f"first visible token after {seconds(line.first_token)}"
        parts.append(_mark("first", "k", axis.at(line.first_token), 12, title))
    for tool in line.tools:
        parts.append(_mark("tool", "x", axis.at(tool.at), 22, f"input of {tool.name} {tool.input or 'ended'}"))
    if line.retraction is not None:
        title = f"withdrawn after {line.retraction.visible_chars:,} characters"
        parts.append(_mark("withdrawn", "x", axis.at(line.retraction.at), 12, title))
    if line.stop_asked is not None:
        parts.append(_mark("ask", "x", axis.at(line.stop_asked), 8, "asked to stop"))
    parts.append(_end(line, axis))
    return "".join(parts) + "</svg>"


def turn_chart(turn: Turn, axis: Axis) -> str:
    """Draw the streams of a turn and under them its tool calls, a Stop as one line through all, and the ledger."""
    parts = [
        chart(line, axis.begin(start), stop=turn.stop) for line, start in zip(turn.lines, turn.starts, strict=True)
    ]
    parts += (_call(call, turn, axis) for call in turn.calls[:_MOST_CALLS])
    left_out = len(turn.calls) - _MOST_CALLS
    if left_out > 0:
        parts.append(f"<p>{left_out} more tool calls are not drawn.</p>")
    head = ""
    if turn.stop is not None:
        at = axis.at(turn.stop.at)
        side = "right" if at > 70 else "left"
        inset = 100 - at if at > 70 else at
        asked = _ASKED.get(turn.stop.trigger, "stopped")
        head = f'<p class="asked"><span style="margin-{side}:{inset:.2f}%;text-align:{side}">{asked}</span></p>'
        parts.append(_ledger(turn.stop))
    return f'<div class="turn">{head}{"".join(parts)}</div>'


def _call(call: Call, turn: Turn, axis: Axis) -> str:
    """One tool call: dots from ready to started, a bar while it ran, and at its end what became of it."""
    name = _name(call)
    state = turn.state(call)
    end = axis.at(turn.length if call.ended is None else call.ended)
    if call.started is None and call.ended is None and turn.stop is not None:
        end = axis.at(turn.stop.at)
    runs = end if call.started is None else axis.at(call.started)
    begin = runs if call.ready is None else axis.at(call.ready)
    # The words begin where the call does, or end there: so they fit at any width.
    anchor = ' class="late"' if begin > 50 else ""
    y = _CALL - 8
    parts = [f'<svg class="call {_STATE_GRADES.get(state, "open")}" role="img" aria-label="{escape(name)} {state}">']
    if turn.stop is not None:
        parts.append(_stop_line(turn.stop, axis))
    if runs - begin > 0.3:
        parts.append(_dots(begin, runs, y))
    if call.started is not None:
        parts.append(_rect("r", runs, y - 4, max(0.3, end - runs), 8, f"{name} ran for {seconds(_took(call, turn))}"))
    if call.ready is not None:
        parts.append(_mark("tool", "x", begin, y, f"input of {name} {call.input or 'ended'}"))
    if state in _STATES:
        parts.append(_mark(f"call-{state}", "m", end, y, f"{name} {state}"))
    words = f'{escape(name)}: {state}<tspan class="wide">{_when(call)}</tspan>'
    parts.append(f'<text{anchor} x="{begin:.2f}%" y="11">{words}</text>')
    return "".join(parts) + "</svg>"


def _when(call: Call) -> str:
    said = {"before_ready": "before its input was whole", "mid_stream": "mid-stream", "after_end": "after the end"}
    parts = [call.effect if call.effect != "unknown" else "", said.get(call.phase, "")]
    return "".join(f", {part}" for part in parts if part)


def _took(call: Call, turn: Turn) -> float:
    return (turn.length if call.ended is None else call.ended) - (call.started or 0.0)


def _stop_line(stop: Stop, axis: Axis) -> str:
    x = axis.at(stop.at)
    return f'<line class="s" x1="{x:.2f}%" x2="{x:.2f}%" y1="0" y2="100%"/>'


def _ledger(stop: Stop) -> str:
    items = []
    for word, calls, more in stop:
        said = [_entry(call, word, stop) for call in calls] + ([others(more)] if more else [])
        mark = f'<svg viewBox="-8 -8 16 16" aria-hidden="true"><use class="m" href="#call-{word}"/></svg>'
        items.append(f'<li class="{_STATE_GRADES[word]}">{mark}<b>{LEDGER[word]}</b> {", ".join(said)}</li>')
    return f'<ul class="ledger">{"".join(items)}</ul>' if items else ""


def _entry(call: Call, word: str, stop: Stop) -> str:
    at = call.started if word == "running" else call.ended
    when = "" if at is None or word == "withheld" else f" ({relative(at - stop.at)})"
    return escape(_name(call)) + when


def _name(call: Call) -> str:
    """A tool's name is the model's output: it may be long, and hold anything."""
    name = "".join(char if char.isprintable() else " " for char in call.name)
    return name if len(name) <= _NAME else name[: _NAME - 1] + "…"


def compact(rows: Sequence[Row], axis: Axis) -> str:
    """Draw thin rows, one a stream, a hundred to an image that is not laid out until it is seen."""
    images = []
    for first in range(0, len(rows), _ROWS):
        block = rows[first : first + _ROWS]
        height = len(block) * _ROW
        drawn = "".join(_thin(row, index * _ROW + 4, axis) for index, row in enumerate(block))
        images.append(
            f'<svg class="rows" viewBox="0 0 1000 {height}" preserveAspectRatio="none" '
            f'style="height:{height}px;contain-intrinsic-size:auto {height}px">{drawn}</svg>'
        )
    return "".join(images)


def spread(rows: Sequence[Row], axis: Axis) -> str:
    """How long they took: one bar a bin of the shared axis."""
    bins = [0] * _BINS
    for row in rows:
        bins[min(_BINS - 1, int(axis.at(row.length) * _BINS / 100))] += 1
    top = max(bins)
    width = 100 / _BINS
    bars = ""
    for index, count in enumerate(bins):
        if count:
            height = 32 * math.sqrt(count / top)
            bars += _rect("b", index * width, 34 - height, width * 0.85, height, f"{count:,} streams")
    return f'<svg class="spread" role="img" aria-label="When they ended">{bars}</svg>'


def _bar(flow: Flow, axis: Axis) -> str:
    left, right = axis.at(flow.start), axis.at(flow.end)
    height = 4 + 3 * min(7.0, max(0.0, math.log2(max(flow.rate, 1.0))))
    kind = "t" if flow.thinking else "f"
    said = "thinking" if flow.thinking else "output"
    title = f"{said}: {flow.chunks:.0f} chunks in {seconds(flow.end - flow.start)}"
    return _rect(kind, left, _BASE - height, max(0.25, right - left), height, title)


def _rect(kind: str, x: float, y: float, width: float, height: float, title: str = "") -> str:
    """A rectangle: x and width in per cent of the chart, y and height in pixels."""
    inner = f"<title>{escape(title)}</title>" if title else ""
    place = f'x="{x:.2f}%" y="{y:.1f}" width="{max(0.0, width):.2f}%" height="{height:.1f}"'
    return f'<rect class="{kind}" {place}>{inner}</rect>'


def _dots(left: float, right: float, y: float) -> str:
    """Waiting."""
    return f'<line class="w" x1="{left:.2f}%" x2="{right:.2f}%" y1="{y}" y2="{y}"/>'


def _mark(shape: str, kind: str, x: float, y: float, title: str) -> str:
    return f'<g><title>{escape(title)}</title><use class="{kind}" href="#{shape}" x="{x:.2f}%" y="{y}"/></g>'


def _end(line: Timeline, axis: Axis) -> str:
    x = axis.at(line.length)
    if axis.beyond(line.length):
        return _mark("beyond", "m", x, 24, f"{line.outcome} beyond this axis, at {seconds(line.length)}")
    if line.outcome == "open":
        return ""
    shape = f"end-{line.outcome}" if line.outcome in _MARKS else "end-failed"
    return (
        f"<g><title>{escape(line.outcome)} at {seconds(line.length)}</title>"
        f'<line class="e" x1="{x:.2f}%" x2="{x:.2f}%" y1="6" y2="{_BASE + 1}"/>'
        f'<use class="m" href="#{shape}" x="{x:.2f}%" y="7"/></g>'
    )


def _thin(row: Row, y: int, axis: Axis) -> str:
    starts = row.turn.starts if row.turn is not None else (0.0,)
    moves = "".join(
        f"M{left:.0f} {y}h{max(2.0, right - left):.0f}"
        for left, right in _joined(
            (axis.at(start + flow.start) * 10, axis.at(start + flow.end) * 10)
            for start, line in zip(starts, row.lines, strict=True)
            for flow in line.flows
        )
    )
    end = axis.at(row.length) * 10
    # A stream that never had a chunk still has a length.
    moves = moves or f"M{max(0.0, end - 2):.0f} {y}h2"
    return f'<path d="{moves}"><title>{escape(row_sentence(row))}</title></path>'


def _joined(pieces: Iterable[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Join pieces that touch: a hole is what stays between them."""
    held: tuple[float, float] | None = None
    for left, right in sorted(pieces):
        if held is None:
            held = (left, right)
        elif left - held[1] <= 1:
            held = (held[0], max(held[1], right))
        else:
            yield held
            held = (left, right)
    if held is not None:
        yield held
