# SPDX-License-Identifier: Apache-2.0
"""Values as they are typed at the command line: each checked as it is read, and refused with what would do."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import TypeVar

Number = TypeVar("Number", int, float)
DAY = 86400.0


def number(kind: type[Number], least: float, most: float, what: str) -> Callable[[str], Number]:
    """Return a reader of numbers between two bounds; *what* is the word for such a number."""

    def read(text: str) -> Number:
        try:
            value = kind(text)
        except ValueError:
            value = None
        # A NaN lies between no bounds.
        if value is None or not least <= value <= most:
            raise ArgumentTypeError(f"{shown(text)}: give {what} from {least:g} to {most:g}")
        return value

    return read


def shown(text: str) -> str:
    """Shorten what was typed to a part of a line."""
    plain = text if text.isprintable() and text else repr(text)
    return plain if len(plain) <= 60 else plain[:57] + "..."


def port(least: int) -> Callable[[str], int]:
    """Return a reader of ports; 0 stands for a free one."""
    return number(int, least, 65535, "a port")


def host(text: str) -> str:
    """Read a name or an address to listen on."""
    try:
        if text and text.encode("idna"):
            return text
    except UnicodeError:
        pass
    raise ArgumentTypeError(f"{shown(text)}: give a name or an address of this machine, such as 127.0.0.1")


def uid(text: str) -> str:
    """Read the uid of a data source."""
    if text and text.isprintable():
        return text
    raise ArgumentTypeError(f"{shown(text)}: give the uid that Grafana shows for the data source")
