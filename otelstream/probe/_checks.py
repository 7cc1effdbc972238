# SPDX-License-Identifier: Apache-2.0
"""The checks: what is asked for, down either road, and who judges it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from otelstream.probe import _judge, _requests
from otelstream.probe._bench import Bench, Leave, Seen, Settings
from otelstream.probe._report import HTTP2
from otelstream.testing import Exchange, Fault, Faults, Schedule, Script, prose

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
BETAS = {"messages": ("anthropic-beta", "interleaved-thinking-2025-05-14")}


@dataclass(frozen=True)
class Check:
    """One measurement and the codes that are judged by it.

    *once*: it is not repeated, since nothing in it depends on the moment. *beside*: it takes long and little else,
    and runs beside the others. *http2*: it is about the ends of an answer, which HTTP/2 has of its own.
    """

    ask: Callable[[Bench, str], list[Seen]]
    judges: Mapping[str, _judge.Judge]
    once: bool = False
    beside: bool = False
    http2: bool = False


def text(count: int, size: int = 100) -> Script:
    """An answer of *count* deltas; long enough that no buffer of one page holds it whole."""
    return Script("probe").text([prose(size, 7 * i) for i in range(count)])


def pausing(fault: Fault, seconds: float) -> Fault:
    """Let what was sent arrive before the cut, which is otherwise about lost bytes and not about ends."""

    def apply(plan: object) -> None:
        fault.apply(plan)  # type: ignore[arg-type]
        plan.end_pause = seconds  # type: ignore[attr-defined]

    return replace(fault, apply=apply)


def _cadence(bench: Bench, road: str) -> list[Seen]:
    settings = bench.settings
    return [bench.ask(road, text(settings.chunks), schedule=Schedule(gap=settings.gap))]


def _headers(bench: Bench, road: str) -> list[Seen]:
    return [bench.ask(road, text(5), schedule=Schedule(first=2 * bench.settings.pause + 0.2))]


def _pings(bench: Bench, road: str) -> list[Seen]:
    pause = bench.settings.pause
    return [bench.ask(road, text(20), fault=Faults.ping_only_after(5 * pause, every=pause, chunks=10))]


def _silence(bench: Bench, road: str, seconds: float) -> list[Seen]:
    fault = Faults.stall_after(seconds, chunks=10)
    return [bench.ask(road, text(20), fault=fault, within=seconds + 15)]


def _total(bench: Bench, road: str) -> list[Seen]:
    count = max(10, round(bench.settings.total / 0.1))
    schedule = Schedule(gap=0.1)
    return [bench.ask(road, text(count, 40), schedule=schedule, within=2 * bench.settings.total + 15)]


def _ends(bench: Bench, road: str, fault: Fault) -> list[Seen]:
    schedule = Schedule(gap=bench.settings.gap / 4)
    return [bench.ask(road, text(40), fault=pausing(fault, bench.settings.pause), schedule=schedule, within=6.0)]


def _refusals(bench: Bench, road: str) -> list[Seen]:
    faults = [Faults.http_error(429, retry_after=7), Faults.http_error(503), Faults.http_error(529)]
    return [bench.ask(road, text(1), fault=fault, within=30.0) for fault in faults]


def _unanswered(bench: Bench, road: str) -> list[Seen]:
    return [bench.ask(road, text(1), fault=Faults.reset_after("request"))]


def _reuse(bench: Bench, road: str) -> list[Seen]:
    broken = _ends(bench, road, Faults.reset_after(chunks=5))
    return [*broken, *(bench.ask(road, text(3)) for _ in range(3))]


def _plain(bench: Bench, road: str, script: Script, fault: Fault | None = None) -> list[Seen]:
    return [bench.ask(road, script, fault=fault, schedule=Schedule(gap=bench.settings.gap / 4), within=30.0)]


def _compressed(bench: Bench, road: str, fault: Fault | None) -> list[Seen]:
    schedule = Schedule(gap=bench.settings.gap / 2)
    return [bench.ask(road, text(30), fault=fault, schedule=schedule, headers={"accept-encoding": "gzip"})]


def _named(bench: Bench, road: str) -> list[Seen]:
    name, value = BETAS.get(bench.settings.route, ("openai-beta", "responses=v1"))
    return [bench.ask(road, text(2), headers={"traceparent": TRACE, name: value})]


def _large(bench: Bench, road: str, megabytes: float) -> list[Seen]:
    return [bench.ask(road, text(2), filler=round(megabytes * 1_000_000), within=60.0)]


def _sent(count: int) -> Callable[[Exchange], bool]:
    return lambda exchange: len(exchange.chunks) >= count


def _cancel(bench: Bench, road: str, leave: Leave, fault: Fault | None = None) -> list[Seen]:
    # Over two seconds of it are left where it flows: a cancel that comes late must still find it flowing.
    schedule = Schedule(gap=bench.settings.gap if fault is None else 0.0)
    left = 20 + round((bench.settings.patience + 2.5) / bench.settings.gap)
    return [bench.ask(road, text(left if fault is None else 20), fault=fault, schedule=schedule, leave=leave)]


def checks(settings: Settings) -> list[Check]:
    """All checks, in the order of the report."""
    ending, asking = Faults.cut_after(chunks=20), _requests.retries
    found = [
        Check(_cadence, {"cadence": _judge.cadence}, http2=True),
        Check(_headers, {"headers-early": _judge.headers_early}),
        Check(_pings, {"pings": _judge.pings}),
        Check(
            partial(_silence, seconds=settings.silence),
            {"pings-invented": _judge.pings_invented},
            once=True,
            beside=True,
        ),
        Check(partial(_ends, fault=Faults.error_after(chunks=20)), {"error-event": _judge.error_event}, http2=True),
        Check(
            partial(_ends, fault=ending),
            {"cut-fin": partial(_judge.cut, by="cut"), "retries-half-sent": asking()},
            http2=True,
        ),
        Check(
            partial(_ends, fault=Faults.reset_after(chunks=20)),
            {"cut-reset": partial(_judge.cut, by="reset")},
            http2=True,
        ),
        Check(partial(_ends, fault=Faults.end_after(chunks=20)), {"early-end": _judge.early_end}, http2=True),
    ]
    seen = Leave(_sent(5), lambda answer: len(answer.pieces) >= 5)
    silent = Leave(_sent(10), lambda answer: len(answer.pieces) >= 10)
    found += [
        Check(partial(_cancel, leave=seen), {"cancel-flowing": _judge.cancel}, http2=True),
        Check(
            partial(_cancel, leave=silent, fault=Faults.hang_after(chunks=10)),
            {"cancel-silent": _judge.cancel},
            http2=True,
        ),
        Check(
            partial(_cancel, leave=Leave(lambda each: each.headers_at), fault=Faults.hang_after("headers")),
            {"cancel-before-first": _judge.cancel},
            http2=True,
        ),
        Check(
            partial(_cancel, leave=Leave(lambda _: True, lambda _: True), fault=Faults.hang_after("request")),
            {"cancel-before-headers": _judge.cancel},
            http2=True,
        ),
        Check(_unanswered, {"retries-unanswered": asking()}, http2=True),
        Check(
            _refusals,
            {
                "retries-429": asking(0),
                "retries-5xx": asking(1, 2),
                "status": _requests.status,
                "retry-after": _requests.retry_after,
            },
            once=True,
        ),
    ]
    tool = Script("probe").tool_use("send_email", {"to": "a@example.org", "body": prose(400)}, chunk=12)
    marks = Script("probe").text(["before ", "one\u2028two", " between ", "three\u0085four", " after"])
    wide = Script("probe").text(["\u00e9\u20ac\U0001f6a2 " + prose(20, i) for i in range(3)])
    huge = Faults.huge_event_after(chunks=2, chars=1_000_000)
    contents = {
        "tool-fragments": (tool, None),
        "event-1mb": (text(4), huge),
        "dribble": (wide, Faults.dribble(5, gap=0.002)),
        "line-separators": (marks, None),
    }
    found += [
        Check(partial(_plain, script=script, fault=fault), {code: _judge.same_text}, once=True)
        for code, (script, fault) in contents.items()
    ]
    found += [
        Check(partial(_compressed, fault=None), {"compression": _judge.compression}, once=True),
        Check(partial(_compressed, fault=Faults.gzip()), {"compressed-upstream": _judge.compression}, once=True),
        *(
            Check(partial(_large, megabytes=size), {f"body-{size:g}": _requests.body}, once=True)
            for size in settings.bodies
        ),
        Check(
            _named,
            {
                "traceparent": _requests.traceparent,
                "beta-header": _requests.beta_header,
                "request-id": _requests.request_id,
            },
            once=True,
        ),
        Check(_reuse, {"reuse-after-cut": _requests.reuse}, once=True),
        Check(_total, {f"total-{settings.total:g}": _judge.endured}, once=True, beside=True),
        *(
            Check(partial(_silence, seconds=seconds), {f"idle-{seconds:g}": _judge.endured}, once=True, beside=True)
            for seconds in settings.idle
        ),
    ]
    return _wanted(found, settings)


def checks_http2(settings: Settings) -> list[Check]:
    """Those that are made over HTTP/2, too, where the gateway offers both."""
    whole = [check for check in checks(replace(settings, only=frozenset())) if check.http2]
    named = [replace(check, judges={HTTP2 + code: judge for code, judge in check.judges.items()}) for check in whole]
    return _wanted(named, settings)


def _wanted(found: list[Check], settings: Settings) -> list[Check]:
    wanted = [(check, {code: judge for code, judge in check.judges.items() if settings.wants(code)}) for check in found]
    return [replace(check, judges=judges) for check, judges in wanted if judges]
