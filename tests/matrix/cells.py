# SPDX-License-Identifier: Apache-2.0
"""The table: the ways a stream ends, what is said of each, and the few shapes of which something else is true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from otelstream.testing import Fault, Faults, Schedule, Script, prose, script

from .api import Unlike
from .apis import APIS
from .columns import (
    ASYNCIO_CANCELS,
    HELPER_HASTES,
    HELPER_RAISES,
    NATIVE_ENDED,
    NO_FINISH,
    NO_LOOP,
    NO_WITH,
    ONLY_ASYNC,
    ONLY_CHAT,
    ONLY_CHOICES,
    ONLY_HELPERS,
    READS_ON,
    REASON_LAST,
    RUNNER_BREAKS,
    RUNNER_HOLDS,
    RUNNER_LATE,
    Shape,
)


@dataclass(frozen=True)
class Ending:
    """One way to end, and the verdict. `by` tells who ended it: then the simulator's log must say so too.

    `phase`, `finish` and `seen` are read off that log unless given here.
    """

    says: str
    by: Literal["server", "sdk", "app", "skip"]
    outcome: str
    fault: str = "none"
    error_type: str | None = None
    trigger: str | None = None
    play: str | Script = "answer"
    faults: Sequence[Fault] = ()
    schedule: Schedule | None = None
    do: str = "read"
    request: dict[str, Any] = field(default_factory=dict)
    retries: int = 0
    path: str = ""  # where the API is asked, behind the address of the provider
    phase: str | None = None
    finish: str | None = None
    seen: int | Literal["finish"] | None = None  # what was read, where not all: so many chunks, or to the finish reason
    closes: bool = True  # the client closes the connection in the end
    unlike: tuple[Unlike, ...] = ()


F = Faults
ANSWER = Script("answer").text(prose(96), chunk=12)
THINKING = Script("thinking").thinking(prose(60), chunk=12).text(prose(60), chunk=12)
TOOL = Script("tool").text(prose(24), chunk=12).tool_use("get_weather", {"city": "Harbour Town"}, chunk=6)
NOT_OBJECT = Script("not_object").text('{"city": 3}', chunk=4)
TOOL_TWICE = TOOL.tool_use("get_weather", {"city": "Far Pier"}, chunk=4)
TOOLS = [
    {
        "name": "get_weather",
        "description": "Look at the sky.",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }
]
EAGER = [{**TOOLS[0], "eager_input_streaming": True}]
SILENT = [F.hang_after(chunks=4)]  # so that the application leaves before the provider is done, always


def _app(says: str, do: str, outcome: str, *unlike: Unlike, **more: Any) -> Ending:
    more.setdefault("faults", SILENT)
    return Ending(says, "app", outcome, do=do, unlike=(NO_LOOP, *unlike), **more)


ENDINGS: dict[str, Ending] = {
    # --- the provider's word
    "end_turn": Ending("the model is done", "server", "completed"),
    "thinking, then text": Ending("the model is done", "server", "completed", play=THINKING),
    "stop_sequence": Ending("a stop sequence was met", "server", "completed", play="stop_sequence"),
    "tool_use": Ending("the model asks for a tool", "server", "completed", play=TOOL, request={"tools": TOOLS}),
    "pause_turn": Ending("the provider pauses a long turn", "server", "completed", play="pause_turn"),
    "max_tokens": Ending("the token limit was met", "server", "truncated", play=ANSWER.end("max_tokens")),
    "context window exceeded": Ending(
        "the model's context is full", "server", "truncated", play="context_window_exceeded"
    ),
    "refusal before text": Ending("the provider declines", "server", "refused", play="refusal"),
    "refusal after text": Ending(
        "the provider declines in the middle of its answer",
        "server",
        "refused",
        "content_filter",
        play="refusal_after_text",
    ),
    "refusal, fallback model": Ending(
        "another model takes over a refused answer", "server", "completed", play="fallback"
    ),
    "compaction": Ending("the provider compacts the conversation first", "server", "completed", play="compaction"),
    "empty answer": Ending("the model says nothing", "server", "completed", play="empty"),
    # --- the provider or the transport breaks it
    "error event before the first token": Ending(
        "the provider fails after it said 200",
        "server",
        "failed",
        "provider_error",
        "overloaded_error",
        faults=[F.error_after(chunks=0)],
    ),
    "error event after the first token": Ending(
        "the provider fails in the middle of its answer",
        "server",
        "failed",
        "provider_error",
        "api_error",
        faults=[F.error_after(chunks=3, type="api_error")],
    ),
    "reset before the response": Ending(
        "the connection is reset before any status",
        "server",
        "failed",
        "connection_lost",
        "connection_error",
        faults=[F.reset_after("request")],
    ),
    "reset before the first token": Ending(
        "the connection is reset after the headers",
        "server",
        "failed",
        "connection_lost",
        "connection_error",
        faults=[F.reset_after("headers")],
    ),
    "reset after the first token": Ending(
        "the connection is reset in the middle of the answer",
        "server",
        "failed",
        "connection_lost",
        "connection_error",
        faults=[F.reset_after(chunks=3)],
    ),
    "cut after the first token": Ending(
        "the connection is closed in the middle of the body",
        "server",
        "failed",
        "connection_lost",
        "connection_error",
        faults=[F.cut_after(chunks=3)],
    ),
    "cut after the finish reason": Ending(
        "the connection is closed before the last event",
        "server",
        "failed",
        "connection_lost",
        "connection_error",
        faults=[F.cut_after("finish")],
    ),
    "body ends before the first token": Ending(
        "the body ends properly, with nothing in it",
        "server",
        "failed",
        "cut_short",
        "api_error",
        faults=[F.end_after(chunks=0)],
    ),
    "body ends after the first token": Ending(
        "the body ends properly, in the middle of the answer: nothing raises",
        "server",
        "failed",
        "cut_short",
        "api_error",
        faults=[F.end_after(chunks=3)],
    ),
    "body ends after the finish reason": Ending(
        "the body ends properly, without its last event",
        "server",
        "failed",
        "cut_short",
        "api_error",
        faults=[F.end_after("finish")],
    ),
    "last event without a finish reason": Ending(
        "the provider says that it is done, and not why",
        "server",
        "completed",
        faults=[F.no_finish()],
        unlike=(REASON_LAST,),
    ),
    "error event after the finish reason": Ending(
        "the provider fails after the answer, before the last event",
        "server",
        "failed",
        "provider_error",
        "api_error",
        faults=[F.error_after("finish", type="api_error")],
    ),
    "one of two choices cut": Ending(
        "one choice has its finish reason, the other none, and the body ends properly",
        "server",
        "failed",
        "cut_short",
        "api_error",
        faults=[F.choice_cut_after(chunks=3), F.end_after("finish")],
        request={"n": 2},
        unlike=(ONLY_CHOICES,),
    ),
    "one of two choices cut, with the last event": Ending(
        "one choice has its finish reason, the other none, and the provider says that it is done",
        "server",
        "completed",
        faults=[F.choice_cut_after(chunks=3)],
        request={"n": 2},
        unlike=(ONLY_CHOICES,),
    ),
    "pings alone for a while": Ending(
        "the provider is silent but for pings, which are events or comments",
        "server",
        "completed",
        faults=[F.ping_only_after(0.03, every=0.01, chunks=3)],
    ),
    "first chunk without a choice": Ending(
        "the provider tells first what its filter thinks of the prompt, as Azure does",
        "server",
        "completed",
        path="/openai/deployments/some-model",
        unlike=(ONLY_CHAT,),
    ),
    "interleaved tool inputs": Ending(
        "the inputs of two tool calls arrive in turns",
        "server",
        "completed",
        play=TOOL_TWICE,
        faults=[F.interleave_tools()],
        request={"tools": TOOLS},
        unlike=(ONLY_CHAT, HELPER_HASTES),
    ),
    "read time-out before the response": Ending(
        "the SDK's time-out passes before any status",
        "sdk",
        "failed",
        "timeout",
        "client_timeout_error",
        faults=[F.hang_after("request")],
        request={"timeout": 0.1},
    ),
    "read time-out before the first token": Ending(
        "the SDK's time-out passes before any output",
        "sdk",
        "failed",
        "timeout",
        "client_timeout_error",
        faults=[F.hang_after(chunks=0)],
        request={"timeout": 0.1},
    ),
    "read time-out after the first token": Ending(
        "the SDK's time-out passes in the middle of the answer",
        "sdk",
        "failed",
        "timeout",
        "client_timeout_error",
        faults=[F.hang_after(chunks=3)],
        request={"timeout": 0.1},
    ),
    "undecodable frame": Ending(
        "an event's data is no JSON",
        "sdk",
        "failed",
        "protocol_error",
        "protocol_error",
        faults=[F.malformed_frame_after(chunks=3)],
        seen=3,
        phase="mid_stream",
        finish="error",
        unlike=(READS_ON,),
    ),
    "frame that is no UTF-8": Ending(
        "an event's data is no UTF-8",
        "sdk",
        "failed",
        "protocol_error",
        "protocol_error",
        faults=[F.malformed_frame_after(chunks=3, kind="utf8")],
        seen=3,
        phase="mid_stream",
        finish="error",
        unlike=(READS_ON,),
    ),
    "unknown event": Ending(
        "an event nobody knows, which everybody skips",
        "server",
        "completed",
        faults=[F.malformed_frame_after(chunks=3, kind="unknown")],
    ),
    "malformed tool input": Ending(
        "the last tool input is no JSON, though the model is done",
        "server",
        "completed",
        "malformed_tool_call",
        play=TOOL,
        faults=[F.malformed_tool_json("end")],
        request={"tools": TOOLS},
    ),
    "malformed tool input, seen while it streams": Ending(
        "a tool input breaks in its middle",
        "server",
        "completed",
        "malformed_tool_call",
        play=TOOL,
        faults=[F.malformed_tool_json("middle")],
        request={"tools": TOOLS},
        unlike=(HELPER_RAISES,),
    ),
    "SDK validation error": Ending(
        "the answer is not what `output_format` asks for",
        "sdk",
        "failed",
        "protocol_error",
        "protocol_error",
        play=NOT_OBJECT,
        request={"output_format": "Place"},
        phase="mid_stream",
        finish="error",
        seen=3,
        unlike=(ONLY_HELPERS,),
    ),
    "tool input cut by max_tokens": Ending(
        "the token limit cut the last tool input",
        "server",
        "truncated",
        "tool_call_cut_off",
        play=TOOL,
        faults=[F.tool_input_cut_off()],
        request={"tools": TOOLS},
    ),
    "buffered tool input": Ending(
        "the tool input arrives in one piece",
        "server",
        "completed",
        play=Script("buffered").text(prose(24)).pause(0.05).tool_use("get_weather", {"city": "Far Pier"}, chunks=1),
        request={"tools": TOOLS},
    ),
    "eager tool input": Ending(
        "the tool input arrives as it is written",
        "server",
        "completed",
        play=Script("eager").text(prose(24)).tool_use("get_weather", {"city": "Far Pier"}, chunk=2),
        request={"tools": EAGER},
    ),
    **{
        f"HTTP {status}": Ending(
            f"the provider answers {status} {kind}",
            "server",
            "failed",
            "request_error" if status == 400 else "provider_error",
            kind,
            faults=[F.http_error(status)],
        )
        for status, kind in (
            (400, "invalid_request_error"),
            (429, "rate_limit_error"),
            (500, "api_error"),
            (529, "overloaded_error"),
        )
    },
    "529, then a retry that succeeds": Ending(
        "the first attempt is refused, the second is answered",
        "server",
        "completed",
        faults=[F.http_error(529, retry_after=0.01)],
        retries=1,
    ),
    # --- the application leaves
    "left after the finish reason": _app(
        "the application stops reading once it knows why the model stopped",
        "break_inside",
        "completed",
        NO_FINISH,
        RUNNER_BREAKS,
        faults=[F.hang_after("finish")],
    ),
    "break inside `with`": _app(
        "the loop is left, the `with` closes", "break_inside", "cancelled", NO_WITH, trigger="app_close"
    ),
    "break outside `with`": _app(
        "the loop is left, nobody closes", "break_outside", "abandoned", RUNNER_LATE, RUNNER_HOLDS, trigger="gc"
    ),
    "close()": _app("the application closes the stream", "close", "cancelled", NO_WITH, trigger="app_close"),
    "closed unread": _app(
        "the `with` ends without a read", "close_unread", "cancelled", NO_WITH, trigger="app_close", seen=0
    ),
    "ExitStack": _app("an exit stack closes the stream", "exit_stack", "cancelled", NO_WITH, trigger="app_close"),
    "dropped": _app("the last reference goes", "drop", "abandoned", RUNNER_LATE, RUNNER_HOLDS, trigger="gc"),
    "never read": _app(
        "the stream is opened and dropped", "never_read", "abandoned", trigger="gc", seen=0, closes=False
    ),
    "exception in the loop, with `with`": _app(
        "the application's own exception leaves the `with`", "raise_inside", "caller_error", NO_WITH
    ),
    "exception in the loop, without `with`": _app(
        "the application's own exception; nobody closes",
        "raise_outside",
        "abandoned",
        RUNNER_LATE,
        RUNNER_HOLDS,
        trigger="gc",
    ),
    "opened inside an `except`": _app(
        "another exception is being handled all the time",
        "break_inside_except",
        "cancelled",
        NO_WITH,
        trigger="app_close",
    ),
    "exception inside an `except`": _app(
        "a new exception while another is being handled", "raise_inside_except", "caller_error", NO_WITH
    ),
    "read whole inside an `except`": Ending(
        "another exception is being handled all the time",
        "server",
        "completed",
        do="read_inside_except",
        unlike=(NO_WITH,),
    ),
    "TimeoutError raised in the loop": _app(
        "the application measures its own patience",
        "raise_timeout_inside",
        "cancelled",
        NO_WITH,
        trigger="timeout",
        fault="timeout",
    ),
    "SystemExit in the loop": _app(
        "the program is told to end", "exit_inside", "cancelled", NO_WITH, trigger="shutdown"
    ),
    "generator closed": _app(
        "a generator of the application that holds the `with` is closed",
        "close_generator",
        "cancelled",
        NO_WITH,
        trigger="generator_close",
    ),
    "generator dropped": _app(
        "a generator of the application that holds the `with` is dropped",
        "drop_generator",
        "cancelled",
        NO_WITH,
        trigger="generator_close",
    ),
    "generator without `with` closed": _app(
        "a generator that holds nothing but the loop is closed",
        "close_bare_generator",
        "abandoned",
        RUNNER_LATE,
        RUNNER_HOLDS,
        trigger="gc",
    ),
    "task.cancel()": Ending(
        "the task that reads is cancelled",
        "app",
        "cancelled",
        trigger="task_cancel",
        do="cancel_task",
        faults=SILENT,
        unlike=(ONLY_ASYNC,),
    ),
    "time-out around the `with`": Ending(
        "asyncio's deadline cancels the task",
        "app",
        "cancelled",
        trigger="task_cancel",
        do="deadline_around",
        faults=SILENT,
        unlike=(ONLY_ASYNC,),
    ),
    "time-out inside the `with`": Ending(
        "a TimeoutError leaves the `with`",
        "app",
        "cancelled",
        "timeout",
        trigger="timeout",
        do="deadline_inside",
        faults=SILENT,
        unlike=(ONLY_ASYNC, NO_WITH, NATIVE_ENDED),
    ),
    "anyio deadline around the `with`": Ending(
        "anyio says why it cancels",
        "app",
        "cancelled",
        "timeout",
        trigger="timeout",
        do="anyio_deadline_around",
        faults=SILENT,
        unlike=(ONLY_ASYNC,),
    ),
    "anyio deadline inside the `with`": Ending(
        "anyio says why it cancels",
        "app",
        "cancelled",
        "timeout",
        trigger="timeout",
        do="anyio_deadline_inside",
        faults=SILENT,
        unlike=(ONLY_ASYNC, NO_WITH),
    ),
    "Ctrl-C": Ending(
        "somebody presses Ctrl-C while the stream is read",
        "app",
        "cancelled",
        trigger="shutdown",
        do="ctrl_c",
        faults=SILENT,
        unlike=(ASYNCIO_CANCELS,),
    ),
}


def expected(name: str, shape: Shape) -> tuple[Ending, str]:
    """What is true of `shape`, and why that is another thing, or no cell at all (then the ending is `skip`)."""
    ending = ENDINGS[name]
    found = [unlike for unlike in ending.unlike if unlike.when(shape)][:1]
    found += [unlike for unlike in shape.of.unlikes(name) if unlike.when(shape)]
    for unlike in found:
        ending = replace(ending, **(unlike.changes or {"by": "skip"}))
        if not unlike.changes:
            return ending, unlike.why
    return ending, found[-1].why if found else ""


def script_of(ending: Ending) -> Script:
    """What the simulator plays."""
    if ending.play == "answer":
        return ANSWER
    return script(ending.play) if isinstance(ending.play, str) else ending.play


def shapes(package: str, sdk: tuple[int, ...], native: Sequence[bool]) -> list[Shape]:
    """Every way of reading that this SDK has."""
    return [
        Shape(asynchronous, api.name, reading, with_span, sdk)
        for with_span in native
        for asynchronous in (False, True)
        for api in APIS.values()
        for reading in api.readings
        if api.package == package
    ]
