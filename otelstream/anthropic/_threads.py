# SPDX-License-Identifier: Apache-2.0
"""Message threads: each exchange of one, and each run of a tool runner over one, is a turn unless one is open."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

from otelstream._core.turns import turn as turns
from otelstream._trouble import trouble

_RUNNERS = "_otelstream_runners"  # on the state of a thread that the application never asked for


def attach(wrap: Callable[[Any, str, Callable[..., Any]], None]) -> None:
    """Wrap what sends for a thread, in the versions of the SDK that have them."""
    try:
        from anthropic.lib.threads import _beta_threads as threads
        from anthropic.lib.tools import _beta_runner as runner
    except ImportError:
        return
    for module, owner, name, wrapper in (
        (threads, "BaseMessageThread", "_for_tool_runner", _made),
        (threads, "BetaMessageThread", "_create_with_recovery", _sent),
        (threads, "BetaAsyncMessageThread", "_create_with_recovery", _asent),
        (runner, "BaseSyncToolRunner", "_steps", _run),
        (runner, "BaseAsyncToolRunner", "_steps", _arun),
    ):
        cls = getattr(module, owner, None)
        if hasattr(cls, name):
            wrap(cls, name, wrapper)


def _made(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
    """The SDK keeps a thread behind a plain tool runner too, whose requests are turns as they are without one."""
    thread = wrapped(*args, **kwargs)
    try:
        thread._state.__dict__[_RUNNERS] = True  # its forks copy it
    except Exception:
        trouble("knowing a runner's thread")
    return thread


def _exchange(thread: Any) -> turns.Turn | None:
    try:
        if _RUNNERS not in thread._state.__dict__:
            return turns.exchange()
    except Exception:
        trouble("opening a turn")
    return None


# All requests of an exchange, those that are sent again included, are made in one call. A stream that it leaves open
# holds the turn to its end.


def _sent(wrapped: Any, thread: Any, args: Any, kwargs: Any) -> Any:
    turn = _exchange(thread)
    if turn is None:
        return wrapped(*args, **kwargs)
    turn.enter()
    try:
        with turns.inside(turn):
            return wrapped(*args, **kwargs)
    finally:
        turn.leave()


async def _asent(wrapped: Any, thread: Any, args: Any, kwargs: Any) -> Any:
    turn = _exchange(thread)
    if turn is None:
        return await wrapped(*args, **kwargs)
    turn.enter()
    try:
        with turns.inside(turn):
            return await wrapped(*args, **kwargs)
    finally:
        turn.leave()


# A runner's steps may each have a context of their own, and what the application does between them is not the run's.


def _run(wrapped: Any, runner: Any, args: Any, kwargs: Any) -> Any:
    turn = _exchange(getattr(runner, "_thread", None))
    steps = wrapped(*args, **kwargs)
    return steps if turn is None else _Steps(steps, turn)


def _arun(wrapped: Any, runner: Any, args: Any, kwargs: Any) -> Any:
    turn = _exchange(getattr(runner, "_thread", None))
    steps = wrapped(*args, **kwargs)
    return steps if turn is None else _AsyncSteps(steps, turn)


class _Steps(Generator[Any, Any, Any]):
    """The runner's loop, each step of it inside its turn; the runner closes it whatever happens."""

    def __init__(self, steps: Any, turn: turns.Turn) -> None:
        self._steps, self._turn = steps, turn
        turn.enter()

    def send(self, value: Any) -> Any:
        with turns.inside(self._turn):
            return self._steps.send(value)

    def throw(self, *error: Any) -> Any:
        with turns.inside(self._turn):
            return self._steps.throw(*error)

    def close(self) -> Any:
        try:
            with turns.inside(self._turn):
                return self._steps.close()
        finally:
            self._turn.leave()


class _AsyncSteps(AsyncGenerator[Any, Any]):
    """The same of an asynchronous runner."""

    def __init__(self, steps: Any, turn: turns.Turn) -> None:
        self._steps, self._turn = steps, turn
        turn.enter()

    async def asend(self, value: Any) -> Any:
        with turns.inside(self._turn):
            return await self._steps.asend(value)

    async def athrow(self, *error: Any) -> Any:
        with turns.inside(self._turn):
            return await self._steps.athrow(*error)

    async def aclose(self) -> None:
        try:
            with turns.inside(self._turn):
                await self._steps.aclose()
        finally:
            self._turn.leave()
