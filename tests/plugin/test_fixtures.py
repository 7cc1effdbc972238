# SPDX-License-Identifier: Apache-2.0
"""The fixtures, used as an application's own tests use them."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

import otelstream
from otelstream._face.instrumentor import OtelStreamInstrumentor
from otelstream.testing import ProviderSimulator, Recorder, Schedule
from otelstream.testing._redirect import redirected

# Made when the module is imported, as applications do, and to an address where nobody is.
AT_IMPORT = anthropic.Anthropic(base_url="http://127.0.0.1:9", api_key="k", max_retries=0)
HOOKS = [
    (anthropic._base_client.SyncAPIClient, "request"),
    (anthropic._base_client.AsyncAPIClient, "request"),
    (anthropic._base_client.BaseClient, "_build_request"),
    (anthropic.Stream, "__init__"),
]


def ask(client: Any = AT_IMPORT, model: str = "m") -> str:
    with client.messages.create(
        model=model, max_tokens=64, messages=[{"role": "user", "content": "x"}], stream=True
    ) as stream:
        deltas = [event.delta for event in stream if event.type == "content_block_delta"]
    return "".join(delta.text for delta in deltas if delta.type == "text_delta")


@pytest.fixture(autouse=True)
def not_instrumented() -> Iterator[None]:
    """Other modules may have left it on; here we look at who switches it on and off."""
    otelstream.uninstrument()
    yield
    otelstream.uninstrument()


def test_a_client_made_at_import_is_redirected(
    otelstream_provider: ProviderSimulator, otelstream_recorder: Recorder
) -> None:
    """Whatever its base URL, every client talks to the local provider, retries and headers as usual."""
    otelstream_provider.play("text_short")

    assert ask()

    assert otelstream_recorder.stream.outcome == "completed"
    (exchange,) = otelstream_provider.log
    assert exchange.request.headers["host"] == otelstream_provider.base_url.removeprefix("http://")


def test_an_async_client_made_at_import_outlives_its_event_loop() -> None:
    """Test runners give each test a loop of its own; no connection of an earlier one is left in the client's pool."""
    client = anthropic.AsyncAnthropic(base_url="http://127.0.0.1:9", api_key="k", max_retries=0)

    async def ask_async() -> int:
        messages: list[Any] = [{"role": "user", "content": "x"}]
        stream = await client.messages.create(model="m", max_tokens=64, messages=messages, stream=True)
        await client.messages.create(model="m", max_tokens=64, messages=messages)
        return len([event async for event in stream])

    for _ in range(3):
        with ProviderSimulator() as provider, redirected(provider.base_url):
            assert asyncio.run(ask_async())


def test_a_client_made_at_import_needs_no_key(monkeypatch: pytest.MonkeyPatch, otelstream_recorder: Recorder) -> None:
    """CI has no key when an application makes its client: in the test that client streams all the same."""
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    keyless = anthropic.Anthropic(base_url="http://127.0.0.1:9", max_retries=0)

    with ProviderSimulator() as provider:
        with redirected(provider.base_url):
            assert ask(keyless)
        with pytest.raises(Exception, match="authentication"):
            ask(keyless)


