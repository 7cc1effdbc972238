# SPDX-License-Identifier: Apache-2.0
"""Streams and the tool calls they asked for, on one axis: what had happened when somebody pressed Stop."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from otelstream import _semconv as names

from ._record import Attributes, SpanRecord
from ._timeline import Timeline, number, text

# A trace around a whole batch is one turn by its ids, and no picture.
_MOST_STREAMS: Final = 6
# How a Stop found a call, in the order of the ledger, and as it is read there.
LEDGER: Final = {
    "committed": "committed before Stop",
    "running": "running at Stop",
    "withheld": "withheld",
    "compensated": "compensated",
    "discarded": "discarded by Stop",
}
_WORST_FIRST: Final = ("bad", "stopped", "flawed", "open", "good")
# An event's instant and a delay on the same span differ by their rounding.
_SAME: Final = 0.001


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call; times are seconds since the first request of its turn, None where no span said so."""

    name: str
    id: str
    ready: float | None = None
    started: float | None = None
    ended: float | None = None  # of one that was withheld: when it was refused
    input: str = ""
    effect: str = ""
    state: str = ""  # empty: it was asked for, and nothing more is known
    phase: str = ""
    guessed: bool = False

    @property
    def known(self) -> bool:
        """Whether anything is known of it beyond that the model asked for it."""
        return self.started is not None or self.state not in {"", "ready"}


@dataclass(frozen=True, slots=True)
class Stop:
    """Who stopped a turn, when, and how its tool calls stood: the ledger, without mere reads, newest first.

    The span counts more than it names where a tool's own span was not received: `unnamed`, by the same words.
    """

    at: float
    trigger: str
    line: Timeline
    committed: tuple[Call, ...]
    running: tuple[Call, ...]
    discarded: tuple[Call, ...]
    withheld: tuple[Call, ...]
    compensated: tuple[Call, ...]
    unnamed: dict[str, int]

    def __iter__(self) -> Iterator[tuple[str, tuple[Call, ...], int]]:
        """Each word of the ledger that holds anything: its calls, and how many more have no name."""
        for word in LEDGER:
            calls, more = getattr(self, word), self.unnamed.get(word, 0)
            if calls or more:
                yield word, calls, more


@dataclass(frozen=True, slots=True)
class Turn:
    """Streams that follow from one another, when each began, and their tool calls."""

    lines: tuple[Timeline, ...]
    starts: tuple[float, ...]
    calls: tuple[Call, ...]
    stop: Stop | None
    tools: tuple[SpanRecord, ...] = ()

    @property
    def length(self) -> float:
        ends = [start + line.length for start, line in zip(self.starts, self.lines, strict=True)]
        return max([*ends, *(call.ended for call in self.calls if call.ended is not None)])

    def state(self, call: Call) -> str:
        """What became of a call, in a word."""
        if call.started is None and call.state in {"", "ready"}:
            return "discarded" if self.stop is not None and call in self.stop.discarded else "not run"
        return call.state or "running"

    @property
    def asked_for(self) -> int:
        """How many tool calls the model began to ask for."""
        begun = sum(int(number(line.record.attributes, names.STREAM_TOOL_CALLS)) for line in self.lines)
        return max(len(self.calls), begun)

    @property
    def worth_drawing(self) -> bool:
        """Whether there is more to draw than its streams alone."""
        return any(call.known for call in self.calls) or (self.stop is not None and any(True for _ in self.stop))

    @property
    def telling(self) -> Timeline:
        """The stream that says how the turn ended: the stopped one, else the worst, else the last."""
        if self.stop is not None:
            return self.stop.line
        return min(reversed(self.lines), key=lambda line: _WORST_FIRST.index(line.grade))


@dataclass(frozen=True, slots=True)
class Row:
    """A stream with its name, and what a status code and another span say of it."""

    label: str
    line: Timeline | None
    http: str = ""
    native: str = ""
    turn: Turn | None = None  # of which `line` is the stream that says how it ended

    @property
    def lines(self) -> tuple[Timeline, ...]:
        """Every stream of the row."""
        if self.turn is not None:
            return self.turn.lines
        return (self.line,) if self.line is not None else ()

    @property
    def length(self) -> float:
        """Seconds that the row needs of an axis."""
        if self.turn is not None:
            return self.turn.length
        return self.line.length if self.line is not None else 0.0


def assemble(rows: Sequence[Row], tools: Iterable[SpanRecord]) -> list[Row]:
    """Join the rows of streams that make one turn with its tool calls; leave those without any as they are."""
    by_link: dict[str, list[SpanRecord]] = defaultdict(list)
    for tool in tools:
        for span in tool.links:
            by_link[span].append(tool)
    chains = _chains(rows)
    output: list[Row] = []
    for row in rows:
        chain = chains.get(id(row), [row])
        if chain[0] is not row:
            continue  # drawn with the first of its turn
        whole = turn_of([each.line for each in chain if each.line], by_link)
        if whole is not None and whole.worth_drawing:
            output.append(replace(row, label=chain[-1].label, line=whole.telling, turn=whole))
        else:
            output += chain
    return output


def turn_of(lines: Sequence[Timeline], by_link: dict[str, list[SpanRecord]]) -> Turn | None:
    """Put *lines* and the tools that are linked to them on the axis of the first request."""
    if not lines:
        return None
    ordered = sorted(lines, key=lambda line: line.record.started)
    origin = ordered[0].record.started
    calls: list[Call] = []
    for line in ordered:
        calls += _calls(line, by_link.get(line.record.span_id, ()), origin)
    calls.sort(key=lambda call: next((at for at in (call.ready, call.started, call.ended) if at is not None), 0.0))
    starts = tuple(line.record.started - origin for line in ordered)
    spans = {tool.span_id: tool for line in ordered for tool in by_link.get(line.record.span_id, ())}
    return Turn(tuple(ordered), starts, tuple(calls), _stop(ordered, starts, calls), tuple(spans.values()))


