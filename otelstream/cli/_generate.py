# SPDX-License-Identifier: Apache-2.0
"""The files made from one config, as texts by name; nothing here touches the disk but `write`."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from otelstream._objectives_file import SloConfig, schema
from otelstream.slo._alertmanager import alertmanager
from otelstream.slo._provision import grafana_alerting, prometheus_rule
from otelstream.slo._rules import groups
from otelstream.slo._runbook import runbook
from otelstream.slo._yaml import dump


def rule_files(config: SloConfig, datasource_uid: str = "prometheus") -> dict[str, str]:
    """Prometheus rules, the operator's PrometheusRule, Grafana-managed alerting, routes and inhibition."""
    return {
        "otelstream.rules.yaml": dump({"groups": groups(config)}),
        "otelstream.prometheusrule.yaml": dump(prometheus_rule(config)),
        "otelstream.grafana-alerting.yaml": dump(grafana_alerting(config, datasource_uid)),
        "otelstream.alertmanager.yaml": dump(alertmanager(config)),
    }


def dashboard_files(config: SloConfig) -> dict[str, str]:
    """The dashboards as classic JSON, named by uid."""
    from otelstream.grafana import dashboards

    return {
        f"{dashboard['uid']}.json": json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n"
        for dashboard in dashboards(config)
    }


def runbook_files(config: SloConfig) -> dict[str, str]:
    return {"runbook.md": runbook(config)}


def schema_files() -> dict[str, str]:
    return {"objectives.schema.json": json.dumps(schema(), indent=2) + "\n"}


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write the files, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    staged: list[tuple[str, Path]] = []
    try:
        for name, text in files.items():
            handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}.")
            staged.append((temporary, folder / name))
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
            os.chmod(temporary, 0o644)
        while staged:
            temporary, target = staged[0]
            os.replace(temporary, target)
            staged.pop(0)
    finally:
        for temporary, _ in staged:
            Path(temporary).unlink(missing_ok=True)