def test_a_client_made_in_the_test_needs_no_key(
    monkeypatch: pytest.MonkeyPatch, otelstream_provider: ProviderSimulator
) -> None:
    """An application reads its key from the environment: the fixture gives it one, and keeps proxies out of the way."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")

    assert ask(anthropic.Anthropic(max_retries=0, base_url=otelstream_provider.base_url))

    assert os.environ["NO_PROXY"].split(",")[0] == "127.0.0.1"


def hooked() -> list[int]:
    return [id(vars(owner)[name]) for owner, name in HOOKS]  # wrappers equal what they wrap


@pytest.fixture
def checked() -> Iterator[list[int]]:
    before = hooked()
    yield before
    assert hooked() == before


@pytest.mark.parametrize("fixture", ["otelstream_provider", "otelstream_recorder"])
def test_nothing_is_left_behind(fixture: str, request: pytest.FixtureRequest) -> None:
    """After the test the SDK has the very same functions as before it."""
    checked = request.getfixturevalue("checked")

    request.getfixturevalue(fixture)

    assert hooked() != checked


def test_a_client_goes_home_after_the_test() -> None:
    """An application that instruments itself within the redirection is not redirected any more after it."""
    with ProviderSimulator() as provider:
        with redirected(provider.base_url):
            otelstream.instrument()
            assert ask()

        with pytest.raises(anthropic.APIConnectionError):
            ask()


def test_cut_answer(otelstream_provider: ProviderSimulator, otelstream_recorder: Recorder) -> None:
    """The example of the documentation: a fault in, a verdict out."""
    otelstream_provider.play("text_long", fault=otelstream_provider.cut_after(chunks=40))

    with pytest.raises(Exception, match=r".") as raised:
        ask()

    assert not isinstance(raised.value, AssertionError)
    assert otelstream_recorder.expect(outcome="failed", fault="connection_lost", partial=True).chunks == 40


def test_expect_shows_the_timeline(otelstream_provider: ProviderSimulator, otelstream_recorder: Recorder) -> None:
    """A wrong expectation names the value and draws what happened."""
    ask()

    with pytest.raises(AssertionError) as raised:
        otelstream_recorder.expect(outcome="failed")

    message = str(raised.value)
    assert message.startswith("outcome is 'completed', expected 'failed'\n")
    assert "1 m" in message
    assert "completed" in message.lower()


def test_exactly_one_stream(otelstream_provider: ProviderSimulator, otelstream_recorder: Recorder) -> None:
    """`stream` is the one stream: none, or two, is an error that shows them all."""
    with pytest.raises(AssertionError, match=r"exactly one ended stream, got 0\nno stream has ended"):
        otelstream_recorder.stream
    ask(model="first")
    ask(model="second")

    with pytest.raises(AssertionError, match="exactly one ended stream, got 2") as raised:
        otelstream_recorder.stream

    assert "first" in str(raised.value)
    assert "second" in str(raised.value)
    assert [stream.model for stream in otelstream_recorder.streams] == ["first", "second"]
    otelstream_recorder.clear()
    assert otelstream_recorder.streams == []


def test_a_stream_that_is_open(otelstream_provider: ProviderSimulator, otelstream_recorder: Recorder) -> None:
    """What has not ended is no result yet; the error says that it is open."""
    otelstream_provider.play("text_long", fault=otelstream_provider.hang_after(chunks=3))
    stream = AT_IMPORT.messages.create(
        model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}], stream=True
    )
    next(iter(stream))

    with pytest.raises(AssertionError, match="still open"):
        otelstream_recorder.stream

    stream.close()
    assert otelstream_recorder.stream.outcome == "cancelled"


def test_wait_for_another_thread(otelstream_provider: ProviderSimulator, otelstream_recorder: Recorder) -> None:
    """Streams may end in another thread: `wait_for` waits for that many."""
    otelstream_provider.play("text_short", times=2, schedule=Schedule(first=0.05))
    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()

    assert [stream.outcome for stream in otelstream_recorder.wait_for(2)] == ["completed"] * 2

    for thread in threads:
        thread.join()


def test_wait_for_too_few(otelstream_provider: ProviderSimulator, otelstream_recorder: Recorder) -> None:
    """What never ends is an error with the timeline, after the time given."""
    ask()

    with pytest.raises(AssertionError, match=r"2 streams did not end within 0\.05 s\n") as raised:
        otelstream_recorder.wait_for(2, timeout=0.05)

    assert "1 m" in str(raised.value)


def test_wait_for_in_an_event_loop(otelstream_recorder: Recorder) -> None:
    """Called where it blocks the very loop that the stream needs, it says so."""
    import asyncio

    async def wrong() -> None:
        otelstream_recorder.wait_for(1, timeout=0.01)

    with pytest.raises(AssertionError, match=r"asyncio\.to_thread"):
        asyncio.run(wrong())


def test_a_stream_of_an_earlier_test(otelstream_provider: ProviderSimulator) -> None:
    """What an earlier test dropped, and the garbage collector ends now, is not of this test."""
    dropped = AT_IMPORT.messages.create
    with Recorder() as earlier:
        left = dropped(model="old", max_tokens=9, messages=[{"role": "user", "content": "x"}], stream=True)
        next(iter(left))
        with Recorder() as recorder:
            del left
            gc.collect()
            ask(model="new")

            assert recorder.stream.model == "new"
        assert [stream.model for stream in earlier.wait_for(2)] == ["old", "new"]


def test_a_stream_that_an_earlier_test_left_open_is_not_named(otelstream_provider: ProviderSimulator) -> None:
    """The error of a test names the streams that it began itself, open ones too."""
    asked: dict[str, Any] = {"max_tokens": 9, "messages": [{"role": "user", "content": "x"}], "stream": True}
    with (
        Recorder(),
        AT_IMPORT.messages.create(model="theirs", **asked),
        Recorder() as recorder,
        AT_IMPORT.messages.create(model="ours", **asked),
    ):
        said = recorder.timeline()

    assert "still open" in said
    assert "ours" in said
    assert "theirs" not in said


@pytest.mark.otelstream(stall_threshold=0.05)
def test_settings_by_marker(otelstream_provider: ProviderSimulator, otelstream_recorder: Recorder) -> None:
    """The marker sets settings for the recorder of one test."""
    otelstream_provider.play("text_long", fault=otelstream_provider.stall_after(0.15, chunks=3))

    ask()

    assert otelstream_recorder.stream.attributes["otelstream.stream.stalls"] == 1


def test_an_application_that_is_instrumented_stays_so(otelstream_provider: ProviderSimulator) -> None:
    """A recorder with settings of its own gives the application its own back, and its patches stay."""
    otelstream.instrument(stall_threshold=5)
    runtime = OtelStreamInstrumentor().runtime

    with Recorder(stall_threshold=0.05) as recorder:
        assert OtelStreamInstrumentor().runtime is runtime
        assert runtime.settings.stall_threshold == 0.05
        ask()
        assert recorder.stream.observed

    assert OtelStreamInstrumentor().runtime is runtime
    assert runtime.settings.stall_threshold == 5


def test_a_wrong_setting_is_an_error() -> None:
    """A setting that is not allowed is refused at once, with nothing left switched on."""
    with pytest.raises(otelstream.ConfigurationError, match="stall_threshold"), Recorder(stall_threshold=-1):
        pass

    assert OtelStreamInstrumentor().runtime is None


def test_under_otel_sdk_disabled(monkeypatch: pytest.MonkeyPatch, otelstream_provider: ProviderSimulator) -> None:
    """CI often runs with OTEL_SDK_DISABLED: no telemetry leaves, and the recorder records all the same."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")

    with Recorder() as recorder:
        ask()

        assert recorder.stream.outcome == "completed"
