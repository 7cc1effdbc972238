# SPDX-License-Identifier: Apache-2.0
"""The tools of the Anthropic SDK: its runner, eager or not, and the results that later requests carry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from otelstream import _processor
from otelstream._call import hash_of
from otelstream._tools import Run, declared, registry, results, serving
from otelstream._trouble import trouble
from otelstream.anthropic._native import SCOPE

Wrap = Callable[[Any, str, Callable[..., Any]], None]


def attach(wrap: Wrap) -> None:
    """Wrap what runs tools in this version of the SDK; each part may be missing."""
    try:
        from anthropic.lib.tools import _beta_functions as functions
    except ImportError:  # before 0.7x there are no tool helpers
        return
    wrap(functions.BetaFunctionTool, "call", _call)
    wrap(functions.BetaAsyncFunctionTool, "call", _acall)
    try:
        from anthropic.lib.tools import _beta_runner as runner
    except ImportError:
        return
    _processor.told_elsewhere.add(SCOPE)
    for owner, name, wrapper in (
        ("BaseSyncToolRunner", "_run_tool", _run),
        ("BaseSyncToolRunner", "_run_toolset_member", _run),
        ("BaseAsyncToolRunner", "_run_tool", _arun),
        ("BaseAsyncToolRunner", "_run_toolset_member", _arun),
        ("EagerToolCalls", "is_held", _is_held),
    ):
        cls = getattr(runner, owner, None)
        if hasattr(cls, name):
            wrap(cls, name, wrapper)


def request(options: Any) -> None:
    """A request goes out: it may carry results of tools that nobody saw run. Never raises."""
    if registry.idle:
        return
    try:
        body = getattr(options, "json_data", None)
        if isinstance(body, Mapping):
            results(body.get("messages"))
    except Exception:
        trouble("reading tool results")


def _begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Run | None:
    try:
        block = kwargs.get("tool_use", args[-1] if args else None)
        call = registry.by_id(str(getattr(block, "id", "")))
        if call is not None:
            run = Run(call.name, call, "runner")
            held = declared(call.name)
            # A held tool is started by its own gate, if at all.
            run.start(stamped=held is None or held.hold is None)
            return run
    except Exception:
        trouble("matching a tool call")
    return None


def _failed(result: Any) -> bool:
    return isinstance(result, Mapping) and result.get("is_error") is True


def _run(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
    run = _begin(args, kwargs)
    if run is None:
        return wrapped(*args, **kwargs)
    try:
        result = wrapped(*args, **kwargs)
    except BaseException as error:
        run.end(error)
        raise
    run.end(failed=_failed(result))
    return result


async def _arun(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
    run = _begin(args, kwargs)
    if run is None:
        return await wrapped(*args, **kwargs)
    try:
        result = await wrapped(*args, **kwargs)
    except BaseException as error:
        run.end(error)
        raise
    run.end(failed=_failed(result))
    return result


def _begin_call(tool: Any, args: tuple[Any, ...]) -> Run | None:
    """The run of a tool object that was called by itself, or by a runner that gives no ids (before 1.17)."""
    try:
        if registry.idle or serving.get() is not None:
            return None
        name = tool.name
        spec = declared(name)
        if spec is not None:
            return None  # its function tells, and knows better
        found = registry.claim(name, hash_of(args[0]) if args else None)
        if found is not None:
            run = Run(name, found[0], "runner", guessed=found[1])
            run.start()
            return run
    except Exception:
        trouble("matching a tool call")
    return None


def _call(wrapped: Any, tool: Any, args: Any, kwargs: Any) -> Any:
    run = _begin_call(tool, args)
    if run is None:
        return wrapped(*args, **kwargs)
    try:
        result = wrapped(*args, **kwargs)
    except BaseException as error:
        run.end(error)
        raise
    run.end()
    return result


async def _acall(wrapped: Any, tool: Any, args: Any, kwargs: Any) -> Any:
    run = _begin_call(tool, args)
    if run is None:
        return await wrapped(*args, **kwargs)
    try:
        result = await wrapped(*args, **kwargs)
    except BaseException as error:
        run.end(error)
        raise
    run.end()
    return result


def _is_held(wrapped: Any, calls: Any, args: Any, kwargs: Any) -> Any:
    """The eager runner asks whether to run a call now: one that `@tool(hold=...)` holds waits for the end."""
    try:
        block = kwargs.get("tool_use", args[0] if args else None)
        spec = declared(getattr(block, "name", ""))
        if spec is not None and spec.hold is not None:
            calls.hold(block)
    except Exception:
        trouble("deferring a tool call")
    return wrapped(*args, **kwargs)
