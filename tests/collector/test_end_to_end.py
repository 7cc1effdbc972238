# SPDX-License-Identifier: Apache-2.0
"""The instrumented SDK, the simulator's faults, and the whole road of Collectors: what leaves is what happened.

The short run is part of the suite; the full one (5 000 streams, a gateway restarted on the way) is `slow`.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from otelstream import _semconv as names

from .fleet import ROOT, Collector, Gateway, Labels, Series, free_port, gateway, wait_until
from .flow import Made, run_traffic
from .live import MODEL

pytestmark = pytest.mark.usefixtures("binary")

SHARE = 0.10


@dataclass(frozen=True)
class Restart:
    """A sampling gateway that went and came back; monotonic times."""

    how: str
    gone: float
    back: float


@dataclass
class Run:
    """One run of the road, ended and settled."""

    road: Gateway
    made: Made
    streams: int
    restarts: list[Restart] = field(default_factory=list)
    prometheus: str | None = None

    def in_process(self, name: str) -> float:
        """The sum of a counter over its labels, as the process counted."""
        return sum(float(point["value"]) for point in self.made.summary["metrics"] if point["name"] == name)

    def whole(self, trace: str) -> bool:
        return set(self.road.backend.spans.get(trace, ())) == self.made.spans[trace]


@pytest.fixture(
    scope="module", params=[pytest.param(90, id="short"), pytest.param(5000, id="full", marks=pytest.mark.slow)]
)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    streams: int = request.param
    full = streams >= 1000
    home: Path = tmp_path_factory.mktemp("road")
    wait = 30 if full else 6
    restarts: list[Restart] = []
    with contextlib.ExitStack() as running:
        road = running.enter_context(gateway(home, COLLECTOR_DECISION_WAIT=f"{wait}s", COLLECTOR_NUM_TRACES=50000))
        url = running.enter_context(prometheus_of(home, road.front))

        def restart(number: int, how: signal.Signals) -> None:
            gone = time.monotonic()
            road.sampling[number].stop(how)
            time.sleep(3)  # as a pod takes to be scheduled again
            road.sampling[number].start()
            restarts.append(Restart(how.name, gone, time.monotonic()))

        others = [
            threading.Thread(target=restart, args=(1, signal.SIGTERM)),
            threading.Thread(target=restart, args=(0, signal.SIGKILL)),
        ]

        def on_stream(ended: int) -> None:
            if full and ended in (streams // 3, streams * 2 // 3):
                others[ended >= streams // 2].start()

        made = run_traffic(
            f"http://127.0.0.1:{road.agent.http}",
            streams=streams,
            module="live",
            arguments=[
                "--bad",
                "0.03" if full else "0.17",
                "--rate",
                "40" if full else "90",
                "--batch-interval",
                "0.5",
            ],
            tool_arguments=["--delay", "1.5", "--batch-interval", "0.5"],
            on_stream=on_stream,
            limit=900,
        )
        for other in others if full else ():
            other.join()
        done = Run(road, made, streams, restarts)
        done.prometheus = url
        settle(done)
        counted = done.in_process(names.STREAMS.name)
        wait_until(
            lambda: (
                sum(value for (name, _), value in road.front.exposed().items() if name == names.STREAMS.prometheus)
                == counted
            ),
            what="the last metrics at the front",
        )
        yield done


def settle(run: Run, *, quiet: float = 2.5, limit: float = 60) -> None:
    """Wait until the backend has seen nothing new for a while; more than any batch interval on the road."""
    end = time.monotonic() + limit
    seen, since = -1, time.monotonic()
    while time.monotonic() - since < quiet and time.monotonic() < end:
        if (now := run.road.backend.span_count) != seen:
            seen, since = now, time.monotonic()
        time.sleep(0.1)


@contextlib.contextmanager
def prometheus_of(home: Path, scraped: Collector) -> Iterator[str | None]:
    """A real Prometheus that scrapes a Collector every second; its address, or None where there is no binary."""
    if not (binary := shutil.which("prometheus")):
        yield None
        return
    port = free_port()
    target = f"127.0.0.1:{scraped.prometheus}"
    job = {"job_name": "collector", "honor_labels": True, "static_configs": [{"targets": [target]}]}
    config = {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "scrape_configs": [job]}
    (home / "prometheus.yaml").write_text(json.dumps(config))
    process = subprocess.Popen(
        [
            binary,
            f"--config.file={home / 'prometheus.yaml'}",
            f"--storage.tsdb.path={home / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        ]
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)


def query(url: str, expression: str) -> list[dict[str, Any]]:
    address = f"{url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    with urllib.request.urlopen(address, timeout=10) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found


def under_way(run: Run, restart: Restart) -> set[str]:
    """The traces of which spans were on their way, or held, as the gateway went, or came while it was away.

    A trace is on its way for its tool's delay and the batch intervals. What is older had been decided.
    """
    return {trace for trace, when in run.made.when.items() if restart.gone - 6 < when < restart.back + 1}


def test_every_bad_trace_arrives_whole(run: Run) -> None:
    """Each kind of bad stream is kept with every span of both processes."""
    broken = {trace for trace in run.made.bad if not run.whole(trace)}
    excused = {trace for restart in run.restarts for trace in under_way(run, restart)}

    assert Counter(run.made.kind[trace] for trace in broken - excused) == {}
    assert {run.made.kind[trace] for trace in run.made.bad} - {"unplanned"} == set(run.made.summary["kinds"])


def test_a_restart_costs_no_bad_stream(run: Run) -> None:
    """A gateway that is told to end, or killed: late tools of bad traces may be lost, bad streams are not."""
    if not run.restarts:
        pytest.skip("the short run restarts nothing")
    missing = {trace for trace in run.made.bad if trace not in run.road.backend.spans}
    for restart in run.restarts:
        there = under_way(run, restart)
        bad = there & set(run.made.bad)
        broken = {trace for trace in bad if not run.whole(trace)}
        print(
            f"\n{restart.how}: away {restart.back - restart.gone:.1f} s; {len(there)} traces under way, "
            f"{len(bad)} of them bad: {len(bad & missing)} lost, {len(broken - missing)} without a late tool"
        )
    repeated = sum(run.road.backend.repeated.values())
    print(f"spans that came twice: {repeated} of {run.road.backend.span_count}")

    assert missing == set()


def test_the_rest_is_kept_at_the_share_and_no_trace_is_split(run: Run) -> None:
    """Ordinary traces arrive within four standard deviations of the share, each whole."""
    spread = 4 * math.sqrt(len(run.made.fine) * SHARE * (1 - SHARE))

    kept = [trace for trace in run.made.fine if trace in run.road.backend.spans]

    assert abs(len(kept) - SHARE * len(run.made.fine)) <= spread
    assert [trace for trace in kept if not run.whole(trace)] == []
    print(f"\nkept {len(kept)} of {len(run.made.fine)} ordinary traces")


def bound(value: object) -> str:
    """A bucket's bound, however it is printed: `2`, `2.0` and `2e+00` are one."""
    return str(float(str(value)))


