# SPDX-License-Identifier: Apache-2.0
"""`@turn` on generators: whatever is sent, thrown, returned or closed gets through, each step inside the turn."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from starlette.testclient import TestClient

import otelstream
from otelstream._core.turns import turn as _turn


class OwnError(Exception):
    """The application's."""


def here() -> str | None:
    turn = _turn.current()
    return turn.id if turn is not None else None


def entered(id: str = "chat") -> int:  # noqa: A002
    turn = _turn.find(id)
    assert turn is not None
    return turn.entered


@pytest.fixture(autouse=True)
def _no_turns() -> None:
    _turn.restart()


# One body in both colours: what came in, and the turn that each step was in.


def body(log: list[Any]) -> Any:
    @otelstream.turn("chat")
    def steps() -> Any:
        try:
            got: Any = None
            while got != "end":
                try:
                    got = yield ("asks", here())
                    log.append(got)
                except OwnError as error:
                    log.append(error)
            return "returned"
        finally:
            log.append(("over", here()))

    return steps


def abody(log: list[Any]) -> Any:
    @otelstream.turn("chat")
    async def steps() -> Any:
        try:
            got: Any = None
            while got != "end":
                await asyncio.sleep(0)
                try:
                    got = yield ("asks", here())
                    log.append(got)
                except OwnError as error:
                    await asyncio.sleep(0)
                    log.append(error)
        finally:
            await asyncio.sleep(0)
            log.append(("over", here()))

    return steps


class Steps:
    """A generator of either colour, to be stepped by hand."""

    def __init__(self, colour: str) -> None:
        self.log: list[Any] = []
        self._loop = asyncio.new_event_loop()
        self._is_async = colour == "async"
        self._generator = (abody if self._is_async else body)(self.log)()

    def _do(self, name: str, *args: Any) -> Any:
        if not self._is_async:
            return getattr(self._generator, name)(*args)
        return self._loop.run_until_complete(getattr(self._generator, f"a{name}")(*args))

    def send(self, value: Any) -> Any:
        return self._do("send", value)

    def throw(self, error: BaseException) -> Any:
        return self._do("throw", error)

    def close(self) -> Any:
        return self._do("close")

    def shut(self) -> None:
        self.close()
        self._loop.close()


@pytest.fixture(params=["sync", "async"])
def steps(request: pytest.FixtureRequest) -> Iterator[Steps]:
    made = Steps(request.param)
    yield made
    made.shut()


def test_what_is_sent_arrives(steps: Steps) -> None:
    """Each value that is sent is what the generator's `yield` returns; outside of its steps there is no turn."""
    assert steps.send(None) == ("asks", "chat")
    assert here() is None
    assert [steps.send(value) for value in (1, None, "two")] == [("asks", "chat")] * 3
    assert steps.log == [1, None, "two"]
    with pytest.raises((StopIteration, StopAsyncIteration)) as stopped:
        steps.send("end")
    assert getattr(stopped.value, "value", "returned") == "returned"
    assert steps.log[-1] == ("over", "chat")
    assert entered() == 0


def test_what_is_thrown_arrives(steps: Steps) -> None:
    """The very exception reaches the generator's `except`; it goes on, and takes what is sent next."""
    error = OwnError()
    steps.send(None)
    assert steps.throw(error) == ("asks", "chat")
    assert steps.log == [error]
    steps.send("more")
    assert steps.log == [error, "more"]
    assert entered() == 1


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), asyncio.CancelledError()], ids=repr)
def test_what_is_not_caught_comes_back(steps: Steps, error: BaseException) -> None:
    """An exception that the generator does not catch leaves it as the very same, after its `finally`."""
    steps.send(None)
    with pytest.raises(type(error)) as raised:
        steps.throw(error)
    assert raised.value is error
    assert steps.log == [("over", "chat")]
    assert entered() == 0


def test_closed(steps: Steps) -> None:
    """Closed in the middle, its `finally` runs inside the turn, which is over then."""
    steps.send(None)
    assert steps.close() is None
    assert steps.log == [("over", "chat")]
    assert entered() == 0


def test_closed_before_it_began(steps: Steps) -> None:
    """One that was never stepped never was a turn."""
    steps.close()
    assert steps.log == []


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_close_that_fails_leaves_the_turn(colour: str) -> None:
    """An error in the generator's own cleaning up is the caller's to see, and the turn is over all the same."""

    @otelstream.turn("chat")
    def failing() -> Iterator[int]:
        try:
            yield 1
        finally:
            raise OwnError

    @otelstream.turn("chat")
    async def afailing() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            raise OwnError

    async def run() -> None:
        generator: Any = afailing()
        await anext(generator)
        await generator.aclose()

    def run_sync() -> None:
        generator: Any = failing()
        next(generator)
        generator.close()

    with pytest.raises(OwnError):
        asyncio.run(run()) if colour == "async" else run_sync()
    assert entered() == 0


