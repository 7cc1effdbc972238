# SPDX-License-Identifier: Apache-2.0
"""The tools of the Anthropic SDK: its runner, eager or not, and the results that later requests carry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

from otelstream._core.record.call import hash_of
from otelstream._core.tools.registry import declared, registry, serving
from otelstream._core.tools.run import Run
from otelstream._core.tools.spans import told_elsewhere
from otelstream._stainless.results import carried
from otelstream._trouble import trouble
from otelstream.anthropic import _threads

SCOPE = "com.anthropic.sdk.python"  # of the spans that the SDK makes of itself
Wrap = Callable[[Any, str, Callable[..., Any]], None]


def attach(wrap: Wrap) -> None:
    """Wrap what runs tools in this version of the SDK; each part may be missing."""
    try:
        from anthropic.lib.tools import _beta_functions as functions
    except ImportError:  # before 0.7x there are no tool helpers
        return
    _threads.attach(wrap)
    wrap(functions.BetaFunctionTool, "call", _call)
    wrap(functions.BetaAsyncFunctionTool, "call", _acall)
    try:
        from anthropic.lib.tools import _beta_runner as runner
    except ImportError:
        return
    told_elsewhere.add(SCOPE)
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


def _found(body: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    events = body.get("events")  # to a managed agent session
    for event in events if isinstance(events, (list, tuple)) else ():
        if isinstance(event, Mapping) and event.get("type") in ("user.custom_tool_result", "user.tool_result"):
            yield str(event.get("custom_tool_use_id") or event.get("tool_use_id")), event.get("is_error") is True
    messages = body.get("messages")
    for message in reversed(messages if isinstance(messages, (list, tuple)) else ()):
        if not isinstance(message, Mapping) or message.get("role") == "assistant":
            return
        content = message.get("content")
        for block in content if isinstance(content, (list, tuple)) else ():
            if isinstance(block, Mapping) and block.get("type") == "tool_result":
                yield str(block.get("tool_use_id")), block.get("is_error") is True


request = carried(_found)


def _run_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Run | None:
    """The run of the call whose block the runner hands to its own method."""
    try:
        block = kwargs.get("tool_use", args[-1] if args else None)
        id_ = str(getattr(block, "id", ""))
        spec = declared.get(getattr(block, "name", ""))
        held = spec is not None and spec.hold is not None
        call = registry.by_id(id_)
        if call is None and held and spec is not None:
            call = registry.given_up(spec.name, id=id_)
        if call is not None:
            return Run(call.name, call, "runner", stamped=not held)
    except Exception:
        trouble("matching a tool call")
    return None


def _returned(run: Run | None, result: Any) -> Any:
    if run is not None and isinstance(result, Mapping) and result.get("is_error") is True:
        run.failed = True
    return result


def _run(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
    run = _run_of(args, kwargs)
    with run or nullcontext():
        return _returned(run, wrapped(*args, **kwargs))


async def _arun(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
    run = _run_of(args, kwargs)
    with run or nullcontext():
        return _returned(run, await wrapped(*args, **kwargs))


def _run_by_name(tool: Any, args: tuple[Any, ...]) -> Run | None:
    """The run of a tool object that was called by itself, or by a runner that gives no ids (before 1.17)."""
    try:
        if (
            registry.idle or serving.get() is not None or tool.name in declared
        ):  # whose function tells, and knows better
            return None
        found = registry.claim(tool.name, hash_of(args[0]) if args else None)
        if found is not None:
            return Run(tool.name, found[0], "runner", guessed=found[1])
    except Exception:
        trouble("matching a tool call")
    return None


def _call(wrapped: Any, tool: Any, args: Any, kwargs: Any) -> Any:
    with _run_by_name(tool, args) or nullcontext():
        return wrapped(*args, **kwargs)


async def _acall(wrapped: Any, tool: Any, args: Any, kwargs: Any) -> Any:
    with _run_by_name(tool, args) or nullcontext():
        return await wrapped(*args, **kwargs)


def _is_held(wrapped: Any, calls: Any, args: Any, kwargs: Any) -> Any:
    """The eager runner asks whether to run a call now: one that `@tool(hold=...)` holds waits for the end."""
    try:
        block = kwargs.get("tool_use", args[0] if args else None)
        spec = declared.get(getattr(block, "name", ""))
        if spec is not None and spec.hold is not None:
            calls.hold(block)
            call = registry.by_id(block.id)
            if call is not None and call.dispatched_at is None:
                call.gated = True
    except Exception:
        trouble("deferring a tool call")
    return wrapped(*args, **kwargs)
