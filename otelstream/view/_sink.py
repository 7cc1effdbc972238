# SPDX-License-Identifier: Apache-2.0
"""The span exporter of the view, and how it gets onto whatever tracer provider a program has or comes to have."""

from __future__ import annotations

import _thread
import atexit
import fcntl
import os
import shutil
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.util.types import Attributes

from otelstream._errors import ConfigurationError
from otelstream._trouble import trouble

from ._record import SpanRecord
from ._session import PageFile, Session
from ._spool import SpoolReader, SpoolWriter
from ._style import style_of
from ._terminal import access_line
from ._timeline import timeline

try:
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON
except ImportError:
    raise ConfigurationError(
        'the view needs the OpenTelemetry SDK: pip install "otelstream[otlp]" (or opentelemetry-sdk)'
    ) from None

SPOOL = "spool:"  # prefix of a destination that is a directory shared with `otelstream run`

Sink = Callable[[SpanRecord], object]


class ViewExporter(SpanExporter):
    """Hands every finished stream and every tool call to a sink; other spans pass by. Never raises."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.until: int | None = None  # what begins after that instant, in Unix nanoseconds, passes by as well

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            if self.until is not None and (span.start_time or 0) > self.until:
                continue
            try:
                record = SpanRecord.from_span(span)
                if record.is_stream or record.is_tool:
                    self._sink(record)
            except Exception:
                trouble("showing a stream")
        return SpanExportResult.SUCCESS

    def silence(self) -> None:
        self._sink = _nowhere

    def shutdown(self) -> None:
        """Stay usable: one exporter serves all providers of a process."""


class Attachment:
    """One destination and the providers it listens to."""

    def __init__(self, sink: Sink, close: Callable[[], object] | None = None) -> None:
        self._exporter = ViewExporter(sink)
        self._processors: list[SpanProcessor] = []
        self._close = close
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()
        self._private: TracerProvider | None = None
        self.late = LateTracerProvider(self)

    def listen(self, provider: Any) -> None:
        """Receive the spans of *provider*, besides whoever receives them already."""
        if hasattr(provider, "add_span_processor") and provider not in self._known:
            self._known.add(provider)
            # One of its own for each: a provider that ends shuts its processors down.
            for processor in (SimpleSpanProcessor(self._exporter), *self._processors):
                provider.add_span_processor(processor)

    def add(self, processor: SpanProcessor) -> None:
        """Let *processor* hear every provider that we listen to, now or later."""
        self._processors.append(processor)
        for provider in tuple(self._known):
            provider.add_span_processor(processor)

    def rest(self, *, resting: bool = True) -> None:
        """Show what is open and nothing that begins from now on, until it is told not to rest."""
        self._exporter.until = time.time_ns() if resting else None

    def silence(self) -> None:
        """Show nothing more: a processor cannot be taken off its provider."""
        self._exporter.silence()
        if self._close is not None:
            self._close()

    @property
    def private(self) -> TracerProvider:
        """A provider of our own, for a program that never sets one. It is never made the global one."""
        if self._private is None:
            self._private = TracerProvider(sampler=ALWAYS_ON)
            self.listen(self._private)
        return self._private


class LateTracerProvider(trace.TracerProvider):
    """Decides with every span: the program's provider once there is one, until then our private one.

    Setting a global provider of our own would keep the program from setting its.
    """

    def __init__(self, attachment: Attachment) -> None:
        self.attachment = attachment

    def add_span_processor(self, processor: SpanProcessor) -> None:
        """Add it to whichever provider there is, or comes to be."""
        self.attachment.add(processor)

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> trace.Tracer:
        return _LateTracer(self.attachment, instrumenting_module_name, instrumenting_library_version, schema_url)


class _LateTracer(trace.Tracer):
    def __init__(self, attachment: Attachment, *scope: Any) -> None:
        self._attachment = attachment
        self._scope = scope
        self._last: tuple[trace.TracerProvider, trace.Tracer] | None = None

    def _tracer(self) -> trace.Tracer:
        provider = trace.get_tracer_provider()
        if isinstance(provider, trace.ProxyTracerProvider):
            provider = self._attachment.private
        else:
            self._attachment.listen(provider)
        last = self._last
        if last is None or last[0] is not provider:
            last = self._last = provider, provider.get_tracer(*self._scope)
        return last[1]

    def start_span(self, *args: Any, **kwargs: Any) -> trace.Span:
        return self._tracer().start_span(*args, **kwargs)

    def start_as_current_span(self, *args: Any, **kwargs: Any) -> Any:
        return self._tracer().start_as_current_span(*args, **kwargs)


_attachments: dict[str, Attachment] = {}
_unpatched: Callable[..., None] | None = None


def attach(tracer_provider: trace.TracerProvider | None, destination: str) -> trace.TracerProvider:
    """Show every stream at *destination* (`terminal`, or the path of a page) and return the provider to use.

    Without *tracer_provider* that is the global one whenever it is set, be it later; a program that sets none
    has its streams shown all the same.
    """
    for other, old in list(_attachments.items()):
        if other != destination:
            old.silence()
            del _attachments[other]
    attachment = _attachments.get(destination)
    if attachment is None:
        attachment = _attachments[destination] = _attachment_for(destination)
    attachment.rest(resting=False)
    if tracer_provider is not None:
        attachment.listen(tracer_provider)
        return tracer_provider
    current = trace.get_tracer_provider()
    if not isinstance(current, trace.ProxyTracerProvider):
        attachment.listen(current)
    watch_providers()
    return attachment.late


def detach() -> None:
    """Listen to no further provider. Streams that are open are shown when they end, later ones are not."""
    global _unpatched
    for attachment in _attachments.values():
        attachment.rest()
    if _unpatched is not None:
        TracerProvider.__init__ = _unpatched  # type: ignore[method-assign]
        _unpatched = None


def watch_providers() -> None:
    """Listen to every SDK provider made from now on: a native span must be seen though it is not made by us."""
    global _unpatched
    if _unpatched is not None:
        return
    original = _unpatched = TracerProvider.__init__

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        original(self, *args, **kwargs)
        for attachment in _attachments.values():
            attachment.listen(self)

    TracerProvider.__init__ = __init__  # type: ignore[method-assign]


def _nowhere(record: SpanRecord) -> None:
    """Where streams go after `detach`."""


def _attachment_for(destination: str) -> Attachment:
    if destination == "terminal":
        return Attachment(show_line)
    if destination.startswith(SPOOL):
        return Attachment(SpoolWriter(destination.removeprefix(SPOOL)).record)
    page = PageSink(destination)
    return Attachment(page.add, page.close)


def show_line(record: SpanRecord) -> None:
    """Write one line to standard error, past its buffer: nobody may hold its lock while this waits for it."""
    if not record.is_stream:
        return
    style = style_of(sys.stderr)
    clock = time.strftime("%H:%M:%S", time.localtime(record.ended or record.started))
    line = access_line(timeline(record), style, clock) + "\n"
    try:
        os.write(sys.stderr.fileno(), line.encode(sys.stderr.encoding or "utf-8", "replace"))
    except (OSError, ValueError, AttributeError):
        sys.stderr.write(line)


class PageSink:
    """Keeps a page up to date from this process and those it forks."""

    def __init__(self, path: str) -> None:
        self._file = PageFile(path)
        if self._file.moved:
            sys.stderr.write(f"otelstream: {path} cannot be written; the page goes to {self._file.path}\n")
        self._folder = Path(tempfile.mkdtemp(prefix="otelstream-view-"))
        self._owner = os.getpid()
        self._writer = SpoolWriter(self._folder)
        self._thread_of = 0
        self._reader_of = 0
        self._session = Session()
        self._reader = SpoolReader(self._folder, delete=False)
        self._closed = False
        atexit.register(self.close)

    def add(self, record: SpanRecord) -> None:
        self._writer.record(record)
        if self._thread_of != os.getpid():
            self._thread_of = os.getpid()
            # Not threading.Thread, whose start waits on locks: this may run inside the garbage collector.
            _thread.start_new_thread(self._run, ())

    def _run(self) -> None:
        while not self._closed:
            time.sleep(0.25)
            self._update()

    def _update(self, *, last: bool = False) -> None:
        try:
            lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return  # the owner has ended, and written the last page
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._reader_of != os.getpid():
                self._reader_of = os.getpid()
                self._session, self._reader = Session(), SpoolReader(self._folder, delete=False)
            for record in self._reader.read():
                if isinstance(record, SpanRecord):
                    self._session.add(record)
            self._file.update(self._session, last=last)
        except OSError:
            trouble("writing the page")
        finally:
            os.close(lock)

    def close(self) -> None:
        """Write the page for the last time."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        self._update(last=True)
        if os.getpid() == self._owner:
            shutil.rmtree(self._folder, ignore_errors=True)
