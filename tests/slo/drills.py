# SPDX-License-Identifier: Apache-2.0
"""Five incidents in generated traffic: what fires at which minute by promtool, and whom a real Alertmanager tells.

python -m slo.drills timeline [--only cut]      in tests/; minutes count from the start of the incident
python -m slo.drills live FOLDER [--minutes 20]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from otelstream import _semconv as names
from otelstream._semconv import Metric
from otelstream.slo import _rules, _yaml
from otelstream.slo._bundled import folder

from . import history
from .backfill import CONFIG, _import
from .history import openmetrics
from .scenarios import scene, timeline
from .test_end_to_end import Pager, alertmanager, routes
from .tools import PrometheusServer, prometheus

# Minutes before the live run in which each began: when the timeline has its page, less some.
BEGAN = {"cut": 203, "cache": 197, "cancels": 0, "loops": 0, "swap": 0}
AHEAD = 150  # seconds to fill in
BRIEF = (
    90  # minutes before the incident, or the live run, that have more than verdicts: the hour of most symptoms is full
)
RULES = _rules.groups(CONFIG)
READ = " ".join(rule["expr"] for group in RULES for rule in group["rules"])


class Store(history.Store):
    """Keeps what rules read, and no more: hours are played in seconds."""

    def add(self, metric: Metric, labels: history.Labels, amount: float = 1) -> None:
        if metric.prometheus in READ:
            super().add(metric, labels, amount)

    def observe(self, metric: Metric, labels: history.Labels, value: float) -> None: ...


class Drill:
    """One incident: the traffic, minute by minute."""

    def __init__(self, incident: str, seed: int, prefix: str = "") -> None:
        self.incident = incident
        self.sources = [replace(source, job=prefix + source.job) for source in history.SOURCES]
        self.past = history.Past(CONFIG.objectives, seed)
        self.past.store = Store()

    def minute(self, broken: bool, brief: bool = False) -> None:
        """Play one minute; a brief one has verdicts and nothing else."""
        for source in self.sources:
            scene_ = history.INCIDENTS[self.incident](source, source.scene) if broken else source.scene
            self.past.minute(source, scene_, judged_only=brief)

    def sample(self, second: int) -> Iterator[tuple[str, str]]:
        return self.past.store.sample(second)


def told(incident: str, before: int, minutes: int) -> dict[str, list[tuple[int, int]]]:
    """When which alert fires, by promtool, after so many healthy minutes."""
    drill, series = Drill(incident, 1), defaultdict[str, list[str]](list)
    for minute in range(before + minutes):
        drill.minute(minute >= before, brief=minute < before - BRIEF)
        for family, line in drill.sample(60 * minute):
            key, value, _ = line.rsplit(" ", 2)
            value = "-1000000" if family == names.START_TIME.prometheus else value  # promtool's time begins at zero
            series[key].extend(["_"] * (minute - len(series[key])))
            series[key].append(value)
    with tempfile.TemporaryDirectory() as work:
        rules = Path(work) / "otelstream.rules.yaml"
        rules.write_text(_yaml.dump({"groups": RULES}), encoding="utf-8")
        given = {key: " ".join(values) for key, values in series.items()}
        found = timeline(scene(incident, given, minutes=before + minutes, among=".+"), rules, Path(work))
    return {name: [(first - before, last - before) for first, last in spans] for name, spans in found.items()}


@contextmanager
def exporter(drills: dict[str, Drill], lock: threading.Lock) -> Iterator[int]:
    """All drills as one target; yields its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            second = int(time.time())
            with lock:
                lines = [line.rsplit(" ", 1)[0] for drill in drills.values() for _, line in drill.sample(second)]
            body = "\n".join([*lines, ""]).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def fill(work: Path, drills: dict[str, Drill], now: int, before: int) -> None:
    """The hours until now: the streams, and the records that windows over an hour sum."""
    (work / "data").mkdir(parents=True)
    lines: list[tuple[str, str]] = []
    for minute in range(before):
        for name, drill in drills.items():
            drill.minute(minute >= before - BEGAN[name], brief=minute < before - BRIEF)
            lines.extend(drill.sample(now - 60 * (before - minute)))
    _import(openmetrics(iter(lines)), work / "data")
    lines = []
    base = [rule for group in RULES for rule in group["rules"] if rule.get("record", "").endswith(":rate5m")]
    with prometheus(work, "global: {scrape_interval: 1m}\n") as server:
        for rule in base:
            for found in server.query_range(rule["expr"], now - 60 * before, now - 60, 60):
                labels = {**found["metric"], **rule.get("labels", {})}
                text = ",".join(f'{key}="{value}"' for key, value in labels.items() if key != "__name__")
                lines.extend((rule["record"], f"{rule['record']}{{{text}}} {v} {int(t)}") for t, v in found["values"])
    _import(openmetrics(iter(lines)), work / "data")


