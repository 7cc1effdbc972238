# SPDX-License-Identifier: Apache-2.0
"""Prometheus rule groups as plain data, from a config."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from otelstream._objectives_file import SloConfig, duration
from otelstream.slo._alert import Alert
from otelstream.slo._burn import SLOW_INTERVAL, SLOW_WINDOW, Burn, Record
from otelstream.slo._symptoms import Symptoms


def alerts(config: SloConfig) -> tuple[Alert, ...]:
    """Every alert of a config: those of each objective in file order, then the symptoms."""
    burning = (alert for promise in config.promises for alert in Burn(config, promise).alerts())
    return (*burning, *Symptoms(config).alerts())


def runbook_url(config: SloConfig, alert: Alert) -> str:
    return f"{config.runbook_url}#{alert.name.lower()}"


def alert_labels(config: SloConfig, alert: Alert) -> dict[str, str]:
    return dict(sorted({"severity": alert.severity, **dict(alert.labels), **dict(config.labels)}.items()))


def alert_annotations(config: SloConfig, alert: Alert, *, plain: bool = False) -> dict[str, str]:
    return {
        "summary": alert.summary,
        "description": (alert.plain or alert.description) if plain else alert.description,
        "runbook_url": runbook_url(config, alert),
    }


def groups(config: SloConfig) -> list[dict[str, Any]]:
    """Every rule group, in the order Prometheus should show them."""
    found: list[dict[str, Any]] = []
    for promise in config.promises:
        burn, name = Burn(config, promise), promise.objective.name
        fast = tuple(w for w in promise.windows if w <= SLOW_WINDOW)
        slow = tuple(w for w in promise.windows if w > SLOW_WINDOW)
        found.append(_recordings(f"otelstream-slo-sli-recordings-{name}", burn.sli_records(fast), burn.interval))
        # A short period (a test, a demo) changes quickly; a month does not.
        interval = SLOW_INTERVAL if config.window > SLOW_WINDOW else None
        found.append(
            _recordings(
                f"otelstream-slo-period-recordings-{name}",
                (*burn.sli_records(slow), burn.period_record()),
                interval,
            )
        )
        found.append(_recordings(f"otelstream-slo-meta-recordings-{name}", burn.meta_records()))
        found.append(
            {
                "name": f"otelstream-slo-alerts-{name}",
                "rules": [alert_rule(config, alert) for alert in burn.alerts()],
            }
        )
    symptoms = Symptoms(config)
    records = [{"record": name, "expr": expr} for name, expr in symptoms.records().items()]
    found.append({"name": "otelstream-symptoms-recordings", "rules": records})
    found.append({"name": "otelstream-symptoms", "rules": [alert_rule(config, each) for each in symptoms.alerts()]})
    return [group for group in found if group["rules"]]


def _recordings(name: str, records: tuple[Record, ...], interval: Decimal | None = None) -> dict[str, Any]:
    rules = [{"record": record.name, "expr": record.expr, "labels": dict(sorted(record.labels))} for record in records]
    return {"name": name, **({"interval": duration(interval)} if interval else {}), "rules": rules}


def alert_rule(config: SloConfig, alert: Alert, *, raw: bool = False) -> dict[str, Any]:
    """One alert as Prometheus reads it; `raw` uses no recorded series."""
    return {
        "alert": alert.name,
        "expr": alert.without_records if raw else alert.expr,
        "for": duration(alert.hold),
        **({"keep_firing_for": duration(alert.keep)} if alert.keep else {}),
        "labels": alert_labels(config, alert),
        "annotations": alert_annotations(config, alert, plain=raw),
    }
