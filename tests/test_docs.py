# SPDX-License-Identifier: Apache-2.0
"""The documentation says what the code does: its code runs, its commands exist, its links lead somewhere."""

from __future__ import annotations

import argparse
import ast
import asyncio
import contextlib
import importlib
import inspect
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import pytest
from recipes import pages as recipes

import otelstream
from otelstream import _semconv, cli
from otelstream._face import instrumentor as _instrumentor
from otelstream.testing import ProviderSimulator

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "examples" / "testing" / "README.md"]
# Driven by real servers in tests/recipes.
SERVED = {ROOT / "docs" / "recipes" / f"{name}.md" for name in recipes.SERVED}
NOT_RUN = re.compile(r"<!-- not run: .+ -->")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    skipped: bool

    @property
    def is_test(self) -> bool:
        return "def test_" in self.text


def blocks(page: Path, *languages: str) -> list[Block]:
    found, lines = [], page.read_text(encoding="utf-8").splitlines()
    start = None
    for number, line in enumerate(lines):
        if start is None and re.match(r"```\w", line):
            start = number
        elif start is not None and line == "```":
            before = next((text for text in reversed(lines[:start]) if text.strip()), "")
            language = lines[start].removeprefix("```")
            text = "\n".join(lines[start + 1 : number]) + "\n"
            found.append(Block(page, start + 2, language, text, bool(NOT_RUN.search(before))))
            start = None
    return [block for block in found if block.language in languages]


def pages(*languages: str) -> list[Any]:
    """The pages whose blocks are run here."""
    return [
        pytest.param(page, id=str(page.relative_to(ROOT)))
        for page in PAGES
        if page not in SERVED
        if any(not block.skipped for block in blocks(page, *languages))
    ]


# --- code -------------------------------------------------------------------------------------------------


@pytest.fixture
def prelude(otelstream_provider: ProviderSimulator) -> Iterator[dict[str, Any]]:
    """What the blocks of a page take for granted: a stream in hand, its text, and somewhere to save it."""
    saved: list[tuple[str, bool]] = []

    async def save(text: str, *, partial: bool) -> None:
        saved.append((text, partial))

    callbacks = [list(each) for each in (_instrumentor._ended, _instrumentor._repeats)]
    otelstream.instrument()
    with (
        anthropic.Anthropic(max_retries=0) as client,
        client.messages.create(
            model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}], stream=True
        ) as stream,
    ):
        for _ in stream:
            pass
        yield {"stream": stream, "save": save, "saved": saved, "text": "So far."}
    otelstream.uninstrument()
    _instrumentor._ended[:], _instrumentor._repeats[:] = callbacks


