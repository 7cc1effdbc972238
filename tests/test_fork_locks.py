# SPDX-License-Identifier: Apache-2.0
"""A child that was forked while another thread held a lock of ours is not stuck in it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from matrix.telemetry import Telemetry
from shapes import ASK, Reply, Tape, clients

import otelstream
from otelstream._core.process.runtime import Runtime
from otelstream._core.tools.registry import registry
from otelstream.testing import Script

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")

EVENTS = [
    event.frame
    for event in Script().text("Calm seas, then wind.").tool_use("deploy", {"ref": "main"}).end("tool_use").events
]
PATIENCE = 20  # seconds until a child that is stuck is ended
LOCKS: dict[str, Callable[[Runtime], AbstractContextManager[Any]]] = {
    "metrics": lambda runtime: runtime.metrics._observed._lock,
    "registry": lambda _: registry._lock,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # 3.12 and later warn of forks with threads
@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_that_was_held_at_the_fork(telemetry: Telemetry, lock: str) -> None:
    """Streams are read, recorded and collected in the child as they are in the parent."""
    otelstream.instrument(meter_provider=telemetry.meter_provider, tracer_provider=telemetry.tracer_provider)
    try:
        transport, client, _ = clients(native=False)
        runtime = otelstream.OtelStreamInstrumentor().runtime
        assert runtime is not None
        held, over = threading.Event(), threading.Event()

        def hold() -> None:
            with LOCKS[lock](runtime):
                held.set()
                over.wait(PATIENCE)

        holder = threading.Thread(target=hold)
        holder.start()
        assert held.wait(PATIENCE)
        child = os.fork()
        if not child:
            status = 1
            try:
                signal.alarm(PATIENCE)
                transport.tape = Tape([Reply(EVENTS)])
                list(client.messages.create(**ASK, stream=True))
                status = 0 if telemetry.points() else 2
            finally:
                os._exit(status)
        over.set()
        holder.join()
        assert os.waitpid(child, 0)[1] == 0
    finally:
        otelstream.uninstrument()
