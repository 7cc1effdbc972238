# SPDX-License-Identifier: Apache-2.0
"""Nothing that a user or a model wrote leaves the process by way of us."""

from __future__ import annotations

import contextlib
import json
import logging
from typing import Any

import pytest

from .conftest import START, USAGE, Scene, begin, chunk, delta, end, frame, stop

WORD = "Kanarienvogel"
PROMPT: dict[str, Any] = {
    "system": [{"text": WORD}],
    "inferenceConfig": {"stopSequences": [WORD]},
    "additionalModelRequestFields": {"top_k": 4, "note": WORD},
    "requestMetadata": {"user": WORD},
}
BODY = json.dumps({"messages": [{"role": "user", "content": WORD}], "system": WORD, "tool_choice": {"type": WORD}})
ANSWERS: dict[str, list[bytes]] = {
    "text": [START, *(delta(text=f"{WORD} ") for _ in range(90)), stop(), end(), USAGE],
    "thinking": [
        START, delta(0, reasoningContent={"text": WORD}), delta(0, reasoningContent={"redactedContent": WORD}), stop(0),
    ],
    "tool": [START, begin(0, "look"), delta(0, toolUse={"input": f'{{"city": "{WORD}'}), stop(0), end("tool_use")],
    "error": [START, delta(text=WORD), frame("validationException", exception=True, message=WORD)],
    "no event": [START, frame("contentBlockDelta", contentBlockIndex=WORD, delta=WORD), delta(text=[WORD])],
}  # fmt: skip
CHUNKS: dict[str, list[bytes]] = {
    "llama": [chunk(generation=WORD, stop_reason=None), chunk(generation=WORD, stop_reason="stop")],
    "unknown": [chunk(woerter=WORD), chunk(text=[WORD])],
    "claude": [
        chunk(type="content_block_delta", index=0, delta={"type": "text_delta", "text": WORD}),
        chunk(type=WORD),
    ],
}


def told(scene: Scene, caplog: pytest.LogCaptureFixture) -> str:
    spans = "".join(span.to_json() for span in scene.telemetry.spans())
    logs = [record for record in caplog.records if record.name.startswith("otelstream")]
    return (
        spans + str(scene.telemetry.points()) + "".join(record.getMessage() + str(record.exc_text) for record in logs)
    )


@pytest.mark.parametrize("name", [*ANSWERS, *CHUNKS])
def test_no_word_of_it(scene: Scene, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """No prompt, no answer, no input of a tool, no message of an error, is in spans, metrics or logs."""
    caplog.set_level(logging.DEBUG, "otelstream")
    scene.plays(ANSWERS.get(name) or CHUNKS[name])

    with contextlib.suppress(Exception):
        list(scene.converse(**PROMPT) if name in ANSWERS else scene.invoke(body=BODY))

    assert scene.view.model == "some-model"
    said = told(scene, caplog)
    assert "some-model" in said
    assert WORD not in said
