# SPDX-License-Identifier: Apache-2.0
"""Streams and tool calls made by hand: no SDK, no socket, no time that passes by itself."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from toy import Grammar, Parrot, observe

import otelstream
from otelstream._core.process.closing import end
from otelstream._core.process.runtime import Runtime
from otelstream._core.record.call import ToolCall, hash_of
from otelstream._core.record.ending import Ending
from otelstream._core.record.stream import StreamObservation
from otelstream._core.tools.registry import registry


def runtime() -> Runtime:
    found = otelstream.OtelStreamInstrumentor().runtime
    assert found is not None
    return found


def opened() -> StreamObservation:
    """A stream that has just begun here."""
    return runtime().begin(operation="chat", provider="parrot", model="m", grammar=Grammar())


def asks(stream: StreamObservation, name: str, id: str = "call-1", **arguments: Any) -> ToolCall:  # noqa: A002
    """The model asks for a tool, with an input that is whole."""
    call = ToolCall(name, id, input="valid", arguments=hash_of(arguments))
    registry.opened(stream, call)
    stream.tool_ready(call, time.perf_counter())
    return call


def completes(stream: StreamObservation) -> None:
    end(stream, Ending("completed"))


def asked(name: str, **arguments: Any) -> tuple[StreamObservation, ToolCall]:
    """A stream that ended well, and the call it asked for."""
    stream = opened()
    call = asks(stream, name, **arguments)
    completes(stream)
    return stream, call


@contextmanager
def parrot(name: str, **arguments: Any) -> Iterator[Iterator[dict[str, Any]]]:
    """A stream to read that asks for one tool in its midst: its call is ready with the line that has an `end`."""
    said = {"index": 0, "name": name, "id": "call-1"}
    client = Parrot([
        {"word": "Now."},
        {"calls": [said]},
        {"calls": [{"index": 0, "arguments": json.dumps(arguments)}]},
        {"end": "call"},
        {"usage": {}},
        {"usage": {}},
    ])  # fmt: skip
    off = observe(runtime(), client)
    try:
        yield client.talk("m")
    finally:
        off()
