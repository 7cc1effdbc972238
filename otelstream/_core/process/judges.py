# SPDX-License-Identifier: Apache-2.0
"""The judges that an application declared, and where they run: each in a thread of its own, async ones in the loop.

Never where a stream is read: a judge may sleep, raise, return nonsense or recurse, and no reader waits for it.
"""

from __future__ import annotations

import _thread
import sys
import weakref
from contextvars import Context, copy_context
from functools import partial
from inspect import iscoroutine
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from otelstream._core.record.hearing import MAX_CHANGES, STOP, Hearing, Visible
from otelstream._core.record.known import clock
from otelstream._core.record.stream import StreamObservation
from otelstream._core.record.verdict import ask_to_stop
from otelstream._core.turns import turn as turns
from otelstream._trouble import logger, trouble

if TYPE_CHECKING:
    import asyncio

QUICK = 0.005  # seconds: who usually takes longer for one reading is not waited for at a stream's end
VAIN = 3  # such waits in a row, after which there is none for a while
_WHILE = 10.0  # seconds
PATIENCE = 0.1  # seconds that the end of a stream waits for judges that are quick
PATIENCE_IN_A_LOOP = 0.02  # where others wait too, for all streams that end there at once
_SHARE = 0.05  # of the time that passes is added to that again
MAX_TASKS = 64  # of one async judge at once
MAX_WAITING = 1000  # streams that one judge's thread has yet to read: their texts are kept for so long
_declared: dict[str, Judge] = {}


def _running_loop() -> asyncio.AbstractEventLoop | None:
    asyncio = sys.modules.get("asyncio")  # who runs a loop has it
    try:
        return asyncio.get_running_loop() if asyncio is not None else None
    except RuntimeError:
        return None


def _in_a_loop() -> bool:
    if _running_loop() is not None:
        return True
    trio = sys.modules.get("trio")
    try:
        return trio is not None and trio.lowlevel.current_task() is not None
    except RuntimeError:
        return False


class _Budget:
    """For how long the ends of streams may hold up what else runs in event loops: many may end together."""

    def __init__(self) -> None:
        self._spent, self._at = 0.0, 0.0

    def left(self) -> float:
        now = clock()
        self._spent, self._at = max(0.0, self._spent - (now - self._at) * _SHARE), now
        left = PATIENCE_IN_A_LOOP - self._spent
        return left if left >= QUICK else 0.0  # a shorter wait is one in vain

    def spend(self, seconds: float) -> None:
        self._spent += seconds


_loops = _Budget()


