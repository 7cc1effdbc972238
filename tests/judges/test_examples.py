# SPDX-License-Identifier: Apache-2.0
"""The two judges of the examples: run as a newcomer does, and measured as their page says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples" / "judges"


def output(name: str) -> str:
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL", "ANTHROPIC"))}
    done = subprocess.run(
        [sys.executable, EXAMPLES / name], capture_output=True, text=True, timeout=120, check=False, env=plain
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_has_what_was_measured() -> None:
    """The table of the page is what the command prints."""
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    table = text.partition("measure.py -->\n")[2].partition("<!-- to here")[0]
    assert table == output("measure.py")


def test_the_example() -> None:
    """What was taken back is told with how long it had stood, and that the user had acted on it."""
    said = output("ask.py").splitlines()
    assert said[1].startswith("answer: no, 4 readings in ")
    assert said[2].startswith("guard: address, ")
    assert said[3].startswith("answer: took yes back for no after ")
    assert said[3].endswith(" s, and the user had acted on it")
