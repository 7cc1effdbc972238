# SPDX-License-Identifier: Apache-2.0
"""The README as a package index shows it: its links lead to the repository, at the version they describe.

Without a `Source` in [project.urls] nobody knows where that is: then they are names of files, as the sdist has them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

try:
    from hatchling.metadata.plugin.interface import MetadataHookInterface
except ImportError:  # the tests read the README without the build backend
    MetadataHookInterface = object  # type: ignore[assignment,misc]

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)\s]+)\)")


def absolute(text: str, source: str | None, version: str) -> str:
    """*text* with every link and picture that is a path of the repository as an address, or as a name."""

    def made(link: re.Match[str]) -> str:
        picture, words, path = link.groups()
        if source is None:
            return "" if picture else f"{words} (`{path}`)"
        return f"{picture}[{words}]({source}/{'raw' if picture else 'blob'}/v{version}/{path})"

    return _LINK.sub(made, text)


class MetadataHook(MetadataHookInterface):
    """Called by hatchling for `[tool.hatch.metadata.hooks.custom]`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Give the metadata its long description."""
        readme = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        text = absolute(readme, metadata.get("urls", {}).get("Source"), metadata["version"])
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
