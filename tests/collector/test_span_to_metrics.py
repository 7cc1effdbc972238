# SPDX-License-Identifier: Apache-2.0
"""Metrics from native spans: what can be had, under the names it has everywhere, and nothing counted twice."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from otelstream import _semconv as names

from .fleet import Collector, Labels, Series, otlp_attributes, post_json, wait_until

pytestmark = pytest.mark.usefixtures("binary")

NATIVE = "com.anthropic.sdk.python"
DURATION = names.CLIENT_DURATION.prometheus
FIRST_CHUNK = names.CLIENT_TIME_TO_FIRST_CHUNK.prometheus


def span(seconds: float, **more: str | float | bool) -> dict[str, Any]:
    now = time.time_ns()
    attributes: dict[str, str | float | bool] = {
        names.OPERATION: "chat",
        names.PROVIDER: "anthropic",
        names.REQUEST_MODEL: "claude-sonnet-4-5",
        names.REQUEST_STREAM: True,
        names.RESPONSE_ID: "msg_" + os.urandom(4).hex(),
    }
    return {
        "traceId": os.urandom(16).hex(),
        "spanId": os.urandom(8).hex(),
        "name": "anthropic.messages.create",
        "kind": 3,
        "startTimeUnixNano": str(now),
        "endTimeUnixNano": str(now + int(seconds * 1e9)),
        "attributes": otlp_attributes(attributes | more),
    }


def send(agent: Collector, *spans: dict[str, Any], scope: str = NATIVE, instance: str = "one") -> None:
    resource = otlp_attributes({"service.name": "shop", "service.instance.id": instance})
    scoped = {"scope": {"name": scope}, "spans": list(spans)}
    body = {"resourceSpans": [{"resource": {"attributes": resource}, "scopeSpans": [scoped]}]}
    post_json(agent, "/v1/traces", body)


def by_error(series: Series, name: str) -> dict[str, float]:
    """The values of a series by error.type; a second instance or scope would make it fail by its labels."""
    found: Counter[str] = Counter()
    for (series_name, labels), value in series.items():
        if series_name == name:
            found[dict(labels).get(names.label_name(names.ERROR_TYPE), "")] += value
    return dict(found)


def counted(agent: Collector, durations: int, first_chunks: int) -> Series:
    """What the agent shows once both connectors, each at its own pace, have counted so much."""
    wanted = {f"{DURATION}_count": durations, f"{FIRST_CHUNK}_count": first_chunks}
    wait_until(lambda: all(sum(by_error(agent.exposed(), name).values()) == n for name, n in wanted.items()))
    return agent.exposed()


@pytest.fixture
def agent(collector: Callable[..., Collector]) -> Collector:
    return collector(
        "agent", "span-to-metrics", COLLECTOR_METRICS_EXPORTERS="[prometheus]", COLLECTOR_METRICS_INTERVAL="200ms"
    ).start()


def test_native_streams_are_counted_and_only_they(agent: Collector) -> None:
    """Streams of the native scope that otelstream did not enrich; each with its errors; nothing else."""
    first_chunk = {names.RESPONSE_TIME_TO_FIRST_CHUNK: 0.5}
    send(
        agent,
        *[span(3.0, **first_chunk) for _ in range(3)],
        span(2.0, **first_chunk, **{names.ERROR_TYPE: "overloaded_error"}),  # after its first chunk
        span(0.1, **{names.ERROR_TYPE: "rate_limit_error"}),  # before any
        span(9.0, **first_chunk, **{names.OUTCOME: "completed"}),  # its process has otelstream
        span(9.0, **first_chunk, **{names.REQUEST_STREAM: False}),
    )
    send(agent, span(9.0, **first_chunk), scope="another.instrumentation")

    got = counted(agent, 5, 4)

    assert by_error(got, f"{DURATION}_count") == {"": 3, "overloaded_error": 1, "rate_limit_error": 1}
    assert by_error(got, f"{FIRST_CHUNK}_count") == {"": 3, "overloaded_error": 1}
    assert by_error(got, f"{DURATION}_sum")[""] == pytest.approx(9.0)
    assert by_error(got, f"{FIRST_CHUNK}_sum")[""] == pytest.approx(1.5)


def labels_of(series: Series, name: str) -> set[Labels]:
    return {labels for series_name, labels in series if series_name == name}


def test_series_have_the_application_as_job_and_instance_and_no_more_labels(agent: Collector) -> None:
    """Two processes are two instances; labels are the convention's; the series are the two, with their buckets."""
    for instance in ("one", "two"):
        send(agent, span(1.0, **{names.RESPONSE_TIME_TO_FIRST_CHUNK: 0.2}), instance=instance)

    got = counted(agent, 2, 2)

    plain = [
        {key: value for key, value in labels if not key.startswith("otel_scope")}
        for labels in labels_of(got, f"{DURATION}_count")
    ]
    common = {
        "job": "shop",
        names.label_name(names.OPERATION): "chat",
        names.label_name(names.PROVIDER): "anthropic",
        names.label_name(names.REQUEST_MODEL): "claude-sonnet-4-5",
    }
    assert sorted(plain, key=lambda labels: labels["instance"]) == [
        {**common, "instance": "one"},
        {**common, "instance": "two"},
    ]
    assert {name for name, _ in got} == {
        "target_info",
        *(f"{base}_{part}" for base in (DURATION, FIRST_CHUNK) for part in ("bucket", "sum", "count")),
    }
    bounds = {dict(labels)["le"] for name, labels in got if name == f"{FIRST_CHUNK}_bucket"}
    assert {float(bound) for bound in bounds - {"+Inf"}} == set(names.CLIENT_TIME_TO_FIRST_CHUNK.bounds)


def test_spans_of_the_real_sdk_are_recognised(agent: Collector) -> None:
    """The SDK's own tracing, without otelstream in the process, against the simulator."""
    script = str(Path(__file__).with_name("native.py"))
    done = subprocess.run(
        [sys.executable, script, f"http://127.0.0.1:{agent.http}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stderr

    got = counted(agent, 7, 6)

    assert by_error(got, f"{DURATION}_count") == {
        "": 4,
        "overloaded_error": 2,  # one before the stream, one in it
        "connection_error": 1,
    }
    assert by_error(got, f"{FIRST_CHUNK}_count") == {
        "": 4,
        "overloaded_error": 1,
        "connection_error": 1,
    }
