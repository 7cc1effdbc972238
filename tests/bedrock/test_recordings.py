# SPDX-License-Identifier: Apache-2.0
"""Recorded streams of Bedrock, where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import otelstream
from otelstream import _semconv as s

from .conftest import Scene

ROOT = Path(os.environ.get("OTELSTREAM_RECORDINGS", Path(__file__).parents[3] / "shared" / "streams"))
COUNTS = (s.INPUT_TOKENS, s.OUTPUT_TOKENS)
# Outcome, chunks, visible characters, input and output tokens, tools.
KNOWN: dict[str, tuple[Any, ...]] = {
    "converse_cache": ("completed", 99, 1134, 1039, 236, []),
    "converse_code_interpreter": ("completed", 3, 0, 1002, 59, ["final_result"]),
    "converse_guardrail": ("refused", 1, 90, 28, 22, []),
    "converse_reasoning": ("completed", 19, 55, 36, 73, []),
    "converse_redacted": ("completed", 12, 359, 92, 253, []),
    "converse_text_nova": ("completed", 29, 375, 13, 82, []),
    "converse_tools_parallel": ("completed", 52, 224, 415, 195, ["get_current_weather"] * 2),
    "invoke_claude_thinking": ("completed", 7, 9, 45, 38, []),
    "invoke_claude_tools_parallel": ("completed", 16, 187, 392, 134, ["get_current_weather"] * 2),
    "invoke_cohere_two_generations": ("truncated", 20, 106, 40, 20, []),
    "invoke_llama_length": ("truncated", 60, 229, 10, 60, []),
    "invoke_nova_tools": ("completed", 24, 213, 427, 156, ["get_current_weather"] * 2),
    "invoke_titan_length": ("truncated", 1, 296, 18, 51, []),
}


@pytest.mark.skipif(not (ROOT / "bedrock").exists(), reason="no recordings at hand")
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("name", KNOWN)
def test_recordings(scene: Scene, name: str, asynchronous: bool) -> None:
    """Each is read right, by both SDKs, and the application gets the same as without us."""
    body = (ROOT / "bedrock" / f"{name}.bin").read_bytes()
    scene.plays([body[at : at + 700] for at in range(0, len(body), 700)])
    operation = name.partition("_")[0]

    observed = scene.reads(operation, asynchronous)
    view = scene.view
    otelstream.uninstrument()
    bare = scene.reads(operation, asynchronous)

    assert observed == bare
    counts = tuple(view.attributes.get(count) for count in COUNTS)
    assert (view.outcome, view.chunks, view.visible_chars, *counts, [c.name for c in view.tool_calls]) == KNOWN[name]
    assert all(call.input == "valid" and call.ready is not None for call in view.tool_calls)
