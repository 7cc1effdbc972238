# SPDX-License-Identifier: Apache-2.0
"""The tools of a session: the provider runs its own and an MCP server's, the application the custom ones."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import anthropic
import pytest
from tools.bench import Bench

import otelstream
from otelstream import _semconv as s
from otelstream._core.record.call import ToolCall
from otelstream._core.tools import registry as registries
from otelstream._core.tools.registry import registry
from otelstream.anthropic import _sessions
from otelstream.testing import ProviderSimulator, Script
from sessions.conftest import BOTH, Reader, begins, connection, ends, handmade, said

LETTER = {"to": "harbour"}


def used(kind: str, id: str, name: str, **fields: Any) -> dict[str, Any]:  # noqa: A002
    return said(f"agent.{kind}", id, name=name, input=LETTER, **fields)


def calls(bench: Bench) -> list[ToolCall]:
    return [call for record in bench.ended for call in record.tool_calls]


@pytest.mark.parametrize("failed", [False, True], ids=["committed", "failed"])
@pytest.mark.parametrize(
    ("kind", "result"),
    [("tool_use", "agent.tool_result"), ("mcp_tool_use", "agent.mcp_tool_result"),
     ("custom_tool_use", "user.custom_tool_result")],
)  # fmt: skip
@pytest.mark.parametrize("late", [False, True], ids=["in the request", "after its end"])
def test_ready_dispatched_finished(
    bench: Bench, sim: ProviderSimulator, reader: Reader, kind: str, result: str, failed: bool, late: bool
) -> None:
    """The provider's run from when it says so, the application's by when their result is there; to the result."""
    fields = {"mcp_server_name": "files"} if kind == "mcp_tool_use" else {}
    key = {"tool_use": "tool_use_id", "mcp_tool_use": "mcp_tool_use_id"}.get(kind, "custom_tool_use_id")
    asks = used(kind, "sevt_1", "letter", **fields)
    states: list[str | None] = []

    def look(_: int) -> None:
        states.extend(call.state for call in calls(bench) if call.id == "sevt_1")

    order = (begins("a"), ends("a"), asks) if late else (begins("a"), asks, ends("a"))
    sim.play(handmade(*order, said(result, "sevt_2", **{key: "sevt_1"}, is_error=failed, content=[])))
    reader.go(reader.reads(*BOTH, at=look))

    (call,) = calls(bench)
    assert (call.name, call.input, call.size) == ("letter", "valid", len('{"to": "harbour"}'))
    assert (call.state, call.evidence, call.effect) == ("failed" if failed else "committed", "tool_result", "write")
    assert call.ready is not None
    assert call.dispatched is not None
    assert call.finished is not None
    if kind == "custom_tool_use":
        assert call.ready < call.dispatched == call.finished
    else:
        assert call.ready == call.dispatched < call.finished
        assert call.where is None  # no thread of ours ran it, which might have been kept from reading by that
        assert "running" in states
    assert registry.idle
    phase = "after_end" if late or kind == "custom_tool_use" else "mid_stream"
    assert bench.points(s.TOOL_CALLS.name, s.TOOL_NAME, s.DISPATCH_PHASE) == {("letter", phase): 1}
    if not late:
        events = {event.name: event for span in bench.spans("chat") for event in span.events}
        assert (events[s.EVENT_TOOL_READY].attributes or {})[s.TOOL_CALL_READY_EVIDENCE] == "explicit"
        assert (s.EVENT_TOOL_DISPATCHED in events) == (kind != "custom_tool_use")


def test_the_pause_before_a_call(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was waited for it since the last chunk."""
    now = [100.0]
    monkeypatch.setattr(_sessions, "clock", lambda: now[0])
    session = connection()
    for payload, after in ((begins("a"), 1.0), (said("user.message"), 2.0), (used("tool_use", "sevt_1", "bash"), 1.0),
                           (ends("a"), 1.0)):  # fmt: skip
        asked = now[0]
        now[0] += after
        session.took(payload["type"], json.dumps(payload), asked)
    assert [call.pause for call in calls(bench)] == pytest.approx([3.0])


