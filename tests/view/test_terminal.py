# SPDX-License-Identifier: Apache-2.0
"""Rows of characters: widths, marks, holes, colour and ASCII."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any, get_args

import pytest

from otelstream import _semconv as names
from otelstream.view import _terminal
from otelstream.view._terminal import ASCII, UNICODE, LiveTable, Style
from otelstream.view._timeline import Timeline
from otelstream.view._turns import Row

MakeLine = Callable[..., Timeline]
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class Terminal(io.StringIO):
    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


@pytest.fixture
def rows(make_line: MakeLine) -> list[Row]:
    """Every outcome once, one with a stall, one retried, one with tools, one still open."""
    plain = [
        Row(outcome, make_line(outcome=outcome, phase="mid_stream", length=1 + index), "200", "OK")
        for index, outcome in enumerate(get_args(names.Outcome))
    ]
    return [
        *plain,
        Row("stall", make_line(length=8.0, stalls=[(6.0, 3.0, "provider")]), "200", "OK"),
        Row("529, then fine", make_line(attempts=2, last_attempt=0.3), "529>200", "OK"),
        Row("a label far too long for its column", make_line(model="m" * 99), "200", "none"),
        Row("not begun", None),
    ]


@pytest.mark.parametrize("width", [60, 80, 100, 131, 132, 140, 200])
@pytest.mark.parametrize("glyphs", [UNICODE, ASCII], ids=["unicode", "ascii"])
@pytest.mark.parametrize("colour", [False, True], ids=["plain", "colour"])
def test_no_line_is_wider_than_the_terminal(rows: list[Row], width: int, glyphs: Any, colour: bool) -> None:
    """Whatever the width, nothing wraps by itself."""
    style = Style(width, colour, glyphs)

    lines = _terminal.table(rows, style) + _terminal.legend(style)

    assert max(len(_ANSI.sub("", line)) for line in lines) <= width


def test_colour_adds_nothing_but_colour(rows: list[Row]) -> None:
    """The same picture without colour: colour is never the only carrier."""
    plain = _terminal.table(rows, Style(140))
    coloured = _terminal.table(rows, Style(140, colour=True))

    assert any("\x1b[31m" in line for line in coloured)
    assert [_ANSI.sub("", line).rstrip() for line in coloured] == [line.rstrip() for line in plain]


def test_ascii_is_ascii(rows: list[Row], make_line: MakeLine) -> None:
    """Where the locale has no UTF-8 not one other character is written, tool and model names included."""
    row = Row("naïve ☃", make_line(tools=[(2, "größe", "valid")], reason="tool_use", model="模型"))
    style = Style(80, glyphs=ASCII)

    lines = [*_terminal.table([*rows, row], style), *_terminal.legend(style)]
    lines.append(_terminal.access_line(row.line, style, "12:00:00"))  # type: ignore[arg-type]

    assert all(line.isascii() for line in lines)


def test_outcomes_differ_in_their_end_mark_alone(make_line: MakeLine) -> None:
    """Two streams that ended differently never look the same."""
    for glyphs in (UNICODE, ASCII):
        drawn = {
            _terminal.draw(make_line(outcome=outcome), 5.0, 40, Style(glyphs=glyphs)).rstrip()[-1]
            for outcome in get_args(names.Outcome)
        }

        assert len(drawn) == len(get_args(names.Outcome))


def test_a_stall_is_a_hole_of_its_own_length(make_line: MakeLine) -> None:
    """Three seconds of silence are as many blank columns as the axis says, with their length in them."""
    line = make_line(length=8.0, stalls=[(6.0, 3.0, "provider")])

    drawn = _terminal.draw(line, 8.0, 81, Style())

    assert "3.0 s" in drawn[31:60]
    assert drawn[31:60].replace("3.0 s", "").strip() == ""
    assert " " not in drawn[5:30]
    assert drawn[60] in UNICODE.density


def test_the_axis_is_shared_and_linear(make_line: MakeLine) -> None:
    """A stream twice as long ends in twice the column."""
    long, short = make_line(length=8.0), make_line(length=4.0)

    ends = [len(_terminal.draw(line, 8.0, 81, Style()).rstrip()) - 1 for line in (long, short)]

    assert ends == [80, 40]


def test_first_token_is_marked_where_it_came(make_line: MakeLine) -> None:
    """Waiting, thinking and the first token are three different things."""
    line = make_line(kind="thinking", first_chunk=1.0, first_token=3.0, length=8.0)

    drawn = _terminal.draw(line, 8.0, 81, Style())

    assert drawn[:10] == UNICODE.wait * 10
    assert drawn[10:30] == UNICODE.thinking * 20
    assert drawn[30] == UNICODE.first_token


def test_density_follows_the_rate(make_line: MakeLine) -> None:
    """More chunks a second draw a higher block."""
    slow, fast = (make_line(chunks=count, length=4.5) for count in (8, 400))

    heights = [UNICODE.density.index(_terminal.draw(line, 4.5, 40, Style())[20]) for line in (slow, fast)]

    assert heights[0] < heights[1]


def test_names_cannot_steer_the_terminal(make_line: MakeLine) -> None:
    """A model or tool name with control characters is written without them."""
    line = make_line(model="m\x1b[2J\r\n", tools=[(2, "t\x1b]0;x\x07", "valid")], reason="tool_use")

    text = "".join(_terminal.table([Row("x\x1b[1m", line)], Style(80)))
    text += _terminal.access_line(line, Style(80), "12:00:00")

    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\r" not in text


@pytest.mark.parametrize(
    ("environment", "tty", "colour", "unicode"),
    [
        ({"LANG": "en_US.UTF-8"}, True, True, True),
        ({"LANG": "en_US.UTF-8", "NO_COLOR": "1"}, True, False, True),
        ({"LANG": "en_US.UTF-8", "NO_COLOR": ""}, True, True, True),
        ({"LANG": "en_US.UTF-8", "TERM": "dumb"}, True, False, True),
        ({"LANG": "en_US.UTF-8"}, False, False, True),
        ({"LC_ALL": "C", "LANG": "en_US.UTF-8"}, True, True, False),
        ({"LC_CTYPE": "de_DE.ISO-8859-1"}, True, True, False),
        ({}, True, True, True),
    ],
)
def test_style_follows_the_terminal(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], tty: bool, colour: bool, unicode: bool
) -> None:
    """Colour only on a terminal that wants it; ASCII where the locale is no UTF-8."""
    for name in ("LC_ALL", "LC_CTYPE", "LANG", "NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = Terminal()
    stream.isatty = lambda: tty  # type: ignore[method-assign]

    style = _terminal.style_of(stream, 80)

    assert (style.colour, style.glyphs is UNICODE) == (colour, unicode)


def test_piped_output_is_the_final_table_only(rows: list[Row]) -> None:
    """Without a terminal nothing is written until the end, and then once."""
    out = io.StringIO()
    live = LiveTable(out, Style(80))

    live.update(rows)
    before = out.getvalue()
    live.finish(rows)

    assert before == ""
    assert out.getvalue().splitlines() == _terminal.table(rows, Style(80))


def test_a_terminal_is_redrawn_in_place(rows: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each redraw erases exactly what the one before drew."""
    monkeypatch.setenv("LINES", "60")
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    live = LiveTable(out, Style(80))

    live.update(rows[:3])
    first = out.getvalue().count("\n")
    live.update(rows[:4])

    assert f"\x1b[{first}F\x1b[J" in out.getvalue()


def test_a_low_terminal_is_never_scrolled_by_a_redraw(rows: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    """A table higher than the window would leave rubbish above it: fewer lines are drawn instead."""
    monkeypatch.setenv("TERM", "xterm")
    for height in (30, 20, 13, 5):
        monkeypatch.setenv("LINES", str(height))
        out = Terminal()

        LiveTable(out, Style(80)).update(rows)

        assert out.getvalue().count("\n") < height
