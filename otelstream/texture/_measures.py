# SPDX-License-Identifier: Apache-2.0
"""What of an answer is texture: each measure, and how one answer's value is read from its record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from otelstream import _semconv as names
from otelstream.view._record import Attributes, Moment, SpanRecord
from otelstream.view._sentences import seconds
from otelstream.view._timeline import maybe, text

Unit = Literal["s", "tokens/s", "chars", "share"]
WHOLE: Final = ("completed", "truncated")  # an answer that somebody stopped has no length of its own


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure: its key in files, its name in words, its unit, and what one answer says of it."""

    key: str
    name: str
    unit: Unit
    says: str

    @property
    def is_share(self) -> bool:
        """Whether each answer says yes or no to it."""
        return self.unit == "share"

    def said(self, value: float) -> str:
        """A value as people read it."""
        if self.unit == "share":
            return f"{value * 100:.0f} %"
        if self.unit == "s":
            return seconds(value)
        return f"{_short(value)} {_WORDS[self.unit]}"

    def moved(self, *values: float) -> tuple[list[str], str]:
        """Changes of it, each with its sign, and the unit that they share."""
        most = max(map(abs, values))
        if self.unit == "share":
            signed = [_signed(value * 100, "0") for value in values]
            return signed, "point" if signed[0] in {"+1", "-1"} else "points"
        if self.unit == "s":
            return (_all([value * 1000 for value in values]), "ms") if most < 1 else (_all(values), "s")
        return _all(values), _WORDS[self.unit]


def _all(values: Sequence[float]) -> list[str]:
    places = 0 if max(map(abs, values)) >= 100 else 1 if max(map(abs, values)) >= 10 else 2
    return [_signed(value, "0." + "0" * places if places else "0") for value in values]


def _signed(value: float, zero: str) -> str:
    """A number with its sign, rounded as *zero* is written; what rounds to nothing has no sign."""
    text = f"{value:+,.{len(zero.partition('.')[2])}f}"
    return zero if text[1:] == zero else text


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


_WORDS: Final = {"tokens/s": "tok/s", "chars": "chars"}

MEASURES: Final = (
    Measure("first_token", "first token", "s", "request to the first token that a user can see"),
    Measure("thinking", "thinks first", "share", "whether it thought before it spoke"),
    Measure("thinking_time", "thinking time", "s", "first chunk to first visible token, of answers that think first"),
    Measure("chunk_size", "chunk size", "chars", "characters a chunk, on average"),
    Measure("output_rate", "output rate", "tokens/s", "output tokens over first to last chunk, where they are counted"),
    Measure("gap_p50", "gap, median", "s", "the median wait between two chunks"),
    Measure("gap_p95", "gap, 95th", "s", "the 95th percentile of the waits"),
    Measure("gap_max", "gap, longest", "s", "the longest wait"),
    Measure("tool_pause", "pause before tool", "s", "silence before the input of its first tool call"),
    Measure("preamble", "preamble", "share", "of answers with a tool call: whether text came before the first"),
    Measure("length", "answer length", "chars", "visible characters"),
    Measure("stalls", "froze", "share", "whether the provider froze, as the setting stall_threshold has it"),
)
BY_KEY: Final = {measure.key: measure for measure in MEASURES}
_PLAIN: Final = {
    "first_token": names.TIME_TO_FIRST_TOKEN,
    "output_rate": names.OUTPUT_RATE,
    "gap_p50": names.GAP_P50,
    "gap_p95": names.GAP_P95,
    "gap_max": names.GAP_MAX,
    "length": names.VISIBLE_CHARS,
}


def model_of(record: SpanRecord) -> str:
    """The model as it was asked for: what answers under that name may change, and that is the question here."""
    return text(record.attributes, names.REQUEST_MODEL) or text(record.attributes, names.RESPONSE_MODEL)


def left_out(record: SpanRecord) -> str:
    """Why a stream is no whole answer; empty where it is one."""
    outcome = text(record.attributes, names.OUTCOME)
    if outcome in WHOLE and record.attributes.get(names.UNSEEN) is True:
        return "unseen"
    return "" if outcome in WHOLE else outcome


def values(record: SpanRecord) -> Iterator[tuple[str, float]]:
    """What one whole answer says: one value for each measure at most, for its chunks are not independent."""
    said = record.attributes
    for key, attribute in _PLAIN.items():
        value = maybe(said, attribute)
        if value is not None:
            yield key, value
    yield "stalls", float((maybe(said, names.STALLS_PROVIDER) or 0) > 0)
    yield from _thinking(record)
    size = _chunk_size(record)
    if size is not None:
        yield "chunk_size", size
    tool = _first(record, names.EVENT_TOOL_READY)
    if tool is not None:
        yield "preamble", float(tool.attributes.get(names.TOOL_CALL_PREAMBLE) is True)
        pause = maybe(tool.attributes, names.TOOL_CALL_PAUSE)
        if pause is not None:
            yield "tool_pause", pause


def _thinking(record: SpanRecord) -> Iterator[tuple[str, float]]:
    chunk = _first(record, names.EVENT_FIRST_CHUNK)
    if chunk is None:
        return
    thought = chunk.attributes.get(names.BLOCK_KIND) == "thinking"
    yield "thinking", float(thought)
    token, begun = _time(record.attributes)
    if thought and token is not None and begun is not None:
        yield "thinking_time", token - begun


def _time(said: Attributes) -> tuple[float | None, float | None]:
    return maybe(said, names.TIME_TO_FIRST_TOKEN), maybe(said, names.TIME_TO_FIRST_CHUNK)


def _chunk_size(record: SpanRecord) -> float | None:
    windows = [event.attributes for event in record.events if event.name == names.EVENT_CADENCE]
    chars = sum(maybe(window, names.CADENCE_CHARS) or 0 for window in windows)
    # A window counts gaps, and the first chunk of all has none.
    chunks = sum(maybe(window, names.CADENCE_CHUNKS) or 0 for window in windows) + 1
    return chars / chunks if chars else None


def _first(record: SpanRecord, name: str) -> Moment | None:
    return next((event for event in record.events if event.name == name), None)
