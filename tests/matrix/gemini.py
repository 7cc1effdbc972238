# SPDX-License-Identifier: Apache-2.0
"""google-genai: clients that are made and asked as the other SDKs' are, and what of its generators is otherwise."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from otelstream import _semconv as s

from .api import NEVER, Api, Unlike, always

if TYPE_CHECKING:
    from .expectations import Truth


def _config(request: dict[str, Any]) -> dict[str, Any]:
    """What is asked beside the prompt, as this API has it."""
    found: dict[str, Any] = {"automatic_function_calling": {"disable": True}}
    if tools := request.get("tools"):
        found["tools"] = [{"function_declarations": tools}]
    if choices := request.get("n"):
        found["candidate_count"] = choices
    if timeout := request.get("timeout"):
        found["http_options"] = {"timeout": round(timeout * 1000)}
    return found


class Gemini:
    """The SDK's client, which is two in one; this is its synchronous side."""

    def __init__(self, *, api_key: str, base_url: str = "http://127.0.0.1:9", max_retries: int = 0, timeout: float = 9):
        self._settings: dict[str, Any] = {"api_key": api_key, "base_url": base_url, "timeout": timeout}
        retries = {"attempts": max_retries + 1, "initial_delay": 0.01, "jitter": 0.01, "http_status_codes": [529]}
        options = {"base_url": base_url, "timeout": round(timeout * 1000), "retry_options": retries}
        self._made = import_module("google.genai").Client(api_key=api_key, http_options=options)
        self._side: Any = self._made

    def with_options(self, **changes: Any) -> Any:
        return type(self)(**{**self._settings, **changes})

    def generate_content_stream(self, **request: Any) -> Any:
        asked = {name: request[name] for name in ("model", "contents")}
        return self._side.models.generate_content_stream(**asked, config=_config(request))

    def automatic_function_calling(self, **request: Any) -> Any:
        config = {**_config(request), "tools": [self._weather()], "automatic_function_calling": None}
        return self._side.chats.create(model=request["model"], config=config).send_message_stream(request["contents"])

    def _weather(self) -> Any:
        def get_weather(city: str) -> str:
            """Look at the sky."""
            return f"windy in {city}"

        return get_weather

    def send_message_stream(self, **request: Any) -> Any:
        chat = self._side.chats.create(model=request["model"], config=_config(request))
        return chat.send_message_stream(request["contents"])

    def close(self) -> Any:
        return self._side.close()


