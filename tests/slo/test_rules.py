# SPDX-License-Identifier: Apache-2.0
"""Every alert fires at the minute it must and stays silent when it must, in Prometheus's own rule tests."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from otelstream._objectives_file import SloConfig
from otelstream._semconv import OBJECTIVE_STREAMS, OBJECTIVE_TOTAL, START_TIME
from otelstream.cli import _generate
from otelstream.slo import _rules, _yaml
from otelstream.slo._bundled import bundled_config, folder

from . import scenarios
from .scenarios import CONFIG, PAGE, SCENES, Scene, since
from .tools import binary, counter, series

FILES = sorted(scenarios.files())


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [binary("promtool"), *arguments], capture_output=True, text=True, check=False, timeout=1800
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_files(name: str) -> None:
    """Each committed file holds as it stands, with all of the rules."""
    done = promtool("test", "rules", str(folder() / "rules" / "tests" / name))

    assert done.returncode == 0, done.stdout + done.stderr


def matter(each: Scene) -> list[dict[str, Any]]:
    """The groups of the alerts that a scene looks at: a promtool that runs all of them takes minutes."""
    wanted = [alert for alert in _rules.alerts(CONFIG) if re.fullmatch(each.among, alert.name)]
    endings = tuple({f"-{alert.objective}" for alert in wanted if alert.objective})
    rules = [_rules.alert_rule(CONFIG, alert) for alert in wanted if not alert.objective]
    if any("slo:" in rule["expr"] for rule in rules):
        endings += ("-symptoms-recordings",)
    groups = [group for group in _rules.groups(CONFIG) if endings and group["name"].endswith(endings)]
    return [*groups, *([{"name": "otelstream-symptoms", "rules": rules}] if rules else [])]


@pytest.mark.parametrize("each", [each for each in SCENES if each.minutes <= 150], ids=lambda each: each.name)
def test_scene(each: Scene, tmp_path: Path) -> None:
    """The alerts of a scene fire when they must, and no other of those it looks at does. (Longer: `make e2e`.)"""
    groups = matter(each)
    made = scenarios.document([each], str(_written(tmp_path, groups)))
    made["group_eval_order"] = [group["name"] for group in groups]
    file = tmp_path / "scene.yaml"
    file.write_text(_yaml.dump(made), encoding="utf-8")
    done = promtool("test", "rules", str(file))

    assert done.returncode == 0, done.stdout + done.stderr


def test_scenes_are_committed() -> None:
    """The files are what scenarios.py writes."""
    made = scenarios.files()
    where = folder() / "rules" / "tests"

    assert {file.name: file.read_text(encoding="utf-8") for file in where.iterdir()} == made, "make generate"


def test_there_are_enough_scenes() -> None:
    """Forty at least; each alert has one in which it fires, and one in which it is looked for and silent."""
    names = {alert.name for alert in _rules.alerts(CONFIG)}
    fired = {name for each in SCENES for name in each.fires}
    silent = {name for each in SCENES for name in names if re.fullmatch(each.among, name) and name not in each.fires}

    assert len(SCENES) >= 40
    assert fired == names
    assert silent == names


def raw_rules() -> list[dict[str, Any]]:
    return [_rules.alert_rule(CONFIG, alert, raw=True) for alert in _rules.alerts(CONFIG)]


@pytest.mark.slow
@pytest.mark.parametrize("each", [scene for scene in SCENES if scene.minutes < 200], ids=lambda each: each.name)
def test_without_recording_rules(each: Scene, tmp_path: Path) -> None:
    """Grafana's alerts, which read no recorded series, fire in the same scenes; the minute may be another."""
    made = scenarios.timeline(each, _written(tmp_path, [{"name": "raw", "rules": raw_rules()}]), tmp_path)

    assert made.keys() == each.fires.keys()


def _written(folder: Path, groups: list[dict[str, Any]]) -> Path:
    rules = folder / "rules.yaml"
    rules.write_text(_yaml.dump({"groups": groups}), encoding="utf-8")
    return rules


def test_promtool_accepts_the_rules(tmp_path: Path) -> None:
    """promtool finds no fault in the committed rules, nor in the queries of Grafana's alerts."""
    for path in (
        _written(tmp_path, [{"name": "raw", "rules": raw_rules()}]),
        folder() / "rules" / "otelstream.rules.yaml",
    ):
        done = promtool("check", "rules", str(path))
        assert done.returncode == 0, done.stdout + done.stderr


