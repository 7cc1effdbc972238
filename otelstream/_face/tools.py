# SPDX-License-Identifier: Apache-2.0
"""What an application says of its tools: `@tool` on a function that serves calls, `tool_call` around one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, get_args, overload

from otelstream import _semconv as s
from otelstream._core.record.call import ToolCall, hash_of
from otelstream._core.tools.hold import Hold, failed
from otelstream._core.tools.registry import Declared, declared, registry, serving
from otelstream._core.tools.run import Run
from otelstream._errors import ConfigurationError, ToolWithheld
from otelstream._trouble import trouble

F = TypeVar("F")


@overload
def tool(function: F) -> F: ...
@overload
def tool(
    *,
    name: str | None = None,
    effect: s.Effect | None = None,
    hold: bool | str = False,
    hold_timeout: float = 300.0,
    hold_patience: float = 1.0,
) -> Callable[[F], F]: ...
def tool(
    function: Any = None,
    *,
    name: str | None = None,
    effect: s.Effect | None = None,
    hold: bool | str = False,
    hold_timeout: float = 300.0,
    hold_patience: float = 1.0,
) -> Any:
    """Declare a function that serves tool calls: its runs are matched to the calls that the model asked for.

    Args:
        name: the tool's name in the API, where that is not the function's.
        effect: `read` may run any time and again; `write` touches the world.
        hold: run only after a clean end of the stream, else raise ToolWithheld; `"ack"` waits for `call.release()` too.
        hold_timeout: seconds to wait for that release.
        hold_patience: seconds without anybody reading the stream after which a held call is withheld.

    Raises:
        ConfigurationError: at definition, for what cannot be a tool.
    """
    _check_effect(effect)
    gate = None
    if hold is not False:
        gate = Hold.checked(hold, hold_timeout, hold_patience)

    def declare(function: Any) -> Any:
        return _declare(function, name, effect, gate)

    return declare if function is None else declare(function)


def _check_effect(effect: object) -> None:
    if effect is not None and effect not in get_args(s.Effect):
        raise ConfigurationError(f"effect={effect!r} is not allowed: use {' or '.join(map(repr, get_args(s.Effect)))}")


def _declare(function: Any, name: str | None, effect: s.Effect | None, gate: Hold | None) -> Any:
    inner = getattr(function, "func", None)
    if inner is not None and hasattr(function, "call") and isinstance(getattr(function, "name", None), str):
        # A tool object of an SDK: it keeps its identity, and what it runs is observed.
        spec = Declared(name or function.name, effect, gate)
        for attribute in ("func", "_func_with_validate"):
            if callable(getattr(function, attribute, None)):
                setattr(function, attribute, _observed(getattr(function, attribute), spec, like=inner))
        declared[spec.name] = spec
        return function
    if not callable(function):
        raise ConfigurationError(f"@tool decorates a function, not {function!r}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(f"@tool decorates a function that returns, {function!r} is a generator function")
    known = name or getattr(function, "__name__", None)
    if not isinstance(known, str) or not known:
        raise ConfigurationError(f"@tool(name=...) is needed: {function!r} has no name of its own")
    spec = Declared(known, effect, gate)
    declared[known] = spec
    return _observed(function, spec, like=function)


def _observed(function: Any, spec: Declared, *, like: Any) -> Any:
    """`function`, each of whose runs is told to the registry."""
    try:
        signature: inspect.Signature | None = inspect.signature(like)
    except (TypeError, ValueError):
        signature = None
    call_method = getattr(type(like), "__call__", None)  # noqa: B004 - an object with an async __call__
    if inspect.iscoroutinefunction(like) or inspect.iscoroutinefunction(call_method):

        @wraps(function)
        async def arun(*args: Any, **kwargs: Any) -> Any:
            run = _find(spec, signature, args, kwargs)
            if spec.hold is not None and run.call is not None:
                try:
                    await spec.hold.apass(run.call)
                except ToolWithheld as error:
                    run.refused(error)
                    raise
            with run:
                return await function(*args, **kwargs)

        return arun

    @wraps(function)
    def run_it(*args: Any, **kwargs: Any) -> Any:
        run = _find(spec, signature, args, kwargs)
        if spec.hold is not None and run.call is not None:
            try:
                spec.hold.pass_(run.call)
            except ToolWithheld as error:
                run.refused(error)
                raise
        with run:
            return function(*args, **kwargs)

    return run_it


def _find(spec: Declared, signature: inspect.Signature | None, args: Any, kwargs: Any) -> Run:
    try:
        if registry.idle and serving.get() is None and spec.hold is None:
            return Run(spec.name, None, "decorator")
        arguments = _arguments(signature, args, kwargs)
        found = registry.claim(spec.name, arguments, sure=spec.hold is not None)
        if found is not None:
            return Run(spec.name, found[0], "decorator", guessed=found[1])
        if spec.hold is not None:
            again = registry.given_up(spec.name, arguments=arguments)
            if again is not None:
                return Run(spec.name, again, "decorator")
            spec.hold.unmatched(spec.name)
    except ToolWithheld:
        raise
    except Exception as error:
        if spec.hold is not None:
            raise failed(spec.name, error) from error
        trouble("matching a tool call")
    return Run(spec.name, None, "decorator")


def _arguments(signature: inspect.Signature | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """A hash of the arguments by name, as the model gave them: without defaults and without `self`."""
    if not args:
        return hash_of(kwargs)
    if signature is None:
        return None
    try:
        bound = dict(signature.bind(*args, **kwargs).arguments)
    except TypeError:
        return None
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            bound.update(bound.pop(parameter.name, {}))
    first = next(iter(bound), None)
    if first in ("self", "cls"):
        del bound[first]
    return hash_of(bound)


@contextmanager
def tool_call(block: object, *, effect: s.Effect | None = None) -> Iterator[ToolCall]:
    """Serve one tool call in this block: `with tool_call(block): send_email(**block.input)`.

    Args:
        block: the `tool_use` block of the model's message, as an object or a mapping, or its id.
        effect: what the tool does, where neither `@tool` nor the setting `tools` says so.

    Raises:
        ConfigurationError: for an effect that is none.
    """
    _check_effect(effect)
    with _serve(block, effect) as run:
        yield run.call or ToolCall(run.name, "")


_PARTS = ("id", "name", "input")


def _serve(block: object, effect: s.Effect | None) -> Run:
    name, call = "unknown", None
    try:
        if isinstance(block, str):
            id_, arguments = block, None
        else:
            parts = block if isinstance(block, Mapping) else {key: getattr(block, key, None) for key in _PARTS}
            id_, name = str(parts.get("id") or ""), str(parts.get("name") or "unknown")
            arguments = hash_of(parts.get("input"))
        call = registry.by_id(id_) if id_ else None
        guessed = False
        if call is None and not isinstance(block, str) and not id_:
            call, guessed = registry.claim(name, arguments) or (None, False)
        if call is not None:
            if effect is not None:
                call.effect = effect
            return Run(call.name, call, "decorator", guessed=guessed)
    except Exception:
        trouble("matching a tool call")
    return Run(name, call, "decorator")
