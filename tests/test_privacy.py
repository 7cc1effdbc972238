# SPDX-License-Identifier: Apache-2.0
"""Nothing that a user or a model wrote leaves the process by way of us: canaries are put everywhere, and looked for."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from shapes import ASYNC, SYNC, AppError, Reply, Tape, arun, clients, httpx, run

import otelstream
from otelstream import _semconv as s
from otelstream import _trouble
from otelstream._core.emit import outbox
from otelstream._core.process import judges
from otelstream.testing import Script

pytestmark = pytest.mark.filterwarnings("ignore")


def canary(where: str) -> str:
    """A word that is found again whatever encodes or cuts it, as long as eight letters of it are left."""
    return f"Kanarienvogel{where.capitalize()}"


WORD = "kanarien"
ASK: dict[str, Any] = {
    "model": "some-model",
    "max_tokens": 64,
    "system": canary("system"),
    "messages": [
        {"role": "user", "content": canary("prompt")},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": canary("earlier")},
                {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": canary("toolinput")}},
            ],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": canary("toolresult")}],
        },
    ],
    "metadata": {"user_id": canary("user")},
    "stop_sequences": [canary("stop")],
}
ASK_RUNNER = {key: value for key, value in ASK.items() if key != "tools"}


def frames(script: Script) -> list[bytes]:
    return [event.frame for event in script.finished().events]


ANSWER = frames(
    Script()
    .thinking(canary("thinking") * 3)
    .text(canary("answer") * 4)
    .tool_use("get_weather", {"city": canary("input")})
)
LOOP = frames(Script().text(canary("loop") * 90, chunk=24))
BROKEN = frames(Script().tool_use("get_weather", ['{"city": "' + canary("broken"), "\n", '"}']))
ERROR = {"type": "error", "error": {"type": "overloaded_error", "message": canary("error")}}
BAD = b'event: content_block_delta\ndata: {"delta": ' + canary("frame").encode() + b"\n\n"
JSON = (("content-type", "application/json"),)
STOPPED = frames(Script().text("x").end("stop_sequence", stop_sequence=canary("stop")))

REPLIES: dict[str, list[Reply]] = {
    "whole": [Reply(ANSWER)],
    "loop": [Reply(LOOP)],
    "stop sequence": [Reply(STOPPED)],
    "broken tool": [Reply(BROKEN)],
    "cut in a tool": [Reply(ANSWER[:-4])],
    "cut in a frame": [Reply([b"".join(ANSWER)[:-300]])],
    "error event": [Reply([*ANSWER[:9], b"event: error\ndata: " + json.dumps(ERROR).encode() + b"\n\n"])],
    "bad frame": [Reply([*ANSWER[:9], BAD, *ANSWER[9:]])],
    "hostile": [Reply([b'event: message_start\ndata: {"type":"message_start","message":["Kanarienvogel"]}\n\n'])],
    "transport": [Reply(ANSWER[:9], lambda: httpx.ReadError(canary("transport")))],
    "bug": [Reply(ANSWER[:9], lambda: ValueError(canary("bug")))],
    "400": [Reply([json.dumps({**ERROR, "error": {**ERROR["error"], "type": "invalid_request_error"}}).encode()],  # type: ignore[dict-item]
                  None, 400, JSON)],
    "529": [Reply([json.dumps(ERROR).encode()], None, 529, JSON)],
    "html": [Reply([canary("html").encode()], None, 500, (("content-type", "text/html"),))],
}  # fmt: skip


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1]:
            text += "".join(traceback.format_exception(*record.exc_info))
        self.lines.append(f"{record.name}: {text}")


def _raises(text: str) -> None:
    raise ValueError(text)


class Sink:
    """Everything that leaves, as text."""

    def __init__(self, **settings: Any) -> None:
        self.spans, self.records, self.reader = (
            InMemorySpanExporter(),
            InMemoryLogRecordExporter(),
            InMemoryMetricReader(),
        )
        if not isinstance(trace.get_tracer_provider(), TracerProvider):
            trace.set_tracer_provider(TracerProvider())
        self.provider: Any = trace.get_tracer_provider()
        self.processor = SimpleSpanProcessor(self.spans)
        self.provider.add_span_processor(self.processor)
        loggers = LoggerProvider()
        loggers.add_log_record_processor(SimpleLogRecordProcessor(self.records))
        self.views: list[str] = []
        self.lines = Lines()
        for name in ("otelstream", "opentelemetry"):
            logging.getLogger(name).addHandler(self.lines)
        logging.getLogger("otelstream").setLevel(logging.DEBUG)
        otelstream.instrument(
            tracer_provider=self.provider,
            meter_provider=MeterProvider([self.reader]),
            logger_provider=loggers,
            events="both",
            chunk_events="all",
            **settings,
        )
        otelstream.judge("echoes", verdicts=("yes", "no"))(str.strip)
        otelstream.judge("raises", verdicts=("yes", "no"), every=20)(_raises)
        otelstream.judge("turns", verdicts=("yes", "no"), every=20)(lambda text: ("yes", "no")[len(text) // 20 % 2])

    def text(self) -> str:
        parts = [span.to_json() for span in self.spans.get_finished_spans()]
        parts += [repr((each.log_record.event_name, each.log_record.body, each.log_record.attributes))
                  for each in self.records.get_finished_logs()]  # fmt: skip
        data = self.reader.get_metrics_data()
        parts.append(data.to_json() if data else "")
        return "\n".join([*parts, *self.lines.lines, *self.views])

    def close(self) -> None:
        otelstream.uninstrument()
        for name in judges.names():
            judges.forget(name)
        self.processor.shutdown()
        for name in ("otelstream", "opentelemetry"):
            logging.getLogger(name).removeHandler(self.lines)
        logging.getLogger("otelstream").setLevel(logging.NOTSET)


@pytest.fixture(params=["auto", "own"])
def sink(request: pytest.FixtureRequest) -> Iterator[Sink]:
    made = Sink(spans=request.param)
    _trouble._seen.clear()
    yield made
    made.close()


@pytest.mark.parametrize("native", [True, False])
def test_no_canary_leaves(sink: Sink, native: bool) -> None:
    """Prompt, system prompt, tool input, tool result, answer, thinking and the texts of exceptions are in no span,
    event, metric, log record, log line, view or representation of ours, in every way of reading, whole or broken."""
    transport, client, aclient = clients(native=native)
    callback = otelstream.on_stream_end(
        lambda view: sink.views.append(f"{view!r} {view.as_dict()!r} {view.judges} {view.reversals}")
    )
    runs = 0
    for way in (*SYNC, *ASYNC):
        for name, replies in REPLIES.items():
            for how, after in (
                (("read", 1 << 30), ("break", 9), ("raise", 9)) if name == "whole" else (("read", 1 << 30),)
            ):
                transport.tape = tape = Tape(replies, how, after)  # type: ignore[arg-type]
                if way in SYNC:
                    run(SYNC[way], client, tape, ASK, collect=False)
                else:
                    asyncio.run(arun(ASYNC[way], aclient, tape, ASK, collect=False))
                runs += tape.requests
    gc.collect()  # some streams only that frees, and who drops one is told of it from another thread
    assert outbox.settle(30)
    text = sink.text()
    assert callback
    assert len(sink.views) == runs > 100
    assert s.OUTCOME in text
    assert "otelstream.chunk" in text
    found = text.lower().find(WORD)
    assert found < 0, text[max(0, found - 600) : found + 100]


def test_a_view_holds_no_text(sink: Sink) -> None:
    """Neither a view nor the record behind it keeps what the model wrote, once the stream has ended."""
    transport, client, _ = clients(native=False)
    transport.tape = Tape([Reply(ANSWER)])
    stream = client.messages.create(**ASK, stream=True)
    list(stream)
    view = otelstream.get_stream(stream)
    assert view.outcome == "completed"
    assert WORD not in repr(view.as_dict()).lower()
    assert WORD not in repr([getattr(view, name) for name in dir(view) if not name.startswith("_")]).lower()


def test_trouble_is_logged_without_its_text(sink: Sink, caplog: pytest.LogCaptureFixture) -> None:
    """When our own code fails over something the user wrote, the log line names the place, not the text."""
    callback: Any = lambda view: (_ for _ in ()).throw(AppError(canary("callback")))  # noqa: E731
    otelstream.on_stream_end(callback)
    transport, client, _ = clients(native=False)
    transport.tape = Tape([Reply(ANSWER)])
    list(client.messages.create(**ASK, stream=True))
    assert any("on_stream_end" in line for line in sink.lines.lines)
    assert WORD not in "\n".join(sink.lines.lines).lower()
    assert WORD not in caplog.text.lower()


@pytest.fixture(autouse=True)
def no_callbacks() -> Iterator[None]:
    from otelstream._face import instrumentor as _instrumentor

    before = list(_instrumentor._ended)
    yield
    _instrumentor._ended[:] = before
