# SPDX-License-Identifier: Apache-2.0
"""The Anthropic SDK as this adapter knows it: its versions, its clients, and which requests are streamed messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any

from otelstream._core.process.provider import Beside
from otelstream._stainless.provider import Provider
from otelstream._stainless.sdk import Call, Carrier, Observing
from otelstream.anthropic import _sessions, _tools
from otelstream.anthropic._grammar import Grammar, whole

_NONE: frozenset[str] = frozenset()


@cache
def _answers() -> frozenset[Any]:
    """The result types of message requests; a version has some of them."""
    found = set()
    for module in ("anthropic.types", "anthropic.types.beta", "anthropic.types.parsed_message",
                   "anthropic.types.beta.parsed_beta_message"):  # fmt: skip
        try:
            names = vars(import_module(module))
        except ImportError:
            continue
        found |= {names.get(name) for name in ("Message", "BetaMessage", "ParsedMessage", "ParsedBetaMessage")}
    return frozenset(found - {None})


def _begin(client: Any, result: Any, body: Mapping[str, Any]) -> Call | None:
    try:
        if result not in _answers():
            return None
    except TypeError:  # a result type that has no hash
        return None
    choice = body.get("tool_choice")
    forced = choice.get("name") if isinstance(choice, Mapping) and choice.get("type") == "tool" else None
    output_tools = frozenset({forced}) if isinstance(forced, str) else _NONE
    model = str(body.get("model") or "unknown")
    return Call("chat", _provider(client), model, Grammar(), output_tools=output_tools)


def _provider(client: Any) -> str:
    name = type(client).__name__
    if "Bedrock" in name:
        return "aws.bedrock"
    return "gcp.vertex_ai" if "Vertex" in name else "anthropic"


def _sent(options: Any) -> None:
    _tools.request(options)
    _sessions.sent(options)


def _carrier(observing: Observing, made_of: Mapping[str, Any]) -> Carrier | None:
    return _sessions.carrier(observing, made_of, _provider)


def _helpers() -> Iterator[type]:
    for module in ("_messages", "_beta_messages"):
        names = vars(import_module(f"anthropic.lib.streaming.{module}"))
        for name in ("MessageStream", "AsyncMessageStream", "BetaMessageStream", "BetaAsyncMessageStream"):
            helper = names.get(name)
            if helper is not None and helper.__module__ == f"anthropic.lib.streaming.{module}":
                yield helper


_CALLS = ("Messages.create", "Messages.stream", "AsyncMessages.create", "AsyncMessages.stream")
_BESIDE = Beside(
    peers={
        "opentelemetry-instrumentation-anthropic": "anthropic",
        "opentelemetry-instrumentation-genai-anthropic": "anthropic",
        "openinference-instrumentation-anthropic": "anthropic",
    },
    capturing={
        "opentelemetry-instrumentation-anthropic": {"TRACELOOP_TRACE_CONTENT": "false"},
        "openinference-instrumentation-anthropic": {
            "OPENINFERENCE_HIDE_INPUTS": "true",
            "OPENINFERENCE_HIDE_OUTPUTS": "true",
        },
    },
    native_since=(1, 14),
    native_switch="ANTHROPIC_OPEN_TELEMETRY",
    native_content="ANTHROPIC_OPEN_TELEMETRY_TRACES_CONTENT_MODE",
    calls=(("anthropic.resources.messages", _CALLS), ("anthropic.resources.beta.messages", _CALLS)),
    paths=("/messages",),
    patience="Anthropic(timeout=anthropic.Timeout(60, connect=5))",
)

PROVIDER = Provider(
    package="anthropic",
    supported=((0, 51), (3, 0)),
    provider="anthropic",
    clients=("Anthropic", "AsyncAnthropic"),
    begin=_begin,
    request_id="request-id",
    native_scope=_tools.SCOPE,
    beside=_BESIDE,
    helpers=_helpers,
    whole=whole,
    # https://platform.claude.com/docs/en/api/errors
    words={
        400: "invalid_request_error",
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        500: "api_error",
        504: "timeout_error",
        529: "overloaded_error",
    },
    sent=_sent,
    heard=_sessions.heard,
    attach=_tools.attach,
    carrier=_carrier,
)
