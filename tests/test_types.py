# SPDX-License-Identifier: Apache-2.0
"""What a type checker says of a user's file: an error on each wrong line, and on no other."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import otelstream
from otelstream._core.record.settings import Settings
from otelstream._face.keywords import Settings as Keywords

USERS_FILE = Path(__file__).parent / "typed" / "application.py"
WRONG = [
    number for number, line in enumerate(USERS_FILE.read_text(encoding="utf-8").splitlines(), 1) if "# wrong" in line
][1:]  # the first is the docstring, which says so


def test_every_setting_is_a_typed_keyword() -> None:
    """The typed keywords are the settings, one for one."""
    assert Keywords.__annotations__.keys() == {*Settings.__dataclass_fields__}


def test_mypy_finds_the_wrong_lines(tmp_path: Path) -> None:
    """Of a user's file with ten wrong lines, mypy --strict refuses those ten and nothing else."""
    pytest.importorskip("mypy")
    copy = tmp_path / "application.py"
    copy.write_text(USERS_FILE.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "otelstream").symlink_to(Path(otelstream.__file__).parent)
    words = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--follow-imports=silent", copy.name]
    said = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False).stdout

    assert len(WRONG) == 10
    assert sorted({int(line) for line in re.findall(r"application\.py:(\d+): error", said)}) == WRONG, said
    assert f"Found {len(WRONG)} errors in 1 file" in said


@pytest.mark.slow
def test_pyright_finds_the_wrong_lines(tmp_path: Path) -> None:
    """So does pyright, whose language server is the one in most editors."""
    pyright = shutil.which("pyright")
    if pyright is None:
        pytest.skip("pyright is not on PATH")
    copy = tmp_path / "application.py"
    copy.write_text(USERS_FILE.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "otelstream").symlink_to(Path(otelstream.__file__).parent)
    words = [pyright, "--outputjson", "--pythonpath", sys.executable, copy.name]
    said = json.loads(subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False).stdout)
    errors = [
        found["range"]["start"]["line"] + 1 for found in said["generalDiagnostics"] if found["severity"] == "error"
    ]

    assert errors == WRONG, said["generalDiagnostics"]
