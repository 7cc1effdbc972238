# SPDX-License-Identifier: Apache-2.0
"""Whatever comes, in whatever order: nothing of ours reaches the application, and each stream ends in one record."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import otelstream
from otelstream import _semconv as s
from otelstream import _trouble
from otelstream._core.process.closing import end
from otelstream._core.process.runtime import Runtime
from otelstream._core.process.tap import structural
from otelstream._core.record import batch, intake
from otelstream._core.record import ending as _ending
from otelstream._core.record.facts import WholeTool
from otelstream._core.record.settings import Settings
from otelstream._core.record.stream import clock
from otelstream._face.view import StreamView
from otelstream.anthropic._grammar import Grammar
from otelstream.testing import Script

TEXT = [event.frame for event in Script().text("Calm seas, then wind.").finished().events]


@pytest.fixture(autouse=True)
def off() -> Iterator[None]:
    _trouble._seen.clear()
    yield
    otelstream.uninstrument()
    _trouble._seen.clear()


# --- streams broken at random -----------------------------------------------------------------------------


def test_streams_broken_at_random() -> None:
    """2 000 streams, mutated, cut, re-chunked and left at random, go for the application as without us, log nothing,
    and each ends in exactly one record, one span and one count."""
    command = [sys.executable, str(Path(__file__).parent / "fuzz.py"), "--cases", "2000", "--jobs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "2000 cases" in done.stdout
    assert "0 failures" in done.stdout


# --- the state machine ------------------------------------------------------------------------------------

ENDINGS = [
    _ending.abandoned("gc"),
    _ending.abandoned("shutdown"),
    _ending.cancelled("app_close"),
    _ending.cancelled("timeout", "timeout"),
    _ending.CALLER_ERROR,
    _ending.CUT_SHORT,
    _ending.failed("connection_lost", "connection_error"),
    _ending.failed("malformed_tool_call"),
    _ending.by_finish_reason("length"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
BLOCKS = st.sampled_from(
    [
        "text",
        "thinking",
        "tool_use",
        "server_tool_use",
        "mcp_tool_use",
        "redacted_thinking",
        "compaction",
        "fallback",
        "?",
    ]
)


class Observation(RuleBasedStateMachine):
    """The adapter's calls in any order, from any place, before and after the end."""

    @initialize(chunk_events=st.booleans(), metric=st.sampled_from(["buckets", "semconv", "off"]))
    def begin(self, chunk_events: bool, metric: Any) -> None:
        self.records: list[Any] = []
        self.reader = InMemoryMetricReader()
        self.spans = InMemorySpanExporter()
        tracers = TracerProvider()
        tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        chosen = Settings(chunk_events=chunk_events, chunk_metric=metric, events="span", stall_threshold=1e-9)
        meter = MeterProvider([self.reader]).get_meter("otelstream")
        self.runtime = Runtime(chosen, tracers.get_tracer("otelstream"), meter, None, {})
        self.runtime.stream_ended = [self.records.append]
        self.stream = self.runtime.begin(operation="chat", provider="anthropic", model="m", grammar=Grammar())
        self.runtime.attach_span(self.stream, {})
        self.ended = False

    @rule()
    def attempt(self) -> None:
        self.stream.attempt()

    @rule(kind=st.sampled_from(["529", "connection_error"]))
    def retry(self, kind: str) -> None:
        self.stream.retry(kind)

    @rule(request_id=st.none() | st.text(max_size=4))
    def responded(self, request_id: str | None) -> None:
        self.stream.responded(request_id)

    @rule(name=st.sampled_from([None, "ping", "message_stop", "completion", "x"]), data=JSON)
    def any_event(self, name: str | None, data: Any) -> None:
        self._event(name, json.dumps(data))

    @rule(name=st.none() | st.text(max_size=5), data=st.text(max_size=20))
    def no_event(self, name: str | None, data: str) -> None:
        self._event(name, data)

    @rule()
    def message_start(self) -> None:
        usage = {"input_tokens": 3, "cache_read_input_tokens": 2}
        self._event("message_start", json.dumps({"type": "message_start", "message": {"id": "m", "usage": usage}}))

    @rule(kind=BLOCKS, text=st.sampled_from(["", "whole"]))
    def block_start(self, kind: str, text: str) -> None:
        block = {"type": kind, "id": "t", "name": "n", "text": text, "thinking": text}
        self._event("content_block_start", json.dumps({"type": "content_block_start", "content_block": block}))

    @rule()
    def block_stop(self) -> None:
        self._event("content_block_stop", '{"type":"content_block_stop"}')

    @rule(reason=st.sampled_from(["end_turn", "max_tokens", "refusal", "tool_use", "new_reason"]) | JSON)
    def message_delta(self, reason: Any) -> None:
        data = {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 7}}
        self._event("message_delta", json.dumps(data))

    @rule()
    def message_stop(self) -> None:
        self._event("message_stop", '{"type":"message_stop"}')

    @rule(kind=st.sampled_from(["overloaded_error", "", None]))
    def error(self, kind: Any) -> None:
        self._event("error", json.dumps({"type": "error", "error": {"type": kind, "message": "x"}}))

    @rule(
        field=st.sampled_from(
            [("text_delta", "text"), ("thinking_delta", "thinking"), ("input_json_delta", "partial_json")]
        ),
        text=st.text(max_size=12) | st.sampled_from(["ab" * 400, '{"a": 1}', "\\", '"']),
        count=st.integers(1, 60),
        summed=st.booleans(),
    )
    def deltas(self, field: tuple[str, str], text: str, count: int, summed: bool) -> None:
        delta = {"type": field[0], field[1]: text}
        data = json.dumps({"type": "content_block_delta", "index": 0, "delta": delta}, ensure_ascii=False)
        self._raw([data] * count, summed)

    @rule(datas=st.lists(st.text(max_size=30), min_size=1, max_size=4), summed=st.booleans())
    def bad_deltas(self, datas: list[str], summed: bool) -> None:
        self._raw(datas, summed)

    @rule()
    def uneven(self) -> None:
        """A flush may come from another thread between the two appends of a delta."""
        self.stream.waits.append(0.1)

    @rule(ending=st.sampled_from(ENDINGS), stamped=st.booleans())
    def end(self, ending: _ending.Ending, stamped: bool) -> None:
        end(self.stream, ending, clock() if stamped else None)
        self.ended = True

    @rule()
    def look(self) -> None:
        assert self.stream.state in s.STREAM_STATES
        assert StreamView(self.stream).as_dict()["model"] == "m"
        assert self.stream.silence >= 0

    @rule()
    def collect(self) -> None:
        self.reader.get_metrics_data()

    @rule()
    def tool_ready(self) -> None:
        intake.take(self.stream, WholeTool((0, 0), "n", "t", "{}"), "", clock())

    def _event(self, name: str | None, data: str) -> None:
        now = clock()
        structural(self.stream, name, data, now, now - 0.001, now)
        self.ended = self.ended or self.stream.ending is not None

    def _raw(self, datas: list[str], summed: bool) -> None:
        for data in datas:
            self.stream.waits.append(0.001)
            self.stream.datas.append(data)
        if summed:
            batch.flush(self.stream, clock())

    @invariant()
    def one_record(self) -> None:
        if not hasattr(self, "records"):
            return
        assert len(self.records) == int(self.ended)
        assert len(self.spans.get_finished_spans()) == int(self.ended)
        assert (self.stream.ending is not None) == self.ended
        assert len(self.stream.events) <= s.MAX_EVENTS
        assert not _trouble._seen, _trouble._seen
        if self.ended:
            assert self.stream.outcome in get_args(s.Outcome)
            assert self.stream.fault in get_args(s.Fault)
            assert self.stream.phase in get_args(s.Phase)
            assert (self.stream.duration or 0.0) >= 0

    def teardown(self) -> None:
        if hasattr(self, "stream"):
            end(self.stream, _ending.abandoned("shutdown"))
            assert len(self.records) == 1
            _, total = counted(self.reader)
            assert total == 1


