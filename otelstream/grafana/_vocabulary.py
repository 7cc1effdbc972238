# SPDX-License-Identifier: Apache-2.0
"""Our panel vocabulary over grafanalib: a panel is a question, how to read the answer, and queries."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grafanalib.core as g

POINTS: Final = 240  # of a line: one that sees births costs some rates, and half a screen has no room for more
DATASOURCE: Final = {"type": "prometheus", "uid": "${prometheus_datasource}"}
EMPTY: Final = "No streams in this time range"
GREEN, YELLOW, ORANGE, RED = "green", "yellow", "orange", "red"


@dataclass(frozen=True, slots=True)
class Query:
    """One query with its legend; `instant` for tables and single values."""

    expr: str
    legend: str = "{{job}}"
    instant: bool = False
    exemplars: bool = False


@dataclass(frozen=True, slots=True)
class Limit:
    """A colour from this value upwards; the first of a list is the base."""

    value: float | None
    color: str


@dataclass(frozen=True, slots=True)
class Row:
    """A titled row of panels (each with its width of 24); collapsed rows are not on the first screen."""

    title: str
    panels: tuple[tuple[int, Any], ...]
    height: int = 8
    collapsed: bool = False


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard before it is laid out."""

    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[Any, ...] = field(default=())
    span: str = "now-6h"


def _targets(queries: Sequence[Query], shape: str) -> list[dict[str, Any]]:
    found = []
    for place, query in enumerate(queries):
        target = g.Target(
            expr=query.expr,
            legendFormat=query.legend,
            refId=chr(ord("A") + place),
            format=shape,
            instant=query.instant,
            datasource=DATASOURCE,
        ).to_json_data()
        # grafanalib's own: a step of 10, a factor of 2 that halves the resolution, Graphite's `target`.
        for dated in ("step", "intervalFactor", "metric", "target", "query", "interval"):
            del target[dated]
        found.append({**target, "range": not query.instant, "exemplar": query.exemplars, "editorMode": "code"})
    return found


def _limits(limits: Sequence[Limit]) -> list[dict[str, Any]]:
    return [{"color": limit.color, "value": limit.value} for limit in limits]


def _named(panel: Any, no_value: str, extra: dict[str, Any]) -> Any:
    panel.dataSource = DATASOURCE
    panel.maxDataPoints = POINTS if isinstance(panel, g.TimeSeries) else None
    panel.editable = False
    panel.extraJson = _merge({"fieldConfig": {"defaults": {"noValue": no_value}}}, extra)
    return panel


def _merge(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {
        **one,
        **{
            key: _merge(one[key], value) if isinstance(value, dict) and isinstance(one.get(key), dict) else value
            for key, value in other.items()
        },
    }


def timeseries(
    question: str,
    read: str,
    queries: Sequence[Query],
    unit: str,
    *,
    limits: Sequence[Limit] = (),
    stack: bool = False,
    log: bool = False,
    top: float | None = None,
    empty: str = EMPTY,
    axis: str = "",
    link: tuple[str, str] | None = None,
    colours: Mapping[str, str] | None = None,
) -> Any:
    """Lines over time; stacked ones are filled, limits are drawn as dashed lines."""
    defaults: dict[str, Any] = {"min": 0, "links": _links(link)}
    if top is not None:
        defaults["max"] = top
    if log:
        defaults = {"links": _links(link)}
    return _named(
        g.TimeSeries(
            title=question,
            description=read,
            targets=_targets(queries, "time_series"),
            unit=unit,
            axisLabel=axis,
            fillOpacity=30 if stack else 6,
            showPoints="never",
            spanNulls=False,
            stacking={"mode": "normal", "group": "A"} if stack else {"mode": "none", "group": "A"},
            legendDisplayMode="table" if len(queries) > 0 else "list",
            legendPlacement="bottom",
            legendCalcs=["lastNotNull", "max"],
            tooltipMode="multi",
            tooltipSort="desc",
            scaleDistributionType="log" if log else "linear",
            scaleDistributionLog=10 if log else 2,
            thresholdsStyleMode="dashed" if limits else "off",
            thresholds=_limits([Limit(None, GREEN), *limits]),
        ),
        empty,
        {
            "fieldConfig": {"defaults": defaults, "overrides": [_colour(*each) for each in (colours or {}).items()]},
            "options": {"legend": {"showLegend": True}},
        },
    )


# A colour says the same wherever it is: whole answers, what broke, what people left.
OUTCOMES: Final = {
    "completed": "green", "truncated": "yellow", "refused": "purple", "failed": "red", "caller_error": "dark-orange",
    "cancelled": "blue", "abandoned": "light-blue",
}  # fmt: skip
STATES: Final = {"flowing": "green", "waiting_token": "blue", "waiting_headers": "light-blue", "stalled": "red"}


def _colour(name: str, colour: str) -> dict[str, Any]:
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
    }


