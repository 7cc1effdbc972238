# SPDX-License-Identifier: Apache-2.0
"""The documentation site: every page is reached, a link that leads nowhere fails, and its picture is of a real run."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def script(name: str) -> ModuleType:
    """A script of docs/."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def named(nav: list[Any]) -> Iterator[str]:
    for entry in nav:
        for below in entry.values():
            if isinstance(below, str):
                yield below
            else:
                yield from named(below)


def test_every_page_is_in_the_navigation() -> None:
    """Each page once, and no name without a page."""
    nav = [*named(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])]

    assert sorted(nav) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def test_links_out_of_the_site_are_names() -> None:
    """A file of the repository that is no page is named; a page stays a link; nonsense stays for mkdocs to refuse."""
    links = script("site_links")
    page = DOCS / "recipes" / "workers.md"

    assert links.in_the_site("[it](../../Makefile)", page) == "it (`Makefile`)"
    for kept in ("[it](../faq.md)", "[it](../../no-such-file)", "[it](flask.md)"):
        assert links.in_the_site(kept, page) == kept


@pytest.mark.parametrize("link", ["", "[x](no-such-page.md)", "[x](faq.md#no-such-heading)", "[x](../no-such-file.py)"])
def test_the_site_is_built_strictly(link: str, tmp_path: Path) -> None:
    """It builds as it is, and not with one broken link."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: make docs")
    for name in ("docs", "mkdocs.yml", "dashboards", "examples", "benchmarks", "collector", "tests", "otelstream"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "docs").unlink()
    shutil.copytree(DOCS, tmp_path / "docs")
    if link:
        with (tmp_path / "docs" / "index.md").open("a", encoding="utf-8") as page:
            page.write(f"\n{link}\n")

    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (done.returncode == 0) == (link == ""), done.stdout + done.stderr
    assert ("'index.md' contains a link" in done.stderr) == (link != "")


def test_the_picture_of_a_turn() -> None:
    """What is drawn anew shows the same as the committed picture but for its times, for light pages and dark."""
    turn = script("turn")
    facts = turn.run()

    assert [bar.name for bar in facts.bars] == ["stream 1", "send_email (write)", "stream 2"]
    assert [bar.says for bar in facts.bars] == ["completed", "committed", "cancelled: user_stop, closed"]
    assert facts.ledger == ("committed: send_email",)
    committed = (DOCS / "turn.svg").read_text(encoding="utf-8")
    assert re.sub(r"[\d.]+", "0", turn.draw(facts)) == re.sub(r"[\d.]+", "0", committed)
    assert "prefers-color-scheme: dark" in committed
