# SPDX-License-Identifier: Apache-2.0
"""Calls that wait and calls that run: decided on time, each by its own stream, and never more than so many."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

import otelstream
from otelstream import _semconv as s
from otelstream._core.record.call import ToolCall
from otelstream._core.tools import registry as _registry
from otelstream._core.tools.registry import registry

from .bench import Bench, instrumented
from .direct import asked, asks, completes, opened


class Clock:
    """The registry's, which jumps."""

    def __init__(self) -> None:
        self._real, self.ahead = _registry.clock, 0.0

    def __call__(self) -> float:
        return self._real() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(_registry, "clock", made)
    return made


@pytest.fixture
def bench(clock: Clock) -> Iterator[Bench]:
    with instrumented() as bench:
        yield bench


def states(bench: Bench) -> dict[Any, int]:
    return dict(bench.points(s.TOOL_CALLS.name, s.DISPATCH_PHASE, s.TOOL_CALL_STATE))


def runs(call: ToolCall, evidence: s.Evidence = "decorator") -> None:
    assert registry.dispatched(call, evidence, _registry.clock())


# --- never ----------------------------------------------------------------------------------------------------


def test_an_open_stream_holds_nobody_up(bench: Bench, clock: Clock) -> None:
    """A stream that stays open keeps only its own calls: those of others are decided by their own streams' ends."""
    open_ = opened()
    kept = asks(open_, "send", "kept")
    calls = [asked("send", to=str(number))[1] for number in range(3)]
    clock.ahead = _registry.NEVER_AFTER - 1
    registry.sweep()
    assert [call.phase for call in calls] == [None] * 3
    clock.ahead = _registry.NEVER_AFTER + 1
    registry.sweep()
    assert [call.phase for call in calls] == ["never"] * 3
    assert kept.phase is None
    assert states(bench) == {("never", "ready"): 3}
    completes(open_)
    clock.ahead = 2 * _registry.NEVER_AFTER + 2
    registry.sweep()
    assert kept.phase == "never"


def test_each_by_the_end_of_its_own_stream(bench: Bench, clock: Clock) -> None:
    """Whichever was opened first: what is due is decided, what is not is left."""
    streams = [opened() for _ in range(3)]
    calls = [asks(stream, "send", str(number)) for number, stream in enumerate(streams)]
    ends = {2: 0.0, 0: 100.0, 1: 200.0}  # the last to open is the first to end
    for number, after in ends.items():
        completes(streams[number])
        streams[number].end_at = _registry.clock() + after
        registry._due = min(registry._due, streams[number].end_at + _registry.NEVER_AFTER)
    decided = []
    for ahead in (250, 350, 450, 550):
        clock.ahead = ahead
        registry.sweep()
        decided.append([call.phase == "never" for call in calls])
    assert decided == [[False] * 3, [False, False, True], [True, False, True], [True] * 3]


def test_a_stream_that_is_recorded_late(bench: Bench, clock: Clock) -> None:
    """A stream that was left long before it was dropped is counted from its end."""
    stream = opened()
    call = asks(stream, "send")
    other = asked("send", to="other")[1]
    clock.ahead = _registry.NEVER_AFTER + 1
    completes(stream)  # its end is its last activity
    registry.sweep()
    assert (call.phase, other.phase) == ("never", "never")


