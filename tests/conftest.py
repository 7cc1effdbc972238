# SPDX-License-Identifier: Apache-2.0
"""What tests of all parts share: exporters in memory, and a provider on a loopback socket."""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import hypothesis  # noqa: F401  # before anything is frozen: it asks the collector who holds its generators
import pytest
from limits import (  # noqa: F401
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_sessionfinish,
    pytest_testnodedown,
    pytest_timeout_cancel_timer,
    pytest_timeout_set_timer,
    pytest_unconfigure,
)
from matrix.telemetry import Telemetry
from opentelemetry import metrics, trace
from opentelemetry.util._once import Once

import otelstream
from otelstream._core.emit import observed
from otelstream._core.process import judges
from otelstream._core.process import runtime as process
from otelstream._core.tools.registry import declared
from otelstream._face import instrumentor
from otelstream.testing import ProviderSimulator

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    # A shell's background job begins so, and every program that a test interrupts would.
    signal.signal(signal.SIGINT, signal.default_int_handler)
_at_first: list[dict[str, Any]] = []  # tools that the modules declare as they are imported


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """A tracer and a meter provider of the test's own, and what they exported."""
    made = Telemetry()
    yield made
    made.shutdown()


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    """A provider that plays scripts, breaks on request, and logs what was on the wire."""
    with ProviderSimulator() as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def _as_a_fresh_process() -> None:
    """A module starts with what a process starts with, whatever the one before it left on: otelstream off, no
    callbacks, no global providers (the newest Anthropic SDK makes its own spans as soon as there is one of traces),
    loggers at their own level.
    """
    instrumentor._ended.clear()
    instrumentor._repeats.clear()
    gc.collect()  # streams that an earlier module dropped in a cycle are open until then
    gc.freeze()  # what is imported is never garbage: with the SDKs' models every collection takes a quarter second
    for left in process.runtimes():
        left._open.clear()  # streams that were begun without an SDK, for which nobody has to end them
    otelstream.uninstrument()
    process._settle()
    os.environ.pop("ANTHROPIC_OPEN_TELEMETRY", None)
    trace._TRACER_PROVIDER, trace._TRACER_PROVIDER_SET_ONCE = None, Once()
    metrics._internal._METER_PROVIDER, metrics._internal._METER_PROVIDER_SET_ONCE = None, Once()
    observed._kept.clear()  # meters that wait for a provider wait for the same one, in a process that has only one
    _at_first.append(dict(declared))
    declared.clear()  # tools that a test declared: what the model calls so elsewhere is none of them
    declared.update(_at_first[0])
    judges._declared.clear()
    for name in ("otelstream", "anthropic"):
        logging.getLogger(name).setLevel(logging.NOTSET)
