# SPDX-License-Identifier: Apache-2.0
"""A recording: for each model the values of every measure, sorted, so that nothing of one answer is left together."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from otelstream.texture._measures import BY_KEY, left_out, model_of, values
from otelstream.view._record import SpanRecord, plain

_VERSION: Final = 1
_HEAD: Final = "otelstream_texture"
ANSWERS, PROMETHEUS = "answers", "prometheus"


class RecordingError(ValueError):
    """A file that is no recording; the text says where, what, and what to do."""


@dataclass(frozen=True, slots=True)
class Buckets:
    """A histogram: how many values were at most each bound, the last bound being infinite."""

    bounds: tuple[float, ...]
    counts: tuple[float, ...]

    @property
    def count(self) -> int:
        return round(self.counts[-1]) if self.counts else 0

    def within(self, bounds: Iterable[float]) -> Buckets:
        """The same in fewer bounds."""
        kept = [pair for pair in zip(self.bounds, self.counts, strict=True) if pair[0] in bounds]
        return Buckets(tuple(bound for bound, _ in kept), tuple(count for _, count in kept))

    def spread(self, most: int) -> list[float]:
        """At most so many values, each bucket's evenly between its bounds, as `histogram_quantile()` takes them."""
        share = min(1.0, most / max(1, self.count))
        found: list[float] = []
        low, below = 0.0, 0
        for bound, count in zip(self.bounds, self.counts, strict=True):
            upto = max(below, round(count * share))
            width = 0.0 if math.isinf(bound) else bound - low
            found += (low + width * (place + 0.5) / (upto - below) for place in range(upto - below))
            low, below = (low if math.isinf(bound) else bound), upto
        return found


@dataclass(slots=True)
class Texture:
    """What is kept of one model: numbers in order, shares as (yes, of), and histograms where there are no values."""

    answers: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    numbers: dict[str, list[float]] = field(default_factory=dict)
    shares: dict[str, tuple[int, int]] = field(default_factory=dict)
    buckets: dict[str, Buckets] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        measures: dict[str, Any] = {}
        for key in BY_KEY:
            if key in self.numbers:
                measures[key] = [float(f"{value:.6g}") for value in sorted(self.numbers[key])]
            elif key in self.shares:
                measures[key] = dict(zip(("yes", "of"), self.shares[key], strict=True))
            elif key in self.buckets:
                found = self.buckets[key]
                bounds = ["+Inf" if math.isinf(bound) else bound for bound in found.bounds]
                measures[key] = {"le": bounds, "counts": list(found.counts)}
        left = dict(sorted(self.left_out.items()))
        return {"answers": self.answers, "left_out": left, "measures": measures}


@dataclass(slots=True)
class Recording:
    """The textures of a recording by model, and where they are from."""

    source: str = ANSWERS
    models: dict[str, Texture] = field(default_factory=dict)

    def add(self, record: SpanRecord) -> None:
        """Take the values of one stream; what is no whole answer is only counted."""
        texture = self.models.setdefault(model_of(record), Texture())
        why = left_out(record)
        if why:
            texture.left_out[why] += 1
            return
        found = [(key, value) for key, value in values(record) if _is_number(value)]
        texture.answers += 1
        for key, value in found:
            if BY_KEY[key].is_share:
                yes, of = texture.shares.get(key, (0, 0))
                texture.shares[key] = (yes + int(value), of + 1)
            else:
                texture.numbers.setdefault(key, []).append(value)

    def only(self, model: str) -> Recording:
        """The same with one of its models."""
        return Recording(self.source, {name: held for name, held in self.models.items() if name == model})

    def to_json(self) -> str:
        models = {name: self.models[name].as_dict() for name in sorted(self.models)}
        head = {_HEAD: _VERSION, "from": self.source}
        lines = [f"{json.dumps(name)}: {json.dumps(held)}" for name, held in models.items()]
        # A line a model: a difference of two files can be read.
        return json.dumps({**head, "models": {}})[:-2] + "\n" + ",\n".join(lines) + "\n}}\n"


