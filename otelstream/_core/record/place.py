# SPDX-License-Identifier: Apache-2.0
"""Where code runs: the thread, the asyncio task in it, and how far each function has come."""

from __future__ import annotations

import asyncio
import sys
from _thread import get_ident
from collections.abc import Mapping
from typing import NamedTuple

MAX_FRAMES = 64  # looked at, the innermost
Place = tuple[int, int]
Stack = Mapping[tuple[int, int], int]  # of each function that runs, by its frame and code: the instruction it is at


class Reader(NamedTuple):
    """Who read a stream, when it had come to its event of `last`."""

    place: Place
    stack: Stack
    last: float


def here() -> Place:
    """The thread and the asyncio task that run this; the task is 0 without one."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return get_ident(), id(task) if task is not None else 0


def stack() -> Stack:
    """How far each function has come that runs here. Numbers only: a frame that is kept keeps all that it holds."""
    found: dict[tuple[int, int], int] = {}
    frame = sys._getframe(1) if hasattr(sys, "_getframe") else None
    while frame is not None and len(found) < MAX_FRAMES:
        found[id(frame), id(frame.f_code)] = frame.f_lasti
        frame = frame.f_back
    return found


def went_on(before: Stack) -> bool:
    """Whether a function that ran `before` has gone on to call us; who hands out work is where it was."""
    return any(before.get(key, at) != at for key, at in stack().items())
