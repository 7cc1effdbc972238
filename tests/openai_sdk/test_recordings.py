# SPDX-License-Identifier: Apache-2.0
"""Recorded streams of OpenAI and of servers that speak its protocols, where they are at hand."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import pytest

import otelstream
from openai_sdk.conftest import CHAT, RESPONSES, Scene

ROOT = Path(os.environ.get("OTELSTREAM_RECORDINGS", Path(__file__).parents[3] / "shared" / "streams"))
FILES = sorted([*ROOT.glob("openai_chat/*.sse"), *ROOT.glob("openai_responses/*.sse")])
# All others are whole: completed, finished, none.
OTHER = {
    "text_length_no_usage": "truncated",
    "vllm_length": "truncated",
    "incomplete_max_output_tokens": "truncated",
    "refusal_logprobs": "refused",
    "groq_error_midstream": "failed",
    "openrouter_error_midstream": "failed",
    "rebuilt_error_failed": "failed",
}
# No word of these is an answer: pictures, a shell command, a question for leave.
SILENT = {"rebuilt_error_failed", "rebuilt_image_generation", "rebuilt_local_shell", "rebuilt_mcp_approval"}
WAYS = ("create", "lines", "bytes")


def everything(client: Any, file: Path, way: str) -> tuple[list[Any], str]:
    """What the application gets, and the exception it gets."""
    chat = file.parent.name == "openai_chat"
    api, ask = (client.chat.completions, dict(CHAT)) if chat else (client.responses, RESPONSES)
    if file.name.startswith("n2_"):
        ask = {**ask, "n": 2}
    got: list[Any] = []
    try:
        if way == "create":
            got.extend(
                item.model_dump(warnings=False) if hasattr(item, "model_dump") else repr(item)
                for item in api.create(**ask, stream=True)
            )
        else:
            with api.with_streaming_response.create(**ask, stream=True) as response:
                got.extend(response.iter_lines() if way == "lines" else response.iter_bytes())
    except Exception as error:
        return got, f"{type(error).__name__}: {error}"
    return got, ""


@pytest.mark.skipif(not FILES, reason="no recordings at hand")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_recordings(scene: Scene, file: Path, way: str) -> None:
    """Each is read right in every way of reading, and the application gets the same as without us."""
    body = file.read_bytes()
    scene.plays([body[at : at + 700] for at in range(0, len(body), 700)])

    observed = everything(scene.client, file, way)
    gc.collect()
    view = scene.recorder.stream
    otelstream.uninstrument()
    bare = everything(scene.client, file, way)

    assert observed == bare
    if way == "create" and observed[1] and OTHER.get(file.stem) != "failed":
        return  # this version of the SDK cannot read it to the end
    assert view.outcome == OTHER.get(file.stem, "completed")
    assert view.fault in ("none", "provider_error", "content_filter", "malformed_tool_call")
    assert (view.chunks or 0) > 0 or file.stem in SILENT
