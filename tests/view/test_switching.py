# SPDX-License-Identifier: Apache-2.0
"""The view switched on, off and over by `instrument()`, and what it lets the rest of otelstream see."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.util._once import Once

import otelstream
from otelstream import _semconv as names
from otelstream.testing import ProviderSimulator
from otelstream.view import _sink

anthropic = pytest.importorskip("anthropic")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No global provider before, and nothing switched on after."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
    yield
    otelstream.uninstrument()
    _sink.detach()
    for attachment in _sink._attachments.values():
        attachment.silence()
    _sink._attachments.clear()


@pytest.fixture
def client(sim: ProviderSimulator) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=sim.base_url, api_key="k", max_retries=0) as made:
        yield made


def open_stream(client: Any) -> Any:
    ask = [{"role": "user", "content": "x"}]
    return client.messages.create(model="m", max_tokens=9, messages=ask, stream=True)


def printed(capfd: pytest.CaptureFixture[str]) -> int:
    return capfd.readouterr().err.count("Complete")


@pytest.mark.parametrize("when", ["never", "before", "later"])
def test_off_prints_no_more(client: Any, capfd: pytest.CaptureFixture[str], when: str) -> None:
    """A second `instrument(view="off")` shows no stream begun afterwards, those still open once more."""
    if when == "before":
        trace.set_tracer_provider(TracerProvider())
    otelstream.instrument(view="terminal")
    if when == "later":
        trace.set_tracer_provider(TracerProvider())
    list(open_stream(client))
    still_open = open_stream(client)
    assert printed(capfd) == 1

    otelstream.instrument(view="off")
    list(open_stream(client))
    assert printed(capfd) == 0

    list(still_open)
    assert printed(capfd) == 1


def test_uninstrument_prints_no_more(capfd: pytest.CaptureFixture[str]) -> None:
    """Nor does a program's own span that begins afterwards, whatever it carries."""
    provider = TracerProvider()
    _sink.attach(provider, "terminal")
    _sink.detach()

    said = {names.OUTCOME: "completed", names.PHASE: "finished"}
    provider.get_tracer("t").start_span("chat m", attributes=said).end()

    assert printed(capfd) == 0


def test_on_again_prints_again(client: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """Off is not for ever: the same destination again shows every stream, once."""
    trace.set_tracer_provider(TracerProvider())

    for view in ("terminal", "off", "terminal"):
        otelstream.instrument(view=view)
    list(open_stream(client))

    assert printed(capfd) == 1


@pytest.mark.parametrize("when", ["before", "later"])
def test_a_span_of_a_tool_is_evidence(client: Any, sim: ProviderSimulator, when: str) -> None:
    """With the view on, a tool that only its own span shows counts as run, whenever the provider is set."""
    sim.play("tool_use_only")
    if when == "before":
        trace.set_tracer_provider(TracerProvider())
    otelstream.instrument(view="terminal")
    if when == "later":
        trace.set_tracer_provider(TracerProvider())

    with otelstream.turn() as turn:
        list(open_stream(client))
        (call,) = turn.tool_calls
        said = {names.TOOL_NAME: call.name, names.TOOL_CALL_ID: call.id}
        with trace.get_tracer("somebody").start_as_current_span("execute_tool", attributes=said):
            pass

    assert call.evidence == "span"
    assert call.state == "committed"


def test_switching_to_and_fro_adds_nothing(client: Any) -> None:
    """However often the view goes on and off, a provider has no more processors than after the first time."""
    provider = TracerProvider()
    trace.set_tracer_provider(provider)
    counts = []

    for _ in range(3):
        for view in ("terminal", "off"):
            otelstream.instrument(view=view)
            list(open_stream(client))
        counts.append(len(provider._active_span_processor._span_processors))

    assert counts == counts[:1] * 3
