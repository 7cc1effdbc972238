# SPDX-License-Identifier: Apache-2.0
"""A run: every check down both roads, in turns, the long ones beside the others."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from otelstream.probe._bench import DIRECT, GATEWAY, Bench, ProbeError, Seen
from otelstream.probe._checks import Check, checks, checks_http2, text
from otelstream.probe._client import Answer, offers_http2
from otelstream.probe._http import Http2
from otelstream.probe._remedies import remedy
from otelstream.probe._report import HTTP2, Report, Result

Roads = dict[str, list[Seen]]
# What a machine that is busy for a moment may bring about: measured anew before it is said.
DOUBTED = frozenset({"late", "inconclusive"})
AGAIN = 2


def run(bench: Bench, wait: float = 300.0, progress: Callable[[str], None] = lambda _: None) -> Report:
    """Wait for the gateway to ask our upstream, measure, and judge; the bench is to be started."""
    settings = bench.settings
    hello = bench.reach(wait)
    server = server_of(hello.answer)
    report = Report(bench.gateway.url, server, settings.route, http=hello.answer.http, repeats=settings.repeats)
    planned = [(bench, check) for check in checks(settings)]
    offered = not bench.gateway.http2 and offers_http2(bench.gateway)
    if offered and Http2.available():
        over = bench.over_http2()
        over.ask(GATEWAY, text(3))
        planned += [(over, check) for check in checks_http2(settings)]
    for road in (DIRECT, GATEWAY):
        bench.ask(road, text(3))  # the warm-up: pools are filled, code is compiled
    measured: dict[int, Roads] = {}
    troubles: list[Exception] = []

    def beside(number: int, check: Check, road: str) -> None:
        try:
            measured[number][road] += check.ask(bench, road)
        except Exception as error:
            troubles.append(error)

    threads = []
    for number, (_, check) in enumerate(planned):
        measured[number] = {DIRECT: [], GATEWAY: []}
        if check.beside:
            for road in (DIRECT, GATEWAY):
                name = f"otelstream-probe-{road}"
                threads.append(threading.Thread(target=beside, args=(number, check, road), name=name, daemon=True))
                threads[-1].start()
    # Which road goes first must not decide anything: the machine is warmer for the second.
    order = random.Random(0)
    for number, (through, check) in enumerate(planned):
        if check.beside:
            continue
        progress(next(iter(check.judges)))
        for _ in range(1 + AGAIN):
            roads: Roads = {DIRECT: [], GATEWAY: []}
            for _ in range(1 if check.once else settings.repeats):
                for road in order.sample((DIRECT, GATEWAY), 2):
                    roads[road] += check.ask(through, road)
            if not any(judge(roads[DIRECT], roads[GATEWAY]).verdict in DOUBTED for judge in check.judges.values()):
                break
        measured[number] = roads
    for thread in threads:
        progress("what takes long")
        thread.join()
    if troubles:
        raise ProbeError(f"a check failed by itself: {troubles[0]!r}; this is an error of otelstream")
    for number, (through, check) in enumerate(planned):
        for code, judge in check.judges.items():
            found = judge(measured[number][DIRECT], measured[number][GATEWAY])
            of = HTTP2 * through.gateway.http2 + code.removeprefix(HTTP2)
            advice = "" if found.verdict in {"kept", "unseen", "inconclusive"} else remedy(of, server)
            report.results.append(Result(code, found.verdict, found.measured, advice))
    if settings.wants("http-version"):
        report.results.append(Result("http-version", "kept", spoken(hello.answer.http, offered)))
    return report


def spoken(http: str, offered: bool) -> str:
    """The version that was measured, and what there is besides."""
    if not offered:
        return http
    return f"{http}; HTTP/2 is offered, too" + ("" if Http2.available() else f", to measure it {Http2.INSTALL}")


def server_of(answer: Answer) -> str:
    """How the gateway names itself: its own `server`, else `via`, else a header that only it has."""
    named = answer.header("server")
    if named and named not in {"otelstream", "uvicorn"}:
        return named
    if any(key.startswith("x-litellm") for key, _ in answer.headers):
        return f"litellm {answer.header('x-litellm-version') or ''}".strip()
    return answer.header("via") or ("uvicorn" if named == "uvicorn" else "")
