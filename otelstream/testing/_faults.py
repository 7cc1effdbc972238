# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with a reply: each fault alters the plan of one reply before it is played."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, ParamSpec, TypeVar

from otelstream.testing._bundled import loop, script
from otelstream.testing._prose import prose
from otelstream.testing._scripts import Event, Schedule, Script, ScriptError, to_json

P = ParamSpec("P")
T = TypeVar("T")
Ending = Literal["end", "fin", "reset", "hang"]
Point = int | Literal["request", "headers", "finish"] | None

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_MESSAGES = {
    "overloaded_error": "Overloaded",
    "api_error": "Internal server error",
    "rate_limit_error": "This request would exceed the rate limit.",
}


@dataclass(frozen=True)
class Step:
    """One event, the seconds before it, and how often a ping goes out in them (None: silence)."""

    event: Event
    pause: float = 0.0
    ping_every: float | None = None


@dataclass
class Plan:
    """Everything one reply will do; `ending` is how its connection ends after the last step."""

    script: Script
    steps: list[Step]
    schedule: Schedule
    fault: str = ""
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    headers_pause: float = 0.0
    before_headers: bool = False
    ending: Ending = "end"
    ping_every: float | None = None
    split: int | None = None
    split_gap: float = 0.0
    gzip: bool = False


@dataclass(frozen=True)
class Fault:
    """A change to a reply, made by the functions of `Faults`; its text says which."""

    text: str
    apply: Callable[[Plan], None] = field(repr=False)

    def __str__(self) -> str:
        return self.text


def make_plan(what: str | Script, fault: Fault | str | Iterable[Fault | str] | None, when: Schedule | None) -> Plan:
    """Join script, schedule and faults; faults come last, in order, on events that have their times."""
    played = (script(what) if isinstance(what, str) else what).finished()
    schedule = when or Schedule()
    steps = [Step(event, pause) for event, pause in zip(played.events, schedule.gaps(played.events), strict=True)]
    plan = Plan(played, steps, schedule, headers_pause=schedule.headers, split=schedule.split)
    faults = [fault] if isinstance(fault, (str, Fault)) else list(fault or ())
    each: Fault | None = None
    try:
        for each in [parse_fault(item) if isinstance(item, str) else item for item in faults]:
            each.apply(plan)
    except ScriptError as error:
        raise ScriptError(f"{each} on script {played.name!r}: {error}" if each else str(error)) from None
    plan.fault = ", ".join(map(str, faults))
    return plan


def _named(make: Callable[P, Callable[[Plan], None]]) -> Callable[P, Fault]:
    """Let *make* return a fault that says how it was called."""

    @functools.wraps(make)
    def fault(*args: P.args, **kwargs: P.kwargs) -> Fault:
        given = [*map(repr, args), *(f"{key}={value!r}" for key, value in kwargs.items())]
        return Fault(f"{make.__name__}({', '.join(given)})", make(*args, **kwargs))

    return fault


def _index(plan: Plan, point: Point, chunks: int | None, events: int | None) -> int:
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


def _insert(plan: Plan, at: int, events: Iterable[Event]) -> None:
    """Put events before step *at*, at the pace of their neighbours."""
    pause = plan.steps[min(at, len(plan.steps) - 1)].pause
    plan.steps[at:at] = [Step(event, pause) for event in events]


def _end(plan: Plan, ending: Ending, point: Point, chunks: int | None, events: int | None) -> None:
    at = _index(plan, point, chunks, events)
    plan.before_headers = point == "request"
    del plan.steps[at:]
    plan.ending = ending


def _more(plan: Plan, at: int, texts: Iterable[str]) -> None:
    """Insert deltas like the chunk before step *at* (at the start: like the one after)."""
    nearby = [i for i in (at - 1, at) if 0 <= i < len(plan.steps) and plan.steps[i].event.chunk]
    if not nearby or plan.steps[nearby[0]].event.kind == "redacted_thinking":
        raise ScriptError("no text, thinking or tool input flows at that point")
    model = plan.steps[nearby[0]].event
    payload = model.payload
    key = {"text": "text", "thinking": "thinking"}.get(model.kind, "partial_json")
    if key == "partial_json" and not _string_state(_input_before(plan, at, payload["index"]))[0]:
        raise ScriptError("the tool input is not inside a string at that point")
    _insert(plan, at, [Event.of({**payload, "delta": {**payload["delta"], key: text}}) for text in texts])


