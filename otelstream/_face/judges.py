# SPDX-License-Identifier: Apache-2.0
"""What an application makes of the text while it streams: `@judge` on a function of what is visible so far."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from inspect import iscoroutinefunction
from typing import Any, TypeVar

from otelstream import _semconv as s
from otelstream._core.process import judges
from otelstream._core.record.hearing import STOP
from otelstream._errors import ConfigurationError

__all__ = ["STOP", "judge"]

F = TypeVar("F", bound=Callable[[str], Any])
_NAME = re.compile("[a-z0-9]([a-z0-9_-]{0,38}[a-z0-9])?")
_NAME_HINT = "use 1-40 of a-z, 0-9, _ and -, such as safe-to-ship"
_LEAST = 20  # characters: any nearer, and an answer of 10 000 is read more than 500 times


def judge(name: str, *, verdicts: Sequence[str], every: int | str = "sentence") -> Callable[[F], F]:
    """Declare a judge: a function of the visible text so far (str) that returns one of `verdicts`, None, or `STOP`.

    It is called for each stream that begins from now on, at the end of every sentence and of the answer: in a thread
    of its own, an async one as a task of the loop that reads the stream. None says nothing, and leaves the verdict that
    was; another verdict than the one before is a *reversal*; `STOP` closes the stream before its next read. In it,
    `current_stream()` and `record_retraction()` mean the stream that is judged. The text goes to it and nowhere else.

    Args:
        name: of the judge, at most 40 characters; one of the same name is replaced. At most 8 judges.
        verdicts: the words that it may return, one to eight; `stop` is what a returned `STOP` is told as.
        every: `"sentence"`, or a number of characters, at least 20.

    Raises:
        ConfigurationError: at definition, for what cannot be a judge.
    """
    _check_name("name", name)
    words = () if isinstance(verdicts, str) or not isinstance(verdicts, Iterable) else tuple(verdicts)
    if not 1 <= len(words) <= s.MAX_VERDICTS:
        raise ConfigurationError(f"verdicts={verdicts!r} is no list of 1 to {s.MAX_VERDICTS} words: use ('yes', 'no')")
    for verdict in words:
        _check_name("verdict", verdict)
        if verdict == STOP.value:
            raise ConfigurationError("verdict 'stop' is what a returned otelstream.STOP is told as: take another word")
    number = isinstance(every, int) and not isinstance(every, bool)
    if every != "sentence" and not (number and every >= _LEAST):  # type: ignore[operator]
        raise ConfigurationError(f"every={every!r} is not allowed: use 'sentence', or characters, at least {_LEAST}")
    if name not in judges.names() and len(judges.names()) >= s.MAX_JUDGES:
        raise ConfigurationError(f"judge {name!r} is one too many: at most {s.MAX_JUDGES}, join some into one function")

    def declare(function: F) -> F:
        if not callable(function):
            raise ConfigurationError(f"{function!r} is no function: a judge is called with the visible text")
        awaited = iscoroutinefunction(function) or iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
        plain = tuple(map(str.__str__, words))  # of an enum its words, not its members
        judges.declare(judges.Judge(name, plain, function, every if number else 0, awaited=awaited))  # type: ignore[arg-type]
        return function

    return declare


def _check_name(what: str, value: object) -> None:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ConfigurationError(f"{what} {value!r} is not allowed: {_NAME_HINT}")
