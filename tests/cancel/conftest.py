# SPDX-License-Identifier: Apache-2.0
"""The matrix of cancels on the SDK's own spans: where it has them, and how much of it each run takes."""

from __future__ import annotations

import anthropic
import pytest

NATIVE_SPANS = tuple(int(part) for part in anthropic.__version__.split(".")[:2]) >= (1, 14)
SHARE = {"text", "tool_input"}  # the places that every run looks at with native spans; the others are for the long one


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        cell = getattr(getattr(item, "callspec", None), "params", {})
        if cell.get("bench") != "native":
            continue
        if not NATIVE_SPANS:
            item.add_marker(pytest.mark.skip(reason="this SDK makes no spans"))
        elif cell.get("place", "") not in SHARE:
            item.add_marker(pytest.mark.slow)
