# SPDX-License-Identifier: Apache-2.0
"""Who steers it: queue, headers, the control port."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from typing import Any

import anthropic
import pytest

from otelstream.testing import (
    Exchange,
    ProviderSimulator,
    Schedule,
    ScriptError,
)
from otelstream.testing._orders import parse_fault

from .wire import ASK, Wire


class TestSteering:
    def test_nothing_queued_plays_text_short(self, sim: ProviderSimulator, client: anthropic.Anthropic) -> None:
        """A simulator works without being told anything."""
        client.messages.create(**ASK)

        assert sim.log[-1].script == "text_short"

    def test_queue(self, sim: ProviderSimulator, client: anthropic.Anthropic) -> None:
        """Counted entries go first and in order, then the newest endless one; a condition leaves entries alone."""
        sim.play("text_beta", times=None)
        sim.play("text_long", times=None, when=lambda request: request.body["max_tokens"] == 65)
        sim.play("stop_sequence", when="another-model")
        sim.play("pause_turn", times=2)
        sim.play("refusal")

        for _ in range(4):
            client.messages.create(**ASK)
        client.messages.create(**{**ASK, "max_tokens": 65})
        client.messages.create(**{**ASK, "model": "another-model"})

        assert [each.script for each in sim.log] == [
            "pause_turn", "pause_turn", "refusal", "text_beta", "text_long", "stop_sequence",
        ]  # fmt: skip

    def test_clear(self, sim: ProviderSimulator, client: anthropic.Anthropic) -> None:
        """Cleared, it is as new: no log, no queue, the same ids as the first time."""
        first = client.messages.create(**ASK).id
        sim.play("refusal", times=None)

        sim.clear()

        assert sim.log == []
        again = client.messages.create(**ASK)
        assert (again.id, again.stop_reason) == (first, "end_turn")

    def test_header_selects(self, sim: ProviderSimulator, client: anthropic.Anthropic) -> None:
        """Another process chooses script, faults and times by a header, past the queue."""
        sim.play("refusal", times=None)
        header = {"otelstream-play": "text_beta; end_after=chunks:1; first=0.05; gap=0.01"}

        list(client.messages.create(**ASK, stream=True, extra_headers=header))

        exchange = sim.log[-1]
        assert (exchange.script, exchange.fault) == ("text_beta", "end_after(chunks=1)")
        assert exchange.events[0].at - exchange.headers_at >= 0.05

    @pytest.mark.parametrize(
        ("header", "words"),
        [
            ("text_lung", "no script 'text_lung'; there are: .*text_long"),
            ("text_long; cut=3", "no fault 'cut'; there are: .*cut_after"),
            ("text_long; cut_after=chunk:3", "unexpected keyword argument 'chunk'"),
            ("text_short; cut_after=chunks:40", "it has only 2 chunks"),
            ("text_short; cut_after", "give one point"),
            ("text_short; cut_after=later", "'later' is no point"),
            ("text_short; gap=soon", "gap is a number"),
            ("text_short; gap=-1", "gap=-1: a number, at least 0"),
            ("text_short; malformed_tool_json", "it has no tool input"),
            ("text_short; error_after=request", "needs a reply"),
            ("text_short; http_error=200", "status=200: a whole number from 400 to 599"),
        ],
    )
    def test_a_wrong_header_is_a_400(
        self, sim: ProviderSimulator, client: anthropic.Anthropic, header: str, words: str
    ) -> None:
        """The client is told what is wrong and what there is; nothing is retried."""
        patient = client.with_options(max_retries=2)

        with pytest.raises(anthropic.BadRequestError, match=words):
            patient.messages.create(**ASK, extra_headers={"otelstream-play": header})

        assert len(sim.log) == 1

    def test_wrong_calls_raise(self, sim: ProviderSimulator) -> None:
        """In process the same mistakes raise at `play`, not at the request."""
        with pytest.raises(ScriptError, match="no script 'nope'"):
            sim.play("nope")
        with pytest.raises(ScriptError, match=r"cut_after\(chunks=3\) on script 'text_short'"):
            sim.play("text_short", fault=sim.cut_after(chunks=3))
        with pytest.raises(ScriptError, match="times=0"):
            sim.play("text_short", times=0)
        with pytest.raises(ScriptError, match="first=-1"):
            Schedule(first=-1)

    @pytest.mark.parametrize(
        ("fault", "words"),
        [
            ("stall_after=x", "seconds='x': a number, at least 0"),
            ("stall_after=-1", "seconds=-1: a number"),
            ("slow_headers=nan", "seconds='nan': a number"),
            ("slow_headers=true", "seconds=True: a number"),
            ("cut_after=chunks:1.5", "chunks=1.5: a whole number, at least 0"),
            ("cut_after=middle", "'middle' is no point"),
            ("http_error=200", "status=200: a whole number from 400 to 599"),
            ("http_error=529,retry_after:soon", "retry_after='soon': a number"),
            ("http_error=529,headers:x", "headers='x': a mapping"),
            ("http_error=529,body:3", "body=3: text"),
            ("tool_input_cut_off=2", "share=2: a number from 0 to 1"),
            ("repeat_after=3,copies:0", "copies=0: a number, more than 0"),
            ("repeat_after=3,chunk:0", "chunk=0: a whole number, at least 1"),
            ("huge_event_after=1,chars:-4", "chars=-4: a whole number, at least 1"),
            ("choice_cut_after=1,choice:x", "choice='x': a whole number"),
            ("ping_only_after=3,every:0", "every=0: a number, more than 0"),
            ("gzip=3", "takes 0 positional arguments"),
        ],
    )
    def test_a_value_that_a_fault_cannot_have(self, fault: str, words: str) -> None:
        """Refused when it is asked for, with the parameter, the value and what may be given."""
        with pytest.raises(ScriptError) as raised:
            parse_fault(fault)
        assert words in str(raised.value)

    @pytest.mark.parametrize("name", ["first", "gap", "headers", "jitter", "coalesce", "split"])
    @pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "x", True])
    def test_a_value_that_a_schedule_cannot_have(self, name: str, value: Any) -> None:
        """No time is negative, endless or no number; a write has at least one event, or one byte."""
        with pytest.raises(ScriptError, match=f"{name}="):
            Schedule(**{name: value})

    def test_a_raising_condition_is_told_to_the_client(
        self, sim: ProviderSimulator, client: anthropic.Anthropic
    ) -> None:
        """A broken predicate is a 400 that shows the exception, not a hanging request."""
        sim.play("text_short", when=lambda request: request.body["nothing"])

        with pytest.raises(anthropic.BadRequestError, match=r"when=\.\.\.\) raised KeyError\('nothing'\)"):
            client.messages.create(**ASK)

    def test_other_paths_are_404(self, sim: ProviderSimulator, client: anthropic.Anthropic) -> None:
        """It says what it serves."""
        with pytest.raises(anthropic.NotFoundError, match="serves POST"):
            client.messages.count_tokens(model="m", messages=ASK["messages"])

    def test_other_processes_read_the_log(self, sim: ProviderSimulator, client: anthropic.Anthropic) -> None:
        """The log is JSON over HTTP, without credentials; play and clear work there too."""

        def call(method: str, path: str, body: Any = None) -> Any:
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(f"{sim.base_url}/_simulator/{path}", data, method=method)
            with urllib.request.urlopen(request) as response:
                return json.load(response)

        call(
            "POST",
            "play",
            {"script": "text_beta", "fault": "cut_after=chunks:1", "schedule": {"gap": 0.01}, "times": 1},
        )
        with pytest.raises(Exception, match="incomplete"):
            list(client.messages.create(**ASK, stream=True))
        (seen,) = call("GET", "log")
        with pytest.raises(urllib.error.HTTPError) as wrong:
            call("POST", "play", {"script": "nope"})
        with wrong.value:
            reason = json.load(wrong.value)["error"]
        call("DELETE", "log")

        assert (seen["how"], seen["closed_by"], seen["script"]) == ("fin", "server", "text_beta")
        assert [write["kind"] for write in seen["events"]][-1] == "text"
        assert seen["request"]["body"]["model"] == "some-model"
        assert "unused" not in json.dumps(seen)
        assert "no script 'nope'" in reason
        assert sim.log == []

    def test_wait_for_shows_the_log(self, sim: ProviderSimulator, client: anthropic.Anthropic) -> None:
        """A condition that does not come true ends in an error with one line an exchange."""
        client.messages.create(**ASK)

        with pytest.raises(
            TimeoutError, match=r"#1 POST /v1/messages 200 text_short: 0 events, 0 chunks, end by server"
        ):
            sim.wait_for(lambda log: len(log) == 2, timeout=0.05)

    def test_on_end(self) -> None:
        """A callback gets each exchange once, when it is over."""
        seen: list[Exchange] = []
        with ProviderSimulator(on_end=seen.append) as sim:
            with contextlib.closing(Wire(sim, "text_short")) as wire:
                wire.read()
            with contextlib.closing(Wire(sim, "text_short; hang_after=headers")):
                sim.wait_for(lambda log: len(log) == 2 and log[1].headers_at)
            sim.wait_for(lambda log: log[1].closed_at)

        assert [each.closed_by for each in seen] == ["server", "peer"]
