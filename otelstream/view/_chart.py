# SPDX-License-Identifier: Apache-2.0
"""The SVG of one timeline, of many thin ones, and of the axis they share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from ._geometry import (
    ENDS,
    STATE_GRADES,
    Lane,
    axis_limit,
    call_lane,
    lanes,
    ledger,
    tick_step,
    ticks,
)
from ._sentences import called, row_sentence, seconds, sentence
from ._timeline import Flow
from ._turns import Call, Row, Stop, Turn

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
# Where a mark of a stream stands: its class, and its y in pixels.
_PLACES: Final = {
    "retry": ("x", _BASE - 2),
    "first": ("k", 12),
    "tool": ("x", 22),
    "withdrawn": ("x", 12),
    "ask": ("x", 8),
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
        for outcome, words in ENDS.items()
    ]
    rows = list(rows)
    if any(line.retraction or line.reversals for row in rows for line in row.lines):
        items.append(item('<use class="x" href="#withdrawn" x="23" y="8"/>', "withdrawn"))
    if any(row.turn for row in rows):
        items.append(item('<rect class="r" x="2" y="4" width="20" height="8"/>', "tool runs"))
        items += [
            item(f'<use class="m" href="#call-{state}" x="12" y="8"/>', f"call {state}", STATE_GRADES[state])
            for state in _STATES
        ]
    return f'<ul class="legend">{"".join(items)}</ul>'


@dataclass(frozen=True, slots=True)
class Axis:
    """The shared linear axis, from every stream's own request to *limit* seconds."""

    limit: float
    step: float

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Axis:
        """Fit all streams but the few outliers that would press all others flat: they run off the edge."""
        limit = axis_limit(rows)
        lengths = sorted(row.length for row in rows)
        common = lengths[int(len(lengths) * 0.98)] if lengths else limit
        if limit > 3 * common and common > 0:
            limit = common * 1.25
        return cls(limit, tick_step(limit, _TICKS))

    def at(self, seconds_: float) -> float:
        """Where a moment lies, in per cent of the chart's width."""
        return min(100.0, max(0.0, 100 * seconds_ / self.limit))

    def beyond(self, seconds_: float) -> bool:
        """Whether a moment lies off the right edge."""
        return seconds_ > self.limit

    def header(self) -> str:
        """The ticks, above all lanes; the style carries their distance to the lines behind each lane."""
        return f'<style>:root{{{self.ticks()[0]}}}</style><div class="axis" aria-hidden="true">{self.ticks()[1]}</div>'

    def ticks(self) -> tuple[str, str]:
        """The distance of two ticks as a style, and the ticks."""
        marks = []
        for count, (at, words) in enumerate(ticks(self.limit, self.step)):
            left = self.at(at)
            if left > 96:
                break
            wide = ' class="wide"' if count % 2 else ""
            marks.append(f'<span{wide} style="left:{left:.2f}%">{words}</span>')
        tick = 100 * self.step / self.limit
        return f"--tick:{tick:.3f}%", f'<div class="ticks">{"".join(marks)}</div>'


def chart(row: Row, axis: Axis) -> str:
    """Draw the streams of a row; of a turn its tool calls as well, a Stop as one line through all, and the ledger."""
    stop = row.turn.stop if row.turn is not None else None
    drawn = [_stream(lane, axis, stop) for lane in lanes(row)]
    if row.turn is None:
        return "".join(drawn)
    drawn += (_call(call, row.turn, axis) for call in row.turn.calls[:_MOST_CALLS])
    left_out = len(row.turn.calls) - _MOST_CALLS
    if left_out > 0:
        drawn.append(f"<p>{left_out} more tool calls are not drawn.</p>")
    head = ""
    if stop is not None:
        at = axis.at(stop.at)
        side = "right" if at > 70 else "left"
        inset = 100 - at if at > 70 else at
        asked = _ASKED.get(stop.trigger, "stopped")
        head = f'<p class="asked"><span style="margin-{side}:{inset:.2f}%;text-align:{side}">{asked}</span></p>'
        drawn.append(_ledger(stop))
    return f'<div class="turn">{head}{"".join(drawn)}</div>'


def _stream(lane: Lane, axis: Axis, stop: Stop | None) -> str:
    """One lane; it stretches to any width because every x is in per cent."""
    parts = [f'<svg class="chart" role="img" aria-label="{escape(sentence(lane.line))}">', _stop_line(stop, axis)]
    begin, waited = axis.at(lane.start), axis.at(lane.waits_until)
    if waited - begin > 0.5:
        parts.append(_dots(max(0.3, begin), waited, _BASE - 2))
    parts += (_bar(flow, axis) for flow in lane.flows if not axis.beyond(flow.start))
    for hole in lane.holes:
        left, right = axis.at(hole.start), axis.at(hole.end)
        source = f"stall, source {hole.source}" if hole.source else "silence before the end"
        parts.append(
            f"<g><title>{escape(source)}: {seconds(hole.length)}{', pings came' if hole.ping_seen else ''}</title>"
            + _rect("h", left, 18, right - left, _BASE - 18)
        )
        if right - left >= _LABEL:
            narrow = "" if right - left >= _NARROW_LABEL else ' class="wide"'
            parts.append(f'<text{narrow} x="{(left + right) / 2:.2f}%" y="34">{seconds(hole.length)}</text>')
        parts.append("</g>")
    for loop in lane.loops:
        left, right = axis.at(loop.start), axis.at(lane.end)
        copies = f"{loop.copies:.0f} copies of {loop.period} characters"
        parts.append(f"<g><title>loop: {copies}, {loop.wasted:,} wasted</title>")
        parts.append(f'<line class="l" x1="{left:.2f}%" x2="{right:.2f}%" y1="13" y2="13"/>')
        if right - left >= _NARROW_LABEL * 1.5:
            parts.append(f'<text x="{(left + right) / 2:.2f}%" y="9">{loop.copies:.0f} copies</text>')
        parts.append("</g>")
    parts += (_mark(mark.kind, *_PLACES[mark.kind], axis.at(mark.at), mark.said) for mark in lane.marks)
    parts.append(_end(lane, axis))
    return "".join(parts) + "</svg>"