def test_alertmanager_accepts_the_routes() -> None:
    """amtool finds no fault in routes and inhibitions; a page of ours goes to the pages, the rest to the tickets."""
    file = str(folder() / "rules" / "otelstream.alertmanager.yaml")

    def amtool(*arguments: str) -> str:
        done = subprocess.run([binary("amtool"), *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    assert "3 inhibit rules" in amtool("check-config", file)
    for severity, receiver in (("page", "otelstream-pages"), ("ticket", "otelstream-tickets")):
        told = ("alertname=OtelStreamIntegrityBudgetBurn", f"severity={severity}", "job=chat")
        assert amtool("config", "routes", "test", f"--config.file={file}", *told) == receiver


@pytest.mark.parametrize("name", sorted({alert.name for alert in _rules.alerts(CONFIG)}))
def test_texts_render(name: str, tmp_path: Path) -> None:
    """Summary and description of an alert, as Prometheus renders them where it fires, are plain sentences."""
    each = min((each for each in SCENES if name in each.fires), key=lambda each: each.fires[name][0][0])
    groups = matter(replace(each, among=name))
    made = scenarios.document([each], str(_written(tmp_path, groups)))
    made["group_eval_order"] = [group["name"] for group in groups]
    (test,) = made["tests"]
    del test["promql_expr_test"]
    # What is expected is wrong, so that promtool shows what it got.
    wrong = [{"exp_labels": {"nobody": "expects"}}]
    at = f"{each.fires[name][0][0] + 1}m"
    test["alert_rule_test"] = [{"eval_time": at, "alertname": name, "exp_alerts": wrong}]
    file = tmp_path / "texts.yaml"
    file.write_text(_yaml.dump(made), encoding="utf-8")

    done = promtool("test", "rules", str(file))
    texts = re.findall(r'(?:description|summary)="(.*?)(?<!\\)"', done.stdout + done.stderr)

    assert len(texts) >= 2, done.stdout + done.stderr
    for text in texts:
        assert not re.search(r"\{\{|\}\}|<no value>|%!|error calling|NaN|\+Inf", text), text


def grouped(*labels: str) -> SloConfig:
    return replace(bundled_config(), group_by=labels)


MINUTES = 15
DEAD = {
    "one route of twenty": (("job", "otelstream_route"), OBJECTIVE_STREAMS, "otelstream__route", 20),
    "the small one of two clusters": (("cluster", "job"), OBJECTIVE_TOTAL, "cluster", 2),
}


@pytest.mark.parametrize("name", DEAD)
def test_where_it_burns(name: str, tmp_path: Path) -> None:
    """A part that is dead beside what is well pages under its own name where it is grouped by, and is lost else."""
    labels, metric, key, parts = DEAD[name]
    given: dict[str, str] = since(-1_000_000, MINUTES)
    for part in range(parts):
        for result in ("good", "bad"):
            dead = part == 0
            per_minute = (
                [2 if dead is (result == "bad") else 0] * MINUTES
                if dead
                else [200 if result == "good" else 0] * MINUTES
            )
            at = series(
                metric, otelstream__objective__name="integrity", otelstream__objective__result=result,
                **{key: f"part-{part}"},
            )  # fmt: skip
            given[at] = counter(per_minute)
            if metric is OBJECTIVE_STREAMS:  # what the rules read that know no route
                total = series(
                    OBJECTIVE_TOTAL, otelstream__objective__name="integrity", otelstream__objective__result=result
                )
                given[total] = counter([2 if result == "bad" else 200 * (parts - 1)] * MINUTES)
    if key == "cluster":
        given |= {series(START_TIME, cluster=f"part-{part}"): f"-1000000x{MINUTES}" for part in range(parts)}
    scene = Scene(name, given, MINUTES, PAGE, {})

    for config, fires in ((grouped(*labels), {PAGE}), (bundled_config(), set())):
        rules = _written(tmp_path, _rules.groups(config))
        assert scenarios.timeline(scene, rules, tmp_path).keys() == fires


def test_the_file_for_groups(tmp_path: Path) -> None:
    """`slo init --group-by` writes them into the file, and the rules made of it group by them; nonsense is refused."""
    from otelstream.cli import main

    file = tmp_path / "objectives.yaml"
    assert main(["slo", "init", "-o", str(file), "--group-by", "cluster, job"]) == 0
    assert main(["slo", "rules", str(file), "-o", str(tmp_path)]) == 0
    rules = yaml.safe_load((tmp_path / "otelstream.rules.yaml").read_text(encoding="utf-8"))
    assert rules["groups"] != yaml.safe_load(_generate.rule_files(CONFIG)["otelstream.rules.yaml"])["groups"]
    assert "sum by (cluster, job)" in (tmp_path / "otelstream.rules.yaml").read_text(encoding="utf-8")
    assert main(["slo", "init", "-o", str(tmp_path / "other.yaml"), "--group-by", "a b"]) == 2


def test_what_is_selected() -> None:
    """With two labels selected, every series that a rule reads is asked for with both of them."""
    config = replace(CONFIG, select=(("namespace", "chat"), ("team", "a")))
    asked = {'namespace="chat"', 'team="a"'}
    seen = set()
    for group in _rules.groups(config):
        for rule in group["rules"]:
            for name, inside in re.findall(r"(\botelstream_\w+|(?<=\())\{([^}]*)\}", rule["expr"]):
                assert asked <= {*inside.split(", ")} | {*inside.split(",")}, (name, rule)
                seen.add(name)
    assert len(seen) > 8
