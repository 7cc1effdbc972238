# SPDX-License-Identifier: Apache-2.0
"""Context variables, set and taken back without harm to those of others."""

from __future__ import annotations

from _thread import get_ident
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token, copy_context
from typing import Any, ParamSpec, TypeVar

from opentelemetry.context import attach, detach
from opentelemetry.trace import Span, set_span_in_context

from otelstream._core.emit import outbox

Args = ParamSpec("Args")
Result = TypeVar("Result")
Value = TypeVar("Value")


def steady(change: Callable[Args, Result], *args: Args.args, **kwargs: Args.kwargs) -> Result:
    """Call `change`, which changes context variables, so that a finaliser in the midst of it may change some too.

    CPython reads the mapping of all variables while it allocates, until 3.12 collects garbage there, and a finaliser
    that sets a variable frees that mapping. Here it is held, and then every variable looked up anew.
    """
    if outbox.collecting == get_ident():  # this is such a finaliser, and who knows of what
        before = copy_context()
        result = change(*args, **kwargs)
        outbox.hold(before, copy_context())
        return result
    outbox.hold(copy_context())
    try:
        return change(*args, **kwargs)
    finally:
        outbox.let_go()


def put(variable: ContextVar[Value], value: Value) -> Token[Value]:
    """Set a context variable."""
    return steady(variable.set, value)


def reset(variable: ContextVar[Any], token: Token[Any]) -> None:
    """Take a context variable back, where that is still the same context."""
    try:
        steady(variable.reset, token)
    except ValueError:  # another context: a generator that is resumed elsewhere
        return


@contextmanager
def current(span: Span) -> Iterator[None]:
    """Be below `span`, which is ended elsewhere."""
    token = steady(attach, set_span_in_context(span))
    try:
        yield
    finally:
        steady(detach, token)
