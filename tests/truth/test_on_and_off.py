# SPDX-License-Identifier: Apache-2.0
"""On, again with other settings, and off: what was begun is told to its end, and other people's wrappers stay."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import shapes
from matrix.telemetry import Telemetry
from opentelemetry import metrics

import otelstream
from otelstream import _semconv as s
from otelstream.testing import Script
from truth.conftest import ASK, frames

TEXT = frames(Script().text("Calm seas, then wind from the west.", chunk=4))
CHUNKS = 9


@pytest.fixture(params=[True, False], ids=["native span", "own span"])
def on(request: pytest.FixtureRequest, telemetry: Telemetry) -> Iterator[Any]:
    """Switch on, or on again with other settings; the clients come with it."""

    class On:
        transport, client, aclient = shapes.clients(native=request.param)

        def __call__(self, **settings: Any) -> None:
            settings.setdefault("meter_provider", telemetry.meter_provider)
            otelstream.instrument(tracer_provider=telemetry.tracer_provider, **settings)

        def create(self) -> Any:
            self.transport.tape = shapes.Tape([shapes.Reply(TEXT)])
            return self.client.messages.create(**ASK, stream=True)

    yield On()
    otelstream.uninstrument()


def told(telemetry: Telemetry) -> dict[str, Any]:
    """What the observables say: chunks in all gaps, streams that are open, and the hashes of the objectives."""
    points = telemetry.points()
    gaps: Mapping[Any, Any] = points.get(s.STREAM_GAP_BUCKET.name, {})
    return {
        "gaps": sum(count for labels, count in gaps.items() if dict(labels)[s.GAP_LE] == "+Inf"),
        "active": sum(points.get(s.STREAM_ACTIVE.name, {}).values()),
        "info": [dict(labels)[s.OBJECTIVES_HASH] for labels in points.get(s.INFO.name, ())],
    }


def hash_now() -> list[str]:
    runtime = otelstream.OtelStreamInstrumentor().runtime
    return [] if runtime is None else [runtime.settings.objectives.hash]


OBJECTIVES = "objectives: [{name: whole, kind: integrity, target: 0.999}]"


def test_the_observables_go_on(on: Any, telemetry: Telemetry, tmp_path: Path) -> None:
    """On, again with other objectives, off, on: gaps add up, open streams are counted whenever they began, and
    the hash is that of the settings which hold, none where none do."""
    path = tmp_path / "objectives.yaml"
    path.write_text(OBJECTIVES)

    on()
    list(on.create())
    first, hash_of_first = on.create(), hash_now()
    next(first)
    assert told(telemetry) == {"gaps": CHUNKS - 1, "active": 1, "info": hash_of_first}

    on(objectives=path)
    assert hash_now() != hash_of_first
    second = on.create()
    next(second)
    assert told(telemetry) == {"gaps": CHUNKS - 1, "active": 2, "info": hash_now()}
    list(second)
    assert told(telemetry) == {"gaps": 2 * (CHUNKS - 1), "active": 1, "info": hash_now()}

    latest = hash_now()
    otelstream.uninstrument()
    assert told(telemetry) == {"gaps": 2 * (CHUNKS - 1), "active": 1, "info": hash_of_first}
    assert latest != hash_of_first
    list(first)
    assert told(telemetry) == {"gaps": 3 * (CHUNKS - 1), "active": 0, "info": []}

    on()
    list(on.create())
    assert told(telemetry) == {"gaps": 4 * (CHUNKS - 1), "active": 0, "info": hash_now()}


@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_provider_that_comes_late(on: Any, telemetry: Telemetry, before: int) -> None:
    """Switched on once, twice or thrice before there is a meter provider, and once more after: one truth."""
    waiting = metrics._internal._ProxyMeterProvider()
    for number in range(before):
        on(meter_provider=waiting, stall_threshold=1 + number)
    stream = on.create() if before else None
    on(meter_provider=waiting, stall_threshold=20)
    waiting.on_set_meter_provider(telemetry.meter_provider)
    list(on.create())
    on(meter_provider=telemetry.meter_provider, stall_threshold=30)
    list(on.create())

    found = told(telemetry)
    assert found == {"gaps": 2 * (CHUNKS - 1), "active": int(before > 0), "info": hash_now()}
    if stream is not None:
        stream.close()


def test_gaps_are_counted_from_when_they_are_asked_for(on: Any, telemetry: Telemetry) -> None:
    """Buckets that the first settings do without are there under the second."""
    on(chunk_metric="off")
    list(on.create())
    assert told(telemetry)["gaps"] == 0
    on()
    list(on.create())
    assert told(telemetry)["gaps"] == CHUNKS - 1


def test_the_bounds_are_those_of_the_process(on: Any, telemetry: Telemetry) -> None:
    """Switched on again and again, a process still has its bounded number of label sets, and the known ones stay."""
    for number in range(s.MAX_COMMON_SETS + 10):
        on(stall_threshold=1 + number % 2)
        on.transport.tape = shapes.Tape([shapes.Reply(TEXT)])
        list(on.client.messages.create(**{**ASK, "model": f"model-{number}"}, stream=True))

    models = {dict(labels)[s.REQUEST_MODEL] for labels in telemetry.points()[s.STREAMS.name]}
    assert len(models) == s.MAX_COMMON_SETS + 1
    assert s.OTHER in models


def test_new_objectives_have_their_zeros(on: Any, telemetry: Telemetry, tmp_path: Path) -> None:
    """A model that is known has zeros for the objectives that came with later settings too."""
    path = tmp_path / "objectives.yaml"
    path.write_text(OBJECTIVES)
    on()
    list(on.create())
    on(objectives=path)
    stream = on.create()
    names = {dict(labels)[s.OBJECTIVE_NAME] for labels in telemetry.values(s.OBJECTIVE_STREAMS.name)}
    assert "whole" in names
    stream.close()


def test_new_thresholds_are_no_warning(
    on: Any, telemetry: Telemetry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The SDK keeps the bounds that a histogram began with; that later objectives have others is no trouble."""
    path = tmp_path / "objectives.yaml"
    path.write_text("objectives: [{name: soon, kind: first_token, target: 0.95, threshold: 7s}]")
    on()
    on(objectives=path)
    list(on.create())
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.INFO] == []
    assert sum(telemetry.points()[s.STREAM_TTFT.name].values()) == 1
