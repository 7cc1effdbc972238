# SPDX-License-Identifier: Apache-2.0
"""What a chunk and a stream cost, in counts: calls and bytes, never seconds."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import metrics, trace

from otelstream._core.process.runtime import Runtime
from otelstream._core.process.tap import Attached, read
from otelstream._core.record.stream import StreamObservation
from otelstream._face import config as _config
from otelstream.anthropic._grammar import Grammar

RUNTIME = Runtime(_config.load({}, {}), trace.get_tracer("test"), metrics.get_meter("test"), None, {})


BLOCK = '{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}'
DELTA = '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"'


class Sse:
    """A server-sent event as the SDK's decoder makes it."""

    __slots__ = ("_data", "_event")

    def __init__(self, event: str, data: str) -> None:
        self._event, self._data = event, data


def answer(chunks: int, text: str = "word{} ") -> Iterator[Sse]:
    """A stream that is made as it is read, so that only what we keep is kept."""
    yield Sse("message_start", '{"type":"message_start","message":{"id":"m","usage":{"input_tokens":1}}}')
    yield Sse("content_block_start", BLOCK)
    for index in range(chunks):
        yield Sse("content_block_delta", DELTA + text.format(index * 7919 % 1000) + '"}}')  # no encoder's free lists


def observed(source: Iterator[Sse]) -> tuple[StreamObservation, Iterator[Any]]:
    stream = RUNTIME.begin(operation="chat", provider="p", model="m", grammar=Grammar())
    stream.attached = Attached()
    stream.responded(None)
    return stream, read(source, stream, lambda: None)


def calls_in(chunks: int) -> int:
    """Python and C calls made while so many chunks are read, our reader's own resumptions left out."""
    events = list(answer(chunks))
    count = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        if event == "c_call" or (event == "call" and frame.f_code is not read.__code__):
            count += 1

    _, reader = observed(iter(events))
    sys.setprofile(profile)
    try:
        for _ in reader:
            pass
    finally:
        sys.setprofile(None)
    return count


def test_a_chunk_makes_few_calls() -> None:
    """Two clock reads, two appends, and the share of a batch: OpenTelemetry is not among them, however long it is."""
    per_chunk = (calls_in(20_000) - calls_in(4_000)) / 16_000

    assert per_chunk < 7, f"{per_chunk:.2f} calls a chunk"


@pytest.mark.parametrize(("text", "limit"), [("word{} ", 16), ("语言{}模型", 24)])
def test_a_stream_stays_small(text: str, limit: int) -> None:
    """Open streams keep under 16 KiB each on average, 24 of wide text, after a thousand chunks as after eight."""

    def kept(chunks: int, streams: int = 32) -> float:
        opened = []
        gc.collect()
        tracemalloc.start()
        for index in range(streams):  # each at another place of its batch
            stream, reader = observed(answer(chunks + streams, text))
            for _ in range(chunks + index):
                next(reader)
            opened.append((stream, reader))
        gc.collect()
        size = tracemalloc.get_traced_memory()[0] / streams
        tracemalloc.stop()
        for stream, reader in opened:
            reader.close()
            assert stream.chunks >= chunks - 2
        return size

    assert kept(1_000) < limit * 1024
    assert kept(8_000) < limit * 1024
