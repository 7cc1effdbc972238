# SPDX-License-Identifier: Apache-2.0
"""What the place written to can show: its width, colours and marks."""

from __future__ import annotations

import os
import shutil
import unicodedata
from dataclasses import dataclass
from typing import Final, TextIO

from ._record import plain

_COLOURS: Final[dict[str, str]] = {
    "bad": "31",
    "stopped": "33",
    "flawed": "35",
    "good": "32",
    "open": "0",
    "dim": "2",
    "bold": "1",
}


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The marks of a timeline; `ends` by outcome, so that colour is never the only carrier."""

    density: str
    wait: str
    running: str
    thinking: str
    first_token: str
    tool: str
    loop: str
    retry: str
    stop: str
    withdrawn: str
    runs: str
    states: dict[str, str]  # of tool calls
    ends: dict[str, str]
    arrow: str
    ellipsis: str


UNICODE: Final = Glyphs(
    density="▁▂▃▄▅▆▇█",
    wait="·",
    running="╌",
    thinking="░",
    first_token="◆",
    tool="▼",
    loop="↻",
    retry="↷",
    stop="!",
    withdrawn="↩",
    runs="━",
    states={
        "committed": "●",
        "running": "╸",
        "failed": "✗",
        "discarded": "○",
        "withheld": "⊘",
        "compensated": "↶",
    },
    ends={
        "completed": "┃",
        "truncated": "┨",
        "refused": "⊘",
        "failed": "✗",
        "cancelled": "■",
        "caller_error": "‼",
        "abandoned": "○",
    },
    arrow="→",
    ellipsis="…",
)
ASCII: Final = Glyphs(
    density="-==++##M",
    wait=".",
    running=":",
    thinking="~",
    first_token="*",
    tool="v",
    loop="@",
    retry="r",
    stop="!",
    withdrawn="<",
    runs="=",
    states={
        "committed": "C",
        "running": ">",
        "failed": "X",
        "discarded": "o",
        "withheld": "%",
        "compensated": "U",
    },
    ends={
        "completed": "|",
        "truncated": ">",
        "refused": "%",
        "failed": "X",
        "cancelled": "]",
        "caller_error": "E",
        "abandoned": "o",
    },
    arrow=">",
    ellipsis="~",
)


@dataclass(frozen=True, slots=True)
class Style:
    """What the place written to can show."""

    width: int = 80
    colour: bool = False
    glyphs: Glyphs = UNICODE

    def paint(self, text: str, name: str) -> str:
        code = _COLOURS[name]
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and code != "0" and text.strip() else text


def style_of(stream: TextIO, width: int | None = None) -> Style:
    """Find out what *stream* can show: colour on a terminal that wants it, else none; ASCII without UTF-8."""
    environment = os.environ
    terminal = stream.isatty()
    if width is None:
        width = shutil.get_terminal_size((100, 24)).columns
    colour = terminal and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"
    return Style(max(width, 40), colour, UNICODE if _utf8(stream) else ASCII)


def _utf8(stream: TextIO) -> bool:
    # Under LC_ALL=C Python itself still writes UTF-8: the locale, not the stream, says what is shown.
    environment = os.environ
    locale = environment.get("LC_ALL") or environment.get("LC_CTYPE") or environment.get("LANG") or "C.UTF-8"
    written = (getattr(stream, "encoding", None) or "").lower().replace("-", "")
    return written == "utf8" and "utf8" in locale.lower().replace("-", "")


def fit(text: str, width: int, style: Style) -> str:
    """Cut or pad *text* to *width* cells; control characters become blanks."""
    clean = plain(text)
    if not style_is_unicode(style):
        clean = to_ascii(clean)
    used = 0
    kept: list[str] = []
    for char in clean:
        cells = _cells(char)
        if used + cells > width:
            while kept and used + 1 > width:
                used -= _cells(kept.pop())
            kept.append(style.glyphs.ellipsis)
            used += 1
            break
        kept.append(char)
        used += cells
    return "".join(kept) + " " * (width - used)


def style_is_unicode(style: Style) -> bool:
    return style.glyphs is UNICODE


def to_ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode("ascii")


def _cells(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def painted(cells: list[str], paints: list[str], style: Style) -> str:
    """Join cells, each in its colour."""
    if not style.colour:
        return "".join(cells)
    output, start = [], 0
    for index in range(1, len(cells) + 1):
        if index == len(cells) or paints[index] != paints[start]:
            output.append(style.paint("".join(cells[start:index]), paints[start]))
            start = index
    return "".join(output)
