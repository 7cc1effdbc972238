# SPDX-License-Identifier: Apache-2.0
"""Write the README's table of versions from what the tests run on: `python docs/versions.py [--check]`."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
_BEGIN, _END = "<!-- versions: made by docs/versions.py from the test matrix -->\n", "<!-- end of versions -->"


def table() -> str:
    """One row for each that has a range."""
    matrix = runpy.run_path(str(ROOT / "tests" / "matrix" / "versions.py"))["ALL"]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    rows = ["| of | supported | tested with |", "| --- | --- | --- |"]
    pythons = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project)
    rows.append(f"| Python | {pythons[0]} and later | {' · '.join(pythons)} |")
    for sdk, versions in matrix.items():
        (least, below) = re.findall(rf'^\w+ = \["{sdk}>=([\d.]+),<([\d.]+)"\]', project, re.MULTILINE)[0]
        tested = [_newest(sdk) if version == "newest" else version for version in versions]
        rows.append(f"| `{sdk}` | {least} to {int(below) - 1}.x | {' · '.join(tested)} |")
    (least, below) = re.findall(r'"opentelemetry-api>=([\d.]+),<(\d+)"', project)[0]
    rows.append(f"| OpenTelemetry | {least} to {int(below) - 1}.x | {least} · {_newest('opentelemetry-api')} |")
    return "\n".join(rows) + "\n"


def _newest(package: str) -> str:
    """What `make pins` found."""
    pins = (ROOT / "tests" / "constraints.txt").read_text(encoding="utf-8")
    return re.findall(rf"^{re.escape(package)}==([^\s;]+)", pins, re.MULTILINE)[-1]


def main() -> int:
    """Write the table into the README, or say whether it is there."""
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(_BEGIN)
    made = before + _BEGIN + table() + _END + rest.partition(_END)[2]
    if "--check" in sys.argv:
        print("the table of versions is current" if made == text else "it drifts: run python docs/versions.py")
        return int(made != text)
    README.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
