# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with a reply: each fault alters the plan of one reply before it is played."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, ParamSpec

from otelstream.testing._bundled import loop
from otelstream.testing._edits import (
    Point,
    end_at,
    finish_at,
    index_at,
    input_before,
    insert,
    last_input,
    more,
    rewrite,
    silence,
    string_state,
    take_turns,
)
from otelstream.testing._events import Event, ScriptError
from otelstream.testing._numbers import check
from otelstream.testing._plan import Plan, Step
from otelstream.testing._prose import prose

P = ParamSpec("P")
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
class Fault:
    """A change to a reply, made by the functions of `Faults`; its text says which."""

    text: str
    apply: Callable[[Plan], None] = field(repr=False)

    def __str__(self) -> str:
        return self.text


def _named(make: Callable[P, Callable[[Plan], None]]) -> Callable[P, Fault]:
    """Let *make* return a fault that says how it was called."""

    signature = inspect.signature(make)

    @functools.wraps(make)
    def fault(*args: P.args, **kwargs: P.kwargs) -> Fault:
        with contextlib.suppress(TypeError):  # which the call below raises in its own words
            check(signature.bind(*args, **kwargs).arguments)
        given = [*map(repr, args), *(f"{key}={value!r}" for key, value in kwargs.items())]
        return Fault(f"{make.__name__}({', '.join(given)})", make(*args, **kwargs))

    return fault


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
            end_at(plan, "end", point, chunks, events)
            error = {"details": None, "type": type, "message": message or _MESSAGES.get(type, type)}
            plan.steps.append(Step(Event.of({"type": "error", "error": error})))

        return apply

    @staticmethod
    @_named
    def cut_after(
        point: Point = None, *, chunks: int | None = None, events: int | None = None
    ) -> Callable[[Plan], None]:
        """Close the connection in the middle of the body: the client sees an incomplete read."""
        return lambda plan: end_at(plan, "fin", point, chunks, events)

    @staticmethod
    @_named
    def end_after(
        point: Point = None, *, chunks: int | None = None, events: int | None = None
    ) -> Callable[[Plan], None]:
        """End the body cleanly, but without its last event: nothing raises in the client."""
        return lambda plan: end_at(plan, "end", point, chunks, events)

    @staticmethod
    @_named
    def reset_after(
        point: Point = None, *, chunks: int | None = None, events: int | None = None
    ) -> Callable[[Plan], None]:
        """Reset the connection (RST)."""
        return lambda plan: end_at(plan, "reset", point, chunks, events)

    @staticmethod
    @_named
    def hang_after(
        point: Point = None, *, chunks: int | None = None, events: int | None = None
    ) -> Callable[[Plan], None]:
        """Never send another byte; the connection stays open until the client closes it."""
        return lambda plan: end_at(plan, "hang", point, chunks, events)

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
        return silence(seconds, None, point, chunks, events)

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
        return silence(seconds, every, point, chunks, events)

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

        def apply(plan: Plan) -> None:
            plan.error = {"type": kind, "message": message or _MESSAGES.get(kind, kind)}
            plan.status, plan.body = status, None if body is None else body.encode()
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
        kind: Literal["json", "utf8", "no_data", "unknown", "checksum"] = "json",
    ) -> Callable[[Plan], None]:
        """Put a bad frame there and go on: data that is no JSON, no UTF-8, missing, or of an unknown type.

        A checksum can be wrong where frames have one (Bedrock); elsewhere such a frame is no JSON.
        """
        start = b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"'
        frames = {
            "json": Event("content_block_delta", start),
            "utf8": Event("content_block_delta", start + b'\xff\xfe\xc3("}}'),
            "no_data": Event("content_block_delta", None),
            "checksum": Event("content_block_delta", start + b"\0"),
            "unknown": Event("content_block_hint", b'{"type":"content_block_hint","index":0,"hint":{}}'),
        }
        if kind not in frames:
            raise ScriptError(f"no kind {kind!r} of malformed frame; there are: {', '.join(frames)}")
        return lambda plan: insert(plan, index_at(plan, point, chunks, events), [frames[kind]])

    @staticmethod
    @_named
    def malformed_tool_json(where: Literal["end", "middle"] = "end") -> Callable[[Plan], None]:
        """Make the last tool input no valid JSON: its end is missing, or a string in its middle is broken.

        At a broken middle the SDK's helper raises while it streams; at a missing end nothing does.
        """
        if where not in {"end", "middle"}:
            raise ScriptError(f"malformed_tool_json({where!r}): 'end' or 'middle'")

        def apply(plan: Plan) -> None:
            places = last_input(plan)
            if where == "end":
                rewrite(plan, places[-1], lambda text: text[:-1])
                return
            middle = len(places) // 2
            for at in [*places[middle:], *reversed(places[:middle])]:
                payload = plan.steps[at].event.payload
                before = input_before(plan, at, payload["index"])
                text = payload["delta"]["partial_json"]
                for cut in range(len(text)):
                    # A raw line break inside a string is how unvalidated input really breaks.
                    if string_state(before + text[:cut]) == (True, False):
                        rewrite(plan, at, lambda text, cut=cut: f"{text[:cut]}\n{text[cut:]}")  # type: ignore[misc]
                        return
            rewrite(plan, places[0], lambda text: text[:1] + "!" + text[1:])

        return apply

    @staticmethod
    @_named
    def tool_input_cut_off(share: float = 0.5, *, stop_reason: str = "max_tokens") -> Callable[[Plan], None]:
        """Stop within the last tool input, after that share of its fragments, with this finish reason."""

        def apply(plan: Plan) -> None:
            places = last_input(plan)
            kept = min(max(1, round(share * len(places))), len(places) - 1)
            # The provider leaves the block of a cut input without its stop.
            finish_at(plan, places[kept], stop_reason, close=False)

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
            at = index_at(plan, point, chunks, events)
            if not any(step.event.chunk for step in plan.steps[:at]):
                at = 1
            finish_at(plan, at, "refusal", close=True, stop_details=details)

        return apply

    @staticmethod
    @_named
    def interrupt_after(
        point: Point = None, *, chunks: int | None = None, events: int | None = None, seconds: float = 0.0
    ) -> Callable[[Plan], None]:
        """Say that the user interrupted a session there, and *seconds* later end the request: what it had begun to
        say comes to nothing. Other APIs know of no such event.
        """
        stop = Event.of({"type": "user.interrupt", "id": "sevt_interrupt", "processed_at": None})

        def apply(plan: Plan) -> None:
            at = index_at(plan, point, chunks, events)
            until = next((i for i in range(at, len(plan.steps)) if plan.steps[i].event.kind == "message_delta"), None)
            if until is None:
                raise ScriptError("no message ends after that point")
            plan.steps[until] = replace(plan.steps[until], pause=seconds)
            plan.steps[at:until] = [Step(stop, plan.steps[at].pause)]

        return apply

    @staticmethod
    @_named
    def no_finish() -> Callable[[Plan], None]:
        """Leave out the finish reason, and send the last event all the same."""

        def apply(plan: Plan) -> None:
            plan.steps = [step for step in plan.steps if step.event.kind != "message_delta"]

        return apply

    @staticmethod
    @_named
    def choice_cut_after(
        point: Point = None, *, chunks: int | None = None, events: int | None = None, choice: int = 1
    ) -> Callable[[Plan], None]:
        """Say nothing more of one *choice* there, not even a finish reason, and go on with the others.

        For APIs that give several answers where several are asked for (`n`).
        """

        def apply(plan: Plan) -> None:
            at = index_at(plan, point, chunks, events)
            plan.steps[at:] = [replace(step, event=replace(step.event, without=choice)) for step in plan.steps[at:]]

        return apply

    @staticmethod
    @_named
    def interleave_tools() -> Callable[[Plan], None]:
        """Send a fragment of each tool input in turn, as where calls are told apart by their index."""
        return take_turns

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
        return lambda plan: more(plan, index_at(plan, point, chunks, events), parts)

    @staticmethod
    @_named
    def huge_event_after(
        point: Point = None, *, chunks: int | None = None, events: int | None = None, chars: int = 1_000_000
    ) -> Callable[[Plan], None]:
        """Send one delta of *chars* characters, then go on."""
        return lambda plan: more(plan, index_at(plan, point, chunks, events), [prose(chars)])

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
            plan.split, plan.split_gap = size, gap

        return apply

    @staticmethod
    @_named
    def gzip() -> Callable[[Plan], None]:
        """Compress the body, flushed after every event."""
        return lambda plan: setattr(plan, "gzip", True)
