# SPDX-License-Identifier: Apache-2.0
"""The responses API: items, their parts, and a terminal event that says it all again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from otelstream.testing._chat import CREATED
from otelstream.testing._dialects import OpenAI, call_id
from otelstream.testing._events import Event, Kind, make_id, to_json

_WHY = {
    "max_tokens": "max_output_tokens",
    "model_context_window_exceeded": "max_output_tokens",
    "refusal": "content_filter",
}
_SEARCHES = {"web_search", "file_search", "code_interpreter"}


class Responses(OpenAI):
    """Each block of a script is an item; what the provider does itself is an item too."""

    ping = Event("keepalive", b'{"type":"keepalive"}', "ping")
    broken = b'{"type":"response.output_text.delta","content_index":0,"output_index":0,"delta":"'
    unknown = ("response.hint", b'{"type":"response.hint","hint":{}}')

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._number = 0
        self._response: dict[str, Any] = {}
        self._item: dict[str, Any] = {}  # the newest
        self._open = False
        self._reason = "end_turn"

    def say(self, event: Event) -> list[Event]:
        payload = event.payload
        if event.kind == "message_start":
            self._begin(payload["message"])
            told = {"response": {**self._response, "output": []}}
            return [self._event("response.created", told, "message_start"), self._event("response.in_progress", told)]
        if event.kind in {"block_start", "redacted_thinking"}:
            return self._begin_item(event, payload["content_block"])
        if event.kind in {"text", "thinking", "tool_input"} and event.chars:
            return self._delta(event, next(text for key, text in payload["delta"].items() if key != "type"))
        if event.kind == "block_stop":
            return self._end_item("completed")
        if event.kind == "message_delta":
            self._reason = payload["delta"]["stop_reason"]
            self._count(payload["usage"])
            return []
        if event.kind == "message_stop":
            return [*self._end_item("incomplete" if self._why else "completed"), self._end()]
        if event.kind == "error":
            return self._fail(self.error(payload["error"])["error"])
        return []

    @property
    def _why(self) -> str | None:
        return _WHY.get(self._reason)

    def _event(self, name: str, values: Mapping[str, Any], kind: Kind = "other", chars: int = 0) -> Event:
        data = {"type": name, **values, "sequence_number": self._number}
        self._number += 1
        return Event(name, to_json(data).encode(), kind, chars)

    def _begin(self, message: Mapping[str, Any]) -> None:
        self._response = {
            "id": "resp_" + str(message["id"]).removeprefix("msg_"),
            "object": "response",
            "created_at": CREATED,
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "model": message["model"],
            "output": [],
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "usage": None,
        }
        self._read = message["usage"]["input_tokens"]

    def _count(self, usage: Mapping[str, Any]) -> None:
        written = usage["output_tokens"]
        self._response["usage"] = {
            "input_tokens": self._read,
            "input_tokens_details": {"cached_tokens": usage.get("cache_read_input_tokens") or 0},
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self._read + written,
        }

    # --- items --------------------------------------------------------------------------------------------

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item["id"], **self._where()}

    def _where(self) -> dict[str, Any]:
        return {"output_index": len(self._response["output"]) - 1}

    def _begin_item(self, event: Event, block: Mapping[str, Any]) -> list[Event]:
        item = _item_of(block, len(self._response["output"]), self._response["id"])
        if item is None:
            if str(block["type"]).endswith("_tool_result") and self._item:
                self._open = True
                name = f"response.{self._item['type']}.completed"
                return [self._event(name, self._place()), *self._end_item("completed")]
            return []
        self._item, self._open = item, True
        self._response["output"].append(item)
        added = {**item, **({"arguments": ""} if item["type"] == "function_call" else {})}
        events = [self._event("response.output_item.added", {"item": added, **self._where()}, event.kind)]
        if item["type"] == "message":
            part = {"content_index": 0, "part": _text("")}
            events.append(self._event("response.content_part.added", {**self._place(), **part}))
        elif item["type"] == "reasoning" and "encrypted_content" not in item:
            part = {"summary_index": 0, "part": {"type": "summary_text", "text": ""}}
            events.append(self._event("response.reasoning_summary_part.added", {**self._place(), **part}))
        elif item["type"] not in {"reasoning", "function_call"}:
            events += [
                self._event(f"response.{item['type']}.{what}", self._place()) for what in ("in_progress", "searching")
            ]
            self._open = False  # until its result
        return events

    def _delta(self, event: Event, text: str) -> list[Event]:
        item, padding = self._item, make_id("", event.chars, 14 - event.chars % 8)[3:]
        if item.get("type") == "message":
            item["content"] = [_text((item["content"][0]["text"] if item["content"] else "") + text)]
            values = {"content_index": 0, "delta": text, "logprobs": [], "obfuscation": padding}
            return [self._event("response.output_text.delta", {**self._place(), **values}, event.kind, event.chars)]
        if item.get("type") == "reasoning":
            before = item["summary"][0]["text"] if item["summary"] else ""
            item["summary"] = [{"type": "summary_text", "text": before + text}]
            name = "response.reasoning_summary_text.delta"
            values = {"summary_index": 0, "delta": text, "obfuscation": padding}
            return [self._event(name, {**self._place(), **values}, event.kind, event.chars)]
        if item.get("type") == "function_call":
            item["arguments"] += text
            name = "response.function_call_arguments.delta"
            values = {"delta": text, "obfuscation": padding}
            return [self._event(name, {**self._place(), **values}, event.kind, event.chars)]
        return []

    def _end_item(self, status: str) -> list[Event]:
        if not self._open:
            return []
        self._open, item = False, self._item
        events = []
        if item["type"] == "message":
            text = item["content"][0]["text"] if item["content"] else ""
            place = {**self._place(), "content_index": 0}
            events = [
                self._event("response.output_text.done", {**place, "text": text, "logprobs": []}),
                self._event("response.content_part.done", {**place, "part": _text(text)}),
            ]
        elif item["type"] == "reasoning" and "encrypted_content" not in item:
            text = item["summary"][0]["text"] if item["summary"] else ""
            place = {**self._place(), "summary_index": 0}
            part = {"type": "summary_text", "text": text}
            events = [
                self._event("response.reasoning_summary_text.done", {**place, "text": text}),
                self._event("response.reasoning_summary_part.done", {**place, "part": part}),
            ]
        elif item["type"] == "function_call" and status == "completed":
            arguments = {"arguments": item["arguments"], "name": item["name"]}
            events = [self._event("response.function_call_arguments.done", {**self._place(), **arguments})]
        if "status" in item:
            item["status"] = status
        done = self._event("response.output_item.done", {"item": item, **self._where()}, "block_stop")
        return [*events, done]

    # --- the end ------------------------------------------------------------------------------------------

    def _end(self) -> Event:
        status = "incomplete" if self._why else "completed"
        details = {"reason": self._why} if self._why else None
        self._response.update(status=status, incomplete_details=details)
        return self._event(f"response.{status}", {"response": self._response}, "message_stop")

    def _fail(self, error: Mapping[str, Any]) -> list[Event]:
        said = {"type": error["type"], "code": error["type"], "message": error["message"], "param": None}
        self._response.update(status="failed", error={"code": error["type"], "message": error["message"]})
        return [
            self._event("error", {"error": said}, "error"),
            self._event("response.failed", {"response": self._response}, "error"),
        ]

    def whole(self, message: dict[str, Any]) -> dict[str, Any]:
        self._begin(message)
        self._reason = message["stop_reason"]
        self._count(message["usage"])
        for block in message["content"]:
            item = _item_of(block, len(self._response["output"]), self._response["id"])
            if item is None:
                continue
            if item["type"] == "message":
                item["content"] = [_text(block["text"])]
            elif item["type"] == "function_call":
                item["arguments"] = to_json(block["input"])
            self._response["output"].append({**item, **({"status": "completed"} if "status" in item else {})})
        self._end()
        return self._response


def _text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _item_of(block: Mapping[str, Any], index: int, seed: str) -> dict[str, Any] | None:
    kind = block["type"]
    if kind == "text":
        item: dict[str, Any] = {"id": make_id("msg", (seed, index)), "type": "message", "status": "in_progress"}
        return {**item, "role": "assistant", "content": []}
    if kind in {"thinking", "redacted_thinking"}:
        item = {"id": make_id("rs", (seed, index)), "type": "reasoning", "summary": []}
        return {**item, "encrypted_content": block["data"]} if kind == "redacted_thinking" else item
    if kind == "tool_use":
        item = {"id": make_id("fc", (seed, index)), "type": "function_call", "status": "in_progress"}
        return {**item, "call_id": call_id(block), "name": block["name"], "arguments": ""}
    if kind in {"server_tool_use", "mcp_tool_use"}:
        name = block["name"] if block["name"] in _SEARCHES else "web_search"
        return {"id": make_id("ws", (seed, index)), "type": f"{name}_call", "status": "in_progress"}
    return None
