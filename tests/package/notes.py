# SPDX-License-Identifier: Apache-2.0
"""Print the release notes of a version, which are its part of the changelog: `notes.py [VERSION]`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

CHANGELOG = Path(__file__).parents[2] / "CHANGELOG.md"


def notes(version: str, text: str) -> str:
    """What stands under the heading of *version*. Raises LookupError where there is none, or nothing under it."""
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n")
        if head.strip("[] ").split()[0].strip("[]").lower() == version.lower() and body.strip():
            return body.strip() + "\n"
    raise LookupError(f"CHANGELOG.md says nothing of {version}")


if __name__ == "__main__":
    try:
        print(notes(sys.argv[1] if len(sys.argv) > 1 else "Unreleased", CHANGELOG.read_text(encoding="utf-8")), end="")
    except LookupError as error:
        sys.exit(str(error))
