# SPDX-License-Identifier: Apache-2.0
"""Read dashboards the way Grafana does: panels, targets, and variables filled in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otelstream.slo._bundled import folder

NAMES = ("otelstream-streams", "otelstream-inside", "otelstream-tools", "otelstream-compare")
Json = dict[str, Any]


def load(name: str, where: Path | None = None) -> Json:
    text = ((where or folder() / "grafana") / f"{name}.json").read_text(encoding="utf-8")
    found: Json = json.loads(text)
    return found


def panels(dashboard: Json, rows: bool = False) -> Iterator[Json]:
    """Every panel, those of collapsed rows included."""
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            yield panel
            continue
        if rows:
            yield panel
        yield from panel.get("panels", [])


@dataclass(frozen=True)
class View:
    """A time range and chosen variables; `.+` and `.*` are Grafana's All here."""

    end: int
    span: int
    scrape: int = 60
    chosen: Mapping[str, str] = ()  # type: ignore[assignment]

    def step(self, width: int = 120) -> int:
        return max(self.scrape, self.span // width // 60 * 60)

    def fill(self, expr: str, dashboard: Json) -> str:
        """Replace variables as Grafana's Prometheus data source does."""
        values = {item["name"]: item.get("allValue") or "" for item in dashboard["templating"]["list"]}
        values.update({"sdk": "anthropic", **dict(self.chosen)})
        values["__rate_interval"] = f"{max(self.step() + self.scrape, 4 * self.scrape)}s"
        values["__rate_interval_ms"] = str(1000 * max(self.step() + self.scrape, 4 * self.scrape))
        values["__range"] = f"{self.span}s"
        values["__range_s"] = str(self.span)
        return re.sub(r"\$\{?(\w+)\}?", lambda found: values[found[1]], expr)


def queries(dashboard: Json) -> Iterator[tuple[str, str]]:
    """(where, expression) of every panel target, variable and annotation."""
    for panel in panels(dashboard):
        for target in panel["targets"]:
            yield f"{panel['title']} [{target['refId']}]", target["expr"]
    for item in dashboard["annotations"]["list"]:
        yield f"annotation {item['name']}", item["expr"]


def variables(dashboard: Json) -> Iterator[tuple[str, str, str]]:
    """(name, series selector, label) of every query variable."""
    for item in dashboard["templating"]["list"]:
        if item["type"] == "query":
            found = re.fullmatch(r"label_values\((.+), (\w+)\)", item["query"]["query"])
            assert found, item["query"]
            yield item["name"], found[1], found[2]
