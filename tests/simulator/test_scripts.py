# SPDX-License-Identifier: Apache-2.0
"""Scripts, written and recorded, and the command."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys

import anthropic
import pytest

from otelstream.cli import main
from otelstream.testing import (
    ProviderSimulator,
    Request,
    Script,
    loop,
    prose,
    script,
    script_names,
)

from .wire import ASK, Dial, Wire


class TestScripts:
    def test_built_script_arrives(self, sim: ProviderSimulator, client: anthropic.Anthropic) -> None:
        """What was built is what the SDK accumulates, with the model of the request and the ids given."""
        given = "toolu_01GivenByTheAuthorOfThis"
        built = (
            Script()
            .thinking("Which one?")
            .text("I will look.", chunk=5)
            .tool_use("get_weather", {"city": "Oslo"}, id=given, chunks=2)
        )
        sim.play(built)

        with client.messages.stream(**ASK) as stream:
            message = stream.get_final_message()

        thinking, text, tool = message.content
        assert thinking.thinking == "Which one?"
        assert thinking.signature
        assert text.text == "I will look."
        assert (tool.id, tool.name, tool.input) == (given, "get_weather", {"city": "Oslo"})
        assert (message.stop_reason, message.model) == ("tool_use", "some-model")
        kinds = [(write.kind, write.chars) for write in sim.log[-1].events if write.kind in {"text", "tool_input"}]
        assert kinds == [("text", 5), ("text", 5), ("text", 2), ("tool_input", 0), ("tool_input", 8), ("tool_input", 8)]

    def test_scripts_are_values(self) -> None:
        """Building on a script leaves it as it was."""
        start = Script().text("one")

        longer = start.text("two").end("max_tokens")

        assert (start.chunks, longer.chunks) == (1, 2)
        assert (start.stop_reason, longer.stop_reason) == (None, "max_tokens")

    def test_ids_are_new_at_each_play(self, sim: ProviderSimulator, client: anthropic.Anthropic) -> None:
        """Two replies never share message or tool ids, but within one a result still names its call."""
        sim.play("container", times=None)

        one, two = client.messages.create(**ASK), client.messages.create(**ASK)

        assert one.id != two.id
        for message in (one, two):
            call, result = message.content[1:3]
            assert call.id == result.tool_use_id
        assert one.content[1].id != two.content[1].id

    def test_ids_can_be_kept(self) -> None:
        """For comparisons byte by byte."""
        with ProviderSimulator(fresh_ids=False) as sim:
            bodies = []
            for _ in range(2):
                with contextlib.closing(Wire(sim, "tool_use_two_tools")) as wire:
                    wire.read()
                    bodies.append(wire.body)

        assert bodies[0] == bodies[1] == b"".join(event.frame for event in script("tool_use_two_tools").events)

    def test_pauses_of_a_script(self, sim: ProviderSimulator, dial: Dial) -> None:
        """A script's own pause holds, and the bundled buffered input comes after one."""
        dial("tool_use_buffered").read()
        sim.play(Script().text("ab", chunk=2).pause(0.15).text("cd"))
        dial().read()

        buffered, paused = (each.events for each in sim.log)
        gaps = [after.began - before.at for before, after in itertools.pairwise(buffered) if after.kind == "tool_input"]
        assert max(gaps) >= 0.2
        assert sum(gap >= 0.1 for gap in gaps) == 1
        second = next(i for i, write in enumerate(paused) if write.kind == "block_start" and i > 2)
        assert paused[second].began - paused[second - 1].at >= 0.15

    def test_filler(self) -> None:
        """Text of any length, made of words, the same each time, and a loop that repeats as often as it says."""
        assert [len(prose(length)) for length in range(400)] == list(range(400))
        assert prose(200) == prose(200) != prose(200, 5)
        assert loop(7, 3.5) == (prose(7) * 4)[:24]

    def test_requests_are_frozen(self) -> None:
        """A predicate sees model, attempt and streaming at a glance, for any body."""
        request = Request("POST", "/v1/messages", "", {"x-stainless-retry-count": "2"}, {"model": "m", "stream": True})

        assert (request.model, request.attempt, request.stream) == ("m", 2, True)
        assert Request("GET", "/", "", {}, None).model is None


class TestCommand:
    def test_serves_until_interrupted(self) -> None:
        """It says where it listens, prints a line for each request, and ends well on Ctrl-C."""
        command = [
            sys.executable,
            "-m",
            "otelstream",
            "simulator",
            "--port",
            "0",
            "--script",
            "text_short",
            "--gap",
            "0",
        ]
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
            contextlib.ExitStack() as at_the_end,
        ):
            at_the_end.callback(process.kill)
            assert process.stdout is not None
            address = process.stdout.readline().split()[0]
            with anthropic.Anthropic(base_url=address, api_key="unused") as client:
                assert client.messages.create(**ASK).stop_reason == "end_turn"
            line = process.stdout.readline()
            os.kill(process.pid, signal.SIGINT)

            assert process.wait(10) == 0
        assert line.startswith("#1 POST /v1/messages 200 text_short: ")

    def test_list(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Every script and every fault is named."""
        assert main(["simulator", "--list"]) == 0

        shown = capsys.readouterr().out
        assert all(f"  {name} " in shown for name in script_names())
        assert "  cut_after=point,chunks,events\n" in shown

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--fault", "nope"], "no fault 'nope'"),
            (["--script", "nope"], "no script 'nope'"),
            (["--script", "nope.sse"], "nope.sse: No such file"),
            (["--gap", "-1"], "--gap -1: give seconds from 0"),
            (["--port", "70000"], "70000"),
        ],
    )
    def test_bad_input_is_one_line(self, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
        """Exit code 2 and a line that names it."""
        assert main(["simulator", *arguments]) == 2

        shown = capsys.readouterr().err
        assert words in shown
        assert shown.count("\n") == 1

    def test_port_in_use(self, sim: ProviderSimulator, capsys: pytest.CaptureFixture[str]) -> None:
        """The port is named, with the remedy."""
        assert main(["simulator", "--port", str(sim.port)]) == 2

        assert f"port {sim.port} on 127.0.0.1 is in use" in capsys.readouterr().err
