# SPDX-License-Identifier: Apache-2.0
"""The tools of a managed agent session: those that the provider runs, and those that the application is to run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from otelstream._core.record.call import ToolCall, hash_of
from otelstream._core.record.stream import StreamObservation
from otelstream._core.tools.registry import registry

USES = ("agent.tool_use", "agent.mcp_tool_use", "agent.custom_tool_use")
_RESULTS = {
    "agent.tool_result": "tool_use_id",
    "agent.mcp_tool_result": "mcp_tool_use_id",
    "user.tool_result": "tool_use_id",
    "user.custom_tool_result": "custom_tool_use_id",
}


def asked(record: StreamObservation, kind: str, event: Mapping[str, Any], at: float, pause: float) -> None:
    """The model asks for a tool, with its whole input."""
    arguments = event.get("input")
    text = json.dumps(arguments, ensure_ascii=False)
    spoken = record.text_before or any(block.kind == "text" for block in record.blocks.values())
    call = ToolCall(str(event.get("name")), str(event.get("id") or ""), size=len(text), input="valid", pause=pause,
                    preamble=spoken, arguments=hash_of(arguments))  # fmt: skip
    record.runtime.tool_opened(record, call)
    record.tool_ready(call, at)
    if record.ending is not None:
        registry.awaited(record)
    permission = event.get("evaluated_permission")
    if permission == "deny":
        _refuse(call)
    elif kind != "agent.custom_tool_use" and permission != "ask":
        _run(call, at)


def told(kind: Any, event: Mapping[str, Any], at: float) -> None:
    """Any other event of a session: perhaps the result of a tool, or what the user said of running one."""
    if kind in _RESULTS:
        call = registry.by_id(str(event.get(_RESULTS[kind])))
        if call is not None and (_run(call, at) or call.evidence == "tool_result"):
            registry.finished(call, "failed" if event.get("is_error") is True else "committed", at)
    elif kind == "user.tool_confirmation":
        call = registry.by_id(str(event.get("tool_use_id")))
        if call is not None and call.dispatched_at is None:
            _run(call, at) if event.get("result") == "allow" else _refuse(call)


def _run(call: ToolCall, at: float) -> bool:
    """The provider runs it, says the wire: what sees a run of it in the application (self-hosted) knows better."""
    ran = registry.dispatched(call, "tool_result", at)
    if ran:
        call.where = None  # no thread of ours
    return ran


def _refuse(call: ToolCall) -> None:
    call.gated = True
    registry.withhold(call)
