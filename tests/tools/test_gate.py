# SPDX-License-Identifier: Apache-2.0
"""The gate fails closed: a held tool that may serve a call of a stream never runs because somebody was in doubt."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from typing import Any

import pytest

import otelstream
from otelstream._core.process import closing
from otelstream._core.record.call import ToolCall
from otelstream._core.tools import hold
from otelstream._core.tools import registry as _registry
from otelstream._core.tools.registry import registry
from otelstream._face import tools as _face

from .bench import Bench, instrumented, wait_for
from .direct import asked, asks, completes, opened, parrot


class OursError(Exception):
    """Something that goes wrong in otelstream."""


def breaks(*_: Any, **__: Any) -> Any:
    raise OursError("with text that may be the model's")


@pytest.fixture
def bench() -> Iterator[Bench]:
    with instrumented() as bench:
        yield bench


@pytest.fixture
def ran() -> list[str]:
    return []


@pytest.fixture(params=["sync", "async"])
def deploy(request: pytest.FixtureRequest, ran: list[str]) -> Callable[..., object]:
    """A held tool of either colour, to be called as a function."""
    if request.param == "sync":

        @otelstream.tool(effect="write", hold=True, hold_patience=0.05)
        def deploy(ref: str) -> str:
            ran.append(ref)
            return ref

        return deploy

    @otelstream.tool(name="deploy", effect="write", hold=True, hold_patience=0.05)
    async def adeploy(ref: str) -> str:
        ran.append(ref)
        return ref

    return lambda ref: asyncio.run(adeploy(ref))


# --- our own errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (registry, "claim"),
        (registry, "given_up"),
        (registry, "asked_for"),
        (registry, "pass_gate"),
        (registry, "_candidates"),
        (_face, "_arguments"),
        (_face, "Run"),
        (_registry.turns, "current"),
        (hold, "_refusal"),
        (hold, "_reads"),
        (hold, "here"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("stream_is", ["open", "over"])
def test_our_own_error_withholds(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, deploy: Any, ran: list[str], owner: Any, name: str, stream_is: str
) -> None:
    """Whatever fails while a run is matched or held, the tool does not run, unless the failing part was not needed;
    what is raised is ToolWithheld, which names our error without its text."""
    stream = opened()
    asks(stream, "deploy", ref="main")
    if stream_is == "over":
        completes(stream)
    outcome: object = None
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, breaks)
        try:
            deploy("main")
        except otelstream.ToolWithheld as error:
            outcome = error
    completes(stream)
    if outcome is None:
        assert (stream_is, ran) == ("over", ["main"])
        assert name in ("given_up", "asked_for", "_reads", "here")  # which this call has no need of
        return
    assert not ran
    if "OursError" in str(outcome):
        assert isinstance(outcome, otelstream.ToolWithheld)
        assert isinstance(outcome.__cause__, OursError)
        assert "text" not in str(outcome)
    else:
        assert stream_is == "open"


def test_an_error_while_it_waits_is_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, deploy: Any, ran: list[str]
) -> None:
    """An error of ours at a later look withholds the call for good."""
    stream = opened()
    call = asks(stream, "deploy", ref="main")
    looks = iter([None, None])
    monkeypatch.setattr(hold, "_refusal", lambda _: next(looks))  # the third look raises StopIteration
    monkeypatch.setattr(hold.Hold, "_impatience", lambda *_, **__: None)
    with pytest.raises(otelstream.ToolWithheld, match="StopIteration"):
        deploy("main")
    assert call.state == "withheld"
    assert not stream.waiters
    monkeypatch.undo()
    completes(stream)
    with pytest.raises(otelstream.ToolWithheld, match="withheld before"):
        deploy("main")
    assert not ran


def test_what_is_not_held_runs_all_the_same(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of ours is no business of a tool that has no gate."""

    @otelstream.tool(effect="write")
    def send(ref: str) -> str:
        return ref

    asks(opened(), "send", ref="main")
    monkeypatch.setattr(registry, "claim", breaks)
    assert send("main") == "main"


# --- calls that cannot be told --------------------------------------------------------------------------------


def elsewhere(act: Callable[[], object]) -> None:
    """In a turn that has nothing to do with ours."""

    def other() -> None:
        with otelstream.turn("another"):
            act()

    thread(other)


def other_arguments_in_two_streams() -> None:
    asks(opened(), "deploy", ref="a")
    asks(opened(), "deploy", ref="b")


