# SPDX-License-Identifier: Apache-2.0
"""The SDKs of OpenAI's make under other names: what they read of a chat completion is told as truly."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from matrix.telemetry import Telemetry

import otelstream
from otelstream import _semconv as s
from otelstream.openai import family
from otelstream.testing import ProviderSimulator, Recorder

ROWS = {row.provider: row for row in (family.GROQ, family.TOGETHER, family.CEREBRAS, family.FIREWORKS)}
ASK: dict[str, Any] = {"model": "some-model", "messages": [{"role": "user", "content": "What blows?"}]}
# What is played, and the verdict; some of these SDKs swallow the error and hand out nothing of it.
ENDINGS: dict[str, tuple[str | None, tuple[str, str]]] = {
    "whole": (None, ("completed", "none")),
    "cut": ("cut_after=chunks:2", ("failed", "connection_lost")),
    "ends": ("end_after=chunks:2", ("failed", "cut_short")),
    "ends finished": ("end_after=finish", ("completed", "none")),
    "error": ("error_after=chunks:2", ("failed", "provider_error")),
    "529": ("http_error=529", ("failed", "provider_error")),
    "left": ("hang_after=chunks:3", ("cancelled", "none")),
}


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as running:
        yield running


def client_of(row: Any, provider: ProviderSimulator, *, asynchronous: bool) -> Any:
    """A client of that SDK; some open a connection when they are made, unless told not to."""
    kind = getattr(pytest.importorskip(row.package), row.clients[asynchronous])
    quiet = "warm_tcp_connection" in inspect.signature(kind).parameters
    options: dict[str, Any] = {"warm_tcp_connection": False} if quiet else {}
    return kind(base_url=provider.base_url, api_key="unused", max_retries=0, **options)


def read(client: Any, leave: bool) -> None:
    with client.chat.completions.create(**ASK, stream=True) as stream:
        for _ in stream:
            if leave:
                break


def read_lines(client: Any, leave: bool) -> None:
    with client.chat.completions.with_streaming_response.create(**ASK, stream=True) as response:
        for _ in response.iter_lines():
            if leave:
                break


def aread(client: Any, leave: bool) -> None:
    async def main() -> None:
        async with client, await client.chat.completions.create(**ASK, stream=True) as stream:
            async for _ in stream:
                if leave:
                    break

    asyncio.run(main())


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("way", [read, read_lines, aread], ids=lambda way: way.__name__)
@pytest.mark.parametrize("name", ROWS)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_chat_completion(provider: ProviderSimulator, telemetry: Telemetry, name: str, way: Any, ending: str) -> None:
    """Outcome, fault and provider are right, however the completion is read and however it ends."""
    client = client_of(ROWS[name], provider, asynchronous=way is aread)
    fault, (outcome, broken) = ENDINGS[ending]
    provider.clear()
    provider.play("text_long", fault=fault)

    otelstream.instrument(tracer_provider=telemetry.tracer_provider, meter_provider=telemetry.meter_provider)
    with Recorder() as recorder, suppress(Exception):
        way(client, ending == "left")
    otelstream.uninstrument()

    view = recorder.stream
    assert (view.outcome, view.fault, view.model) == (outcome, broken, "some-model")
    (span,) = telemetry.spans()
    assert (span.attributes or {})[s.PROVIDER] == name


@pytest.mark.parametrize("name", ROWS)
def test_what_is_no_answer(provider: ProviderSimulator, name: str) -> None:
    """A completion that does not stream, and a request for something else, are no streams of ours."""
    client = client_of(ROWS[name], provider, asynchronous=False)
    with Recorder() as recorder:
        client.chat.completions.create(**ASK)
        with suppress(Exception):
            client.models.list()

    assert recorder.streams == []
