# SPDX-License-Identifier: Apache-2.0
"""The APIs that the matrix crosses: how an application asks, what it sees of an answer, and what the log tells."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from otelstream import _semconv as s
from otelstream.testing._bedrock import payload_of

if TYPE_CHECKING:
    from .columns import Shape
    from .expectations import Truth

PROMPT = "What blows?"
MESSAGES = [{"role": "user", "content": PROMPT}]
RUNNER = "tool_runner(stream=True)"
THREAD = "thread().stream()"
RAW = ("with_streaming_response, iter_lines()", "with_streaming_response, iter_bytes()")
EVERY = (
    "create(stream=True)", "stream() by events", "until_done()", "create(), read in another task or thread",
    "with_raw_response, parse()", *RAW, "with_streaming_response, parse()",
)  # fmt: skip
# What the log of the simulator calls a finish reason, as otelstream does.
_NORMAL = {
    "end_turn": "stop", "stop_sequence": "stop", "tool_use": "tool_calls", "max_tokens": "length",
    "model_context_window_exceeded": "length", "refusal": "content_filter", "pause_turn": "pause_turn",
    "max_output_tokens": "length", "guardrail_intervened": "content_filter",
}  # fmt: skip


@dataclass(frozen=True)
class Unlike:
    """Shapes for which something else is true, and why. With no changes: they cannot express the ending."""

    when: Callable[[Shape], bool]
    why: str
    changes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Api:
    """One API of one SDK; `unlike` is what differs of it from the table, by ending."""

    name: str  # where a client has it
    package: str
    ask: Mapping[str, Any]
    readings: tuple[str, ...]
    text: bytes  # stands in a body once for each piece of text
    finish: bytes  # stands in a body where the finish reason does
    shows: Callable[[Any], bool]  # whether an object of the SDK's has a piece of text
    tells: Callable[[Any], bool]  # whether it has the finish reason
    learn: Callable[[Truth, str, dict[str, Any]], None]
    tool: Callable[[dict[str, Any]], dict[str, Any]] = lambda tool: tool
    structured: str = "output_format"  # the parameter of helpers that takes a class
    needs_terminal: bool = True  # a body that ends after the finish reason is cut short
    usage_last: bool = False  # no usage before the end
    unlike: Mapping[str, Unlike] = field(default_factory=dict)
    provider: str = ""  # as it is told, where that is not the name of the package

    def of(self, client: Any) -> Any:
        """Where `client` has it; AttributeError if that version has not."""
        for name in self.name.split("."):
            client = getattr(client, name)
        return client

    def request(self, ending: Mapping[str, Any]) -> dict[str, Any]:
        """What is asked, the wishes of an ending included."""
        wishes = dict(ending)
        if tools := wishes.pop("tools", None):
            wishes["tools"] = [self.tool(tool) for tool in tools]
        if shape := wishes.pop("output_format", None):
            wishes[self.structured] = shape
        return {**self.ask, **wishes}


# --- messages ---------------------------------------------------------------------------------------------


def _messages(truth: Truth, kind: str, data: dict[str, Any]) -> None:
    if kind not in ("message_start", "message_delta"):
        return
    usage = data.get("message", data)["usage"]
    truth.usage[s.INPUT_TOKENS] = usage["input_tokens"] + sum(
        usage.get(name) or 0 for name in ("cache_read_input_tokens", "cache_creation_input_tokens")
    )
    if kind == "message_start":
        truth.response_id = data["message"]["id"]
    else:
        truth.usage[s.OUTPUT_TOKENS] = usage["output_tokens"]
        truth.finish = _NORMAL[data["delta"]["stop_reason"]]


def _anthropic(name: str, readings: Sequence[str]) -> Api:
    return Api(
        name,
        "anthropic",
        {"model": "some-model", "max_tokens": 64, "messages": MESSAGES},
        tuple(readings),
        b'"text_delta"',
        b"message_delta",
        lambda item: getattr(item, "type", "") == "content_block_delta",
        lambda item: getattr(item, "type", "") == "message_delta",
        _messages,
    )


# --- chat completions -------------------------------------------------------------------------------------


def _chat(truth: Truth, kind: str, data: dict[str, Any]) -> None:
    truth.response_id = truth.response_id or data.get("id") or None
    if usage := data.get("usage"):
        truth.usage = {s.INPUT_TOKENS: usage["prompt_tokens"], s.OUTPUT_TOKENS: usage["completion_tokens"]}
    if kind == "message_delta":
        choice = data["choices"][0]
        truth.finishes[choice["index"]] = choice["finish_reason"]
        if len(truth.finishes) == truth.exchange.request.body.get("n", 1):
            truth.finish = choice["finish_reason"]


def _choices(item: Any) -> Any:
    return getattr(getattr(item, "chunk", item), "choices", None) or ()


def _function(tool: dict[str, Any]) -> dict[str, Any]:
    return {"name": tool["name"], "description": tool["description"], "strict": True, "parameters": _strict(tool)}


def _strict(tool: dict[str, Any]) -> dict[str, Any]:
    return {**tool["input_schema"], "additionalProperties": False}


def _helped(why: str, **changes: Any) -> Unlike:
    return Unlike(lambda shape: shape.helped, why, changes)


# The SDK's helper refuses what it has read, after the finish reason: that is the outcome, and what follows is not read.
REFUSED = "the SDK's helper refuses the answer after its finish reason, and does not come to the usage"
CHAT = Api(
    "chat.completions",
    "openai",
    {"model": "some-model", "messages": MESSAGES, "stream_options": {"include_usage": True}},
    (*EVERY, "get_final_completion()"),
    b'"delta":{"content":"',
    b'"finish_reason":"',
    lambda item: any(choice.delta.content for choice in _choices(item)),
    lambda item: any(choice.finish_reason for choice in _choices(item)),
    _chat,
    tool=lambda tool: {"type": "function", "function": _function(tool)},
    structured="response_format",
    needs_terminal=False,
    usage_last=True,
    unlike={
        "body ends after the finish reason": Unlike(
            lambda shape: True,
            "without `[DONE]` an answer that has its finish reason is whole",
            {"outcome": "completed", "fault": "none", "error_type": None},
        ),
        "malformed tool input": _helped(REFUSED, seen="finish"),
        "tool input cut by max_tokens": _helped(REFUSED, seen="finish"),
        "SDK validation error": _helped(
            REFUSED,
            by="server",
            outcome="completed",
            fault="none",
            error_type=None,
            phase=None,
            finish=None,
            seen="finish",
        ),
    },
)


# --- responses --------------------------------------------------------------------------------------------


def _responses(truth: Truth, kind: str, data: dict[str, Any]) -> None:
    response = data.get("response")
    if not isinstance(response, dict):
        return
    truth.response_id = response["id"]
    if usage := response["usage"]:
        truth.usage = {s.INPUT_TOKENS: usage["input_tokens"], s.OUTPUT_TOKENS: usage["output_tokens"]}
    if kind != "message_stop":
        return
    details = response["incomplete_details"]
    asked = any(item["type"] == "function_call" for item in response["output"])
    truth.finish = _NORMAL.get(details["reason"], details["reason"]) if details else "tool_calls" if asked else "stop"


RESPONSES = Api(
    "responses",
    "openai",
    {"model": "some-model", "input": PROMPT},
    (*EVERY, "get_final_response()"),
    b'"type":"response.output_text.delta"',
    b'"incomplete_details":{',
    lambda item: getattr(item, "type", "") == "response.output_text.delta",
    lambda item: False,
    _responses,
    tool=lambda tool: {"type": "function", **_function(tool)},
    structured="text_format",
    usage_last=True,
    unlike={
        "left after the finish reason": Unlike(lambda shape: True, "the finish reason comes with the terminal event"),
    },
)

# --- Bedrock ----------------------------------------------------------------------------------------------


def _converse(truth: Truth, kind: str, data: dict[str, Any]) -> None:
    if kind == "message_delta":
        truth.finish = _NORMAL[data["stopReason"]]
    elif kind == "message_stop":
        usage = data["usage"]
        truth.usage = {s.INPUT_TOKENS: usage["inputTokens"], s.OUTPUT_TOKENS: usage["outputTokens"]}


def _spec(tool: dict[str, Any]) -> dict[str, Any]:
    named = {"name": tool["name"], "description": tool["description"]}
    return {"toolSpec": {**named, "inputSchema": {"json": tool["input_schema"]}}}


def _always(why: str, **changes: Any) -> Unlike:
    return Unlike(lambda shape: True, why, changes)


_TOLD: dict[str, Any] = {"by": "server", "outcome": "completed", "error_type": None, "seen": None, "phase": None,
                         "finish": None}  # fmt: skip
_NEVER = b"\0"  # nobody reads these as bytes
# What only an API of text, of several choices, or with another word for it, has.
AWS = {
    **{
        name: _always("Bedrock has its own words for errors", error_type=word)
        for name, word in (
            ("error event before the first token", "serviceUnavailableException"),
            ("error event after the first token", "internalServerException"),
            ("error event after the finish reason", "internalServerException"),
            ("HTTP 400", "ValidationException"), ("HTTP 429", "ThrottlingException"),
            ("HTTP 500", "InternalServerException"), ("HTTP 529", "ServiceUnavailableException"),
        )
    },
    "529, then a retry that succeeds": _always("botocore takes 529 for final"),
    "pings alone for a while": _always("Bedrock sends no pings"),
    **{
        name: Unlike(
            lambda shape: shape.asynchronous,
            "a dropped stream of aiobotocore leaves its connection open till the time-out: ten use up the pool",
            {"closes": False},
        )
        for name in (
            "break outside `with`", "dropped", "exception in the loop, without `with`",
            "generator without `with` closed",
        )
    },
    "undecodable frame": _always("botocore takes it for an event that says nothing, and reads on", **_TOLD),
}  # fmt: skip
CONVERSE = Api(
    "converse_stream",
    "botocore",
    {"modelId": "some-model", "messages": [{"role": "user", "content": [{"text": PROMPT}]}]},
    ("converse_stream()",),
    _NEVER,
    _NEVER,
    lambda item: "text" in item.get("contentBlockDelta", {}).get("delta", {}),
    lambda item: "messageStop" in item,
    _converse,
    tool=_spec,
    needs_terminal=False,
    usage_last=True,
    unlike={
        **AWS,
        "body ends after the finish reason": _always(
            "without its usage an answer that has its finish reason is whole",
            outcome="completed", fault="none", error_type=None,
        ),
    },
    provider="aws.bedrock",
)  # fmt: skip
INVOKED = Api(
    "invoke_model_with_response_stream",
    "botocore",
    {"modelId": "some-model", "body": json.dumps({"max_tokens": 64, "messages": MESSAGES})},
    ("invoke_model_with_response_stream()",),
    _NEVER,
    _NEVER,
    lambda item: b'"text_delta"' in item["chunk"]["bytes"],
    lambda item: b'"message_delta"' in item["chunk"]["bytes"],
    _messages,
    unlike={
        **AWS,
        **dict.fromkeys(
            ("undecodable frame", "frame that is no UTF-8"),
            _always("what is in a chunk is the application's to read", **_TOLD),
        ),
    },
    provider="aws.bedrock",
)

MESSAGES_READINGS = (
    "create(stream=True)", "stream() by events", "text_stream", "get_final_message()", "get_final_text()",
    "until_done()", "create(), read in another task or thread", "with_raw_response, parse()", *RAW,
    "with_streaming_response, parse()",
)  # fmt: skip
# Of `beta` where its classes are its own.
BETA_READINGS = ("create(stream=True)", "stream() by events", "text_stream", "get_final_message()", RUNNER, THREAD)
APIS = {
    api.name: api
    for api in (
        _anthropic("messages", MESSAGES_READINGS), _anthropic("beta.messages", BETA_READINGS), CHAT, RESPONSES,
        CONVERSE, INVOKED,
    )
}  # fmt: skip


def payload(frame: bytes) -> dict[str, Any]:
    """The JSON object of a frame; empty where there is none."""
    try:
        data = payload_of(frame) if frame.startswith(b"\0") else json.loads(frame.partition(b"data: ")[2])
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}
