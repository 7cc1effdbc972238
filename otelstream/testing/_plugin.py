# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin: two fixtures. Nothing is imported before a test asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from otelstream.testing import ProviderSimulator, Recorder


@pytest.fixture
def otelstream_provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[ProviderSimulator]:
    """A local provider that every Anthropic client talks to for the length of the test, also one made at import."""
    from otelstream.testing import ProviderSimulator
    from otelstream.testing._redirect import redirected

    # For clients made during the test; one made without a key would not come to its first request.
    monkeypatch.setenv("ANTHROPIC_API_KEY", "otelstream-test")
    with ProviderSimulator() as provider, redirected(provider.base_url):
        yield provider


@pytest.fixture
def otelstream_recorder() -> Iterator[Recorder]:
    """What otelstream says of the test's streams."""
    from otelstream.testing import Recorder

    with Recorder() as recorder:
        yield recorder
