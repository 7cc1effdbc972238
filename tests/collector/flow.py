# SPDX-License-Identifier: Apache-2.0
"""Drives the two traffic processes and knows, span by span, what every trace is made of."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


@dataclass
class Made:
    """What the traffic made: the spans of each trace, why a trace is bad ('' for the rest), the counts."""

    spans: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    kind: dict[str, str] = field(default_factory=dict)
    when: dict[str, float] = field(default_factory=dict)  # monotonic, as the line was read
    took: dict[str, float] = field(default_factory=dict)  # seconds of the application's, where it says
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def bad(self) -> list[str]:
        return [trace for trace, kind in self.kind.items() if kind]

    @property
    def fine(self) -> list[str]:
        return [trace for trace, kind in self.kind.items() if not kind]


def run_traffic(
    endpoint: str,
    *,
    streams: int,
    module: str = "traffic",
    arguments: Sequence[str] = (),
    tool_arguments: Sequence[str] = (),
    on_stream: Callable[[int], None] = lambda _: None,
    environment: dict[str, str] | None = None,
    limit: float = 600,
) -> Made:
    """Run both processes to their end; `on_stream` is called with the number of streams ended so far."""
    made = Made()
    script = str(HERE / f"{module}.py")
    common = ["--endpoint", endpoint]
    application = subprocess.Popen(
        [sys.executable, script, "application", *common, "--streams", str(streams), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    tools = subprocess.Popen(
        [sys.executable, str(HERE / "traffic.py"), "tools", *common, *tool_arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert application.stdout is not None
    assert tools.stdin is not None
    assert tools.stdout is not None
    tool_lines = tools.stdout

    def read_tools() -> None:
        for line in tool_lines:
            said = json.loads(line)
            if "trace" in said:
                made.spans[said["trace"]].update(said["spans"])

    reader = threading.Thread(target=read_tools)
    reader.start()
    watchdog = threading.Timer(limit, lambda: (application.kill(), tools.kill()))
    watchdog.start()
    try:
        for line in application.stdout:
            said = json.loads(line)
            if "trace" not in said:
                made.summary.update(said)
                continue
            made.spans[said["trace"]].update(said["spans"])
            made.kind[said["trace"]] = said["kind"]
            made.when[said["trace"]] = time.monotonic()
            made.took[said["trace"]] = said.get("took", 0.0)
            tools.stdin.write(json.dumps(said | {"at": time.time()}) + "\n")
            tools.stdin.flush()
            on_stream(len(made.kind))
        tools.stdin.close()
        codes = application.wait(), tools.wait()
    finally:
        watchdog.cancel()
        for process in (application, tools):
            process.kill()
            process.wait()
        reader.join()
        application.stdout.close()
        tools.stdout.close()
    if codes != (0, 0):
        raise RuntimeError(f"the traffic processes ended with {codes}")
    return made
