# SPDX-License-Identifier: Apache-2.0
"""A simulator, a client of the SDK, and bare clients of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import anthropic
import pytest

from otelstream.testing import (
    ProviderSimulator,
)

from .wire import Dial, Wire


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as running:
        yield running


@pytest.fixture(scope="module")
def any_client() -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url="http://127.0.0.1:1", api_key="unused", max_retries=0) as made:
        yield made


@pytest.fixture
def client(sim: ProviderSimulator, any_client: anthropic.Anthropic) -> anthropic.Anthropic:
    """One connection pool for all tests (making one takes a tenth of a second), pointed at this simulator."""
    return any_client.with_options(base_url=sim.base_url)


@pytest.fixture
def dial(sim: ProviderSimulator) -> Iterator[Dial]:
    """Open raw clients, and close them all in the end."""
    with contextlib.ExitStack() as opened:
        yield lambda control="": opened.enter_context(contextlib.closing(Wire(sim, control)))