@pytest.mark.parametrize("page", pages("python"))
def test_the_code_of_a_page_runs(page: Path, prelude: dict[str, Any]) -> None:
    """The blocks of a page run one after the other in one namespace; `await` may stand on its own."""
    for block in blocks(page, "python"):
        if block.skipped or block.is_test or any(each.is_test for each in blocks(page, "python")):
            continue
        # Numbered as in the page, so that a traceback points there.
        source = "\n" * (block.line - 1) + block.text
        code = compile(source, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(eval(code, prelude))
        else:
            exec(code, prelude)
    if page.name == "README.md" and page.parent == ROOT:
        assert prelude["saved"] == [("So far.", False)]


@pytest.mark.parametrize("page", [p for p in pages("python") if any(b.is_test for b in blocks(p.values[0], "python"))])
def test_the_tests_of_a_page_pass(page: Path, tmp_path: Path) -> None:
    """A page that shows tests is one module of tests, and all of them pass."""
    source = "\n".join(block.text for block in blocks(page, "python") if not block.skipped)
    (tmp_path / "test_page.py").write_text(source, encoding="utf-8")

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_page.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert f"{source.count('def test_')} passed" in done.stdout, done.stdout + done.stderr


# --- commands ---------------------------------------------------------------------------------------------


def commands() -> Iterator[Any]:
    """Every command line of the pages: in console blocks, and `otelstream …` and `make …` in running text."""
    for page in PAGES:
        found = [
            line.removeprefix("$ ").partition(" #")[0].strip()
            for block in blocks(page, "console")
            for line in block.text.splitlines()
            if line.startswith("$ ") and not block.skipped
        ]
        found += re.findall(r"`((?:otelstream|make) [a-z][^`]*)`", page.read_text(encoding="utf-8"))
        for line in dict.fromkeys(found):
            for part in re.split(r"\s(?:&&|\|)\s", line):
                if part.split()[0] in ("otelstream", "make"):
                    yield pytest.param(part, id=f"{page.name}: {part}")


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("line", [*commands()])
def test_a_command_exists(line: str) -> None:
    """Every sub-command, option and target that a page names is there."""
    words = shlex.split(line)
    if words[0] == "make":
        assert set(words[1:]) <= make_targets()
        return
    name, rest = words[1], words[2:]
    assert name in cli.COMMANDS
    parser = argparse.ArgumentParser(prog=name)
    importlib.import_module(f"otelstream.cli.{cli.COMMANDS[name][0]}").configure(parser)
    if not rest:
        return
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        parser.parse_args([word for word in rest if not re.fullmatch(r"[A-Z]+…?|\[.*\]|…", word)])
    # An example in running text may leave arguments out.
    assert not said.getvalue() or "the following arguments are required" in said.getvalue()


# --- links ------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links() -> Iterator[Any]:
    for page in PAGES:
        for target in re.findall(r"\]\(\s*(?!https?:)([^)\s]+)\s*\)", page.read_text(encoding="utf-8")):
            yield pytest.param(page, target, id=f"{page.relative_to(ROOT)}: {target}")


@pytest.mark.parametrize(("page", "target"), [*links()])
def test_a_link_leads_somewhere(page: Path, target: str) -> None:
    """A link to a file of the repository, or to a heading, resolves."""
    file, _, anchor = target.partition("#")
    path = (page.parent / file).resolve() if file else page

    assert path.exists()
    if anchor and path.suffix == ".md":
        assert anchor in anchors(path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_file_that_is_named_exists(page: Path) -> None:
    """A path of the repository in backticks is one."""
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:tests|docs|examples|benchmarks|otelstream|collector|dashboards)/[\w./-]+)`", text)

    assert [name for name in named if not (ROOT / name).exists()] == []


# --- the pages as a whole ---------------------------------------------------------------------------------


def test_the_table_of_telemetry_is_generated() -> None:
    """What docs/ has of the code is what docs/generate.py makes of it today."""
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (0, "docs are current\n")


def test_every_name_is_told() -> None:
    """Every name of ours that leaves the process stands in docs/telemetry.md."""
    told = (ROOT / "docs" / "telemetry.md").read_text(encoding="utf-8")
    names = {value for key, value in vars(_semconv).items() if key.isupper() and isinstance(value, str)}
    ours = {name for name in names if name.startswith("otelstream.")}
    assert len(ours) > 100
    assert {name for name in ours if f"`{name}`" not in told} == set()


def test_the_settings_are_listed() -> None:
    """The table of settings names each with the default that it has."""
    from otelstream._face.config import Settings

    text = (ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", text, re.MULTILINE))
    defaults = Settings()

    assert set(rows) == set(Settings.__dataclass_fields__)
    for name in ("spans", "events", "stall_threshold", "hang_threshold", "freeze_threshold", "cancel_late_after",
                 "chunk_metric", "metrics", "view"):  # fmt: skip
        assert rows[name] == f"`{getattr(defaults, name)}`"


def test_the_readme_is_short() -> None:
    """A README that nobody finishes promises nothing."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150


def test_the_command_line_is_documented() -> None:
    """Every sub-command appears on some page."""
    text = "".join(page.read_text(encoding="utf-8") for page in ROOT.glob("**/*.md") if "/." not in str(page))

    assert [name for name in cli.COMMANDS if f"otelstream {name}" not in text] == []


def test_the_tables_of_costs_are_those_last_measured() -> None:
    """docs/performance.md shows what `benchmarks/results/` holds."""
    command = [sys.executable, str(ROOT / "benchmarks" / "report.py"), "--check"]
    assert subprocess.run(command, check=False).returncode == 0, "run: python benchmarks/report.py"
