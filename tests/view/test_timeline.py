# SPDX-License-Identifier: Apache-2.0
"""From a received span to a timeline."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from otelstream import _semconv as names
from otelstream.view._record import SpanRecord
from otelstream.view._timeline import Timeline, timeline

from .conftest import START, MakeSpan, stream_span

MakeLine = Callable[..., Timeline]


def test_a_record_survives_a_line_of_json(make_span: MakeSpan) -> None:
    """What another process spooled is drawn exactly as what this one received."""
    attributes, events, length = stream_span(tools=[(3, 'na"me\n', "valid")], stalls=[(3, 2.2, "provider")])
    attributes[names.FINISH_REASONS] = ["end_turn"]
    record = SpanRecord.from_span(make_span(attributes, events, length))

    line = record.to_json()

    assert "\n" not in line
    assert SpanRecord.from_json(line) == record
    assert SpanRecord.from_json(line.encode()) == record


def test_chunks_are_spread_over_what_stalls_leave(make_line: MakeLine) -> None:
    """No chunk is drawn inside a hole, and none is lost."""
    line = make_line(length=7.0, stalls=[(5.0, 3.0, "provider")], chunks=40)

    assert [(flow.start, flow.end) for flow in line.flows] == [(0.5, 2.0), (5.0, 7.0)]
    assert sum(flow.chunks for flow in line.flows) == pytest.approx(40)


def test_thinking_lasts_until_the_first_token(make_line: MakeLine) -> None:
    """What streams before the first visible token is marked apart where it began as thinking."""
    line = make_line(kind="thinking", first_token=2.0, length=4.0)

    assert [(flow.end, flow.thinking) for flow in line.flows] == [(2.0, True), (4.0, False)]


def test_thinking_alone_never_turns_visible(make_line: MakeLine) -> None:
    """Without a first token all of it was thinking."""
    line = make_line(outcome="truncated", kind="thinking", first_token=None, chars=0)

    assert all(flow.thinking for flow in line.flows)


def test_length_is_the_last_activity_not_the_finalisers_time(make_span: MakeSpan) -> None:
    """A dropped stream whose span ended at a late collection is as long as it was active."""
    attributes, events, _ = stream_span(outcome="abandoned", phase="mid_stream", length=1.2)

    line = timeline(SpanRecord.from_span(make_span(attributes, events, length=30.0)))

    assert line.length == pytest.approx(1.2)


def test_what_the_application_did_later_does_not_lengthen_a_stream(make_span: MakeSpan) -> None:
    """A retraction after the end is no part of the stream."""
    attributes, events, length = stream_span(length=2.0)
    events.append((names.EVENT_RETRACTION, 9.0, {}))

    assert timeline(SpanRecord.from_span(make_span(attributes, events, length))).length == pytest.approx(2.0)


def test_silence_before_the_end_is_a_hole(make_line: MakeLine) -> None:
    """A stream that hangs after its last chunk shows it, though no stall event ended the gap."""
    line = make_line(outcome="failed", phase="mid_stream", fault="timeout", last_chunk=1.0, length=6.0)

    (hole,) = line.holes
    assert (hole.start, hole.end, hole.source) == (1.0, 6.0, "")
    assert line.stall is None


def test_attributes_alone_are_enough(make_span: MakeSpan) -> None:
    """With events switched off or lost to a limit, the summary attributes still give a picture."""
    attributes, _, _ = stream_span(first_chunk=0.5, first_token=0.7, chunks=12)

    line = timeline(SpanRecord.from_span(make_span(attributes, [], length=3.0)))

    assert (line.first_chunk, line.first_token, line.length) == (0.5, 0.7, 3.0)
    assert sum(flow.chunks for flow in line.flows) == pytest.approx(12)


def test_a_loop_begins_where_its_first_character_arrived(make_line: MakeLine) -> None:
    """The bracket's start is read off the cadence window that held the character."""
    line = make_line(length=4.5, first_chunk=0.5, chars=400, loop=(3.0, 10, 20, 100, 190))

    (loop,) = line.loops
    assert loop.start == pytest.approx(1.5)
    assert loop.found == 3.0


def test_an_open_span_is_drawn_up_to_now(make_span: MakeSpan) -> None:
    """A span that still records has no outcome and grows with the clock."""
    record = SpanRecord.from_span(make_span({}, [(names.EVENT_FIRST_CHUNK, 0.5, {})], length=1.0))
    recording = SpanRecord.from_json(record.to_json().replace(f'"ended":{record.ended}', '"ended":null'))

    line = timeline(recording, now=recording.started + 3.0)

    assert (line.outcome, line.grade, line.length) == ("open", "open", 3.0)
    assert line.first_chunk == 0.5


@pytest.mark.parametrize(
    ("said", "grade"),
    [
        ({}, "good"),
        ({"stalls": [(3, 2.5, "provider")]}, "flawed"),
        ({"outcome": "truncated"}, "flawed"),
        ({"fault": "malformed_tool_call"}, "bad"),
        ({"outcome": "refused", "fault": "content_filter"}, "bad"),
        ({"outcome": "cancelled", "phase": "mid_stream", "fault": "stalled"}, "bad"),
        ({"outcome": "cancelled", "phase": "mid_stream"}, "stopped"),
        ({"outcome": "failed", "phase": "before_response", "fault": "provider_error"}, "bad"),
    ],
)
def test_grade(make_line: MakeLine, said: dict[str, object], grade: str) -> None:
    """Failed, or failed after 200 whatever the outcome, is bad; given up on is stopped; then its flaws."""
    assert make_line(**said).grade == grade


def test_a_span_that_began_before_its_request(make_span: MakeSpan) -> None:
    """Events tell the instant of the request, which the span of another may begin before: all counts from it."""
    attributes, events, length = stream_span(length=4.0)
    span = make_span(attributes, events, length, early=0.3)

    record = SpanRecord.from_span(span)

    assert record.started == pytest.approx(START, abs=0.001)
    assert timeline(record).length == pytest.approx(4.0)


def test_a_stop_is_where_it_was_asked(make_line: MakeLine) -> None:
    """The ask lies its delay before the close: before the request of a stream that began in a stopped turn."""
    said = {"outcome": "cancelled", "phase": "mid_stream", "trigger": "user_stop", "propagation": "closed"}

    late = make_line(**said, length=2.0, asked=1.5, **{names.CANCEL_CLOSE_DELAY: 0.5})
    between = make_line(**said, length=0.2, **{names.CANCEL_CLOSE_DELAY: 0.7})

    assert late.stopped_at == pytest.approx(1.5)
    assert between.stopped_at == pytest.approx(-0.5)
    assert make_line().stopped_at is None


def test_a_withdrawn_answer_is_flawed(make_line: MakeLine) -> None:
    """Withdrawn though complete, and read to the end though stopped: both want to be looked at."""
    assert make_line(retraction=(3.0, "guardrail", 300, 2.5)).grade == "flawed"
    assert make_line(trigger="client_disconnect", propagation="drained").grade == "flawed"
