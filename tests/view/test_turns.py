# SPDX-License-Identifier: Apache-2.0
"""Tool calls beside their streams: which lane, which instant, and what a Stop found."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from otelstream import _semconv as names
from otelstream.view import _geometry, _page, _terminal
from otelstream.view._record import SpanRecord
from otelstream.view._sentences import row_sentence
from otelstream.view._session import PageFile, Session
from otelstream.view._sink import ViewExporter
from otelstream.view._terminal import ASCII, UNICODE, Style
from otelstream.view._timeline import timeline
from otelstream.view._turns import Row, Turn, assemble

from .conftest import START, MakeSpan, stream_span

Event = tuple[str, float, dict[str, Any]]
Play = Callable[..., list[Row]]


def _event(name: str, at: float, tool: str, **said: Any) -> Event:
    return name, at, {names.TOOL_NAME: tool, names.TOOL_CALL_ID: f"id-{tool}", **said}


def _ready(at: float, tool: str) -> Event:
    return _event(names.EVENT_TOOL_READY, at, tool, **{names.TOOL_CALL_INPUT: "valid"})


def _dispatched(at: float, tool: str, effect: str = "write", phase: str = "mid_stream") -> Event:
    said = {names.TOOL_CALL_EFFECT: effect, names.DISPATCH_PHASE: phase}
    return _event(names.EVENT_TOOL_DISPATCHED, at, tool, **said)


def _finished(at: float, tool: str, state: str = "committed") -> Event:
    return _event(names.EVENT_TOOL_FINISHED, at, tool, **{names.TOOL_CALL_STATE: state})


@pytest.fixture
def stream(make_span: MakeSpan) -> Callable[..., ReadableSpan]:
    """Make the span of a stream that began `start` seconds after the first, with more events than its own."""

    def make(*more: Event, start: float = 0.0, turn: str = "t", counts: tuple[int, ...] = (), **said: Any) -> Any:
        attributes, events, length = stream_span(**said)
        attributes[names.TURN_ID] = turn
        attributes |= dict(
            zip(
                (names.SIDE_EFFECTS_COMMITTED, names.SIDE_EFFECTS_RUNNING, names.SIDE_EFFECTS_DISCARDED),
                counts,
                strict=False,
            )
        )
        return make_span(attributes, [*events, *more], length, start=START + start)

    return make


@pytest.fixture
def tool(make_span: MakeSpan) -> Callable[..., ReadableSpan]:
    """Make the span of a tool that ran from `start`, linked to the stream that asked for it."""

    def make(name: str, of: ReadableSpan, start: float, length: float, *events: Event, **said: Any) -> Any:
        status = said.pop("status", StatusCode.UNSET)
        attributes = {names.TOOL_NAME: name, names.TOOL_CALL_ID: f"id-{name}", **said}
        return make_span(attributes, list(events), length, start=START + start, links=(of,), status=status)

    return make


def _rows(*spans: ReadableSpan) -> list[Row]:
    """The rows that a page would draw of what was received."""
    records = [SpanRecord.from_span(span) for span in spans]
    records = [SpanRecord.from_json(record.to_json()) for record in records]
    lines = [timeline(record) for record in records if record.is_stream]
    return assemble([Row("chat", line) for line in lines], [record for record in records if record.is_tool])


def _turn(*spans: ReadableSpan) -> Turn:
    (row,) = _rows(*spans)
    assert row.turn is not None
    return row.turn


STOPPED = {
    "outcome": "cancelled", "phase": "mid_stream", "trigger": "user_stop", "propagation": "closed",
}  # fmt: skip


def _stopped(asked: float, length: float) -> dict[str, Any]:
    return {**STOPPED, "asked": asked, "length": length, names.CANCEL_CLOSE_DELAY: length - asked}


def test_streams_without_tools_stay_as_they_are(stream: Any) -> None:
    """Neither a stop nor a turn makes lanes where no tool ran, and a call that nobody served makes none either."""
    spans = [stream(), stream(start=1), stream(start=9, **_stopped(2.0, 2.1)), stream(_ready(3, "search"), start=30)]

    rows = _rows(*spans)

    assert [row.turn for row in rows] == [None] * 4


def test_a_tool_in_mid_stream(stream: Any) -> None:
    """Its events on the stream's own span are enough."""
    turn = _turn(stream(_ready(1.0, "search"), _dispatched(1.2, "search", "read"), _finished(1.5, "search")))

    (call,) = turn.calls
    assert (call.ready, call.started, call.ended) == (1.0, 1.2, 1.5)
    assert (turn.state(call), call.effect, call.phase) == ("committed", "read", "mid_stream")


