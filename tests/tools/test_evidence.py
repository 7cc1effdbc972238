# SPDX-License-Identifier: Apache-2.0
"""Which evidence of a tool's start is believed, where there is more than one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, get_args

import anthropic
import pytest

import otelstream
from otelstream import _semconv as s
from otelstream._core.record.call import ToolCall
from otelstream._core.tools.registry import Registry
from otelstream.testing import ProviderSimulator, Script

from .bench import ASK, Bench, instrumented

BEST_FIRST: tuple[s.Evidence, ...] = ("decorator", "runner", "span", "tool_result")


@pytest.fixture
def bench() -> Iterator[Bench]:
    with instrumented() as bench:
        yield bench


def test_every_evidence_has_its_rank() -> None:
    """The table below is of all the kinds that there are."""
    assert set(BEST_FIRST) == set(get_args(s.Evidence))


@pytest.mark.parametrize(("known", "told"), list(product(BEST_FIRST, BEST_FIRST)))
def test_the_better_evidence_wins(known: s.Evidence, told: s.Evidence) -> None:
    """Better evidence replaces what was known of a start, worse or the same does not; but of two decorators the inner
    one is nearer to the function."""
    registry, call = Registry(), ToolCall("deploy", "call-1")
    assert registry.dispatched(call, known, 1.0)

    better = BEST_FIRST.index(told) < BEST_FIRST.index(known) or known == told == "decorator"
    assert registry.dispatched(call, told, 2.0, guessed=True) is better

    want = (told, True, 2.0) if better else (known, False, 1.0)
    assert (call.evidence, call.guessed, call.dispatched_at) == want


@pytest.mark.parametrize("state", ["committed", "failed"])
@pytest.mark.parametrize("told", BEST_FIRST)
def test_what_is_over_is_not_started_again(told: s.Evidence, state: Any) -> None:
    """No evidence moves the start of a call that is done."""
    registry, call = Registry(), ToolCall("deploy", "call-1")
    registry.dispatched(call, "tool_result", 1.0)
    registry.finished(call, state, 2.0)

    assert not registry.dispatched(call, told, 3.0)
    assert (call.evidence, call.dispatched_at, call.state) == ("tool_result", 1.0, state)


def test_a_result_says_less_than_the_function(bench: Bench, sim: ProviderSimulator) -> None:
    """The next request's `tool_result` is an upper bound: it moves no start that the function itself told."""

    @otelstream.tool(effect="write")
    def deploy(ref: str) -> str:
        return "done"

    script = Script().tool_use("deploy", {"ref": "main"}, id="toolu_1").end("tool_use")
    sim.play(script)
    sim.play(Script().text("Deployed."))
    with anthropic.Anthropic(base_url=sim.base_url, api_key="unused", max_retries=0) as client:
        list(client.messages.create(**ASK, stream=True))
        (call,) = bench.ended[0].tool_calls
        deploy("main")
        before = call.dispatched_at
        asked = {"type": "tool_use", "id": call.id, "name": "deploy", "input": {"ref": "main"}}
        answered = {"type": "tool_result", "tool_use_id": call.id, "content": "done"}
        messages = [
            *ASK["messages"],
            {"role": "assistant", "content": [asked]},
            {"role": "user", "content": [answered]},
        ]
        list(client.messages.create(**{**ASK, "messages": messages}, stream=True))

    assert (call.evidence, call.state) == ("decorator", "committed")
    assert call.dispatched_at == before