def _chains(rows: Sequence[Row]) -> dict[int, list[Row]]:
    """The rows of each turn, by each of them, in the order given.

    A chat may use one id for all its questions: a stream goes on with what came before only where that asked for a
    tool, or had not ended.
    """
    keyed: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.line is not None and row.turn is None and row.line.record.turn:
            keyed[row.line.record.turn].append(row)
    found: dict[int, list[Row]] = {}
    order = {id(row): index for index, row in enumerate(rows)}
    for group in keyed.values():
        chain: list[Row] = []
        until = 0.0
        for row in sorted(group, key=lambda row: row.lines[0].record.started):
            line = row.lines[0]
            if chain and line.record.started > until and not _goes_on(chain[-1].lines[0]):
                _keep(found, chain, order)
                chain, until = [], 0.0
            chain.append(row)
            until = max(until, line.record.started + line.length)
        _keep(found, chain, order)
    return found


def _keep(found: dict[int, list[Row]], chain: list[Row], order: dict[int, int]) -> None:
    if len(chain) <= _MOST_STREAMS:
        chain.sort(key=lambda row: order[id(row)])
        found.update((id(row), chain) for row in chain)


def _goes_on(line: Timeline) -> bool:
    return bool(line.tools) or line.finish_reason.startswith(("tool", "pause"))


def _calls(line: Timeline, tools: Iterable[SpanRecord], origin: float) -> list[Call]:
    """The calls that one stream asked for, from its own events and from the spans of the tools."""
    found: dict[str, Call] = {}

    def tell(attributes: Attributes, **more: object) -> None:
        name, id_ = text(attributes, names.TOOL_NAME), text(attributes, names.TOOL_CALL_ID)
        known = found.get(id_ or name, Call(name, id_))
        said = {
            "input": text(attributes, names.TOOL_CALL_INPUT) or known.input,
            "effect": text(attributes, names.TOOL_CALL_EFFECT) or known.effect,
            "state": text(attributes, names.TOOL_CALL_STATE) or known.state,
            "phase": text(attributes, names.DISPATCH_PHASE) or known.phase,
            "guessed": attributes.get(names.DISPATCH_GUESSED) is True or known.guessed,
        }
        found[id_ or name] = replace(known, **{**said, **more})  # type: ignore[arg-type]

    offset = line.record.started - origin
    for event in line.record.events:
        if event.name in _FIELDS:
            tell(event.attributes, **{_FIELDS[event.name]: offset + event.elapsed})
    for tool in tools:
        start = tool.started - origin
        tell(tool.attributes)
        for event in tool.events:
            if event.name in _FIELDS:
                tell(event.attributes, **{_FIELDS[event.name]: start + event.elapsed})
        _settle(found, tool, start, origin)
    return list(found.values())


_FIELDS: Final = {
    names.EVENT_TOOL_READY: "ready",
    names.EVENT_TOOL_DISPATCHED: "started",
    names.EVENT_TOOL_FINISHED: "ended",
}


def _settle(found: dict[str, Call], tool: SpanRecord, start: float, origin: float) -> None:
    """Read from a tool's span itself what its events do not say."""
    key = text(tool.attributes, names.TOOL_CALL_ID) or text(tool.attributes, names.TOOL_NAME)
    call = found[key]
    ended = None if tool.ended is None else tool.ended - origin
    if call.state == "withheld":
        found[key] = replace(call, started=None, ended=ended)
        return
    state = call.state
    if ended is not None and state in {"", "ready", "running"}:
        state = "failed" if tool.status == "ERROR" else "committed"
    found[key] = replace(
        call,
        started=start if call.started is None else call.started,
        ended=ended if call.ended is None else call.ended,
        state=state,
    )


def _stop(lines: Sequence[Timeline], starts: Sequence[float], calls: Sequence[Call]) -> Stop | None:
    stopped = [
        (start + line.stopped_at, line)
        for start, line in zip(starts, lines, strict=True)
        if line.stopped_at is not None
    ]
    if not stopped:
        return None
    at, line = min(stopped, key=lambda pair: pair[0])
    stood: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        word = _stood(call, at)
        if word:
            stood[word].append(call)
    counted = {
        "committed": line.effects.committed,
        "running": line.effects.running,
        "discarded": line.effects.discarded,
    }
    if len(stood["discarded"]) > counted["discarded"]:
        # Reads and calls that may still run look the same on a span: only their number is known.
        stood["discarded"] = []
    unnamed = {word: count - len(stood[word]) for word, count in counted.items() if count > len(stood[word])}
    ledger = {
        word: tuple(sorted(stood[word], key=lambda call: call.ended or call.started or call.ready or 0.0, reverse=True))
        for word in LEDGER
    }
    return Stop(at, line.trigger, line, **ledger, unnamed=unnamed)


def _stood(call: Call, at: float) -> str:
    """The ledger's word for a call at the instant of a Stop; empty for what touches nothing."""
    if call.effect == "read":
        return ""
    if call.state in {"withheld", "compensated"}:
        return call.state
    if call.started is None:
        return "discarded"
    if call.ended is not None and call.ended <= at + _SAME:
        return "committed" if call.state == "committed" else ""
    return "running"
