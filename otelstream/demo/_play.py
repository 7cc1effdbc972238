# SPDX-License-Identifier: Apache-2.0
"""Play stories at the same time; every one has a trace of its own, by which its span is known."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry import context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from otelstream.testing import ProviderSimulator

from ._stories import Story

STORY_HEADER = "otelstream-story"
MODEL = "claude-sonnet-4-5"
_STAGGER = 0.03  # seconds between two starts: so many first requests at once would wait for each other


def trace_of(index: int, round_: int = 0) -> int:
    """The trace id of the story at *index* when all are played for the *round_*-th time: one trace is one turn."""
    return 0x0735 << 112 | round_ << 32 | index + 1


def request_of(story: str) -> dict[str, Any]:
    """The arguments of the SDK's call in the story of that name."""
    return {
        "model": MODEL,
        "max_tokens": 1024,
        "messages": [{"role": "user", "content": "Tell me of the harbour."}],
        "extra_headers": {STORY_HEADER: story},
    }


def client_of(sim: ProviderSimulator) -> Any:
    """The SDK's client that all stories share."""
    import anthropic

    return anthropic.Anthropic(base_url=sim.base_url, api_key="simulated")


def play(
    stories: Sequence[Story],
    sim: ProviderSimulator,
    client: Any,
    begun: Callable[[int], object] = lambda index: None,
    round_: int = 0,
) -> list[threading.Thread]:
    """Start every story in a thread of its own and return the threads. Errors of the stories are theirs."""
    for story in stories:
        for part in story.plays:
            sim.play(part.script, schedule=part.schedule, fault=list(part.faults), when=_takes(story.name))
    clients = [client.with_options(**story.client) for story in stories]
    threads = [
        threading.Thread(target=_act, args=(index, round_, story, client, begun), name=story.name, daemon=True)
        for index, (story, client) in enumerate(zip(stories, clients, strict=True))
    ]
    for thread in threads:
        thread.start()
        time.sleep(_STAGGER)
    return threads


def _takes(name: str) -> Callable[[Any], bool]:
    return lambda request: request.headers.get(STORY_HEADER) == name


def _act(index: int, round_: int, story: Story, client: Any, begun: Callable[[int], object]) -> None:
    parent = SpanContext(trace_of(index, round_), 1, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    token = context.attach(trace.set_span_in_context(NonRecordingSpan(parent)))
    try:
        begun(index)
        story.act(client, request_of(story.name))
    except Exception:  # what the stories are about
        pass
    finally:
        context.detach(token)