class Judge:
    """One judge: a function of the visible text so far that returns one of `verdicts`, None, or `STOP`."""

    def __init__(self, name: str, verdicts: tuple[str, ...], function: Any, every: int, *, awaited: bool) -> None:
        self.name, self.verdicts, self.every = name, verdicts, every
        self._function, self._awaited = function, awaited
        self._usual = 0.0  # seconds of a reading, the newest ones counting most
        self._vain, self._again_at = 0, 0.0
        self._named: set[str] = set()  # what was said of it
        # The hearings that tasks read, or are about to, each with the loop that will; a loop alone keeps no task.
        self._readings: dict[Hearing, asyncio.AbstractEventLoop] = {}
        self._tasks: dict[Hearing, asyncio.Task[None]] = {}
        self._parents: list[object] = []
        self._over = False  # another is in its place
        self.restart()

    def restart(self) -> None:
        """Start anew, in a forked child."""
        self._queue: SimpleQueue[Hearing | None] = SimpleQueue()
        self._resting = [True]  # whoever takes that starts the thread: there is never a second one
        self._loop: asyncio.AbstractEventLoop | None = None
        self._parents.append(self._tasks)  # to let go of a task would run the end of the function here
        self._readings, self._tasks = {}, {}

    def hear(self, hearing: Hearing) -> None:
        """Read what waits, soon, and not here: where the stream is read in an event loop, an async judge is there."""
        loop = _running_loop() if self._awaited else None
        if loop is None:
            self._hear_in_thread(hearing)
            return
        if len(self._readings) >= MAX_TASKS:
            for left, its_loop in list(self._readings.items()):
                if its_loop.is_closed():  # with a reading under way, which never ends
                    self._done(left)
                    left.busy = False
        if len(self._readings) < MAX_TASKS:
            self._readings[hearing] = loop
            # Not at once: a loop may begin its tasks where they are made.
            loop.call_soon(self._begin, loop, hearing, context=hearing.visible.context.copy())
        else:
            hearing.left_out()
            self._say("tasks", "has %d readings under way: others are left out until some are done", MAX_TASKS)

    def _hear_in_thread(self, hearing: Hearing) -> None:
        if self._queue.qsize() >= MAX_WAITING:
            hearing.left_out()
            self._say("waiting", "has %d streams to read: others are left out until it has read some", MAX_WAITING)
            return
        self._queue.put(hearing)  # first: a thread that goes to rest looks once more after it said so
        try:
            if self._resting and self._resting.pop():
                _thread.start_new_thread(self._work, ())
        except IndexError:  # somebody else starts it
            pass
        except RuntimeError:  # no thread is to be had, as at the end of the process
            self._resting.append(True)
            hearing.left_out()
            self._say("thread", "got no thread to run in: texts are left out until there is one")

    def rest(self) -> None:
        """No new stream is judged: let the thread end when it has read what waits."""
        self._over = True
        self._queue.put(None)

    def settle(self, hearing: Hearing, until: float) -> None:
        """Wait for that, to `until` on the clock at most, if that is worth it."""
        begun = clock()
        if self._usual > QUICK or begun < self._again_at or begun >= until or hearing in self._readings:
            return
        try:
            self._wait(hearing, until)
        finally:
            if _in_a_loop():
                _loops.spend(clock() - begun)

    def _wait(self, hearing: Hearing, until: float) -> None:
        woken = _thread.allocate_lock()
        woken.acquire()
        hearing.waiter = woken.release
        if not hearing.busy or woken.acquire(timeout=max(0.0, until - clock())):
            self._vain = 0
            return
        self._vain += 1
        if self._vain >= VAIN:
            self._again_at = clock() + _WHILE
        self._say("late", "had not read the last text when its stream ended: what it says later is counted only")

    def _work(self) -> None:
        while True:
            hearing = self._queue.get()
            while hearing is not None:
                place = hearing.take()
                if place is not None:
                    hearing.visible.context.copy().run(self._read, hearing, *place)
                elif hearing.idle():
                    break
            del hearing
            if self._over and self._queue.empty() and self._rested():
                return

    def _rested(self) -> bool:
        self._resting.append(True)
        if not self._queue.empty():
            try:
                self._resting.pop()
            except IndexError:  # another thread reads on
                return True
            return False
        return True

    def _read(self, hearing: Hearing, position: int, at: float) -> None:
        begun = clock()
        try:
            said = self._function(hearing.visible.upto(position))
            if self._awaited:
                if self._loop is None:
                    import asyncio

                    self._loop = asyncio.new_event_loop()
                said = self._loop.run_until_complete(said)
            self._weigh(hearing, said, position, at)
        except BaseException as error:  # whatever it is, it is this function's affair
            self._raised(error)
        self._took(hearing, clock() - begun)

    def _begin(self, loop: asyncio.AbstractEventLoop, hearing: Hearing) -> None:
        reading = self._aread(hearing)
        try:
            self._tasks[hearing] = task = loop.create_task(reading, name=f"otelstream judge {self.name}")
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # a loop may end before: nobody's fault
        except Exception:  # whoever has tasks of a class of his own
            reading.close()
            self._done(hearing)
            hearing.left_out()
            trouble("starting the task of a judge")
            return
        task.add_done_callback(_seen)

    async def _aread(self, hearing: Hearing) -> None:
        from asyncio import CancelledError

        idle = False
        try:
            while not idle:
                place = hearing.take()
                if place is None:
                    idle = hearing.idle()
                    continue
                begun = clock()
                try:
                    self._weigh(hearing, await self._function(hearing.visible.upto(place[0])), *place)
                except GeneratorExit:  # the task is let go of, by whoever closed its loop
                    return
                except (KeyboardInterrupt, CancelledError):
                    raise  # not the function's doing
                except BaseException as error:
                    self._raised(error)
                self._took(hearing, clock() - begun, slow=5.0)
        finally:
            self._done(hearing)
            if not idle:
                hearing.busy = False

    def _done(self, hearing: Hearing) -> None:
        """No task reads it any more."""
        self._readings.pop(hearing, None)
        self._tasks.pop(hearing, None)

    def _weigh(self, hearing: Hearing, said: Any, position: int, at: float) -> None:
        if said is None:
            return
        if said is STOP:
            hearing.said(STOP.value, position, at)
            hearing.visible.stop = True
            hearing.visible.ask()
        elif isinstance(said, str) and said in self.verdicts:
            if not hearing.said(self.verdicts[self.verdicts.index(said)], position, at):
                self._say("flood", "changed its verdict over %d times in one answer: the rest is not told", MAX_CHANGES)
        else:
            if iscoroutine(said):
                said.close()  # else it warns that nobody awaited it
            # Not what it returned: that may be of the text.
            kind = type(said).__name__
            self._say("nonsense", "returned a %s that is none of its verdicts: return one of %s", kind, self.verdicts)

    def _raised(self, error: BaseException) -> None:
        traceback = error.__traceback__
        while traceback is not None and traceback.tb_next is not None:
            traceback = traceback.tb_next
        at = f"{traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}" if traceback else "unknown place"
        kind = type(error).__name__  # not its words: they may be of the text
        self._say(kind, "raised %s at %s: that reading is left out", kind, at)

    def _took(self, hearing: Hearing, seconds: float, slow: float = 0.1) -> None:
        hearing.runs += 1
        hearing.seconds += seconds
        self._usual += (seconds - self._usual) / 8
        if seconds > slow:
            self._say("slow", "took %.3g s for one text: its verdicts come late, and some texts are left out", seconds)

    def _say(self, what: str, said: str, *values: object) -> None:
        """Name what is wrong with it, once."""
        if what in self._named:
            return
        self._named.add(what)
        try:
            logger.warning("judge %r " + said, self.name, *values)
        except Exception:
            trouble("naming what is wrong with a judge")