def in_another_turn() -> None:
    elsewhere(lambda: asks(opened(), "deploy", ref="a"))


def running() -> None:
    _, call = asked("deploy", ref="a")
    call.claims.pop()
    registry.dispatched(call, "decorator", time.perf_counter())


def withheld_before() -> None:
    stream = opened()
    call = asks(stream, "deploy", ref="a")
    call.gated = True
    registry.withhold(call)
    completes(stream)


def unseen() -> None:
    stream = opened()
    stream.unseen = True
    completes(stream)


@pytest.mark.parametrize(
    "before", [other_arguments_in_two_streams, in_another_turn, running, withheld_before, unseen],
    ids=lambda before: before.__name__,
)  # fmt: skip
def test_a_run_that_cannot_be_matched(bench: Bench, deploy: Any, ran: list[str], before: Callable[[], None]) -> None:
    """Where the model asked for that tool, or may have, and nobody can tell for which run: withheld."""
    with otelstream.turn("chat"):
        before()
        with pytest.raises(otelstream.ToolWithheld, match=r"not known|could not be seen"):
            deploy("main")
    assert not ran


def nothing() -> None:
    return


def another_tool() -> None:
    asks(opened(), "publish", ref="main")


def committed() -> None:
    _, call = asked("deploy", ref="a")
    registry.dispatched(call, "decorator", time.perf_counter())
    registry.finished(call, "committed", time.perf_counter())


def elsewhere_unseen() -> None:
    elsewhere(unseen)


