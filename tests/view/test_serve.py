# SPDX-License-Identifier: Apache-2.0
"""`otelstream demo --serve` goes on for days: what it keeps of the streams that have ended is bounded."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.util._once import Once

import otelstream
from otelstream.cli._demo import Demo

pytest.importorskip("anthropic")
pytest.importorskip("h11")

from otelstream.demo import _play
from otelstream.demo._stories import fault, play_of, read, read_raw, story_of

STORIES = 50
ROUNDS = 16  # all in all 800 streams
KEPT = 6  # rounds after which everything that is bounded is full: otelstream remembers 256 turns


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Iterator[Demo]:
    """A demo whose stories are over at once."""
    monkeypatch.setattr(_play, "_STAGGER", 0)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
    whole, cut = play_of("text_short", 0, 0), play_of("text_short", 0, 0, fault.cut_after(chunks=2))
    stories = [
        story_of(f"story {index}", cut if index % 5 == 0 else whole, read_raw if index % 2 else read)
        for index in range(STORIES)
    ]
    with Demo(stories) as made:
        yield made
    otelstream.uninstrument()


def _kept() -> Counter[str]:
    """How many objects of ours and of the OpenTelemetry SDK there are, by kind."""
    gc.collect()
    kinds = (type(each) for each in gc.get_objects())
    return Counter(kind.__qualname__ for kind in kinds if str(kind.__module__).startswith(("otelstream", "opentelem")))


@pytest.mark.filterwarnings("ignore:The model:DeprecationWarning")
def test_what_is_kept_is_bounded(demo: Demo) -> None:
    """After many hundreds of streams there are no more objects than after some hundreds."""
    counts = []
    for index in range(ROUNDS):
        demo.run_all()
        assert len(demo._records) == STORIES
        if index + 1 in (KEPT, ROUNDS):
            counts.append(_kept())

    early, late = counts
    # One object a stream would be 500; what the last round has not let go of yet is not counted.
    grown = {kind: late[kind] - early[kind] for kind in late if late[kind] > early[kind] + 2 * STORIES}
    assert grown == {}
