# SPDX-License-Identifier: Apache-2.0
"""The repetition detector finds exactly the loops of its rule, wherever the chunk borders fall."""

from __future__ import annotations

import random
import re
import sysconfig
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from otelstream._core.record.repetition import Repetition, RepetitionDetector

PERIODS = sorted({*range(1, 20), 31, 32, 63, 64, 127, 133, 134, 135, 255, 256, 257, 511, 512, 513, 1_000,
                  1_022, 1_023, 1_024, 1_025, 1_365, 1_998, 1_999, 2_000, *range(40, 2_000, 29)})  # fmt: skip
ALPHABETS = ("abcdefghijklmnopqrstuvwxyz ,.\n", "ab", "0123456789,\n", '"\\/\n\t{}[]:a', "äöüß€ λжあ漢🙂a")


def needed(period: int) -> int:
    """Say the rule once more, apart from the code under test: characters said again that make a loop."""
    copies = 6 if period < 64 else 4 if period < 1_024 else 3
    return max(400, (copies - 1) * period)


def loops_by_definition(text: str) -> list[tuple[int, int, int]]:
    """Find (start, period, wasted) of every loop by comparing the whole text with itself at every shift."""
    found: list[tuple[int, int, int]] = []
    number = int.from_bytes(text.encode("ascii"), "little")
    for period in range(1, min(2_000, len(text)) + 1):
        size = len(text) - period
        differences = (number ^ (number >> 8 * period)).to_bytes(len(text), "little")[:size]
        for same in re.finditer(rb"\0{400,}", differences):
            start, wasted = same.start(), same.end() - same.start()
            shorter = any(period % p == 0 and s <= start and same.end() + period <= s + p + w for s, p, w in found)
            if wasted >= needed(period) and not shorter and any(map(str.isalnum, text[start : start + period])):
                found.append((start, period, wasted))
    return found


def detect(text: str, sizes: list[int]) -> RepetitionDetector:
    """Feed the text in pieces of the sizes given, over and over, and finish."""
    detector = RepetitionDetector()
    at = turn = 0
    while at < len(text):
        size = sizes[turn % len(sizes)]
        detector.feed(text[at : at + size])
        at += size
        turn += 1
    detector.finish()
    return detector


def primitive(rng: random.Random, alphabet: str, period: int) -> str:
    """Make a unit with a letter or digit that is no repetition of a shorter one."""
    while True:
        unit = "".join(rng.choice(alphabet) for _ in range(period))
        if any(map(str.isalnum, unit)) and (unit + unit).find(unit, 1) == period:
            return unit


