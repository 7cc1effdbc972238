# SPDX-License-Identifier: Apache-2.0
"""Both SDKs on a socket, what was said of their streams, and judges that are forgotten after each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import openai
import pytest
from matrix.telemetry import Telemetry
from opentelemetry.sdk.trace import ReadableSpan

import otelstream
from otelstream import _semconv as s
from otelstream._core.process import judges
from otelstream.testing import ProviderSimulator, Script


class Scene:
    """A provider, its clients, and the spans of the streams that were read."""

    def __init__(self, sim: ProviderSimulator, telemetry: Telemetry) -> None:
        self.sim, self.telemetry = sim, telemetry
        plain: dict[str, Any] = {"api_key": "unused", "max_retries": 0}
        self.client = anthropic.Anthropic(base_url=sim.base_url, **plain)
        self.openai = openai.OpenAI(base_url=f"{sim.base_url}/v1", **plain)

    def opened(self, script: Script, **play: Any) -> Any:
        """A stream of the Anthropic SDK."""
        self.sim.play(script, **play)
        return self.client.messages.create(**ASK, stream=True)

    async def aread(self, script: Script, **play: Any) -> str:
        """What the application got of an async stream of the Anthropic SDK, to its end."""
        self.sim.play(script, **play)
        async with anthropic.AsyncAnthropic(base_url=self.sim.base_url, api_key="unused", max_retries=0) as client:
            stream = await client.messages.create(**ASK, stream=True)
            return "".join([text_of(event) async for event in stream])

    def chat(self, script: Script, **play: Any) -> Any:
        """A stream of OpenAI's."""
        self.sim.play(script, **play)
        return self.openai.chat.completions.create(
            model="some-model", messages=[{"role": "user", "content": "?"}], stream=True
        )

    def text(self, stream: Any) -> str:
        """What the application got of a stream of either, to its end."""
        return "".join(text_of(event) for event in stream)

    def span(self) -> ReadableSpan:
        return self.telemetry.spans()[-1]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [dict(event.attributes or {}) for event in self.span().events if event.name == name]

    def counted(self, metric: s.Metric) -> list[tuple[dict[str, Any], float]]:
        return [(dict(labels), amount) for labels, amount in self.telemetry.points().get(metric.name, {}).items()]


ASK: dict[str, Any] = {"model": "some-model", "max_tokens": 100, "messages": [{"role": "user", "content": "?"}]}


def text_of(event: Any) -> str:
    """The visible text of one event of either SDK."""
    if hasattr(event, "choices"):
        return event.choices[0].delta.content or "" if event.choices else ""
    return str(getattr(getattr(event, "delta", None), "text", ""))


@pytest.fixture
def scene(sim: ProviderSimulator, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    for patience in ("PATIENCE", "PATIENCE_IN_A_LOOP"):  # a busy machine is late, and no test is of that
        monkeypatch.setattr(judges, patience, 10.0)
    otelstream.instrument(
        spans="own", tracer_provider=telemetry.tracer_provider, meter_provider=telemetry.meter_provider
    )
    made = Scene(sim, telemetry)
    yield made
    otelstream.uninstrument()
    made.client.close()
    made.openai.close()
    judges._declared.clear()


@pytest.fixture
def judge() -> Callable[..., Any]:
    """Declare a judge of the words yes and no: the last of them that was said, unless the test has its own."""

    def declare(function: Any = last_word, *, verdicts: Any = ("yes", "no"), **more: Any) -> Any:
        return otelstream.judge(more.pop("name", "safe"), verdicts=verdicts, **more)(function)

    return declare


def last_word(text: str) -> str | None:
    said = [(text.rfind(word), word.lower()) for word in ("Yes", "No")]
    where, word = max(said)
    return word if where >= 0 else None
