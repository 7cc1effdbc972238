# SPDX-License-Identifier: Apache-2.0
"""Dashboards as Grafana and its linter want them, and as an on-call engineer does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from otelstream._semconv import LABELS, METRICS, STREAMS
from otelstream.slo._bundled import folder

from .panels import NAMES, Json, load, panels, queries, variables
from .tools import go_with

DASHBOARDS = {name: load(name) for name in NAMES}
CASES = [(name, panel) for name, board in DASHBOARDS.items() for panel in panels(board)]
IDS = [f"{name.removeprefix('otelstream-')}: {panel['title']}" for name, panel in CASES]
UNITS = {"none", "short", "percentunit", "s", "cpm"}

# Rules of grafana/dashboard-linter that a query cannot follow, with the reason.
NO_INSTANCE = {
    "slo:": "recorded over all instances of a job",
    "ALERTS": "alerts are of a job, not of an instance",
}

FOUNDATION = "github.com/grafana/grafana-foundation-sdk/go@v0.0.22"
STRICT = """\
package main

import (
	"fmt"
	"os"

	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

func main() {
	plugins.RegisterDefaultPlugins()
	for _, path := range os.Args[1:] {
		raw, err := os.ReadFile(path)
		if err != nil {
			panic(err)
		}
		// Of a dashboard without a fault it returns an error that says nothing.
		var board dashboard.Dashboard
		if err := board.UnmarshalJSONStrict(raw); err != nil {
			fmt.Printf("%s: %s\\n", path, err.Error())
		} else {
			fmt.Printf("%s: \\n", path)
		}
	}
}
"""


def each_target() -> Iterator[tuple[str, Json, Json]]:
    for name, panel in CASES:
        for target in panel["targets"]:
            yield f"{name} / {panel['title']} [{target['refId']}]", panel, target


def selectors(expr: str) -> list[tuple[str, str]]:
    """(metric, matchers) of every selector of an expression."""
    return re.findall(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}", expr)


@pytest.mark.parametrize("name", NAMES)
class TestDashboard:
    def test_head(self, name: str) -> None:
        """Stable readable uid, tag, not editable, no id, no `__inputs`, a schema Grafana 10 knows."""
        board = DASHBOARDS[name]

        assert board["uid"] == name
        assert len(name) <= 40
        assert board["editable"] is False
        assert board["schemaVersion"] == 38
        assert board["tags"] == ["otelstream"]
        assert board["description"]
        assert "id" not in board
        assert "__inputs" not in board
        assert "rows" not in board

    def test_data_sources_are_variables(self, name: str) -> None:
        """template-datasource-rule: two kinds, so each variable is named and labelled after its own."""
        found = [item for item in DASHBOARDS[name]["templating"]["list"] if item["type"] == "datasource"]

        assert [(i["name"], i["label"], i["query"]) for i in found] == [
            ("prometheus_datasource", "Prometheus data source", "prometheus"),
            ("tempo_datasource", "Tempo data source", "tempo"),
        ]

    def test_query_variables(self, name: str) -> None:
        """template-job/instance-rule, on-time-change-reload, label-promql; route's All keeps streams without one."""
        items = {item["name"]: item for item in DASHBOARDS[name]["templating"]["list"] if item["type"] == "query"}

        assert list(items)[:7] == ["cluster", "namespace", "job", "instance", "provider", "model", "route"]
        for item in items.values():
            assert item["datasource"]["uid"] == "${prometheus_datasource}"
            assert item["refresh"] == 2
        for key in ("job", "instance"):
            assert (items[key]["label"], items[key]["multi"], items[key]["allValue"]) == (key.title(), True, ".+")
            assert items[key]["includeAll"] is True
        for key in ("cluster", "namespace", "provider", "model", "route"):
            assert items[key]["allValue"] == ".*"
        assert len(list(variables(DASHBOARDS[name]))) == len(items)

    def test_links_and_annotations(self, name: str) -> None:
        """A menu of the other dashboards that keeps variables and time, traces, and alerts on every graph."""
        board = DASHBOARDS[name]

        assert board["links"][0]["tags"] == ["otelstream"]
        assert board["links"][0]["includeVars"] is True
        assert board["links"][0]["keepTime"] is True
        assert "tempo_datasource" in board["links"][1]["url"]
        assert 'alertstate="firing"' in board["annotations"]["list"][0]["expr"]

    def test_first_screen(self, name: str) -> None:
        """At most eighteen panels before anything is opened; nothing overlaps, nothing leaves the 24 columns."""
        board = DASHBOARDS[name]
        opened = [panel for panel in board["panels"] if panel["type"] != "row"]
        seen: set[tuple[int, int]] = set()

        assert len(opened) <= 18
        for panel in panels(board, rows=True):
            grid = panel["gridPos"]
            cells = {
                (x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])
            }
            assert grid["x"] + grid["w"] <= 24
            assert not cells & seen, panel["title"]
            seen |= cells

    def test_ids_count_up(self, name: str) -> None:
        """Panel ids are unique and in reading order, so a diff shows what moved."""
        ids = [panel["id"] for panel in panels(DASHBOARDS[name], rows=True)]

        assert ids == list(range(1, len(ids) + 1))

    def test_foundation_sdk_reads_it_without_loss(self, name: str) -> None:
        """Grafana's own SDK, of Grafana 10, writes the same back, but for what it lacks and what 11 brought."""
        dashboard = pytest.importorskip("grafana_foundation_sdk.models.dashboard", reason="grafana-foundation-sdk")
        plugins = pytest.importorskip("grafana_foundation_sdk.cog.plugins")
        encoder = pytest.importorskip("grafana_foundation_sdk.cog.encoder")
        plugins.register_default_plugins()

        read = dashboard.Dashboard.from_json(DASHBOARDS[name])
        written = json.loads(json.dumps(read, cls=encoder.JSONEncoder))

        lost = {re.sub(r"\[\d+\]", "[]", path) for path in missing(DASHBOARDS[name], written)}
        newer = ("wideLayout", "showPercentChange", "percentChangeColorMode", "tooltip.mode")
        assert lost <= {
            *(".annotations.list[].titleFormat", ".annotations.list[].tagKeys"),
            *(f".panels[].options.{name}" for name in newer),
        }

    def test_grafatui_imports_it(self, name: str) -> None:
        """A foreign reader of Grafana's JSON accepts it in strict mode."""
        grafatui = shutil.which("grafatui")
        if grafatui is None:
            pytest.skip("grafatui is not installed: cargo install grafatui")

        done = subprocess.run(
            [grafatui, "--validate", "--strict", "--grafana-json", str(folder() / "grafana" / f"{name}.json")],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_foundation_sdk_decodes_strictly(tmp_path: Path) -> None:
    """The newest SDK, which only Go has: no field that it does not know, none missing that it requires."""
    go = go_with(FOUNDATION, STRICT, tmp_path)
    files = [str(folder() / "grafana" / f"{name}.json") for name in NAMES]

    done = subprocess.run([go, "run", ".", *files], cwd=tmp_path, capture_output=True, text=True, check=True)

    assert done.stdout.split("\n") == [*(f"{file}: " for file in files), ""]


def missing(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Paths of what is in one and not, or not the same, in the other."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key, value in one.items():
            if key in other:
                yield from missing(value, other[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}"
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for place, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from missing(left, right, f"{path}[{place}]")
    elif one != other:
        yield path


@pytest.mark.parametrize(("name", "panel"), CASES, ids=IDS)
class TestPanel:
    def test_question_and_answer(self, name: str, panel: Json) -> None:
        """The title asks, the description says how to read it, and an empty panel says why it is empty."""
        assert panel["title"].endswith("?")
        assert len(panel["title"]) <= 60
        assert len(panel["description"].split()) >= 10
        assert panel["fieldConfig"]["defaults"]["noValue"]

    def test_unit(self, name: str, panel: Json) -> None:
        """panel-units-rule: a unit of Grafana's list (heat maps carry it on their axis)."""
        if panel["type"] == "heatmap":
            assert panel["options"]["yAxis"]["unit"] in UNITS
        else:
            assert panel["fieldConfig"]["defaults"]["unit"] in UNITS

    def test_targets(self, name: str, panel: Json) -> None:
        """panel-no-targets and panel-datasource: queries on the variable data source, with a legend."""
        assert panel["targets"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${prometheus_datasource}"}
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"]
            assert target["instant"] is (panel["type"] in ("stat", "table"))
            assert target["legendFormat"] or panel["type"] == "table"

    def test_no_dated_defaults(self, name: str, panel: Json) -> None:
        """What grafanalib keeps for Grafana 6 is gone; lines have as many points as their price allows."""
        assert panel.get("maxDataPoints") == (240 if panel["type"] in ("timeseries", "heatmap") else None)
        for key in ("editable", "error", "span", "minSpan", "height", "cacheTimeout", "interval"):
            assert key not in panel
        for target in panel["targets"]:
            assert not {"intervalFactor", "step", "target", "metric", "query"} & target.keys()
        if panel["type"] == "heatmap":
            assert {"yAxis", "cellGap", "color"} <= panel["options"].keys()
            assert "tooltipDecimals" not in panel


def test_every_selector_follows_the_variables() -> None:
    """target-job-rule and target-instance-rule; model, provider and route wherever the metric has them."""
    known = {metric.prometheus: metric for metric in METRICS}
    kept = {"process": (), "model": ("provider", "model"), "route": ("provider", "model", "route")}
    for where, _, target in each_target():
        for metric, matchers in selectors(target["expr"]):
            assert 'job=~"$job"' in matchers, where
            if not any(metric.startswith(prefix) for prefix in NO_INSTANCE):
                for key in ("instance", "cluster", "namespace"):
                    assert f'{key}=~"${key}"' in matchers, where
            found = known.get(metric) or known.get(re.sub(r"_(bucket|sum|count)$", "", metric))
            asked = [key for key in ("provider", "model", "route") if f'=~"${key}"' in matchers]
            if found is not None and not (
                metric == STREAMS.prometheus and not asked
            ):  # all of them: the whole of a share
                assert tuple(asked) == kept[found.common(lean=True)], where


def test_the_linter_is_told_why() -> None:
    """`.lint` excludes one rule, with its reason, for the panels that cannot follow it, and nothing else."""
    told = yaml.safe_load((folder() / "grafana" / ".lint").read_text(encoding="utf-8"))
    without = {
        (DASHBOARDS[name]["title"], panel["title"])
        for name, panel in CASES
        for target in panel["targets"]
        for _, matchers in selectors(target["expr"])
        if 'instance=~"$instance"' not in matchers
    }

    assert list(told) == ["exclusions"]
    assert list(told["exclusions"]) == ["target-instance-rule"]
    rule = told["exclusions"]["target-instance-rule"]
    assert rule["reason"]
    assert {(entry["dashboard"], entry["panel"]) for entry in rule["entries"]} == without
    assert len(rule["entries"]) == len(without)


def test_rates_use_the_rate_interval() -> None:
    """target-rate-interval-rule: every rate over $__rate_interval, every increase over it or the range shown."""
    for where, _, target in each_target():
        for function, interval in re.findall(r"\b(rate|irate|increase)\([^\[]*\[([^\]]+)\]", target["expr"]):
            allowed = {"$__rate_interval"} if function != "increase" else {"$__rate_interval", "$__range"}
            assert interval in allowed, where


def test_counters_are_rated() -> None:
    """target-counter-agg-rule: no bare counter is drawn."""
    for where, _, target in each_target():
        functions = r"rate|irate|increase|resets|last_over_time|min_over_time"
        bare = re.sub(rf"\b({functions})\([^\[]*\[[^\]]+\](?: offset [$\w]+)?\)", "", target["expr"])
        assert not re.search(r"\w+_(total|bucket|sum|count)\{", bare), where


def test_nothing_is_filled_up() -> None:
    """No query pretends: no `or vector(0)`, no clamps, no absent(); a zero stands for something that was counted."""
    for name, board in DASHBOARDS.items():
        for where, expr in queries(board):
            assert not re.search(r"vector\(|absent\(|clamp", expr), f"{name} / {where}"
            for filled in re.findall(r"\bor (?:on \(\) )?(.{14})", expr):
                meant = r"(label_replace|0 \*|last_over_time|min_over_time|increase|min by)"
                assert re.match(meant, filled), f"{name} / {where}: {filled}"


def test_every_name_is_in_the_contract() -> None:
    """Series and labels of dashboards, rules and runbook are those of `_semconv`, or Prometheus's and sloth's own."""
    known = {metric.prometheus + suffix for metric in METRICS for suffix in ("", "_bucket", "_sum", "_count")}
    known |= {label.prometheus for label in LABELS}
    made = [*(folder() / "grafana").glob("*.json"), *(folder() / "rules").glob("*.yaml"), folder() / "runbook.md"]

    assert len(made) == 9
    for path in made:
        for word in set(re.findall(r"\b(?:otelstream|gen_ai)_[a-z_]+[a-z]", path.read_text(encoding="utf-8"))):
            assert word in known or word == "gen_ai_client", f"{path.name}: {word}"


def test_models_are_told_apart_by_their_provider() -> None:
    """A model that two providers serve under one name is two lines or rows, and each says whose it is."""
    found = 0
    for where, panel, target in each_target():
        for by in re.findall(r"\bby \(([^)]*gen_ai_request_model[^)]*)\)", target["expr"]):
            found += 1
            assert "gen_ai_provider_name" in by, where
            shown = str(panel["transformations"]) if panel["type"] == "table" else target["legendFormat"]
            assert "gen_ai_provider_name" in shown, where

    assert found > 10


def test_every_alert_panel_exists() -> None:
    """A runbook entry that sends people to a panel names one that exists."""
    titles = {panel["title"] for _, panel in CASES}
    boards = {board["title"].removeprefix("otelstream / ") for board in DASHBOARDS.values()}
    text = " ".join((folder() / "runbook.md").read_text(encoding="utf-8").split())

    found = re.findall(r"\*([^*]+)\* > ([^*]+?\?)", text)

    assert len(found) >= 8
    for board, title in found:
        assert board in boards
        assert title in titles
