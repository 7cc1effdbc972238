# SPDX-License-Identifier: Apache-2.0
"""Lay a board out and turn it into the classic JSON that Grafana 10 to 12 imports."""

from __future__ import annotations

import json
from typing import Any, Final

import grafanalib.core as g
from grafanalib._gen import DashboardEncoder

from otelstream._semconv import INFO, OBJECTIVE_STREAMS, PROVIDER, REQUEST_MODEL, ROUTE, STREAMS, label_name
from otelstream.grafana._queries import JOB, WHERE
from otelstream.grafana._vocabulary import DATASOURCE, Board, Row, traces, variable

SCHEMA_VERSION: Final = 38  # Grafana 10.0's; later ones migrate it, none needs it newer
TAG: Final = "otelstream"
_DASHBOARD_KEYS: Final = (
    "annotations",
    "description",
    "editable",
    "graphTooltip",
    "links",
    "panels",
    "refresh",
    "schemaVersion",
    "tags",
    "templating",
    "time",
    "timepicker",
    "timezone",
    "title",
    "uid",
    "version",
)
_PANEL_KEYS: Final = (
    "id",
    "type",
    "title",
    "description",
    "gridPos",
    "datasource",
    "maxDataPoints",
    "fieldConfig",
    "options",
    "targets",
    "transformations",
    "collapsed",
    "panels",
)
_VARIABLE_KEYS: Final = (
    "allValue", "current", "datasource", "hide", "includeAll", "label", "multi", "name", "options", "query",
    "refresh", "regex", "skipUrlSync", "sort", "type",
)  # fmt: skip


def render(board: Board) -> dict[str, Any]:
    """Return the dashboard as plain JSON data, without what grafanalib keeps for Grafana 6."""
    made = g.Dashboard(
        title=f"otelstream / {board.title}",
        uid=board.uid,
        description=board.description,
        tags=[TAG],
        editable=False,
        schemaVersion=SCHEMA_VERSION,
        graphTooltip=1,
        refresh="1m",
        timezone="",
        time=g.Time(board.span, "now"),
        panels=_lay_out(board.rows),
        templating=g.Templating(list=[*_variables(), *board.variables]),
        annotations=g.Annotations(list=[_alerts(), _new_models()]),
        links=_links(),
    )
    plain = json.loads(json.dumps(made.to_json_data(), cls=DashboardEncoder, sort_keys=True))
    plain["panels"] = [_panel(panel) for panel in plain["panels"]]
    plain["templating"]["list"] = [_only(_with_current(item), _VARIABLE_KEYS) for item in plain["templating"]["list"]]
    plain["timepicker"] = {}
    return _only(plain, _DASHBOARD_KEYS)


def _only(data: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: data[key] for key in keys if data.get(key) is not None}


def _with_current(item: dict[str, Any]) -> dict[str, Any]:
    current: dict[str, Any] = {"text": "", "value": ""}  # the first there is
    if item["type"] != "datasource" and item["multi"]:
        current = {"selected": True, "text": ["All"], "value": ["$__all"]}
    return {**item, "current": current, "skipUrlSync": False}


def _panel(panel: dict[str, Any]) -> dict[str, Any]:
    kept = _only(panel, _PANEL_KEYS)
    if kept["type"] == "row":
        for key in (
            "fieldConfig",
            "options",
            "targets",
            "transformations",
            "datasource",
            "description",
            "maxDataPoints",
        ):
            kept.pop(key, None)
        kept["panels"] = [_panel(inner) for inner in kept.get("panels", [])]
        return kept
    kept["pluginVersion"] = "10.0.0"
    if not kept.get("transformations"):
        kept.pop("transformations", None)
    defaults = kept["fieldConfig"]["defaults"]
    steps = (defaults.get("thresholds") or {}).get("steps")
    if not steps:
        defaults["thresholds"] = {"mode": "absolute", "steps": [{"color": "green", "value": None}]}
    for container in (defaults, defaults.get("custom", {})):
        for key in [key for key, value in container.items() if value is None or value == []]:
            del container[key]
    defaults.get("custom", {}).pop("displayMode", None)
    kept["fieldConfig"].setdefault("overrides", [])
    return kept


