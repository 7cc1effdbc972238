# SPDX-License-Identifier: Apache-2.0
"""What the SDK makes of it."""

from __future__ import annotations

import asyncio
import contextlib
import json

import anthropic
import pytest

from otelstream.testing import (
    ProviderSimulator,
    loop,
    script,
    script_names,
)

from .wire import ASK, content, ended


class TestThroughTheSDK:
    """What an application sees of it, with the newest SDK."""

    @pytest.mark.parametrize("name", script_names())
    def test_every_script_sync(self, sim: ProviderSimulator, client: anthropic.Anthropic, name: str) -> None:
        """Each script is a message with its finish reason, streamed by events, by the helper, or not at all."""
        sim.play(name, times=None)

        events = list(client.beta.messages.create(**ASK, stream=True))
        with client.beta.messages.stream(**ASK) as stream:
            streamed = stream.get_final_message()
        whole = client.beta.messages.create(**ASK)

        assert [event.type for event in events][-1] == "message_stop"
        assert [event.delta.stop_reason for event in events if event.type == "message_delta"] == [
            script(name).stop_reason
        ]
        assert streamed.stop_reason == whole.stop_reason == script(name).stop_reason
        assert streamed.usage.output_tokens == whole.usage.output_tokens
        if name != "tool_use_cut_by_max_tokens":
            # The SDK keeps the half of an input that was cut; the API has no way to send one.
            assert content(streamed) == content(whole)

    def test_every_script_async(self, sim: ProviderSimulator) -> None:
        """The same through the asynchronous client, all scripts at once, told apart by model."""
        for name in script_names():
            sim.play(name, when=name, times=2)

        async def ask(client: anthropic.AsyncAnthropic, name: str) -> tuple[str | None, str | None]:
            request = {**ASK, "model": name}
            events = [event async for event in await client.messages.create(**request, stream=True)]
            reasons = [event.delta.stop_reason for event in events if event.type == "message_delta"]
            async with client.messages.stream(**request) as stream:
                message = await stream.get_final_message()
            return reasons[0], message.stop_reason

        async def everything() -> list[tuple[str | None, str | None]]:
            async with anthropic.AsyncAnthropic(base_url=sim.base_url, api_key="unused") as client:
                return await asyncio.gather(*(ask(client, name) for name in script_names()))

        found = asyncio.run(everything())

        assert found == [(script(name).stop_reason,) * 2 for name in script_names()]
        assert {each.script: each.request.model for each in sim.log} == {name: name for name in script_names()}

    @pytest.mark.parametrize(
        ("fault", "raised", "words"),
        [
            ("error_after=chunks:3", anthropic.APIStatusError, "Overloaded"),
            ("error_after=chunks:0,type:api_error", anthropic.APIStatusError, "api_error"),
            ("cut_after=chunks:3", Exception, "incomplete chunked read"),
            ("reset_after=request", anthropic.APIConnectionError, "Connection error"),
            ("reset_after=chunks:3", Exception, "reset by peer"),
            ("hang_after=chunks:3", Exception, "timed out"),
            ("hang_after=request", anthropic.APITimeoutError, "timed out"),
            ("ping_only_after=0.9,every:0.2,chunks:3", None, "end_turn"),
            ("stall_after=0.1,chunks:3", None, "end_turn"),
            ("stall_after=0.1,point:finish", None, "end_turn"),
            ("slow_headers=0.1", None, "end_turn"),
            ("http_error=400", anthropic.BadRequestError, "invalid_request_error"),
            ("http_error=408", anthropic.APIStatusError, "timeout_error"),
            ("http_error=409", anthropic.ConflictError, "conflict_error"),
            ("http_error=429,retry_after:7", anthropic.RateLimitError, "rate_limit_error"),
            ("http_error=500", anthropic.InternalServerError, "api_error"),
            ("http_error=503", anthropic.APIStatusError, "api_error"),
            ("http_error=529", anthropic.APIStatusError, "overloaded_error"),
            ("malformed_frame_after=chunks:3", ValueError, "Unterminated string"),
            ("malformed_frame_after=chunks:3,kind:utf8", UnicodeDecodeError, "invalid start byte"),
            ("malformed_frame_after=chunks:3,kind:no_data", None, "end_turn"),
            ("malformed_frame_after=chunks:3,kind:unknown", None, "end_turn"),
            ("refuse_after=chunks:0", None, "refusal"),
            ("refuse_after=chunks:3", None, "refusal"),
            ("repeat_after=chunks:3", None, "end_turn"),
            ("huge_event_after=chunks:3", None, "end_turn"),
            ("dribble=7", None, "end_turn"),
            ("gzip", None, "end_turn"),
            ("end_after=finish", None, "end_turn"),
            ("end_after=chunks:3", None, "None"),
            ("no_finish", None, "None"),
        ],
    )
    def test_faults(
        self,
        sim: ProviderSimulator,
        client: anthropic.Anthropic,
        fault: str,
        raised: type[Exception] | None,
        words: str,
    ) -> None:
        """Each fault does to an application what its real counterpart does."""
        sim.play("text_stream_manager", fault=fault)
        impatient = client.with_options(timeout=0.5)

        def ask() -> anthropic.types.Message:
            with impatient.messages.stream(**ASK) as stream:
                return stream.get_final_message()

        if raised is None:
            assert str(ask().stop_reason) == words
        else:
            with pytest.raises(raised, match=words):
                ask()

        fault_in_log = ended(sim).fault
        assert fault_in_log == fault
        if "hang" in fault:
            assert sim.log[-1].closed_by == "peer"

    @pytest.mark.parametrize(
        ("fault", "helper", "reason", "valid"),
        [
            ("malformed_tool_json", None, "tool_use", False),
            ("malformed_tool_json=middle", ValueError, "tool_use", False),
            ("tool_input_cut_off", None, "max_tokens", False),
            (None, None, "tool_use", True),
        ],
    )
    @pytest.mark.parametrize("name", ["tool_use_only", "tool_use_eager", "tool_use_two_tools", "tool_use_opus"])
    def test_broken_tool_input(
        self,
        sim: ProviderSimulator,
        client: anthropic.Anthropic,
        name: str,
        fault: str | None,
        helper: type[Exception] | None,
        reason: str,
        valid: bool,
    ) -> None:
        """The raw events carry an input that is no JSON; the helper raises only where it cannot go on."""
        sim.play(name, fault=fault, times=2)

        events = list(client.messages.create(**ASK, stream=True))
        with contextlib.nullcontext() if helper is None else pytest.raises(helper, match="tool parameter JSON"):  # noqa: SIM117
            with client.messages.stream(**ASK) as stream:
                stream.until_done()

        deltas = [event for event in events if event.type == "content_block_delta"]
        last = [event for event in deltas if event.delta.type == "input_json_delta"][-1].index
        text = "".join(event.delta.partial_json for event in deltas if event.index == last)
        assert [event.delta.stop_reason for event in events if event.type == "message_delta"] == [reason]
        if reason == "max_tokens":
            fragments = [event for event in script(name).events if event.kind == "tool_input" and event.chars]
            whole = [event for event in fragments if event.payload["index"] == last]
            came = [event for event in deltas if event.index == last and event.delta.partial_json]
            assert len(came) == max(1, round(len(whole) / 2))
        try:
            json.loads(text)
        except ValueError:
            assert not valid
        else:
            assert valid

    def test_a_retry_succeeds(self, sim: ProviderSimulator, client: anthropic.Anthropic) -> None:
        """A counted error is used up by the first attempt, and the log knows the attempts."""
        sim.play("text_short", fault=sim.http_error(529, retry_after=0.01))

        client.with_options(max_retries=2).messages.create(**ASK)

        assert [(each.status, each.request.attempt) for each in sim.log] == [(529, 0), (200, 1)]

    def test_retry_after(self, sim: ProviderSimulator, client: anthropic.Anthropic) -> None:
        """The wait asked for is in both headers that the SDK reads."""
        sim.play("text_short", fault=sim.http_error(429, retry_after=0.01, headers={"x-should-retry": "false"}))

        with pytest.raises(anthropic.RateLimitError) as refused:
            client.with_options(max_retries=2).messages.create(**ASK)

        headers = refused.value.response.headers
        assert (headers["retry-after"], headers["retry-after-ms"]) == ("1", "10")
        assert len(sim.log) == 1

    def test_loops(self, sim: ProviderSimulator, client: anthropic.Anthropic) -> None:
        """The loop fault repeats its unit as often as told, whatever the chunks."""
        sim.play("text_long", fault=sim.repeat_after(chunks=10, period=17, copies=12, chunk=5))

        with client.messages.stream(**ASK) as stream:
            text = stream.get_final_text()

        assert loop(17, 12) in text

    def test_faults_combine(self, sim: ProviderSimulator, client: anthropic.Anthropic) -> None:
        """Several faults on one reply, in their order."""
        sim.play("text_long", fault=[sim.gzip(), sim.dribble(50), sim.error_after(chunks=4)])

        with pytest.raises(anthropic.APIStatusError):
            list(client.messages.create(**ASK, stream=True))

        assert len(sim.log[-1].chunks) == 4
        assert sim.log[-1].fault == "gzip(), dribble(50), error_after(chunks=4)"
