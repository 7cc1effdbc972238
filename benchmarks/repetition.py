# SPDX-License-Identifier: Apache-2.0
"""Measure the repetition detector against the designs it beat: cost, loops found, false alarms."""

from __future__ import annotations

import argparse
import json
import random
import sys
import sysconfig
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from otelstream._core.record.repetition import RepetitionDetector

Loop = tuple[int, int]  # start and period; a period of 0 is a ratio's verdict
SUFFIXES = ("py", "csv", "tsv", "json", "md", "rst", "txt", "html", "js", "css", "toml", "h", "c", "svg", "")


class Detector(Protocol):
    def feed(self, text: str) -> object: ...
    def finish(self) -> Loop | None: ...


def needed(period: int) -> int:
    """Return how many characters said again make a loop."""
    return max(400, (5 if period < 64 else 3 if period < 1_024 else 2) * period)


class Ours:
    """The detector of the package."""

    def __init__(self) -> None:
        self.detector = RepetitionDetector()
        self.feed = self.detector.feed

    def finish(self) -> Loop | None:
        found = self.detector.finish()
        return (found.start, found.period) if found else None


class LastGram:
    """(a) The last 24 characters, sought once every 512 in 6 000: no second place is tried."""

    def __init__(self) -> None:
        self.text, self.fresh, self.base, self.run, self.loop = "", "", 0, (0, 0), None

    def feed(self, text: str) -> None:
        self.fresh += text
        while len(self.fresh) >= 512:
            self.digest(self.fresh[:512])
            self.fresh = self.fresh[512:]

    def digest(self, fresh: str) -> None:
        begin = len(self.text)
        text = self.text + fresh
        end = len(text)
        start, period = self.run
        if not (period and text[begin:end] == text[begin - period : end - period]):
            place = text.rfind(text[-24:], 0, end - 1) if end > 24 else -1
            period = end - 24 - place if place >= 0 else 0
            same = 0
            while period and same < end - period and text[end - same - 1] == text[end - same - 1 - period]:
                same += 1
            start = self.base + end - same - period
        self.run = (start, period)
        unit = text[end - period :]
        again = self.base + end - start - period
        if period and self.loop is None and again >= needed(period) and any(map(str.isalnum, unit)):
            self.loop = self.run
        keep = text[-6_000:]
        self.base += end - len(keep)
        self.text = keep

    def finish(self) -> Loop | None:
        if self.fresh:
            self.digest(self.fresh)
        return self.loop


class Automaton:
    """(b) A failure function a character at a time, anchored anew where 4 096 characters showed no period."""

    def __init__(self) -> None:
        self.text, self.fail, self.anchor, self.loop = [], [], 0, None

    def feed(self, text: str) -> None:
        for char in text:
            self.push(char)

    def push(self, char: str) -> None:
        text, fail = self.text, self.fail
        border = fail[-1] if fail else -1
        while border >= 0 and text[border] != char:
            border = fail[border - 1] if border else -1
        text.append(char)
        fail.append(border + 1)
        border += 1
        period = len(text) - border
        if border >= 400 and border >= needed(period) and self.loop is None and period <= 2_000:
            if any(map(str.isalnum, text[:period])):
                self.loop = (self.anchor, period)
        elif len(text) >= 4_096 and border < 2_048:
            tail = text[-256:]
            self.anchor += len(text) - len(tail)
            self.text, self.fail = [], []
            self.feed("".join(tail))

    def finish(self) -> Loop | None:
        return self.loop


class Ratio:
    """(c) zlib alone: every 2 048 characters, the ratio of the last 4 096."""

    limit = 10.0

    def __init__(self) -> None:
        self.text, self.at, self.loop = "", 0, None

    def feed(self, text: str) -> None:
        self.text += text
        while len(self.text) >= 4_096:
            raw = self.text[:4_096].encode("utf-8", "surrogatepass")
            ratio = len(raw) / len(zlib.compress(raw))
            if self.loop is None and ratio > self.limit:
                self.loop = (self.at, 0)
            self.text = self.text[2_048:]
            self.at += 2_048

    def finish(self) -> Loop | None:
        return self.loop


class SpeechRatio(Ratio):
    """(c') The same with the limit of 2.4 that speech recognition uses."""

    limit = 2.4


