# SPDX-License-Identifier: Apache-2.0
"""Recognise, while a block streams, that the model has begun to repeat itself.

A *run* of period p is a stretch of text in which every character equals the one p earlier. It starts with
its first copy, and m, its length less p, is what was said again. A run is a *loop* when p is its smallest
period and at most 2 000, its unit holds a letter or a digit, and

    m >= max(400, (copies - 1) * p)      with copies = 6 for p < 64, 4 for p < 1 024, 3 above.

The numbers are measured on a corpus of code, tables, JSON, CSV and prose, where a compression ratio alone
cannot tell a table from a loop (`benchmarks/README.md`). The ratio serves for near-repeats only: 4 096
characters that deflate to less than a tenth, with no loop in them, are `suspected`.
"""

from __future__ import annotations

import re
import zlib
from typing import NamedTuple

# Text is digested at multiples of this offset in the block, so chunk borders cannot change a result.
_STEP = 256

# Periods low..high are sought at multiples of `every`, as an earlier place of the last `needle` characters.
# The powers of two are tight: any loop lasts long enough that one such multiple falls where max(p, needle) of
# its characters have been said again, and there no shorter period can hide p: it would divide p (Fine, Wilf).
_TIERS = ((1, 255, 144, 256), (256, 511, 256, 512), (512, 2_000, 512, 1_024))

# The last characters, whose absence before rules every period out, and how far back each of four steps looks.
_PROBE = 64
_REACHES = (2_000 + _PROBE, 255 + _PROBE, 511 + _PROBE, 255 + _PROBE)

# While a run is longer than this no other can matter: 2 000 of its characters have been said again.
_LONG = 4_000

# A run of period 2 000 is first seen at most 2 * 2 000 + 1 023 characters after its start.
_WINDOW = 5_120

_WEIGHED = 4_096
_WEIGH_EVERY = 2_048
_SUSPECT_RATIO = 10.0

# Where, in the window, samples are taken that near-repeats must hold a little earlier too.
_SAMPLES = (2_304, 3_008, 3_712)
_SAMPLE = 24
_SAMPLE_REACH = 1_024

# Loops of one block whose figures are kept; the rest are only counted.
_KEPT = 16

_PADDING = re.compile(r"[\W_]+")


class Repetition(NamedTuple):
    """The repetition of a block as it stands; a suspected one knows no period and estimates the rest."""

    start: int
    """Offset in the block, in characters, of the first copy."""
    period: int
    """Characters of the repeated unit; 0 if suspected."""
    copies: float
    """How often the unit was said, the first time included; the compression ratio if suspected."""
    wasted: int
    """Characters beyond the first copy."""
    suspected: bool


