# SPDX-License-Identifier: Apache-2.0
"""The turn as applications open and see it: `otelstream.turn(id)` as a block or a decorator."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from html import escape
from types import TracebackType
from typing import Any, TypeVar

from otelstream._core.record.call import ToolCall
from otelstream._core.record.cancel import Ledger, ledger
from otelstream._core.turns import turn as turns
from otelstream._errors import ConfigurationError
from otelstream._face.view import StreamView

F = TypeVar("F", bound=Callable[..., Any])


class Turn:
    """One question of a user: its streams, its tool calls, and which side effects stood when it was stopped."""

    __slots__ = ("_turn",)

    def __init__(self, turn: turns.Turn) -> None:
        self._turn = turn

    @property
    def id(self) -> str | None:
        """By which any context of this process finds it; None for one that only a trace holds together."""
        return self._turn.id

    @property
    def route(self) -> str | None:
        """What the application calls this kind of question."""
        return self._turn.route

    @property
    def streams(self) -> tuple[StreamView, ...]:
        """Its streams, oldest first."""
        return tuple(StreamView(stream) for stream in self._turn.records)

    @property
    def unstreamed(self) -> int:
        """How many requests to a model were made in it that were not streamed; their tools are among its own."""
        return self._turn.unstreamed

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tool calls that the model asked for in it, oldest first."""
        return self._turn.tool_calls

    @property
    def ledger(self) -> Ledger:
        """Which side effects stood when it was stopped, newest first; as of now while it was not."""
        turn = self._turn if self._turn.stopped is not None else self._turn.stopped_by(math.inf)
        stopped = turn.stopped if turn is not None else None
        return ledger(self._turn.tool_calls, stopped.at if stopped is not None else None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Turn) and other._turn is self._turn

    def __hash__(self) -> int:
        return hash(self._turn)

    def __repr__(self) -> str:
        return f"<Turn {self.id!r} streams={len(self._turn.records)}>"

    def _repr_html_(self) -> str:
        said = [("turn", self.id), ("route", self.route), ("requests not streamed", self.unstreamed or None)]
        rows = [_html_row(name, value) for name, value in said if value is not None]
        for index, view in enumerate(self.streams, 1):
            said_of = (view.model, view.outcome or "open", view.trigger, f"{view.visible_chars or 0:,} characters")
            rows.append(_html_row(f"stream {index}", ", ".join(part for part in said_of if part)))
        rows += (
            _html_row(f"tool {call.name}", f"{call.effect}, {call.state or 'not whole yet'}")
            for call in self.tool_calls
        )
        for word, calls in self.ledger:
            if calls:
                rows.append(_html_row(f"ledger: {word}", ", ".join(call.name for call in calls)))
        return f"<table>{''.join(rows)}</table>"


def _html_row(name: str, value: object) -> str:
    """What a model or an application named acts on nothing around it."""
    return f"<tr><th scope=row>{escape(name)}</th><td>{escape(str(value))}</td></tr>"


class turn:  # noqa: N801 - a context manager reads as a word
    """One question of the user, from here to the end of the block; `with turn(chat_id) as turn:` or a decorator.

    Tasks and generators started inside belong to it; a thread or another block joins it by its id while it is open.
    In a served request the turn holds to the end of the request.
    """

    __slots__ = ("_id", "_inside", "_route")

    def __init__(self, id: str | None = None, *, route: str | None = None) -> None:  # noqa: A002
        if id is not None and not isinstance(id, str):
            id = str(id)  # noqa: A001
        self._id, self._route = id, route
        self._inside: list[tuple[turns.Turn, AbstractContextManager[None]]] = []

    def _open(self) -> turns.Turn:
        return turns.open_turn(self._id or os.urandom(8).hex(), self._route)

    def __enter__(self) -> Turn:
        opened = self._open()
        block = turns.inside(opened)
        block.__enter__()
        self._inside.append((opened, block))
        return Turn(opened)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        opened, block = self._inside.pop()
        block.__exit__(None, None, None)
        opened.leave()

    async def __aenter__(self) -> Turn:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def __call__(self, function: F) -> F:
        """Make every call of `function` a turn of its own."""
        if not callable(function):
            raise ConfigurationError(f"turn() decorates functions, not {function!r}")
        make = type(self)
        id_, route = self._id, self._route

        # A generator's steps may each have a context of their own: every step is run inside the turn.
        if inspect.isasyncgenfunction(function):

            @wraps(function)
            async def agenerate(*args: Any, **kwargs: Any) -> Any:
                opened = make(id_, route=route)._open()
                try:
                    generator = function(*args, **kwargs)
                    step, argument = generator.asend, None
                    while True:
                        with turns.inside(opened):
                            try:
                                item = await step(argument)
                            except StopAsyncIteration:
                                return
                            finally:
                                argument = None  # an exception that came in would hold this frame, and be held by it
                        try:
                            argument, step = (yield item), generator.asend
                        except GeneratorExit:
                            with turns.inside(opened):
                                await generator.aclose()
                            raise
                        except BaseException as error:
                            argument, step = error, generator.athrow
                finally:
                    opened.leave()

            return agenerate  # type: ignore[return-value]
        if inspect.isgeneratorfunction(function):

            @wraps(function)
            def generate(*args: Any, **kwargs: Any) -> Any:
                opened = make(id_, route=route)._open()
                try:
                    generator = function(*args, **kwargs)
                    step, argument = generator.send, None
                    while True:
                        with turns.inside(opened):
                            try:
                                item = step(argument)
                            except StopIteration as stop:
                                return stop.value
                            finally:
                                argument = None  # an exception that came in would hold this frame, and be held by it
                        try:
                            argument, step = (yield item), generator.send
                        except GeneratorExit:
                            with turns.inside(opened):
                                returned = generator.close()
                            if returned is not None:  # Python 3.13 hands it on
                                return returned
                            raise
                        except BaseException as error:
                            argument, step = error, generator.throw
                finally:
                    opened.leave()

            return generate  # type: ignore[return-value]
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def acall(*args: Any, **kwargs: Any) -> Any:
                with make(id_, route=route):
                    return await function(*args, **kwargs)

            return acall  # type: ignore[return-value]

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with make(id_, route=route):
                return function(*args, **kwargs)

        return call  # type: ignore[return-value]