Observation.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
TestObservation = Observation.TestCase


def counted(reader: InMemoryMetricReader) -> tuple[set[str], int]:
    """The names of what is measured, and how many streams were counted."""
    names, total = set(), 0
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                names.add(metric.name)
                if metric.name == s.STREAMS.name:
                    total += sum(point.value for point in metric.data.data_points)  # type: ignore[union-attr,misc]
    return names, int(total)


@pytest.mark.parametrize("threads", [8])
def test_ends_that_race(threads: int) -> None:
    """Of many ends at once, from many threads, one is the record."""
    records: list[Any] = []
    tracer, meter = trace.NoOpTracerProvider().get_tracer("t"), metrics.NoOpMeterProvider().get_meter("m")
    runtime = Runtime(Settings(), tracer, meter, None, {})
    runtime.stream_ended = [records.append]
    for _ in range(200):
        stream = runtime.begin(operation="chat", provider="anthropic", model="m", grammar=Grammar())
        barrier = threading.Barrier(threads)

        def race(stream: Any = stream, barrier: threading.Barrier = barrier, n: int = 0) -> None:
            barrier.wait()
            end(stream, ENDINGS[n % len(ENDINGS)])

        running = [threading.Thread(target=race, kwargs={"n": n}) for n in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    assert len(records) == 200
    assert not list(runtime.open_streams())
