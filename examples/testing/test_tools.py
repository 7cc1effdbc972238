# SPDX-License-Identifier: Apache-2.0
"""A tool may not run before its input is complete."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest

import otelstream
from otelstream.testing import ProviderSimulator, Recorder, Script

TOOLS: Any = [
    {
        "name": "send_email",
        "description": "Send an e-mail.",
        "input_schema": {"type": "object", "properties": {"to": {"type": "string"}, "body": {"type": "string"}}},
    }
]
sent: list[dict[str, str]] = []


@otelstream.tool(effect="write")
def send_email(to: str = "", body: str = "") -> None:
    sent.append({"to": to, "body": body})


class Agent:
    """Runs a tool when the block that asks for it has ended, and the answer with it."""

    def __init__(self) -> None:
        self.client = anthropic.Anthropic(max_retries=0)
        self.done: set[str] = set()

    def answer(self, question: str) -> None:
        with self.client.messages.stream(
            model="claude-example",
            max_tokens=1024,
            tools=TOOLS,
            messages=[{"role": "user", "content": question}],
        ) as stream:
            try:
                for event in stream:
                    self.see(event, stream)
            except Exception:
                return

    def see(self, event: Any, stream: Any) -> None:
        if event.type == "message_stop" and event.message.stop_reason == "tool_use":
            for block in event.message.content:
                self.run(block)

    def run(self, block: Any) -> None:
        if block.type == "tool_use" and block.id not in self.done:
            self.done.add(block.id)
            with otelstream.tool_call(block):
                send_email(**block.input)


class TooEager(Agent):
    """Wrong: the SDK's snapshot of a half-written input looks like an input as soon as it has an address."""

    def see(self, event: Any, stream: Any) -> None:
        if event.type == "input_json" and isinstance(event.snapshot, dict) and "to" in event.snapshot:
            block = stream.current_message_snapshot.content[-1]
            self.run(block.model_copy(update={"input": event.snapshot}))


LETTER = {"to": "harbour@example.com", "body": "Do not sail today: the wind turns at noon."}
SCRIPT = Script("letter").text("I write to them.").tool_use("send_email", LETTER)


def recipe(agent: Agent, provider: ProviderSimulator, recorder: Recorder, fault: str | None) -> None:
    sent.clear()
    provider.play(SCRIPT, fault=fault)

    with agent.client:
        agent.answer("Tell the harbour.")

    (call,) = recorder.stream.tool_calls or ()
    wanted = [LETTER] if fault is None else []
    assert call.phase != "before_ready", f"{call.name} ran before its input was complete\n{recorder.timeline()}"
    assert sent == wanted, f"sent {sent}\n{recorder.timeline()}"


FAULTS = {"whole": None, "cut in the middle of the input": "cut_after=chunks:8"}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_tools_wait_for_their_input(
    fault: str | None, otelstream_provider: ProviderSimulator, otelstream_recorder: Recorder
) -> None:
    recipe(Agent(), otelstream_provider, otelstream_recorder, fault)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_the_recipe_can_fail(
    fault: str | None, otelstream_provider: ProviderSimulator, otelstream_recorder: Recorder
) -> None:
    with pytest.raises(AssertionError, match=r"ran before its input was complete\n(?s:.*)claude-example"):
        recipe(TooEager(), otelstream_provider, otelstream_recorder, fault)