def _lay_out(rows: tuple[Row, ...]) -> list[Any]:
    """Place panels left to right; ids count up in reading order, so a diff shows what moved."""
    panels: list[Any] = []
    y, number = 0, 0
    for row in rows:
        number += 1
        header = g.RowPanel(title=row.title, collapsed=row.collapsed, id=number, gridPos=g.GridPos(h=1, w=24, x=0, y=y))
        panels.append(header)
        y += 1
        x, inside = 0, []
        for width, panel in row.panels:
            if x + width > 24:
                x, y = 0, y + row.height
            number += 1
            panel.id = number
            panel.gridPos = g.GridPos(h=row.height, w=width, x=x, y=y)
            x += width
            inside.append(panel)
        y += row.height
        if row.collapsed:
            header.panels = inside
        else:
            panels.extend(inside)
    return panels


def _variables() -> list[Any]:
    provider, model, route = (label_name(attribute) for attribute in (PROVIDER, REQUEST_MODEL, ROUTE))
    streams, routed = STREAMS.prometheus, OBJECTIVE_STREAMS.prometheus
    return [
        g.Template(
            name="prometheus_datasource",
            label="Prometheus data source",
            type="datasource",
            query="prometheus",
            regex="",
        ),
        g.Template(name="tempo_datasource", label="Tempo data source", type="datasource", query="tempo", regex=""),
        *(
            variable(name, name.capitalize(), f"label_values({INFO.prometheus}, {name})", everything=".*")
            for name in ("cluster", "namespace")
        ),
        variable("job", "Job", f"label_values({INFO.prometheus}, job)", everything=".+"),
        variable("instance", "Instance", f"label_values({INFO.prometheus}{{{JOB}}}, instance)", everything=".+"),
        variable("provider", "Provider", f"label_values({streams}{{{JOB}}}, {provider})", everything=".*"),
        variable(
            "model",
            "Model",
            f'label_values({streams}{{{JOB}, {provider}=~"$provider"}}, {model})',
            everything=".*",
        ),
        # A stream without a route has no such label: `.*` keeps it, `.+` would lose it.
        variable("route", "Route", f"label_values({routed}{{{WHERE}}}, {route})", everything=".*"),
    ]


def _alerts() -> dict[str, Any]:
    return {
        "datasource": DATASOURCE,
        "enable": True,
        "expr": f'ALERTS{{alertname=~"OtelStream.+", alertstate="firing", {JOB}}}',
        "iconColor": "red",
        "name": "Alerts",
        "tagKeys": "severity,otelstream_objective_name",
        "titleFormat": "{{alertname}}",
    }


def _new_models() -> dict[str, Any]:
    """Mark where a model is used for the first time in a day: texture changes without any alert."""
    model, streams = label_name(REQUEST_MODEL), f"{STREAMS.prometheus}{{{WHERE}}}"
    return {
        "datasource": DATASOURCE,
        "enable": True,
        "expr": f"group by (job, {model}) ({streams}) unless group by (job, {model}) "
        f"(last_over_time({streams}[1d] offset 10m))",
        "iconColor": "blue",
        "name": "New models",
        "tagKeys": f"job,{model}",
        "titleFormat": "First streams of this model",
    }


def _links() -> list[Any]:
    title, url = traces("Traces: succeeded, then failed", "{ span.otelstream.stream.succeeded_then_failed = true }")
    return [
        g.DashboardLink(
            title="otelstream", type="dashboards", tags=[TAG], asDropdown=True, includeVars=True, keepTime=True
        ),
        g.DashboardLink(title=title, type="link", uri=url, icon="external link", targetBlank=True, keepTime=False),
    ]
