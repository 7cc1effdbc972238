# SPDX-License-Identifier: Apache-2.0
"""What the record of a real stream says where it is easily wrong: whose fault, how long, of how many tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from matrix.telemetry import Telemetry

import otelstream
from otelstream import _semconv as s
from otelstream.testing import ProviderSimulator, Recorder, Script

ASK: dict[str, Any] = {"model": "some-model", "max_tokens": 64, "messages": [{"role": "user", "content": "Go."}]}


@pytest.fixture
def client(sim: ProviderSimulator) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=sim.base_url, api_key="unused", max_retries=0) as made:
        yield made


STATUSES = {
    400: "request_error",
    401: "request_error",
    403: "request_error",
    404: "request_error",
    408: "provider_error",
    409: "provider_error",
    413: "request_error",
    422: "request_error",
    429: "provider_error",
    499: "request_error",
    500: "provider_error",
    503: "provider_error",
    529: "provider_error",
}


@pytest.mark.parametrize(("status", "fault"), STATUSES.items())
def test_whose_fault_a_status_is(sim: ProviderSimulator, client: Any, status: int, fault: str) -> None:
    """A 4xx is the request's own fault, but for 408, 409 and 429, which the provider's load or state gives; a 5xx is
    the provider's. The request's own is judged by no objective."""
    sim.play(Script().text("Calm seas."), fault=sim.http_error(status))

    with Recorder() as recorder, pytest.raises(anthropic.APIStatusError):
        client.messages.create(**ASK, stream=True)

    ended = recorder.expect(outcome="failed", phase="before_response", fault=fault)
    assert ended.attributes[s.OBJECTIVE_COMPLETION] == ("excluded" if fault == "request_error" else "bad")


USAGE: list[tuple[dict[str, int], dict[str, int], str]] = [
    ({"input_tokens": 3}, {s.INPUT_TOKENS: 3}, "none"),
    (
        {"input_tokens": 3, "cache_creation_input_tokens": 20},
        {s.INPUT_TOKENS: 23, s.CACHE_WRITE_TOKENS: 20},
        "write",
    ),
    (
        {"input_tokens": 3, "cache_read_input_tokens": 100},
        {s.INPUT_TOKENS: 103, s.CACHE_READ_TOKENS: 100},
        "read",
    ),
    (
        {"input_tokens": 3, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20},
        {s.INPUT_TOKENS: 123, s.CACHE_READ_TOKENS: 100, s.CACHE_WRITE_TOKENS: 20},
        "read",
    ),
]


@pytest.mark.parametrize(("sent", "want", "cache"), USAGE, ids=["none", "write", "read", "both"])
def test_cached_tokens(
    telemetry: Telemetry, sim: ProviderSimulator, client: Any, sent: dict[str, int], want: dict[str, int], cache: str
) -> None:
    """Tokens read from the cache and written to it are each told, and are input tokens as the conventions count; the
    first token's metric tells a cold prompt from a cached one."""
    whole = {"cache_read_input_tokens": 0, "cache_creation_input_tokens": 0, **sent}
    sim.play(Script().text("Calm seas.").end(output_tokens=7, usage=whole))
    otelstream.instrument(tracer_provider=telemetry.tracer_provider, meter_provider=telemetry.meter_provider)
    try:
        with Recorder() as recorder:
            list(client.messages.create(**ASK, stream=True))
        points = telemetry.points()
    finally:
        otelstream.uninstrument()

    said = recorder.stream.attributes
    usage = {name: said[name] for name in (s.INPUT_TOKENS, s.CACHE_READ_TOKENS, s.CACHE_WRITE_TOKENS)}
    assert usage == {s.CACHE_READ_TOKENS: 0, s.CACHE_WRITE_TOKENS: 0, **want}
    assert said[s.OUTPUT_TOKENS] == 7
    assert {dict(labels)[s.CACHE] for labels in points[s.STREAM_TTFT.name]} == {"read" if cache == "read" else "none"}


@pytest.mark.parametrize(
    ("chunks", "freeze_threshold", "fault"),
    [(0, 1e-6, "none"), (2, 1e-6, "stalled"), (2, 3600.0, "none")],
    ids=["no chunk yet", "frozen", "not long"],
)
def test_stalled_needs_a_first_chunk(sim: ProviderSimulator, chunks: int, freeze_threshold: float, fault: str) -> None:
    """Who stops a stream that began to answer and then froze has seen a fault; who stops one that has not begun to
    has only been impatient."""
    sim.play(Script().text("Calm seas, then wind from the west."), fault=sim.hang_after(chunks=chunks))

    async def run() -> None:
        async with anthropic.AsyncAnthropic(base_url=sim.base_url, api_key="unused", max_retries=0) as client:
            events = await client.messages.create(**ASK, stream=True)
            seen: list[Any] = []
            reader = asyncio.ensure_future(_read(events, seen))
            while len(seen) < chunks + 2:  # noqa: ASYNC110 - the starts of message and block; then it waits
                await asyncio.sleep(0.001)
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader

    with Recorder(freeze_threshold=freeze_threshold) as recorder:
        asyncio.run(run())

    ended = recorder.expect(outcome="cancelled", trigger="task_cancel", fault=fault, chunks=chunks)
    assert ended.phase == ("mid_stream" if chunks else "before_first_token")
    assert ended.succeeded_then_failed is (fault == "stalled")


async def _read(events: Any, seen: list[Any]) -> None:
    async for event in events:
        seen.append(event)  # noqa: PERF401 - each as it comes


def test_without_a_response_the_end_is_now(sim: ProviderSimulator) -> None:
    """A stream that never had a response ended when its caller stopped to wait, not when it was begun."""
    patience = 0.2
    sim.play(Script().text("Calm seas."), fault=sim.slow_headers(60))

    with (
        Recorder() as recorder,
        anthropic.Anthropic(base_url=sim.base_url, api_key="unused", max_retries=0, timeout=patience) as client,
        pytest.raises(anthropic.APITimeoutError),
    ):
        client.messages.create(**ASK, stream=True)

    ended = recorder.expect(outcome="failed", phase="before_response", fault="timeout")
    assert ended.duration is not None
    assert ended.duration >= patience * 0.9
    assert ended.attributes[s.WAIT_WITHOUT_TOKEN] == ended.duration


@pytest.mark.parametrize(
    ("fault", "label"),
    [("reset_after=request", "connection_error"), ("http_error=529", "overloaded_error")],
)
def test_what_made_a_retry_needed(telemetry: Telemetry, sim: ProviderSimulator, fault: str, label: str) -> None:
    """A retry is counted by the API's word for the status of the attempt before it, as a failure is;
    where there was none, as `connection_error`."""
    sim.play(Script().text("Calm seas."), fault=fault)
    sim.play(Script().text("Calm seas."))
    otelstream.instrument(tracer_provider=telemetry.tracer_provider, meter_provider=telemetry.meter_provider)
    try:
        with anthropic.Anthropic(base_url=sim.base_url, api_key="unused", max_retries=1) as client:
            client._calculate_retry_timeout = lambda *_, **__: 0.0  # type: ignore[method-assign]
            list(client.messages.create(**ASK, stream=True))
        points = telemetry.points()
    finally:
        otelstream.uninstrument()

    assert {dict(labels)[s.ERROR_TYPE]: count for labels, count in points[s.STREAM_RETRIES.name].items()} == {label: 1}
    (span,) = telemetry.spans()
    assert (span.attributes or {})[s.ATTEMPTS] == 2