def stat(
    question: str,
    read: str,
    queries: Sequence[Query],
    unit: str,
    *,
    limits: Sequence[Limit] = (),
    overrides: Sequence[dict[str, Any]] = (),
    decimals: int | None = None,
    empty: str = EMPTY,
) -> Any:
    """One big number a series."""
    return _named(
        g.Stat(
            title=question,
            description=read,
            targets=_targets(queries, "time_series"),
            format=unit,
            color={"mode": "thresholds"},
            colorMode="value",
            graphMode="none",
            decimals=decimals,
            reduceCalc="lastNotNull",
            textMode="value_and_name",
            orientation="auto",
            noValue=empty,
            overrides=list(overrides),
            thresholds=_limits(limits or [Limit(None, GREEN)]),
        ),
        empty,
        # Their defaults: Grafana's own schema wants each of them there.
        {"options": {"wideLayout": True, "showPercentChange": False, "percentChangeColorMode": "standard"}},
    )


def table(
    question: str,
    read: str,
    queries: Sequence[Query],
    unit: str,
    *,
    columns: Sequence[tuple[str, str, str]],
    hidden: Sequence[str] = (),
    sort: str = "",
    empty: str = EMPTY,
    link: tuple[str, str] | None = None,
) -> Any:
    """A table of instant queries joined by their labels; columns are (field, shown as, unit)."""
    shown = {name: title for name, title, _ in columns}
    overrides = [
        {
            "matcher": {"id": "byName", "options": title},
            "properties": [{"id": "unit", "value": column_unit}],
        }
        for _, title, column_unit in columns
        if column_unit
    ]
    return _named(
        g.Table(
            title=question,
            description=read,
            targets=_targets(queries, "table"),
            unit=unit,
            align="auto",
            overrides=overrides,
            sortBy=[g.TableSortByField(displayName=sort, desc=True)] if sort else [],
            transformations=[
                *([{"id": "merge", "options": {}}] if len(queries) > 1 else []),
                {
                    "id": "organize",
                    "options": {
                        "excludeByName": dict.fromkeys(("Time", *hidden), True),
                        "indexByName": {name: place for place, (name, _, _) in enumerate(columns)},
                        "renameByName": shown,
                    },
                },
            ],
        ),
        empty,
        {
            "fieldConfig": {
                "defaults": {"links": _links(link), "custom": {"cellOptions": {"type": "auto"}, "inspect": False}}
            },
            "options": {"cellHeight": "sm", "frameIndex": 0},
        },
    )


def heatmap(question: str, read: str, query: Query, unit: str, *, empty: str = EMPTY) -> Any:
    """Buckets over time; grafanalib's own heat map is of Grafana 6 and is not used."""
    body = {
        "type": "heatmap",
        "fieldConfig": {"defaults": {"noValue": empty, "custom": {}}, "overrides": []},
        "options": {
            "calculate": False,
            "cellGap": 1,
            "color": {
                "mode": "scheme",
                "scheme": "Oranges",
                "steps": 64,
                "exponent": 0.5,
                "fill": "dark-orange",
                "scale": "exponential",
                "reverse": False,
            },
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
            "filterValues": {"le": 1e-09},
            "legend": {"show": True},
            "rowsFrame": {"layout": "auto"},
            "showValue": "never",
            "tooltip": {"mode": "single", "yHistogram": False},
            "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
        },
    }
    panel = g.Panel(title=question, description=read, targets=_targets([query], "heatmap"))
    panel.dataSource, panel.maxDataPoints, panel.editable = DATASOURCE, POINTS, False
    return _Raw(panel, body)


@dataclass(slots=True)
class _Raw:
    """A grafanalib panel whose body is ours."""

    panel: Any
    body: dict[str, Any]
    gridPos: Any = None  # noqa: N815
    id: int | None = None

    def to_json_data(self) -> Any:
        self.panel.gridPos, self.panel.id = self.gridPos, self.id
        return self.panel.panel_json(self.body)


def objective_override(name: str, limits: Sequence[Limit]) -> dict[str, Any]:
    """Limits of one series of a stat: each objective has its own target."""
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": "thresholds", "value": {"mode": "absolute", "steps": _limits(limits)}}],
    }


def traces(title: str, traceql: str) -> tuple[str, str]:
    """A link to Explore with a TraceQL query over the dashboard's time range."""
    pane = {
        "otelstream": {
            "datasource": "${tempo_datasource}",
            "queries": [
                {
                    "refId": "A",
                    "datasource": {"type": "tempo", "uid": "${tempo_datasource}"},
                    "queryType": "traceql",
                    "query": traceql,
                    "limit": 20,
                }
            ],
            "range": {"from": "${__from}", "to": "${__to}"},
        }
    }
    encoded = urllib.parse.quote(json.dumps(pane, separators=(",", ":")), safe="${}:,[]_.")
    return title, f"/explore?schemaVersion=1&orgId=1&panes={encoded}"


def _links(link: tuple[str, str] | None) -> list[dict[str, Any]]:
    return [{"title": link[0], "url": link[1], "targetBlank": True}] if link else []


def variable(name: str, label: str, query: str, *, everything: str, multi: bool = True) -> Any:
    """A query variable that reloads with the time range."""
    return g.Template(
        name=name,
        label=label,
        query={"query": query, "refId": f"{name}-variable"},
        dataSource=DATASOURCE,
        type="query",
        multi=multi,
        includeAll=multi,
        allValue=everything if multi else None,
        default="$__all" if multi else None,
        refresh=2,
        sort=1,
        regex="",
    )
