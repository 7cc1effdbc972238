# SPDX-License-Identifier: Apache-2.0
"""Where there is no Collector binary, the tests that need one are skipped, and each says how to get it."""

from __future__ import annotations

import pytest

from .fleet import BINARY, MISSING, Backend


@pytest.fixture(scope="session")
def binary() -> None:
    if not BINARY.exists():
        pytest.skip(MISSING)


@pytest.fixture
def backend():
    with_spans = Backend().start()
    yield with_spans
    with_spans.stop()
