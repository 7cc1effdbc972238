# SPDX-License-Identifier: Apache-2.0
"""What is generated is committed, stable, and the same from an installed wheel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from otelstream import _objectives_file as _spec
from otelstream.cli import _generate, main
from otelstream.slo import _rules
from otelstream.slo._bundled import bundled_config, folder

CONFIG = bundled_config()
ROOT = Path(__file__).parents[2]
CUSTOM = """\
window: 28d
labels: {team: assistants}
select: {namespace: chat}
group_by: [namespace, job]
runbook_url: https://runbooks.example/otelstream.md
objectives:
  - {name: chat-first-token, kind: first_token, target: 0.99, threshold: 1.5s, routes: [chat], models: [model-a]}
  - {name: agents-first-token, kind: first_token, target: 0.9, threshold: 8s, routes: [agents],
     burn_rates: [{severity: page, long: 1h, short: 5m, factor: 6, for: 2m}]}
  - {name: whole, kind: completion, target: 0.999, threshold: 5m, min_bad: 10}
  - {name: unbroken, kind: integrity, target: 0.9995, faults: [cut_short, connection_lost]}
symptoms: {repetition: off}
"""


def committed() -> dict[Path, str]:
    return {
        **{folder() / "rules" / name: text for name, text in _generate.rule_files(CONFIG).items()},
        **{folder() / "grafana" / name: text for name, text in _generate.dashboard_files(CONFIG).items()},
        **{folder() / name: text for name, text in _generate.runbook_files(CONFIG).items()},
        **{folder() / name: text for name, text in _generate.schema_files().items()},
    }


def test_committed_files_are_what_the_objectives_make() -> None:
    """`make generate` changes nothing; no generated file is left over."""
    made = committed()

    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} drifted: make generate"
    for name in ("rules", "grafana"):
        assert {file for file in (folder() / name).iterdir() if file.is_file() and file.name != ".lint"} == {
            path for path in made if path.parent.name == name
        }


def test_check_finds_drift(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`slo check --generated` is 0 for fresh files and 1, with the name, for an edited one."""
    assert main(["slo", "rules", "-o", str(tmp_path)]) == 0
    assert main(["slo", "check", "--generated", str(tmp_path)]) == 0
    edited = tmp_path / "otelstream.rules.yaml"
    edited.write_text(edited.read_text().replace("14.4", "15"))

    assert main(["slo", "check", "--generated", str(tmp_path)]) == 1
    assert "otelstream.rules.yaml differs" in capsys.readouterr().err


def test_output_is_stable_and_human() -> None:
    """Twice the same text; numbers without float noise; every alert has its words and its link."""
    again = _generate.rule_files(bundled_config())
    text = again["otelstream.rules.yaml"]

    assert again == _generate.rule_files(CONFIG)
    assert "0000000" not in text
    assert "14.4 * 0.005" in text
    for alert in _rules.alerts(CONFIG):
        assert alert.name.startswith("OtelStream")
        assert "{{ $value" in alert.description or alert.name in (
            "OtelStreamTelemetrySilent",
            "OtelStreamNamesUntranslated",
        )
        assert alert.summary.endswith(".")


def test_runbook_has_every_anchor() -> None:
    """Each alert's runbook_url points at an anchor that is there."""
    text = (folder() / "runbook.md").read_text(encoding="utf-8")

    for alert in _rules.alerts(CONFIG):
        assert f'<a id="{_rules.runbook_url(CONFIG, alert).partition("#")[2]}"></a>' in text


def test_the_runbook_says_how_long_an_alert_waits_and_stays() -> None:
    """Each pair of windows has its own wait in the runbook, and what fires on has how long."""
    text = (folder() / "runbook.md").read_text(encoding="utf-8")
    assert text.count("| 2m · 15m | 1h |") == text.count("| 1h · 3h | 6h |") == len(CONFIG.promises)
    assert text.count(" after it is over.") == 1
    assert "`OtelStreamStreamsHanging`, page, holds for 5m, and fires on for 1h after it is over." in text