@pytest.mark.parametrize("before", [nothing, another_tool, committed, elsewhere_unseen], ids=lambda each: each.__name__)
def test_a_run_that_no_stream_asked_for(
    bench: Bench, deploy: Any, ran: list[str], before: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Where no call of that tool is known that a run could serve, it runs at once, and that is said once."""
    hold._ungated.clear()
    with otelstream.turn("chat"):
        before()
        assert [deploy("main"), deploy("next")] == ["main", "next"]
    assert len([record for record in caplog.records if "held, but no streamed call" in record.message]) == 1


def test_the_stream_of_a_call_passed_unseen(bench: Bench, deploy: Any, ran: list[str]) -> None:
    """A stream that could not be read to its end says nothing of how it ended, whatever control flow says."""
    stream = opened()
    call = asks(stream, "deploy", ref="main")
    stream.unseen = True
    completes(stream)
    assert stream.outcome == "completed"
    with pytest.raises(otelstream.ToolWithheld, match="could not be seen"):
        deploy("main")
    assert (call.state, ran) == ("withheld", [])


def test_an_end_that_we_failed_to_decide(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, deploy: Any, ran: list[str]
) -> None:
    """Where we could not tell how a stream ended, it did not end cleanly."""
    stream = opened()
    asks(stream, "deploy", ref="main")
    with monkeypatch.context() as patch:
        patch.setattr(closing, "with_protocol", breaks)
        completes(stream)
    with pytest.raises(otelstream.ToolWithheld, match="could not be seen"):
        deploy("main")
    assert not ran


def test_a_withheld_call_is_known_in_any_context(bench: Bench, deploy: Any, ran: list[str]) -> None:
    """Tried again in a thread that knows of no turn, a withheld call is the same call."""
    with otelstream.turn("chat"):
        stream = opened()
        call = asks(stream, "deploy", ref="main")
        call.gated = True
        registry.withhold(call)
        completes(stream)
    refused: list[str] = []

    def try_again() -> None:
        try:
            deploy("main")
        except otelstream.ToolWithheld as error:
            refused.append(str(error))

    thread = threading.Thread(target=try_again)
    thread.start()
    thread.join()
    assert "withheld before" in refused[0]
    assert not ran


@pytest.mark.parametrize("where", ["outer", "inner"])
def test_a_turn_inside_the_turn_of_the_call(bench: Bench, deploy: Any, ran: list[str], where: str) -> None:
    """A call of the outer turn is found from one inside it, and the other way round: it waits for its stream."""
    with otelstream.turn("outer"):
        if where == "outer":
            stream = opened()
            call = asks(stream, "deploy", ref="model's")
            with otelstream.turn("inner"), pytest.raises(otelstream.ToolWithheld, match=r"nobody has read|reader"):
                deploy("unlike")
        else:
            with otelstream.turn("inner"):
                stream = opened()
                call = asks(stream, "deploy", ref="model's")
            with pytest.raises(otelstream.ToolWithheld, match=r"nobody has read|reader"):
                deploy("unlike")
    assert (call.state, ran) == ("withheld", [])
    completes(stream)


# --- who reads ------------------------------------------------------------------------------------------------

Pool = Callable[[Callable[[], Any]], Any]


class Loop:
    """A hand-written worker thread with a queue."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            function, done = job
            try:
                done.put((function(), None))
            except BaseException as error:
                done.put((None, error))

    def start(self, function: Callable[[], Any]) -> queue.SimpleQueue[Any]:
        done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._jobs.put((function, done))
        return done

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join()


def hop_by_executor(read: Callable[[], Any], run: Callable[[], Any], go_on: Callable[[], None]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        while "end" not in pool.submit(read).result():
            pass
        running = pool.submit(run)
        go_on()
        return running.result()


def hop_by_thread_pool(read: Callable[[], Any], run: Callable[[], Any], go_on: Callable[[], None]) -> Any:
    with ThreadPool(1) as pool:
        while "end" not in pool.apply(read):
            pass
        running = pool.apply_async(run)
        go_on()
        return running.get()


def hop_by_to_thread(read: Callable[[], Any], run: Callable[[], Any], go_on: Callable[[], None]) -> Any:
    async def main() -> Any:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        while "end" not in await asyncio.to_thread(read):
            pass
        running = asyncio.ensure_future(asyncio.to_thread(run))
        await asyncio.sleep(0)
        go_on()
        return await running

    return asyncio.run(main())


def hop_by_run_in_executor(read: Callable[[], Any], run: Callable[[], Any], go_on: Callable[[], None]) -> Any:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        while "end" not in await loop.run_in_executor(None, read):
            pass
        running = loop.run_in_executor(None, run)
        go_on()
        return await running

    return asyncio.run(main())


def hop_by_anyio(read: Callable[[], Any], run: Callable[[], Any], go_on: Callable[[], None]) -> Any:
    import anyio.to_thread

    async def main() -> Any:
        one = anyio.CapacityLimiter(1)
        while "end" not in await anyio.to_thread.run_sync(read, limiter=one):
            pass
        running = asyncio.ensure_future(anyio.to_thread.run_sync(run, limiter=one))
        await asyncio.sleep(0)
        await asyncio.to_thread(go_on)
        return await running

    return asyncio.run(main())


def hop_by_hand(read: Callable[[], Any], run: Callable[[], Any], go_on: Callable[[], None]) -> Any:
    loop = Loop()
    try:
        while "end" not in loop.start(read).get()[0]:
            pass
        done = loop.start(run)
        go_on()
        result, error = done.get()
        if error is not None:
            raise error
        return result
    finally:
        loop.close()


HOPS = [hop_by_executor, hop_by_thread_pool, hop_by_to_thread, hop_by_run_in_executor, hop_by_anyio, hop_by_hand]


@pytest.mark.parametrize("hop", HOPS, ids=lambda hop: hop.__name__)
@pytest.mark.parametrize("colour", ["sync", "async"])
def test_the_thread_that_read_is_not_the_reader(bench: Bench, ran: list[str], hop: Any, colour: str) -> None:
    """A pool's thread that read a step of the stream, and is then given the tool, waits as any other would."""

    @otelstream.tool(effect="write", hold=True, hold_patience=20)
    def deploy(ref: str) -> str:
        ran.append(ref)
        return ref

    @otelstream.tool(name="deploy", effect="write", hold=True, hold_patience=20)
    async def adeploy(ref: str) -> str:
        ran.append(ref)
        return ref

    run = (lambda: deploy("main")) if colour == "sync" else (lambda: asyncio.run(adeploy("main")))
    with parrot("deploy", ref="main") as lines:
        stream: Any = None

        def read() -> Any:
            nonlocal stream
            line = next(lines)
            stream = otelstream.open_streams()[-1]
            return line

        def go_on() -> None:
            wait_for(lambda: stream.tool_calls[0].gated or stream.tool_calls[0].state == "withheld")
            assert not ran
            for _ in lines:
                pass

        assert hop(read, run, go_on) == "main"
    assert stream.outcome == "completed"


def thread(function: Callable[[], Any]) -> Any:
    loop = Loop()
    result, error = loop.start(function).get()
    loop.close()
    if error is not None:
        raise error
    return result


def executor(function: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def to_thread(function: Callable[[], Any]) -> Any:
    return asyncio.run(asyncio.to_thread(function))


def directly(function: Callable[[], Any]) -> Any:
    return function()


@pytest.mark.parametrize("place", [directly, thread, executor, to_thread], ids=lambda place: place.__name__)
@pytest.mark.parametrize("depth", [0, 3])
def test_the_reader_is_told_at_once_wherever_it_runs(bench: Bench, place: Pool, depth: int) -> None:
    """Who reads, and calls the held tool in the midst of that, however far below, is refused without a wait."""

    @otelstream.tool(effect="write", hold=True, hold_patience=60)
    def deploy(ref: str) -> str:
        raise AssertionError("it must not run")

    def below(left: int) -> None:
        if left:
            below(left - 1)
        else:
            deploy("main")

    def loop() -> None:
        with parrot("deploy", ref="main") as lines:
            for line in lines:
                if "end" in line:
                    below(depth)

    with pytest.raises(otelstream.ToolWithheld, match="its caller is the reader"):
        place(loop)


def test_a_task_that_took_the_place_of_the_reader(bench: Bench, ran: list[str]) -> None:
    """Steps read in tasks of their own: one that has the address of a task that is gone is not the reader."""

    @otelstream.tool(effect="write", hold=True, hold_patience=20)
    async def deploy(ref: str) -> str:
        ran.append(ref)
        return ref

    async def main(lines: Any) -> None:
        async def read() -> Any:
            return next(lines)

        while "end" not in await asyncio.create_task(read()):
            pass
        (call,) = otelstream.open_streams()[-1].tool_calls or ()
        reader = call.stream.reader
        running = asyncio.create_task(deploy("main"))
        call.stream.reader = reader._replace(place=(reader.place[0], id(running)))
        while not call.gated and call.state != "withheld":  # noqa: ASYNC110 - until it is at the gate
            await asyncio.sleep(0)
        for _ in lines:
            pass
        assert await running == "main"

    with parrot("deploy", ref="main") as lines:
        asyncio.run(main(lines))


# --- wakers ---------------------------------------------------------------------------------------------------


def test_woken_by_many(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wakes a hold does so as often as they like: neither `release()` nor the end of a stream hears of it."""

    @otelstream.tool(effect="write", hold="ack")
    def deploy(ref: str) -> str:
        return ref

    stream = opened()
    call = asks(stream, "deploy", ref="main")
    completes(stream)
    looked, go = threading.Event(), threading.Event()
    refusal = hold._refusal

    def looks(call: ToolCall) -> str | None:
        looked.set()
        go.wait(20)  # nobody takes the lock back meanwhile
        return refusal(call)

    monkeypatch.setattr(hold, "_refusal", looks)
    results: list[str] = []
    runner = threading.Thread(target=lambda: results.append(deploy("main")))
    runner.start()
    assert looked.wait(20)
    for _ in range(3):
        stream.wake()
        call.release()
    go.set()
    runner.join()
    assert results == ["main"]


def test_a_waker_that_fails_keeps_nobody_asleep(bench: Bench) -> None:
    """Each who waits is woken, whatever becomes of the others."""
    stream = opened()
    woken: list[int] = []
    stream.waiters.extend([breaks, lambda: woken.append(1), breaks, lambda: woken.append(2)])
    stream.wake()
    completes(stream)
    assert woken[:2] == [1, 2]


def test_released_under_a_lock_that_is_free(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at the lock and its release another thread may release it: that is no error."""
    locks: list[Any] = []

    class Lock:
        """Says that it is held, and is not."""

        def acquire(self, timeout: float = -1) -> bool:
            if not locks:
                locks.append(self)
            return True

        def locked(self) -> bool:
            return True

        def release(self) -> None:
            raise RuntimeError("release unlocked lock")

    class Threads:
        allocate_lock = Lock

    monkeypatch.setattr(hold, "_thread", Threads)
    stream = opened()
    call = asks(stream, "deploy", ref="main")
    completes(stream)
    gate = hold.Hold(True, 20, 20)
    waiting = threading.Thread(target=gate.pass_, args=(call,))
    waiting.start()
    wait_for(lambda: stream.waiters)
    call.release()
    waiting.join(20)
    assert not waiting.is_alive()
    assert locks
