# SPDX-License-Identifier: Apache-2.0
"""What tests of all parts share: exporters in memory, and a provider on a loopback socket."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from matrix.telemetry import Telemetry

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
