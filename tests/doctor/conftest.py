# SPDX-License-Identifier: Apache-2.0
"""Run the doctor as the command line does, without an interpreter of its own."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("anthropic")

from otelstream import cli
from otelstream.cli import _run
from otelstream.testing import ProviderSimulator

HERE = Path(__file__).parent


@dataclass
class Seen:
    """What the doctor said."""

    exit_code: int
    report: dict[str, Any]

    @property
    def codes(self) -> list[str]:
        return sorted({finding["code"] for finding in self.report["findings"]})

    def point(self, name: str) -> str:
        (verdict,) = [point["verdict"] for point in self.report["points"] if name in point["name"]]
        return str(verdict)


Doctor = Callable[..., Seen]


@pytest.fixture(scope="session")
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as simulator:
        yield simulator


@pytest.fixture
def plain_environment(monkeypatch: pytest.MonkeyPatch, sim: ProviderSimulator) -> None:
    for name in list(os.environ):
        if name.startswith(("OTEL", "ANTHROPIC_", "TRACELOOP", "OPENINFERENCE", "PYTHONPATH", "COV_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SIM", sim.base_url)


@pytest.fixture
def doctor(plain_environment: None, capfd: pytest.CaptureFixture[str]) -> Doctor:
    def run(*words: str) -> Seen:
        code = cli.main(["doctor", "--json", *words])
        out = capfd.readouterr().out
        return Seen(code, json.loads(out))

    return run


@pytest.fixture(scope="session")
def left_behind(sim: ProviderSimulator, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run all plants at once; what each child left, by the plant's name."""
    folder = tmp_path_factory.mktemp("plants")

    @contextlib.contextmanager
    def kept() -> Iterator[str]:
        yield str(folder)

    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("OTEL", "ANTHROPIC_", "TRACELOOP", "OPENINFERENCE", "PYTHONPATH", "COV_")):
                patch.delenv(name)
        patch.setenv("SIM", sim.base_url)
        patch.setattr(_run, "_private_folder", kept)
        assert cli.main(["doctor", str(HERE / "plants.py")]) == 1
    found = {}
    for path in folder.glob("probe-*.json"):
        found[json.loads(path.read_bytes())["program"].split()[-1]] = path
    return found