def series_of(point: dict[str, Any]) -> Series:
    """What a point of the process must look like in Prometheus."""
    metric = next(metric for metric in names.METRICS if metric.name == point["name"])
    labels: dict[str, str] = {}
    for key, value in point["labels"].items():
        plain = str(value).lower() if isinstance(value, bool) else str(value)
        labels[names.label_name(key)] = bound(value) if key == names.GAP_LE else plain
    base = metric.prometheus

    def one(suffix: str, **more: str) -> tuple[str, Labels]:
        return base + suffix, frozenset((labels | more).items())

    if "counts" not in point:
        return {one(""): point["value"]}
    series: Series = {one("_sum"): point["sum"], one("_count"): sum(point["counts"])}
    cumulative = 0
    for upper, count in zip([*point["bounds"], "+Inf"], point["counts"], strict=True):
        cumulative += count
        series[one("_bucket", le=bound(upper))] = cumulative
    return series


def without_origin(series: Series) -> Series:
    """Series without the labels that a scraped target adds: whose they are, and of which scope."""
    origin = ("otel_scope", "job", "instance")
    return {
        (
            name,
            frozenset(
                (key, bound(value) if key == "le" else value) for key, value in labels if not key.startswith(origin)
            ),
        ): value
        for (name, labels), value in series.items()
    }


