# SPDX-License-Identifier: Apache-2.0
"""The package as an index shows it, its release notes, and the README's table of versions. `make dist` builds it."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def script(path: str) -> dict[str, Any]:
    return runpy.run_path(str(ROOT / path))


def test_every_link_of_the_package_page_is_an_address() -> None:
    """An index has no files beside the README: links and the picture lead to the repository at that version."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    made = script("hatch_build.py")["absolute"](readme, "https://example.test/repo", "1.2.3")

    links = re.findall(r"\]\(([^)]+)\)", made)
    assert len(links) > 10
    assert all(link.startswith("https://") for link in links)
    assert "](https://example.test/repo/raw/v1.2.3/docs/demo.png)" in made
    assert "](https://example.test/repo/blob/v1.2.3/docs/turns.md)" in made


def test_without_an_address_a_link_is_a_name() -> None:
    """Where the repository's address is not known, none is made up: a path is told as what it is."""
    made = script("hatch_build.py")["absolute"](
        "![A picture](docs/a.png)\nSee [it](docs/b.md), [them](https://c.test)", None, "1"
    )

    assert made == "\nSee it (`docs/b.md`), [them](https://c.test)"


def test_the_table_of_versions_is_generated() -> None:
    """The README names the versions that the tests run on today."""
    words = [sys.executable, ROOT / "docs" / "versions.py", "--check"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "the table of versions is current\n")


def test_every_extra_is_explained() -> None:
    """The README says of each extra what it brings."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = PROJECT.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    (told,) = re.findall(r"\| extra \| brings \|\n\| --- \| --- \|\n(.*?)\n\n", readme, re.DOTALL)
    named = [name for line in told.splitlines() for name in re.findall(r"`(\w+)`", line.split("|")[1])]

    assert sorted(named) == sorted(re.findall(r"^(\w+) = \[", block, re.MULTILINE))


def test_release_notes_come_from_the_changelog() -> None:
    """They are what stands under the version's heading, and a version without any is an error."""
    notes = script("tests/package/notes.py")["notes"]
    text = "# Changelog\n\n## Unreleased\n\n## [1.1.0] - 2026-01-02\n\n### Added\n\n- This.\n\n## 1.0.0\n\n- That.\n"

    assert notes("1.1.0", text) == "### Added\n\n- This.\n"
    assert notes("1.0.0", text) == "- That.\n"
    for none in ("Unreleased", "2.0.0"):
        with pytest.raises(LookupError, match=none):
            notes(none, text)
    assert notes("unreleased", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))


def test_the_content_check_can_fail() -> None:
    """What is missing from a wheel, and what has no place in it, is named."""
    wrong = script("tests/package/distribution.py")["wrong"]

    assert wrong(["a/py.typed"], ("a/py.typed",)) == []
    assert wrong(["a/__pycache__/x"], ("a/py.typed",)) == ["missing: a/py.typed", "no place for: a/__pycache__/x"]
