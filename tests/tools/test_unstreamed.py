# SPDX-License-Identifier: Apache-2.0
"""Requests that are not streamed, inside a turn: counted, with their tools in its ledger, and without spans of ours."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import openai
import pytest
from opentelemetry.instrumentation.utils import suppress_instrumentation

import otelstream
from otelstream import _semconv as s
from otelstream._core.tools.registry import registry
from otelstream._core.turns import turn as _turn
from otelstream.testing import ProviderSimulator, Script

from .bench import ASK, Bench, instrumented

LETTER = {"to": "harbour@example.com", "body": "Do not sail."}
CALLS = Script().text("I write to them.").tool_use("send_email", LETTER, id="toolu_letter")
MESSAGES: Any = ASK["messages"]
FUNCTION = {"name": "send_email", "parameters": {"type": "object", "properties": {}}}


@pytest.fixture
def bench() -> Iterator[Bench]:
    _turn.restart()
    with instrumented(tools={"send_email": "write"}) as bench:
        yield bench


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as sim:
        yield sim


def messages(sim: ProviderSimulator) -> Any:
    with anthropic.Anthropic(base_url=sim.base_url, api_key="k", max_retries=0) as client:
        return client.messages.create(**ASK)


def messages_raw(sim: ProviderSimulator) -> Any:
    with anthropic.Anthropic(base_url=sim.base_url, api_key="k", max_retries=0) as client:
        return client.messages.with_raw_response.create(**ASK).parse()


def messages_async(sim: ProviderSimulator) -> Any:
    async def ask() -> Any:
        async with anthropic.AsyncAnthropic(base_url=sim.base_url, api_key="k", max_retries=0) as client:
            return await client.messages.create(**ASK)

    return asyncio.run(ask())


def chat(sim: ProviderSimulator) -> Any:
    with openai.OpenAI(base_url=f"{sim.base_url}/v1", api_key="k", max_retries=0) as client:
        return client.chat.completions.create(model="m", messages=MESSAGES)


def chat_raw(sim: ProviderSimulator) -> Any:
    with openai.OpenAI(base_url=f"{sim.base_url}/v1", api_key="k", max_retries=0) as client:
        return client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES).parse()


def responses(sim: ProviderSimulator) -> Any:
    with openai.OpenAI(base_url=f"{sim.base_url}/v1", api_key="k", max_retries=0) as client:
        return client.responses.create(model="m", input="Go.")


def responses_async(sim: ProviderSimulator) -> Any:
    async def ask() -> Any:
        async with openai.AsyncOpenAI(base_url=f"{sim.base_url}/v1", api_key="k", max_retries=0) as client:
            return await client.responses.create(model="m", input="Go.")

    return asyncio.run(ask())


WAYS: list[Callable[[ProviderSimulator], Any]] = [
    messages,
    messages_raw,
    messages_async,
    chat,
    chat_raw,
    responses,
    responses_async,
]
ways = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)


@ways
def test_its_tools_are_the_turns(bench: Bench, sim: ProviderSimulator, way: Any) -> None:
    """A call of an answer that came whole is matched to its run, and a Stop finds it in the ledger."""
    sim.play(CALLS)

    @otelstream.tool(effect="write")
    def send_email(to: str, body: str) -> None:
        return

    with otelstream.turn("chat", route="mail") as turn:
        way(sim)
        (call,) = turn.tool_calls
        assert (call.name, call.state, call.input, call.effect) == ("send_email", "ready", "valid", "write")
        send_email(**LETTER)
        assert otelstream.record_stop("chat")

    assert turn.unstreamed == 1
    assert turn.streams == ()
    assert (call.state, call.evidence, call.phase, call.guessed) == ("committed", "decorator", "after_end", False)
    assert turn.ledger.committed == (call,)
    assert bench.points(s.CANCELLATION_SIDE_EFFECTS.name, s.SIDE_EFFECT) == {("committed",): 1}
    assert bench.points(s.CANCELLATIONS.name, s.CANCEL_TRIGGER, s.CANCEL_AT) == {("user_stop", "between_streams"): 1}
    assert registry.idle


@ways
def test_it_makes_no_record(bench: Bench, sim: ProviderSimulator, way: Any) -> None:
    """No span of ours, no stream, no stream metric: it is counted on the turn, and nowhere else."""
    with otelstream.turn() as turn:
        way(sim)
        way(sim)
    assert turn.unstreamed == 2
    assert turn.tool_calls == ()
    assert not bench.spans()
    assert not bench.ended
    assert not bench.points(s.STREAMS.name)
    assert not list(otelstream.open_streams())


@ways
def test_outside_of_a_turn_it_is_nobodys(bench: Bench, sim: ProviderSimulator, way: Any) -> None:
    """Without a turn nothing waits for its tools."""
    sim.play(CALLS)
    way(sim)
    assert registry.idle or way in (messages, messages_raw, messages_async)  # the SDK's own trace is one


def test_turns_inside_one_another(bench: Bench, sim: ProviderSimulator) -> None:
    """It is counted in each of them, and the outer's ledger has its tools."""
    sim.play(CALLS)
    with otelstream.turn("outer") as outer, otelstream.turn("inner") as inner:
        chat(sim)
    assert (outer.unstreamed, inner.unstreamed) == (1, 1)
    assert outer.tool_calls == inner.tool_calls
    assert len(outer.tool_calls) == 1


