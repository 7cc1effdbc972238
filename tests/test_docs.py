# SPDX-License-Identifier: Apache-2.0
"""The documentation says what the code does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_table_of_telemetry_is_generated() -> None:
    """docs/telemetry.md is what docs/generate.py makes of _semconv.py today."""
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (0, "docs/telemetry.md is current\n")


def test_the_readme_is_short() -> None:
    """A README that nobody finishes promises nothing."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150
