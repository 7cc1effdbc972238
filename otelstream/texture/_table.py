# SPDX-License-Identifier: Apache-2.0
"""A comparison in words: the table of the terminal, and the sentences that it shares with the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from otelstream.texture._compare import LEAST, LEVEL, Pair, Row
from otelstream.texture._contract import Clause
from otelstream.view._record import plain
from otelstream.view._style import Style, fit, style_is_unicode, to_ascii

_NAME: Final = 20
_SIDE: Final = 13
_CHANGE: Final = 40
_SURE: Final = 26
_WIDE: Final = 2 + _NAME + 2 * (_SIDE + 1) + 2 + _CHANGE + _SURE
_GRADES: Final = {"kept": "good", "broken": "bad", "undecided": "flawed"}


def table(pair: Pair, style: Style) -> Iterator[str]:
    """One pair of models: a headline, and a line a measure (two where the terminal is narrow)."""
    arrow = style.glyphs.arrow
    yield style.paint(_shown(headline(pair, arrow), style), "bold")
    for word, name, left in zip(("before", "after"), (pair.before, pair.after), pair.left_out, strict=True):
        if left:
            yield style.paint(_shown(f"left out of {word}, {plain(name)}: {counted(left)}", style), "dim")
    yield ""
    wide = style.width >= _WIDE
    head = f"  {'measure':<{_NAME}}{'before':>{_SIDE}} {'after':>{_SIDE}}"
    yield style.paint(head + ("   change, and where it lies" if wide else ""), "dim")
    for row in pair.rows:
        yield from _line(row, style, wide)


def _line(row: Row, style: Style, wide: bool) -> Iterator[str]:
    changed = row.verdict == "changed"
    mark = "!" if changed else " "
    sides = [fit(f"{value:>{_SIDE}}", _SIDE, style) for value in (said(row, side) for side in ("before", "after"))]
    start = f"{mark} {row.measure.name:<{_NAME}}{sides[0]} {sides[1]}"
    change = moved(row)
    if wide:
        text = f"{start}   {change:<{_CHANGE}}{sure(row)}" if change else f"{start}   {sure(row)}"
        yield style.paint(text.rstrip(), "flawed" if changed else "open" if row.verdict == "same" else "dim")
        return
    yield style.paint(start.rstrip(), "flawed" if changed else "open")
    yield style.paint(f"    {change + '  ' if change else ''}{sure(row)}", "flawed" if changed else "dim")


def headline(pair: Pair, arrow: str = "→") -> str:
    """What was compared, and how much of it changed."""
    names = (
        f"{plain(pair.before)} ({_answers(pair.answers[0])}) {arrow} {plain(pair.after)} ({_answers(pair.answers[1])})"
    )
    changed, compared = pair.counts
    if not compared:
        return f"{names}: too few answers to say anything, {LEAST} on each side are needed"
    if not changed:
        return f"{names}: no change shown in {compared} measures"
    return f"{names}: {changed} of {compared} measures changed"


def _answers(count: int) -> str:
    return f"{count:,} answer{'' if count == 1 else 's'}"


def counted(left: Mapping[str, int]) -> str:
    """What is no whole answer, by how it ended."""
    return ", ".join(f"{count:,} {word}" for word, count in sorted(left.items()))


def said(row: Row, side: str) -> str:
    """The middle of a side, or a share with its counts."""
    held = row.before if side == "before" else row.after
    if held.middle is None:
        return "-"
    if row.measure.is_share:
        return f"{held.yes:,} of {held.count:,}"
    return row.measure.said(held.middle)


def moved(row: Row) -> str:
    """The change, its interval, and what part of before it is; empty where nothing can be said."""
    if row.change is None or row.low is None or row.high is None:
        return ""
    (change, low, high), unit = row.measure.moved(row.change, row.low, row.high)
    part = f", {row.relative * 100:+.0f} %" if row.relative is not None and row.verdict == "changed" else ""
    return f"{change} {unit} ({low} to {high}){part}"


def sure(row: Row) -> str:
    """How sure it is, in words; of too few answers how many there are."""
    if row.verdict == "too_few":
        if not row.before.count and not row.after.count:
            return "no answer says it"
        return f"too few answers say it: {row.before.count:,} and {row.after.count:,}, {LEAST} each are needed"
    p = row.p if row.p is not None else 1.0
    if row.verdict == "same":
        return "no difference shown"
    return "changed, p < 0.001" if p < 0.001 else f"changed, p = {p:.3f}"


def footnote(pairs: Sequence[Pair]) -> str:
    """What "sure" means here."""
    if not any(pair.counts[1] for pair in pairs):
        return ""
    return (
        f"Corrected for {pairs[0].tests} tests together (Holm): of 100 comparisons of a model with itself at most "
        f"{LEVEL * 100:.0f} call anything changed. In brackets: where the change lies, all of them at once with "
        f"{100 - LEVEL * 100:.0f} %."
    )


def clauses(judged: Sequence[Clause], style: Style) -> Iterator[str]:
    """The contract, tolerance by tolerance."""
    for each in judged:
        yield style.paint(_shown(f"{each.kept:<10} {clause(each)}", style), _GRADES[each.kept])


def clause(each: Clause) -> str:
    """One tolerance and what became of it, as a sentence."""
    row = each.row
    (limit,), unit = row.measure.moved(each.limit)
    limit = limit.rstrip("0").rstrip(".") if "." in limit else limit
    whose = f"{plain(each.model)}: " if each.one_of_many else ""
    begin = f"{whose}{row.measure.name} may {each.direction} by at most {limit.lstrip('+')} {unit}"
    if row.change is None or row.low is None or row.high is None:
        return f"{begin}; {sure(row)}"
    if each.kept == "broken":
        rose, surely = ("rose", row.low) if each.direction == "rise" else ("fell", row.high)
        (change, least), unit = row.measure.moved(abs(row.change), abs(surely))
        return f"{begin}; it {rose} by {change[1:]} {unit}, surely by {least[1:]} or more"
    if each.kept == "kept":
        return begin
    return f"{begin}; it moved by {moved(row)}: more answers would tell"


def _shown(text: str, style: Style) -> str:
    return text if style_is_unicode(style) else to_ascii(text)
