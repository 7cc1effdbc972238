# SPDX-License-Identifier: Apache-2.0
"""What changed between two recordings: of each measure how much and how sure, or that too few answers say it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from otelstream.texture import _statistics as statistics
from otelstream.texture._measures import BY_KEY, MEASURES, Measure
from otelstream.texture._recording import Recording, Texture

LEVEL: Final = 0.05  # how often a model is called different from itself, all measures together
LEAST: Final = 10  # answers on each side; with fewer the tests' approximations are none
_TAIL: Final = "_slow"
_TAIL_LEAST: Final = 40  # answers on each side; of fewer no tenth can be told from another
_SLOWEST: Final = {
    "first_token": "first token",
    "thinking_time": "thinking",
    "gap_max": "longest gap",
    "tool_pause": "tool pause",
}
_MOST: Final = 5000  # values of a side that are compared; of more, evenly taken ones

Verdict = Literal["changed", "same", "too_few"]


class CompareError(ValueError):
    """Two recordings that cannot be compared; the text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a measure: how many answers say it, their middle (of a share: the share), and the values."""

    count: int
    middle: float | None
    ordered: Sequence[float] = ()
    yes: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One measure compared; change, interval and p are None where there are too few."""

    measure: Measure
    before: Side
    after: Side
    verdict: Verdict = "too_few"
    change: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None  # corrected for all that was compared
    larger: float | None = None  # of numbers: how often an answer of after exceeds one of before

    @property
    def relative(self) -> float | None:
        """The change as a part of what was before; None for shares."""
        if self.change is None or self.measure.is_share or not self.before.middle:
            return None
        return self.change / self.before.middle

    def as_dict(self) -> dict[str, Any]:
        def rounded(value: float | None) -> float | None:
            return None if value is None else float(f"{value:.6g}")

        def side(held: Side) -> dict[str, Any]:
            return {"answers": held.count, "share" if self.measure.is_share else "median": rounded(held.middle)}

        interval = None if self.low is None else [rounded(self.low), rounded(self.high)]
        return {
            "measure": self.measure.key,
            "unit": self.measure.unit,
            "before": side(self.before),
            "after": side(self.after),
            "verdict": self.verdict,
            "change": rounded(self.change),
            "relative": rounded(self.relative),
            "interval": interval,
            "p": rounded(self.p),
            "after_larger": rounded(self.larger),
        }


@dataclass(frozen=True, slots=True)
class Pair:
    """Two textures compared: the names of their models, how many answers each has, and a row a measure."""

    before: str
    after: str
    answers: tuple[int, int]
    left_out: tuple[dict[str, int], dict[str, int]]
    rows: tuple[Row, ...]
    tests: int  # of all pairs together

    @property
    def changed(self) -> list[Row]:
        return [row for row in self.rows if row.verdict == "changed"]

    @property
    def counts(self) -> tuple[int, int]:
        """How many measures changed, as a whole or in their tail, and how many had answers enough to say."""
        enough = {row.measure.key.removesuffix(_TAIL) for row in self.rows if row.verdict != "too_few"}
        return len({row.measure.key.removesuffix(_TAIL) for row in self.changed}), len(enough)

    def as_dict(self) -> dict[str, Any]:
        sides = zip(("before", "after"), (self.before, self.after), self.answers, self.left_out, strict=True)
        said = {word: {"model": name, "answers": count, "left_out": left} for word, name, count, left in sides}
        return {**said, "measures": [row.as_dict() for row in self.rows]}


