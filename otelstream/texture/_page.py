# SPDX-License-Identifier: Apache-2.0
"""A comparison as one self-contained HTML page: of each measure the two distributions over each other."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from otelstream.texture import _statistics as statistics
from otelstream.texture._compare import LEVEL, Pair, Row, Side
from otelstream.texture._contract import Clause
from otelstream.texture._measures import Measure
from otelstream.texture._table import clause, counted, footnote, headline, moved, said, sure
from otelstream.view._page import SECURITY, stylesheet

_HIGH: Final = 64  # of a chart, in its own units
_BINS: Final = 40
_MANY: Final = 100  # answers a side from which a chart is drawn in all its bins
_LOGARITHMIC: Final = 12.0  # times that most values span before their axis is logarithmic
_SECTIONS: Final = (
    ("changed", "Changed", "flawed"),
    ("same", "No difference shown", "open"),
    ("too_few", "Too few answers to say", "open"),
)
_GRADES: Final = {"kept": "good", "broken": "bad", "undecided": "flawed"}


def page(pairs: Sequence[Pair], judged: Sequence[Clause] = ()) -> str:
    """Draw all pairs; with a contract its clauses first."""
    title = "; ".join(headline(pair) for pair in pairs)
    return "".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{SECURITY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)} otelstream</title>",
            f"<style>{stylesheet()}{stylesheet(__package__ or '')}</style></head><body>",
            '<header><p><span class="brand">otelstream</span> what changed in how answers come</p>',
            *_heads(pairs),
            _legend(),
            "</header><main>",
            *_clauses(judged),
            *(part for pair in pairs for part in _pair(pair, several=len(pairs) > 1)),
            f"</main><footer><p>{escape(footnote(pairs))}</p></footer></body></html>\n",
        ]
    )


def _heads(pairs: Sequence[Pair]) -> Iterator[str]:
    if len(pairs) > 1:
        count = sum(pair.counts[0] for pair in pairs)
        yield f"<h1><b>{count}</b> change{'' if count == 1 else 's'} in <b>{len(pairs)}</b> models</h1>"
        return
    names, _, rest = headline(pairs[0]).rpartition(": ")
    first, _, words = rest.partition(" of ")
    big = f"<b>{first}</b> of {escape(words)}" if first.isdigit() else escape(rest)
    yield f"<h1>{big}</h1><p>{_text(names)}</p>"
    yield from _left_out(pairs[0])


def _left_out(pair: Pair) -> Iterator[str]:
    for word, left in zip(("before", "after"), pair.left_out, strict=True):
        if left:
            yield f"<p>Left out of {word}, for they are no whole answers: {_text(counted(left))}.</p>"


def _legend() -> str:
    box = '<svg viewBox="0 0 24 16" aria-hidden="true">'
    return (
        f'<ul class="legend"><li>{box}<path class="o" d="M1 15V5h22v10"/></svg>before</li>'
        f'<li>{box}<path class="n" d="M1 15V5h22v10"/></svg>after</li>'
        f'<li>{box}<path class="o v" d="M8 1v15"/><path class="n v" d="M16 1v15"/></svg>the middle answer</li></ul>'
    )


def _clauses(judged: Sequence[Clause]) -> Iterator[str]:
    if not judged:
        return
    yield "<h2>The contract</h2><ul class=clauses>"
    for kept in ("broken", "undecided", "kept"):
        held = [each for each in judged if each.kept == kept]
        yield from (f'<li class="{_GRADES[kept]}"><b>{kept}</b> {_text(clause(each))}</li>' for each in held)
    yield "</ul>"


def _pair(pair: Pair, *, several: bool) -> Iterator[str]:
    if several:
        yield f"<h2>{_text(headline(pair))}</h2>"
        yield from _left_out(pair)
    level = "h3" if several else "h2"
    for verdict, title, grade in _SECTIONS:
        rows = [row for row in pair.rows if row.verdict == verdict]
        if rows:
            yield f"<{level}>{title} ({len(rows)})</{level}>"
            yield from (_row(row, grade) for row in rows)


def _row(row: Row, grade: str) -> str:
    change = moved(row)
    words = f"{row.measure.name}, before {said(row, 'before')}, after {said(row, 'after')}"
    return (
        f'<section class="row measure {grade}"><div class="name"><strong>{escape(row.measure.name)}</strong>'
        f"<small>{escape(row.measure.says)}</small></div>"
        f'<div role="img" aria-label="{escape(words)}">{_chart(row)}</div>'
        f'<div class="said"><span>{escape(change or sure(row))}</span>'
        f"<small>{escape(said(row, 'before'))} → {escape(said(row, 'after'))}"
        f"{', ' + escape(sure(row)) if change else ''}</small></div></section>"
    )


def _chart(row: Row) -> str:
    if not row.before.count and not row.after.count:
        return ""
    if row.measure.is_share:
        return _shares(row.before, row.after)
    pooled = sorted((*row.before.ordered, *row.after.ordered))
    return _Axis(pooled, row.measure).chart(row.before, row.after)


def _shares(before: Side, after: Side) -> str:
    """Two bars, each with the interval of its share."""
    drawn = []
    for top, name, side in ((6, "o", before), (36, "n", after)):
        if not side.count:
            continue
        low, high = statistics.share_interval(side.yes, side.count, LEVEL)
        middle = top + 11
        drawn.append(f'<path class="{name}" d="M0 {top}H{(side.middle or 0) * 1000:.0f}v22H0"/>')
        drawn.append(f'<path class="i" d="M{low * 1000:.0f} {middle}H{high * 1000:.0f}"/>')
    ticks = [(share / 100, f"{share} %") for share in (0, 25, 50, 75, 100)]
    return _svg("".join(drawn)) + _ticks(ticks)


class _Axis:
    """What most values span, linear or logarithmic; the few beyond it are drawn at its ends."""

    def __init__(self, pooled: Sequence[float], measure: Measure) -> None:
        self._measure = measure
        low, high = statistics.quantile(pooled, 0.01), statistics.quantile(pooled, 0.99)
        self._log = low > 0 and high / low > _LOGARITHMIC
        low = low if self._log else 0.0 if low < high / 2 else low
        self._low = self._to(low)
        self._wide = self._to(high) - self._low or abs(self._low) or 1.0

    def _to(self, value: float) -> float:
        return math.log(max(value, 1e-9)) if self._log else value

    def at(self, value: float) -> float:
        """Where a value lies, from 0 to 1."""
        return min(1.0, max(0.0, (self._to(value) - self._low) / self._wide))

    def chart(self, before: Side, after: Side) -> str:
        least = min(side.count for side in (before, after))
        bins = _BINS if least >= _MANY else _BINS // 2
        heights = [self._heights(side, bins) for side in (before, after)]
        top = max(map(max, heights)) or 1.0
        drawn = [_steps(held, top, name) for held, name in zip(heights, "on", strict=True)]
        for side, name in ((before, "o"), (after, "n")):
            if side.middle is not None:
                drawn.append(f'<path class="{name} v" d="M{self.at(side.middle) * 1000:.0f} 0V{_HIGH}"/>')
        return _svg("".join(drawn)) + _ticks(list(self._marks()))

    def _heights(self, side: Side, bins: int) -> list[float]:
        """The share of a side in each bin."""
        found = [0.0] * bins
        for value in side.ordered:
            found[min(bins - 1, int(self.at(value) * bins))] += 1 / len(side.ordered)
        return found

    def _marks(self) -> Iterator[tuple[float, str]]:
        """Round values that lie on the axis, not too near one another."""
        high = self._low + self._wide
        if self._log:
            first, last = math.exp(self._low), math.exp(high)
            steps = [mantissa * 10.0**power for power in range(-5, 8) for mantissa in (1, 2, 5)]
            round_ones = [step for step in steps if first <= step <= last]
        else:
            rough = self._wide / 4
            power = 10.0 ** math.floor(math.log10(rough))
            sizes = (power, 2 * power, 5 * power, 10 * power)
            size = sizes[min(3, bisect_left(sizes, rough))]
            round_ones = [size * count for count in range(math.ceil(self._low / size), math.floor(high / size) + 1)]
        last_at = -1.0
        for value in round_ones:
            if self.at(value) - last_at >= 0.13:
                last_at = self.at(value)
                yield last_at, self._measure.said(value)


def _steps(heights: Sequence[float], top: float, name: str) -> str:
    """The outline of a histogram."""
    width = 1000 / len(heights)
    moves = "".join(
        f"V{_HIGH - (_HIGH - 4) * height / top:.1f}H{(place + 1) * width:.0f}" for place, height in enumerate(heights)
    )
    return f'<path class="{name}" d="M0 {_HIGH}{moves}V{_HIGH}"/>'


def _svg(inside: str) -> str:
    return f'<svg class="over" viewBox="0 0 1000 {_HIGH}" preserveAspectRatio="none" aria-hidden="true">{inside}</svg>'


def _ticks(marks: Sequence[tuple[float, str]]) -> str:
    """Labels below a chart; those at its edges stay inside it."""
    spans = (
        f'<span style="left:{at * 100:.1f}%;translate:{-100 * at:.0f}%">{escape(label)}</span>' for at, label in marks
    )
    return f'<div class="under" aria-hidden="true">{"".join(spans)}</div>'


def _text(value: str) -> str:
    """Other people's words, made plain before, which act on nothing around them."""
    text = escape(value)
    return text if text.isascii() else f"<bdi>{text}</bdi>"