def _call(call: Call, turn: Turn, axis: Axis) -> str:
    """One tool call: dots from ready to started, a bar while it ran, and at its end what became of it."""
    lane = call_lane(call, turn)
    name, state = called(call, _NAME), lane.state
    begin, runs, end = axis.at(lane.begin), axis.at(lane.runs), axis.at(lane.end)
    # The words begin where the call does, or end there: so they fit at any width.
    anchor = ' class="late"' if begin > 50 else ""
    y = _CALL - 8
    parts = [f'<svg class="call {lane.grade}" role="img" aria-label="{escape(f"{name} {state}")}">']
    parts.append(_stop_line(turn.stop, axis))
    if runs - begin > 0.3:
        parts.append(_dots(begin, runs, y))
    if lane.ran:
        parts.append(
            _rect("r", runs, y - 4, max(0.3, end - runs), 8, f"{name} ran for {seconds(lane.end - lane.runs)}")
        )
    if lane.ready is not None:
        parts.append(_mark("tool", "x", y, begin, lane.ready.said))
    if state in _STATES:
        parts.append(_mark(f"call-{state}", "m", y, end, f"{name} {state}"))
    words = f'{escape(f"{name}: {state}")}<tspan class="wide">{escape(_when(call))}</tspan>'
    parts.append(f'<text{anchor} x="{begin:.2f}%" y="11">{words}</text>')
    return "".join(parts) + "</svg>"


def _when(call: Call) -> str:
    said = {"before_ready": "before its input was whole", "mid_stream": "mid-stream", "after_end": "after the end"}
    parts = [call.effect if call.effect != "unknown" else "", said.get(call.phase, "")]
    return "".join(f", {part}" for part in parts if part)


def _stop_line(stop: Stop | None, axis: Axis) -> str:
    if stop is None:
        return ""
    x = axis.at(stop.at)
    return f'<line class="s" x1="{x:.2f}%" x2="{x:.2f}%" y1="0" y2="100%"/>'


def _ledger(stop: Stop) -> str:
    items = []
    for word, read, calls in ledger(stop):
        mark = f'<svg viewBox="-8 -8 16 16" aria-hidden="true"><use class="m" href="#call-{word}"/></svg>'
        items.append(f'<li class="{STATE_GRADES[word]}">{mark}<b>{read}</b> {escape(", ".join(calls))}</li>')
    return f'<ul class="ledger">{"".join(items)}</ul>' if items else ""


def strip(row: Row, axis: Axis) -> str:
    """Draw a row as one thin line, for a lane whose sentence says the rest."""
    return (
        f'<svg class="strip" viewBox="0 0 1000 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<path d="{_moves(row, 4, axis)}"/></svg>'
    )


def compact(rows: Sequence[Row], axis: Axis) -> str:
    """Draw thin rows, one a stream, a hundred to an image that is not laid out until it is seen."""
    images = []
    for first in range(0, len(rows), _ROWS):
        block = rows[first : first + _ROWS]
        height = len(block) * _ROW
        drawn = "".join(_thin(row, index * _ROW + 4, axis) for index, row in enumerate(block))
        images.append(
            f'<svg class="rows" role="img" aria-label="{len(block)} streams, a row each" '
            f'viewBox="0 0 1000 {height}" preserveAspectRatio="none" '
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


def _mark(shape: str, kind: str, y: float, x: float, title: str) -> str:
    return f'<g><title>{escape(title)}</title><use class="{kind}" href="#{shape}" x="{x:.2f}%" y="{y}"/></g>'


def _end(lane: Lane, axis: Axis) -> str:
    line, x = lane.line, axis.at(lane.end)
    if axis.beyond(lane.end):
        return _mark("beyond", "m", 24, x, f"{line.outcome} beyond this axis, at {seconds(line.length)}")
    if line.outcome == "open":
        return ""
    shape = f"end-{line.outcome}" if line.outcome in _MARKS else "end-failed"
    return (
        f"<g><title>{escape(line.outcome)} at {seconds(line.length)}</title>"
        f'<line class="e" x1="{x:.2f}%" x2="{x:.2f}%" y1="6" y2="{_BASE + 1}"/>'
        f'<use class="m" href="#{shape}" x="{x:.2f}%" y="7"/></g>'
    )


def _thin(row: Row, y: int, axis: Axis) -> str:
    return f'<path d="{_moves(row, y, axis)}"><title>{escape(row_sentence(row))}</title></path>'


def _moves(row: Row, y: int, axis: Axis) -> str:
    moves = "".join(
        f"M{left:.0f} {y}h{max(2.0, right - left):.0f}"
        for left, right in _joined(
            (axis.at(flow.start) * 10, axis.at(flow.end) * 10) for lane in lanes(row) for flow in lane.flows
        )
    )
    end = axis.at(row.length) * 10
    # A stream that never had a chunk still has a length.
    return moves or f"M{max(0.0, end - 2):.0f} {y}h2"


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