class AsyncGemini(Gemini):
    """Its asynchronous side."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._side = self._made.aio

    def _weather(self) -> Any:
        async def get_weather(city: str) -> str:
            """Look at the sky."""
            return f"windy in {city}"

        return get_weather

    def close(self) -> Any:
        return self._side.aclose()

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


# --- what the log tells -----------------------------------------------------------------------------------

_REASONS = {"STOP": "stop", "MAX_TOKENS": "length", "SAFETY": "content_filter"}


def _learn(truth: Truth, _: str, data: dict[str, Any]) -> None:
    truth.response_id = truth.response_id or data.get("responseId")
    counts = data.get("usageMetadata")
    if counts:
        truth.usage[s.INPUT_TOKENS] = counts["promptTokenCount"]
    for candidate in data.get("candidates", ()):
        if any("functionCall" in part for part in candidate["content"]["parts"]):
            truth.asked = True
        reason = candidate.get("finishReason")
        if reason is None:
            continue
        truth.senseless = reason not in _REASONS
        word = _REASONS.get(reason, "error")
        truth.finishes[candidate["index"]] = "tool_calls" if truth.asked and word == "stop" else word
        wanted = truth.exchange.request.body.get("generationConfig", {}).get("candidateCount", 1)
        if len(truth.finishes) == wanted:
            truth.finish = truth.finishes[candidate["index"]]
            truth.usage[s.OUTPUT_TOKENS] = counts["candidatesTokenCount"]


_CUT: dict[str, Any] = {"outcome": "failed", "fault": "cut_short", "error_type": "api_error"}
_GENERATOR = "to a generator a break, a close and a drop are one"
_CLOSED = Unlike(lambda shape: not shape.asynchronous, _GENERATOR, {"trigger": "generator_close"})
_DROPPED = Unlike(
    lambda shape: not shape.asynchronous, _GENERATOR, {"outcome": "cancelled", "trigger": "generator_close"}
)
_HELD = Unlike(
    lambda shape: shape.asynchronous,
    "an async stream that is left, closed or not, is in a cycle of the SDK's own: the collector closes its connection",
    {"outcome": "abandoned", "fault": "none", "trigger": "gc"},
)


UNLIKE = {
    **{
        name: always("Google has its own words for errors", error_type=word)
        for name, word in (
            ("error event before the first token", "UNAVAILABLE"), ("error event after the first token", "INTERNAL"),
            ("error event after the finish reason", "INTERNAL"), ("HTTP 400", "INVALID_ARGUMENT"),
            ("HTTP 429", "RESOURCE_EXHAUSTED"), ("HTTP 500", "INTERNAL"), ("HTTP 529", "UNAVAILABLE"),
        )
    },
    **dict.fromkeys(("break inside `with`", "close()", "ExitStack", "opened inside an `except`"), (_CLOSED, _HELD)),
    **dict.fromkeys(
        (
            "break outside `with`", "dropped", "exception in the loop, without `with`",
            "generator without `with` closed",
        ),
        _DROPPED,
    ),
    **dict.fromkeys(
        (
            "exception in the loop, with `with`", "exception inside an `except`", "TimeoutError raised in the loop",
            "SystemExit in the loop", "generator closed", "generator dropped",
        ),
        _HELD,
    ),
    "time-out inside the `with`": always(
        "the cancel comes up out of the body before it is a TimeoutError", fault="none", trigger="task_cancel"
    ),
    **dict.fromkeys(
        ("never read", "closed unread"), always("the request leaves with the first read: without one there is none")
    ),
    "body ends after the finish reason": always(
        "an answer that has its finish reason is whole", outcome="completed", fault="none", error_type=None
    ),
    "unknown event": Unlike(
        lambda shape: shape.api == "automatic_function_calling" and shape.sdk < (2, 34),
        "where functions are called, an older SDK reads no further than a chunk without a candidate",
    ),
    "last event without a finish reason": always("the finish reason is in the last event", **_CUT),
    "one of two choices cut, with the last event": always("nothing says that no more comes", **_CUT),
    "pings alone for a while": always("Google sends no pings, and its SDK takes comments for data"),
    **dict.fromkeys(
        ("malformed tool input", "malformed tool input, seen while it streams"),
        always(
            "calls come whole: what its model wrote that is none, the provider calls so and sends nothing of",
            outcome="failed", fault="provider_error", error_type="MALFORMED_FUNCTION_CALL", finish="error",
            phase="finished",
        ),
    ),
    "tool input cut by max_tokens": always("calls come whole, or not at all", fault="none"),
}  # fmt: skip


def _parts(item: Any) -> Any:
    return [part for each in item.candidates or () if each.content for part in each.content.parts or ()]


def _api(name: str) -> Api:
    return Api(
        name,
        "google-genai",
        {"model": "some-model", "contents": "What blows?"},
        (f"{name}()",),
        NEVER,
        NEVER,
        lambda item: any(part.text for part in _parts(item)),
        lambda item: any(each.finish_reason for each in item.candidates or ()),
        _learn,
        tool=lambda tool: {
            "name": tool["name"], "description": tool["description"], "parameters_json_schema": tool["input_schema"],
        },
        needs_terminal=False,
        has_terminal=False,
        unlike=UNLIKE,
        provider="gcp.gemini",
        operation="generate_content",
        refused="UNAVAILABLE",
    )  # fmt: skip


APIS = (_api("generate_content_stream"), _api("send_message_stream"), _api("automatic_function_calling"))
