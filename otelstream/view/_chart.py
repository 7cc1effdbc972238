# SPDX-License-Identifier: Apache-2.0
"""The SVG of one timeline, of many thin ones, and of the axis they share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from ._sentences import seconds, sentence
from ._terminal import axis_limit, tick_step
from ._timeline import Flow, Timeline

_TICKS: Final = 8
_BASE: Final = 42  # y of the baseline of a lane, in pixels
_ROWS: Final = 100  # thin rows in one image
_ROW: Final = 7  # height of a thin row
_BINS: Final = 80
# A label needs this share of the chart at 390 px, and at a desk.
_NARROW_LABEL: Final = 13.0
_LABEL: Final = 6.0

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
DEFINITIONS: Final = (
    '<svg class="defs" width="0" height="0" aria-hidden="true"><defs>'
    '<pattern id="thinking" width="4" height="4" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<path class="hatch" d="M0 0v4" stroke-width="3"/></pattern>'
    '<path id="first" d="M0-5 5 0 0 5-5 0z"/><path id="tool" d="M-5-4H5L0 5z"/>'
    '<path id="retry" d="M-4-4 4 0-4 4z"/><path id="beyond" d="M-8-5 0 0-8 5z"/>'
    '<path id="ask" d="M-1.5-6h3v12h-3z"/>'
    + "".join(f'<g id="end-{outcome}">{shape}</g>' for outcome, shape in _MARKS.items())
    + "</defs></svg>"
)


def _legend() -> str:
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
    return f'<ul class="legend">{"".join(items)}</ul>'


LEGEND: Final = _legend()


@dataclass(frozen=True, slots=True)
class Axis:
    """The shared linear axis, from every stream's own request to *limit* seconds."""

    limit: float
    step: float

    @classmethod
    def of(cls, lines: Sequence[Timeline]) -> Axis:
        """Fit all streams but the few outliers that would press all others flat: they run off the edge."""
        limit = axis_limit(lines)
        lengths = sorted(line.length for line in lines)
        common = lengths[int(len(lengths) * 0.98)] if lengths else limit
        if limit > 3 * common and common > 0:
            limit = common * 1.25
        return cls(limit, tick_step(limit, _TICKS))

    def at(self, seconds_: float) -> float:
        """Where a moment lies, in per cent of the chart's width."""
        return min(100.0, max(0.0, 100 * seconds_ / self.limit))

    def header(self) -> str:
        """The ticks, above all lanes; the style carries their distance to the lines behind each lane."""
        ticks = []
        for count in range(int(self.limit / self.step) + 1):
            left = self.at(count * self.step)
            if left > 96:
                break
            wide = ' class="wide"' if count % 2 else ""
            ticks.append(f'<span{wide} style="left:{left:.2f}%">{count * self.step:g} s</span>')
        tick = 100 * self.step / self.limit
        return (
            f"<style>:root{{--tick:{tick:.3f}%}}</style>"
            f'<div class="axis" aria-hidden="true"><div class="ticks">{"".join(ticks)}</div></div>'
        )


def chart(line: Timeline, axis: Axis) -> str:
    """Draw one lane; it stretches to any width because every x is in per cent."""
    parts = [f'<svg class="chart" role="img" aria-label="{escape(sentence(line))}">']
    waited = line.length if line.first_chunk is None else line.first_chunk
    if axis.at(waited) > 0.5:
        parts.append(f'<line class="w" x1="0.3%" x2="{axis.at(waited):.2f}%" y1="{_BASE - 2}" y2="{_BASE - 2}"/>')
    parts += (_bar(flow, axis) for flow in line.flows if flow.start <= axis.limit)
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
    if line.stop_asked is not None:
        parts.append(_mark("ask", "x", axis.at(line.stop_asked), 8, "asked to stop"))
    parts.append(_end(line, axis))
    return "".join(parts) + "</svg>"


def compact(lines: Sequence[Timeline], axis: Axis) -> str:
    """Draw thin rows, one a stream, a hundred to an image that is not laid out until it is seen."""
    images = []
    for first in range(0, len(lines), _ROWS):
        block = lines[first : first + _ROWS]
        height = len(block) * _ROW
        rows = "".join(_thin(line, index * _ROW + 4, axis) for index, line in enumerate(block))
        images.append(
            f'<svg class="rows" viewBox="0 0 1000 {height}" preserveAspectRatio="none" '
            f'style="height:{height}px;contain-intrinsic-size:auto {height}px">{rows}</svg>'
        )
    return "".join(images)


def spread(lines: Sequence[Timeline], axis: Axis) -> str:
    """How long they took: one bar a bin of the shared axis."""
    bins = [0] * _BINS
    for line in lines:
        bins[min(_BINS - 1, int(axis.at(line.length) * _BINS / 100))] += 1
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
    inner = f"<title>{title}</title>" if title else ""
    place = f'x="{x:.2f}%" y="{y:.1f}" width="{max(0.0, width):.2f}%" height="{height:.1f}"'
    return f'<rect class="{kind}" {place}>{inner}</rect>'


def _mark(shape: str, kind: str, x: float, y: float, title: str) -> str:
    return f'<g><title>{escape(title)}</title><use class="{kind}" href="#{shape}" x="{x:.2f}%" y="{y}"/></g>'


def _end(line: Timeline, axis: Axis) -> str:
    x = axis.at(line.length)
    if line.length > axis.limit:
        return _mark("beyond", "m", x, 24, f"{line.outcome} beyond this axis, at {seconds(line.length)}")
    if line.outcome == "open":
        return ""
    shape = f"end-{line.outcome}" if line.outcome in _MARKS else "end-failed"
    return (
        f"<g><title>{escape(line.outcome)} at {seconds(line.length)}</title>"
        f'<line class="e" x1="{x:.2f}%" x2="{x:.2f}%" y1="6" y2="{_BASE + 1}"/>'
        f'<use class="m" href="#{shape}" x="{x:.2f}%" y="7"/></g>'
    )


def _thin(line: Timeline, y: int, axis: Axis) -> str:
    moves = "".join(
        f"M{left:.0f} {y}h{max(2.0, right - left):.0f}"
        for left, right in _joined((axis.at(flow.start) * 10, axis.at(flow.end) * 10) for flow in line.flows)
    )
    end = axis.at(line.length) * 10
    # A stream that never had a chunk still has a length.
    moves = moves or f"M{max(0.0, end - 2):.0f} {y}h2"
    return f'<path d="{moves}"><title>{escape(sentence(line))}</title></path>'


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
