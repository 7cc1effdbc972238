# SPDX-License-Identifier: Apache-2.0
"""The view gets onto whatever tracer provider a program has, and keeps a page or writes lines."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otelstream.view import _sink, _spool, attach, detach
from otelstream.view._record import SpanRecord
from otelstream.view._session import PageFile, Session
from otelstream.view._spool import Note, SpoolReader, SpoolWriter

from .conftest import MakeSpan, stream_span


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Leave no destination and no patch behind."""
    yield
    detach()
    for attachment in _sink._attachments.values():
        attachment.silence()
    _sink._attachments.clear()


@pytest.fixture
def record(make_span: MakeSpan) -> Callable[..., SpanRecord]:
    def make(**said: Any) -> SpanRecord:
        return SpanRecord.from_span(make_span(*stream_span(**said)))

    return make


def stream(provider: trace.TracerProvider, **said: Any) -> None:
    """End one stream's span on *provider*."""
    attributes, events, _ = stream_span(**said)
    span = provider.get_tracer("test").start_span("chat m", attributes=attributes)
    for name, _, more in events:
        span.add_event(name, more)
    span.end()


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 20
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def shown(path: Path, words: str) -> Callable[[], bool]:
    return lambda: path.exists() and words in path.read_text(encoding="utf-8")


def test_a_page_follows_the_streams_of_a_provider(tmp_path: Path) -> None:
    """`view=PATH`: the page appears with the first stream and grows; spans that are no streams pass by."""
    page = tmp_path / "view.html"
    provider = TracerProvider()

    assert attach(provider, str(page)) is provider
    stream(provider)
    provider.get_tracer("other").start_span("unrelated").end()

    wait_for(shown(page, "<b>1</b> said 200"))
    stream(provider, outcome="failed", phase="mid_stream", fault="cut_short")
    wait_for(shown(page, "<b>2</b> said 200, <b>1</b> of those failed after it."))


def test_attaching_twice_shows_once(tmp_path: Path) -> None:
    """The same destination again adds nothing; another one silences the first."""
    first, second = tmp_path / "first.html", tmp_path / "second.html"
    provider = TracerProvider()

    attach(provider, str(first))
    attach(provider, str(first))
    stream(provider)
    attach(provider, str(second))
    stream(provider)

    assert shown(first, "<b>1</b> said 200")()
    wait_for(shown(second, "<b>1</b> said 200"))


def test_without_a_provider_streams_are_shown_all_the_same(tmp_path: Path) -> None:
    """A program that sets up nothing sees its streams, and the global provider stays unset for it to set."""
    page = tmp_path / "view.html"
    before = trace.get_tracer_provider()

    stream(attach(None, str(page)))

    wait_for(shown(page, "<b>1</b> said 200"))
    assert trace.get_tracer_provider() is before


def test_a_provider_made_later_is_heard(tmp_path: Path) -> None:
    """A provider that the program makes after `instrument()` keeps its exporter and is shown as well."""
    page = tmp_path / "view.html"
    attach(None, str(page))
    exporter = InMemorySpanExporter()

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    stream(provider)

    wait_for(shown(page, "<b>1</b> said 200"))
    assert len(exporter.get_finished_spans()) == 1


def test_detach_restores_the_sdk() -> None:
    """The SDK's own function is back, the very same."""
    before = TracerProvider.__init__

    attach(None, "terminal")
    during = TracerProvider.__init__
    detach()

    assert during is not before
    assert TracerProvider.__init__ is before


def test_terminal_writes_one_line_a_stream(capfd: pytest.CaptureFixture[str]) -> None:
    """`view=terminal`: one line to standard error, nothing to standard output."""
    provider = TracerProvider()
    attach(provider, "terminal")

    stream(provider)
    stream(provider, outcome="truncated", reason="max_tokens")

    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 2
    assert "Cut off by max_tokens" in err


def test_a_sink_that_fails_harms_nobody() -> None:
    """An exporter never raises into the program whose span it gets."""
    provider = TracerProvider()

    def broken(_: SpanRecord) -> None:
        raise RuntimeError("disk full")

    provider.add_span_processor(SimpleSpanProcessor(_sink.ViewExporter(broken)))

    stream(provider)


def test_forked_processes_share_a_page(tmp_path: Path) -> None:
    """Streams of a forked child are on the page of the process that attached it."""
    page = tmp_path / "view.html"
    provider = TracerProvider()
    attach(provider, str(page))
    stream(provider)

    child = os.fork()
    if child == 0:
        try:
            stream(provider)
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

    wait_for(shown(page, "<b>2</b> said 200"))


def test_a_spool_hands_over_every_record_once(tmp_path: Path, record: Callable[..., SpanRecord]) -> None:
    """What many writers append, one reader gets once and in each writer's order."""
    writers = [SpoolWriter(tmp_path), SpoolWriter(tmp_path)]
    reader = SpoolReader(tmp_path)
    records = [record(chars=index) for index in range(6)]

    for index, each in enumerate(records):
        writers[index % 2].record(each)
    first = list(reader.read())
    writers[0].record(records[0])

    assert sorted(map(repr, first)) == sorted(map(repr, records))
    assert list(reader.read()) == [records[0]]
    assert list(reader.read()) == []


def test_a_spool_waits_for_the_rest_of_a_line(tmp_path: Path, record: Callable[..., SpanRecord]) -> None:
    """Half a line is no record yet; a broken one is passed over."""
    reader = SpoolReader(tmp_path)
    line = record().to_json().encode() + b"\n"
    file = tmp_path / "7-000000.jsonl"

    file.write_bytes(line[:100])
    assert list(reader.read()) == []
    file.write_bytes(line + b'{"broken\n' + b'{"note": "refused", "text": "why", "process": 7}\n')

    assert [type(found) for found in reader.read()] == [SpanRecord, Note]


def test_a_long_run_deletes_what_was_read(
    tmp_path: Path, record: Callable[..., SpanRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that never ends does not fill the disk: files are rotated and removed, and nothing is lost."""
    monkeypatch.setattr(_spool, "ROTATE_AT", 4000)
    writer, reader = SpoolWriter(tmp_path), SpoolReader(tmp_path)
    found: list[Any] = []

    for index in range(100):
        writer.record(record(chars=index))
        if index % 7 == 0:
            found += reader.read()
    found += reader.read()

    assert [each.attributes["otelstream.stream.visible_chars"] for each in found] == list(range(100))
    assert len(list(tmp_path.iterdir())) == 1


def test_a_session_counts_what_it_no_longer_holds(
    record: Callable[..., SpanRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded, the headline is not."""
    monkeypatch.setattr("otelstream.view._session.HELD", 5)
    session = Session()

    for _ in range(20):
        session.add(record(outcome="failed", phase="mid_stream", fault="cut_short"))

    assert str(session.headline) == "20 said 200, 20 of those failed after it."
    assert "15 earlier streams are counted" in session.page()


def test_a_page_is_not_rewritten_for_every_stream(tmp_path: Path, record: Callable[..., SpanRecord]) -> None:
    """A burst of streams is one write at most a second; the last one is never left out."""
    session, file = Session(), PageFile(tmp_path / "page.html")
    wrote = 0

    for _ in range(50):
        session.add(record())
        wrote += file.update(session)
    file.update(session, last=True)

    assert wrote == 1
    assert "<b>50</b> said 200" in file.path.read_text(encoding="utf-8")
