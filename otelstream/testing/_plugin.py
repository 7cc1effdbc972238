# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin: two fixtures and a marker. Nothing is imported before a test asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from otelstream.testing import ProviderSimulator, Recorder


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "otelstream(**settings): settings of otelstream for the test's otelstream_recorder"
    )


@pytest.fixture
def otelstream_provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[ProviderSimulator]:
    """A local provider that every Anthropic, OpenAI and Google Gen AI client talks to for the length of the test, also
    one made at import."""
    from otelstream.testing import ProviderSimulator
    from otelstream.testing._redirect import redirected

    # For clients made during the test; one made without a key would not come to its first request.
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.setenv(name, "otelstream-test")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1", prepend=",")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "otelstream-test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with ProviderSimulator() as provider, redirected(provider.base_url):
        monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", provider.base_url)
        yield provider


@pytest.fixture
def otelstream_recorder(request: pytest.FixtureRequest) -> Iterator[Recorder]:
    """What otelstream says of the streams that the test begins; settings by `@pytest.mark.otelstream(...)`."""
    from otelstream.testing import Recorder

    settings: dict[str, Any] = {}
    for mark in request.node.iter_markers("otelstream"):
        settings = {**mark.kwargs, **settings}  # the nearest first
    with Recorder(**settings) as recorder:
        yield recorder
