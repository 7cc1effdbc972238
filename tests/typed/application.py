# SPDX-License-Identifier: Apache-2.0
"""A user's file, read by type checkers and never run: ten lines are right, ten are wrong and end in `# wrong`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

import otelstream
from otelstream.asgi import StreamHopMiddleware
from otelstream.typing import Outcome, Settings

app = FastAPI()


async def asgi(scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None: ...


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    return []


def right(own: Settings, stream: object) -> None:
    otelstream.instrument()
    otelstream.instrument(stall_threshold=1, repetition=False, tools={"send_email": "write", "search": "read"})
    otelstream.instrument(tracer_provider=TracerProvider(), meter_provider=MeterProvider())
    otelstream.instrument(hang_threshold={"o3": 300, "*": 60})
    otelstream.instrument(view=Path("streams.html"), objectives=Path("slo.yaml"), chunk_events="all")
    otelstream.instrument(**own)
    app.add_middleware(StreamHopMiddleware)
    StreamHopMiddleware(StreamHopMiddleware(asgi))
    with otelstream.turn("chat-7", route="chat") as turn, otelstream.tool_call("call-1"):
        print(turn.ledger.committed, [call.name for call in turn.tool_calls])
    outcome: Outcome | None = otelstream.get_stream(stream).outcome
    print(outcome == "failed", otelstream.record_stop(turn="chat-7") is True)


def wrong(stream: object) -> None:
    otelstream.instrument(stall_treshold=1.0)  # wrong
    otelstream.instrument(stall_threshold="soon")  # wrong
    otelstream.instrument(spans="mine")  # wrong
    otelstream.instrument(tools={"send_email": "maybe"})  # wrong
    otelstream.instrument(tracer_provider=MeterProvider())  # wrong
    StreamHopMiddleware(wsgi)  # wrong
    StreamHopMiddleware("app:app")  # wrong
    app.add_middleware(StreamHopMiddleware, path="/chat")  # wrong
    otelstream.record_retraction(reason="because")  # wrong
    print(otelstream.get_stream(stream).text)  # wrong
