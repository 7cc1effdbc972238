# SPDX-License-Identifier: Apache-2.0
"""My endpoint must mark a cut answer partial."""

from __future__ import annotations

from dataclasses import dataclass

import anthropic
import pytest

import otelstream
from otelstream.testing import ProviderSimulator, Recorder


@dataclass
class Saved:
    text: str
    partial: bool


class Chat:
    """Streams an answer, and saves what came of it."""

    def __init__(self) -> None:
        self.client = anthropic.Anthropic(max_retries=0)

    def answer(self, question: str) -> Saved:
        text = ""
        with self.client.messages.create(
            model="claude-example",
            max_tokens=1024,
            messages=[{"role": "user", "content": question}],
            stream=True,
        ) as stream:
            try:
                for event in stream:
                    if event.type == "content_block_delta" and event.delta.type == "text_delta":
                        text += event.delta.text
            except Exception:
                pass  # the user keeps what was shown
        return Saved(text, self.is_partial(stream))

    def is_partial(self, stream: anthropic.Stream) -> bool:
        return otelstream.get_stream(stream).partial is not False


class TrustsTheLoop(Chat):
    """Wrong: takes the end of the loop for the end of the answer."""

    def is_partial(self, stream: anthropic.Stream) -> bool:
        return False


class TrustsTheStatus(Chat):
    """Wrong: an answer of status 200 is a good answer."""

    def is_partial(self, stream: anthropic.Stream) -> bool:
        return stream.response.status_code != 200


ENDS = {
    "cut": ("text_long", "cut_after=chunks:40"),
    "ended without its last event": ("text_long", "end_after=chunks:40"),
    "broken by an error event": ("text_long", "error_after=chunks:40"),
    "at the token limit": ("text_max_tokens", None),
}


def recipe(chat: Chat, provider: ProviderSimulator, recorder: Recorder, script: str, fault: str | None) -> None:
    provider.play(script, fault=fault)

    with chat.client:
        saved = chat.answer("Why does the wind turn?")

    assert len(saved.text) == recorder.stream.visible_chars
    partial = recorder.stream.partial
    assert saved.partial == partial, f"saved as whole\n{recorder.timeline()}"


@pytest.mark.parametrize(("script", "fault"), ENDS.values(), ids=ENDS)
def test_cut_answers_are_partial(
    script: str, fault: str | None, otelstream_provider: ProviderSimulator, otelstream_recorder: Recorder
) -> None:
    recipe(Chat(), otelstream_provider, otelstream_recorder, script, fault)


def test_whole_answers_are_not(otelstream_provider: ProviderSimulator, otelstream_recorder: Recorder) -> None:
    recipe(Chat(), otelstream_provider, otelstream_recorder, "text_long", None)


@pytest.mark.parametrize("wrong", [TrustsTheLoop, TrustsTheStatus])
@pytest.mark.parametrize(("script", "fault"), ENDS.values(), ids=ENDS)
def test_the_recipe_can_fail(
    wrong: type[Chat],
    script: str,
    fault: str | None,
    otelstream_provider: ProviderSimulator,
    otelstream_recorder: Recorder,
) -> None:
    with pytest.raises(AssertionError, match=r"saved as whole\n(?s:.*)claude-example"):
        recipe(wrong(), otelstream_provider, otelstream_recorder, script, fault)