def paired(before: Recording, after: Recording, models: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Which model to compare with which: those of one name, or the only one of each, or as *models* says."""
    for recording in (before, after):
        if not any(texture.answers for texture in recording.models.values()):
            word = "before" if recording is before else "after"
            raise CompareError(f"{word} holds no whole answer; record it anew, with a program that streams some")
    if before.source != after.source:
        raise CompareError(
            f"one is from {before.source}, the other from {after.source}, which measure differently; "
            "record both the same way"
        )
    if models:
        pair = (models[0], models[-1])
        for name, recording, word in zip(pair, (before, after), ("before", "after"), strict=True):
            if name not in recording.models:
                raise CompareError(f"--model {name}: {word} has {_listed(recording)}; give one of these")
        return [pair]
    if len(before.models) == len(after.models) == 1:
        return [(next(iter(before.models)), next(iter(after.models)))]
    both = [(name, name) for name in sorted(before.models) if name in after.models]
    if not both:
        raise CompareError(
            f"no model is in both: before has {_listed(before)}, after {_listed(after)}; "
            "give --model twice: the one before, the one after"
        )
    return both


def _listed(recording: Recording) -> str:
    names = sorted(recording.models)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def compare(before: Recording, after: Recording, pairs: Sequence[tuple[str, str]]) -> list[Pair]:
    """Compare models in pairs. What is called changed is corrected for every test of every pair."""
    sides = [(before.models[old], after.models[new]) for old, new in pairs]
    rows = [[_sides(measure, *textures) for measure in MEASURES] for textures in sides]
    for each in rows:
        each += [tail for row in each if (tail := _tail(row)) is not None]
    flat = [row for each in rows for row in each]
    tested = [index for index, row in enumerate(flat) if min(row.before.count, row.after.count) >= LEAST]
    judged = [_judged(flat[index], LEVEL / len(tested)) for index in tested]
    chances = statistics.corrected([row.p if row.p is not None else 1.0 for row in judged])
    for index, row, p in zip(tested, judged, chances, strict=True):
        beyond = row.low is not None and row.high is not None and not row.low <= 0 <= row.high
        flat[index] = replace(row, p=p, verdict="changed" if p <= LEVEL and beyond else "same")
    decided = iter(flat)
    return [
        Pair(
            old,
            new,
            (held_before.answers, held_after.answers),
            (dict(held_before.left_out), dict(held_after.left_out)),
            tuple(_told([next(decided) for _ in each])),
            len(tested),
        )
        for each, (old, new), (held_before, held_after) in zip(rows, pairs, sides, strict=True)
    ]


def _tail(row: Row) -> Row | None:
    """How many answers of each side are among the slowest tenth of both: ranks tell little of so few.

    A quantile of both taken together makes Fisher's test of them exact (Mood 1950, there of the median).
    """
    word = _SLOWEST.get(row.measure.key)
    if word is None or min(len(row.before.ordered), len(row.after.ordered)) < _TAIL_LEAST:
        return None
    edge = statistics.quantile(sorted((*row.before.ordered, *row.after.ordered)), 0.9)
    measure = Measure(
        row.measure.key + _TAIL, f"{word} > {row.measure.said(edge)}", "share", "the slowest tenth of both together"
    )
    return Row(measure, _share(*_beyond(row.before.ordered, edge)), _share(*_beyond(row.after.ordered, edge)))


def _beyond(ordered: Sequence[float], edge: float) -> tuple[int, int]:
    return len(ordered) - bisect_right(ordered, edge), len(ordered)


def _told(rows: Sequence[Row]) -> Iterator[Row]:
    """The measures, and below one its tail, where that changed."""
    tails = {row.measure.key: row for row in rows[len(MEASURES) :]}
    for row in rows[: len(MEASURES)]:
        yield row
        tail = tails.get(row.measure.key + _TAIL)
        if tail is not None and tail.verdict == "changed":
            yield tail


def _sides(measure: Measure, before: Texture, after: Texture) -> Row:
    held = [texture.buckets[measure.key] for texture in (before, after) if measure.key in texture.buckets]
    # Bounds are a setting, and finer ones would look like another distribution.
    common = set.intersection(*(set(each.bounds) for each in held)) if held else set()
    return Row(measure, _side(measure.key, before, common), _side(measure.key, after, common))


def _side(key: str, texture: Texture, bounds: set[float]) -> Side:
    if BY_KEY[key].is_share:
        return _share(*texture.shares.get(key, (0, 0)))
    if key in texture.buckets:
        found = texture.buckets[key].within(bounds)
        return _numbers(found.spread(_MOST), found.count)
    return _numbers(sorted(texture.numbers.get(key, ())))


def _share(yes: int, of: int) -> Side:
    return Side(of, yes / of if of else None, yes=yes)


def _numbers(ordered: Sequence[float], count: int | None = None) -> Side:
    whole = len(ordered) if count is None else count
    middle = statistics.quantile(ordered, 0.5) if ordered else None
    if len(ordered) > _MOST:
        ordered = [ordered[int((place + 0.5) * len(ordered) / _MOST)] for place in range(_MOST)]
    return Side(whole, middle, ordered)


def _judged(row: Row, alpha: float) -> Row:
    """Test one measure; its interval is of a level at which all intervals hold together (Bonferroni)."""
    before, after = row.before, row.after
    if row.measure.is_share:
        counts = (before.yes, after.yes), (before.count, after.count)
        change, low, high = statistics.share_change(*counts, alpha)
        return replace(row, change=change, low=low, high=high, p=statistics.table_test(*counts))
    change, low, high = statistics.shift(before.ordered, after.ordered, alpha)
    p, larger = statistics.rank_test(before.ordered, after.ordered)
    return replace(row, change=change, low=low, high=high, p=p, larger=larger)
