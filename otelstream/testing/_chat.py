# SPDX-License-Identifier: Apache-2.0
"""Chat completions, and the completions before them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from otelstream.testing._dialects import OpenAI, call_id
from otelstream.testing._events import Event, Kind, make_id, to_json

CREATED = 1_760_000_000  # the same at each play
REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
DONE = Event("", b"[DONE]", "message_stop")


class Chat(OpenAI):
    """Chat completions: every choice that was asked for says the same, in turns."""

    broken = b'{"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"'
    unknown = ("", b'{"id":"chatcmpl-1","object":"chat.completion.hint","hint":{},"choices":[]}')
    prefix, kind = "chatcmpl-", "chat.completion"

    def __init__(self, body: Mapping[str, Any]) -> None:
        options = body.get("stream_options")
        self._counts = isinstance(options, dict) and options.get("include_usage") is True
        self._choices = body["n"] if isinstance(body.get("n"), int) else 1
        self._head: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._calls: dict[int, int] = {}  # those that the application is to run, by their blocks

    def say(self, event: Event) -> list[Event]:
        payload = event.payload
        delta = payload.get("delta") or {}
        if event.kind == "message_start":
            self._begin(payload["message"])
            return self._deltas(event, {"role": "assistant", "content": "", "refusal": None})
        if event.kind == "text":
            return self._deltas(event, {"content": delta["text"]})
        if event.kind == "thinking":
            return self._deltas(event, {"reasoning_content": delta["thinking"]})
        if event.kind == "block_start":
            return self._open(event, payload["content_block"], payload["index"])
        if event.kind == "tool_input" and event.chars and payload["index"] in self._calls:
            arguments = {"arguments": delta["partial_json"]}
            call = {"index": self._calls[payload["index"]], "function": arguments}
            return self._deltas(event, {"tool_calls": [call]})
        if event.kind == "message_delta":
            self._usage.update(payload["usage"])
            return self._deltas(event, {}, REASONS.get(delta["stop_reason"], delta["stop_reason"]))
        if event.kind == "message_stop":
            return [*([self._count()] if self._counts else []), DONE]
        if event.kind == "error":
            return [Event("", to_json(self.error(payload["error"])).encode(), "error")]
        return []

    def _begin(self, message: Mapping[str, Any]) -> None:
        self._usage = dict(message["usage"])
        self._head = {
            "id": self.prefix + str(message["id"]).removeprefix("msg_"),
            "object": f"{self.kind}.chunk",
            "created": CREATED,
            "model": message["model"],
            "service_tier": "default",
            "system_fingerprint": None,
        }

    def _open(self, event: Event, block: Mapping[str, Any], index: int) -> list[Event]:
        if block["type"] != "tool_use":
            return []
        self._calls[index] = len(self._calls)
        function = {"name": block["name"], "arguments": ""}
        call = {"index": self._calls[index], "id": call_id(block), "type": "function", "function": function}
        return self._deltas(event, {"tool_calls": [call]})

    def _deltas(self, event: Event, delta: Mapping[str, Any], reason: str | None = None) -> list[Event]:
        return [
            self._chunk(event.kind, event.chars, [{"index": index, "delta": delta, "finish_reason": reason}])
            for index in range(self._choices)
            if index != event.without
        ]

    def _chunk(self, kind: Kind, chars: int, choices: list[Any], usage: Any = None) -> Event:
        counted = {"usage": usage} if self._counts else {}
        padding = {"obfuscation": make_id("", chars, 14 - chars % 8)[3:]}  # hides how long the text before it is
        return Event("", to_json({**self._head, "choices": choices, **counted, **padding}).encode(), kind, chars)

    def _count(self) -> Event:
        return self._chunk("other", 0, [], usage_of(self._usage))

    def whole(self, message: dict[str, Any]) -> dict[str, Any]:
        self._begin(message)
        blocks = message["content"]
        calls = [
            {
                "id": call_id(block),
                "type": "function",
                "function": {"name": block["name"], "arguments": to_json(block["input"])},
            }
            for block in blocks
            if block["type"] == "tool_use"
        ]
        text = "".join(block["text"] for block in blocks if block["type"] == "text")
        answer = {
            "role": "assistant",
            "content": text or None,
            "refusal": None,
            **({"tool_calls": calls} if calls else {}),
        }
        reason = REASONS.get(message["stop_reason"], message["stop_reason"])
        choices = [
            {"index": index, "message": answer, "logprobs": None, "finish_reason": reason}
            for index in range(self._choices)
        ]
        return {**self._head, "object": self.kind, "choices": choices, "usage": usage_of(message["usage"])}


def usage_of(usage: Mapping[str, Any]) -> dict[str, Any]:
    """The usage in the words of chat completions."""
    read, written = usage["input_tokens"], usage["output_tokens"]
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": usage.get("cache_read_input_tokens") or 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


class Azure(Chat):
    """Chat completions of Azure: before the answer it says what its filter thinks of the prompt."""

    def say(self, event: Event) -> list[Event]:
        said = super().say(event)
        if event.kind != "message_start":
            return said
        results = {
            name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")
        }
        prompt = {"prompt_index": 0, "content_filter_results": results}
        first = {"choices": [], "created": 0, "id": "", "model": "", "object": "", "prompt_filter_results": [prompt]}
        return [Event("", to_json(first).encode()), *said]


class Completions(Chat):
    """The completions before chat: nothing but text."""

    broken = b'{"id":"cmpl-1","object":"text_completion","choices":[{"index":0,"text":"'
    unknown = ("", b'{"id":"cmpl-1","object":"text_completion.hint","hint":{},"choices":[]}')
    prefix, kind = "cmpl-", "text_completion"

    def _deltas(self, event: Event, delta: Mapping[str, Any], reason: str | None = None) -> list[Event]:
        if event.kind not in {"text", "message_delta"}:
            return []
        self._head["object"] = self.kind
        shared = {"text": delta.get("content", ""), "logprobs": None, "finish_reason": reason}
        return [
            self._chunk(event.kind, event.chars, [{"index": index, **shared}])
            for index in range(self._choices)
            if index != event.without
        ]

    def whole(self, message: dict[str, Any]) -> dict[str, Any]:
        made = super().whole(message)
        choices = [
            {"index": each["index"], "text": each["message"]["content"] or "", "logprobs": None,
             "finish_reason": each["finish_reason"]}
            for each in made["choices"]
        ]  # fmt: skip
        return {**made, "choices": choices}