def live(work: Path, before: int, minutes: int) -> None:
    drills = {name: Drill(name, seed, f"{name}/") for seed, name in enumerate(BEGAN)}
    now = int(time.time()) + AHEAD
    fill(work, drills, now, before)
    print(f"filled, {now - time.time():.0f} s to go", flush=True)
    time.sleep(max(0, now - time.time()))
    pager, lock = Pager(), threading.Lock()
    routes(work, folder() / "rules" / "otelstream.alertmanager.yaml", pager)
    (work / "rules.yaml").write_text(_yaml.dump({"groups": RULES}), encoding="utf-8")
    with alertmanager(work) as port, exporter(drills, lock) as target:
        config: dict[str, Any] = {
            "global": {"scrape_interval": "15s", "evaluation_interval": "30s"},
            "rule_files": [str(work / "rules.yaml")],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}]},
            "scrape_configs": [
                {"job_name": "drills", "honor_labels": True, "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
            ],
        }
        with prometheus(work, json.dumps(config)) as server:
            begin, seen, fired = time.time(), 0, set[tuple[str, ...]]()
            for minute in range(minutes):
                with lock:
                    for drill in drills.values():
                        drill.minute(True)
                while time.time() < begin + 60 * (minute + 1):
                    seen = _say(begin, pager, seen, server, fired)
                    time.sleep(1)
    pager.close()


def _say(begin: float, pager: Pager, seen: int, server: PrometheusServer, fired: set[tuple[str, ...]]) -> int:
    """Print what is new: alerts that fire, and what Alertmanager told."""
    for each in server.query('ALERTS{alertstate="firing"}', time.time()):
        key = each["metric"]["job"], each["metric"]["alertname"]
        if key not in fired:
            fired.add(key)
            print(f"{_since(begin, key[0]):5.1f} min  {key[0]}: {key[1]} fires", flush=True)
    for alert in pager.alerts[seen:]:
        labels, text = alert["labels"], alert["annotations"]
        print(f"{_since(begin, labels['job']):5.1f} min  {labels['job']}: TOLD {labels['severity']} "
              f"{labels['alertname']}: {text['summary']} | {text['description']}", flush=True)  # fmt: skip
    return len(pager.alerts)


def _since(begin: float, job: str) -> float:
    return (time.time() - begin) / 60 + BEGAN[job.partition("/")[0]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("timeline", "live"))
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--before", type=int, default=1440, help="healthy minutes before the incident")
    parser.add_argument("--minutes", type=int, default=300)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    if options.what == "live":
        live(options.folder, options.before, options.minutes)
        return 0
    for name in BEGAN:
        if options.only in name:
            spans = told(name, options.before, options.minutes)
            shown = "; ".join(f"{alert} {', '.join(f'{a}-{b}' for a, b in each)}" for alert, each in spans.items())
            print(f"{name}: {shown or 'silence'}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
