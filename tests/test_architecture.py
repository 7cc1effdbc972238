# SPDX-License-Identifier: Apache-2.0
"""The house of docs/architecture.md: imports go downwards only, for types too, and no two files import one another."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "otelstream"
# From the top to the bottom; the rooms of one line do not import one another.
FLOORS = (
    ("__main__",),
    ("cli",),
    ("demo", "doctor", "probe", "texture"),
    ("testing",),
    ("slo", "grafana", "collector"),
    ("asgi", "wsgi", "aiohttp", "typing", ""),
    ("_face",),
    ("view",),
    ("litellm",),
    ("bedrock",),
    ("anthropic", "openai", "google"),
    ("_stainless",),
    ("_objectives_file", "_promql", "_prometheus"),
    ("_core.process",),
    ("_core.tools",),
    ("_core.turns",),
    ("_core.emit",),
    ("_core.record",),
    ("_core", "_semconv", "_errors", "_trouble"),
)
LEVEL = {room: len(FLOORS) - index for index, floor in enumerate(FLOORS) for room in floor}
PROVIDERS = ("anthropic", "openai", "bedrock", "google")
MOST_LINES = 400
TABLES = ("_semconv",)  # of names: as long as there are names


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of ours that a module imports, wherever in it, for types too."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("otelstream").lstrip(".") for alias in node.names
                        if alias.name.partition(".")[0] == "otelstream")  # fmt: skip
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1] + (node.module or "").split(".")
                module = ".".join(part for part in base if part)
            elif (node.module or "").partition(".")[0] == "otelstream":
                module = (node.module or "").removeprefix("otelstream").lstrip(".")
            else:
                continue
            for alias in node.names:
                below = f"{module}.{alias.name}".lstrip(".")
                yield below if below in known else module


def room_of(module: str) -> str:
    room = ".".join(module.split(".")[:2])
    return room if room in LEVEL else module.partition(".")[0]


def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: set(imports(name, path, known)) - {name} for name, path in known.items()}


def upward(found: dict[str, set[str]]) -> list[str]:
    return [
        f"{name} imports {other}"
        for name, others in found.items()
        for other in others
        if room_of(name) != room_of(other) and LEVEL[room_of(name)] <= LEVEL[room_of(other)]
    ]


def in_a_circle(found: dict[str, set[str]]) -> set[str]:
    """What is left when everything is taken away that imports nothing, again and again, from both ends."""
    left = {name: set(others) & found.keys() for name, others in found.items()}
    while True:
        imported = set().union(*left.values()) if left else set()
        ends = {name for name, others in left.items() if not others or name not in imported}
        if not ends:
            return set(left)
        left = {name: others - ends for name, others in left.items() if name not in ends}


def test_imports_go_down() -> None:
    """A module imports its own room and those below it, for types too; every module is in a room."""
    assert {room_of(name) for name in modules()} <= LEVEL.keys()
    assert not upward(graph())


def test_nothing_is_in_a_circle() -> None:
    """No two files import one another, directly or round a corner."""
    assert not in_a_circle(graph())


def test_the_rules_can_fail() -> None:
    """An import for a type that goes up, and a circle of three, are found."""
    found = graph()
    planted = {**found, "_core.record.call": found["_core.record.call"] | {"_core.process.runtime"}}

    assert upward(planted) == ["_core.record.call imports _core.process.runtime"]
    assert in_a_circle(planted) >= {"_core.record.call", "_core.record.stream", "_core.process.runtime"}


@pytest.mark.parametrize("name", sorted(modules()))
def test_a_module_says_what_it_is_for(name: str) -> None:
    """Each has a docstring that begins with one sentence, and at most 400 lines; tables of names may be longer."""
    text = modules()[name].read_text(encoding="utf-8")

    first = (ast.get_docstring(ast.parse(text)) or "").partition("\n\n")[0]
    assert first.endswith(".") or name == "__main__"
    assert name in TABLES or text.count("\n") <= MOST_LINES


def test_no_provider_is_named_above_its_package() -> None:
    """Outside its own package a provider is found by the registry: no code spells its name as a module."""
    named = []
    for name, path in modules().items():
        if name.partition(".")[0] in (*PROVIDERS, "litellm", "testing", "demo") or name == "cli._demo":
            continue  # the simulator speaks a provider's protocol, the stories use a provider's SDK
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named += [
            f"{name}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and node.value in PROVIDERS
        ]
    assert not named