def test_a_cancel_while_it_closes_leaves_the_turn() -> None:
    """A task that is cancelled while the generator cleans up leaves no turn entered."""

    @otelstream.turn("chat")
    async def slow() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.Event().wait()

    async def run() -> None:
        generator: Any = slow()
        await anext(generator)
        closing = asyncio.create_task(generator.aclose())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing

    asyncio.run(run())
    assert entered() == 0


@pytest.mark.skipif(sys.version_info < (3, 13), reason="close() returns None before")
def test_what_a_closed_generator_returns() -> None:
    """`close()` hands on what the generator returns then."""

    @otelstream.turn("chat")
    def answers() -> Any:
        try:
            yield 1
        except GeneratorExit:
            return "partial"

    generator = answers()
    next(generator)
    assert generator.close() == "partial"


def test_a_generator_below_another() -> None:
    """`yield from` hands sends, throws and the return value through."""
    log: list[Any] = []

    def outer() -> Any:
        return (yield from body(log)())

    generator = outer()
    next(generator)
    generator.send("a")
    generator.throw(OwnError())
    with pytest.raises(StopIteration) as stopped:
        generator.send("end")
    assert stopped.value.value == "returned"
    assert [type(each) for each in log] == [str, OwnError, str, tuple]


def test_an_exception_that_came_in_is_not_kept() -> None:
    """What was thrown in and caught is let go with the next step: nothing waits for the collector."""
    gc.collect()
    gc.disable()
    try:
        generator = body([])()
        kept = weakref.ref(generator)
        next(generator)
        with pytest.raises(ValueError, match="x"):
            generator.throw(ValueError("x"))
        del generator
        assert kept() is None
    finally:
        gc.enable()


# --- as people use them ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("caught", [True, False])
def test_a_context_manager(caught: bool) -> None:
    """An `@asynccontextmanager`'s `except` and `@contextmanager`'s roll back; what they do not swallow goes on."""
    log: list[str] = []

    @contextmanager
    @otelstream.turn("chat")
    def transaction() -> Iterator[str | None]:
        try:
            yield here()
            log.append("commit")
        except OwnError:
            log.append(f"rollback in {here()}")
            if not caught:
                raise

    @asynccontextmanager
    @otelstream.turn("chat")
    async def atransaction() -> AsyncIterator[str | None]:
        try:
            yield here()
            log.append("commit")
        except OwnError:
            await asyncio.sleep(0)
            log.append(f"rollback in {here()}")
            if not caught:
                raise

    def run_sync() -> None:
        with transaction() as turn:
            assert turn == "chat"
            raise OwnError

    async def run() -> None:
        async with atransaction() as turn:
            assert turn == "chat"
            raise OwnError

    for act in (run_sync, lambda: asyncio.run(run())):
        if caught:
            act()
        else:
            with pytest.raises(OwnError):
                act()
    assert log == ["rollback in chat"] * 2
    with transaction():
        pass
    assert log[-1] == "commit"
    assert entered() == 0


@pytest.mark.parametrize("path", ["/sync", "/async"])
@pytest.mark.parametrize("fails", [True, False])
def test_a_dependency_of_fastapi(path: str, fails: bool) -> None:
    """A dependency that yields is rolled back by what its endpoint raises, and finished by what it returns."""
    log: list[str] = []
    app = FastAPI()

    @otelstream.turn("chat")
    def session() -> Iterator[str]:
        try:
            yield "session"
            log.append("commit")
        except OwnError:
            log.append("rollback")
            raise
        finally:
            log.append("closed")

    @otelstream.turn("chat")
    async def asession() -> AsyncIterator[str]:
        try:
            yield "session"
            log.append("commit")
        except OwnError:
            log.append("rollback")
            raise
        finally:
            log.append("closed")

    def answer(given: str) -> str:
        if fails:
            raise OwnError
        return given

    @app.get("/sync")
    def sync_endpoint(given: str = Depends(session)) -> str:
        return answer(given)

    @app.get("/async")
    async def async_endpoint(given: str = Depends(asession)) -> str:
        return answer(given)

    client = TestClient(app)
    if fails:
        with pytest.raises(OwnError):
            client.get(path)
    else:
        assert client.get(path).json() == "session"
    assert log == ["rollback" if fails else "commit", "closed"]
    assert entered() == 0