def test_streamed_and_not(bench: Bench, sim: ProviderSimulator) -> None:
    """The calls of a turn are in the order in which the model was asked, streamed or not."""
    sim.play(Script().tool_use("first", {}))
    sim.play(Script().tool_use("second", {}))
    sim.play(Script().tool_use("third", {}))
    with otelstream.turn() as turn:
        chat(sim)
        with anthropic.Anthropic(base_url=sim.base_url, api_key="k", max_retries=0) as client:
            for _ in client.messages.create(**ASK, stream=True):
                pass
        chat(sim)
    assert [call.name for call in turn.tool_calls] == ["first", "second", "third"]
    assert (turn.unstreamed, len(turn.streams)) == (2, 1)


def test_a_stop_while_it_is_under_way(bench: Bench, sim: ProviderSimulator) -> None:
    """What it asks for after the Stop is discarded when nobody ran it, and a held tool of it is refused."""
    sim.play(CALLS)

    @otelstream.tool(effect="write", hold=True)
    def send_email(to: str, body: str) -> None:
        raise AssertionError

    with otelstream.turn("chat") as turn:
        otelstream.record_stop("chat")
        chat(sim)
        with pytest.raises(otelstream.ToolWithheld, match="stopped"):
            send_email(**LETTER)
    assert [call.state for call in turn.ledger.withheld] == ["withheld"]


@pytest.mark.parametrize(("stop_reason", "runs"), [("tool_use", True), ("max_tokens", False)])
@pytest.mark.parametrize("way", [messages, chat], ids=lambda way: way.__name__)
def test_the_gate_knows_how_it_ended(
    bench: Bench, sim: ProviderSimulator, way: Any, stop_reason: str, runs: bool
) -> None:
    """A held tool of an answer that came whole runs at once; of one at its token limit it is withheld."""
    sim.play(CALLS.end(stop_reason))
    ran = []

    @otelstream.tool(effect="write", hold=True)
    def send_email(to: str, body: str) -> None:
        ran.append(to)

    with otelstream.turn():
        way(sim)
        try:
            send_email(**LETTER)
        except otelstream.ToolWithheld:
            assert not runs
    assert bool(ran) == runs


def test_a_tool_forced_as_a_schema_is_none(bench: Bench, sim: ProviderSimulator) -> None:
    """As with a stream: no call, no ledger."""
    sim.play(Script().tool_use("answer", {"city": "Oslo"}))
    with otelstream.turn() as turn, anthropic.Anthropic(base_url=sim.base_url, api_key="k") as client:
        tool: Any = {"name": "answer", "input_schema": {"type": "object", "properties": {}}}
        client.messages.create(**ASK, tools=[tool], tool_choice={"type": "tool", "name": "answer"})
    assert (turn.unstreamed, turn.tool_calls) == (1, ())