def _seen(task: asyncio.Task[None]) -> None:
    """Keep the loop from saying what nobody asked the task for: the words may be of the text."""
    if not task.cancelled():
        task.exception()


def declare(judge: Judge) -> None:
    """Let it judge the streams that begin from now on; it takes the place of one of that name."""
    before = _declared.get(judge.name)
    _declared[judge.name] = judge
    if before is not None:
        before.rest()


def forget(name: str) -> None:
    """Have it judge no more."""
    before = _declared.pop(name, None)
    if before is not None:
        before.rest()


def patience() -> float:
    """Seconds that the end of a stream may wait here for its judges."""
    return _loops.left() if _in_a_loop() else PATIENCE


def names() -> list[str]:
    return list(_declared)


def attend(stream: StreamObservation) -> None:
    """A stream begins: it is judged, unless a judge asked for it. Never raises."""
    if not _declared or turns.judged() is not None:
        return
    try:
        mine = weakref.ref(stream)  # a cycle would keep the stream from its finaliser

        def ask() -> None:
            judged = mine()
            if judged is not None and judged.visible is not None:  # else it ends already, by somebody else's doing
                ask_to_stop(judged, "judge", clock())

        context: Context = copy_context()
        context.run(turns.judge, mine)
        late = partial(stream.runtime.metrics.verdict, actions=stream.actions)
        stream.visible = Visible([*_declared.values()], context, ask, late, patience)
    except Exception:
        trouble("calling the judges")


def restart() -> None:
    """Start anew, in a forked child."""
    for judge in _declared.values():
        judge.restart()
