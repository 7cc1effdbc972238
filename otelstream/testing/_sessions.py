# SPDX-License-Identifier: Apache-2.0
"""The events of a managed agent session: each message of a script is one request to a model, on one connection."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from otelstream.testing._dialects import SSE, Messages
from otelstream.testing._events import Event, Kind, make_id, to_json
from otelstream.testing._scripts import _object

_WHEN = "2026-11-28T12:00:00Z"
_USES = {
    "tool_use": "agent.custom_tool_use",
    "server_tool_use": "agent.tool_use",
    "mcp_tool_use": "agent.mcp_tool_use",
}
_ERRORS = {
    "overloaded_error": "model_overloaded_error",
    "rate_limit_error": "model_rate_limited_error",
    "api_error": "model_request_failed_error",
}


class Sessions(Messages):
    """The stream of a session, or of a thread of it: with previews of what the query asks for.

    What is no part of a message (`Script.event`) is said as it is. Its clock stands still.
    """

    content_type = SSE
    broken = (
        b'{"type":"event_delta","event_id":"sevt_0","delta":{"type":"content_delta","content":{"type":"text","text":"'
    )

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._previews = frozenset(body.get("event_deltas[]", ()))
        self._message = ""
        self._said = 0
        self._request = ""  # that is open
        self._running = self._stopped = False
        self._usage: dict[str, Any] = {}
        self._block: dict[str, Any] = {}
        self._text = self._reason = ""
        self._asks: list[str] = []  # the application's tools

    def speak(self, event: Event) -> list[Event]:
        if event.kind == "other":
            return self._other(event)
        if event.kind == "ping":
            return [event]
        payload = event.payload
        if event.kind == "message_start":
            return self._begin(payload["message"])
        if not self._request:
            return []  # of a request that an error ended
        if event.kind == "block_start":
            self._block, self._text = {**payload["content_block"], "sevt": self._id()}, ""
            return self._preview(f"agent.{'message' if self._block['type'] == 'text' else self._block['type']}")
        if event.kind in ("text", "tool_input"):
            delta = payload["delta"]
            piece = delta["text"] if event.kind == "text" else delta["partial_json"]
            self._text += piece
            return self._delta(event, piece) if event.kind == "text" else []
        if event.kind == "block_stop":
            block, self._block = self._block, {}
            return self._whole(block)
        if event.kind == "message_delta":
            self._usage.update(payload["usage"])
            self._reason = payload["delta"]["stop_reason"]
        elif event.kind == "message_stop":
            return self._end()
        elif event.kind == "error":
            kind = _ERRORS.get(payload["error"]["type"], "unknown_error")
            error = {**payload["error"], "type": kind, "retry_status": {"type": "terminal"}}
            error.pop("details", None)
            return [self._event("session.error", error=error), *self._end(failed=True)]
        return []

    def _other(self, event: Event) -> list[Event]:
        try:
            kind = json.loads(event.data or b"{}").get("type", "")
        except ValueError:
            return [
                Event("event_delta", self.broken + (b'\xff\xfe\xc3("}}}' if b"\xff" in (event.data or b"") else b""))
            ]
        self._stopped = self._stopped or (kind == "user.interrupt" and bool(self._request))
        return [event]

    def _begin(self, message: Mapping[str, Any]) -> list[Event]:
        self._message, self._usage, self._stopped, self._asks = message["id"], dict(message["usage"]), False, []
        running = [] if self._running else [self._event("session.status_running")]
        self._running = True
        start = self._event("span.model_request_start", kind="message_start")
        self._request = start.payload["id"]
        return [*running, start]

    def _preview(self, kind: str) -> list[Event]:
        if kind not in self._previews:
            return []
        preview = {"type": "event_start", "event": {"type": kind, "id": self._block["sevt"]}}
        return [Event("event_start", to_json(preview).encode(), "block_start")]

    def _delta(self, event: Event, text: str) -> list[Event]:
        if "agent.message" not in self._previews or not text:
            return []
        delta = {"type": "content_delta", "index": 0, "content": {"type": "text", "text": text}}
        payload = {"type": "event_delta", "event_id": self._block["sevt"], "delta": delta}
        return [Event("event_delta", to_json(payload).encode(), "text", event.chars)]

    def _whole(self, block: Mapping[str, Any]) -> list[Event]:
        kind, told = str(block.get("type")), str(block.get("sevt"))
        if self._stopped or not block:
            return []
        if kind == "text":
            content = [{"type": "text", "text": self._text}]
            return [self._event("agent.message", id=told, kind="block_stop", content=content)]
        if kind == "thinking":
            return [self._event("agent.thinking", id=told, kind="block_stop")]
        if kind in _USES:
            fields = {key: block[key] for key in block if key not in ("type", "sevt", "id", "input")}
            self._asks += [block["id"]] if kind == "tool_use" else []
            return [self._event(_USES[kind], id=block["id"], input=_object(self._text), **fields)]
        return []

    def _end(self, *, failed: bool = False) -> list[Event]:
        used = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        end = self._event(
            "span.model_request_end",
            kind="message_delta",
            model_request_start_id=self._request,
            is_error=failed,
            model_usage={name: self._usage.get(name) or 0 for name in used},
        )
        self._request, self._block = "", {}
        if self._reason == "pause_turn" or failed:
            return [end]  # it goes on
        self._running = False
        asks = {"type": "requires_action", "event_ids": self._asks} if self._asks else {"type": "end_turn"}
        return [end, self._event("session.status_idle", kind="message_stop", stop_reason=asks)]

    def _id(self) -> str:
        self._said += 1
        return make_id("sevt", (self._message, self._said))

    def _event(self, type: str, *, kind: Kind = "other", id: str = "", **fields: Any) -> Event:  # noqa: A002
        payload = {"type": type, "id": id or self._id(), "processed_at": _WHEN, **fields}
        return Event(type, to_json(payload).encode(), kind)
