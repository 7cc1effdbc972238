# SPDX-License-Identifier: Apache-2.0
"""Every way of reading crossed with every way to end: one true record each, on the span and in the metrics."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from . import exits, table
from .columns import Shape
from .harness import CLIENTS, Bench, bench, cells, native

CELLS = [(shape, name) for package in CLIENTS for shape, name, why in cells(package) if not why]


def _cell(shape: Shape, name: str) -> Any:
    """A twelfth of the cells, spread over all, is what a person waits for; `make matrix` runs every one."""
    label = f"{shape}-{name}"
    marks = () if zlib.crc32(label.encode()) % 12 == 0 else (pytest.mark.slow,)
    return pytest.param(shape.of.package, shape, name, id=label, marks=marks)


# A stream that is dropped leaves its connection to the collector, with and without us; and google-genai has a class
# that aiohttp would rather it had not.
pytestmark = [pytest.mark.filterwarnings("ignore::ResourceWarning"), pytest.mark.filterwarnings("ignore:Inheritance")]


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Anew for each SDK: all of their words for errors are more than one process tells apart."""
    with bench() as made:
        yield made


@pytest.mark.parametrize(
    ("shared", "shape", "name"), [_cell(shape, name) for shape, name in CELLS], indirect=["shared"]
)
def test_cell(shared: Bench, shape: Shape, name: str) -> None:
    """The record of a stream is what the simulator's log says, in outcome, phase, fault, usage, span and metrics."""
    assert shared.check(shape, name) == []


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("package", "with_span"), [(package, with_span) for package in CLIENTS for with_span in native(package)]
)
def test_exit_with_open_streams(package: str, with_span: bool, asynchronous: bool) -> None:
    """A stream that is open when the interpreter exits is exported, abandoned, by a batch processor too."""
    assert exits.check(package, asynchronous=asynchronous, native=with_span) == []


@pytest.mark.parametrize("shared", ["anthropic"], indirect=True)
def test_a_request_never_sent_is_no_stream(shared: Bench) -> None:
    """`messages.stream()` that is not entered sends nothing and records nothing."""
    shape = next(shape for shape, name in CELLS if shape.reading == "stream() by events" and not shape.asynchronous)
    client = shared.client(shape)
    shared.telemetry.clear()

    client.messages.stream(model="some-model", max_tokens=8, messages=[{"role": "user", "content": "hi"}])

    assert shared.telemetry.spans() == []
    assert "otelstream.streams" not in shared.telemetry.points()


@pytest.mark.parametrize("shared", ["anthropic"], indirect=True)
def test_docs(shared: Bench) -> None:
    """The page of endings, and the short table in the README, are what the matrix says."""
    root = Path(__file__).resolve().parents[2]
    page = root / "docs" / "how-streams-end.md"
    rows = table.rows(shared)

    assert page.read_text(encoding="utf-8") == table.page(rows), "make table writes it"
