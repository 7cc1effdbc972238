# SPDX-License-Identifier: Apache-2.0
"""Where code runs: the thread, and the asyncio task in it."""

from __future__ import annotations

import asyncio
from _thread import get_ident

Place = tuple[int, int]


def here() -> Place:
    """The thread and the asyncio task that run this; the task is 0 without one."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return get_ident(), id(task) if task is not None else 0
