# SPDX-License-Identifier: Apache-2.0
"""The local provider in the words of Gemini: every script says the same, whoever is asked."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from google import genai
from google.genai import errors

import otelstream
from google_sdk.conftest import ASK, read
from otelstream import _semconv as s
from otelstream.testing import ProviderSimulator, Recorder, Script, prose, script, script_names
from otelstream.testing._gemini import REASONS
from otelstream.testing._scripts import message_of

DISABLED = {"automatic_function_calling": {"disable": True}}


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as running:
        yield running


@pytest.fixture(scope="module")
def client(provider: ProviderSimulator) -> genai.Client:
    return genai.Client(api_key="unused", http_options={"base_url": provider.base_url})


def said(chunks: list[Any]) -> tuple[str, list[Any], str]:
    """Text, tool inputs and finish reason of an answer."""
    parts = [part for each in chunks for part in (each.candidates[0].content.parts or ())]
    text = "".join(part.text for part in parts if part.text and not part.thought)
    inputs = [part.function_call.args for part in parts if part.function_call]
    return text, inputs, chunks[-1].candidates[0].finish_reason


@pytest.mark.parametrize("name", script_names())
def test_every_script(provider: ProviderSimulator, client: genai.Client, name: str) -> None:
    """Text, tool inputs and finish reason are those of the script, streamed and whole."""
    provider.play(name, times=2)
    message = message_of(script(name).events)
    text = "".join(block["text"] for block in message["content"] if block["type"] == "text")
    inputs = [block["input"] for block in message["content"] if block["type"] == "tool_use"]

    streamed = said(read(client.models.generate_content_stream(**ASK, config=DISABLED)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = said([client.models.generate_content(**ASK, config=DISABLED)])

    whole_calls = inputs if message["stop_reason"] != "max_tokens" else []  # no call is sent whose input was cut
    assert streamed == (text, whole_calls, REASONS[message["stop_reason"]])
    assert whole == (text, inputs, streamed[2])
    assert provider.log[-2].complete
    assert provider.log[-2].request.model == "some-model"


def test_candidates(provider: ProviderSimulator, client: genai.Client) -> None:
    """Every candidate that is asked for says the same; one of them may be cut."""
    short = Script("short").text("Calm seas.", chunk=5)
    provider.play(short)
    provider.play(short, fault="choice_cut_after=chunks:1")

    for cut in (False, True):
        chunks = read(client.models.generate_content_stream(**ASK, config={**DISABLED, "candidate_count": 2}))
        found: dict[int, str] = {}
        for candidate in (each for chunk in chunks for each in chunk.candidates):
            found[candidate.index] = found.get(candidate.index, "") + candidate.content.parts[0].text
        assert sorted(found.values()) == (["Calm ", "Calm seas."] if cut else ["Calm seas."] * 2)


def test_the_same_faults(provider: ProviderSimulator, client: genai.Client) -> None:
    """Faults are played in the words of the API: status and error object, an error in the stream, a broken frame."""

    def asks() -> int:
        return len(read(client.models.generate_content_stream(**ASK)))

    provider.play("text_short", fault="http_error=429")
    with pytest.raises(errors.ClientError) as status:
        asks()
    assert (status.value.code, status.value.status) == (429, "RESOURCE_EXHAUSTED")
    provider.play("text_short", fault="error_after=chunks:1,type:overloaded_error")
    with pytest.raises(errors.ServerError) as error:
        asks()
    assert (error.value.code, error.value.status) == (503, "UNAVAILABLE")
    for kind in ("json", "utf8"):
        provider.play("text_short", fault=f"malformed_frame_after=chunks:1,kind:{kind}")
        with pytest.raises(errors.UnknownApiResponseError):
            asks()
    provider.play("text_short", fault="malformed_frame_after=chunks:1,kind:unknown")
    provider.play("text_short")
    assert asks() == asks() + 1
    provider.play("text_short", fault="ping_only_after=0.02,every:0.01,point:headers")
    assert asks()
    assert not [write for write in provider.log[-1].events if write.kind == "ping"]
    provider.play("text_short", fault="cut_after=chunks:1")
    with pytest.raises(Exception, match="peer closed"):
        asks()


def test_loops_and_stalls(provider: ProviderSimulator, client: genai.Client) -> None:
    """An answer that repeats itself, and one that freezes, are what they are in any words."""
    provider.play(Script("looping").text(prose(64), chunk=12), fault="repeat_after=chunks:3")
    provider.play(Script("frozen").text(prose(96), chunk=12), fault="stall_after=0.2,chunks:3")
    otelstream.instrument(stall_threshold=0.1)

    with Recorder() as recorder:
        read(client.models.generate_content_stream(**ASK))
        read(client.models.generate_content_stream(**ASK))
        looping, frozen = recorder.streams
    otelstream.uninstrument()

    assert looping.attributes[s.STREAM_REPETITIONS] == 1
    assert frozen.attributes[s.STALLS_PROVIDER] == 1


EARLY = genai.Client(api_key="unused")  # as an application makes it at import


@pytest.mark.parametrize("early", [True, False], ids=["made at import", "made in the test"])
def test_the_fixture(otelstream_provider: ProviderSimulator, early: bool) -> None:
    """The pytest plugin's provider is asked whatever address a client was made with; one made there needs no key."""
    client = EARLY if early else genai.Client()
    otelstream_provider.play(Script("short").text("Calm."))

    assert said(read(client.models.generate_content_stream(**ASK)))[0] == "Calm."
    assert otelstream_provider.log[-1].request.path.endswith("/models/some-model:streamGenerateContent")
