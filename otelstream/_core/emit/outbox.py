# SPDX-License-Identifier: Apache-2.0
"""What leaves the process: at once, or from a thread of its own where somebody's lock may be held on this one.

A finaliser, a collection of garbage and a signal handler run wherever they like: also inside the OpenTelemetry SDK, in
an emission of ours, or under a lock of the application's. Ctrl-C may strike anywhere, in the middle of an emission too.
"""

from __future__ import annotations

import _thread
import sys
import time
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any

from otelstream._trouble import trouble

Step = Callable[[], object]
_THREADS = 16  # that drain at the same time, at most
PATIENCE = 2.0  # seconds that the exit of the process waits for a thread of ours
# What holds locks while it calls others, or can be interrupted under them.
_OTHERS = (
    "opentelemetry.sdk.metrics", "opentelemetry.sdk._logs", "opentelemetry.sdk.trace.export",
    "opentelemetry.sdk._shared_internal", "opentelemetry.exporter",
)  # fmt: skip

_jobs: deque[Step] = deque()
_emitting: set[int] = set()  # threads in which an emission is under way
_working: dict[object, int] = {}  # who drains, or is about to: its thread, 0 before that runs
_finalising: set[int] = set()  # threads in which a finaliser of ours runs
collecting = 0  # the thread in which the cyclic collector is at work: others hold nothing because of it
_held: dict[int, list[Context]] = {}  # by thread: what its variables were when garbage was collected


def reentered() -> bool:
    """Whether the code that we were called in may hold a lock that an emission takes."""
    ident = _thread.get_ident()
    if ident == collecting or ident in _emitting:
        return True
    frame: Any = sys._getframe(1)
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).startswith(_OTHERS):
            return True
        frame = frame.f_back
    return False


def finalising() -> bool:
    """Whether a finaliser may have brought us here: nothing says which lock its thread holds.

    A generator that is closed cannot be told from one that is dropped.
    """
    ident = _thread.get_ident()
    return ident == collecting or ident in _finalising or isinstance(sys.exc_info()[1], GeneratorExit)


def finalise(step: Step) -> None:
    """Run `step`, which is a finaliser's."""
    ident = _thread.get_ident()
    if ident in _finalising:
        step()
        return
    _finalising.add(ident)
    try:
        step()
    finally:
        _finalising.discard(ident)


def emit(steps: deque[Step]) -> None:
    """Take every step, here or elsewhere. What Ctrl-C keeps from being taken here is taken elsewhere."""
    if reentered():
        later(lambda: emit(steps))
        return
    try:
        take(steps)
    except BaseException:
        if steps:
            later(lambda: emit(steps))
        raise


def take(steps: deque[Step]) -> None:
    """Take every step here, as an emission. Only a `BaseException` ends that early, and `steps` are then what is left.

    The step that it struck in is taken again: some may count twice then, none is lost.
    """
    try:
        apart(lambda: _take(steps))
    finally:
        let_go()


def apart(step: Step) -> None:
    """Run `step` in a copy of this context.

    Exporters and processors set a context variable. A finaliser that does so in the midst of setting one (that frees
    what it replaces, and until 3.12 may collect garbage) leaves CPython with a reference to memory that is free. A
    copy is a state apart; and what was looked up before is looked up anew after a run.
    """
    copy_context().run(step)


def hold(*variables: Context) -> None:
    """Keep variables as they were during a collection: what is being set in this thread may be reading them."""
    _held.setdefault(_thread.get_ident(), []).extend(variables)


def let_go() -> None:
    """Nothing is being set in this thread now: what was kept can go, and all is looked up anew."""
    if _held:
        for variables in _held.pop(_thread.get_ident(), ()):
            variables.run(_nothing)


def collection(phase: str) -> None:
    """Told of both ends of a collection: what finalisers set in the midst of an emission does no harm."""
    global collecting
    ident = _thread.get_ident()
    if ident in _emitting:
        hold(copy_context())
    collecting = ident if phase == "start" else 0


def _nothing() -> None:
    pass


def _take(steps: deque[Step]) -> None:
    ident = _thread.get_ident()
    try:
        _emitting.add(ident)
        while steps:
            try:
                steps[0]()
            except Exception:
                trouble("emitting telemetry")
            steps.popleft()
    finally:
        _emitting.discard(ident)


def later(job: Step) -> None:
    """Run `job` in a thread of ours, soon: another one where those that drain may all be waiting in a job of theirs."""
    _jobs.append(job)
    if len(_working) >= _THREADS:
        return
    drainer = object()
    _working[drainer] = 0
    try:
        _thread.start_new_thread(drain, (drainer,))
    except RuntimeError:  # no threads any more: the exit of the process drains
        _working.pop(drainer, None)


def drain(drainer: object = None) -> None:
    """Run what waits."""
    drainer = drainer or object()
    while True:
        _working[drainer] = _thread.get_ident()
        try:
            _work()
        finally:
            _working.pop(drainer, None)
        if not _jobs:  # who saw it at work meanwhile started no other
            return


def _work() -> None:
    while _jobs:
        try:
            job = _jobs.popleft()
        except IndexError:
            return
        try:
            job()
        except Exception:
            trouble("emitting telemetry")


def settle(patience: float = PATIENCE) -> bool:
    """Run what waits, and wait for what other threads run of it; False if they were not done in time."""
    until = time.monotonic() + patience
    drain()
    mine = _thread.get_ident()
    while _jobs or [ident for ident in list(_working.values()) if ident != mine]:
        if time.monotonic() > until:
            return False
        time.sleep(0.001)
        drain()
    return True


def restart() -> None:
    """Start anew, in a forked child."""
    global collecting
    collecting = 0
    _jobs.clear()
    _emitting.clear()
    _held.clear()
    _working.clear()
    _finalising.clear()
