# SPDX-License-Identifier: Apache-2.0
"""What each provider's events say, event by event: the facts that a grammar tells, and nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from otelstream import _semconv as s
from otelstream._core.record import facts as f
from otelstream._core.record import looplag
from otelstream._core.record.grammar import Shape
from otelstream._core.record.looplag import INTERVAL, Heartbeat, heartbeat
from otelstream.anthropic import _grammar as messages
from otelstream.openai import _chat as chat
from otelstream.openai import _responses as responses


def facts(grammar: Any, *events: Any, name: str | None = None) -> list[f.Fact]:
    """Everything that a grammar says of these events, one after the other."""
    said: list[f.Fact] = []
    for event in events:
        said += grammar.structural(name, event if isinstance(event, str) else json.dumps(event))
    return said


# --- chat completions -------------------------------------------------------------------------------------


def of(delta: Any = None, index: Any = 0, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": delta or {}, **more}]}


def visible(key: object, field: str, text: str, index: int = 0) -> f.Delta:
    return f.Delta((index, key), field, text, "text", visible=True)


CHAT: list[tuple[Any, list[f.Fact]]] = [
    ({"id": "c1", "model": "m", "choices": []}, [f.Identity("c1", "m")]),
    ({"id": 7, "choices": []}, [f.Identity(None, None)]),
    (of({"content": "a"}), [visible("content", "content", "a")]),
    (of({"content": "a"}, index=3), [visible("content", "content", "a", 3)]),
    (of({"content": "a"}, index="x"), [visible("content", "content", "a")]),
    (of({"content": ""}), []),
    (of({"content": None}), []),
    (of({"refusal": "no"}), [f.Refusal(), visible("refusal", "refusal", "no")]),
    *(
        (of({word: "hm"}), [f.Delta((0, word), word, "hm", "thinking", False)])
        for word in ("reasoning_content", "reasoning", "thinking")
    ),
    (of({"reasoning": ["hm"]}), []),
    (
        of({"content": [{"text": "a"}, {"text": ""}, {"thinking": [{"text": "hm"}, {"text": 1}]}, "b"]}),
        [visible("content", "text", "a"), f.Delta((0, "thinking"), "text", "hm", "thinking", False)],
    ),
    (of({"audio": {"transcript": "aloud"}}), [visible("audio", "transcript", "aloud")]),
    (of({"audio": {"transcript": ""}}), []),
    ({"choices": [{"index": 1, "text": "old"}]}, [visible("text", "text", "old", 1)]),
    ({"choices": [{"text": ""}, {"text": 4}, "x"]}, []),
    (of(finish_reason="eos"), [f.Finish(0, "stop", "eos")]),
    (of(finish_reason="odd\n"), [f.Finish(0, "odd?", "odd\n")]),
    (of(finish_reason=""), []),
    (of(finish_reason=3), []),
    (of({"function_call": {"name": "go"}}), [f.Opened((0, "function_call"), "tool_input", tool=("go", ""))]),
    (
        of({"tool_calls": [{"index": 2, "id": "t", "function": {"name": "go", "arguments": "{"}}]}),
        [f.Opened((0, 2), "tool_input", tool=("go", "t")), f.Delta((0, 2), "arguments", "{")],
    ),
    (
        of({"tool_calls": [{"function": {"name": "go", "arguments": {"a": 1}}}, {"function": {"arguments": {}}}]}),
        [f.Opened((0, 0), "tool_input", tool=("go", "")), f.Delta((0, 0), "arguments", '{"a": 1}')],
    ),
    (
        {
            "choices": [],
            "usage": {"prompt_tokens": 0, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 2}},
        },
        [f.Usage({s.INPUT_TOKENS: 0, s.OUTPUT_TOKENS: 5, s.CACHE_READ_TOKENS: 2})],
    ),
    (
        {
            "usage": {
                "prompt_tokens": True,
                "completion_tokens": -1,
                "completion_tokens_details": {"reasoning_tokens": 1 << 53},
            }
        },
        [f.Usage({})],
    ),
    ({"x_groq": {"usage": {"prompt_tokens": 1}}}, [f.Usage({s.INPUT_TOKENS: 1})]),
    ({"error": {"type": "overloaded"}}, [f.Failed("overloaded")]),
    ({"error": {"code": 503}}, [f.Failed("503")]),
    ({"error": {"type": "error"}}, [f.Failed("api_error")]),
    ({"error": {"type": "error", "code": "busy"}}, [f.Failed("busy")]),
    ({"error": {"type": ["x"]}}, [f.Failed("api_error")]),
    ({"error": "out"}, [f.Failed("api_error")]),
    ("[DONE]", [f.Terminal()]),
    ("[1]", []),
]


@pytest.mark.parametrize(("event", "said"), CHAT, ids=[str(number) for number in range(len(CHAT))])
def test_a_chunk_of_a_chat(event: Any, said: list[f.Fact]) -> None:
    """A chunk of a chat completion says this, and nothing else."""
    assert facts(chat.Grammar(), event) == said


def test_a_chat_that_goes_on() -> None:
    """Who answers is said once; calls are closed by the next of their choice, by its end, once, and taken up again."""
    begun = of({"tool_calls": [{"index": 0, "id": "t0", "function": {"name": "one"}}]}) | {"id": "c", "model": "m"}
    other = of({"tool_calls": [{"index": 0, "id": "u0", "function": {"name": "else"}}]}, index=1) | {"id": "c"}
    second = of({"tool_calls": [{"index": 1, "id": "t1", "function": {"name": "two"}}]})
    more = of({"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]})

    said = facts(chat.Grammar(), begun, other, second, more, *[of(finish_reason="tool_calls")] * 2)

    assert said == [
        f.Identity("c", "m"),
        f.Opened((0, 0), "tool_input", tool=("one", "t0")),
        f.Opened((1, 0), "tool_input", tool=("else", "u0")),
        f.Closed((0, 0), inferred=True),
        f.Opened((0, 1), "tool_input", tool=("two", "t1")),
        f.Delta((0, 0), "arguments", "}"),
        f.Closed((0, 0), inferred=True),
        f.Closed((0, 1), inferred=True),
        f.Finish(0, "tool_calls", "tool_calls"),
    ]


def test_an_error_by_its_name() -> None:
    """An event named `error` is one, whatever it holds."""
    assert facts(chat.Grammar(), {"code": "busy"}, name="error") == [f.Failed("busy")]


@pytest.mark.parametrize(
    ("chunk", "shape"),
    [
        ('{"a":"TEXT","finish_reason":null}', Shape('{"a":"', ends=',"finish_reason":null}')),
        ('{"a":"TEXT","n":1,"obfuscation":"xyz"}', Shape('{"a":"', within=',"n":1,')),
        ('{"a":"TEXT","finish_reason":"stop"}', Shape()),
    ],
)
def test_what_a_chunk_looks_like(chunk: str, shape: Shape) -> None:
    """A mere delta differs from the one before in its text and its padding; one with a finish reason is none."""
    grammar = chat.Grammar()
    grammar.learned('{"a":"', chunk)
    assert grammar.shape == shape

    grammar.learned("", "")
    assert grammar.shape == Shape()


# --- responses --------------------------------------------------------------------------------------------


def answered(kind: str, **response: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", "response": response}


def item(kind: str, done: bool = False, **more: Any) -> dict[str, Any]:
    name = "done" if done else "added"
    return {"type": f"response.output_item.{name}", "output_index": 1, "item": {"type": kind, **more}}


def part(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", "output_index": 2, "content_index": 1, **more}


OPENED = f.Opened((0, 1), "tool_input", tool=("go", "c1"))
RESPONSES: list[tuple[Sequence[Any], list[f.Fact]]] = [
    ([part("output_text.delta", delta="a")], [f.Delta((0, "2.1"), "delta", "a", "text", True, "sequence_number")]),
    ([part("output_text.delta", delta="")], []),
    ([part("output_text.delta", delta=1)], []),
    (
        [part("refusal.delta", delta="no")],
        [f.Refusal(), f.Delta((0, "2.1"), "delta", "no", "text", True, "sequence_number")],
    ),
    (
        [{"type": "response.reasoning_summary_text.delta", "output_index": "x", "summary_index": 4, "delta": "hm"}],
        [f.Delta((0, "0.4"), "delta", "hm", "thinking", False, "sequence_number")],
    ),
    (
        [part("function_call_arguments.delta", delta="{")],
        [f.Delta((0, 2), "delta", "{", "other", False, "sequence_number")],
    ),
    ([part("output_text.done")], [f.Closed((0, "2.1"))]),
    ([item("function_call", name="go", call_id="c1"), item("function_call", done=True)], [OPENED, f.Closed((0, 1))]),
    ([item("custom_tool_call", name="go", id="c1")], [OPENED]),
    ([item("function_call", done=True)], [f.Closed((0, 1))]),
    ([item("web_search_call")], [f.Opened((0, 1), "other", server_tool=True)]),
    ([item("message")], [f.Opened((0, 1), "other", server_tool=False)]),
    ([item("message", done=True)], [f.Closed((0, 1))]),
    ([{"type": "response.output_item.added", "item": None}], []),
    ([{"type": "keepalive"}, {"type": "ping"}], [f.Ping(), f.Ping()]),
    ([{"type": "error", "code": "busy"}], [f.Failed("busy")]),
    ([{"type": "error", "error": {"type": "server_error"}}], [f.Failed("server_error")]),
    ([answered("created", id="r1", model="m"), answered("in_progress", id="r1")], [f.Identity("r1", "m")]),
    ([answered("created", id=5)], [f.Identity(None, None)]),
    (
        [answered("completed", usage={"input_tokens": 3, "output_tokens": 4})],
        [f.Usage({s.INPUT_TOKENS: 3, s.OUTPUT_TOKENS: 4}), f.Finish(0, "stop", "completed"), f.Terminal()],
    ),
    (
        [item("function_call", name="go", call_id="c1"), answered("completed")],
        [OPENED, f.Finish(0, "tool_calls", "completed"), f.Terminal()],
    ),
    ([answered("failed", error={"code": "rate_limit"})], [f.Failed("rate_limit")]),
    ([answered("failed")], [f.Failed("api_error")]),
    (
        [answered("incomplete", incomplete_details={"reason": "max_output_tokens"})],
        [f.Finish(0, "length", "max_output_tokens"), f.Terminal()],
    ),
    ([answered("incomplete")], [f.Finish(0, "incomplete", "incomplete"), f.Terminal()]),
    (
        [answered("incomplete", incomplete_details={"reason": "odd\n"})],
        [f.Finish(0, "odd?", "odd\n"), f.Terminal()],
    ),
    ([answered("cancelled")], [f.Failed("cancelled")]),
    (["[DONE]", "[]", {"type": 3}, {"type": "response.other"}], []),
]


@pytest.mark.parametrize(("events", "said"), RESPONSES, ids=[str(number) for number in range(len(RESPONSES))])
def test_events_of_a_response(events: Sequence[Any], said: list[f.Fact]) -> None:
    """Events of the Responses API say this, and nothing else."""
    assert facts(responses.Grammar(), *events) == said


# --- messages ---------------------------------------------------------------------------------------------


def block(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": 1, "content_block": {"type": kind, **more}}


MESSAGES: list[tuple[Any, list[f.Fact]]] = [
    (block("text", text="ab"), [f.Opened((0, 1), "text", visible=True, whole=2, text="ab")]),
    (block("text", text=""), [f.Opened((0, 1), "text", visible=True)]),
    (block("thinking", thinking="hmm"), [f.Opened((0, 1), "thinking", whole=3)]),
    (block("redacted_thinking"), [f.Opened((0, 1), "thinking", whole=0)]),
    (block("compaction"), [f.Opened((0, 1), "other")]),
    (block("fallback", to={"model": "other"}), [f.Identity(None, "other"), f.Opened((0, 1), "other")]),
    (block("web_search_tool_result"), [f.Opened((0, 1), "other", whole=0)]),
    (block("tool_use", name="go", id="t"), [f.Opened((0, 1), "tool_input", tool=("go", "t"))]),
    (block("tool_use", name="go"), [f.Opened((0, 1), "tool_input", tool=("go", ""))]),
    (block("server_tool_use", name="go", id="t"), [f.Opened((0, 1), "tool_input", server_tool=True)]),
    (block("mcp_tool_use", name="go", id="t"), [f.Opened((0, 1), "tool_input", server_tool=True)]),
    ({"type": "content_block_stop", "index": 1}, [f.Closed((0, 1))]),
    ({"type": "content_block_stop", "index": []}, [f.Closed((0, None))]),
    (
        {"type": "content_block_delta", "index": "a", "delta": {"type": "compaction_delta", "content": "x"}},
        [f.Delta((0, "a"), "content", "x")],
    ),
    ({"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "x"}}, []),
    ({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": ""}}, []),
    ({"type": "content_block_delta", "index": 0, "delta": 3}, []),
    ({"type": "message_stop"}, [f.Terminal()]),
    ({"type": "error", "error": {"type": "overloaded_error"}}, [f.Failed("overloaded_error")]),
    ({"type": "error", "error": {"type": 3}}, [f.Failed("api_error")]),
    ({"type": "error", "error": "overloaded"}, [f.Failed("api_error")]),
    ({"type": ["error"]}, []),
    ([1], []),
    (
        {
            "type": "message_delta",
            "delta": {"stop_reason": "odd\n"},
            "usage": {"output_tokens": 0, "input_tokens": True},
        },
        [f.Usage({s.OUTPUT_TOKENS: 0}), f.Finish(0, "odd?", "odd\n")],
    ),
    ({"type": "message_delta", "delta": {"stop_reason": None}}, [f.Usage({})]),
]


@pytest.mark.parametrize(("event", "said"), MESSAGES, ids=[str(number) for number in range(len(MESSAGES))])
def test_an_event_of_a_message(event: Any, said: list[f.Fact]) -> None:
    """An event of a message stream says this, and nothing else."""
    assert facts(messages.Grammar(), event, name="") == said


def test_tokens_of_a_message() -> None:
    """Cached tokens are input too; output counts once `message_delta` says it; what is no count is left out."""
    first = {"input_tokens": 3, "cache_read_input_tokens": 10, "cache_creation_input_tokens": 100, "output_tokens": 1}
    grammar = messages.Grammar()

    assert facts(
        grammar, {"type": "message_start", "message": {"id": "m1", "model": "m", "usage": first}}, name=""
    ) == [
        f.Usage({s.INPUT_TOKENS: 113, s.CACHE_READ_TOKENS: 10, s.CACHE_WRITE_TOKENS: 100}),
        f.Restarted(),
        f.Identity("m1", "m"),
    ]
    said = {"output_tokens": 7, "input_tokens": -1, "cache_read_input_tokens": 1 << 53}
    assert facts(grammar, {"type": "message_delta", "usage": said}, name="") == [
        f.Usage({s.INPUT_TOKENS: 113, s.CACHE_READ_TOKENS: 10, s.CACHE_WRITE_TOKENS: 100, s.OUTPUT_TOKENS: 7})
    ]


@pytest.mark.parametrize(
    ("name", "known"), [("ping", False), ("error", True), ("message_stop", True), ("else", False), (None, False)]
)
def test_which_events_are_known(name: str | None, known: bool) -> None:
    """An event that no SDK reads may make no sense."""
    assert messages.Grammar().is_known(name) is known
    assert facts(messages.Grammar(), {"type": "message_stop"}, name="else") == []
    assert facts(messages.Grammar(), "", name="ping") == [f.Ping()]


# --- the loop ---------------------------------------------------------------------------------------------


class Loop:
    """An event loop that runs when the test says so."""

    def __init__(self) -> None:
        self.timers: list[Callable[[], object]] = []
        self.closed = False

    def is_closed(self) -> bool:
        return self.closed

    def call_later(self, delay: float, beat: Callable[[], object], context: object) -> None:
        assert delay == INTERVAL
        self.timers.append(beat)


class Reading:
    ending: object = None


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    at = [100.0]
    monkeypatch.setattr(looplag.time, "perf_counter", lambda: at[0])
    return at


def test_a_heart_beats_while_somebody_reads(now: list[float]) -> None:
    """One timer at a time, from the first reader till none is left; late beats are kept with when and how late."""
    loop, stream = Loop(), Reading()
    heart = Heartbeat(loop)  # type: ignore[arg-type]
    heart.read_by(stream)
    heart.read_by(Reading())
    assert len(loop.timers) == 1

    now[0] += 3.0  # blocked
    assert heart.lag(101.0, 103.0) == pytest.approx(2.0)  # a beat is overdue: all of that time
    assert heart.lag(100.0, 100.2) == 0.0
    loop.timers.pop()()
    assert len(loop.timers) == 1
    assert heart.lag(100.0, 102.0) == pytest.approx(2.0 - INTERVAL)  # from when it was due
    assert heart.lag(101.0, 101.5) == pytest.approx(0.5)
    assert heart.lag(103.0, 103.1) == 0.0

    now[0] += INTERVAL * 1.5  # hardly late
    loop.timers.pop()()
    assert len(heart._late) == 1
    stream.ending = "over"
    now[0] += INTERVAL
    loop.timers.pop()()
    assert loop.timers == []
    heart.read_by(Reading())
    assert len(loop.timers) == 1


def test_a_closed_loop_has_no_heart(now: list[float]) -> None:
    """Nothing is scheduled on a loop that is closed."""
    loop = Loop()
    loop.closed = True
    Heartbeat(loop).read_by(Reading())  # type: ignore[arg-type]
    assert loop.timers == []


def test_one_heart_a_loop() -> None:
    """Who reads on the same loop shares its heart; outside of any there is none."""

    async def both() -> bool:
        return heartbeat() is heartbeat() is not None

    assert asyncio.run(both())
    assert heartbeat() is None
