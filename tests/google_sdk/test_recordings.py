# SPDX-License-Identifier: Apache-2.0
"""Recorded streams of Gemini and Vertex, where they are at hand."""

from __future__ import annotations

import asyncio
import gc
import os
from pathlib import Path
from typing import Any

import pytest

import otelstream
from google_sdk.conftest import Scene
from otelstream import _semconv as s

ROOT = Path(os.environ.get("OTELSTREAM_RECORDINGS", Path(__file__).parents[3] / "shared" / "streams"))
# Chunks, visible characters, tools, final output tokens: as read here once, so that a change shows.
WANTED: dict[str, tuple[int, int, list[str], int]] = {
    "code_execution": (5, 82, [], 276),
    "file_search_tool_parts": (7, 438, [], 569),
    "google_search": (1, 57, [], 229),
    "parallel_calls_no_id": (2, 0, ["get_weather", "get_weather"], 11),
    "parallel_calls_signature": (2, 0, ["get_weather", "get_weather"], 126),
    "rebuilt_partial_args": (6, 0, ["getWeather", "getWeather"], 155),
    "text": (4, 132, [], 33),
    "thinking": (23, 1938, [], 1256),
    "url_context": (2, 37, [], 62),
    "vertex_flex": (1, 2, [], 101),
}
# An array over several lines: asked without `alt=sse`, which the SDK always says, and cannot read.
UNREADABLE = "vertex_json_array"
FILES = [ROOT / "gemini" / f"{name}.sse" for name in (*WANTED, UNREADABLE)]


def everything(scene: Scene, way: str) -> tuple[list[Any], str]:
    """What the application gets, and the exception it gets."""
    got: list[Any] = []

    async def areads() -> None:
        async for item in await scene.aask():
            got.append(item.model_dump())

    try:
        if way == "async":
            asyncio.run(areads())
        else:
            got += [item.model_dump() for item in scene.ask()]
    except Exception as error:
        return got, f"{type(error).__name__}: {error}"
    return got, ""


@pytest.mark.skipif(not FILES[0].exists(), reason="no recordings at hand")
@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_recordings(scene: Scene, file: Path, way: str) -> None:
    """Each is read right in every way of reading, and the application gets the same as without us."""
    body = file.read_bytes()
    pieces = [body[at : at + 700] for at in range(0, len(body), 700)]
    scene.plays(pieces)

    observed = everything(scene, way)
    gc.collect()
    view = scene.recorder.stream
    otelstream.uninstrument()
    scene.plays(pieces)
    bare = everything(scene, way)

    assert observed == bare
    if file.stem == UNREADABLE:
        assert (view.outcome, view.fault) == ("failed", "protocol_error")
        return
    calls = view.tool_calls or ()
    found = view.chunks, view.visible_chars, [call.name for call in calls], view.attributes[s.OUTPUT_TOKENS]
    assert (view.outcome, view.fault) == ("completed", "none")
    assert found == WANTED[file.stem]
    assert all(call.input == "valid" and not call.inferred for call in calls)
    assert view.finish_reason == ("tool_calls" if calls else "stop")
