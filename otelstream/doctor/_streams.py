# SPDX-License-Identifier: Apache-2.0
"""The six points: what the streams that a program made say of the program. No point is guessed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from otelstream.doctor._report import Finding, Point

Stream = Mapping[str, Any]
Judged = tuple[Point, list[Finding]]

_GOOD_CLOSE = ("closed", "not_needed")
_TEST = "a test with otelstream.testing"  # a name that whoever has only the wheel can look up


def audit(streams: Sequence[Stream]) -> tuple[list[Point], list[Finding]]:
    """Judge the streams by all six points."""
    points, findings = [], []
    for check in (first_token, half_formed, tools_after_block, cancel_path, marked_partial, side_effects):
        point, found = check(streams)
        points.append(point)
        findings += found
    return points, findings


def _all(count: int, noun: str, one: str = "", many: str = "") -> str:
    """All of so many, also of one: `the one call`, `all 3 calls`."""
    return f"the one {noun} {one}".rstrip() if count == 1 else f"all {count} {noun}s {many}".rstrip()


def first_token(streams: Sequence[Stream]) -> Judged:
    """Every stream with visible output has a time to first token."""
    name = "first token measured"
    shown = [stream for stream in streams if stream["visible_chars"]]
    if not shown:
        return Point(name, "unseen", "no stream had visible output"), []
    missing = [stream for stream in shown if stream["time_to_first_token"] is None]
    if not missing:
        return Point(name, "yes", f"of {_all(len(shown), 'stream')} with visible output"), []
    what = f"{len(missing)} of {len(shown)} streams with visible output have no time to first token"
    return Point(name, "no", what), [Finding("first-token", what, "report this: otelstream should have stamped it")]


def half_formed(streams: Sequence[Stream]) -> Judged:
    """Nobody acts on output that never becomes whole."""
    name = "half-formed output only previewed"
    acted = [stream for stream in streams if stream["acted"]]
    wrong = [stream for stream in acted if stream["partial"]]
    if wrong:
        what = f"users acted on {len(wrong)} answers that were still streaming and never became whole"
        remedy = "show unfinished output as a preview; let what it offers be used when view.partial is False"
        return Point(name, "no", what), [Finding("half-formed", what, remedy)]
    if acted:
        return Point(name, "yes", f"the {len(acted)} answers that were acted on early became whole"), []
    says = "what the program does with output before its end; otelstream.record_action() would tell"
    return Point(name, "unseen", says), []


def tools_after_block(streams: Sequence[Stream]) -> Judged:
    """No tool runs before the end of the block that asks for it."""
    name = "tools only after their block"
    calls = _calls(streams)
    if not calls:
        return Point(name, "unseen", "the model asked for no tool"), []
    early = Counter(call["name"] for call in calls if call["phase"] == "before_ready" and not call["guessed"])
    if early:
        what = f"started before the input was complete: {_counted(early)}"
        remedy = "dispatch on content_block_stop, or declare the tool with @otelstream.tool(hold=True)"
        return Point(name, "no", what), [Finding("tool-too-early", what, remedy)]
    unknown = Counter(call["name"] for call in calls if call["evidence"] is None or call["guessed"])
    if unknown:
        says = f"when these ran, if they did: {_counted(unknown)}; @otelstream.tool or otelstream.tool_call() tells"
        return Point(name, "unseen", says), []
    return Point(name, "yes", _all(len(calls), "call")), []


def cancel_path(streams: Sequence[Stream]) -> Judged:
    """A stop closes the connection to the provider at once."""
    name = "a cancel path to the provider"
    stopped = [stream for stream in streams if stream["propagation"]]
    bad = Counter(stream["propagation"] for stream in stopped if stream["propagation"] not in _GOOD_CLOSE)
    if bad:
        what = f"{sum(bad.values())} of {len(stopped)} stopped streams were not closed at once: {_counted(bad)}"
        remedy = "close the stream where it is read: `with` around it, and let the task's cancel reach it"
        return Point(name, "no", what), [Finding("cancel-path", what, remedy)]
    if stopped:
        return Point(name, "yes", f"{_all(len(stopped), 'stopped stream', 'was', 'were')} closed at once"), []
    return Point(name, "unseen", f"no stream was stopped; press Stop once while this runs, or in {_TEST}"), []


def marked_partial(streams: Sequence[Stream]) -> Judged:
    """The application asks how an interrupted answer ended; what it then stores is out of our sight."""
    name = "interrupted output marked partial"
    cut = [stream for stream in streams if stream["partial"] and stream["visible_chars"]]
    if not cut:
        return Point(
            name, "unseen", f"no answer was interrupted after its first token; interrupt one, or let {_TEST} do it"
        ), []
    asked = [stream for stream in cut if stream["asked"]]
    if len(asked) == len(cut):
        return Point(name, "yes", f"the program asked how {_all(len(cut), 'interrupted answer')} ended"), []
    says = (
        f"how {len(cut) - len(asked)} of {len(cut)} interrupted answers were stored: nothing read view.partial or "
        f"view.outcome; {_TEST} can look"
    )
    return Point(name, "unseen", says), []


def side_effects(streams: Sequence[Stream]) -> Judged:
    """Every tool says what it does to the world, and what it did for a cut or stopped answer can be undone."""
    name = "side effects declared and compensable"
    calls = _calls(streams)
    if not calls:
        return Point(name, "unseen", "the model asked for no tool"), []
    findings = []
    undeclared = Counter(call["name"] for call in calls if call["effect"] == "unknown")
    if undeclared:
        what = f"neither read nor write is declared of: {_counted(undeclared)}"
        remedy = '@otelstream.tool(effect="write"), or OTELSTREAM_TOOLS=name=write'
        findings.append(Finding("side-effects", what, remedy))
    broken = [stream for stream in streams if stream["partial"]]
    stands = Counter(
        call["name"] for call in _calls(broken) if call["effect"] == "write" and call["state"] == "committed"
    )
    if stands:
        what = f"done for an answer that was cut or stopped, and not undone: {_counted(stands)}"
        remedy = "hold it (@otelstream.tool(hold=True)), or undo it and say so: call.record_compensated()"
        findings.append(Finding("side-effects", what, remedy))
    if findings:
        return Point(name, "no", "; ".join(finding.what for finding in findings)), findings
    writes = [call for call in calls if call["effect"] == "write"]
    if writes and not any(call["state"] == "compensated" for call in writes):
        says = "declared; whether writes can be undone: no answer with a committed write was cut or stopped"
        return Point(name, "unseen", says), []
    return Point(name, "yes", _all(len(calls), "call")), []


def _calls(streams: Iterable[Stream]) -> list[Mapping[str, Any]]:
    return [call for stream in streams for call in stream["tools"]]


def _counted(counter: Counter[str]) -> str:
    return ", ".join(name if count == 1 else f"{name} ({count})" for name, count in sorted(counter.items()))