def test_every_metric_equals_the_in_process_number_exactly(run: Run) -> None:
    """Each series of the process, buckets included, stands at the agent and the front with that very value.

    Sums of seconds alone may differ in the last bits: the two readers add the same numbers up in other batches. The
    clock says when each of them read.
    """
    expected: Series = {}
    for point in run.made.summary["metrics"]:
        if point["name"] != names.CLOCK.name:
            expected |= series_of(point)
    assert sum(value for (name, _), value in expected.items() if name == names.STREAMS.prometheus) >= run.streams

    for place in (run.road.agent, run.road.front):
        got = without_origin(place.exposed())
        wrong = {key: (value, got.get(key)) for key, value in expected.items() if got.get(key) != value}
        sums = {key for key, (value, seen) in wrong.items() if key[0].endswith(("_sum", "_sum_total")) and seen}
        assert {key: pair for key, pair in wrong.items() if key not in sums} == {}
        assert all(math.isclose(*wrong[key], rel_tol=1e-12) for key in sums)


def test_series_keep_the_applications_job(run: Run) -> None:
    """A scraped Collector shows the application's job and instance, for `honor_labels`."""
    origins = {
        (dict(labels)["job"], dict(labels)["instance"])
        for (name, labels) in run.road.front.exposed()
        if name == names.STREAMS.prometheus
    }

    assert {job for job, _ in origins} == {"shop/shop-backend"}
    assert len(origins) == 1


def expressions() -> list[str]:
    """Every PromQL expression of the generated dashboards, with Grafana's variables filled in."""
    found: list[str] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(expression := node.get("expr"), str):
                found.append(expression)
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    for file in sorted((ROOT / "dashboards").rglob("*.json")):
        if "schema" not in file.name:
            walk(json.loads(file.read_text()))
    return found


def test_prometheus_answers_by_this_road(run: Run) -> None:
    """The real Prometheus, scraping the front, has the counts and answers every dashboard query without error."""
    if run.prometheus is None:
        pytest.skip("no prometheus binary: apt-get install prometheus")
    total = f"{run.in_process(names.STREAMS.name):.0f}"

    wait_until(
        lambda: (
            [entry["value"][1] for entry in query(str(run.prometheus), f"sum({names.STREAMS.prometheus})")] == [total]
        )
    )
    variables = {"$__rate_interval": "5m", "$__interval": "5m", "$__range": "1h", "$__range_s": "3600"}
    answered = 0
    asked = expressions()
    for expression in asked:
        for variable, value in variables.items():  # `$__range` is not the beginning of `$__range_s`
            expression = re.sub(rf"\${{{variable[1:]}}}|{re.escape(variable)}\b", value, expression)
        expression = fill(expression)
        try:
            answered += bool(query(run.prometheus, expression))
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from None
    print(f"\n{answered} of {len(asked)} dashboard queries returned data; model {MODEL}")
    assert not asked or answered > len(asked) / 3


def fill(expression: str) -> str:
    """Match anything where a dashboard has a template variable."""
    expression = re.sub(r'(=|!=|=~|!~)"\$\{?\w+(?::\w+)?\}?"', '=~".*"', expression)
    return re.sub(r"\$\{?\w+(?::\w+)?\}?", "1", expression)
