# SPDX-License-Identifier: Apache-2.0
"""The local provider in Bedrock's binary frames: every script says the same, whoever is asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from botocore.config import Config

from otelstream.testing import Faults, ProviderSimulator, Recorder, Script, script, script_names
from otelstream.testing._bedrock import payload_of
from otelstream.testing._scripts import message_of

from .conftest import CONVERSE, KEYS, session

Said = tuple[str, list[str], str]
# Bedrock has other words for some reasons.
REASONS = {"refusal": "guardrail_intervened", "pause_turn": "end_turn"}


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as running:
        yield running


@pytest.fixture(scope="module")
def client(provider: ProviderSimulator) -> Iterator[Any]:
    config = Config(retries={"total_max_attempts": 1}, read_timeout=5)
    made = session("botocore").create_client("bedrock-runtime", endpoint_url=provider.base_url, config=config, **KEYS)
    yield made
    made.close()


def read_whole(client: Any) -> None:
    with closing(client.converse_stream(**CONVERSE)["stream"]) as stream:
        for _ in stream:
            pass


def meant(name: str) -> Said:
    """Text, inputs of tools and finish reason of a script."""
    message = message_of(script(name).events)
    text = "".join(block["text"] for block in message["content"] if block["type"] == "text")
    inputs: dict[int, str] = {}
    for event in script(name).events:
        if event.kind == "tool_input":
            inputs[event.payload["index"]] = (
                inputs.get(event.payload["index"], "") + event.payload["delta"]["partial_json"]
            )
    return text, list(inputs.values()), message["stop_reason"]


def from_converse(stream: Any) -> Said:
    text, calls, reason = "", {}, ""
    for event in stream:
        if "contentBlockStart" in event and "toolUse" in event["contentBlockStart"]["start"]:
            calls[event["contentBlockStart"]["contentBlockIndex"]] = ""
        for delta in (event[name]["delta"] for name in event if name == "contentBlockDelta"):
            text += delta.get("text", "")
            if "toolUse" in delta:
                calls[event["contentBlockDelta"]["contentBlockIndex"]] += delta["toolUse"]["input"]
        reason = event.get("messageStop", {}).get("stopReason", reason)
    return text, list(calls.values()), reason


def from_invoke(stream: Any) -> Said:
    events = [json.loads(event["chunk"]["bytes"]) for event in stream]
    assert "amazon-bedrock-invocationMetrics" in events[-1]
    text = "".join(event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta")
    inputs: dict[int, str] = {}
    for event in events:
        if event["type"] == "content_block_delta" and "partial_json" in event["delta"]:
            inputs[event["index"]] = inputs.get(event["index"], "") + event["delta"]["partial_json"]
    (reason,) = [event["delta"]["stop_reason"] for event in events if event["type"] == "message_delta"]
    return text, list(inputs.values()), reason


@pytest.mark.parametrize("name", script_names())
def test_every_script(provider: ProviderSimulator, client: Any, name: str) -> None:
    """Text, inputs of tools and finish reason are those of the script, by either operation."""
    provider.clear()
    provider.play(name, times=2)
    text, calls, reason = meant(name)

    said = from_converse(client.converse_stream(**CONVERSE)["stream"])
    assert said == (text, calls, REASONS.get(reason, reason))
    invoked = from_invoke(client.invoke_model_with_response_stream(modelId="some-model", body="{}")["body"])
    assert invoked == (text, calls, reason)


def test_whole_answers(provider: ProviderSimulator, client: Any) -> None:
    """An answer that is not streamed says the same at once; the model is in the path."""
    provider.clear()
    provider.play(Script().text("Calm.").tool_use("look", {"city": "H"}), times=2)

    answer = client.converse(**CONVERSE)
    invoked = json.loads(client.invoke_model(modelId="some-model", body="{}")["body"].read())

    assert answer["output"]["message"]["content"][0] == {"text": "Calm."}
    assert answer["output"]["message"]["content"][1]["toolUse"]["input"] == {"city": "H"}
    assert invoked["content"][1]["input"] == {"city": "H"}
    assert [(each.request.model, each.request.stream) for each in provider.log] == [("some-model", False)] * 2


def test_a_wrong_checksum(provider: ProviderSimulator, client: Any) -> None:
    """A frame whose checksum is wrong is refused by the SDK's own reader; those before it are read."""
    provider.clear()
    provider.play("text_short", fault=Faults.malformed_frame_after(chunks=1, kind="checksum"))

    with pytest.raises(Exception, match="Checksum mismatch"):
        read_whole(client)

    assert payload_of(provider.log[0].events[0].frame)["role"] == "assistant"


def test_a_refusal_has_bedrocks_word(provider: ProviderSimulator, client: Any) -> None:
    """An error's word is Bedrock's, in the body of a reply and in a frame."""
    provider.clear()
    provider.play("text_short", fault=Faults.http_error(429))
    provider.play("text_short", fault=Faults.error_after(chunks=1, type="rate_limit_error"))

    with pytest.raises(client.exceptions.ThrottlingException):
        client.converse_stream(**CONVERSE)
    with pytest.raises(Exception, match="throttlingException"):
        read_whole(client)


def test_the_plugin(otelstream_provider: ProviderSimulator, otelstream_recorder: Recorder) -> None:
    """A client that is made in a test with the fixture asks the local provider, and needs no key."""
    made = session("botocore").create_client("bedrock-runtime")
    read_whole(made)
    made.close()

    assert [each.request.path for each in otelstream_provider.log] == ["/model/some-model/converse-stream"]
    assert otelstream_recorder.expect(outcome="completed").model == "some-model"