def test_a_tool_that_ran_after_the_end(stream: Any, tool: Any) -> None:
    """Its events on its own span, which is linked to the stream's, are placed on the stream's axis."""
    asking = stream(_ready(3.9, "send"), reason="tool_use", length=4.0)
    ran = tool("send", asking, 5.0, 1.0, _dispatched(0.1, "send", phase="after_end"), _finished(0.9, "send"))

    turn = _turn(asking, ran)

    (call,) = turn.calls
    assert (call.ready, call.started, call.ended) == pytest.approx((3.9, 5.1, 5.9))
    assert turn.length == pytest.approx(5.9)


@pytest.mark.parametrize(("status", "state"), [(StatusCode.UNSET, "committed"), (StatusCode.ERROR, "failed")])
def test_a_span_of_somebody_else(stream: Any, tool: Any, status: StatusCode, state: str) -> None:
    """A tool's span that ended while its call was noted as running says by its status what became of it."""
    asking = stream(_ready(3.9, "send"), reason="tool_use", length=4.0)
    ran = tool("send", asking, 5.0, 1.0, status=status, **{names.TOOL_CALL_STATE: "running"})

    turn = _turn(asking, ran)

    (call,) = turn.calls
    assert (call.started, call.ended, turn.state(call)) == (pytest.approx(5.0), pytest.approx(6.0), state)


@pytest.mark.parametrize(
    ("start", "reason", "joined"), [(4.5, "tool_use", True), (4.5, "end_turn", False), (2.0, "end_turn", True)]
)
def test_a_chat_that_has_one_id_for_all_its_turns(
    stream: Any, tool: Any, start: float, reason: str, joined: bool
) -> None:
    """A stream goes on with what came before where that had asked for a tool, or had not ended: no other joins."""
    events = [_ready(3.9, "send")] if reason == "tool_use" else []
    first = stream(*events, reason=reason, length=4.0)
    second = stream(_ready(1, "search"), _dispatched(1.2, "search"), _finished(1.5, "search"), start=start)

    rows = _rows(first, second)

    assert len(rows) == (1 if joined else 2)
    assert sum(len(row.lines) for row in rows) == 2
    if joined:
        assert rows[0].turn is not None
        assert rows[0].turn.starts == pytest.approx((0.0, start))
        assert rows[0].turn.calls[-1].started == pytest.approx(start + 1.2)


def test_a_trace_around_a_whole_batch_is_no_picture(stream: Any) -> None:
    """More streams than a reader can compare are drawn each by itself, with its own tools."""
    events = [_ready(1.0, "search"), _dispatched(1.2, "search"), _finished(1.5, "search")]

    rows = _rows(*(stream(*events, start=index / 10) for index in range(40)))

    assert len(rows) == 40
    assert all(row.turn is not None and len(row.turn.calls) == 1 for row in rows)


def _ledger(turn: Turn) -> dict[str, tuple[list[str], int]]:
    assert turn.stop is not None
    return {word: ([call.name for call in calls], more) for word, calls, more in turn.stop}


def test_the_ledger(stream: Any, tool: Any) -> None:
    """Done before, running at, refused, not begun: each call once, reads never, and the newest first."""
    first = stream(
        *(_ready(0.6 + index / 10, name) for index, name in enumerate(("read", "one", "two", "slow", "held", "gone"))),
        _dispatched(1.3, "read", "read"), _finished(1.4, "read"),
        _dispatched(1.3, "one"), _finished(1.5, "one"),
        _dispatched(1.3, "two"), _finished(1.6, "two"),
        _dispatched(1.3, "slow"), _dispatched(1.3, "held"),
        counts=(2, 1, 1), **_stopped(2.0, 2.1),
    )  # fmt: skip
    held = tool("held", first, 1.3, 0.7, **{names.TOOL_CALL_STATE: "withheld", names.TOOL_CALL_EFFECT: "write"})

    turn = _turn(first, held)

    assert _ledger(turn) == {
        "committed": (["two", "one"], 0),
        "running": (["slow"], 0),
        "withheld": (["held"], 0),
        "discarded": (["gone"], 0),
    }
    assert turn.stop is not None
    assert turn.stop.at == pytest.approx(2.0)
    (refused,) = turn.stop.withheld
    assert (refused.started, refused.ended) == (None, pytest.approx(2.0))


