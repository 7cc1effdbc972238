# SPDX-License-Identifier: Apache-2.0
"""How a hop ended, by the status it answered with and what became of its body."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tools.bench import Bench

import otelstream
from otelstream import _semconv as s
from otelstream._core.process.closing import end
from otelstream._core.record.ending import cancelled
from otelstream.anthropic._grammar import Grammar
from otelstream.asgi import StreamHopMiddleware

SCOPE = {"type": "http", "method": "GET", "headers": []}
START = "http.response.start"
BODY = "http.response.body"


def hop(bench: Bench, status: int | None, *, whole: bool = True, breaks: bool = False) -> str:
    """The outcome of one request that a stream was begun in."""
    runtime = otelstream.OtelStreamInstrumentor().runtime
    assert runtime is not None

    async def app(scope: Any, receive: Any, send: Any) -> None:
        stream = runtime.begin(operation="chat", provider="anthropic", model="m", grammar=Grammar())
        if status is not None:
            await send({"type": START, "status": status, "headers": []})
            await send({"type": BODY, "body": b"Calm", "more_body": True})
        if breaks:
            end(stream, cancelled("app_close"))
            raise ValueError("the application's own")
        if status is not None and whole:
            await send({"type": BODY, "body": b" seas."})
        end(stream, cancelled("app_close"))

    async def receive() -> Any:
        await asyncio.Event().wait()  # a client that stays

    async def send(message: Any) -> None:
        return

    async def run() -> None:
        try:
            await StreamHopMiddleware(app)(dict(SCOPE), receive, send)
        except ValueError:
            assert breaks

    asyncio.run(run())
    ((outcome,),) = bench.points(s.HOP_DURATION.name, s.HOP_OUTCOME)
    return str(outcome)


@pytest.mark.parametrize(
    ("status", "want"),
    [
        (200, "completed"),
        (204, "completed"),
        (302, "completed"),
        (404, "completed"),
        (429, "completed"),
        (499, "completed"),
        (500, "failed"),
        (501, "failed"),
        (503, "failed"),
        (599, "failed"),
        (None, "failed"),
    ],
)
def test_status(bench: Bench, status: int | None, want: str) -> None:
    """A hop failed when its application answered 500 or above, or nothing; a 4xx is an answer like any other."""
    assert hop(bench, status) == want


@pytest.mark.parametrize(("status", "want"), [(200, "failed_after_200"), (499, "failed_after_200"), (500, "failed")])
@pytest.mark.parametrize("how", [{"breaks": True}, {"whole": False}], ids=["breaks", "stops"])
def test_failed_after_the_status(bench: Bench, status: int, want: str, how: dict[str, bool]) -> None:
    """A body that breaks, or is never ended, behind a status that promised one is `failed_after_200`; behind a status
    that said so already it is `failed`."""
    assert hop(bench, status, **how) == want
