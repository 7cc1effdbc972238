# SPDX-License-Identifier: Apache-2.0
"""A forked child counts from zero and leaves the parent's streams to the parent; what arrives is what was sent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from receiver import Receiver, over_http
from shapes import ASK, Reply, Tape, clients

import otelstream
from otelstream import _semconv as s
from otelstream.testing import ProviderSimulator, Script

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")

TEXT = [event.frame for event in Script().text("Calm seas, then wind.").finished().events]


@pytest.fixture(autouse=True)
def off() -> Iterator[None]:
    yield
    otelstream.uninstrument()


def points(reader: InMemoryMetricReader) -> dict[str, int]:
    """The sum of each counter of ours."""
    found: dict[str, int] = {}
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    if hasattr(point, "value"):
                        found[metric.name] = found.get(metric.name, 0) + int(point.value)
    return found


def in_child(work: Any) -> Any:
    """Run `work` in a forked child; return what it returned."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.write(write, json.dumps(work()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    assert os.waitpid(child, 0)[1] == 0, said
    return json.loads(said)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # 3.12 and later warn of forks with threads
@pytest.mark.parametrize("native", [True, False])
def test_a_child_starts_anew(native: bool) -> None:
    """In a child no stream of the parent's is open, its gap counts are zero, and dropping the copy of a parent's stream
    says nothing; the parent's own record is made once, by the parent."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    otelstream.instrument(meter_provider=provider)
    ended: list[Any] = []
    otelstream.OtelStreamInstrumentor().runtime.stream_ended = [ended.append]  # type: ignore[union-attr]
    transport, client, _ = clients(native=native)
    transport.tape = Tape([Reply(TEXT)])
    whole = client.messages.create(**ASK, stream=True)
    assert len(list(whole)) > 5
    others = len(otelstream.open_streams())  # that earlier tests left to the collector
    held = [client.messages.create(**ASK, stream=True)]
    next(held[0])
    before = points(reader)

    def child() -> dict[str, Any]:
        nonlocal ended
        open_before = len(otelstream.open_streams())
        gaps = points(reader).get(s.STREAM_GAP_BUCKET.name, 0)
        seen = len(ended)
        held.clear()
        dropped = len(ended) - seen
        transport.tape = Tape([Reply(TEXT)])
        list(client.messages.create(**ASK, stream=True))
        after = points(reader)
        return {
            "open": open_before,
            "gaps": gaps,
            "dropped": dropped,
            "ended": len(ended) - seen,
            "active": after[s.STREAM_ACTIVE.name],
            "gaps after": after[s.STREAM_GAP_BUCKET.name] > 0,
        }

    said = in_child(child)
    assert said == {"open": 0, "gaps": 0, "dropped": 0, "ended": 1, "active": 0, "gaps after": True}
    assert before[s.STREAM_GAP_BUCKET.name] > 0
    assert len(otelstream.open_streams()) == others + 1
    for moving in (s.CLOCK.name, s.START_TIME.name):
        before.pop(moving)
    now = points(reader)
    assert {name: now[name] for name in before} == before
    held[0].close()
    assert [stream.outcome for stream in ended] == ["completed", "cancelled"]


APP = """
import os
import anthropic
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
import otelstream

# So rarely that no export of the master's is under way at a fork: the child would inherit its lock, taken.
metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter(), 3_600_000)]))
trace.set_tracer_provider(TracerProvider())
trace.get_tracer_provider().add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
otelstream.instrument()
client = anthropic.Anthropic(base_url=os.environ["PROVIDER"], api_key="unused", max_retries=0)

def app(environ, start_response):
    ask = dict(model="m", max_tokens=9, messages=[dict(role="user", content="hi")])
    with client.messages.stream(**ask) as stream:
        text = stream.get_final_text()
    start_response("200 OK", [("content-type", "text/plain")])
    return [f"{os.getpid()} {len(text)}".encode()]
"""
REQUESTS, WORKERS, MAX_REQUESTS = 36, 4, 7


def test_gunicorn(tmp_path: Path) -> None:
    """Under gunicorn with preload_app and workers that are replaced after some requests, the streams counted and the
    spans that arrive are the requests sent, from as many instances as there were workers."""
    (tmp_path / "streamapp.py").write_text(APP)
    with ProviderSimulator() as sim, over_http() as receiver:
        environment = {
            **os.environ,
            "PROVIDER": sim.base_url,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{receiver.port}",
            "OTEL_BSP_SCHEDULE_DELAY": "300",
        }
        command = [
            *(sys.executable, "-m", "gunicorn", "--preload", "--workers", str(WORKERS), "--chdir", str(tmp_path)),
            *(
                "--max-requests",
                str(MAX_REQUESTS),
                "--bind",
                "127.0.0.1:0",
                "--no-control-socket",
                "--graceful-timeout",
                "60",
                "streamapp:app",
            ),
        ]
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as server:
            log: list[str] = []
            try:
                address = _listening(server, log)
                with ThreadPoolExecutor(WORKERS) as pool:
                    pool.submit(_follow, server, log)
                    said = list(pool.map(lambda _: _get(address), range(REQUESTS)))
                    served = Counter(line.split()[0] for line in said)
                    # A worker that is told to end while it ends is killed, and what it had not sent is lost.
                    ended = sum(count for count in served.values() if count >= MAX_REQUESTS)
                    receiver.wait_for(lambda: _arrived(receiver) == (ended, REQUESTS))
                    server.terminate()
                    server.wait(120)
            finally:
                server.kill()
        workers = set(served)
        assert len(said) == REQUESTS
        assert len(sim.log) == REQUESTS
        assert len(workers) > WORKERS, "no worker was replaced"
        streams = receiver.total(s.STREAMS.name)
        assert sum(streams.values()) == REQUESTS, (streams, "".join(log)[-3000:])
        assert _arrived(receiver) == (REQUESTS, REQUESTS)
        # One instance a worker; gunicorn's master and workers that served nothing report zeros or nothing.
        assert len([instance for instance, count in streams.items() if count]) == len(workers)
        assert "Traceback" not in "".join(log)


def _arrived(receiver: Receiver) -> tuple[int, int]:
    return sum(receiver.total(s.STREAMS.name).values()), len(list(receiver.spans()))


def _listening(server: Any, log: list[str]) -> str:
    for line in server.stderr:
        log.append(line)
        if "Listening at: " in line:
            return str(line.partition("Listening at: ")[2].split()[0])
    raise AssertionError("".join(log))


def _follow(server: Any, log: list[str]) -> None:
    log.extend(server.stderr)


def _get(address: str) -> str:
    with closing(urllib.request.urlopen(address, timeout=60)) as answer:
        return str(answer.read().decode())