def test_a_tool_that_went_on_after_the_stop_was_running(stream: Any, tool: Any) -> None:
    """What ended after the ask was running at it, though its span says committed; what failed left nothing."""
    first = stream(
        _ready(0.7, "slow"), _ready(0.8, "broken"), _dispatched(1.0, "slow"), _dispatched(1.0, "broken"),
        _finished(1.5, "broken", "failed"), counts=(0, 1, 0), **_stopped(2.0, 2.1),
    )  # fmt: skip
    slow = tool("slow", first, 1.0, 3.0, _finished(3.0, "slow"))

    turn = _turn(first, slow)

    assert _ledger(turn) == {"running": (["slow"], 0)}
    assert [turn.state(call) for call in turn.calls] == ["committed", "failed"]


def test_a_stop_in_the_second_stream(stream: Any, tool: Any) -> None:
    """The ask of the second stream is placed on the axis of the first, whose tool it finds done."""
    first = stream(_ready(1.9, "send"), reason="tool_use", length=2.0)
    sent = tool("send", first, 2.1, 0.4, _dispatched(0.0, "send"), _finished(0.4, "send"))
    second = stream(start=3.0, counts=(1, 0, 0), **_stopped(1.0, 1.1))

    turn = _turn(first, sent, second)

    assert _ledger(turn) == {"committed": (["send"], 0)}
    assert turn.stop is not None
    assert (turn.stop.at, turn.starts) == (pytest.approx(4.0), pytest.approx((0.0, 3.0)))
    assert row_sentence(_rows(first, sent, second)[0]).endswith("; send had been committed 1.5 s before.")


def test_counts_without_names(stream: Any) -> None:
    """Where the spans of tools were not received, the stopped stream's counts still are, in ledger and sentence."""
    first = stream(_ready(1.0, "a"), _ready(1.1, "b"), counts=(2, 0, 1), **_stopped(2.0, 2.1))

    (row,) = _rows(first)

    assert row.turn is not None
    assert _ledger(row.turn) == {"committed": ([], 2), "discarded": ([], 1)}
    assert row_sentence(row).endswith("; 2 other calls had been committed and 1 other call was discarded.")


@pytest.fixture
def rows(stream: Any, tool: Any) -> list[Row]:
    """A stopped turn with a call of every state, and one whose tools ran to their end."""
    states = ("committed", "failed", "withheld", "compensated")
    evil = "<script>\x1b[2J" + "x" * 300
    first = stream(
        _ready(0.7, "slow"), _dispatched(1.0, "slow"), _ready(0.7, evil), counts=(1, 1, 1), **_stopped(2.0, 2.1),
    )  # fmt: skip
    tools = [tool(f"tool_{state}", first, 1.0, 0.5, **{names.TOOL_CALL_STATE: state}) for state in states]
    other = stream(_ready(1, evil), _dispatched(1.2, evil), _finished(1.5, evil), start=20, turn="u")
    return _rows(first, *tools, other)


@pytest.mark.parametrize("grouped", [True, False])
def test_the_page_has_a_lane_for_every_call(rows: list[Row], grouped: bool) -> None:
    """State as a word and a shape, the Stop through every lane, the ledger; no name is taken as markup."""
    page = _page.page(rows, grouped=grouped, pairs=[("Two", rows)])

    for state in ("committed", "failed", "withheld", "compensated"):
        grade = _geometry.STATE_GRADES[state]
        assert page.count(f'class="call {grade}" role="img" aria-label="tool_{state} {state}"') == 2
        assert f'href="#call-{state}"' in page
        assert f'id="call-{state}"' in page
    (stopped,) = (row.turn for row in rows if row.turn is not None and row.turn.stop is not None)
    assert page.count('class="s"') == 2 * (1 + len(stopped.calls))
    assert "committed before Stop" in page
    assert "<script" not in page
    assert page.count('class="pair"') == 1
    assert "4 said 200" in re.sub("<.*?>", "", page)


