# SPDX-License-Identifier: Apache-2.0
"""What ends a read from outside of it: a task's cancel, a deadline, Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

DEADLINE = 0.15  # seconds: long enough for the chunks before the silence to arrive
PATIENCE = 20.0


def interrupt_when(ready: Callable[[], bool]) -> threading.Thread:
    """Press Ctrl-C as soon as `ready()`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins without

    def press() -> None:
        deadline = time.monotonic() + PATIENCE
        while not ready() and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press, daemon=True)
    thread.start()
    return thread


async def _until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready() and time.monotonic() < deadline:  # noqa: ASYNC110 - what it waits for has no event
        await asyncio.sleep(0.002)
    await asyncio.sleep(0.005)


async def cancel_task(app: Any, read: Callable[[], Any], ready: Callable[[], bool]) -> None:
    task = asyncio.create_task(read())
    await _until(ready)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def deadline_around(app: Any, read: Callable[[], Any], ready: Callable[[], bool]) -> None:
    await asyncio.wait_for(read(), DEADLINE)


async def deadline_inside(app: Any, read: Callable[[], Any], ready: Callable[[], bool]) -> None:
    async with await app.reading.manager() as handle:
        await asyncio.wait_for(app.reading.whole(handle), DEADLINE)


async def anyio_deadline_around(app: Any, read: Callable[[], Any], ready: Callable[[], bool]) -> None:
    import anyio

    with anyio.fail_after(DEADLINE):
        await read()


async def anyio_deadline_inside(app: Any, read: Callable[[], Any], ready: Callable[[], bool]) -> None:
    import anyio

    async with await app.reading.manager() as handle:
        with anyio.fail_after(DEADLINE):
            await app.reading.whole(handle)


INTERRUPTIONS = {
    "cancel_task": cancel_task,
    "deadline_around": deadline_around,
    "deadline_inside": deadline_inside,
    "anyio_deadline_around": anyio_deadline_around,
    "anyio_deadline_inside": anyio_deadline_inside,
}
