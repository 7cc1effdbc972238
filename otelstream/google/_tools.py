# SPDX-License-Identifier: Apache-2.0
"""The tools of this SDK: what its automatic function calling runs, and the results that later requests carry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from importlib import import_module
from typing import Any

from otelstream._core.process.hooks import Put
from otelstream._core.record.call import hash_of
from otelstream._core.tools.registry import declared, registry, serving
from otelstream._core.tools.run import Run
from otelstream._stainless.results import carried
from otelstream._trouble import trouble


def attach(put: Put) -> None:
    """Wrap what runs functions."""
    runner = import_module("google.genai._extra_utils")
    put(runner, "invoke_function_from_dict_args", _invoke)
    put(runner, "invoke_function_from_dict_args_async", _ainvoke)


def _run_of(args: tuple[Any, ...]) -> Run | None:
    """The run of a function that the SDK calls by its name, for a call whose id it does not hand on."""
    try:
        arguments, function = args
        name = str(function.__name__)
        if registry.idle or serving.get() is not None or name in declared:  # whose function tells, and knows better
            return None
        found = registry.claim(name, hash_of(arguments))
        if found is not None:
            return Run(name, found[0], "runner", guessed=found[1])
    except Exception:
        trouble("matching a tool call")
    return None


def _invoke(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
    with _run_of(args) or nullcontext():
        return wrapped(*args, **kwargs)


async def _ainvoke(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
    with _run_of(args) or nullcontext():
        return await wrapped(*args, **kwargs)


def _found(body: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    contents = body.get("contents")
    last = contents[-1] if isinstance(contents, (list, tuple)) and contents else None
    parts = last.get("parts") if isinstance(last, Mapping) else None
    for part in parts if isinstance(parts, (list, tuple)) else ():
        result = part.get("functionResponse") if isinstance(part, Mapping) else None
        if isinstance(result, Mapping) and result.get("id"):
            response = result.get("response")
            yield str(result["id"]), isinstance(response, Mapping) and "error" in response


request = carried(_found)