def test_a_page_without_tools_says_nothing_of_them(make_line: Any) -> None:
    """No lane, no ledger, no mark in the legend."""
    page = _page.page([Row("x", make_line())])
    body = page[page.index("<header>") :]

    assert not re.search('class="(turn|call|ledger|pair)', body)
    assert "tool runs" not in body


@pytest.mark.parametrize("width", [60, 80, 131, 132, 140])
@pytest.mark.parametrize("glyphs", [UNICODE, ASCII], ids=["unicode", "ascii"])
@pytest.mark.parametrize("colour", [False, True], ids=["plain", "colour"])
def test_terminal_lanes(rows: list[Row], width: int, glyphs: Any, colour: bool) -> None:
    """No line is too wide, colour adds only colour, ASCII is ASCII, and every state is there as a word."""
    style = Style(width, colour, glyphs)

    lines = _terminal.table(rows, style) + _terminal.pair(rows, style, 3.0) + _terminal.legend(style, lanes=True)

    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    assert max(len(line) for line in plain) <= width
    assert not any("\x1b" in line for line in plain)
    assert glyphs is UNICODE or all(line.isascii() for line in lines)
    for state in ("committed", "failed", "withheld", "compensated", "running", "discarded"):
        assert any(re.search(rf"  \S+.* {state}\b", line) for line in plain), state


def test_the_stop_is_in_one_column(rows: list[Row]) -> None:
    """The ask is marked in the lane of the stream and in the lane of each of its calls, one above the other."""
    (stopped,) = (row for row in rows if row.turn is not None and row.turn.stop is not None)

    lines = _terminal.table([stopped], Style(100))

    calls = len(stopped.turn.calls)  # type: ignore[union-attr]
    columns = {line.index("!") for line in lines[1 : 2 + calls] if "!" in line}
    assert len(columns) == 1
    assert sum("!" in line for line in lines[1 : 2 + calls]) == 1 + calls


def test_pairs_are_side_by_side_where_there_is_room(rows: list[Row]) -> None:
    """On a wide terminal both are on one line, on the same axis; on a narrow one they follow each other."""
    wide, narrow = (_terminal.pair(rows, Style(width), 3.0) for width in (140, 80))

    assert sum(line.count("0 s  ") for line in wide[:1]) == 2
    assert sum("0 s  " in line for line in narrow) == 1
    assert len(wide) < len(narrow)


def test_the_exporter_hands_on_tools_and_nothing_else(stream: Any, tool: Any, make_span: MakeSpan) -> None:
    """Streams, and spans that serve a call; the rest of a program's spans are none of ours."""
    received: list[SpanRecord] = []
    asking = stream()

    ViewExporter(received.append).export([asking, tool("send", asking, 5.0, 1.0), make_span({"http.route": "/x"})])

    assert [record.is_tool for record in received] == [False, True]


def test_a_session_keeps_tools_for_its_page(stream: Any, tool: Any, tmp_path: Path) -> None:
    """A tool is no stream: it has no line and counts nowhere, but its lane is on the page once it was received."""
    file = PageFile(tmp_path / "page.html")
    asking = stream(_ready(3.9, "send"), reason="tool_use")
    session = Session()

    line = session.add(SpanRecord.from_span(asking))
    file.update(session, last=True)
    before = file.path.read_text(encoding="utf-8")
    added = session.add(SpanRecord.from_span(tool("send", asking, 5.0, 1.0, **{names.TOOL_CALL_STATE: "committed"})))

    assert line is not None
    assert added is None
    assert (session.headline.streams, session.received) == (1, 2)
    assert 'class="turn"' not in before
    assert file.update(session, last=True)
    assert 'class="turn"' in file.path.read_text(encoding="utf-8")
    assert not file.update(session, last=True)
