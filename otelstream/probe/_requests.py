# SPDX-License-Identifier: Apache-2.0
"""From what both sides saw to a verdict: what became of requests, their headers, and refusals."""

from __future__ import annotations

from otelstream.probe._judge import Judge, Runs, complete, ended
from otelstream.probe._report import Judged


def retries(*places: int) -> Judge:
    """How many requests the upstream got for one of the client's; *places* are those of the measurement's."""

    def judge(_: Runs, via: Runs) -> Judged:
        runs = [via[place] for place in places] if places else via
        most = max(len(seen.exchanges) for seen in runs)
        if not most:
            return Judged("inconclusive", f"the request did not reach the upstream: {ended(runs[0].answer)}")
        said = f"{most} request{'s' if most > 1 else ''} upstream for one of the client's, which saw "
        said += ended(runs[0].answer)
        return Judged("retried" if most > 1 else "kept", said)

    return judge


def status(direct: Runs, via: Runs) -> Judged:
    pairs = [(alone.answer.status, through.answer.status) for alone, through in zip(direct, via, strict=True)]
    said = ", ".join(str(sent) if sent == got else f"{sent} became {got or 'no answer'}" for sent, got in pairs)
    if any(sent != got and got == 200 for sent, got in pairs):
        return Judged("hidden", said)
    if any(got is None for _, got in pairs):
        return Judged("lost", said)
    return Judged("kept" if all(sent == got for sent, got in pairs) else "changed", said)


def retry_after(direct: Runs, via: Runs) -> Judged:
    sent, got = (runs[0].answer.header("retry-after") for runs in (direct, via))
    if sent is None:
        return Judged("inconclusive", "the upstream sent none")
    said = f"{sent} sent, {got or 'none'} arrived"
    return Judged("kept" if got == sent else "lost" if got is None else "changed", said)


def traceparent(_: Runs, via: Runs) -> Judged:
    seen = via[0]
    if (exchange := seen.upstream) is None:
        return Judged("inconclusive", f"the request did not reach the upstream: {ended(seen.answer)}")
    sent, got = seen.sent["traceparent"], exchange.request.headers.get("traceparent")
    if got is None:
        return Judged("lost", "it was not there upstream")
    if got == sent:
        return Judged("kept", "the same upstream")
    if got.split("-")[1:2] == sent.split("-")[1:2]:
        return Judged("kept", "the same trace upstream, under a span of the gateway's")
    return Judged("changed", "another trace upstream")


def beta_header(_: Runs, via: Runs) -> Judged:
    seen = via[0]
    if (exchange := seen.upstream) is None:
        return Judged("inconclusive", f"the request did not reach the upstream: {ended(seen.answer)}")
    name, sent = next((key, value) for key, value in seen.sent.items() if key.endswith("-beta"))
    got = exchange.request.headers.get(name)
    if got is None:
        return Judged("lost", f"{name} was not there upstream")
    # A gateway may add betas of its own.
    return Judged("kept" if sent in got else "changed", f"{name}: {got}")


def request_id(_: Runs, via: Runs) -> Judged:
    answer, exchange = via[0].answer, via[0].upstream
    if exchange is None:
        return Judged("inconclusive", f"the request did not reach the upstream: {ended(answer)}")
    if any(value == exchange.request_id for _, value in answer.headers):
        return Judged("kept", "the upstream's arrived")
    other = answer.header("request-id") or answer.header("x-request-id")
    return Judged("changed", "another one arrived") if other else Judged("lost", "none arrived")


def body(_: Runs, via: Runs) -> Judged:
    answer = via[0].answer
    if complete(answer):
        return Judged("kept", "answered")
    asked = "was asked" if via[0].upstream else "was never asked"
    return Judged("lost", f"the upstream {asked}; the client saw {ended(answer)}")


def reuse(_: Runs, via: Runs) -> Judged:
    """The first was cut; those after it must not meet the connection that broke."""
    after = via[1:]
    good = sum(complete(seen.answer) for seen in after)
    said = f"{good} of {len(after)} requests after a cut were answered"
    return Judged("kept" if good == len(after) else "lost", said)
