# SPDX-License-Identifier: Apache-2.0
"""The recipes of docs/recipes/, as modules that run."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

RECIPES = Path(__file__).parents[2] / "docs" / "recipes"
# Those that tests here drive: a page that is not here is run block by block by tests/test_docs.py.
SERVED = (
    *("fastapi", "starlette", "sse-starlette", "django", "flask", "aiohttp", "websockets", "streamlit", "gradio"),
    "scraping",
)


def code_of(page: str) -> str:
    """Every Python block of a page, as one module."""
    text = (RECIPES / f"{page}.md").read_text(encoding="utf-8")
    return "\n\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


def skip_without_its_packages(source: str) -> None:
    """Skip by name where what a page imports is not installed."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for name in names:
                if importlib.util.find_spec(name.partition(".")[0]) is None:
                    pytest.skip(f"{name.partition('.')[0]} is not installed: make recipes")


def load(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A page's code, imported as the module that it would be."""
    source = code_of(page)
    skip_without_its_packages(source)
    name = f"recipe_{page.replace('-', '_')}"
    path = folder / f"{name}.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # Django finds its views by this name
    spec.loader.exec_module(module)
    return module


def table() -> dict[tuple[str, str], tuple[str, str]]:
    """What docs/recipes/index.md says of each set-up, by its name and server: after a leave, and after a Stop."""
    rows = {}
    for line in (RECIPES / "index.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 4 and "](" in cells[0]:
            name = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", cells[0])
            rows[name, cells[1]] = (cells[2].replace("`", ""), cells[3].replace("`", ""))
    return rows
