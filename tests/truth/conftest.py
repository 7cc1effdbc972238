# SPDX-License-Identifier: Apache-2.0
"""One stream at a time over a transport in memory, with and without the SDK's own span, and what was said of it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import shapes
from matrix.telemetry import Telemetry
from opentelemetry import trace

import otelstream
from otelstream.testing import Recorder, Script

ASK = shapes.ASK


def frames(script: Script) -> list[bytes]:
    """The events of an answer, as they are on the wire."""
    return [event.frame for event in script.finished().events]


class Scene:
    """The clients of a test, what the provider answers, and what became of the streams."""

    def __init__(self, telemetry: Telemetry, recorder: Recorder, *, native: bool) -> None:
        self.telemetry, self.recorder, self.native = telemetry, recorder, native
        self.transport, self.client, self.aclient = shapes.clients(native=native)

    def plays(self, *replies: Any) -> None:
        """Answer with these, the last one for ever."""
        self.transport.tape = shapes.Tape([r if isinstance(r, shapes.Reply) else shapes.Reply(r) for r in replies])

    def create(self, **more: Any) -> Any:
        return self.client.messages.create(**ASK, **more, stream=True)

    def verdict(self) -> tuple[Any, ...]:
        """Outcome, fault and trigger of the one stream."""
        view = self.recorder.stream
        return view.outcome, view.fault, view.trigger


@pytest.fixture(params=[True, False], ids=["native span", "own span"])
def scene(request: pytest.FixtureRequest, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A scene that is observed; the SDK makes spans of its own for the global provider."""
    if request.param:
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", telemetry.tracer_provider)
    gc.collect()  # what an earlier test dropped in a cycle is open until then
    otelstream.instrument(tracer_provider=telemetry.tracer_provider, meter_provider=telemetry.meter_provider)
    with Recorder() as recorder:
        yield Scene(telemetry, recorder, native=request.param)
    otelstream.uninstrument()


TEXT_FRAMES = frames(Script().text("Calm seas."))
