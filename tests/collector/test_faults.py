# SPDX-License-Identifier: Apache-2.0
"""What breaks in the field, done to real Collectors: lost backends, killed agents, floods, bad input."""

from __future__ import annotations

import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from otelstream import _semconv as names

from .fleet import Backend, Collector, gateway, wait_until
from .flow import run_traffic

pytestmark = pytest.mark.usefixtures("binary")


def payload(spans: int = 1, **attributes: str | float) -> tuple[ExportTraceServiceRequest, str]:
    """A request of one trace, and the trace's id."""
    request = ExportTraceServiceRequest()
    made = request.resource_spans.add().scope_spans.add()
    trace = os.urandom(16)
    now = time.time_ns()
    for _ in range(spans):
        span = made.spans.add(name="chat", trace_id=trace, span_id=os.urandom(8))
        span.start_time_unix_nano, span.end_time_unix_nano = now, now + 10**9
        for key, value in attributes.items():
            kind = {str: "string_value", int: "int_value", float: "double_value"}[type(value)]
            span.attributes.append(KeyValue(key=key, value=AnyValue(**{kind: value})))
    return request, trace.hex()


def post(url: str, body: bytes, *, timeout: float = 10) -> int:
    """POST as an SDK would; return the status, also of a refusal."""
    headers = {"Content-Type": "application/x-protobuf"}
    request = urllib.request.Request(f"{url}/v1/traces", data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        refused.close()
        return refused.code


Make = Callable[..., Collector]


@pytest.fixture
def agent(collector: Make) -> Collector:
    return collector("agent")


def send(agent: Collector, count: int) -> set[str]:
    """Send `count` traces, all accepted; return their ids."""
    sent = set()
    for _ in range(count):
        request, trace = payload()
        assert post(f"http://127.0.0.1:{agent.http}", request.SerializeToString()) == 200
        sent.add(trace)
    return sent


@pytest.mark.parametrize(
    ("streams", "away", "rate"),
    [
        pytest.param(300, (100, 200), 100, id="short"),
        pytest.param(7500, (500, 6500), 50, id="two-minutes", marks=pytest.mark.slow),
    ],
)
def test_a_lost_backend_costs_nothing_but_time(tmp_path: Path, streams: int, away: tuple[int, int], rate: int) -> None:
    """The backend goes away under load and comes back: every bad trace arrives whole, and no stream waits for it."""
    with gateway(tmp_path, COLLECTOR_DECISION_WAIT="30s") as road:
        times: list[float] = []

        def weather(ended: int) -> None:
            if ended in away:
                times.append(time.monotonic())
                (road.backend.stop if ended == away[0] else road.backend.start)()

        made = run_traffic(
            f"http://127.0.0.1:{road.agent.http}",
            streams=streams,
            arguments=["--bad", "0.2", "--rate", str(rate), "--batch-interval", "0.2"],
            tool_arguments=["--delay", "0.5", "--batch-interval", "0.2"],
            on_stream=weather,
        )
        wait_until(
            lambda: all(set(road.backend.spans[trace]) == made.spans[trace] for trace in made.bad),
            limit=60,
            what="all bad traces, whole",
        )

    lost, back = times
    without = sorted(took for trace, took in made.took.items() if lost < made.when[trace] < back)
    with_it = sorted(took for trace, took in made.took.items() if not lost < made.when[trace] < back)
    medians = [values[len(values) // 2] for values in (with_it, without)]
    tails = [values[len(values) * 99 // 100] for values in (with_it, without)]
    print(
        f"\naway {back - lost:.0f} s; {len(made.bad)} of {len(made.bad)} bad traces whole; a stream's telemetry takes "
        f"p50 {medians[0] * 1e6:.0f}, p99 {tails[0] * 1e6:.0f} us with the backend, "
        f"p50 {medians[1] * 1e6:.0f}, p99 {tails[1] * 1e6:.0f} us without"
    )
    assert medians[1] < 2 * medians[0] + 0.001


def test_what_a_restart_of_a_sampling_gateway_costs(collector: Make, backend: Backend) -> None:
    """What it held undecided, and what it knew of traces it had kept: the bad part of a trace arrives all the same.

    A trace that was kept before loses a late span that says nothing bad itself; one that turns bad afterwards loses
    what came before. Neither loses the span for which it is kept.
    """
    sampling = collector("gateway-sampling", COLLECTOR_SAMPLE_PERCENT=0).start()
    front = collector(
        "gateway-front",
        COLLECTOR_SAMPLING_GATEWAYS=f"[127.0.0.1:{sampling.grpc}]",
        COLLECTOR_FRONT_BATCH_INTERVAL="50ms",
    ).start()
    url = f"http://127.0.0.1:{front.http}"
    bad, was_bad = payload(1, **{names.OUTCOME: "failed"})
    fine, turns_bad = payload(1, **{names.OUTCOME: "completed"})

    def later(trace: str, **attributes: str | float) -> ExportTraceServiceRequest:
        request, _ = payload(1, **attributes)
        request.resource_spans[0].scope_spans[0].spans[0].trace_id = bytes.fromhex(trace)
        return request

    def held() -> float:
        return sampling.own("otelcol_processor_tail_sampling_new_trace_id_received")

    for request in (bad, fine):
        assert post(url, request.SerializeToString()) == 200
    wait_until(lambda: held() == 2 and was_bad in backend.spans)

    sampling.stop()
    sampling.start()
    for request in (later(was_bad, tool="search"), later(turns_bad, **{names.OUTCOME: "failed"})):
        assert post(url, request.SerializeToString()) == 200

    wait_until(lambda: turns_bad in backend.spans and held() == 2)
    assert [span.attributes[names.OUTCOME] for span in backend.spans[turns_bad].values()] == ["failed"]
    assert [span.attributes[names.OUTCOME] for span in backend.spans[was_bad].values()] == ["failed"]


def test_what_a_killed_agent_had_accepted_arrives_after_its_restart(agent: Collector, backend: Backend) -> None:
    """`kill -9` with the backend away: what the application was told is accepted was on disk."""
    backend.stop()
    agent.start()
    sent = send(agent, 40)

    agent.stop(signal.SIGKILL)
    backend.start()
    agent.start()

    wait_until(lambda: sent <= backend.spans.keys(), what="the traces of before the kill")


def test_a_queue_file_that_is_none_ends_the_start_with_its_name(agent: Collector) -> None:
    """Something else in the queue file's place: the start ends, and says which exporter's file to remove."""
    agent.start()
    agent.stop()
    for file in agent.queue.iterdir():
        file.write_bytes(b"not a database" * 1000)

    with pytest.raises(RuntimeError, match='failed to start "otlp_http/next" exporter: invalid database'):
        agent.start()


def flood(url: str, body: bytes, until: Callable[[], bool], *, limit: float = 30) -> list[int]:
    """Send as fast as answers come until a condition holds; bounded in time."""
    end = time.monotonic() + limit
    statuses: list[int] = []
    while time.monotonic() < end and not until():
        statuses.append(post(url, body))
    return statuses


def test_a_flood_is_refused_not_died_of(collector: Make) -> None:
    """Over its memory limit a gateway answers 503, lives, and serves again when the pressure is gone."""
    front = collector(
        "gateway-front",
        COLLECTOR_SAMPLING_GATEWAYS="[127.0.0.1:9]",  # nobody takes anything off its hands
        COLLECTOR_MEMORY_MIB=90,
        COLLECTOR_MEMORY_SPIKE_MIB=20,
        COLLECTOR_QUEUE_SPANS=2_000_000,
        GOMEMLIMIT="80MiB",
    ).start()
    request, _ = payload(400, **{f"a{n}": "x" * 100 for n in range(20)})

    statuses = flood(
        f"http://127.0.0.1:{front.http}", request.SerializeToString(), lambda: statuses_of_refusal(front) > 20
    )

    assert set(statuses) == {200, 503}  # retryable: an SDK or an agent tries again
    assert front.alive()
    assert front.resident_mib() < 250


def statuses_of_refusal(front: Collector) -> float:
    return front.own("otelcol_processor_memory_limiter_refused_spans") / 400


def test_an_unreachable_gateway_fills_the_disk_not_the_application(collector: Make) -> None:
    """A gateway behind a wrong port: the agent accepts, keeps, and says where it cannot reach."""
    agent = collector("agent", COLLECTOR_EXPORT_ENDPOINT="http://127.0.0.1:9").start()

    send(agent, 20)

    wait_until(lambda: agent.own("otelcol_exporter_queue_size") > 0)
    wait_until(lambda: "127.0.0.1:9: connect: connection refused" in agent.log.read_text())


def test_a_full_queue_refuses_with_a_retryable_answer(collector: Make) -> None:
    """A queue at its size limit answers 503; what it holds stays."""
    agent = collector("agent", COLLECTOR_EXPORT_ENDPOINT="http://127.0.0.1:9", COLLECTOR_QUEUE_BYTES=20_000).start()
    request, _ = payload(10, filler="x" * 100)

    statuses = flood(
        f"http://127.0.0.1:{agent.http}",
        request.SerializeToString(),
        lambda: agent.own("otelcol_exporter_enqueue_failed_spans") > 0,
    )

    assert (statuses[0], statuses[-1]) == (200, 503)
    assert agent.alive()


def test_a_tls_mismatch_is_said_and_loses_nothing(collector: Make, backend: Backend) -> None:
    """https to a plain port: the log says so, the data waits; with the address mended it arrives."""
    agent = collector("agent", COLLECTOR_EXPORT_ENDPOINT=backend.url.replace("http:", "https:")).start()
    sent = send(agent, 5)
    wait_until(lambda: "tls: first record does not look like a TLS handshake" in agent.log.read_text())
    agent.stop()

    agent.environment["COLLECTOR_EXPORT_ENDPOINT"] = backend.url
    agent.start()

    wait_until(lambda: sent <= backend.spans.keys())


def test_an_oversized_payload_is_refused_for_good(agent: Collector, backend: Backend) -> None:
    """Over 16 MiB the agent answers 400, which no SDK tries again; the next request is served."""
    agent.start()
    request, _ = payload(1, filler="x" * (17 * 2**20))

    assert post(f"http://127.0.0.1:{agent.http}", request.SerializeToString()) == 400
    sent = send(agent, 1)
    wait_until(lambda: sent <= backend.spans.keys())


def test_garbage_is_refused_for_good(agent: Collector, backend: Backend) -> None:
    """A body that is no OTLP gets 400; the next request is served."""
    agent.start()

    assert post(f"http://127.0.0.1:{agent.http}", b"\xff" * 100) == 400
    sent = send(agent, 1)
    wait_until(lambda: sent <= backend.spans.keys())


def test_a_hostile_attribute_set_upsets_no_policy(collector: Make, backend: Backend) -> None:
    """Attributes of the wrong type, by thousands, or with odd keys match nothing and break nothing."""
    sampling = collector("gateway-sampling", COLLECTOR_SAMPLE_PERCENT=0, COLLECTOR_DECISION_WAIT="2s").start()
    front = collector("gateway-front", COLLECTOR_SAMPLING_GATEWAYS=f"[127.0.0.1:{sampling.grpc}]").start()
    hostile: list[dict[str, str | float]] = [
        {names.STREAM_REPETITIONS: "many", names.STALLS_PROVIDER: "1"},
        {names.OUTCOME: 7, names.SUCCEEDED_THEN_FAILED: "true", names.CANCEL_PROPAGATION: 1.5},
        {names.STREAM_REPETITIONS: float("nan"), names.SIDE_EFFECTS_COMMITTED: float("-inf")},
        {f"key\x00{n}\n{{}}": "v" for n in range(3000)},
        {"": "empty key", "k" * 10_000: "long key", names.FAULT: "\u202e" * 5000},
    ]
    for attributes in hostile:
        request, _ = payload(1, **attributes)
        assert post(f"http://127.0.0.1:{front.http}", request.SerializeToString()) == 200
    bad, bad_trace = payload(1, **{names.OUTCOME: "failed", names.STREAM_REPETITIONS: "many", "": "x"})
    assert post(f"http://127.0.0.1:{front.http}", bad.SerializeToString()) == 200

    wait_until(lambda: bad_trace in backend.spans)
    wait_until(lambda: sampling.own("otelcol_processor_tail_sampling_new_trace_id_received") == len(hostile) + 1)
    wait_until(lambda: sampling.own("otelcol_processor_tail_sampling_sampling_traces_on_memory") == 0)
    assert backend.spans.keys() == {bad_trace}
    assert sampling.own("otelcol_processor_tail_sampling_sampling_policy_evaluation_error") == 0


def test_a_port_in_use_is_named(collector: Make) -> None:
    """A listener that cannot be had ends the start with the address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        agent = collector("agent", COLLECTOR_LISTEN_HTTP=address)

        with pytest.raises((RuntimeError, TimeoutError), match=f"{address}.*address already in use"):
            agent.start()
