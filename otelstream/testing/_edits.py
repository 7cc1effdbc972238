# SPDX-License-Identifier: Apache-2.0
"""Change the plan of a reply at a point of it: end it there, put events in, or fall silent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import zip_longest
from typing import Any, Literal

from otelstream.testing._events import Event, ScriptError
from otelstream.testing._plan import Ending, Plan, Step
from otelstream.testing._scripts import Script

Point = int | Literal["request", "headers", "finish"] | None


def index_at(plan: Plan, point: Point, chunks: int | None, events: int | None) -> int:
    """How many steps lie before the point."""
    chunks = point if isinstance(point, int) else chunks
    if sum(given is not None for given in (None if isinstance(point, int) else point, chunks, events)) != 1:
        raise ScriptError("give one point: chunks=, events=, or 'request', 'headers', 'finish'")
    if events is not None or point in {"request", "headers"}:
        found = events or 0
        if found > len(plan.steps):
            raise ScriptError(f"it has only {len(plan.steps)} events")
        return found
    if point == "finish":
        return next(i + 1 for i, step in enumerate(plan.steps) if step.event.kind == "message_delta")
    if chunks is None:
        raise ScriptError(f"no point {point!r}; there are 'request', 'headers' and 'finish'")
    places = [i for i, step in enumerate(plan.steps) if step.event.chunk]
    if chunks > len(places) or (chunks == 0 and not places):
        raise ScriptError(f"it has only {len(places)} chunks")
    return places[chunks - 1] + 1 if chunks else places[0]


def insert(plan: Plan, at: int, events: Iterable[Event]) -> None:
    """Put events before step *at*, at the pace of their neighbours."""
    pause = plan.steps[min(at, len(plan.steps) - 1)].pause
    plan.steps[at:at] = [Step(event, pause) for event in events]


def end_at(plan: Plan, ending: Ending, point: Point, chunks: int | None, events: int | None) -> None:
    at = index_at(plan, point, chunks, events)
    plan.before_headers = point == "request"
    del plan.steps[at:]
    plan.ending = ending


def more(plan: Plan, at: int, texts: Iterable[str]) -> None:
    """Insert deltas like the chunk before step *at* (at the start: like the one after)."""
    nearby = [i for i in (at - 1, at) if 0 <= i < len(plan.steps) and plan.steps[i].event.chunk]
    if not nearby or plan.steps[nearby[0]].event.kind == "redacted_thinking":
        raise ScriptError("no text, thinking or tool input flows at that point")
    model = plan.steps[nearby[0]].event
    payload = model.payload
    key = {"text": "text", "thinking": "thinking"}.get(model.kind, "partial_json")
    if key == "partial_json" and not string_state(input_before(plan, at, payload["index"]))[0]:
        raise ScriptError("the tool input is not inside a string at that point")
    insert(plan, at, [Event.of({**payload, "delta": {**payload["delta"], key: text}}) for text in texts])


def silence(
    seconds: float | None, every: float | None, point: Point, chunks: int | None, events: int | None
) -> Callable[[Plan], None]:
    def apply(plan: Plan) -> None:
        if seconds is None:
            end_at(plan, "hang", point, chunks, events)
            plan.ping_every = every
            return
        at = index_at(plan, point, chunks, events)
        if at == len(plan.steps):
            raise ScriptError("nothing comes after that point")
        plan.steps[at] = replace(plan.steps[at], pause=seconds, ping_every=every)

    return apply


def input_before(plan: Plan, at: int, block: int) -> str:
    payloads = [step.event.payload for step in plan.steps[:at] if step.event.kind == "tool_input"]
    return "".join(payload["delta"]["partial_json"] for payload in payloads if payload["index"] == block)


def string_state(text: str) -> tuple[bool, bool]:
    """Whether a JSON text ends inside a string, and right after a backslash in it."""
    inside = escaped = False
    for char in text:
        if escaped:
            escaped = False
        elif char == '"':
            inside = not inside
        elif inside and char == "\\":
            escaped = True
    return inside, escaped


def last_input(plan: Plan) -> list[int]:
    """The steps that carry the last tool input, empty fragments left out."""
    places = [i for i, step in enumerate(plan.steps) if step.event.kind == "tool_input" and step.event.chars]
    if not places:
        raise ScriptError("it has no tool input")
    block = plan.steps[places[-1]].event.payload["index"]
    return [i for i in places if plan.steps[i].event.payload["index"] == block]


def rewrite(plan: Plan, at: int, change: Callable[[str], str]) -> None:
    payload = plan.steps[at].event.payload
    payload["delta"]["partial_json"] = change(payload["delta"]["partial_json"])
    plan.steps[at] = replace(plan.steps[at], event=Event.of(payload))


def take_turns(plan: Plan) -> None:
    """Open all tool calls at the first of them, then send a fragment of each in turn, then close them."""
    blocks = [step.event.payload for step in plan.steps if step.event.kind == "block_start"]
    calls: dict[int, list[Step]] = {
        block["index"]: [] for block in blocks if block["content_block"]["type"] == "tool_use"
    }
    if len(calls) < 2:
        raise ScriptError("it has no two tool calls")
    rest: list[Step] = []
    for step in plan.steps:
        calls.get(step.event.payload.get("index", -1), rest).append(step)
    heads, ends = [call.pop(0) for call in calls.values()], [call.pop() for call in calls.values()]
    turns = [step for each in zip_longest(*calls.values()) for step in each if step is not None]
    at = plan.steps.index(heads[0])
    plan.steps = [*rest[:at], *heads, *turns, *ends, *rest[at:]]


def finish_at(plan: Plan, at: int, stop_reason: str, close: bool, **delta: Any) -> None:
    """End the reply at step *at* with another finish reason."""
    kept, rest = plan.steps[:at], plan.steps[at:]
    usage = next(step.event.payload["usage"] for step in plan.steps if step.event.kind == "message_delta")
    usage["output_tokens"] = 1 + sum(step.event.chars for step in kept if step.event.chunk) // 4
    opened = [step.event for step in kept if step.event.kind in {"block_start", "redacted_thinking"}]
    stopped = sum(step.event.kind == "block_stop" for step in kept)
    pause = rest[0].pause if rest else 0.0
    if close and len(opened) > stopped:
        kept.append(Step(Event.of({"type": "content_block_stop", "index": opened[-1].payload["index"]}), pause))
    ending = Script("ending").end(stop_reason, usage=usage, **delta).events[1:]
    plan.steps = [*kept, *(Step(event, pause) for event in ending)]
