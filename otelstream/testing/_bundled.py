# SPDX-License-Identifier: Apache-2.0
"""The bundled scripts: re-enactments of recorded streams, and our own for what no recording shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

from otelstream.testing._events import ScriptError, make_id
from otelstream.testing._prose import prose
from otelstream.testing._scripts import Script

STREAMS = Path(__file__).parent / "streams"


def loop(period: int, copies: float, start: int = 0) -> str:
    """Return a text that repeats a unit of *period* characters *copies* times."""
    unit = prose(period, start)
    return (unit * (int(copies) + 1))[: round(period * copies)]


_WEATHER = {"city": "Harbour Town", "unit": "celsius"}
_MAIL = {"to": "marten@example.org", "subject": "Nets", "body": prose(420, 11)}


def _cited(script: Script) -> Script:
    citation = {
        "type": "char_location",
        "cited_text": prose(60, 40),
        "document_index": 0,
        "document_title": "The harbour log",
        "start_char_index": 0,
        "end_char_index": 60,
        "file_id": None,
    }
    return script.text(prose(30, 9)).text(prose(90, 40), citations=[citation, citation]).text(prose(40, 90))


def _fallback(script: Script) -> Script:
    served = "claude-opus-4-8"
    count = {
        "input_tokens": 25,
        "output_tokens": 30,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }
    hops = [{"type": "message", **count}, {"type": "fallback_message", "model": served, **count}]
    longer = script.text(prose(120)).fallback(served, category="cyber").text(prose(240, 60))
    return longer.end(usage={"iterations": hops})


_OWN: dict[str, Callable[[Script], Script]] = {
    "empty": lambda script: script.end(output_tokens=2),
    "stop_sequence": lambda script: script.text(prose(120)).end("stop_sequence", stop_sequence="\n\nHuman:"),
    "pause_turn": lambda script: (
        script.text(prose(60)).server_tool("web_search", {"query": "harbour bells"}, []).end("pause_turn")
    ),
    "refusal": lambda script: script.refuse(category="cyber", explanation="This request was declined."),
    "refusal_after_text": lambda script: script.text(prose(240)).refuse(category="bio"),
    "context_window_exceeded": lambda script: script.text(prose(400)).end("model_context_window_exceeded"),
    "compaction": lambda script: (
        script.compaction(prose(600, 20)).text(prose(160)).end(context_management={"applied_edits": []})
    ),
    "citations": _cited,
    "fallback": _fallback,
    "container": lambda script: (
        script.text(prose(40))
        .server_tool(
            "bash_code_execution",
            {"command": "wc -l nets.txt"},
            {
                "type": "bash_code_execution_result",
                "stdout": "47\n",
                "stderr": "",
                "return_code": 0,
                "content": [],
            },
        )
        .text(prose(80, 30))
        .end(container={"id": make_id("container", 1), "expires_at": "2030-01-01T00:00:00Z"})
    ),
    "parallel_tools": lambda script: (
        script.text(prose(50))
        .tool_use("get_weather", _WEATHER)
        .tool_use("get_weather", {"city": "Far Pier", "unit": "celsius"})
    ),
    "tool_use_eager": lambda script: script.text(prose(40)).tool_use("send_email", _MAIL, chunk=6),
    "tool_use_buffered": lambda script: _buffered(script.text(prose(40)), 0.2),
    "loop_text": lambda script: script.text(prose(200) + loop(48, 40, 30), chunk=9),
    "loop_thinking": lambda script: script.thinking(prose(200) + loop(48, 40, 30), chunk=9).text(prose(60)),
    "loop_tool_input": lambda script: script.tool_use("send_email", {"body": prose(200) + loop(48, 40, 30)}, chunk=9),
}


def _buffered(script: Script, seconds: float) -> Script:
    """Add a tool call whose input is held back for *seconds* and then arrives at once, as without eager
    streaming.
    """
    longer = script.tool_use("send_email", _MAIL, chunk=6)
    held = next(i for i, event in enumerate(longer.events) if event.kind == "tool_input" and event.chars)
    events = list(longer.events)
    events[held] = replace(events[held], pause=seconds)
    return replace(longer, events=tuple(events))


def script_names() -> list[str]:
    """Return the names of all bundled scripts."""
    return sorted([*(path.stem for path in STREAMS.glob("*.sse")), *_OWN])


@cache
def script(name: str) -> Script:
    """Return a bundled script by its name."""
    if name in _OWN:
        return _OWN[name](Script(name)).finished()
    if name not in script_names():
        raise ScriptError(f"no script {name!r}; there are: {', '.join(script_names())}")
    return Script.read(name, (STREAMS / f"{name}.sse").read_bytes())
