# SPDX-License-Identifier: Apache-2.0
"""`otelstream collector`, and what it derives from the objectives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from otelstream._core.record.objectives import Objective, Objectives
from otelstream.cli import main
from otelstream.collector import _files as _collector

from .fleet import BINARY, CONFIGS, validate

OWN = """\
version: 1
objectives:
  - {name: first-token, kind: first_token, target: 0.95, threshold: 2s}
  - {name: short, kind: completion, target: 0.99, threshold: 60s}
  - {name: deep-research, kind: completion, target: 0.995, threshold: 10m}
"""


def completion(threshold: float, target: float) -> Objective:
    return Objective("completion", "completion", target, threshold)


def test_committed_configurations_are_what_the_bundled_objectives_give() -> None:
    """The defaults in collector/ have not drifted from the objectives and the measured cost."""
    held = _collector.holding(Objectives())

    for file in CONFIGS.glob("*.yaml"):
        assert file.read_text() == _collector.render(file.read_text(), held)


def test_a_trace_is_held_longer_than_the_slowest_promised_stream() -> None:
    """The p99 of a stream, from the slowest completion objective, and the way to the gateway."""
    assert _collector.holding(Objectives()).seconds == 150
    assert _collector.holding(Objectives((completion(30, 0.99), completion(600, 0.995)))).seconds == 630


def test_a_threshold_promised_to_fewer_is_stretched_to_the_p99() -> None:
    """100 s at 90 % is 200 s at 99 %, if the tail is exponential; the comment says so."""
    held = _collector.holding(Objectives((completion(100, 0.9),)))

    assert held.seconds == 230
    assert "200 s at 99 % by an exponential tail" in held.why


def test_without_a_completion_objective_the_bundled_one_decides() -> None:
    """An objectives file about first tokens only says nothing of how long a stream lasts."""
    held = _collector.holding(Objectives((Objective("first-token", "first_token", 0.95, 2.5),)))

    assert held.seconds == 150
    assert held.why.startswith("no completion objective, so the bundled one")


def test_own_objectives_are_written_with_the_memory_they_cost(tmp_path: Path) -> None:
    """decision_wait, traces held and memory limit follow from the file and the traffic."""
    objectives = tmp_path / "objectives.yaml"
    objectives.write_text(OWN)
    out = tmp_path / "out"

    arguments = ["collector", "gateway-sampling", "-o", str(out), "--objectives", str(objectives)]
    assert main([*arguments, "--traces-per-second", "300"]) == 0

    written = (out / "gateway-sampling.yaml").read_text()
    assert "decision_wait: ${env:COLLECTOR_DECISION_WAIT:-630s}" in written
    assert "num_traces: ${env:COLLECTOR_NUM_TRACES:-189000}" in written
    limit = int(re.search(r"limit_mib: \$\{env:COLLECTOR_MEMORY_MIB:-(\d+)}", written)[1])
    assert limit > 189_000 * _collector.KIB_A_TRACE / 1024 + _collector.MIB_AT_REST
    if BINARY.exists():
        done = validate(out / "gateway-sampling.yaml", COLLECTOR_EXPORT_ENDPOINT="http://127.0.0.1:4318")
        assert (done.returncode, done.stderr) == (0, "")


def test_list_names_every_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    """`--list` needs no folder."""
    assert main(["collector", "--list"]) == 0

    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(_collector.CONFIGURATIONS)


def test_without_a_name_everything_is_written_with_what_it_mounts(tmp_path: Path) -> None:
    """The folder written has every file of collector/ but its README, and a second time changes nothing."""
    assert main(["collector", "-o", str(tmp_path)]) == 0
    first = {file.relative_to(tmp_path): file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert main(["collector", "-o", str(tmp_path)]) == 0

    assert first == {
        file.relative_to(CONFIGS): file.read_bytes()
        for file in CONFIGS.rglob("*")
        if file.is_file() and file.name != "README.md" and "__pycache__" not in file.parts
    }


@pytest.mark.parametrize("name", ["compose", "kubernetes"])
def test_what_mounts_configurations_brings_them(name: str, tmp_path: Path) -> None:
    """One command gives a folder that works by itself."""
    assert main(["collector", name, "-o", str(tmp_path)]) == 0

    assert {"agent.yaml", "gateway-front.yaml", "gateway-sampling.yaml"} <= {file.name for file in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["agnet", "-o", "x"], "NAME 'agnet' is not known: use one of agent,"),
        (["agent"], "-o DIR is missing"),
        (["agent", "-o", "x", "--traces-per-second", "many"], "--traces-per-second 'many' is not allowed"),
        (["agent", "-o", "x", "--traces-per-second", "0"], "--traces-per-second '0' is not allowed"),
        (["agent", "-o", "x", "--objectives", "none.yaml"], "--objectives none.yaml"),
    ],
)
def test_bad_input_is_one_line_and_2(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Bad input names the field, the value and the remedy, and writes nothing."""
    monkeypatch.chdir(tmp_path)

    assert main(["collector", *arguments]) == 2

    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_objectives_file_is_said_on_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first problem, and where to see the others."""
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("version: 1\nobjectives:\n  - {name: a, kind: speed}\n  - {kind: completion, target: 7}\n")

    assert main(["collector", "agent", "-o", str(tmp_path / "out"), "--objectives", str(wrong)]) == 2

    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"otelstream slo check {wrong}" in said
    assert not (tmp_path / "out").exists()


def test_an_edited_file_is_kept_unless_told_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that differs may hold somebody's work: nothing is written at all."""
    (tmp_path / "gateway-front.yaml").write_text("mine")

    assert main(["collector", "-o", str(tmp_path)]) == 2

    assert "gateway-front.yaml exists and differs: use --force" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["gateway-front.yaml"]
    assert main(["collector", "-o", str(tmp_path), "--force"]) == 0
    assert (tmp_path / "gateway-front.yaml").read_text() != "mine"


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """-o on a file, for one."""
    (tmp_path / "file").write_text("")

    assert main(["collector", "agent", "-o", str(tmp_path / "file")]) == 2

    assert f"-o {tmp_path / 'file'}: " in capsys.readouterr().err