def _input_before(plan: Plan, at: int, block: int) -> str:
    payloads = [step.event.payload for step in plan.steps[:at] if step.event.kind == "tool_input"]
    return "".join(payload["delta"]["partial_json"] for payload in payloads if payload["index"] == block)


def _string_state(text: str) -> tuple[bool, bool]:
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


def _last_input(plan: Plan) -> list[int]:
    """The steps that carry the last tool input, empty fragments left out."""
    places = [i for i, step in enumerate(plan.steps) if step.event.kind == "tool_input" and step.event.chars]
    if not places:
        raise ScriptError("it has no tool input")
    block = plan.steps[places[-1]].event.payload["index"]
    return [i for i in places if plan.steps[i].event.payload["index"] == block]


def _rewrite(plan: Plan, at: int, change: Callable[[str], str]) -> None:
    payload = plan.steps[at].event.payload
    payload["delta"]["partial_json"] = change(payload["delta"]["partial_json"])
    plan.steps[at] = replace(plan.steps[at], event=Event.of(payload))


def _finish(plan: Plan, at: int, stop_reason: str, close: bool, **delta: Any) -> None:
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


class Faults:
    """What can go wrong with a reply, to give to `ProviderSimulator.play`.

    The point where it happens is `chunks=n` (after n chunks of output; 0: right before the first),
    `events=n` (after n events), `"request"` (before any byte of the reply), `"headers"` (right after them) or
    `"finish"` (after the finish reason, before the last event). A plain number means chunks.
    """

    @staticmethod
    @_named
    def error_after(
        point: Point = None,
        *,
        chunks: int | None = None,
        events: int | None = None,
        type: str = "overloaded_error",  # noqa: A002 - the provider's word
        message: str | None = None,
    ) -> Callable[[Plan], None]:
        """Send an `error` event, then end the body as the provider does."""
        if point == "request":
            raise ScriptError("error_after('request'): an error event needs a reply; http_error(...) needs none")

        def apply(plan: Plan) -> None:
            _end(plan, "end", point, chunks, events)
            error = {"details": None, "type": type, "message": message or _MESSAGES.get(type, type)}
            plan.steps.append(Step(Event.of({"type": "error", "error": error})))

        return apply

    @staticmethod
    @_named
    def cut_after(
        point: Point = None, *, chunks: int | None = None, events: int | None = None
    ) -> Callable[[Plan], None]:
        """Close the connection in the middle of the body: the client sees an incomplete read."""
        return lambda plan: _end(plan, "fin", point, chunks, events)

    @staticmethod
    @_named
    def end_after(
        point: Point = None, *, chunks: int | None = None, events: int | None = None
    ) -> Callable[[Plan], None]:
        """End the body cleanly, but without its last event: nothing raises in the client."""
        return lambda plan: _end(plan, "end", point, chunks, events)

    @staticmethod
    @_named
    def reset_after(
        point: Point = None, *, chunks: int | None = None, events: int | None = None
    ) -> Callable[[Plan], None]:
        """Reset the connection (RST)."""
        return lambda plan: _end(plan, "reset", point, chunks, events)

    @staticmethod
    @_named
    def hang_after(
        point: Point = None, *, chunks: int | None = None, events: int | None = None
    ) -> Callable[[Plan], None]:
        """Never send another byte; the connection stays open until the client closes it."""
        return lambda plan: _end(plan, "hang", point, chunks, events)

    @staticmethod
    @_named
    def stall_after(
        seconds: float = 3.0,
        *,
        point: Point = None,
        chunks: int | None = None,
        events: int | None = None,
    ) -> Callable[[Plan], None]:
        """Be silent for *seconds*, then go on."""
        return _silence(seconds, None, point, chunks, events)

    @staticmethod
    @_named
    def ping_only_after(
        seconds: float | None = None,
        *,
        every: float = 1.0,
        point: Point = None,
        chunks: int | None = None,
        events: int | None = None,
    ) -> Callable[[Plan], None]:
        """Send nothing but pings, *every* so many seconds, for *seconds* (None: till the client closes)."""
        if every <= 0:
            raise ScriptError(f"every={every}: more than 0 seconds")
        return _silence(seconds, every, point, chunks, events)

    @staticmethod
    @_named
    def http_error(
        status: int = 529,
        *,
        type: str | None = None,  # noqa: A002
        message: str | None = None,
        retry_after: float | None = None,
        body: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Callable[[Plan], None]:
        """Answer with this HTTP status and an error object (or *body* as it is), and no stream at all."""
        kind = type or _ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
        if not 400 <= status <= 599:
            raise ScriptError(f"http_error({status}): a status from 400 to 599")

        def apply(plan: Plan) -> None:
            error = {"type": kind, "message": message or _MESSAGES.get(kind, kind)}
            plan.status = status
            plan.body = (body if body is not None else to_json({"type": "error", "error": error})).encode()
            plan.headers.update(headers or {})
            if retry_after is not None:
                # The SDK reads milliseconds first; whole seconds are what HTTP has.
                milliseconds = str(round(retry_after * 1000))
                plan.headers |= {"retry-after": str(math.ceil(retry_after)), "retry-after-ms": milliseconds}

        return apply

    @staticmethod
    @_named
    def malformed_frame_after(
        point: Point = None,
        *,
        chunks: int | None = None,
        events: int | None = None,
        kind: Literal["json", "utf8", "no_data", "unknown"] = "json",
    ) -> Callable[[Plan], None]:
        """Put a bad frame there and go on: data that is no JSON, no UTF-8, missing, or of an unknown type."""
        start = b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"'
        frames = {
            "json": Event("content_block_delta", start),
            "utf8": Event("content_block_delta", start + b'\xff\xfe\xc3("}}'),
            "no_data": Event("content_block_delta", None),
            "unknown": Event("content_block_hint", b'{"type":"content_block_hint","index":0,"hint":{}}'),
        }
        if kind not in frames:
            raise ScriptError(f"no kind {kind!r} of malformed frame; there are: {', '.join(frames)}")
        return lambda plan: _insert(plan, _index(plan, point, chunks, events), [frames[kind]])

    @staticmethod
    @_named
    def malformed_tool_json(where: Literal["end", "middle"] = "end") -> Callable[[Plan], None]:
        """Make the last tool input no valid JSON: its end is missing, or a string in its middle is broken.

        At a broken middle the SDK's helper raises while it streams; at a missing end nothing does.
        """
        if where not in {"end", "middle"}:
            raise ScriptError(f"malformed_tool_json({where!r}): 'end' or 'middle'")

        def apply(plan: Plan) -> None:
            places = _last_input(plan)
            if where == "end":
                _rewrite(plan, places[-1], lambda text: text[:-1])
                return
            middle = len(places) // 2
            for at in [*places[middle:], *reversed(places[:middle])]:
                payload = plan.steps[at].event.payload
                before = _input_before(plan, at, payload["index"])
                text = payload["delta"]["partial_json"]
                for cut in range(len(text)):
                    # A raw line break inside a string is how unvalidated input really breaks.
                    if _string_state(before + text[:cut]) == (True, False):
                        _rewrite(plan, at, lambda text, cut=cut: f"{text[:cut]}\n{text[cut:]}")  # type: ignore[misc]
                        return
            _rewrite(plan, places[0], lambda text: text[:1] + "!" + text[1:])

        return apply

    @staticmethod
    @_named
    def tool_input_cut_off(share: float = 0.5, *, stop_reason: str = "max_tokens") -> Callable[[Plan], None]:
        """Stop within the last tool input, after that share of its fragments, with this finish reason."""

        def apply(plan: Plan) -> None:
            places = _last_input(plan)
            kept = min(max(1, round(share * len(places))), len(places) - 1)
            # The provider leaves the block of a cut input without its stop.
            _finish(plan, places[kept], stop_reason, close=False)

        return apply

    @staticmethod
    @_named
    def refuse_after(
        point: Point = None,
        *,
        chunks: int | None = None,
        events: int | None = None,
        category: str | None = None,
    ) -> Callable[[Plan], None]:
        """Stop there and finish with `refusal`; before the first chunk there is no content block at all."""
        details = {"type": "refusal", "category": category, "explanation": None}

        def apply(plan: Plan) -> None:
            at = _index(plan, point, chunks, events)
            if not any(step.event.chunk for step in plan.steps[:at]):
                at = 1
            _finish(plan, at, "refusal", close=True, stop_details=details)

        return apply

    @staticmethod
    @_named
    def repeat_after(
        point: Point = None,
        *,
        chunks: int | None = None,
        events: int | None = None,
        period: int = 48,
        copies: float = 40,
        chunk: int = 12,
    ) -> Callable[[Plan], None]:
        """Fall into a loop: *copies* of a unit of *period* characters, in deltas of *chunk*, then go on."""
        text = loop(period, copies)
        parts = [text[i : i + chunk] for i in range(0, len(text), chunk)]
        return lambda plan: _more(plan, _index(plan, point, chunks, events), parts)

    @staticmethod
    @_named
    def huge_event_after(
        point: Point = None, *, chunks: int | None = None, events: int | None = None, chars: int = 1_000_000
    ) -> Callable[[Plan], None]:
        """Send one delta of *chars* characters, then go on."""
        return lambda plan: _more(plan, _index(plan, point, chunks, events), [prose(chars)])

    @staticmethod
    @_named
    def slow_headers(seconds: float = 3.0) -> Callable[[Plan], None]:
        """Wait *seconds* before the status line."""
        return lambda plan: setattr(plan, "headers_pause", plan.headers_pause + seconds)

    @staticmethod
    @_named
    def dribble(size: int = 1, *, gap: float = 0.0) -> Callable[[Plan], None]:
        """Send the body in writes of *size* bytes, *gap* seconds apart."""

        def apply(plan: Plan) -> None:
            plan.split, plan.split_gap = max(1, size), gap

        return apply

    @staticmethod
    @_named
    def gzip() -> Callable[[Plan], None]:
        """Compress the body, flushed after every event."""
        return lambda plan: setattr(plan, "gzip", True)


def _silence(
    seconds: float | None, every: float | None, point: Point, chunks: int | None, events: int | None
) -> Callable[[Plan], None]:
    def apply(plan: Plan) -> None:
        if seconds is None:
            _end(plan, "hang", point, chunks, events)
            plan.ping_every = every
            return
        at = _index(plan, point, chunks, events)
        if at == len(plan.steps):
            raise ScriptError("nothing comes after that point")
        plan.steps[at] = replace(plan.steps[at], pause=seconds, ping_every=every)

    return apply


def fault_names() -> list[str]:
    """The names of all faults."""
    return sorted(name for name in vars(Faults) if not name.startswith("_"))


def parse_fault(text: str) -> Fault:
    """Read a fault from text: `cut_after=chunks:40`, `http_error=529,retry_after:0.1`, `gzip`."""
    name, _, given = text.strip().partition("=")
    if name not in fault_names():
        raise ScriptError(f"no fault {name!r}; there are: {', '.join(fault_names())}")
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in given.split(","))):
        key, colon, value = part.partition(":")
        if colon:
            kwargs[key] = _value(value)
        else:
            args.append(_value(part))
    try:
        fault: Fault = getattr(Faults, name)(*args, **kwargs)
    except (TypeError, ValueError) as error:
        raise ScriptError(f"fault {text.strip()!r}: {str(error).removeprefix(f'Faults.{name}() ')}") from None
    return fault


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def parse_play(text: str) -> tuple[str, list[Fault], Schedule]:
    """Read the control header: `text_long; cut_after=chunks:40; gap=0.01`; every part may be left out."""
    name, faults = "text_short", []
    times: dict[str, Any] = {}
    for i, part in enumerate(filter(None, (part.strip() for part in text.split(";")))):
        key, equals, value = part.partition("=")
        if key in {"headers", "first", "gap", "jitter", "seed", "coalesce", "split"} and equals:
            number = _value(value)
            if not isinstance(number, (int, float)):
                raise ScriptError(f"{part!r}: {key} is a number")
            times[key] = number
        elif i == 0 and not equals and key not in fault_names():
            name = key
        else:
            faults.append(parse_fault(part))
    return name, faults, Schedule(**times)
