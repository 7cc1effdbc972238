# SPDX-License-Identifier: Apache-2.0
"""A burn rate that no traffic can exceed is refused, up to the very point where it could."""

from __future__ import annotations

from typing import Any

import pytest

from otelstream._objectives_file import ObjectivesError, parse


def document(target: float, factor: float) -> dict[str, Any]:
    pair = {"severity": "page", "long": "1h", "short": "5m", "factor": factor, "for": "2m"}
    objective = {"name": "a", "kind": "first_token", "target": target, "threshold": "2.5s", "burn_rates": [pair]}
    return {"objectives": [objective]}


@pytest.mark.parametrize(
    ("target", "factor", "says"),
    [
        (0.9, 10, "factor 10 (1h/5m) x 0.1 = 1 can never be exceeded; highest usable factor 9.9"),
        (0.9, 10.1, "factor 10.1 (1h/5m) x 0.1 = 1.01 can never be exceeded; highest usable factor 9.9"),
        (0.95, 20, "factor 20 (1h/5m) x 0.05 = 1 can never be exceeded; highest usable factor 19.9"),
        (0.999, 1000, "factor 1000 (1h/5m) x 0.001 = 1 can never be exceeded; highest usable factor 999.9"),
    ],
)
def test_refused(target: float, factor: float, says: str) -> None:
    """Where factor x budget is 1 or more, even a total outage does not exceed it: refused with the arithmetic."""
    with pytest.raises(ObjectivesError) as caught:
        parse(document(target, factor))

    (problem,) = caught.value.problems
    assert says in problem


@pytest.mark.parametrize(("target", "factor"), [(0.9, 9.9), (0.9, 9.99), (0.95, 19.9), (0.999, 999.9)])
def test_taken(target: float, factor: float) -> None:
    """Just below it an outage pages: taken as it is."""
    (promise,) = parse(document(target, factor)).promises

    assert [float(pair.factor) for pair in promise.burn_rates] == [factor]
