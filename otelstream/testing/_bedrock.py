# SPDX-License-Identifier: Apache-2.0
"""Amazon Bedrock: `converse-stream`, and Claude by `invoke-with-response-stream`, in binary frames."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any, ClassVar

from otelstream.testing._events import Event, Kind, make_id, to_json

BINARY = "application/vnd.amazon.eventstream"
_REASONS = {"refusal": "guardrail_intervened", "pause_turn": "end_turn"}
# What Bedrock calls an error; in a frame with a small letter.
_ERRORS = {
    "overloaded_error": "ServiceUnavailableException",
    "api_error": "InternalServerException",
    "rate_limit_error": "ThrottlingException",
    "invalid_request_error": "ValidationException",
    "authentication_error": "UnrecognizedClientException",
    "permission_error": "AccessDeniedException",
    "not_found_error": "ResourceNotFoundException",
    "timeout_error": "ModelTimeoutException",
}


class Frame(Event):
    """One binary frame: two checksums, the headers as pairs of strings, and a payload."""

    corrupt: ClassVar[bool] = False

    @property
    def frame(self) -> bytes:
        kind = "exception" if self.kind == "error" else "event"
        headers = {f":{kind}-type": self.name, ":content-type": "application/json", ":message-type": kind}
        head = b"".join(
            struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", 7, len(value)) + value.encode()
            for name, value in headers.items()
        )
        payload = self.data or b""
        prelude = struct.pack("!II", len(head) + len(payload) + 16, len(head))
        body = prelude + struct.pack("!I", zlib.crc32(prelude)) + head + payload
        return body + struct.pack("!I", zlib.crc32(body) ^ self.corrupt)


class Corrupt(Frame):
    """One whose checksum is wrong."""

    corrupt: ClassVar[bool] = True


def read(frame: bytes) -> tuple[str, bytes]:
    """The name and the payload of a frame that is whole."""
    length, headers = struct.unpack("!II", frame[:8])
    name = frame[13 : 13 + frame[12]]
    at = 12 + 1 + len(name) + 3
    size = struct.unpack("!H", frame[at - 2 : at])[0]
    return frame[at : at + size].decode(), frame[12 + headers : length - 4]


class Converse:
    """The blocks of a script by their index; text and thinking begin unannounced."""

    content_type = BINARY

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._usage: dict[str, Any] = {}

    def headers(self, request_id: str) -> dict[str, str]:
        return {"x-amzn-requestid": request_id}

    def error(self, error: Mapping[str, Any]) -> dict[str, Any]:
        return {"__type": _ERRORS.get(error["type"], error["type"]), "message": error["message"]}

    def speak(self, event: Event) -> list[Event]:
        if event.kind == "ping":
            return []
        if event.kind == "error":
            said = self.error(event.payload["error"])
            name = said["__type"][:1].lower() + said["__type"][1:]
            return [Frame(name, to_json({"message": said["message"]}).encode(), "error")]
        if event.data is not None and event.data.endswith(b"\0"):
            return [Corrupt(*self._broken(event))]
        try:
            event.payload  # noqa: B018
        except ValueError:
            return [Frame(*self._broken(event))]
        return self.say(event)

    def _broken(self, event: Event) -> tuple[str, bytes]:
        garbled = b'\xff\xfe\xc3("}}' if b"\xff" in (event.data or b"") else b""
        return "contentBlockDelta", b'{"contentBlockIndex":0,"delta":{"text":"' + garbled

    def say(self, event: Event) -> list[Event]:
        """Say an event of a script that is whole."""
        payload = event.payload
        delta = payload.get("delta") or {}
        index = payload.get("index", 0)
        if event.kind == "message_start":
            self._usage = dict(payload["message"]["usage"])
            return [self._frame("messageStart", {"role": "assistant"}, event.kind)]
        if event.kind == "redacted_thinking":
            redacted = base64.b64encode(payload["content_block"]["data"].encode()).decode()
            return [self._delta(event, index, {"reasoningContent": {"redactedContent": redacted}})]
        if event.kind == "block_start":
            start = _start(payload["content_block"])
            name = "contentBlockStart"
            return [self._frame(name, {"contentBlockIndex": index, "start": start}, event.kind)] if start else []
        if event.kind == "text":
            return [self._delta(event, index, {"text": delta["text"]})]
        if event.kind == "thinking":
            return [self._delta(event, index, {"reasoningContent": {"text": delta["thinking"]}})]
        if event.kind == "signature":
            return [self._delta(event, index, {"reasoningContent": {"signature": delta["signature"]}})]
        if event.kind == "tool_input" and event.chars:
            return [self._delta(event, index, {"toolUse": {"input": delta["partial_json"]}})]
        if event.kind == "block_stop":
            return [self._frame("contentBlockStop", {"contentBlockIndex": index}, event.kind)]
        if event.kind == "message_delta":
            self._usage.update(payload["usage"])
            reason = _REASONS.get(delta["stop_reason"], delta["stop_reason"])
            return [self._frame("messageStop", {"stopReason": reason}, event.kind)]
        if event.kind == "message_stop":
            told = {"metrics": {"latencyMs": 7}, "usage": usage_of(self._usage)}
            return [self._frame("metadata", told, event.kind)]
        return [self._frame("hint", {"hint": {}})] if event.kind == "other" else []

    def _delta(self, event: Event, index: int, delta: Mapping[str, Any]) -> Event:
        return self._frame("contentBlockDelta", {"contentBlockIndex": index, "delta": delta}, event.kind, event.chars)

    def _frame(self, name: str, values: Mapping[str, Any], kind: Kind = "other", chars: int = 0) -> Event:
        padding = {"p": make_id("", chars, 14 - chars % 8)[3:]}  # hides how long the text before it is
        return Frame(name, to_json(dict(sorted({**values, **padding}.items()))).encode(), kind, chars)

    def whole(self, message: dict[str, Any]) -> dict[str, Any]:
        content = [
            {"text": block["text"]}
            if block["type"] == "text"
            else {"toolUse": {"toolUseId": _id(block), "name": block["name"], "input": block["input"]}}
            for block in message["content"]
            if block["type"] in {"text", "tool_use"}
        ]
        reason = _REASONS.get(message["stop_reason"], message["stop_reason"])
        said = {"output": {"message": {"role": "assistant", "content": content}}, "stopReason": reason}
        return {**said, "usage": usage_of(message["usage"]), "metrics": {"latencyMs": 7}}


class Invoke(Converse):
    """Claude's messages as the script has them, each in base64 in a chunk; Bedrock counts once more in the last."""

    def say(self, event: Event) -> list[Event]:
        payload = event.payload
        if event.kind == "message_start":
            self._usage = dict(payload["message"]["usage"])
        elif event.kind == "message_delta":
            self._usage.update(payload["usage"])
        data = event.data or b""
        if event.kind == "message_stop":
            counts = {"inputTokenCount": self._usage["input_tokens"], "outputTokenCount": self._usage["output_tokens"]}
            data = to_json({**payload, "amazon-bedrock-invocationMetrics": counts}).encode()
        return [self._chunk(data, event.kind, event.chars)]

    def _broken(self, event: Event) -> tuple[str, bytes]:
        return "chunk", self._chunk(event.data or b"").data or b""

    def _chunk(self, data: bytes, kind: Kind = "other", chars: int = 0) -> Event:
        return self._frame("chunk", {"bytes": base64.b64encode(data).decode()}, kind, chars)

    def whole(self, message: dict[str, Any]) -> dict[str, Any]:
        return message


