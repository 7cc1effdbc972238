# SPDX-License-Identifier: Apache-2.0
"""Where there is no Collector binary, the tests that need one are skipped, and each says how to get it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .fleet import BINARY, MISSING, Backend, Collector


@pytest.fixture(scope="session")
def binary() -> None:
    if not BINARY.exists():
        pytest.skip(MISSING)


@pytest.fixture
def backend() -> Iterator[Backend]:
    one = Backend().start()
    yield one
    one.stop()


@pytest.fixture
def collector(tmp_path: Path, backend: Backend) -> Iterator[Callable[..., Collector]]:
    """Makes Collectors, not yet started, that send to `backend`; they end with the test."""
    made: list[Collector] = []

    def make(*layers: str | Path, **environment: object) -> Collector:
        environment = {"COLLECTOR_EXPORT_ENDPOINT": backend.url} | environment
        made.append(Collector(*layers, home=tmp_path / f"collector-{len(made)}", **environment))
        return made[-1]

    yield make
    for one in made:
        one.stop()
