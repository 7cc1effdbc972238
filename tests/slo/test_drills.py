# SPDX-License-Identifier: Apache-2.0
"""A drill is what its page says: the incident is told, and nothing else."""

from __future__ import annotations

import pytest

from .drills import told
from .tools import binary

pytestmark = pytest.mark.slow


def test_a_swallowed_stop_is_told() -> None:
    """A gateway that swallows cancels is told within twenty minutes, goes on being told, and nothing else fires."""
    binary("promtool")
    found = told("cancels", before=150, minutes=30)
    since = {name: [span for span in spans if span[1] >= 0] for name, spans in found.items()}
    ((name, ((first, last),)),) = ((name, spans) for name, spans in since.items() if spans)
    assert name == "OtelStreamCancelNotPropagated"
    assert 5 <= first <= 20
    assert last == 29
