# SPDX-License-Identifier: Apache-2.0
"""What the SDK refuses of an answer: its own errors, over a real socket, and what is said of the stream."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from matrix.telemetry import Telemetry

import otelstream
from otelstream import _semconv as s
from otelstream.testing import ProviderSimulator, Recorder, Script, prose

from .conftest import CHAT, read

pydantic = pytest.importorskip("pydantic")
if not hasattr(openai.OpenAI(api_key="unused").chat.completions, "stream"):
    pytest.skip("a newer SDK has the helpers", allow_module_level=True)

WAYS = ("events", "until_done", "get_final_completion")
CUT = Script("cut").text('{"city": "Harb', chunk=4).end("max_tokens")
DECLINED = Script("declined").text('{"city": "Harb', chunk=4).refuse()
SILENT = Script("silent").refuse()


class Place(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    city: str


class Provider:
    """The simulator, and the clients that ask it."""

    def __init__(self, sim: ProviderSimulator, recorder: Recorder) -> None:
        self.sim, self.recorder = sim, recorder
        self.options: dict[str, Any] = {"base_url": f"{sim.base_url}/v1", "api_key": "unused", "max_retries": 0}

    def reads(self, way: str, asynchronous: bool, **more: Any) -> None:
        """Ask by the helper, or by `create`, and read it all in that way."""
        if asynchronous:
            asyncio.run(self._areads(way, **more))
            return
        with openai.OpenAI(**self.options) as client:
            if way == "create":
                read(client.chat.completions.create(**CHAT, stream=True, **more))
            elif way == "lines":
                with client.chat.completions.with_streaming_response.create(**CHAT, stream=True, **more) as response:
                    read(response.iter_lines())
            else:
                with client.chat.completions.stream(**CHAT, **more) as helper:
                    read(helper) if way == "events" else getattr(helper, way)()

    async def _areads(self, way: str, **more: Any) -> None:
        async with openai.AsyncOpenAI(**self.options) as client:
            chat = client.chat.completions
            if way == "create":
                async for _ in await chat.create(**CHAT, stream=True, **more):
                    pass
            elif way == "lines":
                async with chat.with_streaming_response.create(**CHAT, stream=True, **more) as response:
                    async for _ in response.iter_lines():
                        pass
            else:
                async with chat.stream(**CHAT, **more) as helper:
                    if way == "events":
                        async for _ in helper:
                            pass
                    else:
                        await getattr(helper, way)()

    def said(self) -> tuple[Any, ...]:
        """Outcome, phase, fault and trigger of the one stream."""
        gc.collect()
        view = self.recorder.stream
        return view.outcome, view.phase, view.fault, view.trigger


@pytest.fixture
def provider(telemetry: Telemetry) -> Iterator[Provider]:
    otelstream.instrument(tracer_provider=telemetry.tracer_provider, meter_provider=telemetry.meter_provider)
    with ProviderSimulator() as sim, Recorder() as recorder:
        yield Provider(sim, recorder)
    otelstream.uninstrument()


REFUSED: dict[str, tuple[Script, str, tuple[str, str]]] = {
    "length": (CUT, "LengthFinishReasonError", ("truncated", "none")),
    "content filter, after text": (DECLINED, "ContentFilterFinishReasonError", ("refused", "content_filter")),
    "content filter, before text": (SILENT, "ContentFilterFinishReasonError", ("refused", "none")),
}


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", REFUSED)
def test_a_finish_reason_that_the_helper_refuses(provider: Provider, name: str, way: str, asynchronous: bool) -> None:
    """The helper raises what the finish reason says: the outcome is that reason's, and no fault of the protocol."""
    played, error, (outcome, fault) = REFUSED[name]
    provider.sim.play(played)

    with pytest.raises(getattr(openai, error)):
        provider.reads(way, asynchronous, response_format=Place)

    assert provider.said() == (outcome, "finished", fault, None)
    assert provider.recorder.stream.attributes.get(s.ERROR_TYPE) is None


WITHOUT_DATA: dict[str, tuple[str, tuple[str, str, str]]] = {
    "in the middle": ("chunks:2", ("failed", "mid_stream", "protocol_error")),
    "after the finish reason": ("finish", ("completed", "finished", "none")),
}


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("way", ["create", "lines", *WAYS])
@pytest.mark.parametrize("where", WITHOUT_DATA)
def test_an_event_without_data(provider: Provider, where: str, way: str, asynchronous: bool) -> None:
    """The SDK fails to parse an event that has no data: a fault in the middle of an answer, none after its finish."""
    point, wanted = WITHOUT_DATA[where]
    provider.sim.play(Script("short").text(prose(48)), fault=f"malformed_frame_after={point},kind:no_data")

    if way == "lines":  # who parses nothing reads on
        provider.reads(way, asynchronous)
        assert provider.said() == ("completed", "finished", "none", None)
        return
    with pytest.raises(ValueError, match="Expecting value"):
        provider.reads(way, asynchronous)

    assert provider.said() == (*wanted, None)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("way", WAYS)
def test_an_answer_of_another_shape(provider: Provider, way: str, asynchronous: bool) -> None:
    """An answer that is whole and not what was asked for is the application's affair: its finish reason stands."""
    provider.sim.play(Script("other").text('{"town": 3}', chunk=4))

    with pytest.raises(pydantic.ValidationError):
        provider.reads(way, asynchronous, response_format=Place)

    assert provider.said() == ("completed", "finished", "none", None)
