# SPDX-License-Identifier: Apache-2.0
"""How streams of this SDK end on a real socket, by each of its ways to read; run on its versions by the matrix."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from google import genai

import otelstream
from otelstream import _semconv as s
from otelstream.testing import Fault, Faults, ProviderSimulator, Recorder, Script, prose

# The SDK's own: classes that aiohttp would rather not have derived, connections that are left to the collector.
pytestmark = pytest.mark.filterwarnings("ignore")

F = Faults
ANSWER = Script("answer").text(prose(96), chunk=12)
TOOL = Script("tool").thinking(prose(24), chunk=12).text(prose(24), chunk=12).tool_use("look", {"city": "H"}, chunk=6)
LOST = ("failed", "connection_lost", "connection_error")
SHORT = ("failed", "cut_short", "api_error")
BUSY = ("failed", "provider_error", "UNAVAILABLE")
GARBLED = ("failed", "protocol_error", "protocol_error")
LATE = ("failed", "timeout", "client_timeout_error")
DONE = ("completed", "none", None)
# What is played, then outcome, fault and error type, and phase.
ENDINGS: dict[str, tuple[Script, Sequence[Fault], tuple[str, str, str | None], str]] = {
    "done": (ANSWER, [], DONE, "finished"),
    "a tool": (TOOL, [], DONE, "finished"),
    "at the limit": (ANSWER.end("max_tokens"), [], ("truncated", "none", None), "finished"),
    "refused": (ANSWER.end("refusal"), [], ("refused", "content_filter", "content_filter"), "finished"),
    "error at once": (ANSWER, [F.error_after(chunks=0)], BUSY, "before_first_token"),
    "error": (ANSWER, [F.error_after(chunks=3)], BUSY, "mid_stream"),
    "reset after the headers": (ANSWER, [F.reset_after("headers")], LOST, "before_first_token"),
    "reset": (ANSWER, [F.reset_after(chunks=3)], LOST, "mid_stream"),
    "cut": (ANSWER, [F.cut_after(chunks=3)], LOST, "mid_stream"),
    "cut after the finish": (ANSWER, [F.cut_after("finish")], LOST, "finished"),
    "the body ends at once": (ANSWER, [F.end_after(chunks=0)], SHORT, "before_first_token"),
    "the body ends": (ANSWER, [F.end_after(chunks=3)], SHORT, "mid_stream"),
    "no finish reason": (ANSWER, [F.no_finish()], SHORT, "mid_stream"),
    "a broken frame": (ANSWER, [F.malformed_frame_after(chunks=3)], GARBLED, "mid_stream"),
    "no UTF-8": (ANSWER, [F.malformed_frame_after(chunks=3, kind="utf8")], GARBLED, "mid_stream"),
    "an unknown event": (ANSWER, [F.malformed_frame_after(chunks=3, kind="unknown")], DONE, "finished"),
    "the model's call makes no sense": (
        TOOL, [F.malformed_tool_json("end")], ("failed", "provider_error", "MALFORMED_FUNCTION_CALL"), "finished",
    ),
    "HTTP 400": (
        ANSWER, [F.http_error(400)], ("failed", "request_error", "INVALID_ARGUMENT"), "before_response",
    ),
    "HTTP 429": (
        ANSWER, [F.http_error(429)], ("failed", "provider_error", "RESOURCE_EXHAUSTED"), "before_response",
    ),
    "HTTP 500": (ANSWER, [F.http_error(500)], ("failed", "provider_error", "INTERNAL"), "before_response"),
    "no answer in time": (ANSWER, [F.hang_after("request")], LATE, "before_response"),
    "silence": (ANSWER, [F.hang_after(chunks=3)], LATE, "mid_stream"),
}  # fmt: skip


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderSimulator]:
    otelstream.instrument()
    with ProviderSimulator() as running:
        yield running
    otelstream.uninstrument()


def read(provider: ProviderSimulator, config: Any, *, asynchronous: bool) -> None:
    """Read one answer to its end; what the SDK raises is its own affair."""
    client = genai.Client(api_key="unused", http_options={"base_url": provider.base_url})
    ask: Any = {"model": "some-model", "contents": "hi", "config": config}

    async def reads() -> None:
        try:
            async for _ in await client.aio.models.generate_content_stream(**ask):
                continue
        finally:
            await client.aio.aclose()

    with contextlib.suppress(Exception):
        if asynchronous:
            asyncio.run(reads())
        else:
            for _ in client.models.generate_content_stream(**ask):
                continue
    gc.collect()


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("name", ENDINGS)
def test_endings(provider: ProviderSimulator, name: str, asynchronous: bool) -> None:
    """Outcome, fault and phase are what was on the wire."""
    plays, faults, verdict, phase = ENDINGS[name]
    provider.play(plays, fault=faults)
    waits = {"http_options": {"timeout": 150}} if verdict == LATE else {}

    with Recorder() as recorder:
        read(provider, waits, asynchronous=asynchronous)
        (view,) = recorder.wait_for(1)

    assert (view.outcome, view.fault, view.error_type, view.phase) == (*verdict, phase)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_retry(provider: ProviderSimulator, asynchronous: bool) -> None:
    """The first attempt is refused, the second is answered: one record of two attempts."""
    provider.play(ANSWER, fault=[F.http_error(503)])
    provider.play(ANSWER)
    retries = {"attempts": 3, "initial_delay": 0.01, "jitter": 0.01}

    with Recorder() as recorder:
        read(provider, {"http_options": {"retry_options": retries}}, asynchronous=asynchronous)
        (view,) = recorder.wait_for(1)

    assert (view.outcome, view.attributes[s.ATTEMPTS]) == ("completed", 2)