def from_lines(lines: Iterable[str]) -> Recording:
    """Read the output of `otelstream run --json`; the program's own words between it are passed over."""
    recording = Recording()
    for line in lines:
        try:
            record = SpanRecord.from_json(line)
            if record.is_stream:
                recording.add(record)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            continue
    return recording


def load(path: Path) -> Recording:
    """Read a recording, checked; RecordingError says what is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror}; make it by `otelstream texture record -o {path}`") from None
    except UnicodeDecodeError:
        raise RecordingError(f"{path}: it is not UTF-8; make it anew by `otelstream texture record`") from None
    try:
        return _read(json.loads(text))
    except (ValueError, RecursionError) as error:
        said = str(error) if isinstance(error, RecordingError) else "it is no JSON"
        raise RecordingError(f"{path}: {said}; make it anew by `otelstream texture record`") from None


def _read(data: Any) -> Recording:
    if not isinstance(data, Mapping) or data.get(_HEAD) != _VERSION:
        raise RecordingError(f"it has no {_HEAD} {_VERSION}, as every recording has")
    source, models = data.get("from"), data.get("models")
    if source not in (ANSWERS, PROMETHEUS):
        raise RecordingError(f"from {plain(str(source))[:60]} is neither {ANSWERS} nor {PROMETHEUS}")
    if not isinstance(models, Mapping):
        raise RecordingError("models is no mapping of names to textures")
    return Recording(source, {plain(name): _texture(plain(name), held) for name, held in models.items()})


def _texture(name: str, data: Any) -> Texture:
    measures = data.get("measures") if isinstance(data, Mapping) else None
    if not isinstance(measures, Mapping) or not _is_count(data.get("answers")):
        raise RecordingError(f"models.{name} has no answers and measures")
    left = data.get("left_out", {})
    if not isinstance(left, Mapping) or not all(_is_count(count) for count in left.values()):
        raise RecordingError(f"models.{name}.left_out is no mapping of words to counts")
    texture = Texture(data["answers"], Counter({plain(str(word)): count for word, count in left.items()}))
    for key, held in measures.items():
        where = f"models.{name}.measures.{plain(str(key))}"
        if key not in BY_KEY:
            continue  # of a later version
        if BY_KEY[key].is_share:
            texture.shares[key] = _share(where, held)
        elif isinstance(held, Mapping):
            texture.buckets[key] = _buckets(where, held)
        else:
            texture.numbers[key] = _numbers(where, held)
    return texture


def _numbers(where: str, held: Any) -> list[float]:
    if not isinstance(held, list) or not all(_is_number(value) for value in held):
        raise RecordingError(f"{where} is no list of numbers")
    return sorted(map(float, held))


def _share(where: str, held: Any) -> tuple[int, int]:
    yes, of = (held["yes"], held["of"]) if isinstance(held, Mapping) and {"yes", "of"} <= held.keys() else (None, None)
    if not isinstance(yes, int) or not isinstance(of, int) or not (_is_count(yes) and _is_count(of)) or yes > of:
        raise RecordingError(f"{where} does not say yes and of, two counts")
    return yes, of


def _buckets(where: str, held: Mapping[str, Any]) -> Buckets:
    bounds, counts = held.get("le"), held.get("counts")
    if isinstance(bounds, list) and isinstance(counts, list) and len(bounds) == len(counts) > 0:
        edges = [math.inf if bound == "+Inf" else bound for bound in bounds]
        finite = all(map(_is_number, (*edges[:-1], *counts)))
        if finite and edges[-1] == math.inf and edges == sorted(set(edges)) and counts == sorted(counts):
            return Buckets(tuple(map(float, edges)), tuple(map(float, counts)))
    raise RecordingError(f"{where} has no rising bounds (le) up to +Inf with a rising count each")


def _is_number(value: Any) -> bool:
    # Compared, as a great int is no float at all, and NaN is in no range.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
