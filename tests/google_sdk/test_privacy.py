# SPDX-License-Identifier: Apache-2.0
"""Nothing that a user or a model wrote leaves the process by way of us."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from .conftest import Scene, call, candidate, chunk, data, word

WORD = "Kanarienvogel"
PROMPT: dict[str, Any] = {
    "config": {"system_instruction": WORD, "stop_sequences": [WORD], "labels": {"user": WORD}, "response_schema": None},
}
ANSWERS: dict[str, list[bytes]] = {
    "text": data(*(word(f"{WORD} ") for _ in range(90)), word(WORD, finish="STOP")),
    "thinking": data(chunk({"text": WORD, "thought": True, "thoughtSignature": WORD}), word("so", finish="STOP")),
    "tool": data(chunk(call("look", city=WORD), finish="STOP")),
    "code": data(chunk({"executableCode": {"code": WORD, "language": "PYTHON"}}, finish="STOP")),
    "blocked": data({"promptFeedback": {"blockReason": "SAFETY", "blockReasonMessage": WORD}}),
    "stopped": data({"candidates": [{**candidate({"text": WORD}, finish="SAFETY"), "finishMessage": WORD}]}),
    "error": [*data(word(WORD)), *data({"error": {"code": 503, "message": WORD, "status": "UNAVAILABLE"}})],
    "no JSON": [*data(word(WORD)), f"data: {WORD}\r\n\r\n".encode()],
    "no chunk": data({"candidates": WORD}, {WORD: WORD}),
}


@pytest.mark.parametrize("way", ["sync", "async", "chat"])
@pytest.mark.parametrize("name", ANSWERS)
def test_no_word_of_it(scene: Scene, name: str, way: str, caplog: pytest.LogCaptureFixture) -> None:
    """No prompt, no answer, no input of a tool, no message of an error, is in spans, metrics or logs."""
    caplog.set_level(logging.DEBUG, "otelstream")
    scene.plays(ANSWERS[name])

    scene.fails(way, **PROMPT)

    assert scene.recorder.wait_for(1)
    logs = [record for record in caplog.records if record.name.startswith("otelstream")]
    said = "".join(span.to_json() for span in scene.telemetry.spans()) + str(scene.telemetry.points())
    said += "".join(record.getMessage() + str(record.exc_text) for record in logs)
    assert "some-model" in said
    assert WORD not in said
