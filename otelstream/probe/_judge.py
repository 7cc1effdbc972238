# SPDX-License-Identifier: Apache-2.0
"""From what both sides saw to a verdict: how the answers arrived, and what they said."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median_low

from otelstream.probe._bench import Seen
from otelstream.probe._client import Answer
from otelstream.probe._report import Judged

Runs = list[Seen]
Judge = Callable[[Runs, Runs], Judged]
LATEST = 2.0  # seconds after which a cancel has come to nothing
ENDS = {
    "waiting": "no end at all",
    "clean": "a clean end",
    "cut": "a cut",
    "reset": "a reset",
    "corrupt": "broken chunks",
    "nothing": "no answer",
}


def ended(answer: Answer) -> str:
    """How an answer ended, in words."""
    if answer.status not in {200, None}:
        return f"status {answer.status}"
    if answer.error is not None:
        return "an `error` event"
    if answer.terminal and answer.end == "clean":
        return "a complete answer"
    return ENDS[answer.end] + (f" ({answer.how})" if answer.how else "")


def complete(answer: Answer) -> bool:
    """Whether it is an answer as it should be."""
    return answer.status == 200 and answer.end == "clean" and answer.terminal and answer.error is None


def unable(direct: Runs) -> Judged | None:
    """Where the direct road already shows no complete answer, nothing can be said of the other one."""
    if all(complete(seen.answer) for seen in direct):
        return None
    return Judged("inconclusive", f"direct already shows {ended(direct[0].answer)}")


def missing(via: Runs) -> Judged | None:
    """What is wrong where the gateway's answer is not complete."""
    for seen in via:
        answer = seen.answer
        if not complete(answer):
            hidden = answer.status == 200 and answer.end == "clean" and answer.error is None
            said = f"the client saw {ended(answer)} after {len(answer.pieces)} deltas, the upstream sent all"
            return Judged("hidden" if hidden else "lost", said)
    return None


def cadence(direct: Runs, via: Runs) -> Judged:
    """By bursts, not by milliseconds, which a busy machine makes its own."""
    if found := unable(direct) or missing(via):
        return found
    sent = len(direct[0].answer.pieces)
    alone = median_low([seen.answer.bursts for seen in direct])
    through = median_low([seen.answer.bursts for seen in via])
    said = f"{through} of {sent} bursts, direct {alone}"
    if alone < 0.9 * sent:
        return Judged("inconclusive", f"{said}: this machine is too busy")
    share = through / alone
    return Judged("kept" if share >= 0.9 else "lost" if share < 0.1 else "late", said)


def headers_early(direct: Runs, via: Runs) -> Judged:
    """Whether status and headers were there before the upstream sent its first event."""

    def early(seen: Seen) -> bool:
        exchange, at = seen.upstream, seen.answer.headers_at
        return bool(at is not None and exchange and exchange.events and at < exchange.events[0].began)

    if found := unable(direct) or missing(via):
        return found
    if not any(map(early, direct)):
        return Judged("inconclusive", "direct they come with the first event already")
    count = sum(map(early, via))
    return Judged("kept" if 2 * count > len(via) else "late", f"before the first event in {count} of {len(via)} runs")


def pings(direct: Runs, via: Runs) -> Judged:
    if found := unable(direct) or missing(via):
        return found
    sent = median_low([_pings_sent(seen) for seen in via])
    came = median_low([seen.answer.pings for seen in via])
    said = f"{came} of {sent} pings"
    if not sent:
        return Judged("inconclusive", "the upstream sent none")
    return Judged("kept" if came >= sent else "changed" if came else "lost", said)


def _pings_sent(seen: Seen) -> int:
    return sum(write.kind == "ping" for exchange in seen.exchanges[:1] for write in exchange.events)


def pings_invented(direct: Runs, via: Runs) -> Judged:
    if found := unable(direct):
        return found
    invented = max(seen.answer.pings - _pings_sent(seen) for seen in via)
    if invented > 0:
        return Judged("invented", f"{invented} ping{'s' if invented > 1 else ''} came that the upstream did not send")
    if missing(via):
        return Judged(
            "unseen", f"the client saw {ended(via[0].answer)} in the silence: `idle` and `total` are about that"
        )
    return Judged("kept", "none came")


def error_event(direct: Runs, via: Runs) -> Judged:
    if not all(seen.answer.error for seen in direct):
        return Judged("inconclusive", f"direct shows {ended(direct[0].answer)}")
    said = "the upstream sent an `error` event; the client saw "
    for seen in via:
        answer = seen.answer
        if answer.error is None:
            hidden = answer.status == 200 and answer.end == "clean"
            return Judged("hidden" if hidden else "changed", said + ended(answer))
        expected = direct[0].answer.error
        if answer.terminal:
            return Judged("hidden", f"{said}it, and then a terminal event")
        if expected is not None and answer.error.data != expected.data:
            return Judged("changed", said + "another one")
    return Judged("kept", said + "it")


def cut(direct: Runs, via: Runs, by: str) -> Judged:
    """A cut must not look like a proper end; by which of the ways it is seen does not matter."""
    alone = direct[0].answer
    if any(seen.answer.end not in {"cut", "reset"} for seen in direct):
        return Judged("inconclusive", f"direct shows {ended(alone)}")
    verdicts = []
    for seen in via:
        answer = seen.answer
        said = f"the upstream {by} after {len(alone.pieces)} deltas; the client saw {ended(answer)}"
        if answer.status == 200 and len(answer.pieces) < len(alone.pieces):
            said += f" after {len(answer.pieces)}"
        if answer.end == "waiting":
            verdicts.append(Judged("lost", said + ", and waited"))
        elif answer.error is not None or answer.status != 200:
            verdicts.append(Judged("changed", said))
        elif answer.end == "clean" or answer.terminal:
            verdicts.append(Judged("hidden", said))
        else:
            verdicts.append(Judged("kept", said))
    return worst(verdicts)


