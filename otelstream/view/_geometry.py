# SPDX-License-Identifier: Apache-2.0
"""What lies where on a time axis: a stream, a tool call, a Stop and the ticks, for whoever draws them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ._sentences import called, others, relative, seconds
from ._timeline import Flow, Grade, Hole, Loop, Timeline
from ._turns import LEDGER, Call, Row, Stop, Turn

_STEPS: Final = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
ENDS: Final = {
    "completed": "complete",
    "truncated": "cut by a limit",
    "refused": "refused",
    "failed": "failed",
    "cancelled": "stopped",
    "caller_error": "own error",
    "abandoned": "dropped",
}
STATE_GRADES: Final[dict[str, Grade]] = {
    "committed": "good",
    "running": "stopped",
    "failed": "bad",
    "withheld": "flawed",
    "compensated": "flawed",
    "discarded": "stopped",
}


def axis_limit(rows: Sequence[Row | Timeline]) -> float:
    """The right edge of the shared axis: the longest stream, or turn."""
    return max([row.length for row in rows] + [0.5]) * 1.001


def tick_step(limit: float, most: int) -> float:
    """The finest readable step that gives at most *most* ticks."""
    for step in _STEPS:
        if limit / step <= most:
            return step
    return float(3600 * math.ceil(limit / 3600 / max(1, most)))


def ticks(limit: float, step: float) -> Iterator[tuple[float, str]]:
    """Where each tick lies, and what stands there."""
    return ((count * step, f"{count * step:g} s") for count in range(int(limit / step) + 1))


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at an instant; `kind` is one of first, tool, retry, withdrawn and ask."""

    kind: str
    at: float
    said: str
    grade: Grade = "flawed"


@dataclass(frozen=True, slots=True)
class Lane:
    """One stream; all times are seconds on the axis, on which it begins at `start`."""

    line: Timeline
    start: float
    waits_until: float
    end: float
    flows: tuple[Flow, ...]
    holes: tuple[Hole, ...]
    loops: tuple[Loop, ...]
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class CallLane:
    """One tool call: it waits from `begin`, runs from `runs`, and at `end` stands what became of it."""

    state: str
    grade: Grade
    begin: float
    runs: float
    end: float
    ready: Mark | None
    ran: bool


def lanes(row: Row) -> list[Lane]:
    """Every stream of a row."""
    starts = row.turn.starts if row.turn is not None else (0.0,) * len(row.lines)
    return [lane(line, start) for line, start in zip(row.lines, starts, strict=True)]


def lane(line: Timeline, start: float = 0.0) -> Lane:
    """Lay one stream out from *start* on."""
    return Lane(
        line,
        start,
        start + (line.length if line.first_chunk is None else line.first_chunk),
        start + line.length,
        tuple(replace(flow, start=start + flow.start, end=start + flow.end) for flow in line.flows),
        tuple(replace(hole, start=start + hole.start, end=start + hole.end) for hole in line.holes),
        tuple(replace(loop, start=start + loop.start, found=start + loop.found) for loop in line.loops),
        tuple(replace(mark, at=start + mark.at) for mark in _marks(line)),
    )


def _marks(line: Timeline) -> Iterator[Mark]:
    """The marks of a stream; where two share a place, the later one is what matters more."""
    for tool in line.tools:
        grade: Grade = "good" if tool.input == "valid" else "bad"
        yield Mark("tool", tool.at, f"input of {tool.name} {tool.input or 'ended'}", grade)
    if line.attempts > 1:
        yield Mark("retry", line.last_attempt, f"attempt {line.attempts}")
    if line.first_token is not None:
        yield Mark("first", line.first_token, f"first visible token after {seconds(line.first_token)}", "open")
    if line.retraction is not None:
        said = f"withdrawn after {line.retraction.visible_chars:,} characters"
        yield Mark("withdrawn", line.retraction.at, said)
    for each in line.reversals:
        grade = "bad" if each.acted_on else "flawed"
        yield Mark("withdrawn", each.at, f"{each.before} taken back for {each.after} ({each.judge})", grade)
    if line.stop_asked is not None:
        yield Mark("ask", line.stop_asked, "asked to stop", "stopped")


def call_lane(call: Call, turn: Turn) -> CallLane:
    """Lay one tool call of a turn out."""
    state = turn.state(call)
    end = turn.length if call.ended is None else call.ended
    if call.started is None and call.ended is None and turn.stop is not None:
        end = turn.stop.at
    runs = end if call.started is None else call.started
    begin = runs if call.ready is None else call.ready
    ready = None
    if call.ready is not None:
        said = f"input of {called(call)} {call.input or 'ended'}"
        ready = Mark("tool", begin, said, "good" if call.input != "invalid" else "bad")
    grade = STATE_GRADES.get(state, "open")
    return CallLane(state, grade, begin, runs, end, ready, call.started is not None)


def ledger(stop: Stop) -> Iterator[tuple[str, str, list[str]]]:
    """What a Stop found: each word of the ledger that holds anything, how it is read, and its calls."""
    for word, calls, more in stop:
        said = [_entry(call, word, stop) for call in calls] + ([others(more)] if more else [])
        yield word, LEDGER[word], said


def _entry(call: Call, word: str, stop: Stop) -> str:
    at = call.started if word == "running" else call.ended
    return called(call) + ("" if at is None or word == "withheld" else f" ({relative(at - stop.at)})")