def embedded(rng: random.Random, alphabet: str, period: int, wasted: int) -> tuple[str, int]:
    """Make a text with a run of exactly so many wasted characters, and return it with the run's start."""
    unit = primitive(rng, alphabet, period)
    run = (unit * (wasted // period + 2))[: period + wasted]
    before = "".join(rng.choice(alphabet) for _ in range(rng.randrange(0, 3_000))) + "<"
    after = ">" + "".join(rng.choice(alphabet) for _ in range(rng.choice((0, 0, 5, 300, 2_500))))
    return before + run + after, len(before)


@pytest.mark.parametrize("period", PERIODS)
def test_a_loop_is_found_with_its_start_and_smallest_period(period: int) -> None:
    """A run that says exactly enough again is reported with right start, period, copies and waste."""
    rng = random.Random(period)
    wasted = needed(period) + rng.choice((0, 0, 1, period))

    text, start = embedded(rng, rng.choice(ALPHABETS), period, wasted)
    detector = detect(text, [rng.randrange(1, 2_000) for _ in range(5)])

    assert Repetition(start, period, 1 + wasted / period, wasted, False) == detector.found
    assert detector.loops == 1


@pytest.mark.parametrize("period", PERIODS)
def test_a_run_too_short_is_no_loop(period: int) -> None:
    """A run that lacks one character, or one copy, of what the rule needs is not reported as a loop."""
    rng = random.Random(-period)

    for wasted in (needed(period) - 1, max(0, needed(period) - period)):
        text, _ = embedded(rng, rng.choice(ALPHABETS), period, wasted)
        assert detect(text, [700]).loops == 0


@pytest.mark.parametrize("period", [1, 133, 134, 255, 256, 511, 512, 1_022, 1_023, 1_024, 1_025, 2_000])
@pytest.mark.parametrize("residue", [1_023, 0, 1, 255, 511, 977])
def test_the_shortest_loop_is_found_wherever_it_ends(period: int, residue: int) -> None:
    """A loop that ends anywhere between two of the offsets where text is digested is found all the same."""
    rng = random.Random(period)
    run = (primitive(rng, ALPHABETS[0], period) * 402)[: period + needed(period)]
    before = "".join(rng.choice(ALPHABETS[1]) for _ in range((residue - len(run) - 1) % 1_024 + 1_024)) + "<"

    found = detect(before + run + ">" + before * 2, [480]).found

    assert found is not None
    assert (found.start, found.period, found.wasted) == (len(before), period, needed(period))


patchwork = st.lists(
    st.tuples(st.text("ab \n", min_size=1, max_size=40), st.integers(1, 600)), min_size=1, max_size=6
).map(lambda parts: "".join((unit * count)[:900] for unit, count in parts))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(patchwork, st.integers(0, 6), st.lists(st.integers(1, 1_500), min_size=1, max_size=4))
@example("a" * 401, 0, [1])
@example(("ha" * 300 + "x" * 20 + "-" * 250) * 5, 0, [512])
@example((" " * 900 + "a line of text") * 5 + "!", 3, [50])
def test_the_detector_agrees_with_the_definition(text: str, again: int, sizes: list[int]) -> None:
    """On texts full of runs within runs it finds as many loops as there are, and the worst of them."""
    text = text + text[: len(text) // 2] * again
    text = text[:4_000]
    expected = loops_by_definition(text)

    detector = detect(text, sizes)

    assert detector.loops == len(expected)
    found = sorted((found.start, found.period, found.wasted) for found in detector.repetitions if not found.suspected)
    if len(expected) <= 16:
        assert found == sorted(expected)
    else:
        assert set(found) <= set(expected)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, 2**32),
    st.lists(st.integers(0, 3_000), min_size=1, max_size=8).filter(any),
    st.lists(st.integers(0, 700), min_size=1, max_size=8).filter(any),
)
def test_chunk_borders_change_nothing(seed: int, one: list[int], other: list[int]) -> None:
    """The same text in other pieces, empty ones included, gives the same loops and the same figures."""
    rng = random.Random(seed)
    parts = []
    for _ in range(rng.randrange(1, 6)):
        unit = "".join(rng.choice(rng.choice(ALPHABETS)) for _ in range(rng.randrange(1, 300)))
        parts.append((unit * 3_000)[: rng.randrange(1, 5_000)])
        parts.extend(f"{unit[:90]} {number} " for number in range(rng.randrange(0, 80)))
    text = "".join(parts)

    first, second = detect(text, one), detect(text, other)

    assert (first.loops, first.found) == (second.loops, second.found)


def test_a_loop_is_reported_once_while_it_runs() -> None:
    """feed() is true for the piece in which the loop shows, and for no other however long it goes on."""
    detector = RepetitionDetector()

    told = [detector.feed("and so on, " * 5) for _ in range(400)]

    assert sum(told) == 1
    assert told.index(True) <= (400 + 11 + 256) // 55 + 1
    assert Repetition(0, 11, 2_000.0, 21_989, False) == detector.finish()


def test_each_loop_is_counted_and_the_worst_one_kept() -> None:
    """A loop that stops keeps its length; a second one is told, counted, and kept if it wasted more."""
    rng = random.Random(5)
    prose = ["".join(rng.choice(ALPHABETS[0]) for _ in range(1_500)) for _ in range(3)]
    detector = RepetitionDetector()

    pieces = (prose[0] + "<", "one two " * 100, ">" + prose[1] + "<", "three four " * 200, ">" + prose[2])
    told = [detector.feed(piece) for piece in pieces]

    assert sum(told) == detector.loops == 2
    assert Repetition(1_500 + 1 + 800 + 1 + 1_500 + 1, 11, 200.0, 2_189, False) == detector.finish()


@pytest.mark.parametrize("unit", [" ", "\n", "-", "=-", "| --- ", "_", " \t"])
def test_a_unit_without_letter_or_digit_is_no_loop(unit: str) -> None:
    """Rules, padding and blank lines are neither a loop nor suspected."""
    detector = detect((unit * 20_000)[:20_000], [480])

    assert (detector.loops, detector.found) == (0, None)


def test_near_repeats_are_suspected() -> None:
    """Text that repeats but for a number is no loop by the rule; it is suspected, once, with an estimate."""
    detector = RepetitionDetector()

    told = [detector.feed(f"The brown fox number {n} jumps over the lazy dog again. ") for n in range(1_000)]
    found = detector.finish()

    assert sum(told) == 1
    assert found is not None
    assert found.suspected
    assert (found.start, found.period, detector.loops) == (0, 0, 0)
    assert found.copies > 10
    assert 0.7 < found.wasted / 57_000 < 1


def test_a_loop_outranks_a_suspicion() -> None:
    """Where both signals apply, what the copies rule says stands."""
    near = "".join(f"The brown fox number {n} jumps over the lazy dog again. " for n in range(200))

    detector = detect(near + "no more " * 100, [480])

    assert detector.found is not None
    assert not detector.found.suspected
    assert detector.found.period == 8


def test_the_latest_loop_and_all_of_them_can_be_asked_for() -> None:
    """What feed() was true for is the latest; all are described as they ended; of very many the worst are kept."""
    detector = RepetitionDetector()
    rng = random.Random(8)
    latest = []

    for count in range(60, 100):
        noise = "".join(rng.choice(ALPHABETS[0]) for _ in range(900))
        if detector.feed(f"{noise}<" + f"loop {count} " * count + ">" + noise[::-1]):
            latest.append(detector.latest)
    detector.finish()

    assert [round(found.copies) for found in latest if found] == list(range(60, 100))
    assert [round(found.copies) for found in detector.repetitions] == list(range(84, 100))
    assert detector.loops == 40
    assert detector.found == detector.repetitions[-1]


def test_a_block_with_a_loop_is_not_suspected_too() -> None:
    """After a loop nothing more is told of near-repeats: one signal a block."""
    near = [f"The brown fox number {n} jumps over the lazy dog again. " for n in range(400)]
    detector = RepetitionDetector()

    told = [detector.feed(text) for text in ("no more " * 100, *near)]

    assert sum(told) == detector.loops == 1
    assert detector.finish() == Repetition(0, 8, 100.0, 792, False)


def test_reset_begins_a_new_block() -> None:
    """A loop cut by a block border is two shorter runs, and nothing of the old block is left."""
    detector = RepetitionDetector()
    detector.feed("again and " * 30)
    detector.finish()

    detector.reset()
    detector.feed("again and " * 30)

    assert detector.finish() is None
    assert detector.loops == 0


def test_what_is_kept_does_not_grow() -> None:
    """After any amount of text at most 5 375 characters and a handful of runs are kept."""
    rng = random.Random(3)
    detector = RepetitionDetector()

    for text in ("ab" * 5_000, "".join(rng.choice("ab") for _ in range(100_000)), "x y " * 9_000 + "z"):
        detector.feed(text)
        assert len(detector._text) + len(detector._fresh) <= 5_375
        assert len(detector._runs) <= 8
        assert len(detector.repetitions) <= 16


def test_lone_surrogates_do_no_harm() -> None:
    """A half of a surrogate pair is a character like any other, in either signal."""
    loop = detect("\ud83d half " * 200, [33])
    near = detect("".join(f"\ud83d half of number {n} is repeated here for ever " for n in range(300)), [33])

    assert loop.found is not None
    assert loop.found.period == 7
    assert near.found is not None
    assert near.found.suspected


def test_the_standard_library_is_no_loop() -> None:
    """Of four hundred source files at most two are called a loop: generated tables of one repeated row."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*/*.py"))[:400]
    alarms = []

    for file in files:
        detector = detect(file.read_text(encoding="utf-8", errors="replace"), [480])
        if detector.found is not None:
            alarms.append((str(file), detector.found))

    assert len(files) >= 300
    assert len(alarms) <= 2, alarms
