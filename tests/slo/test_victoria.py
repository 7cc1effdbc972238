# SPDX-License-Identifier: Apache-2.0
"""VictoriaMetrics scrapes, vmalert evaluates the generated rules, and Alertmanager pages, as with Prometheus."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from otelstream.cli import main
from otelstream.doctor import _prometheus
from otelstream.slo._bundled import folder

from .panels import NAMES, load, queries
from .test_end_to_end import OBJECTIVES, Pager, alertmanager, answers, process, routes
from .tools import PrometheusServer, binary, free_port, wait_for

pytestmark = pytest.mark.slow
GRAFANA = {"$__rate_interval": "1m", "$__range_s": "3600", "$__range": "1h", "$__interval": "15s"}


def victoria(name: str) -> str:
    """One of its binaries, which build from its Go module."""
    try:
        return binary(name)
    except pytest.skip.Exception:
        pytest.skip(f"{name} is not installed: go install github.com/VictoriaMetrics/VictoriaMetrics/app/{name}@latest")


def filled(expr: str) -> str:
    for variable, value in GRAFANA.items():
        expr = expr.replace(variable, value)
    return re.sub(r'=~"\$\w+"', '=~".*"', expr)


def test_vmalert_accepts_the_rules() -> None:
    """Every expression of the committed rules is one of MetricsQL, too."""
    rules = folder() / "rules" / "otelstream.rules.yaml"
    subprocess.run([victoria("vmalert"), "-dryRun", f"-rule={rules}"], capture_output=True, check=True, timeout=60)


def test_a_page_by_victoria_metrics(tmp_path: Path) -> None:
    """One stream in twenty breaks after its 200: one page, of that objective; every panel's query is answered."""
    objectives, rules = tmp_path / "objectives.yaml", tmp_path / "rules"
    objectives.write_text(OBJECTIVES)
    assert main(["slo", "rules", str(objectives), "-o", str(rules)]) == 0
    metrics, store, alert = free_port(), free_port(), free_port()
    url = f"http://127.0.0.1:{store}"
    target = {"job_name": "assistants/chat", "static_configs": [{"targets": [f"127.0.0.1:{metrics}"]}]}
    scrape = {"global": {"scrape_interval": "1s"}, "scrape_configs": [target]}
    (tmp_path / "scrape.yml").write_text(json.dumps(scrape))
    pager = Pager()
    routes(tmp_path, rules / "otelstream.alertmanager.yaml", pager)
    application = [sys.executable, str(Path(__file__).with_name("application.py")), str(objectives), str(metrics), "20"]
    database = [
        *(victoria("victoria-metrics"), f"-httpListenAddr=127.0.0.1:{store}", f"-storageDataPath={tmp_path / 'data'}"),
        *(f"-promscrape.config={tmp_path / 'scrape.yml'}", "-search.latencyOffset=0s"),
    ]
    try:
        with (
            process(application, tmp_path / "application.log"),
            process(database, tmp_path / "victoria.log"),
            alertmanager(tmp_path) as port,
        ):
            wait_for(lambda: answers(f"{url}/health"), "VictoriaMetrics")
            evaluator = [
                *(victoria("vmalert"), f"-rule={rules / 'otelstream.rules.yaml'}", f"-datasource.url={url}"),
                *(f"-remoteWrite.url={url}", f"-remoteRead.url={url}", f"-notifier.url=http://127.0.0.1:{port}"),
                *("-evaluationInterval=1s", f"-httpListenAddr=127.0.0.1:{alert}"),
            ]
            with process(evaluator, tmp_path / "vmalert.log"):
                page = wait_for(lambda: next(iter(pager.pages()), None), f"a page; see {tmp_path}", 180)
            server = PrometheusServer(url)
            findings = [*_prometheus.stored(url)]
            asked = [expr for name in NAMES for _, expr in queries(load(name))]
            answered = sum(bool(server.query(filled(expr), time.time())) for expr in asked)
    finally:
        pager.close()

    print(f"\n{answered} of {len(asked)} queries of the panels have data")
    assert page["labels"]["otelstream_objective_name"] == "whole-answers"
    assert page["labels"]["job"] == "assistants/chat"
    assert "Now: " in page["annotations"]["description"]
    assert {each["labels"]["otelstream_objective_name"] for each in pager.pages()} == {"whole-answers"}
    assert findings == []
    assert answered > len(asked) / 3
