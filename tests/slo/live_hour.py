# SPDX-License-Identifier: Apache-2.0
"""An hour of real processes and a real Prometheus: what every panel says, beside what the processes had counted.

python -m slo.live_hour run FOLDER [--minutes 75]      in tests/; `tell FOLDER` compares again what a run left
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otelstream.cli import main as otelstream_cli

from .backfill import CONFIG, WEEK, _import
from .history import Past, openmetrics, play
from .live_truth import table, tell
from .tools import free_port, prometheus

SCRAPE = 15


@dataclass(frozen=True)
class Lane:
    """A place in which one process follows another."""

    job: str
    name: str
    per_minute: float
    life: float  # seconds; of one that lives two scrapes a little more than they take
    new_name: bool  # whether each life is an instance of its own
    cluster: str = ""
    quiet: tuple[float, float] = (0, 0)  # shares of the run


LANES = (
    Lane("assistants/chat", "chat-1", 30, 1e9, False, "east"),
    Lane("assistants/chat", "chat-2", 20, 1300, False, "west"),
    Lane("assistants/agents", "agents-1", 24, 1e9, False, quiet=(0.45, 0.62)),
    Lane("batch/short", "short", 50, 2.2 * SCRAPE, True, "east"),
)


class Fleet:
    """The processes, and the file by which Prometheus finds them."""

    def __init__(self, folder: Path, begin: float, seconds: float) -> None:
        self.folder, self.begin, self.seconds = folder, begin, seconds
        self.alive: dict[Lane, tuple[subprocess.Popen[bytes], str, int, float]] = {}
        self.lives: list[dict[str, Any]] = []
        self.number = 0

    def tick(self) -> None:
        """End what has lived, begin what is missing, tell Prometheus."""
        changed = False
        for lane in LANES:
            living = self.alive.get(lane)
            if living and (time.time() - living[3] > lane.life or living[0].poll() is not None):
                self.end(lane)
                living = None
            if living is None:
                self.start(lane)
                changed = True
        if changed:
            targets = [
                {
                    "targets": [f"127.0.0.1:{port}"],
                    "labels": {
                        "job": lane.job,
                        "instance": name,
                        **({"cluster": lane.cluster} if lane.cluster else {}),
                    },
                }
                for lane, (_, name, port, _) in self.alive.items()
            ]
            fresh = self.folder / "targets.new"
            fresh.write_text(json.dumps(targets), encoding="utf-8")
            fresh.rename(self.folder / "targets.json")

    def start(self, lane: Lane) -> None:
        self.number += 1
        name = f"{lane.name}-{self.number}" if lane.new_name else lane.name
        kept, port = f"{lane.name}.{self.number}", free_port()
        quiet = [self.begin + share * self.seconds for share in lane.quiet]
        command = [sys.executable, str(Path(__file__).with_name("live_process.py")), str(self.folder / "truth"), kept,
                   str(port), str(lane.per_minute), str(self.number), *map(str, quiet)]  # fmt: skip
        log = (self.folder / "processes.log").open("ab")
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        log.close()
        self.alive[lane] = process, name, port, time.time()
        self.lives.append({"kept": kept, "job": lane.job, "instance": name, "cluster": lane.cluster})
        (self.folder / "lives.json").write_text(json.dumps(self.lives), encoding="utf-8")

    def end(self, lane: Lane) -> None:
        process = self.alive.pop(lane)[0]
        if process.stdin:
            process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


@contextmanager
def fleet(folder: Path, begin: float, seconds: float) -> Iterator[Fleet]:
    made = Fleet(folder, begin, seconds)
    try:
        yield made
    finally:
        for lane in list(made.alive):
            made.end(lane)


def week_ago(folder: Path, begin: int, seconds: int) -> None:
    """The same hour of last week, for the panels that compare with it."""
    past = Past(CONFIG.objectives, 7)
    minutes = (seconds + 1800) // 60
    _import(openmetrics(play(past, begin // 60 * 60 - WEEK - 600, minutes)), folder / "data")


def run(folder: Path, minutes: float) -> None:
    folder.mkdir(parents=True)
    (folder / "data").mkdir()
    seconds, begin = int(minutes * 60), int(time.time())
    week_ago(folder, begin, seconds)
    assert otelstream_cli(["slo", "rules", "-o", str(folder / "rules")]) == 0
    config = {
        "global": {"scrape_interval": f"{SCRAPE}s", "evaluation_interval": "30s"},
        "rule_files": [str(folder / "rules" / "otelstream.rules.yaml")],
        "scrape_configs": [
            {
                "job_name": "live",
                "file_sd_configs": [{"files": [str(folder / "targets.json")], "refresh_interval": "2s"}],
            }
        ],
    }
    with prometheus(folder, json.dumps(config)) as server, fleet(folder, begin, seconds) as processes:
        print(f"Prometheus: {server.url}", flush=True)
        (folder / "run.json").write_text(json.dumps({"begin": begin, "url": server.url}), encoding="utf-8")
        while time.time() < begin + seconds:
            processes.tick()
            time.sleep(0.5)
            if time.time() > begin + 8 * SCRAPE and not any(folder.glob("truth/*/*.gz")):
                raise SystemExit("no process was scraped in two minutes: see prometheus.log")
        (folder / "run.json").write_text(json.dumps({"begin": begin, "end": int(time.time())}), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "tell"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=75)
    options = parser.parse_args()
    folder = options.folder.resolve()  # Prometheus looks for a relative one beside its configuration
    if options.what == "run":
        run(folder, options.minutes)
    rows = tell(folder)
    print(table(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