class Grams:
    """(d) A dictionary of the last place of every 16-gram, looked up at every character."""

    def __init__(self) -> None:
        self.text, self.base, self.places, self.period, self.again, self.loop = "", 0, {}, 0, 0, None

    def feed(self, text: str) -> None:
        begin = len(self.text)
        self.text = text = self.text + text
        places, base = self.places, self.base
        period, again = self.period, self.again
        for at in range(begin, len(text)):
            gram = text[at - 15 : at + 1] if at >= 15 else ""
            if period and text[at] == text[at - period]:
                again += 1
                long = again >= 400 and self.loop is None and again >= needed(period)
                if long and any(map(str.isalnum, text[at - period : at])):
                    self.loop = (base + at + 1 - again - period, period)
            elif gram:
                place = places.get(gram, -1)
                period = base + at - place if place >= 0 else 0
                period, again = (period, 16) if period <= 2_000 else (0, 0)
                while period and again < at - period and text[at - again] == text[at - again - period]:
                    again += 1
            places[gram] = base + at
        self.period, self.again = period, again
        drop = len(text) - 6_000
        if drop > 0:
            self.text = text[drop:]
            self.base += drop
        if len(places) > 8_192:
            self.places = {gram: place for gram, place in places.items() if place >= self.base}

    def finish(self) -> Loop | None:
        return self.loop


DESIGNS: dict[str, Callable[[], Detector]] = {
    "otelstream": Ours,
    "a  last 24 characters": LastGram,
    "b  failure function": Automaton,
    "c  zlib ratio > 10": Ratio,
    "c' zlib ratio > 2.4": SpeechRatio,
    "d  16-gram dictionary": Grams,
}


def texts() -> dict[str, str]:
    """Make 100 000 characters of each kind."""
    rng = random.Random(1)
    code = Path(argparse.__file__).read_text(encoding="utf-8")
    words = code.split()
    rows = range(4_000)
    made = {
        "prose": " ".join(rng.choice(words) for _ in range(20_000)),
        "code": code * 2,
        "csv": "".join(f"{rng.randrange(10**5)},{rng.random():.4f},{rng.choice(words)},ok\n" for _ in rows),
        "markdown table": "".join(
            f"| item-{n} | {rng.choice(('yes', 'no '))} | {rng.randrange(999):>8} | words |\n" for n in rows
        ),
        "json": json.dumps([{"id": n, "name": rng.choice(words)[:6], "score": rng.random()} for n in rows], indent=2),
        "chinese": "".join(chr(rng.randrange(0x4E00, 0x9000)) for _ in range(100_000)),
        "one loop": "and so on, " * 10_000,
        "spaces": " " * 100_000,
        "near-repeats": "".join(f"the brown fox {n} jumps over the lazy dog and so on. " for n in rows),
        "random a/b": "".join(rng.choice("ab") for _ in range(100_000)),
        "runs of a, a b between": "".join("a" * rng.randrange(100, 500) + "b" for _ in range(500)),
        "long runs of a": "".join("a" * rng.choice((1_000, 1_500, 1_990)) + "b" for _ in range(100)),
    }
    return {kind: text[:100_000] for kind, text in made.items()}


def cost(design: Callable[[], Detector], text: str, size: int, rounds: int = 7) -> float:
    """Return the nanoseconds a character, the best of some rounds, with feeds of the size given."""
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    best = float("inf")
    for _ in range(rounds):
        detector = design()
        feed = detector.feed
        begin = time.perf_counter()
        for piece in pieces:
            feed(piece)
        detector.finish()
        best = min(best, time.perf_counter() - begin)
    return best / len(text) * 1e9


