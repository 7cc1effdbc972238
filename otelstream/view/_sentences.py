# SPDX-License-Identifier: Apache-2.0
"""What became of a stream, in one sentence; of many, in one headline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ._timeline import Effects, Reversal, Timeline
from ._turns import Call, Row, Stop, Turn

_STALL_SOURCES = {
    "provider": "the provider was silent",
    "server_tool": "a server tool ran",
    "consumer": "the application did not read",
    "own_tool": "the application's tool ran",
    "event_loop": "the event loop was blocked",
    "unknown": "nobody knows why",
}
_WHO = {
    "app_close": "the application closed it",
    "task_cancel": "its task was cancelled",
    "timeout": "the application's time-out struck",
    "generator_close": "its generator was closed",
    "client_disconnect": "the client went away",
    "user_stop": "the user pressed Stop",
    "judge": "a judge asked for it",
    "gc": "it was dropped",
    "shutdown": "the program ended",
}
_PROPAGATION = {
    "closed_late": "; the provider was told {delay} late",
    "closed_by_gc": "; closed only when collected",
    "drained": "; yet it was read to the end",
    "still_open": "; never closed",
}


@dataclass(frozen=True, slots=True)
class Headline:
    """The two numbers a status code hides, and the sentence that sets them side by side."""

    streams: int
    said_200: int
    failed_after: int

    def __str__(self) -> str:
        if not self.streams:
            return "No stream yet."
        if not self.said_200:
            return f"None of {self.streams} said 200." if self.streams > 1 else "It never said 200."
        if not self.failed_after:
            return f"{self.said_200:,} said 200, and none of those failed after it."
        return f"{self.said_200:,} said 200, {self.failed_after:,} of those failed after it."


def headline(lines: Iterable[Timeline]) -> Headline:
    """Count what said 200, and what failed all the same."""
    ended = [line for line in lines if line.outcome != "open"]
    return Headline(len(ended), sum(line.said_200 for line in ended), sum(line.failed_after_200 for line in ended))


def sentence(line: Timeline) -> str:
    """Say what became of one stream."""
    return _sentence(line, _counted(line.effects))


def row_sentence(row: Row) -> str:
    """Say what became of a row: of its stream, or of its turn and the tools of that."""
    if row.line is None:
        return ""
    if row.turn is None:
        return sentence(row.line)
    return _sentence(row.line, _stood(row.turn.stop) if row.turn.stop else _ran(row.turn))


def relative(seconds_: float) -> str:
    """Where an instant lies from a Stop: `0.52 s before`."""
    return f"{seconds(abs(seconds_))} {'before' if seconds_ <= 0 else 'after'}"


def others(count: int) -> str:
    """Calls that a span counts and nothing names."""
    return f"{count} other {'call' if count == 1 else 'calls'}"


def _sentence(line: Timeline, more: str) -> str:
    said = _SAY.get(line.outcome, _unknown)(line)
    if line.retraction is not None:
        shown = f"Withdrawn after {characters(line.retraction.visible_chars)}, shown for"
        by = f" ({line.retraction.reason.replace('_', ' ')})" if line.retraction.reason not in {"", "other"} else ""
        said = f"{shown} {seconds(line.retraction.exposure)}{by}; {said[0].lower()}{said[1:]}"
    if line.reversals:
        said = f"{_taken_back(line.reversals)}; {said[0].lower()}{said[1:]}"
    if more:
        said = f"{said[:-1]}; {more}."
    return said


def _taken_back(reversals: Sequence[Reversal]) -> str:
    """The first reversal, or the first that was acted on: that is what hurts."""
    worst = next((each for each in reversals if each.acted_on), reversals[0])
    acted = ", acted on" if worst.acted_on else ""
    more = f", {len(reversals)} times in all" if len(reversals) > 1 else ""
    return f"Took {worst.before} back for {worst.after} after {seconds(worst.exposure)}{acted} ({worst.judge}{more})"


def _counted(effects: Effects) -> str:
    """The tool calls that a stop found, where only their number is known."""
    parts: list[str] = []
    for count, one, many in (
        (effects.committed, "had been committed", "had been committed"),
        (effects.running, "was running", "were running"),
        (effects.discarded, "was discarded", "were discarded"),
    ):
        if count:
            subject = "" if parts else " tool call" if count == 1 else " tool calls"
            parts.append(f"{count}{subject} {one if count == 1 else many}")
    return _listed(parts)


_STOOD = {
    "committed": ("had been committed", "had been committed"),
    "running": ("was running", "were running"),
    "discarded": ("was discarded", "were discarded"),
    "withheld": ("was withheld", "were withheld"),
    "compensated": ("was undone", "were undone"),
}


def _stood(stop: Stop) -> str:
    """The ledger of a turn in words."""
    parts: list[str] = []
    for word, calls, more in stop:
        who = [called(call) for call in calls] + ([others(more)] if more else [])
        verb = _STOOD[word][0 if len(calls) + more == 1 else 1]
        when = ""
        if word == "committed" and len(who) == 1 and calls and calls[0].ended is not None:
            when = f" {relative(calls[0].ended - stop.at)}"
        parts.append(f"{_listed(who)} {verb}{when}")
    return _listed(parts)


def _ran(turn: Turn) -> str:
    """When the tools of a turn ran that nobody stopped."""
    ran = [call for call in turn.calls if call.started is not None]
    parts = [f"{called(call)} {_WHEN.get(call.phase, 'ran')}{_ended(call)}" for call in ran[:3]]
    if len(ran) > 3:
        parts.append(f"{len(ran) - 3} more ran")
    withheld = [called(call) for call in turn.calls if call.state == "withheld"]
    return _listed([*parts, *([f"{_listed(withheld)} withheld"] if withheld else [])])


_WHEN = {
    "before_ready": "ran before its input was whole",
    "mid_stream": "ran mid-stream",
    "after_end": "ran after the end",
}


def called(call: Call, most: int = 40) -> str:
    """A tool's name, cut at *most* characters: it is the model's output, and may be long."""
    return call.name if len(call.name) <= most else call.name[: most - 1] + "…"


def _ended(call: Call) -> str:
    return " and failed" if call.state == "failed" else ""


def _listed(parts: Sequence[str]) -> str:
    return ", ".join(parts[:-1]) + (" and " if parts[1:] else "") + parts[-1] if parts else ""


def seconds(value: float) -> str:
    """A duration as people write it: 84 ms, 0.84 s, 3.0 s, 2 min 5 s."""
    if value < 0.1:
        return f"{value * 1000:.0f} ms"
    if value < 1:
        return f"{value:.2f} s"
    if value < 100:
        return f"{value:.1f} s"
    return f"{int(value // 60)} min {int(value % 60)} s"


def characters(count: int) -> str:
    return "1 character" if count == 1 else f"{count:,} characters"


def _where(line: Timeline) -> str:
    if line.phase == "before_response":
        return "before any answer"
    if line.phase == "finished":
        return "after its finish reason"
    if line.phase == "before_first_token":
        return "while still thinking" if line.first_chunk is not None else "before the first token"
    return f"after {characters(line.visible_chars)}" if line.visible_chars else "inside a tool's input"


def _tool(line: Timeline) -> str:
    name = line.tools[-1].name if line.tools else ""
    return f"{name}'s input" if name else "a tool's input"


def _retried(line: Timeline) -> str:
    return f" on attempt {line.attempts}, {seconds(line.last_attempt)} late" if line.attempts > 1 else ""


def _drained(line: Timeline) -> str:
    """A stop that nobody heeded."""
    who = _WHO.get(line.trigger, "it was asked to stop")
    where = f"after {characters(line.shown_at_stop)}" if line.shown_at_stop else "before anything was shown"
    rest = f": {characters(line.delivered_after)} more" if line.delivered_after else ""
    return f"{who[0].upper()}{who[1:]} {where}, yet it was read to the end{rest}."


def _completed(line: Timeline) -> str:
    if line.propagation == "drained" and line.fault == "none":
        return _drained(line)
    if line.fault == "malformed_tool_call":
        return f"Ended as if well, but {_tool(line)} is no valid JSON."
    if line.fault == "repetition" or line.loops:
        return f"Complete, but {_looped(line)}."
    stall = line.stall
    if stall and line.stalls == 1:
        why = _STALL_SOURCES.get(stall.source, _STALL_SOURCES["unknown"])
        return f"Complete, but froze for {seconds(stall.length)}: {why}."
    if line.stalls:
        return f"Complete, but froze {line.stalls} times, {seconds(line.stalled_time)} in all."
    begin = f"Complete{_retried(line)}: "
    if line.tools and line.finish_reason.startswith("tool"):
        listed = ", ".join(dict.fromkeys(tool.name for tool in line.tools))
        after = f"{characters(line.visible_chars)}, then " if line.visible_chars else ""
        return f"{begin}{after}asks for {listed}."
    if not line.visible_chars or line.first_token is None:
        return f"{begin}nothing to show."
    if line.attempts > 1:
        return f"{begin}{characters(line.visible_chars)}."
    return f"{begin}{characters(line.visible_chars)}, the first after {seconds(line.first_token)}."


def _looped(line: Timeline) -> str:
    if not line.loops:
        return "it repeats itself"
    worst = max(line.loops, key=lambda loop: loop.wasted)
    copies = f"{worst.copies:.0f} copies" if worst.copies else "copies"
    return f"in a loop: {copies} of {characters(worst.period)}"


def _truncated(line: Timeline) -> str:
    if line.propagation == "drained" and line.fault == "none":
        return _drained(line)
    limit = line.finish_reason or "its limit"
    if line.fault == "tool_call_cut_off":
        return f"Cut off by {limit} inside {_tool(line)}: it cannot run."
    if line.fault == "repetition" or line.loops:
        return f"Cut off by {limit}, {_looped(line)}."
    if line.fault == "malformed_tool_call":
        return f"Cut off by {limit}, and {_tool(line)} is no valid JSON."
    return (
        f"Cut off by {limit} after {characters(line.visible_chars)}."
        if line.visible_chars
        else f"Cut off by {limit} before anything was shown."
    )


def _refused(line: Timeline) -> str:
    if line.visible_chars:
        return f"Refused after {characters(line.visible_chars)} had been shown."
    return "Refused before anything was shown."


def _failed(line: Timeline) -> str:
    where = _where(line)
    kind = line.error_type
    match line.fault:
        case "provider_error":
            return f"Failed {where}: the provider said {kind or 'error'}."
        case "request_error":
            return f"Rejected {where}: {kind or 'the request is at fault'}."
        case "connection_lost":
            return f"Failed {where}: the connection broke."
        case "cut_short":
            return f"Cut short {where}: the body just ended, no error."
        case "timeout":
            return f"Timed out {where}, at {seconds(line.length)}."
        case "malformed_tool_call":
            return f"Failed {where}: {_tool(line)} is no valid JSON."
        case "protocol_error":
            return f"Failed {where}: what arrived could not be read."
        case _:
            return f"Failed {where}: {line.fault.replace('_', ' ')}."


def _cancelled(line: Timeline) -> str:
    who = _WHO.get(line.trigger, "the application stopped it")
    how = _PROPAGATION.get(line.propagation, "").format(delay=seconds(line.close_delay or 0.0))
    if line.propagation == "closed" and line.stop_asked is not None and line.close_delay is not None:
        how = f"; closed {seconds(line.close_delay)} later" if line.close_delay >= 0.001 else "; closed at once"
    if line.fault == "stalled":
        silence = max((hole.length for hole in line.holes), default=0.0)
        return f"Given up on after {seconds(silence)} of silence, {_where(line)}."
    return f"Stopped {_where(line)}: {who}{how}."


def _caller_error(line: Timeline) -> str:
    return f"Lost {_where(line)} to the application's own error."


def _abandoned(line: Timeline) -> str:
    if line.trigger == "shutdown":
        return f"Left open {_where(line)} when the program ended."
    if line.first_chunk is None and not line.chunks:
        return "Dropped without being read."
    if line.fault == "stalled":
        return f"Dropped in silence {_where(line)}, never closed."
    return f"Dropped {_where(line)}, never closed."


def _open(_: Timeline) -> str:
    return "Running."


def _unknown(line: Timeline) -> str:
    return f"{line.outcome.replace('_', ' ').capitalize()}."


_SAY = {
    "completed": _completed,
    "truncated": _truncated,
    "refused": _refused,
    "failed": _failed,
    "cancelled": _cancelled,
    "caller_error": _caller_error,
    "abandoned": _abandoned,
    "open": _open,
}