class RepetitionDetector:
    """Find every loop of one block in constant memory and constant time a character; no method raises.

    Feed the text of a block in pieces of any size, `finish()` it, and `reset()` before the next one. Between
    feeds it keeps at most 5 375 characters: 5 KiB of Latin text, 21 KiB of text with emoji.
    """

    __slots__ = (
        "_end",
        "_fresh",
        "_loops",
        "_news",
        "_runs",
        "_suspected_to",
        "_suspicion",
        "_text",
        "_weigh_at",
        "loops",
    )

    loops: int
    """Loops recognised in the block. One that breaks off and resumes is two; a suspicion is none."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything: a new block begins."""
        self._text = ""  # the last _WINDOW characters digested
        self._end = 0  # the offset in the block where _text ends
        self._fresh = ""  # fewer than _STEP characters that came after it
        self._runs: list[_Run] = []  # the runs that reach to _end: rarely one, never more than a handful
        self._loops: list[_Run] = []  # the worst loops, ended or not, in the order they were recognised
        self._suspicion: Repetition | None = None
        self._suspected_to = -_WEIGHED
        self._weigh_at = _WEIGHED
        self._news = False
        self.loops = 0

    @property
    def found(self) -> Repetition | None:
        """The loop that wasted most so far, the earlier of two equals; without any, the suspicion."""
        return max(self.repetitions, key=lambda found: (found.wasted, -found.start), default=None)

    @property
    def latest(self) -> Repetition | None:
        """What `feed` was last true for, as it stands now."""
        return self._loops[-1].describe() if self._loops else self._suspicion

    @property
    def repetitions(self) -> list[Repetition]:
        """The loops in the order they were recognised, of more than 16 the worst; without any, the suspicion."""
        if not self._loops:
            return [self._suspicion] if self._suspicion else []
        return [run.describe() for run in self._loops]

    def feed(self, text: str) -> bool:
        """Take the next characters; true when they show a loop, once for each, or the first suspicion."""
        fresh = self._fresh + text
        if len(fresh) < _STEP:
            self._fresh = fresh
            return False
        self._news = False
        offset = self._end
        at = len(self._text)
        text = self._text + fresh
        end = len(text) - len(fresh) % _STEP
        while at < end:
            at += _STEP
            offset += _STEP
            self._end = offset
            if self._runs:
                self._follow_runs(text, at - _STEP, at)
                if self._runs and offset - self._runs[0].start > _LONG:
                    continue
            reach = _REACHES[offset // _STEP & 3]
            if text.rfind(text[at - _PROBE : at], at - reach if at > reach else 0, at - 1) >= 0:
                self._find_runs(text, at)
            if offset >= self._weigh_at:
                self._weigh(text, at)
        self._text = text[max(0, end - _WINDOW) : end]
        self._fresh = text[end:]
        return self._news

    def finish(self) -> Repetition | None:
        """Digest what is left of the block and return its repetition, final."""
        if self._fresh:
            begin = len(self._text)
            text = self._text + self._fresh
            self._end += len(self._fresh)
            self._follow_runs(text, begin, len(text))
            self._find_runs(text, len(text), last=True)
            self._text, self._fresh = text[-_WINDOW:], ""
        return self.found

    def _follow_runs(self, text: str, begin: int, end: int) -> None:
        """Extend the known runs over `text[begin:end]`, and end those that break there."""
        alive = []
        for run in self._runs:
            period = run.period
            if text[begin:end] == text[begin - period : end - period]:
                alive.append(run)
                self._judge(run, self._end)
                continue
            stop = self._end - (end - begin) + _common_prefix(text, begin - period, begin, end - begin)
            self._judge(run, stop)
        self._runs = alive

    def _find_runs(self, text: str, end: int, last: bool = False) -> None:
        """Look for runs up to `end` from the shortest period on: one hides all that reach back less far."""
        floor = max(0, end - _WINDOW)
        reached = 0
        for lowest, highest, needle, every in _TIERS:
            if self._end % every and not last:
                return
            low = lowest
            while True:
                size = reached + 1 if reached else needle
                top = end - low
                if top - size < floor:
                    break
                place = text.rfind(text[end - size : end], max(floor, end - highest - size), top)
                if place < 0:
                    break
                period = end - size - place
                reached = self._measure(text, end, period, floor)
                low = period + 1

    def _measure(self, text: str, end: int, period: int, floor: int) -> int:
        """Return how many characters up to `end` equal the one a period earlier; enough is a run."""
        for run in self._runs:
            if run.period == period:
                return self._end - run.start - period
        reached = _common_suffix(text, end - period, end, end - period - floor)
        if reached >= period:
            worded = _PADDING.sub("", text[end - period : end]) != ""
            run = _Run(period, self._end - reached - period, worded)
            self._runs.append(run)
            self._judge(run, self._end)
        return reached

    def _judge(self, run: _Run, end: int) -> None:
        """Note that the run has come to the offset `end`, and call it a loop if it is one by now."""
        run.end = end
        if not run.loop and run.worded and end - run.start - run.period >= _needed(run.period):
            run.loop = self._news = True
            self.loops += 1
            if len(self._loops) == _KEPT:
                self._loops.remove(min(self._loops, key=_Run.wasted))
            self._loops.append(run)

    def _weigh(self, text: str, end: int) -> None:
        """Suspect near-repeats in the window up to `end`, unless a run explains how well it deflates."""
        self._weigh_at = self._end + _WEIGH_EVERY
        if self.loops:
            return
        for run in self._runs:
            if self._end - run.start > _WEIGH_EVERY:
                return
        begin = end - _WEIGHED
        missed = 0
        for sample in _SAMPLES:
            place = begin + sample
            if text.rfind(text[place : place + _SAMPLE], place - _SAMPLE_REACH, place) < 0:
                missed += 1
                if missed > 1:
                    return
        self._weigh_at = self._end + _WEIGHED  # unless suspect, windows do not overlap: half the cost
        window = text[begin:end]
        ratio = _deflate_ratio(window)
        if ratio <= _SUSPECT_RATIO:
            return
        if self._suspicion is None:
            words = _PADDING.sub(" ", window)
            if len(words) < _WEIGH_EVERY or _deflate_ratio(words) <= _SUSPECT_RATIO:
                return
        self._news = self._news or self._suspicion is None
        start, _, highest, wasted, _ = self._suspicion or (self._end - _WEIGHED, 0, 0.0, 0, True)
        wasted += int(min(_WEIGHED, self._end - self._suspected_to) * (1 - 1 / ratio))
        self._suspicion = Repetition(start, 0, max(highest, ratio), wasted, True)
        self._suspected_to = self._end
        self._weigh_at = self._end + _WEIGH_EVERY


class _Run:
    """A run that ends at `end`, unless it goes on there."""

    __slots__ = ("end", "loop", "period", "start", "worded")

    def __init__(self, period: int, start: int, worded: bool) -> None:
        self.period = period
        self.start = start
        self.worded = worded
        self.loop = False
        self.end = start

    def wasted(self) -> int:
        return self.end - self.start - self.period

    def describe(self) -> Repetition:
        return Repetition(self.start, self.period, 1 + self.wasted() / self.period, self.wasted(), False)


def _needed(period: int) -> int:
    """Return how many characters said again make a run of this period a loop."""
    return max(400, (5 if period < 64 else 3 if period < 1_024 else 2) * period)


def _common_suffix(text: str, left: int, right: int, limit: int) -> int:
    """Return how many characters, at most `limit`, are the same before `left` and before `right`."""
    size = 0
    width = _STEP
    while width:
        far = size + width
        if far <= limit and text[left - far : left - size] == text[right - far : right - size]:
            size = far
        else:
            width //= 2
    return size


def _common_prefix(text: str, left: int, right: int, limit: int) -> int:
    """Return how many characters, at most `limit`, are the same from `left` and from `right` on."""
    size = 0
    width = _STEP
    while width:
        far = size + width
        if far <= limit and text[left + size : left + far] == text[right + size : right + far]:
            size = far
        else:
            width //= 2
    return size


def _deflate_ratio(text: str) -> float:
    """Return how many times smaller the text deflates at the fastest level, with tables of its size."""
    raw = text.encode("utf-8", "surrogatepass")
    deflate = zlib.compressobj(1, zlib.DEFLATED, -12, 5)
    return len(raw) / (len(deflate.compress(raw)) + len(deflate.flush()))
