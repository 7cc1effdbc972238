# SPDX-License-Identifier: Apache-2.0
"""What tests of all parts share: exporters in memory, and a provider on a loopback socket."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from matrix.telemetry import Telemetry

import otelstream
from otelstream.testing import ProviderSimulator


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
def _off_at_first() -> None:
    """A module starts uninstrumented, whatever the one before it left on in this process."""
    otelstream.uninstrument()
    os.environ.pop("ANTHROPIC_OPEN_TELEMETRY", None)
