# SPDX-License-Identifier: Apache-2.0
"""Text that is not ours: what others put on a span is not shown, and what a name holds cannot act."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from otelstream import _semconv as names
from otelstream.view import _page, _terminal
from otelstream.view._record import Moment, SpanRecord
from otelstream.view._session import Session
from otelstream.view._spool import SpoolReader, SpoolWriter
from otelstream.view._style import ASCII, UNICODE, Style

from .conftest import MakeSpan, stream_span

CANARY = "Kanarienvogel"
# Where instrumentations put what users and models write.
FOREIGN = (
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.system_instructions",
    "gen_ai.prompt",
    "gen_ai.completion",
    "gen_ai.prompt.0.content",
    "gen_ai.completion.0.content",
    "gen_ai.tool.call.arguments",
    "gen_ai.tool.call.result",
    "gen_ai.tool.definitions",
    "gen_ai.request.stop_sequences",
    "llm.input_messages.0.message.content",
    "input.value",
    "output.value",
    "traceloop.entity.input",
    "ai.prompt.messages",
    "request_data",
    "response_data",
    "exception.message",
    "exception.stacktrace",
    "http.request.body",
    "user.id",
)
# Attributes whose values come from a model, a provider or an application.
NAMES = (
    names.RESPONSE_MODEL,
    names.ERROR_TYPE,
    names.FINISH_RAW_REASON,
    names.TOOL_NAME,
    names.TOOL_CALL_ID,
    names.TOOL_CALL_INPUT,
    names.TOOL_CALL_STATE,
    names.TOOL_CALL_EFFECT,
    names.DISPATCH_PHASE,
    names.STALL_SOURCE,
    names.RETRACTION_REASON,
    names.CANCEL_TRIGGER,
    names.CANCEL_PROPAGATION,
    names.OUTCOME,
    names.PHASE,
    names.FAULT,
    names.TURN_ID,
    names.ROUTE,
)
TURNING = ("\u202e", "\u202d", "\u202a", "\u202b", "\u2066", "\u2067", "\u2068", "\u200f", "\u200e", "\u061c")


def _tool_event(name: str, at: float, **said: str) -> tuple[str, float, dict[str, Any]]:
    return name, at, {names.ELAPSED: at, names.TOOL_NAME: "send", names.TOOL_CALL_ID: "id-send", **said}


@pytest.fixture
def received(make_span: MakeSpan) -> Callable[..., list[SpanRecord]]:
    """What arrives of a stopped stream and its tool, with attributes and events of others on both spans."""

    def make(attributes: dict[str, Any] | None = None, events: tuple[tuple[str, float, Any], ...] = ()) -> Any:
        said, own, length = stream_span(
            outcome="cancelled",
            phase="mid_stream",
            stalls=[(2.0, 1.2, "provider")],
            retraction=(3.5, "guardrail", 40, 1.0),
            trigger="user_stop",
            propagation="closed",
            asked=3.0,
            error="overloaded_error",
            **{names.RESPONSE_MODEL: "m", names.TURN_ID: "t", names.ROUTE: "r"},
        )
        own = [
            *own,
            (names.EVENT_FINISH, 3.9, {names.FINISH_RAW_REASON: "end_turn"}),
            _tool_event(names.EVENT_TOOL_READY, 2.2, **{names.TOOL_CALL_INPUT: "valid"}),
            _tool_event(
                names.EVENT_TOOL_DISPATCHED,
                2.4,
                **{names.TOOL_CALL_EFFECT: "write", names.DISPATCH_PHASE: "mid_stream"},
            ),
            _tool_event(names.EVENT_TOOL_FINISHED, 2.8, **{names.TOOL_CALL_STATE: "committed"}),
        ]
        span = make_span({**said, **(attributes or {})}, [*own, *events], length)
        asked = {names.TOOL_NAME: "send", names.TOOL_CALL_ID: "id-send", **(attributes or {})}
        tool = make_span(asked, list(events), 0.4, links=(span,))
        return [SpanRecord.from_span(each) for each in (span, tool)]

    return make


def planted(record: SpanRecord, name: str, value: str) -> SpanRecord:
    """The same record with another value wherever an attribute of that name is."""
    events = tuple(
        Moment(event.name, event.elapsed, {**event.attributes, **({name: value} if name in event.attributes else {})})
        for event in record.events
    )
    said = {**record.attributes, **({name: value} if name in record.attributes else {})}
    return replace(record, attributes=said, events=events)


def shown(records: list[SpanRecord], tmp_path: Path) -> dict[str, str]:
    """Every form in which somebody reads them."""
    session = Session()
    for record in records:
        session.add(record)
    (row,) = session.rows
    writer = SpoolWriter(tmp_path)
    for record in records:
        writer.record(record)
    return {
        "page": session.page(),
        "json": "\n".join(record.to_json() for record in records),
        "spool": repr(list(SpoolReader(tmp_path).read())),
        "table": "\n".join(_terminal.table([row], Style(width=150, glyphs=UNICODE))),
        "narrow": "\n".join(_terminal.table([row], Style(width=60, glyphs=ASCII))),
        "line": "\n".join(_terminal.access_line(line, Style(), "12:00:00") for line in row.lines),
    }


@pytest.mark.parametrize("name", FOREIGN)
def test_an_attribute_of_another_instrumentation_is_not_shown(
    received: Callable[..., list[SpanRecord]], name: str, tmp_path: Path
) -> None:
    """Prompts and answers are on spans that others write; no form of the view repeats them."""
    for form, text in shown(received({name: CANARY}), tmp_path).items():
        assert CANARY not in text, form


@pytest.mark.parametrize("name", ["gen_ai.choice", "gen_ai.user.message", "exception", "my.event", CANARY])
def test_an_event_of_another_instrumentation_is_not_shown(
    received: Callable[..., list[SpanRecord]], name: str, tmp_path: Path
) -> None:
    """Neither are the events of others, whatever their attributes are called."""
    others = (name, 1.0, {"content": CANARY, names.ERROR_TYPE: CANARY, "exception.message": CANARY})

    for form, text in shown(received(events=(others,)), tmp_path).items():
        assert CANARY not in text, form


def test_what_is_ours_is_shown(make_span: MakeSpan) -> None:
    """Every attribute and event that otelstream writes is kept, with every attribute of the event."""
    values = {"string": "x", "bool": True, "int": 1, "double": 1.5, "string[]": ("x",)}
    attributes = {each.name: values[each.kind] for each in names.SPAN_ATTRIBUTES}
    events = [(event.name, 1.0, dict.fromkeys(event.attributes, "x")) for event in names.EVENTS]

    record = SpanRecord.from_span(make_span(attributes, events))

    assert record.attributes == attributes
    assert [(event.name, dict(event.attributes)) for event in record.events] == [
        (name, {names.ELAPSED: at, **said}) for name, at, said in events
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_no_markup(received: Callable[..., list[SpanRecord]], name: str) -> None:
    """Whatever a model, a provider or an application calls something is escaped, wherever the page says it."""
    session = Session()
    for record in received():
        session.add(planted(record, name, "<i>\"'&"))

    assert "<i>" not in session.page()
    assert "<i>" in unescape(session.page())


@pytest.mark.parametrize("name", NAMES)
def test_a_name_does_not_turn_text_around(received: Callable[..., list[SpanRecord]], name: str, tmp_path: Path) -> None:
    """Marks that reverse text, and other controls, are blanks on the page and on a terminal."""
    evil = "ab" + "".join(TURNING) + "\x1b[31m\r\ncd"

    found = shown([planted(record, name, evil) for record in received()], tmp_path)

    for form in ("page", "table", "narrow", "line"):
        assert not {*TURNING, "\x1b", "\r"} & {*found[form]}, form


def test_a_name_in_another_direction_stays_in_its_place(received: Callable[..., list[SpanRecord]]) -> None:
    """A model's name in letters that run from right to left moves nothing beside it."""
    session = Session()
    for record in received():
        session.add(planted(record, names.RESPONSE_MODEL, "דגם"))

    assert "<bdi>דגם</bdi>" in session.page()


@pytest.mark.parametrize("before", [None, 0o644, 0o666])
def test_the_page_is_for_its_owner(tmp_path: Path, before: int | None) -> None:
    """Nobody else may read the page, whatever the umask is, and also where an older one was open to all."""
    path = tmp_path / "otelstream.html"
    if before is not None:
        path.touch()
        path.chmod(before)
    mask = os.umask(0)
    try:
        _page.write_page(path, "one")
        _page.write_page(path, "two")
    finally:
        os.umask(mask)

    assert path.read_text(encoding="utf-8") == "two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
