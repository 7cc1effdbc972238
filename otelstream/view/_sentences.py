# SPDX-License-Identifier: Apache-2.0
"""What became of a stream, in one sentence; of many, in one headline."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ._timeline import Timeline

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
    said = _SAY.get(line.outcome, _unknown)(line)
    # Tool names and error types are other people's text.
    return said if said.isprintable() else "".join(char if char.isprintable() else " " for char in said)


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


def _completed(line: Timeline) -> str:
    if line.fault == "malformed_tool_call":
        return f"Ended as if well, but {_tool(line)} is no valid JSON."
    if line.fault == "repetition" or line.loops:
        return f"Complete, but {_looped(line)}."
    stall = line.stall
    if stall and line.stalls == 1:
        return f"Complete, but froze for {seconds(stall.length)}: {_STALL_SOURCES[stall.source]}."
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
        how = f"; closed {seconds(line.close_delay)} later"
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