def test_three_shapes_hold_the_same_alerts() -> None:
    """Prometheus rules, PrometheusRule and Grafana-managed alerting have the same alerts, texts and waits."""
    files = {name: yaml.safe_load(text) for name, text in _generate.rule_files(CONFIG).items()}
    plain = files["otelstream.rules.yaml"]["groups"]
    grafana = files["otelstream.grafana-alerting.yaml"]["groups"][0]["rules"]
    alerts = [rule for group in plain for rule in group["rules"] if "alert" in rule]

    assert files["otelstream.prometheusrule.yaml"]["spec"]["groups"] == plain
    assert [rule["title"].split()[0] for rule in grafana] == [rule["alert"] for rule in alerts]
    assert [rule["for"] for rule in grafana] == [rule["for"] for rule in alerts]
    assert [rule["labels"] for rule in grafana] == [rule["labels"] for rule in alerts]
    assert len({rule["uid"] for rule in grafana}) == len({rule["title"] for rule in grafana}) == len(grafana)
    for rule in grafana:
        assert len(rule["uid"]) <= 40
        # Grafana expands `$` in queries of provisioned files.
        assert "$" not in rule["data"][0]["model"]["expr"]
        assert "slo:" not in rule["data"][0]["model"]["expr"]


def test_a_custom_file_reaches_everything(tmp_path: Path) -> None:
    """Names, scopes, labels and periods of a custom file are in rules, dashboards and runbook."""
    file = tmp_path / "mine.yaml"
    file.write_text(CUSTOM)
    config = _spec.load_config(file)
    rules = _generate.rule_files(config)["otelstream.rules.yaml"]
    boards = _generate.dashboard_files(config)
    book = _generate.runbook_files(config)["runbook.md"]

    assert "sum by (namespace, job)" in rules
    assert 'namespace="chat"' in rules
    assert "ratio_rate28d" in rules
    assert "team: assistants" in rules
    assert "RepetitionLoops" not in rules
    assert "https://runbooks.example/otelstream.md#otelstreamintegritybudgetburnpage" in rules
    assert "How much of the 28d budget is left?" in boards["otelstream-streams.json"]
    assert "chat-first-token" in boards["otelstream-streams.json"]
    assert "first visible token within 1.5 s (models model-a; routes chat)" in book
    assert config.objectives.faults == {"cut_short", "connection_lost"}


@pytest.mark.slow
def test_an_installed_wheel_makes_the_same(tmp_path: Path) -> None:
    """Built, installed elsewhere and run from elsewhere, the command line makes byte-identical files."""
    uv = [sys.executable, "-m", "uv"]
    if subprocess.run([*uv, "--version"], capture_output=True, check=False).returncode:
        uv = ["python3", "-m", "uv"]
        if subprocess.run([*uv, "--version"], capture_output=True, check=False).returncode:
            pytest.skip("uv is not installed: it builds and installs the wheel")
    file = tmp_path / "mine.yaml"
    file.write_text(CUSTOM)
    run = {"check": True, "capture_output": True, "cwd": tmp_path}
    subprocess.run([*uv, "build", "--wheel", "-o", str(tmp_path), str(ROOT)], **run)  # type: ignore[call-overload]
    subprocess.run([*uv, "venv", str(tmp_path / "venv")], **run)  # type: ignore[call-overload]
    wheel = next(tmp_path.glob("*.whl"))
    target = f"otelstream[dashboards] @ {wheel.as_uri()}"
    subprocess.run([*uv, "pip", "install", "-q", "-p", str(tmp_path / "venv"), target], **run)  # type: ignore[call-overload]

    for arguments, here in ((["mine.yaml"], tmp_path / "here"), ([], tmp_path / "bundled")):
        for action in ("rules", "dashboards", "runbook"):
            command = [str(tmp_path / "venv/bin/otelstream"), "slo", action, *arguments, "-o", str(here)]
            subprocess.run(command, **run)  # type: ignore[call-overload]
            assert main(["slo", action, *[str(file) for _ in arguments], "-o", f"{here}-mine"]) == 0
        made = {path.name: path.read_bytes() for path in here.iterdir()}
        assert made == {path.name: path.read_bytes() for path in Path(f"{here}-mine").iterdir()}
        assert len(made) == 8
