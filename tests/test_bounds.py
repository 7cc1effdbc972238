# SPDX-License-Identifier: Apache-2.0
"""What is kept of too much: labels beyond their bound, and events beyond theirs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from matrix.telemetry import Telemetry
from opentelemetry._logs import get_logger
from toy import Grammar

from otelstream import _semconv as s
from otelstream._core.emit.labels import Labels
from otelstream._core.process.closing import disown
from otelstream._core.process.runtime import Runtime
from otelstream._core.record.stream import StreamObservation
from otelstream._face import config as _config

MANY = 100_000


@pytest.fixture
def stream(telemetry: Telemetry) -> Iterator[StreamObservation]:
    """A stream that has sent its request."""
    runtime = Runtime(
        _config.load({}, {}),
        telemetry.tracer_provider.get_tracer(s.SCOPE),
        telemetry.meter_provider.get_meter(s.SCOPE),
        get_logger(s.SCOPE),
        {},
    )
    made = StreamObservation(runtime, operation="chat", provider="parrot", model="grey-1", grammar=Grammar())
    yield made
    disown(made)


def full() -> Labels:
    """Labels that have taken in as many models as they will."""
    labels = Labels()
    for number in range(MANY):
        if labels.common("chat", "parrot", f"model-{number}", "chat").route[s.REQUEST_MODEL] == s.OTHER:
            return labels
    raise AssertionError("no bound")


@pytest.mark.parametrize("route", ["chat", "search"])
def test_a_folded_stream_keeps_that_it_had_a_route(route: str) -> None:
    """Beyond the bound model and route become `_OTHER`, both: who sums over routes finds the folded streams too."""
    assert full().common("chat", "parrot", "new-model", route).route == {
        s.OPERATION: "chat",
        s.PROVIDER: "parrot",
        s.REQUEST_MODEL: s.OTHER,
        s.ROUTE: s.OTHER,
    }


def test_a_folded_stream_without_a_route_gets_none() -> None:
    """A label that a stream never had is not made up by the fold."""
    assert full().common("chat", "parrot", "new-model", None).route == {
        s.OPERATION: "chat",
        s.PROVIDER: "parrot",
        s.REQUEST_MODEL: s.OTHER,
    }


def test_what_was_known_before_the_bound_stays() -> None:
    """The bound stops what is new, and leaves what has its series."""
    known = full().common("chat", "parrot", "model-0", "chat").route

    assert (known[s.REQUEST_MODEL], known[s.ROUTE]) == ("model-0", "chat")


def names(stream: StreamObservation) -> list[str]:
    return [name for name, _, _ in stream.events]


@pytest.mark.parametrize("older", [s.EVENT_CADENCE, s.EVENT_STALL, s.EVENT_TOOL_READY, s.EVENT_REPETITION])
@pytest.mark.parametrize("newest", [s.EVENT_CHUNK, s.EVENT_CADENCE, s.EVENT_STALL, s.EVENT_FAILURE])
def test_the_newest_event_is_kept(stream: StreamObservation, older: str, newest: str) -> None:
    """While there is an older event to give up, the one that just came stays: it is the one nobody has seen."""
    for number in range(s.MAX_EVENTS):
        stream.event(older, stream.started + number, {})

    stream.event(newest, stream.started + s.MAX_EVENTS, {})

    assert len(stream.events) == s.MAX_EVENTS
    assert stream.events[-1][:2] == (newest, stream.started + s.MAX_EVENTS)
    assert stream.events[0][1] == stream.started + 1


@pytest.mark.parametrize(
    ("given_up", "kept"),
    [
        (s.EVENT_CHUNK, s.EVENT_CADENCE),
        (s.EVENT_CADENCE, s.EVENT_STALL),
        (s.EVENT_STALL, s.EVENT_TOOL_READY),
        (s.EVENT_TOOL_READY, s.EVENT_TOOL_FINISHED),
        (s.EVENT_TOOL_FINISHED, s.EVENT_REPETITION),
        (s.EVENT_REPETITION, s.EVENT_TOOL_DISPATCHED),
    ],
)
def test_what_goes_first(stream: StreamObservation, given_up: str, kept: str) -> None:
    """Of too many events those that say least go first, however new."""
    for number in range(s.MAX_EVENTS - 1):
        stream.event(kept, stream.started + number, {})
    stream.event(given_up, stream.started + s.MAX_EVENTS, {})

    stream.event(s.EVENT_FINISH, stream.started + s.MAX_EVENTS + 1, {})

    assert names(stream) == [kept] * (s.MAX_EVENTS - 1) + [s.EVENT_FINISH]


def test_the_first_token_is_never_given_up(stream: StreamObservation) -> None:
    """The first chunk and the first token outlast whatever comes after them."""
    stream.event(s.EVENT_FIRST_CHUNK, stream.started, {})
    stream.event(s.EVENT_FIRST_TOKEN, stream.started, {})
    for number in range(3 * s.MAX_EVENTS):
        stream.event(s.EVENT_STALL, stream.started + number, {})

    assert names(stream)[:2] == [s.EVENT_FIRST_CHUNK, s.EVENT_FIRST_TOKEN]
    assert len(stream.events) == s.MAX_EVENTS