def early_end(direct: Runs, via: Runs) -> Judged:
    """A proper end of the body without the terminal event is clean directly too: it must only not be made whole."""
    if any(seen.answer.end != "clean" or seen.answer.terminal for seen in direct):
        return Judged("inconclusive", f"direct shows {ended(direct[0].answer)}")
    for seen in via:
        answer = seen.answer
        if answer.terminal:
            return Judged("hidden", "the upstream sent no terminal event; the client got one")
        if answer.end == "waiting":
            return Judged("lost", "the upstream ended; the client saw no end at all")
        if answer.end != "clean" or answer.error is not None or answer.status != 200:
            return Judged("changed", f"the upstream ended; the client saw {ended(answer)}")
    return Judged("kept", "a clean end without a terminal event, as directly: only the reader can tell")


def worst(verdicts: list[Judged]) -> Judged:
    """The one that matters most."""
    order = ["hidden", "lost", "changed", "kept"]
    return min(verdicts, key=lambda each: order.index(each.verdict))


def cancel(direct: Runs, via: Runs) -> Judged:
    """By the upstream's log: when its connection was closed, after the client had left."""
    alone, through = [_delay(seen) for seen in direct], [_delay(seen) for seen in via]
    if any(delay is None or delay > 0.2 for delay in alone):
        return Judged("inconclusive", "direct the upstream learns of it late already: this machine is too busy")
    if any(seen.left_at is None for seen in via):
        done = next(seen for seen in via if seen.left_at is None)
        if done.upstream is None:
            return Judged("inconclusive", f"the request did not reach the upstream: {ended(done.answer)}")
        return Judged("unseen", f"the client had {ended(done.answer)} before it could cancel")
    if any(_over_before(seen) for seen in via):
        return Judged("unseen", "the upstream had sent everything before the cancel")
    known = [delay for delay in through if delay is not None and delay < LATEST]
    if 2 * len(known) <= len(through):
        return Judged("lost", f"the upstream was not told within {LATEST:g} s, direct in {_ms(alone)}")
    middle = sorted(known)[(len(known) - 1) // 2]
    return Judged(
        "kept" if middle < 0.2 else "late", f"the upstream was told after {1000 * middle:.0f} ms, direct {_ms(alone)}"
    )


def _over_before(seen: Seen) -> bool:
    exchange, left = seen.upstream, seen.left_at
    return bool(
        exchange and left and exchange.closed_at and exchange.closed_by == "server" and exchange.closed_at < left
    )


def _delay(seen: Seen) -> float | None:
    exchange, left = seen.upstream, seen.left_at
    if exchange is None or left is None or exchange.closed_at is None or exchange.closed_by != "peer":
        return None
    return max(0.0, exchange.closed_at - left)


def _ms(delays: list[float | None]) -> str:
    return f"{1000 * median_low([delay for delay in delays if delay is not None]):.0f} ms"


def same_text(direct: Runs, via: Runs) -> Judged:
    """The text is the same, and in as many deltas."""
    if found := unable(direct):
        return found
    alone, through = direct[0].answer, via[0].answer
    said = f"{len(through.text)} of {len(alone.text)} characters in {len(through.pieces)} of {len(alone.pieces)} deltas"
    if not alone.text.startswith(through.text) and through.status == 200:
        return Judged("changed", f"{said}, and not the same ones")
    if len(through.text) < len(alone.text):
        return Judged("lost", f"{said}, then {ended(through)}")
    if found := missing(via):
        return found
    return Judged("kept" if len(through.pieces) == len(alone.pieces) else "changed", said)


def compression(direct: Runs, via: Runs) -> Judged:
    """Whatever is compressed has to be flushed with each event, and readers have to be able to read it."""
    if found := unable(direct):
        return found
    alone, through = direct[0].answer, via[0].answer
    if through.undecodable or through.text != alone.text:
        return Judged("lost", f"{len(through.text)} of {len(alone.text)} characters could be read")
    before, after = (answer.header("content-encoding") or "none" for answer in (alone, through))
    said = f"content-encoding {after}, direct {before}"
    said += f"; {through.bursts} bursts, direct {alone.bursts}"
    if before == after:
        return Judged("kept", said)  # where it is held back all the same, the cadence says so
    return Judged("changed" if through.bursts >= 0.9 * alone.bursts else "late", said)


def endured(direct: Runs, via: Runs) -> Judged:
    """An answer that takes long arrives all the same."""
    if found := unable(direct):
        return found
    if found := missing(via):
        seen = next(each for each in via if not complete(each.answer))
        exchange, over = seen.upstream, seen.answer.ended_at
        taken = f", {over - exchange.request_at:.1f} s after the request" if exchange and over else ""
        left = exchange is not None and exchange.closed_by == "peer"
        sent = "saw its connection closed" if left else "sent all" if exchange else "was never asked"
        return Judged(found.verdict, f"the upstream {sent}; the client saw {ended(seen.answer)}{taken}")
    return Judged("kept", "the answer came whole")
