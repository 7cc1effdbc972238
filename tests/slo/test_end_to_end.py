# SPDX-License-Identifier: Apache-2.0
"""Real parts from end to end: SDK, scrape, rules, Alertmanager, and a webhook that is paged or left in peace."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from otelstream import _objectives_file as _spec
from otelstream.cli import main
from otelstream.slo._bundled import folder

from .tools import PrometheusServer, binary, free_port, prometheus, wait_for

pytest.importorskip("anthropic", reason="the end-to-end test streams with the real SDK")
pytest.importorskip("h11", reason="the provider simulator needs h11")
pytestmark = pytest.mark.slow

# Minutes instead of months, through the file and nothing else.
OBJECTIVES = """\
window: 10m
keep_firing: 5s
min_bad: 3
burn_rates:
  - {severity: page, long: 40s, short: 15s, factor: 4, for: 3s}
objectives:
  - {name: whole-answers, kind: integrity, target: 0.995}
  - {name: quick, kind: first_token, target: 0.9, threshold: 10s}
symptoms:
  silent: off
"""


class Pager:
    """A webhook that remembers what Alertmanager sent."""

    def __init__(self) -> None:
        self.alerts: list[dict[str, Any]] = []
        alerts = self.alerts

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                alerts.extend(json.loads(body)["alerts"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def pages(self) -> list[dict[str, Any]]:
        return [alert for alert in self.alerts if alert["labels"]["severity"] == "page"]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)


@contextmanager
def process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=out) as running:
        try:
            yield running
        finally:
            running.terminate()
            running.wait(30)


def routes(folder: Path, generated: Path, pager: Pager) -> None:
    """The generated configuration with somebody to send to, and no patience."""
    config = yaml.safe_load(generated.read_text(encoding="utf-8"))
    config["route"] |= {"group_wait": "1s", "group_interval": "1s"}
    for receiver in config["receivers"]:
        receiver["webhook_configs"] = [{"url": pager.url, "send_resolved": False}]
    (folder / "alertmanager.yml").write_text(json.dumps(config))


@contextmanager
def alertmanager(folder: Path) -> Iterator[int]:
    """Alertmanager with `folder/alertmanager.yml`; yields its port."""
    port = free_port()
    command = [
        binary("prometheus-alertmanager"), f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'alertmanager'}", f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]  # fmt: skip
    with process(command, folder / "alertmanager.log"):
        yield port


@contextmanager
def stack(folder: Path, break_every: int) -> Iterator[tuple[PrometheusServer, Pager]]:
    """Application, Prometheus, Alertmanager and pager, wired as people wire them."""
    objectives = folder / "objectives.yaml"
    objectives.write_text(OBJECTIVES)
    assert main(["slo", "rules", str(objectives), "-o", str(folder / "rules")]) == 0
    metrics = free_port()
    pager = Pager()
    routes(folder, folder / "rules" / "otelstream.alertmanager.yaml", pager)
    config: dict[str, Any] = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(folder / "rules" / "otelstream.rules.yaml")],
        "scrape_configs": [{"job_name": "assistants/chat", "static_configs": [{"targets": [f"127.0.0.1:{metrics}"]}]}],
    }
    application = [sys.executable, str(Path(__file__).with_name("application.py"))]
    try:
        with (
            process([*application, str(objectives), str(metrics), str(break_every)], folder / "application.log"),
            alertmanager(folder) as port,
        ):
            config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}]}
            with prometheus(folder, json.dumps(config)) as server:
                yield server, pager
    finally:
        pager.close()


def now(server: PrometheusServer, expr: str) -> float | None:
    found = server.query(expr, time.time())
    return float(found[0]["value"][1]) if found else None


def ended(server: PrometheusServer) -> float:
    return now(server, "sum(otelstream_streams_total)") or 0


def test_five_per_cent_broken_streams_page_somebody(tmp_path: Path) -> None:
    """One stream in twenty breaks after its 200: the pager names the objective, with numbers and a link."""
    with stack(tmp_path, break_every=20) as (server, pager):
        page = wait_for(lambda: next(iter(pager.pages()), None), f"a page; see {tmp_path}", 180)
        ratio = now(server, "max_over_time(slo:sli_error:ratio_rate40s{sloth_slo='whole-answers'}[1m])")
        judged = now(server, "sum(otelstream_objective_streams_total{otelstream_objective_result='bad'})")
        hashes = server.query("group by (otelstream_objectives_hash) (otelstream_info)", time.time())
        left = now(server, "slo:period_error_budget_remaining:ratio{sloth_slo='whole-answers'}")

    assert page["labels"]["alertname"] == "OtelStreamIntegrityBudgetBurnPage"
    assert page["labels"]["otelstream_objective_name"] == "whole-answers"
    assert page["labels"]["job"] == "assistants/chat"
    assert page["annotations"]["runbook_url"] == "runbook.md#otelstreamintegritybudgetburnpage"
    assert (
        "% of streams began to answer and then failed; the objective whole-answers allows 0.5%. Now: "
        in page["annotations"]["description"]
    )
    assert re.search(r"Now: [\d.]+% in 40s, limit 2%", page["annotations"]["description"])
    assert {alert["labels"]["otelstream_objective_name"] for alert in pager.pages()} == {"whole-answers"}
    assert len(pager.pages()) == 1
    assert ratio is not None
    assert 0.02 < ratio < 0.15
    assert (judged or 0) >= 3
    assert left is not None
    assert left < 0
    loaded = _spec.load(tmp_path / "objectives.yaml")
    assert [item["metric"]["otelstream_objectives_hash"] for item in hashes] == [loaded.hash]


def test_the_same_traffic_without_faults_pages_nobody(tmp_path: Path) -> None:
    """Longer than the page took, with as many streams, nobody is paged and nothing is a ticket."""
    with stack(tmp_path, break_every=0) as (server, pager):
        wait_for(lambda: ended(server) > 600, f"600 streams; see {tmp_path}", 240)
        bad = now(server, "sum(otelstream_objective_streams_total{otelstream_objective_result='bad'})")
        ratio = now(server, "slo:sli_error:ratio_rate40s{sloth_slo='whole-answers'}")

    assert pager.alerts == []
    assert bad == 0
    assert ratio == 0


FIRST, WHOLE, INTEGRITY = "FirstToken", "Completion", "Integrity"
# What fires in an incident, one after the other, and who is told.
INCIDENTS: dict[str, tuple[tuple[tuple[str, str], ...], set[tuple[str, str]]]] = {
    "an hour of 529s": (
        (
            (WHOLE, "page"), (FIRST, "page"), ("OtelStreamRetriesRising", "ticket"), (WHOLE, "ticket"),
            (FIRST, "ticket"),
        ),
        {(WHOLE, "page")},
    ),
    "answers cut in the middle": (
        ((INTEGRITY, "page"), (WHOLE, "page"), (INTEGRITY, "ticket"), (WHOLE, "ticket")),
        {(INTEGRITY, "page"), (WHOLE, "page")},
    ),
    "the prompt cache is lost": (((FIRST, "page"), (FIRST, "ticket")), {(FIRST, "page")}),
    "a hang": ((("OtelStreamStreamsHanging", "page"),), {("OtelStreamStreamsHanging", "page")}),
    "a job is gone": (
        (("OtelStreamTelemetrySilent", "ticket"), (WHOLE, "page"), (INTEGRITY, "ticket")),
        {("OtelStreamTelemetrySilent", "ticket")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", INCIDENTS)
def test_who_is_told(name: str, tmp_path: Path) -> None:
    """With the generated routes and inhibitions a real Alertmanager sends what each incident is worth, and no more."""
    fires, told = INCIDENTS[name]
    pager = Pager()
    routes(tmp_path, folder() / "rules" / "otelstream.alertmanager.yaml", pager)

    def full(alert: str, severity: str) -> str:
        return alert if alert.startswith("OtelStream") else f"OtelStream{alert}BudgetBurn{severity.capitalize()}"

    def sent(alert: str, severity: str) -> dict[str, str]:
        objective = {FIRST: "first-token", WHOLE: "completion", INTEGRITY: "integrity"}.get(alert, "")
        labels = {"alertname": full(alert, severity), "severity": severity, "job": "chat"}
        return {**labels, "otelstream_objective_name": objective} if objective else labels

    try:
        with alertmanager(tmp_path) as port:
            address = f"http://127.0.0.1:{port}"
            wait_for(lambda: answers(f"{address}/-/ready"), "Alertmanager to be ready")
            sign = {"alertname": "OtelStreamStreamsHanging", "severity": "page", "job": "another"}
            first, *others = (sent(*each) for each in fires)
            post(f"{address}/api/v2/alerts", [first])  # what inhibits comes first, for its window is the shorter one
            wait_for(lambda: first in [alert["labels"] for alert in pager.alerts], "the first of them")
            post(f"{address}/api/v2/alerts", others)
            wait_for(lambda: all(groups(address, each) for each in others), "Alertmanager to group the others")
            post(f"{address}/api/v2/alerts", [sign])  # and when that is told, so are they
            wait_for(lambda: sign in [alert["labels"] for alert in pager.alerts], "the page of another job")
    finally:
        pager.close()
    found = {(alert["labels"]["alertname"], alert["labels"]["severity"]) for alert in pager.alerts
             if alert["labels"]["job"] == "chat"}  # fmt: skip
    assert found == {(full(*each), each[1]) for each in told}


def post(url: str, labels: list[dict[str, str]]) -> None:
    body = json.dumps([{"labels": each} for each in labels]).encode()
    urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"}), timeout=30).close()


def groups(address: str, labels: dict[str, str]) -> bool:
    """Whether that alert is in a group, and would have been sent."""
    with urllib.request.urlopen(f"{address}/api/v2/alerts/groups", timeout=30) as answer:
        return any(labels == alert["labels"] for group in json.load(answer) for alert in group["alerts"])


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