def loops(periods: Iterable[int]) -> Iterator[tuple[int, int, str]]:
    """Make texts with one loop in them: its start, its period, the text."""
    alphabets = ("abcdefghijklmnopqrstuvwxyz ,.\n", "ab", "0123456789,\n", '"\\/\n\t{}[]:a', "äöüß λжあ漢🙂a")
    for period in periods:
        rng = random.Random(period)
        alphabet = rng.choice(alphabets)
        unit = ""
        while (unit + unit).find(unit, 1) != period or not any(map(str.isalnum, unit)):
            unit = "".join(rng.choice(alphabet) for _ in range(period))
        size = period + needed(period) + rng.choice((0, 1, period))
        before = "".join(rng.choice(alphabet) for _ in range(rng.randrange(3_000))) + "<"
        after = ">" + "".join(rng.choice(alphabet) for _ in range(rng.choice((0, 300, 2_500))))
        yield len(before), period, before + (unit * (size // period + 1))[:size] + after


def find(design: Callable[[], Detector], periods: Iterable[int]) -> tuple[list[int], list[int]]:
    """Return the periods whose loop was seen at all, and those found with their right start and period."""
    seen, right = [], []
    for start, period, text in loops(periods):
        loop = run(design, text)
        if loop is not None:
            seen.append(period)
        if loop == (start, period):
            right.append(period)
    return seen, right


def run(design: Callable[[], Detector], text: str) -> Loop | None:
    """Return what the design says of a text that comes in pieces of 480 characters."""
    detector = design()
    for at in range(0, len(text), 480):
        detector.feed(text[at : at + 480])
    return detector.finish()


def corpus(folders: list[Path], limit: int) -> list[tuple[Path, str]]:
    """Read up to `limit` text files of the suffixes we know, evenly chosen from each folder and suffix."""
    chosen: list[Path] = []
    groups = [
        sorted(folder.rglob(f"*.{suffix}" if suffix else "LICENSE*")) for folder in folders for suffix in SUFFIXES
    ]
    groups = [[path for path in group if path.is_file() and 2_000 < path.stat().st_size < 200_000] for group in groups]
    groups = sorted(filter(None, groups), key=len)
    for left, group in zip(range(len(groups), 0, -1), groups, strict=True):
        share = (limit - len(chosen)) // left
        chosen += group[:: max(1, -(-len(group) // share))][:share] if share else []
    return [(path, path.read_text(encoding="utf-8", errors="replace")) for path in sorted(set(chosen))]


def alarms(design: Callable[[], Detector], files: list[tuple[Path, str]]) -> list[tuple[Path, Loop]]:
    """Return the files in which the design sees a repetition."""
    said = ((path, run(design, text)) for path, text in files)
    return [(path, loop) for path, loop in said if loop is not None]


def main() -> int:
    """Print the comparison, or with --all or --corpus one part of it in full."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="seek a loop of every period from 1 to 2 000")
    parser.add_argument("--corpus", nargs="+", type=Path, metavar="DIR", help="list our alarms in these folders")
    parser.add_argument("--files", type=int, default=400, help="files taken from the corpus (400)")
    options = parser.parse_args()

    if options.all:
        seen, right = find(Ours, range(1, 2_001))
        print(f"of 2 000 loops {len(seen)} seen, {len(right)} with right start and period")
        return len(right) < 2_000

    folders = options.corpus or [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    files = corpus(folders, options.files)
    size = sum(len(text) for _, text in files)
    if options.corpus:
        seen = alarms(Ours, files)
        certain = sum(period > 0 for _, (_, period) in seen)
        print(f"{len(files)} files, {size:,} characters: {certain} loops, {len(seen) - certain} suspicions")
        for path, (start, period) in seen:
            print(f"  {path} at {start}, " + (f"period {period}" if period else "suspected"))
        return certain * 150 > len(files)

    kinds = texts()
    print(f"{'ns a character':24}{'feeds of 512':>14}{'of 50':>8}")
    for kind, text in kinds.items():
        print(f"{kind:24}{cost(Ours, text, 512):14.1f}{cost(Ours, text, 50):8.1f}")
    sample = range(1, 2_001, 20)
    heads = "".join(f"{kind:>8}" for kind in ("prose", "code", "json", "a/b"))
    print(f"\n{'design, feeds of 512':24}{heads}{'seen':>6}{'right':>7}{'alarms':>9}")
    for name, design in DESIGNS.items():
        spent = [cost(design, kinds[kind], 512, 3) for kind in ("prose", "code", "json", "random a/b")]
        seen, right = find(design, sample)
        figures = "".join(f"{figure:8.1f}" for figure in spent)
        print(f"{name:24}{figures}{len(seen):6}{len(right):7}{len(alarms(design, files)):9}")
    print(f"\nseen and right: of {len(sample)} loops; alarms: in {len(files)} files of {size:,} characters")
    print("next: python benchmarks/repetition.py --all | --corpus DIR... [--files N]")
    return 0


if __name__ == "__main__":
    sys.exit(main())