def test_the_sdks_runner(bench: Bench, sim: ProviderSimulator) -> None:
    """`tool_runner(stream=False)`: each request counted, each run of the runner's in the ledger."""
    sim.play(Script().tool_use("post_letter", LETTER))
    sim.play(Script().text("Done."))

    @anthropic.beta_tool
    def post_letter(to: str, body: str) -> str:
        """Send a letter.

        Args:
            to: to whom.
            body: its words.
        """
        return "sent"

    with otelstream.turn("chat") as turn, anthropic.Anthropic(base_url=sim.base_url, api_key="k") as client:
        client.beta.messages.tool_runner(**ASK, tools=[post_letter]).until_done()
        otelstream.record_stop("chat")
    (call,) = turn.tool_calls
    assert turn.unstreamed == 2
    assert (call.state, call.evidence) == ("committed", "runner")
    assert turn.ledger.committed == (call,)  # of an unknown effect: it may have touched the world


def test_results_in_the_next_request(bench: Bench, sim: ProviderSimulator) -> None:
    """Where nobody saw the run, the result that the next request carries tells of it."""
    sim.play(CALLS)
    with otelstream.turn() as turn, openai.OpenAI(base_url=f"{sim.base_url}/v1", api_key="k") as client:
        said = client.chat.completions.create(model="m", messages=MESSAGES).choices[0].message
        assert said.tool_calls is not None
        result: Any = {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": "sent"}
        client.chat.completions.create(model="m", messages=[*MESSAGES, said.to_dict(), result])
    (call,) = turn.tool_calls
    assert (call.state, call.evidence) == ("committed", "tool_result")


@ways
def test_a_request_that_fails(bench: Bench, sim: ProviderSimulator, way: Any) -> None:
    """It was made, so it is counted; its exception is the SDK's."""
    sim.play("text_short", fault=sim.http_error(529))
    with otelstream.turn() as turn, pytest.raises((anthropic.APIError, openai.APIError)):
        way(sim)
    assert turn.unstreamed == 1


def test_what_asks_no_model(bench: Bench, sim: ProviderSimulator) -> None:
    """Counting tokens is no request to a model; nor is anything under `suppress_instrumentation()` ours."""
    with otelstream.turn() as turn:
        with suppress_instrumentation():
            chat(sim)
        with anthropic.Anthropic(base_url=sim.base_url, api_key="k", max_retries=0) as client:
            try:
                client.messages.count_tokens(model="m", messages=MESSAGES)
            except anthropic.APIError:
                pass  # the simulator may not know it
    assert turn.unstreamed == 0


def test_odd_answers(bench: Bench) -> None:
    """What a server sends that is no answer at all changes nothing for the application."""
    from otelstream.anthropic._grammar import whole as of_message
    from otelstream.openai._whole import whole as of_completion

    for odd in (None, {}, [], "text", {"choices": None}, {"output": 3}, {"type": "message", "content": None}, object()):
        said = of_completion(odd)
        assert said is None or said.calls == ()
        said = of_message(odd)
        assert said is None or said.calls == ()
    crooked = of_completion({"choices": [{"message": {"tool_calls": [{"function": {"arguments": "{"}}]}}]})
    assert crooked is not None
    assert crooked.calls[0].arguments == "{"


def test_its_calls_are_given_up_like_others(bench: Bench, sim: ProviderSimulator, monkeypatch: Any) -> None:
    """Nobody waits for ever: after the time that a stream's calls have, it is decided that they were never run."""
    sim.play(CALLS)
    with otelstream.turn() as turn:
        chat(sim)
    from otelstream._core.tools import registry as module

    later = time.perf_counter() + module.NEVER_AFTER + 1
    monkeypatch.setattr(module, "clock", lambda: later)
    registry.sweep()
    (call,) = turn.tool_calls
    assert call.phase == "never"
    assert registry.idle
    assert bench.points(s.TOOL_CALLS.name, s.DISPATCH_PHASE) == {("never",): 1}
