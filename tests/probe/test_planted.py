# SPDX-License-Identifier: Apache-2.0
"""The probe names exactly what a gateway does wrong: nothing direct, and one thing for each planted proxy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from otelstream.probe._bench import Bench, Settings
from otelstream.probe._client import Target
from otelstream.probe._report import Report
from otelstream.probe._run import run
from tests.probe import proxies

# No milliseconds are at stake in these: a body that is held is held for seconds, a cancel is lost or at once.
QUICK = Settings(
    repeats=1, chunks=40, gap=0.02, silence=2.5, total=3.0, bodies=(0.1, 2.0), pause=0.1, idle=(2.0,), patience=2.2
)
# Beside what a proxy breaks, these are to stay as they are.
BYSTANDERS = frozenset(
    {"error-event", "cut-fin", "early-end", "pings", "status", "dribble", "line-separators", "request-id"}
)
CANCELS = ("cancel-silent", "cancel-before-first", "cancel-before-headers")
PLANTED: list[tuple[type[proxies.Proxy], dict[str, str]]] = [
    (proxies.Buffers, {"cadence": "lost"}),
    (proxies.HoldsHead, {"headers-early": "late"}),
    (proxies.SwallowsPings, {"pings": "lost"}),
    (proxies.InventsPings, {"pings-invented": "invented"}),
    (proxies.SwallowsErrors, {"error-event": "hidden"}),
    (proxies.HidesFin, {"cut-fin": "hidden"}),
    (proxies.HidesReset, {"cut-reset": "hidden"}),
    (proxies.Completes, {"early-end": "hidden"}),
    (proxies.Drains, dict.fromkeys(("cancel-flowing", *CANCELS), "lost")),
    (proxies.NoticesWhenWriting, dict.fromkeys(CANCELS, "lost")),
    (proxies.TellsLate, dict.fromkeys(("cancel-flowing", *CANCELS), "late")),
    (proxies.RetriesStatuses, {"retries-429": "retried", "retries-5xx": "retried"}),
    (proxies.RetriesUnanswered, {"retries-unanswered": "retried"}),
    (proxies.RetriesHalfSent, {"retries-half-sent": "retried"}),
    (proxies.DropsTrace, {"traceparent": "lost"}),
    (proxies.DropsBeta, {"beta-header": "lost"}),
    (proxies.DropsRequestId, {"request-id": "lost"}),
    (proxies.DropsRetryAfter, {"retry-after": "lost"}),
    (proxies.Makes500, {"status": "changed"}),
    (proxies.CutsAtSeparators, {"line-separators": "lost"}),
    (proxies.ReplacesSeparators, {"line-separators": "changed"}),
    (proxies.DropsToolFragments, {"tool-fragments": "changed"}),
    (proxies.Recompresses, {"compression": "changed"}),
    (proxies.PacksAtTheEnd, {"compression": "late"}),
    (proxies.LimitsBodies, {"body-2": "lost"}),
]
# What also ends other checks that take long, or comes up in whatever is asked next.
ALONE: list[tuple[type[proxies.Proxy], dict[str, str]]] = [
    (proxies.LimitsTime, {"total-3": "lost"}),
    (proxies.LimitsSilence, {"idle-2": "lost", "pings-invented": "unseen"}),
    (proxies.KeepsBroken, {"reuse-after-cut": "lost"}),
]


def probed(proxy: Callable[[int], proxies.Proxy] | None, settings: Settings) -> Report:
    """What the probe says of a proxy; of our upstream itself where there is none."""
    bench = Bench(Target("http://127.0.0.1:1"), settings)
    bench.start()
    try:
        if proxy is None:
            bench.gateway = Target(bench.sim.base_url)
            return run(bench, 20)
        with proxy(bench.sim.port) as standing:
            bench.gateway = Target(f"http://127.0.0.1:{standing.port}")
            return run(bench, 20)
    finally:
        bench.stop()


def said(report: Report) -> dict[str, str]:
    return {result.code: result.verdict for result in report.results if result.verdict != "kept"}


@pytest.mark.parametrize("route", ["messages", "chat", "responses"])
def test_nothing_is_said_of_a_direct_connection(route: str) -> None:
    """Where the gateway is our upstream itself, everything is kept, and each line says what was measured."""
    only = BYSTANDERS | ({"cadence", "cancel-silent", "cut-reset"} if route == "messages" else set())
    report = probed(None, replace(QUICK, route=route, only=only))

    assert said(report) == {}, report.results
    assert {result.code for result in report.results} == only
    assert all(result.measured and not result.remedy for result in report.results)


# One of each kind in `make test`; all of them, with what a lost cancel and a time limit make it wait, in `make probes`.
QUICKLY = (
    proxies.SwallowsPings, proxies.SwallowsErrors, proxies.HidesFin, proxies.RetriesStatuses, proxies.DropsTrace,
    proxies.ReplacesSeparators,
)  # fmt: skip
EACH = [
    pytest.param(*each, marks=[] if each[0] in QUICKLY else pytest.mark.slow, id=each[0].__name__)
    for each in PLANTED + ALONE
]


@pytest.mark.parametrize(("proxy", "expected"), EACH)
def test_a_planted_proxy_is_named(proxy: type[proxies.Proxy], expected: dict[str, str]) -> None:
    """A proxy that breaks one thing gets exactly its verdict; what it leaves alone is kept."""
    bystanders = frozenset() if (proxy, expected) in ALONE else BYSTANDERS

    report = probed(proxy, replace(QUICK, only=frozenset(expected) | bystanders))

    assert said(report) == expected, "\n".join(report.lines())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("proxy", "expected"),
    [
        pytest.param(proxies.Proxy, {}, id="transparent"),
        *(pytest.param(*each, id=each[0].__name__) for each in PLANTED),
    ],
)
def test_every_check_on_every_planted_proxy(proxy: type[proxies.Proxy], expected: dict[str, str]) -> None:
    """The same with all checks, and with all that is kept by a proxy that changes nothing."""
    report = probed(proxy, replace(QUICK, idle=()))

    assert said(report) == expected, "\n".join(report.lines())
