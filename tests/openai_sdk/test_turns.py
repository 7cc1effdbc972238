# SPDX-License-Identifier: Apache-2.0
"""One turn that asks two providers: each stream by its own SDK, over a real socket, and one ledger of them all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import anthropic
import openai
import pytest
from matrix.telemetry import Telemetry

import otelstream
from otelstream.testing import ProviderSimulator, Recorder, Script, prose

from .conftest import CHAT, MESSAGES, read

ASK: dict[str, Any] = {"model": "some-model", "max_tokens": 64, "messages": MESSAGES}
PLACE = {"city": "Harbour Town"}


def calls(name: str) -> Script:
    """An answer that asks for that tool; its id tells which."""
    return Script(name).text(prose(24)).tool_use(name, PLACE, id=f"toolu_{name}")


class Both:
    """A client of each SDK, of one provider, and what became of their streams."""

    def __init__(self, sim: ProviderSimulator, recorder: Recorder) -> None:
        self.sim, self.recorder = sim, recorder
        self.anthropic = anthropic.Anthropic(base_url=sim.base_url, api_key="unused", max_retries=0)
        self.openai = openai.OpenAI(base_url=f"{sim.base_url}/v1", api_key="unused", max_retries=0)

    def messages(self, **more: Any) -> Any:
        return self.anthropic.messages.create(**{**ASK, **more}, stream=True)

    def chat(self, **more: Any) -> Any:
        return self.openai.chat.completions.create(**{**CHAT, **more}, stream=True)


@pytest.fixture
def both(telemetry: Telemetry) -> Iterator[Both]:
    otelstream.instrument(tracer_provider=telemetry.tracer_provider, meter_provider=telemetry.meter_provider)
    with ProviderSimulator() as sim, Recorder() as recorder:
        made = Both(sim, recorder)
        with made.anthropic, made.openai:
            yield made
    otelstream.uninstrument()


def test_one_ledger(both: Both) -> None:
    """The calls of both stand in the turn's ledger; a function of ours serves either, a result is told to its own."""
    ran = []

    @otelstream.tool(effect="write")
    def book(city: str) -> str:
        ran.append(city)
        return "booked"

    with otelstream.turn("chat") as turn:
        for reading, name in ((both.messages, "look"), (both.chat, "send"), (both.messages, "wait")):
            both.sim.play(calls(name))
            read(reading())
        both.sim.play(calls("book"))
        read(both.chat())
        book(**PLACE)
        both.sim.play("text_short", times=2)
        result = {"type": "tool_result", "tool_use_id": "toolu_look", "content": "calm"}
        read(both.messages(messages=[*MESSAGES, {"role": "user", "content": [result]}]))
        read(both.chat(messages=[*MESSAGES, {"role": "tool", "tool_call_id": "call_send", "content": "sent"}]))

    assert ran == ["Harbour Town"]
    assert [(call.id, call.state, call.evidence, call.inferred) for call in turn.tool_calls] == [
        ("toolu_look", "committed", "tool_result", False),
        ("call_send", "committed", "tool_result", True),
        ("toolu_wait", "ready", None, False),
        ("call_book", "committed", "decorator", True),
    ]
    assert [view.outcome for view in turn.streams] == ["completed"] * 6
    assert [view.finish_reason for view in turn.streams] == [*["tool_calls"] * 4, *["stop"] * 2]


@pytest.mark.parametrize("first", ["messages", "chat"])
def test_a_stop_reaches_both(both: Both, first: str) -> None:
    """A Stop finds the streams of both SDKs open, whichever was opened first, and what they had asked for by then."""
    openers = {"messages": both.messages, "chat": both.chat}
    names = (first, *({*openers} - {first}))

    with otelstream.turn("chat") as turn, ExitStack() as stack:
        for name in names:
            both.sim.play(calls(name).text(prose(60)), fault="hang_after=chunks:8")
            stream = stack.enter_context(openers[name]())
            read(stream, lambda _: turn.streams[-1].chunks >= 8)
        assert otelstream.record_stop(turn="chat")

    assert both.sim.wait_for(lambda log: all(each.closed_by == "peer" for each in log), 5)
    assert [(view.outcome, view.trigger) for view in turn.streams] == [("cancelled", "user_stop")] * 2
    assert {call.name for call in turn.tool_calls} == set(openers)
