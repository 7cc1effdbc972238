# SPDX-License-Identifier: Apache-2.0
"""What `make docs` does beside mkdocs: links to files of the repository, which are no pages, become their names."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"\[([^\]]+)\]\(\s*((?:\.\./)+[^)\s]+)\s*\)")


def in_the_site(text: str, page: Path) -> str:
    """The text of a page without links that leave docs/; one that leads nowhere stays, for mkdocs to refuse."""

    def named(link: re.Match[str]) -> str:
        words, target = link.groups()
        path = Path(os.path.normpath(page.parent / target.partition("#")[0]))
        if (ROOT / "docs") in path.parents or not path.exists():
            return link.group(0)
        return f"{words} (`{path.relative_to(ROOT)}`)"

    return _LINK.sub(named, text)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by mkdocs for each page."""
    return in_the_site(markdown, Path(page.file.abs_src_path))
