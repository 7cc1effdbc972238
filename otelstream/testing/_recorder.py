# SPDX-License-Identifier: Apache-2.0
"""Record what otelstream says of the streams of a test, without an exporter or a backend."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

from opentelemetry.util.types import AttributeValue

from otelstream._core.emit.span import nanoseconds, summary
from otelstream._core.record.stream import clock
from otelstream._errors import OtelstreamError
from otelstream._face import config as _config
from otelstream._face import instrumentor as _instrumentor
from otelstream._face.view import StreamView

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from otelstream._core.record.settings import Settings
    from otelstream._core.record.stream import StreamObservation


class RecordedStream(StreamView):
    """A stream that has ended: a `StreamView` with what its span carries."""

    __slots__ = ("attributes", "events", "span", "started")

    def __init__(self, stream: StreamObservation) -> None:
        super().__init__(stream)
        self.started = stream.started
        began, over = (nanoseconds(stream, at) / 1e9 for at in (stream.started, stream.end_at or stream.started))
        self.span: tuple[str, float, float] = (f"{stream.operation} {stream.model}", began, over)
        self.attributes: dict[str, AttributeValue] = summary(stream)
        # (name, seconds since the request, attributes)
        self.events = tuple((name, at - stream.started, dict(said)) for name, at, said in stream.events)


class Recorder:
    """Collects every stream that begins and ends while it is active; instruments the SDK if nobody has.

        with Recorder(stall_threshold=0.1) as recorder:
            ...
            assert recorder.stream.outcome == "failed"

    Settings hold while it is active. It needs no OpenTelemetry SDK, and works under OTEL_SDK_DISABLED too.
    """

    def __init__(self, **settings: Any) -> None:
        self._settings = settings
        self._ended: list[RecordedStream] = []
        self._changed = threading.Condition()
        self._instrumented = False
        self._replaced: Settings | None = None
        self._began = 0.0

    def __enter__(self) -> Self:
        instrumentor = _instrumentor.OtelStreamInstrumentor()
        self._instrumented = instrumentor.runtime is None
        if self._instrumented:
            instrumentor._start(**self._settings)
            if instrumentor.runtime is None:
                raise OtelstreamError('no provider SDK is installed: pip install "otelstream[testing]"')
        elif instrumentor.runtime is not None and self._settings:
            # The application's own providers and patches stay as they are.
            self._replaced = instrumentor.runtime.settings
            instrumentor.runtime.settings = _config.load(self._settings)
        self._began = clock()
        _instrumentor.listen(self._add)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _instrumentor.listen(self._add, stop=True)
        runtime = _instrumentor.OtelStreamInstrumentor().runtime
        if self._instrumented:
            _instrumentor.uninstrument()
        elif self._replaced is not None and runtime is not None:
            runtime.settings = self._replaced

    def _is_ours(self, stream: StreamObservation | None) -> bool:
        """Whether it began here: an earlier test may have left its own open, or to the garbage collector."""
        return stream is not None and stream.started >= self._began

    def _add(self, stream: StreamObservation) -> None:
        if not self._is_ours(stream):
            return
        with self._changed:
            self._ended.append(RecordedStream(stream))
            self._changed.notify_all()

    @property
    def streams(self) -> list[RecordedStream]:
        """The streams that have ended, in the order they began."""
        with self._changed:
            return sorted(self._ended, key=lambda stream: stream.started)

    @property
    def stream(self) -> RecordedStream:
        """The one stream of the test; AssertionError with the timeline of all when it is not exactly one."""
        __tracebackhide__ = True
        streams = self.streams
        if len(streams) != 1:
            more = "; .streams has them all, .clear() forgets" if streams else ""
            raise AssertionError(f"expected exactly one ended stream, got {len(streams)}{more}\n{self.timeline()}")
        return streams[0]

    def wait_for(self, count: int = 1, timeout: float = 30.0) -> list[RecordedStream]:
        """Wait until `count` streams have ended; AssertionError with the timeline after `timeout` seconds.

        It blocks: in asyncio call it with `asyncio.to_thread`.
        """
        __tracebackhide__ = True
        until = time.monotonic() + timeout
        with self._changed:
            while len(self._ended) < count and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            if len(self._ended) >= count:
                return self.streams
        blocked = asyncio._get_running_loop() is not None
        why = ": this call blocks the event loop they run in, use `await asyncio.to_thread(...)`" if blocked else ""
        raise AssertionError(f"{count} streams did not end within {timeout:g} s{why}\n{self.timeline()}")

    def expect(self, **values: object) -> RecordedStream:
        """The one stream, if every named value holds (`outcome="failed"`); else AssertionError with the timeline."""
        __tracebackhide__ = True
        stream = self.stream
        for name, wanted in values.items():
            said = getattr(stream, name)
            if said != wanted:
                raise AssertionError(f"{name} is {said!r}, expected {wanted!r}\n{self.timeline()}")
        return stream

    def clear(self) -> None:
        """Forget the streams so far."""
        with self._changed:
            self._ended.clear()

    def timeline(self) -> str:
        """What happened, drawn as `otelstream demo` draws it, and the streams that are still open."""
        from otelstream.view._record import Moment, SpanRecord
        from otelstream.view._terminal import ASCII, Style, table
        from otelstream.view._timeline import timeline
        from otelstream.view._turns import Row

        rows = []
        for number, stream in enumerate(self.streams, 1):
            name, started, ended = stream.span
            record = SpanRecord(
                name=name,
                scope="",
                trace_id="",
                span_id="",
                started=started,
                ended=ended,
                status="UNSET",
                attributes={
                    name: tuple(value) if isinstance(value, list) else value  # type: ignore[misc]
                    for name, value in stream.attributes.items()
                },
                events=tuple(Moment(name, at, said) for name, at, said in stream.events),  # type: ignore[arg-type]
                process=0,
            )
            rows.append(Row(f"{number} {stream.model}", timeline(record)))
        lines = table(rows, Style(width=100, glyphs=ASCII)) if rows else ["no stream has ended"]
        ours = [repr(view) for view in _instrumentor.open_streams() if self._is_ours(view._stream)]
        if ours:
            lines.append(f"still open: {', '.join(ours)}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Recorder\n{self.timeline()}\n>"
