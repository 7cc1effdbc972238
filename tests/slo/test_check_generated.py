# SPDX-License-Identifier: Apache-2.0
"""`otelstream slo check --generated` on folders that hold anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from otelstream.cli import main


@pytest.mark.parametrize("name", ["otelstream.rules.yaml", "otelstream-streams.json", "runbook.md"])
def test_a_file_that_is_no_utf8_differs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A generated file saved in another encoding is told as one that differs: 1, and its name."""
    (tmp_path / name).write_bytes("groupé\n".encode("latin-1"))

    assert main(["slo", "check", "--generated", str(tmp_path)]) == 1

    assert f"{tmp_path / name} differs from what this file makes; make it again" in capsys.readouterr().err


def test_what_cannot_be_read_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a generated file should be is something that cannot be read: 2, its name and the remedy."""
    (tmp_path / "runbook.md").mkdir()

    assert main(["slo", "check", "--generated", str(tmp_path)]) == 2

    said = capsys.readouterr().err
    assert f"--generated {tmp_path / 'runbook.md'}: Is a directory; " in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("missing", ["grafanalib", "ruamel.yaml"])
@pytest.mark.parametrize("command", ["check --generated .", "rules -o out", "dashboards -o out"])
def test_without_the_extra(missing: str, command: str, tmp_path: Path) -> None:
    """What is not installed is named with the line that installs it: 2, no traceback."""
    (tmp_path / "o.json").write_text('{"objectives": [{"name": "a", "kind": "integrity", "target": 0.99}]}')
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from otelstream.cli import main\n"
        f"raise SystemExit(main(['slo', *{command.split()!r}, 'o.json']))"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)

    library = missing.partition(".")[0]
    needed = command.startswith("check") or command.startswith("rules") == (missing == "ruamel.yaml")
    assert done.returncode == (2 if needed else 0), done.stderr
    if needed:
        assert done.stderr == f'otelstream slo: {library} is missing; `pip install "otelstream[dashboards]"`\n'
