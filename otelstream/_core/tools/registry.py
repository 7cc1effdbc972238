# SPDX-License-Identifier: Apache-2.0
"""The tools that the application declared, and the calls of them that wait or run: which run serves which call."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import chain, islice
from time import perf_counter as clock
from typing import Protocol, get_args

from otelstream import _semconv as s
from otelstream._core.record.call import ToolCall
from otelstream._core.record.place import here
from otelstream._core.record.stream import StreamObservation
from otelstream._core.tools import parked
from otelstream._core.turns import turn as turns
from otelstream._trouble import trouble

NEVER_AFTER = 300.0  # seconds after the end of its stream
MAX_WAITING = 1024
UNENDED_AFTER = 3600.0  # seconds that a tool may run whose end only its span would tell
MAX_RUNNING = 1024
MAX_GIVEN_UP = 128  # calls of held tools remembered that must not be run again unseen
_RANK: Mapping[s.Evidence, int] = {word: rank for rank, word in enumerate(get_args(s.Evidence))}

serving: ContextVar[ToolCall | None] = ContextVar("otelstream_tool_call", default=None)


class Gate(Protocol):
    """What holds a call back until it may run; it raises ToolWithheld where it must not."""

    def pass_(self, call: ToolCall) -> None: ...
    async def apass(self, call: ToolCall) -> None: ...
    def unmatched(self, name: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Declared:
    """What `@tool` says of a function."""

    name: str
    effect: s.Effect | None
    hold: Gate | None


declared: dict[str, Declared] = {}  # by the name of the tool


def effect_of(name: str, stream: StreamObservation) -> s.Effect:
    """What the tool of that name does: as declared, else as setting `tools` says."""
    spec = declared.get(name)
    if spec is not None and spec.effect is not None:
        return spec.effect
    return stream.runtime.settings.tools.get(name, "unknown")


class Registry:
    """The tool calls of the process that wait to be run, or run."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Start anew, in a forked child."""
        # Reentrant: a signal handler, or a finaliser, may come back in on the same thread.
        self._lock = threading.RLock()
        self._waiting: dict[int, ToolCall] = {}  # oldest first
        self._by_id: dict[str, list[ToolCall]] = {}
        self._running: dict[int, ToolCall] = {}  # in the order they were started
        self._due = math.inf  # the instant from which one of those must be given up
        self._given_up: deque[ToolCall] = deque(maxlen=MAX_GIVEN_UP)
        self._seen: set[str] = set()  # names of tools that were seen to run
        parked.restart()

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._by_id and not self._running

    # --- what waits ---------------------------------------------------------------------------------------

    def opened(self, stream: StreamObservation, call: ToolCall) -> None:
        """The model began to ask for a tool."""
        call.stream = stream
        call.effect = effect_of(call.name, stream)
        with self._lock:
            self._waiting[id(call)] = call
            if call.id:
                self._by_id.setdefault(call.id, []).append(call)
        self.sweep()

    def sweep(self) -> None:
        """Stop waiting for what is too old, or too much. Called now and then, there is no thread. Never raises."""
        try:
            now = clock()
            with self._lock:
                if now > self._due:
                    stale = [call for call in self._waiting.values() if _deadline(call) < now]
                    unended = [call for call in self._running.values() if _deadline(call) < now]
                else:
                    stale, unended = [], []
                excess = list(islice(self._waiting.values(), max(0, len(self._waiting) - MAX_WAITING)))
                unended += islice(self._running.values(), max(0, len(self._running) - MAX_RUNNING))
            for call in (*stale, *excess):
                self.never(call)
            for call in unended:
                self._lose(call)
            if now > self._due:
                with self._lock:
                    calls = chain(self._waiting.values(), self._running.values())
                    self._due = min(map(_deadline, calls), default=math.inf)
        except Exception:
            trouble("giving up on tool calls")

    def exit(self) -> None:
        """The process ends: nothing that waits will run, and what runs is counted as running."""
        with self._lock:
            waiting = list(self._waiting.values())
            running = list(self._running.values())
        for call in waiting:
            self.never(call)
        for call in running:
            self._count(call)

    def never(self, call: ToolCall) -> None:
        """Decide that `call` was never run."""
        with self._lock:
            if self._waiting.pop(id(call), None) is None:
                return
            self._drop(call)
            self._remember(call)
            call.decided_never = True
            if call.ready is None or call.input == "incomplete":
                call.state = "discarded"
        stream = call.stream
        if stream is not None and call.state == "discarded" and call.effect != "read" and _stopped(stream):
            stream.runtime.metrics.side_effect(stream, call, "discarded")
        self._count(call)

    def _lose(self, call: ToolCall) -> None:
        """Wait no longer for the end of a run: `call` is counted as running."""
        with self._lock:
            if self._running.pop(id(call), None) is None:
                return
            self._drop(call)
        self._count(call)

    def _remember(self, call: ToolCall) -> None:
        spec = declared.get(call.name)
        if spec is not None and spec.hold is not None:
            self._given_up.append(call)

    def _drop(self, call: ToolCall) -> None:
        same = self._by_id.get(call.id)
        if same is not None and call in same:
            same.remove(call)
            if not same:
                del self._by_id[call.id]

    # --- which call ---------------------------------------------------------------------------------------

    def by_id(self, id: str) -> ToolCall | None:  # noqa: A002
        """The call of that id that waits or runs: of the turn we are in, where several streams made it up."""
        with self._lock:
            same = list(self._by_id.get(id, ()))
        if len(same) < 2:
            return same[0] if same else None
        return next(iter(_of_turn(same, turns.current())), same[0])

    def claim(self, name: str, arguments: int | None, *, sure: bool = False) -> tuple[ToolCall, bool] | None:
        """The call that a run of `name` with `arguments` serves, and whether that is a guess. Each is given once.

        `sure`: no guess between streams, which end each in its own way.
        """
        served = serving.get()
        if served is not None and served.name == name and served.finished_at is None:
            return (served, served.guessed) if _take(served) else None
        if self.idle:
            return None
        candidates = self._candidates(name)
        turn = turns.current()
        mine = _of_turn(candidates, turn)
        opened = turn is not None and not turn.implicit and not turn.exchange
        for call in mine if opened and mine else [*mine, *candidates]:
            if arguments is not None and call.arguments == arguments and _take(call):
                return call, False
        if served is not None and served.name != name:
            return None  # a tool that calls another one by itself
        guesses = mine if opened else mine or candidates
        if sure and len({id(call.stream) for call in guesses if call.claims}) > 1:
            return None
        # Those that are ready first: running a call before its input ended is what nobody should do.
        for call in sorted(guesses, key=lambda call: call.ready is None):
            if _take(call):
                return call, True
        return None

    def given_up(self, name: str, *, id: str = "", arguments: int | None = None) -> ToolCall | None:  # noqa: A002
        """The call that such a run would serve, but which was withheld, or nobody waits for any more."""
        for call in (*self._of_this_turn(name), *reversed(self._given_up)):
            if call.name != name or call.dispatched_at is not None or call.gated:
                continue
            if call.id == id if id else arguments is not None and call.arguments == arguments:
                return call
        return None

    def asked_for(self, name: str) -> bool:
        """Whether the model asked for that tool, as far as anybody still waits for a run of it, or in this turn."""
        return bool(self._candidates(name)) or any(call.dispatched_at is None for call in self._of_this_turn(name))

    def overlooked(self) -> bool:
        """Whether a stream of this turn passed that nobody here could read: it may have asked for anything."""
        turn = turns.current()
        return turn is not None and any(stream.unseen for each in turn.chain() for stream in each.records)

    def _of_this_turn(self, name: str) -> list[ToolCall]:
        """The calls of that tool in the turn we are in, and in those around it; newest first."""
        turn = turns.current()
        return [call for each in (turn.chain() if turn is not None else ())
                for call in reversed(each.tool_calls) if call.name == name]  # fmt: skip

    def _candidates(self, name: str) -> list[ToolCall]:
        """The calls of that tool that wait, oldest first, and those that run."""
        with self._lock:
            waiting = [call for call in self._waiting.values() if call.name == name]
            return waiting + [call for call in self._running.values() if call.name == name]

    # --- what runs ----------------------------------------------------------------------------------------

    def dispatched(self, call: ToolCall, evidence: s.Evidence, at: float, *, guessed: bool = False) -> bool:
        """`call` was started, as `evidence` says; better evidence replaces what was known. False: known better."""
        with self._lock:
            if call.finished_at is not None or call.state == "withheld":
                return False
            known = call.evidence
            # Of `tool_call` and a decorated function in it, both `decorator`, the function starts last: that counts.
            if known is not None and _RANK[evidence] >= _RANK[known] and not known == evidence == "decorator":
                return False
            self._waiting.pop(id(call), None)
            self._running[id(call)] = call
            call.evidence, call.guessed, call.dispatched_at = evidence, guessed, at
            call.state = "running"
            call.where = here()
            self._due = min(self._due, _deadline(call))
            if evidence != "tool_result" and len(self._seen) < s.MAX_TOOL_NAMES:
                self._seen.add(call.name)
        return True

    def sees(self, name: str) -> bool:
        """Whether a run of that tool would be seen as it happens, so that none seen means none."""
        return name in declared or name in self._seen

    def finished(self, call: ToolCall, state: s.ToolState, at: float) -> bool:
        """`call` is done. False when that was known."""
        with self._lock:
            if call.finished_at is not None or call.state == "withheld":
                return False
            self._waiting.pop(id(call), None)
            self._running.pop(id(call), None)
            self._drop(call)
            call.state = state
            call.finished_at = at
            if call.dispatched_at is not None and call.where is not None:
                parked.ran(call.dispatched_at, at, call.where, call.stream.turn if call.stream is not None else None)
        self._count(call)
        return True

    def pass_gate(self, call: ToolCall) -> bool:
        """The gate of `call` lets it run; False when it was refused meanwhile."""
        with self._lock:
            passed, call.gated = call.gated, False
        return passed

    def withhold(self, call: ToolCall) -> None:
        """The gate of `call` refuses it, unless it has let it run."""
        stream = call.stream
        with self._lock:
            if not call.gated:
                return
            call.gated = False
            # Refused by the end of its stream: the record, which is about to be made, takes it.
            by_the_end = stream is not None and stream.end_at is not None and stream.emitted_at is None
            call.withheld_at = stream.end_at if by_the_end and stream is not None else clock()
            self._waiting.pop(id(call), None)
            self._running.pop(id(call), None)
            self._drop(call)
            self._remember(call)
            call.state = "withheld"
            call.dispatched_at = call.evidence = None  # the runner, or `tool_call`, had only meant to start it
            call.decided_never = True
        self._count(call)
        if stream is not None and _stopped(stream) and call.effect != "read":
            stream.runtime.metrics.side_effect(stream, call, "withheld")

    # --- counting -----------------------------------------------------------------------------------------

    def awaited(self, stream: StreamObservation) -> None:
        """`stream` has ended: its calls that have not run are waited for so long."""
        with self._lock:
            waiting = [call for call in stream.tool_calls if id(call) in self._waiting]
            self._due = min(self._due, *map(_deadline, waiting), math.inf)

    def ended(self, stream: StreamObservation) -> None:
        """The record of `stream` is out: its calls that are done can be counted."""
        metrics = stream.runtime.metrics
        stream.reader = None
        self.awaited(stream)
        for call in stream.tool_calls:
            if call.ready is not None:
                metrics.add(s.TOOL_PAUSE, stream, {s.TOOL_CALL_PREAMBLE: call.preamble}, call.pause)
            lost = call.dispatched_at is not None and id(call) not in self._running
            if lost or call.state == "withheld" or call.decided_never:
                self._count(call)

    def _count(self, call: ToolCall) -> None:
        """Count `call` once, when its stream has ended and its own fate is known."""
        stream = call.stream
        if stream is None or not stream.emitted:
            return
        try:
            call.uncounted.pop()
        except IndexError:
            return
        try:
            stream.runtime.metrics.tool_call(stream, call)
        except Exception:
            trouble("counting a tool call")


def _deadline(call: ToolCall) -> float:
    """The instant from which nobody waits for `call` any more; none for one whose stream, or run, is open."""
    if call.dispatched_at is not None:
        return call.dispatched_at + UNENDED_AFTER if call.evidence == "span" else math.inf
    end = call.stream.end_at if call.stream is not None else None
    return math.inf if end is None else end + NEVER_AFTER


def _of_turn(calls: list[ToolCall], turn: turns.Turn | None) -> list[ToolCall]:
    """Those of the turn, before those of turns around it or inside it."""
    found = [call for call in calls if call.stream is not None and turns.related(call.stream.turn, turn)]
    return sorted(found, key=lambda call: call.stream.turn is not turn)


def _stopped(stream: StreamObservation) -> bool:
    return stream.cancel is not None or (stream.turn is not None and stream.turn.reached(stream.started))


def _take(call: ToolCall) -> bool:
    try:
        return call.claims.pop()
    except IndexError:
        return False


registry = Registry()
