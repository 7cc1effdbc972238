# SPDX-License-Identifier: Apache-2.0
"""`otelstream doctor CMD`: real programs, started as people start them."""

from __future__ import annotations

import os
import sys
import venv
from pathlib import Path

import pytest

from otelstream import cli

from .conftest import HERE, Doctor

BARE = """
import os, signal, sys
import anthropic
client = anthropic.Anthropic(base_url=os.environ["SIM"], api_key="k", max_retries=0, timeout=30)
with client.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}]) as stream:
    print(stream.get_final_text())
"""


CLEAN = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
import otelstream
otelstream.instrument(stall_threshold=3)
import plants
plants.clients.append(plants.made())
plants.good_tool()
plants.ask()
"""


def test_a_clean_program(doctor: Doctor, tmp_path: Path) -> None:
    """A program that sets everything up gets exit 0 and no finding; who patched the SDK is among the facts."""
    (tmp_path / "app.py").write_text(CLEAN, encoding="utf-8")

    seen = doctor(str(tmp_path / "app.py"))

    assert (seen.exit_code, seen.codes) == (0, []), seen.report["findings"]
    assert [seen.report["facts"][name] for name in ("processes", "streams", "exit_code")] == [1, 2, 0]
    assert list(seen.report["facts"]["patched_by"]) == ["otelstream"]
    assert [seen.point(name) for name in ("first token", "tools only", "side effects")] == ["yes"] * 3


def test_nothing_set_up(doctor: Doctor, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A program without OpenTelemetry is told so; its output goes to standard error, its exit code into the facts."""
    (tmp_path / "app.py").write_text(BARE + "sys.exit(3)", encoding="utf-8")

    seen = doctor(str(tmp_path / "app.py"))

    assert (seen.exit_code, seen.report["facts"]["exit_code"], seen.report["facts"]["streams"]) == (1, 3, 1)
    assert seen.codes == ["no-meter-provider", "no-tracer-provider", "not-switched-on"]
    assert "exit code 3" in seen.report["unseen"][-1]


OPENAI = """
import os
import openai
client = openai.OpenAI(base_url=os.environ["SIM"] + "/v1", api_key="k", max_retries=0, timeout=30)
for _ in client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True):
    pass
for _ in client.responses.create(model="m", input="x", stream=True):
    pass
"""


def test_another_sdk(doctor: Doctor, tmp_path: Path) -> None:
    """A program that uses the OpenAI SDK only is examined as well, and no other SDK is imported for it."""
    pytest.importorskip("openai")
    (tmp_path / "app.py").write_text(OPENAI + "import sys\nassert 'anthropic' not in sys.modules", encoding="utf-8")

    seen = doctor(str(tmp_path / "app.py"))

    assert seen.codes == ["no-meter-provider", "no-tracer-provider", "not-switched-on"]
    assert [seen.report["facts"][name] for name in ("streams", "exit_code")] == [2, 0]
    assert list(seen.report["facts"]["patched_by"]) == ["otelstream"]
    assert seen.point("first token") == "yes"


ZERO_CODE = Path(sys.executable).parent / "opentelemetry-instrument"


@pytest.mark.skipif(not ZERO_CODE.exists(), reason="the distro is not installed")
def test_under_opentelemetry_instrument(doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zero-code start-up hides our own bootstrap; its processes are seen all the same, and it counts as switched on."""
    (tmp_path / "app.py").write_text(BARE + "os.kill(os.getpid(), signal.SIGTERM)", encoding="utf-8")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "console")
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "none")

    seen = doctor(str(ZERO_CODE), sys.executable, str(tmp_path / "app.py"))

    # Killed: what was left until then is what there is.
    assert seen.report["facts"]["exit_code"] == 128 + 15
    assert seen.report["facts"]["streams"] == 1
    assert seen.codes == ["service-name"]


def test_a_program_without_a_provider(doctor: Doctor) -> None:
    """A program that never imports an SDK has no streams, and is told what to do."""
    seen = doctor(sys.executable, "-c", "pass")

    assert (seen.exit_code, seen.codes) == (1, ["no-streams"])
    assert "never imported" in seen.report["findings"][0]["what"]


def test_a_python_that_ignores_us(doctor: Doctor) -> None:
    """An interpreter that reads no PYTHONPATH cannot be seen, and that is said."""
    seen = doctor(sys.executable, "-I", "-c", "pass")

    assert seen.codes == ["no-streams"]
    assert "reads PYTHONPATH" in seen.report["findings"][0]["what"]


def test_another_environment(doctor: Doctor, tmp_path: Path) -> None:
    """A program that runs in a virtual environment without otelstream is told which one."""
    venv.create(tmp_path / "env", symlinks=True, with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    (tmp_path / "anthropic.py").write_text("", encoding="utf-8")
    (tmp_path / "app.py").write_text("import anthropic", encoding="utf-8")

    seen = doctor(str(python), str(tmp_path / "app.py"))

    assert seen.codes == ["other-environment"]
    assert str(python) in seen.report["findings"][0]["what"]


def test_a_wrong_setting_in_a_program(doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that keeps otelstream off is the one finding, not what follows from it."""
    (tmp_path / "anthropic.py").write_text("", encoding="utf-8")
    (tmp_path / "app.py").write_text("import anthropic", encoding="utf-8")
    monkeypatch.setenv("OTELSTREAM_STALL_THRESHOLD", "soon")

    seen = doctor(sys.executable, str(tmp_path / "app.py"))

    assert seen.codes == ["setting-wrong"]
    assert "a positive number of seconds" in seen.report["findings"][0]["what"]


@pytest.mark.parametrize("words", [["no-such-program"], ["-m"]])
def test_bad_input(words: list[str], plain_environment: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Bad input is one line and exit 2."""
    assert cli.main(["doctor", *words]) == 2

    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_environment_is_left_as_it_was(doctor: Doctor) -> None:
    """The examined program gets the variables, not we."""
    before = dict(os.environ)

    doctor(sys.executable, "-c", "pass")

    assert dict(os.environ) == before
