# SPDX-License-Identifier: Apache-2.0
"""Gemini's answers: chunks of candidates, tool calls whole, and nothing that says that it is over."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from otelstream.testing._dialects import SSE
from otelstream.testing._events import Event, Kind

REASONS = {
    "end_turn": "STOP",
    "stop_sequence": "STOP",
    "pause_turn": "STOP",
    "tool_use": "STOP",
    "max_tokens": "MAX_TOKENS",
    "model_context_window_exceeded": "MAX_TOKENS",
    "refusal": "SAFETY",
}
ERRORS = {
    "invalid_request_error": (400, "INVALID_ARGUMENT"),
    "authentication_error": (401, "UNAUTHENTICATED"),
    "permission_error": (403, "PERMISSION_DENIED"),
    "not_found_error": (404, "NOT_FOUND"),
    "rate_limit_error": (429, "RESOURCE_EXHAUSTED"),
    "api_error": (500, "INTERNAL"),
    "overloaded_error": (503, "UNAVAILABLE"),
    "timeout_error": (504, "DEADLINE_EXCEEDED"),
}


def _json(value: object) -> bytes:
    """JSON as this provider writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ": ")).encode()


class Gemini:
    """`streamGenerateContent` and `generateContent`: every candidate that was asked for says the same, in turns."""

    content_type = SSE
    broken = b'{"candidates": [{"content": {"parts": [{"text": "'

    def __init__(self, body: Mapping[str, Any]) -> None:
        config = body.get("generationConfig")
        count = config.get("candidateCount") if isinstance(config, dict) else None
        self._candidates = count if isinstance(count, int) else 1
        self._tail: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._said = 0  # characters so far
        self._call: dict[str, Any] | None = None  # the tool call that is being written
        self._input = ""
        self._malformed = False

    def headers(self, request_id: str) -> dict[str, str]:
        return {"x-goog-request-id": request_id, "server-timing": "gfet4t7; dur=1"}

    def speak(self, event: Event) -> list[Event]:
        if event.kind == "ping" or (event.kind == "other" and event.data is None):
            return []  # it has none, and no comments: its SDK takes those for data
        if event.kind != "other":
            return self._say(event)
        try:
            json.loads(event.data or b"")
        except ValueError:
            return [Event("", self.broken + (b'\xff\xfe\xc3("}' if b"\xff" in (event.data or b"") else b""))]
        return [Event("", _json({"hint": {}, **self._tail}))]

    def _say(self, event: Event) -> list[Event]:
        payload = event.payload
        delta = payload.get("delta") or {}
        if event.kind == "message_start":
            self._begin(payload["message"])
        elif event.kind == "text":
            return self._parts(event, event.kind, event.chars, {"text": delta["text"]})
        elif event.kind == "thinking":
            return self._parts(event, event.kind, event.chars, {"text": delta["thinking"], "thought": True})
        elif event.kind == "block_start" and payload["content_block"]["type"] == "tool_use":
            self._call, self._input = payload["content_block"], ""
        elif event.kind == "tool_input":
            self._input += delta["partial_json"]
        elif event.kind == "block_stop" and self._call is not None:
            return self._called(event)
        elif event.kind == "message_delta":
            self._usage.update(payload["usage"])
            reason = "MALFORMED_FUNCTION_CALL" if self._malformed else _reason(delta["stop_reason"])
            return self._parts(event, event.kind, 0, {"text": ""}, reason)
        elif event.kind == "error":
            return [Event("", _json(self.error(payload["error"])), "error")]
        return []

    def _begin(self, message: Mapping[str, Any]) -> None:
        self._usage = dict(message["usage"])
        self._tail = {"modelVersion": message["model"], "responseId": str(message["id"]).removeprefix("msg_")}

    def _called(self, event: Event) -> list[Event]:
        call, self._call = self._call or {}, None
        try:
            arguments = json.loads(self._input or "{}")
        except ValueError:
            self._malformed = True
            return []
        return self._parts(event, "tool_input", len(self._input) or 2, _function_call(call, arguments))

    def _parts(
        self, event: Event, kind: Kind, chars: int, part: Mapping[str, Any], reason: str | None = None
    ) -> list[Event]:
        self._said += chars
        counts = _usage_of(self._usage, None if reason else self._said // 4)
        chunks = []
        for index in range(self._candidates):
            if index != event.without:
                candidate: dict[str, Any] = {"content": {"parts": [part], "role": "model"}}
                candidate |= {"finishReason": reason, "index": index} if reason else {"index": index}
                chunk = {"candidates": [candidate], "usageMetadata": counts, **self._tail}
                chunks.append(Event("", _json(chunk), kind, chars))
        return chunks

    def whole(self, message: dict[str, Any]) -> dict[str, Any]:
        self._begin(message)
        parts: list[dict[str, Any]] = []
        for block in message["content"]:
            if block["type"] == "text":
                parts.append({"text": block["text"]})
            elif block["type"] == "thinking":
                parts.append({"text": block["thinking"], "thought": True})
            elif block["type"] == "tool_use":
                parts.append(_function_call(block, block["input"]))
        shared = {"content": {"parts": parts, "role": "model"}, "finishReason": _reason(message["stop_reason"])}
        candidates = [{**shared, "index": index} for index in range(self._candidates)]
        return {"candidates": candidates, "usageMetadata": _usage_of(message["usage"], None), **self._tail}

    def error(self, error: Mapping[str, Any]) -> dict[str, Any]:
        code, status = ERRORS.get(error["type"], (500, "INTERNAL"))
        return {"error": {"code": code, "message": error["message"], "status": status}}


def _reason(stop_reason: str | None) -> str | None:
    return REASONS.get(stop_reason, stop_reason) if stop_reason else None


def _function_call(block: Mapping[str, Any], arguments: Any) -> dict[str, Any]:
    id_ = str(block["id"]).removeprefix("toolu_")
    return {"functionCall": {"name": block["name"], "args": arguments, "id": id_}}


def _usage_of(usage: Mapping[str, Any], written: int | None) -> dict[str, Any]:
    """The usage in this provider's words; `written` while it is not final."""
    read, output = usage["input_tokens"], usage["output_tokens"] if written is None else written
    cached = usage.get("cache_read_input_tokens") or 0
    return {
        "promptTokenCount": read + cached,
        "candidatesTokenCount": output,
        "totalTokenCount": read + cached + output,
        **({"cachedContentTokenCount": cached} if cached else {}),
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": read + cached}],
    }
