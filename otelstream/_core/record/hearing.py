# SPDX-License-Identifier: Apache-2.0
"""What judges of the application's make of the visible text of one stream: which verdict, where, and did it hold.

The text stays here, goes to those functions and nowhere else, and is let go of at the end of the stream.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextvars import Context
from enum import Enum
from time import perf_counter as clock
from typing import Final, Literal, NamedTuple, Protocol

from otelstream._core.record.facts import Key


class Stop(Enum):
    """What a judge returns to have the stream closed."""

    STOP = "stop"

    def __repr__(self) -> str:
        return "otelstream.STOP"


STOP: Final[Literal[Stop.STOP]] = Stop.STOP

MAX_CHANGES = 64  # of one judge's verdict in one stream that are told
_PLACES = 256  # that wait to be read, of one judge and stream; the oldest go
_LAG = 1.0  # seconds after which a place is not read any more, if there is a later one
PACE = 0.05  # seconds of a stream whose chunks are handed on together, 32 of them at most
_BATCH = 32
_MARK = re.compile(r"[.!?…。！？\n][\"'”’»」』)\]]{0,6}")  # noqa: RUF001
_ENDS_AT_ONCE = "。！？"  # noqa: RUF001  # in scripts without blanks; any other needs one after it


class JudgeReport(NamedTuple):
    """What became of one judge on one stream: its last verdict, how often it took one back, and what it cost."""

    name: str
    verdict: str | None
    reversals: int
    readings: int
    seconds: float
    skipped: int


class Reversal(NamedTuple):
    """A verdict that was shown and then taken back: `exposure` in seconds, and in characters of the text between."""

    judge: str
    before: str
    after: str
    exposure: float
    exposed_chars: int
    acted_on: bool


class Change(NamedTuple):
    """A judge changed its verdict: at which character of the visible text, and when that was there, on the clock."""

    judge: str
    verdict: str
    position: int
    at: float
    before: Change | None = None

    def reverses(self, actions: Iterable[tuple[float, int]]) -> Reversal | None:
        """What it takes back, if anything; `actions`: when the user acted, and how many characters there were."""
        before = self.before
        if before is None or self.verdict == STOP.value:
            return None
        # Acted on, by who had that one in sight and not yet this.
        acted_on = any(before.position <= visible < self.position for _, visible in actions)
        exposure, chars = self.at - before.at, self.position - before.position
        return Reversal(self.judge, before.verdict, self.verdict, exposure, chars, acted_on)


class Judge(Protocol):
    """Who judges. `every`: at so many characters; 0 at the end of each sentence."""

    name: str
    every: int

    def hear(self, hearing: Hearing) -> None:
        """Read what waits, soon, and not here."""

    def settle(self, hearing: Hearing, until: float) -> None:
        """Wait for that, to `until` on the clock at most, if it is not worth nothing."""


class Hearing:
    """One judge on one stream."""

    __slots__ = (
        "_last", "busy", "changes", "judge", "over", "places", "reversals", "runs", "seconds", "skipped", "visible",
        "waiter",
    )  # fmt: skip

    def __init__(self, judge: Judge, visible: Visible) -> None:
        self.judge, self.visible = judge, visible
        self.places: deque[tuple[int, float]] = deque()
        self.busy = False  # somebody reads, or is about to
        self.over = False  # it has asked for the end: it has no more to say
        self.waiter: Callable[[], object] | None = None  # called when nobody does any more
        self._last: Change | None = None
        self.changes = self.reversals = self.runs = self.skipped = 0
        self.seconds = 0.0  # that the judge took

    def due(self, places: Sequence[int], at: float) -> None:
        """The text has come to these places, one at least."""
        if self.over:
            return
        waiting = self.places
        self.skipped += max(0, len(places) - _PLACES)
        waiting.extend((place, at) for place in places[-_PLACES:])
        while len(waiting) > _PLACES:
            self.skipped += self._dropped()
        if not self.busy:
            self.busy = True
            self.judge.hear(self)

    def _dropped(self) -> bool:
        try:
            self.places.popleft()
        except IndexError:  # whoever reads has just taken the last
            return False
        return True

    def take(self) -> tuple[int, float] | None:
        """The next place to read to; of those that have waited for too long the newest only."""
        while True:
            try:
                place = self.places.popleft()
            except IndexError:
                return None
            if not self.places or clock() - place[1] <= _LAG:
                return place
            self.skipped += 1

    def left_out(self) -> None:
        """Nobody can read it now."""
        self.skipped += len(self.places)
        self.places.clear()
        self.busy = False

    def heard(self) -> JudgeReport:
        last = self._last
        verdict = last.verdict if last is not None else None
        return JudgeReport(self.judge.name, verdict, self.reversals, self.runs, self.seconds, self.skipped)

    def idle(self) -> bool:
        """Nothing waits: stop reading; False where more came meanwhile."""
        self.busy = False
        if self.places:
            self.busy = True
            return False
        waiter, self.waiter = self.waiter, None
        if waiter is not None:
            waiter()
        return True

    def said(self, verdict: str, position: int, at: float) -> bool:
        """The judge gave a verdict; False where it has changed too often to tell."""
        last = self._last
        if self.over or (last is not None and last.verdict == verdict):
            return True
        self.changes += 1
        if self.changes > MAX_CHANGES and verdict != STOP.value:
            return False
        change = Change(self.judge.name, verdict, position, at, last and last._replace(before=None))
        if verdict == STOP.value:
            self.over = True
        else:
            self.reversals += last is not None
            self._last = change
        self.visible.changed(change)
        return True


class Visible:
    """The visible text of one answer so far, of its first choice, and who reads it."""

    __slots__ = (
        "_carry", "_changes", "_choice", "_closed", "_late", "_over", "_parts", "_patience", "_sentences", "_taken_at",
        "ask", "chars", "context", "hearings", "room", "stop",
    )  # fmt: skip

    def __init__(
        self,
        judges: Sequence[Judge],
        context: Context,
        ask: Callable[[], object],
        late: Callable[[Change], object],
        patience: Callable[[], float],
    ) -> None:
        self.hearings = [Hearing(judge, self) for judge in judges]
        self.context = context  # what the functions run in, a copy for each
        self.ask = ask  # asks the stream to stop
        self._late = late  # told of changes after the end
        self._patience = patience  # seconds that the end may wait
        self._sentences = any(not judge.every for judge in judges)
        self._parts: list[str] = []
        self._carry = ""  # the end of it, where a sentence may be over
        self._over = 0  # where the last one was
        self._choice: object = None
        self._changes: deque[Change] = deque()
        self._closed = False
        self._taken_at = 0.0
        self.chars = 0
        self.room = 1  # chunks that may wait to be handed on, by the pace of the last ones
        self.stop = False  # a judge has asked for the end

    def add(self, key: Key | None, text: str, at: float, chunks: int = 1) -> None:
        """Take in the visible text of some chunks, whose last arrived at `at`."""
        if key is not None:
            if self._choice is None:
                self._choice = key[0]
            elif key[0] != self._choice:
                return
        took, self._taken_at = at - self._taken_at, at
        self.room = _BATCH if took * _BATCH <= PACE * chunks else max(1, int(PACE * chunks / took))
        before = self.chars
        self._parts.append(text)
        self.chars = chars = before + len(text)
        ends = self._ends(text, before) if self._sentences else []
        for hearing in self.hearings:
            every = hearing.judge.every
            places = range(before - before % every + every, chars + 1, every) if every else ends
            if places:
                hearing.due(places, at)

    def _ends(self, text: str, before: int) -> list[int]:
        begin = before - len(self._carry)
        text, self._carry = self._carry + text, ""
        ends = []
        for found in _MARK.finditer(text):
            start, end = found.span()
            if text[start] == "\n":
                if begin + start > self._over:  # else the sentence had its mark
                    ends.append(begin + start)
                self._over = begin + start + 1
            elif end == len(text):
                self._carry = text[start:]  # whether that is an end is seen by what follows
            elif text[start] in _ENDS_AT_ONCE or text[end].isspace():
                self._over = begin + end
                ends.append(self._over)
        return ends

    def heard(self) -> tuple[JudgeReport, ...]:
        return tuple(hearing.heard() for hearing in self.hearings)

    def upto(self, place: int) -> str:
        """The text to that place."""
        text = "".join(self._parts)
        return text if len(text) == place else text[:place]

    def changed(self, change: Change) -> None:
        """A judge changed its verdict, in whatever thread."""
        self._changes.append(change)
        if self._closed:
            for each in self._drained():
                self._late(each)

    def _drained(self) -> list[Change]:
        found = []
        while True:
            try:
                found.append(self._changes.popleft())
            except IndexError:
                return found

    def close(self, at: float, *, wait: bool) -> list[Change]:
        """The stream ends: all of its text is read once more, and judges that are quick are waited for; the changes."""
        for hearing in self.hearings:
            if self.chars and not (hearing.places and hearing.places[-1][0] == self.chars):
                hearing.due((self.chars,), at)
        until = clock() + self._patience() if wait else 0.0
        for hearing in self.hearings:
            if hearing.busy and wait:
                hearing.judge.settle(hearing, until)
        self._closed = True  # before the rest is taken: who adds one later looks at this after it
        return sorted(self._drained(), key=lambda change: change.position)
