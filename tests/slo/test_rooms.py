# SPDX-License-Identifier: Apache-2.0
"""Who may import whom among the objectives file, the rules and the dashboards."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import otelstream

PACKAGE = Path(otelstream.__file__).parent
FILE = "otelstream._objectives_file"


def imported(room: str) -> set[str]:
    """Every module of otelstream that a package imports, at its top or inside a function."""
    found: set[str] = set()
    for path in (PACKAGE / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "otelstream":
                found |= {f"otelstream.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module or "")
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
    return {name for name in found if name.startswith("otelstream")}


@pytest.mark.parametrize(
    ("room", "never"),
    [
        ("_objectives_file", ("otelstream.slo", "otelstream.grafana", "otelstream.cli", "otelstream._config")),
        ("grafana", ("otelstream.slo", "otelstream.cli", f"{FILE}._")),
        ("slo", ("otelstream.cli", f"{FILE}._")),
        ("cli", (f"{FILE}._",)),
    ],
)
def test_a_room_imports_only_what_lies_below_it(room: str, never: tuple[str, ...]) -> None:
    """The file knows nobody who reads it, dashboards know no rules, and all go in by the package's own door."""
    assert {name for name in imported(room) if name.startswith(never)} == set()