def test_a_sweep_with_nothing_due_looks_at_nothing(bench: Bench, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stream that begins sweeps: it costs what is due."""
    for number in range(100):
        asked("send", to=str(number))
    looks: list[ToolCall] = []
    deadline = _registry._deadline

    def counted(call: ToolCall) -> float:
        looks.append(call)
        return deadline(call)

    monkeypatch.setattr(_registry, "_deadline", counted)
    for _ in range(50):
        registry.sweep()
    assert not looks


# --- running --------------------------------------------------------------------------------------------------


def test_a_run_whose_span_never_ends(bench: Bench, clock: Clock) -> None:
    """It is let go after an hour, and counted as running; a decorated run, whose end will be seen, is not."""
    spanned, decorated = asked("search", q="a")[1], asked("send", to="a")[1]
    runs(spanned, "span")
    runs(decorated)
    clock.ahead = _registry.UNENDED_AFTER - 1
    registry.sweep()
    assert states(bench) == {}
    clock.ahead = _registry.UNENDED_AFTER + 1
    registry.sweep()
    assert states(bench) == {("after_end", "running"): 1}
    assert list(registry._running.values()) == [decorated]
    registry.finished(spanned, "committed", _registry.clock())  # it ended after all: it is counted once
    registry.finished(decorated, "committed", _registry.clock())
    assert states(bench) == {("after_end", "running"): 1, ("after_end", "committed"): 1}
    assert registry.idle


@pytest.mark.parametrize("evidence", ["span", "decorator", "runner"])
def test_not_more_than_so_many_run(bench: Bench, clock: Clock, evidence: s.Evidence) -> None:
    """Runs that never end are let go, oldest first, whatever they were seen by."""
    calls = []
    for _ in range(20):
        stream = opened()
        made = [asks(stream, "send", f"id-{len(calls) + i}") for i in range(100)]
        calls += made
        for call in made:
            runs(call, evidence)
        completes(stream)
    registry.sweep()
    assert len(registry._running) == _registry.MAX_RUNNING
    assert next(iter(registry._running.values())) is calls[len(calls) - _registry.MAX_RUNNING]
    assert len(registry._by_id) == _registry.MAX_RUNNING
    assert sum(states(bench).values()) == len(calls) - _registry.MAX_RUNNING


def test_a_run_that_is_lost_while_its_stream_is_open(bench: Bench, clock: Clock) -> None:
    """It is counted with its stream's end."""
    stream = opened()
    call = asks(stream, "search")
    runs(call, "span")
    clock.ahead = _registry.UNENDED_AFTER + 1
    registry.sweep()
    assert registry.idle
    assert states(bench) == {}
    clock.ahead = 0.0
    completes(stream)
    assert states(bench) == {("mid_stream", "running"): 1}


def test_what_was_given_up_of_held_tools_is_bounded(bench: Bench, clock: Clock) -> None:
    """Of what was withheld only so much is remembered, and of tools that are not held nothing."""

    @otelstream.tool(hold=True)
    def deploy(ref: str) -> str:
        return ref

    for name in ("deploy", "send"):
        for number in range(2 * _registry.MAX_GIVEN_UP):
            asked(name, ref=str(number))
    clock.ahead = _registry.NEVER_AFTER + 1
    registry.sweep()
    assert len(registry._given_up) == _registry.MAX_GIVEN_UP
    assert {call.name for call in registry._given_up} == {"deploy"}


# --- at once --------------------------------------------------------------------------------------------------


def test_the_last_of_an_id_is_taken_while_somebody_looks(bench: Bench) -> None:
    """A call that another thread takes away while we look for its id is no error, nor is it found."""
    calls = [asks(opened(), "send", "same") for _ in range(2)]

    assert registry.by_id("same") in calls
    stop = threading.Event()
    errors: list[Exception] = []

    def come_and_go() -> None:
        while not stop.is_set():
            call = asks(opened(), "send", "racy")
            registry.never(call)
            completes(call.stream)

    def look() -> None:
        try:
            for _ in range(3000):
                registry.by_id("racy")
                registry.sweep()
        except Exception as error:
            errors.append(error)
        finally:
            stop.set()

    threads = [threading.Thread(target=come_and_go) for _ in range(2)] + [threading.Thread(target=look)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_a_look_during_a_change(bench: Bench) -> None:
    """Looking an id up waits for who changes what waits for it."""
    asks(opened(), "send", "same")
    found: list[ToolCall | None] = []
    looking = threading.Thread(target=lambda: found.append(registry.by_id("same")))
    with registry._lock:
        looking.start()
        looking.join(0.05)
        assert looking.is_alive()
        registry._by_id["same"].clear()  # as it is for an instant
    looking.join()
    assert found == [None]


def test_trouble_in_a_sweep_is_swallowed(bench: Bench, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that begins hears of nothing."""

    def breaks(_: ToolCall) -> None:
        raise IndexError

    asked("send", to="a")
    clock.ahead = _registry.NEVER_AFTER + 1
    monkeypatch.setattr(registry, "never", breaks)
    completes(opened())
    assert len(bench.ended) == 2
