# SPDX-License-Identifier: Apache-2.0
"""Held tools under trio, where no task has an identity that asyncio knows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
import trio

import otelstream
from otelstream.testing import ProviderSimulator, Script

from .bench import ASK, Bench, instrumented

SCRIPT = Script().text("Let me see to that.").tool_use("deploy", {"ref": "main"}).end("tool_use")


@pytest.fixture
def bench() -> Iterator[Bench]:
    with instrumented() as bench:
        yield bench


def play(sim: ProviderSimulator, deploy: Any, *, by_the_reader: bool) -> list[Any]:
    """Read a stream that asks for `deploy`, which the reader runs, or a task beside it; return what came of that."""
    came: list[Any] = []
    sim.play(SCRIPT)

    async def run_it() -> None:
        try:
            came.append(await deploy("main"))
        except otelstream.ToolWithheld as error:
            came.append(error)

    async def read(client: Any, nursery: trio.Nursery) -> None:
        async with client.messages.stream(**ASK) as stream:
            async for event in stream:
                if event.type != "content_block_stop" or event.content_block.type != "tool_use":
                    continue
                if by_the_reader:
                    await run_it()
                    continue
                nursery.start_soon(run_it)
                (call,) = otelstream.get_stream(stream).tool_calls
                while not call.gated and not came:  # the other task asks while nobody reads
                    await trio.lowlevel.checkpoint()

    async def main() -> None:
        async with (
            anthropic.AsyncAnthropic(base_url=sim.base_url, api_key="unused", max_retries=0) as client,
            trio.open_nursery() as nursery,
        ):
            await read(client, nursery)

    trio.run(main)
    return came


def test_another_task_is_not_the_reader(bench: Bench, sim: ProviderSimulator) -> None:
    """A held call in a task beside the reader, which shares its thread, waits for the end of the stream and runs."""

    @otelstream.tool(effect="write", hold=True, hold_patience=60)
    async def deploy(ref: str) -> str:
        return f"deployed {ref}"

    assert play(sim, deploy, by_the_reader=False) == ["deployed main"]
    assert [call.state for call in bench.ended[0].tool_calls] == ["committed"]


def test_the_reader_itself_is_refused(bench: Bench, sim: ProviderSimulator) -> None:
    """A held call in the reader's own task cannot see the end: it is withheld once nobody has read for a while."""

    @otelstream.tool(effect="write", hold=True, hold_patience=0.05)
    async def deploy(ref: str) -> str:
        raise AssertionError("it must not run")

    (refused,) = play(sim, deploy, by_the_reader=True)

    assert "nobody has read its stream" in str(refused)
    assert [call.state for call in bench.ended[0].tool_calls] == ["withheld"]
