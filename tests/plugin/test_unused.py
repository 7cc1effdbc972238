# SPDX-License-Identifier: Apache-2.0
"""The plugin in a suite that is not ours: installed, and costing nothing until a test asks for a fixture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("anthropic")

LOOKS = """
import json, sys, threading

def test_loaded():
    roots = {"otelstream", "anthropic", "opentelemetry", "wrapt", "h11", "httpx", "pydantic"}
    loaded = sorted(name for name in sys.modules if name.partition(".")[0] in roots)
    print("LOADED" + json.dumps([loaded, threading.active_count()]))
"""
FAILS = """
import anthropic

CLIENT = anthropic.Anthropic(base_url="http://127.0.0.1:9", api_key="k", max_retries=0)

def ask():
    with CLIENT.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}]) as stream:
        return stream.get_final_text()

def test_two(otelstream_provider, otelstream_recorder):
    ask(), ask()
    assert otelstream_recorder.stream.outcome == "completed"

def test_wrong(otelstream_provider, otelstream_recorder):
    ask()
    otelstream_recorder.expect(outcome="failed")

def test_right(otelstream_provider, otelstream_recorder):
    ask()
    assert otelstream_recorder.stream.outcome == "completed"
"""


def suite(folder: Path, source: str, *words: str) -> str:
    (folder / "test_suite.py").write_text(source, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-s", "-W", "error", "-p", "no:cacheprovider", *words, "test_suite.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout + done.stderr


def test_an_unused_plugin_loads_nothing(tmp_path: Path) -> None:
    """Three modules of ours, none of a provider, none of OpenTelemetry, and no thread."""
    out = suite(tmp_path, LOOKS, "-p", "no:rerunfailures")  # which has a thread

    (line,) = [line for line in out.splitlines() if "LOADED" in line]
    loaded, threads = json.loads(line.partition("LOADED")[2].rstrip("."))
    assert loaded == ["otelstream", "otelstream.testing", "otelstream.testing._plugin"]
    assert threads == 1


def test_errors_show_the_timeline(tmp_path: Path) -> None:
    """A failing test prints what happened on the wire, without our own frames in between."""
    out = suite(tmp_path, FAILS, "-p", "no:randomly")

    assert "2 failed, 1 passed" in out
    assert "expected exactly one ended stream, got 2" in out
    assert "outcome is 'completed', expected 'failed'" in out
    assert "_recorder.py" not in out
    assert out.count("1 m ") >= 2


def test_the_fixtures_and_the_marker_are_listed(tmp_path: Path) -> None:
    """`pytest --fixtures` and `--markers` say what they are for."""
    fixtures = suite(tmp_path, LOOKS, "--fixtures")
    markers = suite(tmp_path, LOOKS, "--markers")

    said = "A local provider that every Anthropic, OpenAI and Google Gen AI client talks to"
    assert said in " ".join(fixtures.split())
    assert "@pytest.mark.otelstream(**settings)" in markers
