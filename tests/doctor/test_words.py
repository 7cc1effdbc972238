# SPDX-License-Identifier: Apache-2.0
"""What the doctor and the command say reads well, and names nothing that an installed wheel lacks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import otelstream
from otelstream.doctor._streams import _all, first_token

SOURCES = sorted(Path(otelstream.__file__).parent.glob("doctor/*.py"))


@pytest.mark.parametrize(
    ("count", "said"), [(1, "the one stopped stream was closed"), (3, "all 3 stopped streams were closed")]
)
def test_one_is_not_all(count: int, said: str) -> None:
    """Of one stream it says "the one", never "all 1 streams"."""
    assert _all(count, "stopped stream", "was", "were") + " closed" == said


def test_a_point_about_one_stream() -> None:
    """The same in a point."""
    point, _ = first_token([{"visible_chars": 3, "time_to_first_token": 0.2}])

    assert point.says == "of the one stream with visible output"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_remedy_points_into_the_repository(path: Path) -> None:
    """Whoever has only the wheel has no docs/, tests/ or examples/."""
    assert not re.findall(r"(?:docs|tests|examples|benchmarks)/\w+", path.read_text(encoding="utf-8"))


def test_help_says_what_the_command_is_for() -> None:
    """Not how it is built."""
    words = [sys.executable, "-m", "otelstream", "--help"]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout

    assert "streamed LLM answers" in said
    assert "one module" not in said
