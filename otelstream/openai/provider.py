# SPDX-License-Identifier: Apache-2.0
"""The OpenAI SDK as this adapter knows it: its versions, its clients, and which requests are streamed answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any

from otelstream._core.process.provider import Beside
from otelstream._core.record.grammar import Grammar
from otelstream._stainless.provider import Provider
from otelstream._stainless.sdk import Call
from otelstream.openai import _chat, _responses, _tools, _whole

_NONE: frozenset[str] = frozenset()
# Result types by identity (`Response` is also the HTTP library's name): operation and grammar.
_KINDS: tuple[tuple[str, str, str, Callable[[], Grammar]], ...] = (
    ("openai.types.chat", "ChatCompletion", "chat", _chat.Grammar),
    ("openai.types", "Completion", "text_completion", _chat.Grammar),
    ("openai.types.responses", "Response", "chat", _responses.Grammar),
)


@cache
def _answers() -> dict[Any, tuple[str, Callable[[], Grammar]]]:
    """The result types of requests that are answered in words; a version has some of them."""
    found = {}
    for module, name, operation, grammar in _KINDS:
        try:
            found[vars(import_module(module))[name]] = operation, grammar
        except (ImportError, KeyError):
            continue
    return found


def _begin(client: Any, result: Any, body: Mapping[str, Any]) -> Call | None:
    try:
        operation, grammar = _answers()[result]
    except (TypeError, KeyError):  # another result; or one that has no hash
        return None
    provider = "azure.ai.openai" if "Azure" in type(client).__name__ else "openai"
    return Call(
        operation,
        provider,
        str(body.get("model") or "unknown"),
        grammar(),
        choices=choices(body),
        output_tools=forced(body.get("tool_choice")),
    )


def choices(body: Mapping[str, Any]) -> int:
    """How many answers the request asks for."""
    number = body.get("n")
    return number if isinstance(number, int) and 1 < number <= 128 else 1


def forced(choice: object) -> frozenset[str]:
    """The function that the request forces the model to call."""
    if not isinstance(choice, Mapping) or choice.get("type") != "function":
        return _NONE
    function = choice.get("function")
    name = function.get("name") if isinstance(function, Mapping) else choice.get("name")
    return frozenset({name}) if isinstance(name, str) else _NONE


def _helpers() -> Iterator[type]:
    for module, names in (
        ("openai.lib.streaming.chat", ("ChatCompletionStream", "AsyncChatCompletionStream")),
        ("openai.lib.streaming.responses", ("ResponseStream", "AsyncResponseStream")),
    ):
        try:
            known = vars(import_module(module))
        except ImportError:
            continue
        yield from (known[name] for name in names if name in known)


_BESIDE = Beside(
    peers={
        "opentelemetry-instrumentation-openai": "openai",
        "opentelemetry-instrumentation-openai-v2": "openai",
        "opentelemetry-instrumentation-genai-openai": "openai",
        "openinference-instrumentation-openai": "openai",
    },
    capturing={
        "opentelemetry-instrumentation-openai": {"TRACELOOP_TRACE_CONTENT": "false"},
        "openinference-instrumentation-openai": {
            "OPENINFERENCE_HIDE_INPUTS": "true",
            "OPENINFERENCE_HIDE_OUTPUTS": "true",
        },
    },
    paths=("/completions", "/responses"),
    patience="OpenAI(timeout=openai.Timeout(60, connect=5))",
)

PROVIDER = Provider(
    package="openai",
    supported=((1, 30), (4, 0)),
    provider="openai",
    clients=("OpenAI", "AsyncOpenAI", "AzureOpenAI", "AsyncAzureOpenAI"),
    begin=_begin,
    request_id="x-request-id",
    helpers=_helpers,
    helpers_close=True,
    beside=_BESIDE,
    whole=_whole.whole,
    sent=_tools.request,
)
