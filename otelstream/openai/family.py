# SPDX-License-Identifier: Apache-2.0
"""SDKs of the same make that speak chat completions: a row each."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from otelstream._core.process.provider import Beside
from otelstream._stainless.provider import Provider
from otelstream._stainless.sdk import Call
from otelstream.openai import _chat, _tools, _whole
from otelstream.openai.provider import choices, forced


def _begin(provider: str, _: Any, result: Any, body: Mapping[str, Any]) -> Call | None:
    # A version may name its result as a union of types. Some have Anthropic's messages beside.
    if "completion" not in str(result).lower() or not ("messages" in body or "prompt" in body):
        return None
    return Call(
        "chat" if "messages" in body else "text_completion",
        provider,
        str(body.get("model") or "unknown"),
        _chat.Grammar(),
        choices=choices(body),
        output_tools=forced(body.get("tool_choice")),
    )


def _row(
    distribution: str,
    supported: tuple[tuple[int, int], tuple[int, int]],
    name: str,
    client: str,
    *,
    module: str = "",
    peers: Mapping[str, str] | None = None,
) -> Provider:
    return Provider(
        package=module or distribution,
        distribution=distribution,
        supported=supported,
        provider=name,
        clients=(client, f"Async{client}"),
        begin=partial(_begin, name),
        request_id="x-request-id",
        beside=Beside(peers=peers or {}, paths=("/completions",), patience=f"{client}(timeout=60)"),
        whole=_whole.whole,
        sent=_tools.request,
    )


GROQ = _row("groq", ((0, 9), (2, 0)), "groq", "Groq", peers={"opentelemetry-instrumentation-groq": "groq"})
TOGETHER = _row(
    "together", ((2, 0), (4, 0)), "together", "Together", peers={"opentelemetry-instrumentation-together": "together"}
)
CEREBRAS = _row("cerebras-cloud-sdk", ((1, 0), (2, 0)), "cerebras", "Cerebras", module="cerebras.cloud.sdk")
FIREWORKS = _row("fireworks-ai", ((1, 2), (2, 0)), "fireworks", "Fireworks", module="fireworks")
