# SPDX-License-Identifier: Apache-2.0
"""The APIs that the matrix crosses: how an application asks, what it sees of an answer, and what the log tells."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from otelstream import _semconv as s

from .api import NEVER, NORMAL, Api, Unlike, always
from .gemini import APIS as GEMINI

if TYPE_CHECKING:
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
        truth.finish = NORMAL[data["delta"]["stop_reason"]]


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
        refused="overloaded_error",
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
    truth.finish = NORMAL.get(details["reason"], details["reason"]) if details else "tool_calls" if asked else "stop"


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
        truth.finish = NORMAL[data["stopReason"]]
    elif kind == "message_stop":
        usage = data["usage"]
        truth.usage = {s.INPUT_TOKENS: usage["inputTokens"], s.OUTPUT_TOKENS: usage["outputTokens"]}


def _spec(tool: dict[str, Any]) -> dict[str, Any]:
    named = {"name": tool["name"], "description": tool["description"]}
    return {"toolSpec": {**named, "inputSchema": {"json": tool["input_schema"]}}}


_TOLD: dict[str, Any] = {"by": "server", "outcome": "completed", "error_type": None, "seen": None, "phase": None,
                         "finish": None}  # fmt: skip
# What only an API of text, of several choices, or with another word for it, has.
AWS = {
    **{
        name: always("Bedrock has its own words for errors", error_type=word)
        for name, word in (
            ("error event before the first token", "serviceUnavailableException"),
            ("error event after the first token", "internalServerException"),
            ("error event after the finish reason", "internalServerException"),
            ("HTTP 400", "ValidationException"), ("HTTP 429", "ThrottlingException"),
            ("HTTP 500", "InternalServerException"), ("HTTP 529", "ServiceUnavailableException"),
        )
    },
    "529, then a retry that succeeds": always("botocore takes 529 for final"),
    "pings alone for a while": always("Bedrock sends no pings"),
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
    "undecodable frame": always("botocore takes it for an event that says nothing, and reads on", **_TOLD),
}  # fmt: skip
CONVERSE = Api(
    "converse_stream",
    "botocore",
    {"modelId": "some-model", "messages": [{"role": "user", "content": [{"text": PROMPT}]}]},
    ("converse_stream()",),
    NEVER,
    NEVER,
    lambda item: "text" in item.get("contentBlockDelta", {}).get("delta", {}),
    lambda item: "messageStop" in item,
    _converse,
    tool=_spec,
    needs_terminal=False,
    usage_last=True,
    unlike={
        **AWS,
        "body ends after the finish reason": always(
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
    NEVER,
    NEVER,
    lambda item: b'"text_delta"' in item["chunk"]["bytes"],
    lambda item: b'"message_delta"' in item["chunk"]["bytes"],
    _messages,
    unlike={
        **AWS,
        **dict.fromkeys(
            ("undecodable frame", "frame that is no UTF-8"),
            always("what is in a chunk is the application's to read", **_TOLD),
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
        CONVERSE, INVOKED, *GEMINI,
    )
}  # fmt: skip