def test_a_late_call_is_not_waited_for_for_ever(
    bench: Bench, sim: ProviderSimulator, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that comes behind the end of its request, and that nobody runs, is given up as any other."""
    sim.play(handmade(begins("a"), ends("a"), used("custom_tool_use", "sevt_1", "letter")))
    reader.go(reader.reads(*BOTH))
    later = registries.clock() + registries.NEVER_AFTER + 1.0
    monkeypatch.setattr(registries, "clock", lambda: later)
    registry.sweep()
    assert [call.phase for call in calls(bench)] == ["never"]
    assert registry.idle


@pytest.mark.parametrize("verdict", ["allow", "deny"])
@pytest.mark.parametrize("kind", ["tool_use", "mcp_tool_use"])
def test_a_tool_that_waits_for_the_user(
    bench: Bench, sim: ProviderSimulator, reader: Reader, kind: str, verdict: str
) -> None:
    """It runs from when the user allows it; what the user denies was withheld."""
    fields = {"mcp_server_name": "files"} if kind == "mcp_tool_use" else {}
    asks = used(kind, "sevt_1", "letter", evaluated_permission="ask", **fields)
    said_so = said("user.tool_confirmation", "sevt_2", tool_use_id="sevt_1", result=verdict)
    sim.play(handmade(begins("a"), asks, ends("a"), said_so, said_so))
    reader.go(reader.reads(*BOTH))
    (call,) = calls(bench)
    assert call.ready is not None
    if verdict == "allow":
        assert call.state == "running"
        assert call.dispatched is not None
        assert call.dispatched > call.ready
    else:
        assert (call.state, call.dispatched) == ("withheld", None)
        assert bench.points(s.TOOL_CALLS.name, s.TOOL_CALL_STATE) == {("withheld",): 1}


def test_what_runs_is_denied_too_late(bench: Bench, sim: ProviderSimulator, reader: Reader) -> None:
    """A call that needed no word of the user is run, whatever the user says of it."""
    denied = said("user.tool_confirmation", "sevt_2", tool_use_id="sevt_1", result="deny")
    result = said("agent.tool_result", "sevt_3", tool_use_id="sevt_1")
    sim.play(handmade(begins("a"), used("tool_use", "sevt_1", "bash"), denied, result, ends("a")))
    reader.go(reader.reads(*BOTH))
    assert [call.state for call in calls(bench)] == ["committed"]


def test_a_tool_that_is_denied(bench: Bench, sim: ProviderSimulator, reader: Reader) -> None:
    """By a policy of the provider: it is never run."""
    sim.play(handmade(begins("a"), used("tool_use", "sevt_1", "bash", evaluated_permission="deny"), ends("a")))
    reader.go(reader.reads(*BOTH))
    assert [(call.state, call.phase) for call in calls(bench)] == [("withheld", "never")]


def test_calls_of_another_thread(bench: Bench, sim: ProviderSimulator, reader: Reader) -> None:
    """What a subagent asks for is shown on the session's stream too: it is no call of a request that is open here."""
    elsewhere = used("custom_tool_use", "sevt_1", "letter", session_thread_id="sthr_2")
    sim.play(handmade(begins("a"), elsewhere, ends("a")))
    reader.go(reader.reads(*BOTH))
    assert calls(bench) == []
    assert registry.idle


def test_what_joins_in_the_middle(bench: Bench, sim: ProviderSimulator, reader: Reader) -> None:
    """A call, a result and an answer of a request that began before the connection are nobody's."""
    events = handmade(used("tool_use", "sevt_1", "bash"), said("agent.tool_result", tool_use_id="sevt_1"), ends("a"))
    sim.play(Script("joins", events=events.events[3:]), when=lambda _: True)
    reader.go(reader.reads(*BOTH))
    assert bench.ended == []
    assert registry.idle


def test_the_application_runs_a_custom_tool(bench: Bench, sim: ProviderSimulator, reader: Reader) -> None:
    """Its own run is seen, and better evidence than the result that it sends."""

    @otelstream.tool(effect="write", name="telegram")
    def telegram(to: str) -> str:
        return f"sent to {to}"

    sim.play(Script("asks").tool_use("telegram", LETTER, id="sevt_1").then(Script("done").text("Sent.")))

    async def work() -> None:
        stream = await reader.open(*BOTH)
        async for event in reader.items(stream):
            if event.type == "session.status_idle" and event.stop_reason.type == "requires_action":
                content = [{"type": "text", "text": telegram(**LETTER)}]
                await reader.sends(
                    {"type": "user.custom_tool_result", "custom_tool_use_id": "sevt_1", "content": content}
                )

    reader.go(work())
    (call,) = calls(bench)
    assert (call.state, call.evidence, call.guessed, call.phase) == ("committed", "decorator", False, "after_end")
    assert [span.name for span in bench.spans("execute_tool")] == ["execute_tool telegram"]


@pytest.mark.parametrize("failed", [False, True], ids=["committed", "failed"])
def test_a_result_that_is_sent(bench: Bench, sim: ProviderSimulator, reader: Reader, failed: bool) -> None:
    """Where nobody saw the run, the result says that there was one: as it is sent, not when the session says so."""
    sim.play(Script("asks").tool_use("letter", LETTER, id="sevt_1"))
    sent: list[Any] = []

    async def work() -> None:
        stream = await reader.open(*BOTH)
        async for event in reader.items(stream):
            if event.type == "session.status_idle":
                result = {"type": "user.custom_tool_result", "custom_tool_use_id": "sevt_1", "is_error": failed}
                await reader.sends(result)
                sent.extend(call.state for call in calls(bench))

    reader.go(work())
    assert sent == ["failed" if failed else "committed"]
    assert [call.evidence for call in calls(bench)] == ["tool_result"]


def test_tools_of_the_session_runner(bench: Bench, sim: ProviderSimulator) -> None:
    """The SDK's own runner of a session's tools, in a task of its own: evidence `runner`, for built-in ones that it
    runs in a self-hosted environment too."""

    @anthropic.beta_async_tool
    async def letter(to: str) -> str:
        """Send a letter.

        Args:
            to: to whom.
        """
        return f"sent to {to}"

    @anthropic.beta_async_tool
    async def bash(to: str) -> str:
        """Run.

        Args:
            to: what.
        """
        return f"ran {to}"

    script = (
        Script("asks")
        .tool_use("letter", LETTER, id="sevt_1")
        .tool_use("bash", LETTER, id="sevt_2", kind="server_tool_use")
    )
    sim.play(script.end("tool_use").then(Script("done").text("Sent.")).event(said("session.status_terminated")))

    async def main() -> None:
        async with anthropic.AsyncAnthropic(base_url=sim.base_url, api_key="unused", max_retries=0) as client:
            await client.beta.sessions.events.tool_runner("sesn_1", tools=[letter, bash], max_idle=None).until_done()

    asyncio.run(asyncio.wait_for(main(), 60))
    found = {call.name: call for call in calls(bench)}
    assert {name: (call.state, call.evidence) for name, call in found.items()} == {
        "letter": ("committed", "runner"), "bash": ("committed", "runner"),
    }  # fmt: skip
    assert [record.outcome for record in bench.ended] == ["completed", "completed"]
