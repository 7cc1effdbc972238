# SPDX-License-Identifier: Apache-2.0
"""A run of the tests ends, and fails, whatever a test does to its process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# The hooks of this suite, taken as its conftest takes them.
CONFTEST = "from limits import *\n"
PLUGINS = ("-p", "xdist", "-p", "timeout", "-p", "rerunfailures")
LOADFILE = ("-n", "2", "--dist", "loadfile")
RERUNS = ("--reruns", "2")
PEERS = "def test_one(): pass\ndef test_two(): pass\n"
KILLED = """
import os, signal

def test_before(): pass

def test_killed():
    os.kill(os.getpid(), signal.SIGSEGV)

def test_after(): pass
"""
WAITS = """
import threading

def test_waits():
    threading.Event().wait()
"""
NEVER_LETS_GO = """
import re

def test_never_lets_go():
    re.match("(a+)+$", "a" * 64 + "b")
"""


def run(folder: Path, planted: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run pytest over a module with `planted` among good ones, as `make test` does."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider -ra\nfilterwarnings = error\n")
    (folder / "test_planted.py").write_text(planted)
    for name in ("test_a.py", "test_b.py", "test_y.py", "test_z.py"):
        (folder / name).write_text(PEERS)
    return subprocess.run(
        [sys.executable, "-m", "pytest", *PLUGINS, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(HERE), "PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
@pytest.mark.parametrize(
    "words", [LOADFILE, (*LOADFILE, *RERUNS), ("-n", "2", "--dist", "load", *RERUNS)], ids=" ".join
)
def test_a_worker_dies(tmp_path: Path, words: tuple[str, ...]) -> None:
    """A test that kills its worker ends the run with a failure, and is named; no other worker takes over."""
    ended = run(tmp_path, KILLED, *words)

    assert ended.returncode not in (0, 5), ended.stdout
    assert "[gw2]" not in ended.stdout
    assert "test_killed" in ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("planted", "words"),
    [
        pytest.param(WAITS, ("-n", "0"), id="waits, alone"),
        pytest.param(WAITS, LOADFILE, id="waits"),
        pytest.param(NEVER_LETS_GO, (*LOADFILE, *RERUNS), id="never lets go of the interpreter"),
    ],
)
def test_a_test_hangs(tmp_path: Path, planted: str, words: tuple[str, ...]) -> None:
    """A test beyond its limit ends the run with a failure and the stacks of all threads, its own among them."""
    ended = run(tmp_path, planted, *words, "--timeout", "1")

    assert ended.returncode not in (0, 5), ended.stdout
    assert "Timeout (0:00:01)!" in ended.stderr
    assert "most recent call first" in ended.stderr
    assert "test_planted.py" in ended.stderr


def test_limits_of_this_run(request: pytest.FixtureRequest) -> None:
    """Every test of this suite has a limit, of its own or everybody's."""
    limits = [item.get_closest_marker("timeout") for item in request.session.items]

    assert request.config.getoption("timeout") is not None or all(limits)
