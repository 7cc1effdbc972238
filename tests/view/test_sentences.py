# SPDX-License-Identifier: Apache-2.0
"""The sentence of each way to end, and the headline over many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest

from otelstream import _semconv as names
from otelstream.view._sentences import headline, seconds, sentence
from otelstream.view._timeline import Timeline

MakeLine = Callable[..., Timeline]
NOTHING: dict[str, Any] = {"first_chunk": None, "first_token": None, "chars": 0}

GOLDEN: list[tuple[dict[str, Any], str]] = [
    ({}, "Complete: 400 characters, the first after 0.50 s."),
    ({"chars": 1, "first_token": 12.3}, "Complete: 1 character, the first after 12.3 s."),
    ({"chars": 12345}, "Complete: 12,345 characters, the first after 0.50 s."),
    (NOTHING, "Complete: nothing to show."),
    (
        {"tools": [(3.9, "search", "valid")], "reason": "tool_use"},
        "Complete: 400 characters, then asks for search.",
    ),
    (
        {"tools": [(3.9, "search", "valid"), (3.95, "book", "valid")], "reason": "tool_use", "chars": 0},
        "Complete: asks for search, book.",
    ),
    (
        {"stalls": [(3.5, 3.0, "provider")]},
        "Complete, but froze for 3.0 s: the provider was silent.",
    ),
    (
        {"stalls": [(3.5, 2.5, "consumer")]},
        "Complete, but froze for 2.5 s: the application did not read.",
    ),
    (
        {"stalls": [(3.5, 2.5, "provider"), (9, 4, "provider")], "length": 10},
        "Complete, but froze 2 times, 6.5 s in all.",
    ),
    (
        {"fault": "malformed_tool_call", "tools": [(2, "book", "invalid")]},
        "Ended as if well, but book's input is no valid JSON.",
    ),
    (
        {"fault": "repetition", "loop": (2.0, 48, 37.6, 0, 1800)},
        "Complete, but in a loop: 38 copies of 48 characters.",
    ),
    ({"attempts": 2, "last_attempt": 1.1}, "Complete on attempt 2, 1.1 s late: 400 characters."),
    ({"outcome": "truncated", "reason": "max_tokens"}, "Cut off by max_tokens after 400 characters."),
    (
        {"outcome": "truncated", "reason": "max_tokens", "kind": "thinking", "first_token": None, "chars": 0},
        "Cut off by max_tokens before anything was shown.",
    ),
    (
        {
            "outcome": "truncated",
            "fault": "tool_call_cut_off",
            "reason": "max_tokens",
            "tools": [(2, "book", "incomplete")],
        },
        "Cut off by max_tokens inside book's input: it cannot run.",
    ),
    (
        {
            "outcome": "truncated",
            "fault": "repetition",
            "reason": "max_tokens",
            "loop": (2, 48, 38, 0, 1800),
        },
        "Cut off by max_tokens, in a loop: 38 copies of 48 characters.",
    ),
    (
        {"outcome": "refused", "fault": "content_filter", "reason": "refusal"},
        "Refused after 400 characters had been shown.",
    ),
    ({"outcome": "refused", "reason": "refusal", **NOTHING}, "Refused before anything was shown."),
    (
        {
            "outcome": "failed",
            "phase": "before_response",
            "fault": "provider_error",
            "error": "overloaded_error",
            **NOTHING,
        },
        "Failed before any answer: the provider said overloaded_error.",
    ),
    (
        {
            "outcome": "failed",
            "phase": "before_response",
            "fault": "request_error",
            "error": "invalid_request_error",
            **NOTHING,
        },
        "Rejected before any answer: invalid_request_error.",
    ),
    (
        {"outcome": "failed", "phase": "mid_stream", "fault": "provider_error", "error": "overloaded_error"},
        "Failed after 400 characters: the provider said overloaded_error.",
    ),
    (
        {"outcome": "failed", "phase": "mid_stream", "fault": "connection_lost"},
        "Failed after 400 characters: the connection broke.",
    ),
    (
        {"outcome": "failed", "phase": "before_first_token", "fault": "connection_lost", **NOTHING},
        "Failed before the first token: the connection broke.",
    ),
    (
        {
            "outcome": "failed",
            "phase": "before_first_token",
            "fault": "cut_short",
            "kind": "thinking",
            "first_token": None,
            "chars": 0,
        },
        "Cut short while still thinking: the body just ended, no error.",
    ),
    (
        {"outcome": "failed", "phase": "finished", "fault": "cut_short"},
        "Cut short after its finish reason: the body just ended, no error.",
    ),
    (
        {"outcome": "failed", "phase": "before_response", "fault": "timeout", "length": 5.0, **NOTHING},
        "Timed out before any answer, at 5.0 s.",
    ),
    (
        {
            "outcome": "failed",
            "phase": "mid_stream",
            "fault": "malformed_tool_call",
            "tools": [(2, "book", "invalid")],
            "chars": 0,
        },
        "Failed inside a tool's input: book's input is no valid JSON.",
    ),
    (
        {"outcome": "failed", "phase": "mid_stream", "fault": "protocol_error"},
        "Failed after 400 characters: what arrived could not be read.",
    ),
    (
        {"outcome": "cancelled", "phase": "mid_stream", "trigger": "app_close", "propagation": "closed"},
        "Stopped after 400 characters: the application closed it.",
    ),
    (
        {
            "outcome": "cancelled",
            "phase": "mid_stream",
            "trigger": "user_stop",
            "asked": 3.9,
            "propagation": "closed",
            names.CANCEL_CLOSE_DELAY: 0.1,
        },
        "Stopped after 400 characters: the user pressed Stop; closed 0.10 s later.",
    ),
    (
        {
            "outcome": "cancelled",
            "phase": "mid_stream",
            "trigger": "user_stop",
            "propagation": "closed_late",
            names.CANCEL_CLOSE_DELAY: 1.5,
        },
        "Stopped after 400 characters: the user pressed Stop; the provider was told 1.5 s late.",
    ),
    (
        {
            "outcome": "cancelled",
            "phase": "mid_stream",
            "fault": "stalled",
            "trigger": "task_cancel",
            "last_chunk": 1.0,
            "length": 14.0,
            "propagation": "closed",
        },
        "Given up on after 13.0 s of silence, after 400 characters.",
    ),
    (
        {"outcome": "caller_error", "phase": "mid_stream"},
        "Lost after 400 characters to the application's own error.",
    ),
    (
        {"outcome": "abandoned", "phase": "mid_stream", "trigger": "gc"},
        "Dropped after 400 characters, never closed.",
    ),
    (
        {"outcome": "abandoned", "phase": "before_first_token", "trigger": "gc", **NOTHING},
        "Dropped without being read.",
    ),
    (
        {"outcome": "abandoned", "phase": "mid_stream", "trigger": "shutdown"},
        "Left open after 400 characters when the program ended.",
    ),
]


@pytest.mark.parametrize(("said", "expected"), GOLDEN, ids=lambda value: str(value)[:60])
def test_each_way_to_end_has_its_sentence(make_line: MakeLine, said: dict[str, Any], expected: str) -> None:
    """What a span says is told in one sentence, always the same."""
    assert expected == sentence(make_line(**said))


@pytest.mark.parametrize("outcome", get_args(names.Outcome))
@pytest.mark.parametrize("phase", get_args(names.Phase))
def test_every_combination_has_one_short_sentence(make_line: MakeLine, outcome: str, phase: str) -> None:
    """No outcome, phase, fault, trigger or propagation leaves a sentence empty, open or too long."""
    for fault in get_args(names.Fault):
        for trigger in ("", *get_args(names.Trigger)):
            for propagation in ("", *get_args(names.Propagation)):
                said = sentence(
                    make_line(
                        outcome=outcome,
                        phase=phase,
                        fault=fault,
                        trigger=trigger,
                        propagation=propagation,
                        reason="refusal",
                    )
                )

                assert said.endswith(".")
                assert 10 < len(said) <= 100
                assert "{" not in said
                assert "_" not in said or fault in {"request_error", "provider_error"}


def test_headline_counts_what_failed_after_it_said_200(make_line: MakeLine) -> None:
    """Said 200: a status line arrived; failed after it: the span's own bool. Open streams do not count."""
    lines = [
        make_line(),
        make_line(outcome="failed", phase="mid_stream", fault="cut_short"),
        make_line(outcome="refused", fault="content_filter"),
        make_line(outcome="failed", phase="before_response", fault="provider_error"),
        make_line(outcome="cancelled", phase="mid_stream", trigger="app_close"),
    ]

    assert str(headline(lines)) == "4 said 200, 2 of those failed after it."
    assert str(headline(lines[:1])) == "1 said 200, and none of those failed after it."
    assert str(headline(lines[3:4])) == "It never said 200."
    assert str(headline([])) == "No stream yet."


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.004, "4 ms"),
        (0.0999, "100 ms"),
        (0.84, "0.84 s"),
        (3, "3.0 s"),
        (99.94, "99.9 s"),
        (125, "2 min 5 s"),
    ],
)
def test_durations_read_as_people_write_them(value: float, expected: str) -> None:
    """Milliseconds, then two digits, then one, then minutes."""
    assert expected == seconds(value)
