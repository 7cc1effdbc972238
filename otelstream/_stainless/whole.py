# SPDX-License-Identifier: Apache-2.0
"""Requests that are not streamed: inside a turn they are counted, and the tools they ask for are the turn's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from opentelemetry.instrumentation.utils import is_instrumentation_enabled

from otelstream._core.process.runtime import Runtime
from otelstream._core.process.whole import Unstreamed
from otelstream._core.turns import turn as turns
from otelstream._stainless.sdk import Sdk
from otelstream._trouble import trouble

T = TypeVar("T")


def begin(
    sdk: Sdk, runtime: Runtime | None, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Unstreamed | None:
    """The request as its turn counts it; None outside of any, and for what asks no model. Never raises."""
    if runtime is None or kwargs.get("stream"):
        return None
    try:
        body = getattr(args[1] if len(args) > 1 else kwargs.get("options"), "json_data", None)
        if not isinstance(body, Mapping) or "model" not in body or not is_instrumentation_enabled():
            return None
        call = sdk.begin(client, args[0] if args else kwargs.get("cast_to"), body)
        turn = turns.around() if call is not None else None
        if call is None or turn is None:
            return None
        return Unstreamed(
            runtime,
            turn,
            operation=call.operation,
            provider=call.provider,
            model=call.model,
            output_tools=call.output_tools,
        )
    except Exception:
        trouble("counting a request")
        return None


def answered(sdk: Sdk, asked: Unstreamed, result: T) -> T:
    """Take in the answer, which is handed on. Never raises."""
    try:
        said = sdk.whole(_content(result))
        if said is not None:
            asked.answered(said)
    except Exception:
        trouble("reading an answer that was not streamed")
    return result


def _content(result: Any) -> Any:
    """The answer: of a raw response its JSON, as far as the body was read; parsing it stays the application's."""
    raw = getattr(result, "http_response", None)
    if raw is None:
        return result
    body = getattr(raw, "_content", None)  # absent until it is read
    return json.loads(body) if body else None
