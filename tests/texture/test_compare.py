# SPDX-License-Identifier: Apache-2.0
"""What a comparison claims: nothing of a model against itself, what was planted, and nothing of too few."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from otelstream.texture._compare import LEAST, CompareError, Pair, compare, paired
from otelstream.texture._measures import MEASURES
from otelstream.texture._recording import PROMETHEUS, Buckets, Recording, Texture
from texture.answers import Model

SHORT = Model(length=200)  # quicker to make
PLANTED = [
    pytest.param({"pause": 0.0}, "tool_pause", id="a pause of 0.8 s that vanished"),
    pytest.param({"rate": 90.0}, "output_rate", id="a rate from 35 to 90 a second"),
    pytest.param({"preamble": 0.2}, "preamble", id="a preamble from 85 % to 20 %"),
]


def against(before: Model, after: Model, answers: int, seed: object) -> Pair:
    old, new = before.recording(answers, f"{seed} before"), after.recording(answers, f"{seed} after")
    (pair,) = compare(old, new, paired(old, new))
    return pair


def found(pair: Pair) -> set[str]:
    return {row.measure.key for row in pair.changed}


def test_the_same_model_twice() -> None:
    """Twenty comparisons of a model with itself, all measures together: one or two may err, not more."""
    assert sum(bool(found(against(SHORT, SHORT, 40, seed))) for seed in range(20)) <= 2


@pytest.mark.parametrize(("change", "measure"), PLANTED)
def test_what_was_planted_is_found(change: dict[str, float], measure: str) -> None:
    """Fifty answers each are enough, and the interval holds the truth of the share."""
    assert measure in found(against(Model(), replace(Model(), **change), 50, "planted"))


def test_a_tail_that_grew_is_found() -> None:
    """One answer in eight comes eight seconds late: the whole hardly moved, and the slowest tenth did."""
    pair = against(Model(thinks=0), Model(thinks=0, late=0.13), 200, 11)

    (row,) = pair.changed
    assert (row.measure.key, row.measure.unit) == ("first_token_slow", "share")
    assert row.measure.name == "first token > 2.3 s"
    assert pair.counts == (1, 11)  # no answer thinks


def test_a_tail_is_looked_at_where_it_can_be_told() -> None:
    """Of few answers none is; what moved as a whole counts once, whatever its tail did."""
    moved = against(Model(thinks=0), Model(thinks=0, first_token=9), 200, "moved")
    few = against(Model(), Model(), 35, "few")
    many = against(Model(), Model(), 200, "many")

    assert found(moved) == {"first_token", "first_token_slow"}
    assert moved.counts[0] == 1
    assert [row.measure.key for row in many.rows] == [measure.key for measure in MEASURES]
    assert few.tests < many.tests == len(MEASURES) + 4


@pytest.mark.slow
def test_the_same_model_twice_as_often_as_is_promised() -> None:
    """200 answers each, 200 times: called different in at most 5 %; each comparison well under two seconds."""
    wrong, longest = [], 0.0
    for seed in range(200):
        old, new = Model().recording(200, f"{seed} before"), Model().recording(200, f"{seed} after")
        begun = time.perf_counter()
        (pair,) = compare(old, new, paired(old, new))
        longest = max(longest, time.perf_counter() - begun)
        wrong += [sorted(found(pair))] if pair.changed else []
    print(f"\nthe same model twice: called different {len(wrong)} times of 200 {wrong}; longest {longest:.3f} s")

    assert len(wrong) <= 10
    assert longest < 2


@pytest.mark.slow
@pytest.mark.parametrize(("change", "measure"), PLANTED)
def test_what_was_planted_is_found_as_often_as_is_promised(change: dict[str, float], measure: str) -> None:
    """50 answers each, 200 times: found in at least 95 %."""
    hits = sum(measure in found(against(Model(), replace(Model(), **change), 50, seed)) for seed in range(200))
    print(f"\n{measure} {change}: found {hits} times of 200 with 50 answers each")

    assert hits >= 190


def test_a_comparison_is_the_same_every_time() -> None:
    """No dice: the same recordings give the same numbers."""
    assert against(Model(), Model(rate=40), 30, 1).as_dict() == against(Model(), Model(rate=40), 30, 1).as_dict()


def test_too_few_answers_are_said_and_nothing_else() -> None:
    """One less than needed: no change, no interval, no p; and the others are not corrected for it."""
    old, new = Recording(models={"m": Texture(99)}), Recording(models={"m": Texture(99)})
    old.models["m"].numbers = {"length": [1.0] * (LEAST - 1), "gap_p50": [0.1 + i / 1000 for i in range(LEAST)]}
    new.models["m"].numbers = {"length": [9.0] * 99, "gap_p50": [0.2 + i / 1000 for i in range(LEAST)]}

    (pair,) = compare(old, new, paired(old, new))

    rows = {row.measure.key: row for row in pair.rows}
    assert len(pair.rows) == len(MEASURES)
    assert rows["length"].verdict == "too_few"
    assert rows["length"].change is rows["length"].low is rows["length"].p is None
    assert rows["gap_p50"].verdict == "changed"
    assert rows["gap_p50"].p is not None
    assert rows["gap_p50"].p < 0.001


def verdicts(before: Texture, after: Texture) -> dict[str, str]:
    (pair,) = compare(Recording(models={"m": before}), Recording(models={"m": after}), [("m", "m")])
    return {row.measure.key: row.verdict for row in pair.rows}


def test_a_change_is_called_by_test_and_interval() -> None:
    """No interval makes a change where the exact test has its doubts, and no test one whose interval may be nothing."""
    none, five = Texture(50, shares={"stalls": (0, 50)}), Texture(50, shares={"stalls": (5, 50)})
    low, high = [float(place) for place in range(30)], [place + 5.0 for place in range(30)]
    clear = Texture(50, shares={"preamble": (0, 50)}), Texture(50, shares={"preamble": (50, 50)})
    clear[0].numbers, clear[1].numbers = {"length": low}, {"length": high}

    assert verdicts(none, five)["stalls"] == "same"
    found = verdicts(*clear)
    assert (found["preamble"], found["length"]) == ("changed", "same")


def test_models_are_paired_by_name_or_because_they_are_alone() -> None:
    """One each: compared whatever they are called. Several: those of one name. None in both: say which to take."""
    one, other = Recording(models={"a": Texture(1)}), Recording(models={"b": Texture(1)})
    many = Recording(models={"a": Texture(1), "c": Texture(1)})

    assert paired(one, other) == [("a", "b")]
    assert paired(one, many) == [("a", "a")]
    assert paired(many, other, ["c", "b"]) == [("c", "b")]
    assert paired(many, many, ["c"]) == [("c", "c")]
    with pytest.raises(CompareError, match="no model is in both: before has a, c, after b; give --model twice"):
        paired(many, other)
    with pytest.raises(CompareError, match="--model x: before has a, c; give one of these"):
        paired(many, other, ["x", "b"])
    with pytest.raises(CompareError, match="after holds no whole answer"):
        paired(one, Recording(models={"a": Texture()}))
    with pytest.raises(CompareError, match="record both the same way"):
        paired(one, Recording(PROMETHEUS, {"a": Texture(1)}))


def histogram(values: list[float], bounds: list[float]) -> Buckets:
    counts = [float(sum(value <= bound for value in values)) for bound in bounds]
    return Buckets((*bounds, float("inf")), (*counts, float(len(values))))


def test_histograms_are_compared_in_the_bounds_that_they_share() -> None:
    """The same answers in finer bounds are the same; others in the same bounds are not."""
    texture = Model().recording(200, "histogram").models["model-a"]
    rates = texture.numbers["output_rate"]
    coarse, fine = [10.0, 200], [5.0, 10, 20, 30, 50, 80, 120, 200]

    def compared(before: Buckets, after: Buckets) -> str:
        old, new = (
            Recording(PROMETHEUS, {"m": Texture(200, buckets={"output_rate": held})}) for held in (before, after)
        )
        (pair,) = compare(old, new, paired(old, new))
        return next(row.verdict for row in pair.rows if row.measure.key == "output_rate")

    assert compared(histogram(rates, coarse), histogram(rates, fine)) == "same"
    assert compared(histogram(rates, fine), histogram([rate * 2.5 for rate in rates], fine)) == "changed"


def test_many_answers_are_not_slow() -> None:
    """20 000 answers each are compared by evenly taken ones."""
    old, new = (
        Recording(models={"m": Texture(20_000, numbers={"length": [i * 1.0 + more for i in range(20_000)]})})
        for more in (0, 900)
    )
    begun = time.perf_counter()

    (pair,) = compare(old, new, paired(old, new))

    (row,) = pair.changed
    assert row.change == pytest.approx(900, rel=0.01)
    assert row.before.count == 20_000
    assert time.perf_counter() - begun < 5
