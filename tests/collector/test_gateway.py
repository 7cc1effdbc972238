# SPDX-License-Identifier: Apache-2.0
"""The whole road with real Collectors: application, tools → agent → front → sampling gateways → backend."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from pathlib import Path

import pytest

from otelstream import _semconv as names

from .fleet import Gateway, Labels, gateway, wait_until
from .flow import Made, run_traffic
from .traffic import BAD

pytestmark = pytest.mark.usefixtures("binary")

STREAMS = 600
SHARE = 0.10


def bounds(count: int, share: float) -> tuple[float, float]:
    """Four standard deviations of the binomial: one run in 15 000 is outside by chance."""
    spread = 4 * math.sqrt(count * share * (1 - share))
    return count * share - spread, count * share + spread


def arrived_whole(road: Gateway, made: Made, traces: list[str]) -> list[str]:
    return [trace for trace in traces if set(road.backend.spans.get(trace, ())) == made.spans[trace]]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory):
    home: Path = tmp_path_factory.mktemp("gateway")
    with gateway(home, COLLECTOR_DECISION_WAIT="6s", COLLECTOR_BATCH_INTERVAL="200ms") as road:
        made = run_traffic(
            f"http://127.0.0.1:{road.agent.http}",
            streams=STREAMS,
            arguments=["--bad", "0.2", "--rate", "150", "--batch-interval", "0.2"],
            tool_arguments=["--delay", "1.0", "--batch-interval", "0.2"],
        )
        wait_until(road.idle, what="the queues to be empty")
        with contextlib.suppress(TimeoutError):  # the tests say better what is missing
            wait_until(lambda: len(arrived_whole(road, made, made.bad)) == len(made.bad), limit=20)
        yield road, made


def test_every_bad_trace_arrives_whole(ran: tuple[Gateway, Made]) -> None:
    """Each way of being bad is kept with all spans of both processes, tools that ended later included."""
    road, made = ran

    missing = set(made.bad) - set(arrived_whole(road, made, made.bad))

    assert Counter(made.kind[trace] for trace in missing) == {}
    assert {made.kind[trace] for trace in made.bad} == set(BAD)


def test_the_rest_arrives_at_the_configured_share_and_whole(ran: tuple[Gateway, Made]) -> None:
    """Ordinary streams are kept at the share, within binomial bounds, and no trace is split."""
    road, made = ran
    low, high = bounds(len(made.fine), SHARE)

    kept = [trace for trace in made.fine if trace in road.backend.spans]

    assert low <= len(kept) <= high
    assert sorted(arrived_whole(road, made, kept)) == sorted(kept)
    assert {span.service for trace in kept for span in road.backend.spans[trace].values()} == {
        "shop-backend",
        "shop-tools",
    }


def test_both_gateways_took_part(ran: tuple[Gateway, Made]) -> None:
    """The balancer spreads traces over the gateways; with one idle, wholeness would be no feat."""
    road, _ = ran

    seen = [one.own("otelcol_processor_tail_sampling_new_trace_id_received") for one in road.sampling]

    assert min(seen) > STREAMS / 4


def test_metrics_are_the_in_process_counts_exactly(ran: tuple[Gateway, Made]) -> None:
    """What Prometheus scrapes at the agent, and at the front, is what the process counted, sampled or not."""
    road, made = ran
    expected = Counter({tuple(key): count for *key, count in made.summary["counts"]})
    wanted = [names.label_name(name) for name in (names.OUTCOME, names.PHASE, names.FAULT)]

    def exposed(labels: Labels) -> tuple[str, ...]:
        found = dict(labels)
        return tuple(found[label] for label in wanted)

    for place in (road.agent, road.front):
        wait_until(
            lambda place=place: (
                sum(value for (series, _), value in place.exposed().items() if series == names.STREAMS.prometheus)
                == sum(expected.values())
            ),
            what="the last export",
        )
        got = {
            exposed(labels): int(value)
            for (series, labels), value in place.exposed().items()
            if series == names.STREAMS.prometheus
        }
        assert got == dict(expected)


def test_nothing_was_refused_or_repeated(ran: tuple[Gateway, Made]) -> None:
    """On a quiet road each span arrives once."""
    road, _ = ran

    assert sum(road.backend.repeated.values()) == 0
    assert road.agent.own("otelcol_receiver_refused_spans") == 0