def payload_of(frame: bytes) -> Any:
    """The JSON of a frame, of a chunk what it carries; a ValueError where there is none."""
    name, payload = read(frame)
    said = json.loads(payload)
    return json.loads(base64.b64decode(said["bytes"])) if name == "chunk" else said


def usage_of(usage: Mapping[str, Any]) -> dict[str, int]:
    """The usage in the words of `converse`."""
    cache = {
        "cacheReadInputTokens": usage.get("cache_read_input_tokens") or 0,
        "cacheWriteInputTokens": usage.get("cache_creation_input_tokens") or 0,
    }
    counts = {"inputTokens": usage["input_tokens"], "outputTokens": usage["output_tokens"], **cache}
    return {**counts, "totalTokens": sum(counts.values())}


def _start(block: Mapping[str, Any]) -> dict[str, Any] | None:
    kind = str(block["type"])
    if kind == "tool_use":
        return {"toolUse": {"name": block["name"], "toolUseId": _id(block)}}
    if kind.endswith("tool_use"):
        return {"toolUse": {"name": block["name"], "toolUseId": _id(block), "type": "server_tool_use"}}
    if kind.endswith("_tool_result"):
        return {"toolResult": {"status": "success", "toolUseId": block["tool_use_id"], "type": kind}}
    return None


def _id(block: Mapping[str, Any]) -> str:
    return str(block["id"]).replace("toolu_", "tooluse_", 1)
