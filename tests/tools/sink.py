# SPDX-License-Identifier: Apache-2.0
"""A mail server in a process of its own, with a log of its own: what really happened in the world, and when."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller

DELAY = 0.04  # seconds that the delivery of a mail takes


class Sink:
    """The mails that arrived, by their recipient. The monotonic clock is one for all processes of a machine."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(log)], stdout=subprocess.PIPE, text=True, stdin=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def mails(self, recipient: str) -> list[float]:
        """When mails to `recipient` were taken."""
        lines = [line.split() for line in self.log.read_text().splitlines()]
        return [float(at) for at, to in lines if to == recipient]

    def stop(self) -> None:
        self._process.communicate(timeout=20)


class Handler:
    def __init__(self, log: Path) -> None:
        self._log = log

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        with self._log.open("a") as file:
            file.write("".join(f"{time.perf_counter()} {to.partition('@')[0]}\n" for to in envelope.rcpt_tos))
        return "250 taken"


def main() -> None:
    log = Path(sys.argv[1])
    log.touch()
    controller = Controller(Handler(log), hostname="127.0.0.1", port=0)
    controller.port = 0
    # Port 0: the controller's own probe of its port would fail, so the server is made here.
    controller.loop.run_until_complete(_serve(controller))


async def _serve(controller: Controller) -> None:
    import asyncio

    server = await asyncio.get_running_loop().create_server(controller.factory, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    main()
