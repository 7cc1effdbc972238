# SPDX-License-Identifier: Apache-2.0
"""The local provider in the words of OpenAI's APIs: every script says the same, whoever is asked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from matrix.telemetry import Telemetry

import otelstream
from otelstream import _semconv as s
from otelstream.testing import ProviderSimulator, Script, ScriptError, script, script_names
from otelstream.testing._chat import REASONS
from otelstream.testing._scripts import message_of

from .conftest import CHAT, RESPONSES

Said = tuple[str, list[str], str]


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as running:
        yield running


@pytest.fixture(scope="module")
def client(provider: ProviderSimulator) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{provider.base_url}/v1", api_key="unused", max_retries=0) as made:
        yield made


def meant(name: str) -> Said:
    """Text, tool inputs and finish reason of a script, in the words of its own API."""
    message = message_of(script(name).events)
    text = "".join(block["text"] for block in message["content"] if block["type"] == "text")
    blocks = [event.payload for event in script(name).events if event.kind == "block_start"]
    calls = {each["index"] for each in blocks if each["content_block"]["type"] == "tool_use"}
    inputs: dict[int, str] = dict.fromkeys(calls, "")
    for event in script(name).events:
        if event.kind == "tool_input" and event.payload["index"] in calls:
            inputs[event.payload["index"]] += event.payload["delta"]["partial_json"]
    return text, [text for _, text in sorted(inputs.items())], REASONS[message["stop_reason"]]


def from_chat(stream: Any) -> Said:
    text, calls, reason = "", defaultdict(str), ""
    for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
            for call in choice.delta.tool_calls or ():
                calls[call.index] += call.function.arguments
    return text, list(calls.values()), reason


def from_responses(stream: Any) -> Said:
    text, last = "", None
    for last in stream:
        text += last.delta if last.type == "response.output_text.delta" else ""
    response: Any = last.response  # type: ignore[union-attr]
    assert response.output_text == text
    calls = [item.arguments for item in response.output if item.type == "function_call"]
    why = {"max_output_tokens": "length"}.get(getattr(response.incomplete_details, "reason", ""), "content_filter")
    return text, calls, why if response.status == "incomplete" else "tool_calls" if calls else "stop"


@pytest.mark.parametrize("name", script_names())
def test_every_script(provider: ProviderSimulator, client: openai.OpenAI, name: str) -> None:
    """Text, tool inputs and finish reason are those of the script, in chunks and in items."""
    provider.play(name, times=2)
    want = meant(name)

    assert from_chat(client.chat.completions.create(**CHAT, stream=True)) == want
    # A response knows that it was filtered, not that it called a tool before.
    assert from_responses(client.responses.create(**RESPONSES, stream=True)) == want


def test_without_a_stream(provider: ProviderSimulator, client: openai.OpenAI) -> None:
    """A request that does not stream gets the same in one piece."""
    provider.play("parallel_tools", times=3)

    choice = client.chat.completions.create(**CHAT).choices[0]
    response = client.responses.create(**RESPONSES)
    text, inputs, reason = meant("parallel_tools")

    assert (choice.message.content, choice.finish_reason) == (text, reason)
    assert len(choice.message.tool_calls or ()) == len(inputs)
    assert (response.output_text, response.status) == (text, "completed")
    assert [item.type for item in response.output] == ["message", "function_call", "function_call"]
    legacy = client.completions.create(model="m", prompt="x")
    assert legacy.choices[0].text == text


def test_what_a_request_asks_for(provider: ProviderSimulator, client: openai.OpenAI) -> None:
    """Usage comes only where it is asked for; every choice that is asked for says the same; legacy chunks have text."""
    provider.play(Script("short").text("Calm.", chunk=5), times=4)

    plain = list(client.chat.completions.create(**CHAT, stream=True))
    counted = list(client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True}))
    two = list(client.chat.completions.create(**CHAT, stream=True, n=2))
    legacy = list(client.completions.create(model="m", prompt="x", stream=True))

    assert not any(chunk.usage for chunk in plain)
    assert counted[-1].usage is not None
    assert (counted[-1].choices, counted[-1].usage.prompt_tokens) == ([], 25)
    texts = [(choice.index, choice.delta.content) for chunk in two for choice in chunk.choices if choice.delta.content]
    assert texts == [(0, "Calm."), (1, "Calm.")]
    assert [chunk.choices[0].text for chunk in legacy] == ["Calm.", ""]
    assert {chunk.object for chunk in legacy} == {"text_completion"}


@pytest.mark.parametrize("route", ["chat", "responses"])
def test_the_same_faults(provider: ProviderSimulator, client: openai.OpenAI, route: str) -> None:
    """Faults are played in the words of the API: status and error object, an error in the stream, a broken frame."""

    def ask() -> Any:
        return client.chat.completions if route == "chat" else client.responses

    def read() -> int:
        return len(list(ask().create(**(CHAT if route == "chat" else RESPONSES), stream=True)))

    provider.play("text_short", fault="http_error=429")
    with pytest.raises(openai.RateLimitError) as status:
        read()
    assert status.value.type == "rate_limit_error"
    assert status.value.request_id == provider.log[-1].request_id
    provider.play("text_short", fault="error_after=chunks:1,type:server_error")
    with pytest.raises(openai.APIError) as error:
        read()
    assert error.value.type == "server_error"
    for kind in ("json", "utf8"):
        provider.play("text_short", fault=f"malformed_frame_after=chunks:1,kind:{kind}")
        with pytest.raises(ValueError, match=r"Unterminated|utf-8"):
            read()
    provider.play("text_short", fault="malformed_frame_after=chunks:1,kind:unknown")
    provider.play("text_short")
    assert read() == read() + 1
    provider.play("text_short", fault="ping_only_after=0.05,every:0.01,point:headers")
    assert read()
    assert sum(write.kind == "ping" for write in provider.log[-1].events) > 1
    provider.play("text_short", fault="cut_after=chunks:1")
    with pytest.raises(openai.APIConnectionError):
        read()


def test_choices_that_part(provider: ProviderSimulator, client: openai.OpenAI) -> None:
    """One of several choices is cut while the others go on; `[DONE]` may come without any finish reason."""
    provider.play(Script("short").text("Calm seas.", chunk=5), fault="choice_cut_after=chunks:1")
    provider.play(Script("short").text("Calm seas.", chunk=5), fault="no_finish")

    two = list(client.chat.completions.create(**CHAT, stream=True, n=2))
    plain = list(client.chat.completions.create(**CHAT, stream=True))

    said = [(choice.index, choice.delta.content or choice.finish_reason) for chunk in two for choice in chunk.choices]
    assert said[2:] == [(0, "Calm "), (1, "Calm "), (0, "seas."), (0, "stop")]
    assert [choice.finish_reason for chunk in plain for choice in chunk.choices] == [None, None, None]
    assert all(exchange.body.endswith(b"data: [DONE]\n\n") for exchange in provider.log[-2:])


def test_tools_that_take_turns(provider: ProviderSimulator, client: openai.OpenAI) -> None:
    """The inputs of interleaved calls come in turns, and are whole by their index."""
    provider.play("parallel_tools", fault="interleave_tools", times=2)

    chunks = list(client.chat.completions.create(**CHAT, stream=True))

    turns = [call.index for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or ()]
    assert turns[:6] == [0, 1] * 3
    assert from_chat(client.chat.completions.create(**CHAT, stream=True)) == meant("parallel_tools")
    with pytest.raises(ScriptError, match="no two tool calls"):
        provider.play("text_short", fault="interleave_tools")


def test_azure(provider: ProviderSimulator, telemetry: Telemetry) -> None:
    """Azure's clients ask at another path, with a deployment for a model; its filter speaks first; told as Azure's."""
    options: dict[str, Any] = {"azure_endpoint": provider.base_url, "api_version": "2025-03-01-preview"}
    provider.play("text_short", times=2)
    otelstream.instrument(tracer_provider=telemetry.tracer_provider, meter_provider=telemetry.meter_provider)
    try:
        with openai.AzureOpenAI(api_key="unused", max_retries=0, **options) as azure:
            first, second, *_ = azure.chat.completions.create(**CHAT, stream=True)
            with azure.responses.create(**RESPONSES, stream=True) as stream:
                next(iter(stream))
    finally:
        otelstream.uninstrument()

    assert "/deployments/" in provider.log[-2].request.path
    assert (first.choices, first.id, len(second.choices)) == ([], "", 1)
    said = [dict(span.attributes or {}) for span in telemetry.spans()]
    assert [has[s.PROVIDER] for has in said] == ["azure.ai.openai"] * 2
    assert [has[s.OUTCOME] for has in said] == ["completed", "cancelled"]
