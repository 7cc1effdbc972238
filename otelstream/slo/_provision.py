# SPDX-License-Identifier: Apache-2.0
"""The same alerts in two other shapes: Grafana-managed alerting and a Kubernetes PrometheusRule."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from otelstream._objectives_file import SloConfig, duration
from otelstream.slo._alert import Alert
from otelstream.slo._rules import alert_annotations, alert_labels, alerts, groups

FOLDER: Final = "otelstream"
_MAX_UID: Final = 40


def prometheus_rule(config: SloConfig) -> dict[str, Any]:
    """Return the PrometheusRule of the Prometheus operator."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "otelstream", "labels": {"app.kubernetes.io/name": "otelstream"}},
        "spec": {"groups": groups(config)},
    }


def grafana_alerting(config: SloConfig, datasource_uid: str = "prometheus") -> dict[str, Any]:
    """Return a file for Grafana's `provisioning/alerting`; its queries need no recording rules.

    Grafana expands `$` in this file except in annotations, so no query may hold one.
    """
    return {
        "apiVersion": 1,
        "groups": [
            {
                "orgId": 1,
                "name": "otelstream",
                "folder": FOLDER,
                "interval": "1m",
                "rules": [_grafana_rule(config, alert, datasource_uid) for alert in alerts(config)],
            }
        ],
    }


def _uid(alert: Alert) -> str:
    """A readable uid of at most 40 characters; a long objective's is told apart by a digest."""
    plain = (
        f"os-{alert.objective}-{alert.severity}" if alert.objective else f"os-{alert.name.removeprefix('OtelStream')}"
    )
    if len(plain) <= _MAX_UID:
        return plain
    return plain[: _MAX_UID - 9] + "-" + hashlib.sha256(plain.encode()).hexdigest()[:8]


def _grafana_rule(config: SloConfig, alert: Alert, datasource_uid: str) -> dict[str, Any]:
    # The objective is in the title because a title is unique in its folder.
    title = f"{alert.name} {alert.objective}".strip()
    told = alert_annotations(config, alert, plain=True)
    # `$value` is a text of all query values in Grafana; `$values.A.Value` is the number.
    told["description"] = told["description"].replace("$value ", "$values.A.Value ")
    return {
        "uid": _uid(alert),
        "title": title,
        "condition": "B",
        "data": [
            {
                "refId": "A",
                "relativeTimeRange": {"from": 600, "to": 0},
                "datasourceUid": datasource_uid,
                "model": {"refId": "A", "expr": alert.without_records, "instant": True, "range": False},
            },
            {
                "refId": "B",
                "relativeTimeRange": {"from": 600, "to": 0},
                "datasourceUid": "__expr__",
                "model": {
                    "refId": "B",
                    "type": "threshold",
                    "expression": "A",
                    "conditions": [{"evaluator": {"type": "gt", "params": [0]}}],
                },
            },
        ],
        # The query returns only what is over its limit: nothing returned is health, not trouble.
        "noDataState": "OK",
        "execErrState": "Error",
        "for": duration(alert.hold),
        **({"keepFiringFor": duration(alert.keep)} if alert.keep else {}),
        "labels": alert_labels(config, alert),
        "annotations": told,
        "isPaused": False,
    }
