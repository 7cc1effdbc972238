# SPDX-License-Identifier: Apache-2.0
"""What a client alone can see of a gateway in front of a real provider; all else is said to be unseen."""

from __future__ import annotations

from statistics import median_low

from otelstream.probe._bench import ProbeError, credentials, request_body
from otelstream.probe._client import Answer, Call, Target, UnreachableError, offers_http2
from otelstream.probe._judge import ended
from otelstream.probe._report import CODES, UNSEEN, Judged, Report, Result
from otelstream.probe._run import server_of, spoken

PROMPT = "Count from one to sixty in words, one number a line. Write nothing else."
TOKENS = 400


def probe(target: Target, route: str, model: str, most: int) -> Report:
    """Ask at most *most* times, the last time accepting compression; raises ProbeError where nothing is answered."""
    answers: list[Answer] = []
    for number in range(most):
        packed = most > 1 and number == most - 1
        answers.append(_ask(target, route, model, packed))
    report = Report(target.url, server_of(answers[0]), route, "live", answers[0].http, len(answers))
    found = _judge(answers, spoken(answers[0].http, not target.http2 and offers_http2(target)))
    for code in CODES:
        if code == "http2":
            continue
        judged = found.get(code, Judged("unseen", UNSEEN))
        report.results.append(Result(code, judged.verdict, judged.measured))
    return report


def _ask(target: Target, route: str, model: str, packed: bool) -> Answer:
    # The newest models of chat completions take no `max_tokens`.
    limits = {"messages": "max_tokens", "chat": "max_completion_tokens", "responses": "max_output_tokens"}
    body = request_body(route, model, PROMPT, **{limits[route]: TOKENS})
    given = {key.lower() for key, _ in target.headers}
    sent = {**credentials(route), **({"accept-encoding": "gzip"} if packed else {})}
    if given & {"authorization", "x-api-key", "api-key"}:
        sent = {key: value for key, value in sent.items() if key not in {"authorization", "x-api-key"}}
    try:
        call = Call(target, route, body, sent)
    except UnreachableError as error:
        raise ProbeError(f"--live {target.url}: {error}") from None
    try:
        call.read(within=120.0)
    finally:
        call.close()
    answer = call.answer
    if answer.status != 200:
        said = " ".join(answer.said.decode("utf-8", "replace").split())[:160]
        helps = "give the key by --header" if answer.status in {401, 403} else "see --model, --route and the URL"
        raise ProbeError(f"--live {target.url}: {ended(answer)}; {said or 'it said nothing'}; {helps}")
    return answer


def _judge(answers: list[Answer], http: str) -> dict[str, Judged]:
    count = len(answers)
    events = sum(len(answer.events) for answer in answers)
    broken = sum(event.broken for answer in answers for event in answer.events)
    whole = sum(answer.terminal and answer.end == "clean" for answer in answers)
    bad = next((answer for answer in answers if not (answer.terminal and answer.end == "clean")), None)
    bursts, pieces = (median_low(found) for found in zip(*((a.bursts, len(a.pieces)) for a in answers), strict=True))
    packed = answers[-1].header("content-encoding")
    pings = sum(answer.pings for answer in answers)
    hidden = bad is not None and bad.end == "clean" and bad.error is None
    return {
        # How the provider sent them is not known: one burst alone is what no provider does.
        "cadence": Judged(
            "lost" if bursts <= 1 < pieces else "inconclusive",
            f"{bursts} bursts for {pieces} deltas; what the provider sent is not known from here",
        ),
        "pings": Judged("inconclusive", f"{pings} in {count} answers; whose they are is not known from here"),
        "well-formed": Judged("changed" if broken else "kept", f"{broken} of {events} events are broken"),
        "terminal-event": Judged(
            "kept" if bad is None else "hidden" if hidden else "lost",
            f"{whole} of {count} answers said that they are complete"
            + (f"; one had {ended(bad)}" if bad is not None else ""),
        ),
        "compression": Judged(
            "unseen" if count < 2 else "changed" if packed else "kept",
            "needs --max-requests 2" if count < 2 else f"content-encoding {packed or 'none'} where gzip was accepted",
        ),
        "http-version": Judged("kept", http),
    }
