# SPDX-License-Identifier: Apache-2.0
"""One application under some instrumentations, in the order given; prints what it saw, what was traced and logged.

python tests/companions.py BASE_URL anthropic ours,opentelemetry.instrumentation.anthropic:AnthropicInstrumentor
python tests/companions.py BASE_URL openai logfire,ours
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

HI = [{"role": "user", "content": "hi"}]
ASK: dict[str, dict[str, Any]] = {
    "anthropic": {"model": "some-model", "max_tokens": 9, "messages": HI},
    "chat": {"model": "some-model", "messages": HI},
    "responses": {"model": "some-model", "input": "hi"},
}
SPANS, READER = InMemorySpanExporter(), InMemoryMetricReader()


class Lines(logging.Handler):
    lines: list[str]

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.name}: {record.getMessage()}")


def switch_on(what: str) -> None:
    if what == "ours":
        import otelstream

        otelstream.instrument()
    elif what == "logfire":
        importlib.import_module("logfire").instrument_openai()
    elif what == "langfuse":
        importlib.import_module("langfuse.openai")
    elif what:
        module, _, name = what.partition(":")
        getattr(importlib.import_module(module), name)().instrument()


def set_up(order: list[str]) -> None:
    """Providers of traces and metrics, as the tools under test want them; nothing leaves the process."""
    processor = SimpleSpanProcessor(SPANS)
    if "logfire" in order:
        logfire = importlib.import_module("logfire")
        # It tells where the application called, past what is installed; installed as we are here, we are not past.
        logfire.add_non_user_code_prefix(Path(__file__).resolve().parent.parent / "otelstream")
        logfire.configure(
            send_to_logfire=False,
            console=False,
            additional_span_processors=[processor],
            metrics=logfire.MetricsOptions(additional_readers=[READER]),
        )
        return
    tracers = TracerProvider()
    tracers.add_span_processor(processor)
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(MeterProvider([READER]))
    if "langfuse" in order:
        langfuse = importlib.import_module("langfuse").Langfuse
        langfuse(public_key="unused", secret_key="unused", base_url="http://127.0.0.1:9", span_exporter=SPANS)
        # It puts a processor of its own on our provider; one is enough to see each span once.
        tracers._active_span_processor._span_processors = (processor,)


def digest(item: Any) -> str:
    return str(getattr(item, "type", None) or type(item).__name__)


def shown(item: Any) -> str:
    """What an object of a stream is and says; ids and times are the server's."""
    said = item.model_dump_json(exclude={"snapshot", "response"}) if hasattr(item, "model_dump_json") else ""
    return f"{type(item).__qualname__} {said}"


def anthropic_ways(client: Any, aclient: Any) -> list[Callable[[], Any]]:
    """Ways to read the Anthropic SDK's streams, and to fail; each returns what the application saw."""

    def create() -> Any:
        return [digest(event) for event in client.messages.create(**ASK["anthropic"], stream=True)]

    def create_with() -> Any:
        with client.messages.create(**ASK["anthropic"], stream=True) as stream:
            return [digest(event) for event in stream]

    def broken_off() -> Any:
        with client.messages.create(**ASK["anthropic"], stream=True) as stream:
            return digest(next(iter(stream)))

    def stream() -> Any:
        with client.messages.stream(**ASK["anthropic"]) as events:
            return [digest(event) for event in events]

    def text() -> Any:
        with client.messages.stream(**ASK["anthropic"]) as events:
            return "".join(events.text_stream)

    def final() -> Any:
        with client.messages.stream(**ASK["anthropic"]) as events:
            return events.get_final_text()

    def beta() -> Any:
        return [digest(event) for event in client.beta.messages.create(**ASK["anthropic"], stream=True)]

    def raw() -> Any:
        response = client.messages.with_raw_response.create(**ASK["anthropic"], stream=True)
        return [digest(event) for event in response.parse()]

    def lines() -> Any:
        with client.messages.with_streaming_response.create(**ASK["anthropic"], stream=True) as response:
            return len(list(response.iter_lines()))

    async def acreate() -> Any:
        return [digest(event) async for event in await aclient.messages.create(**ASK["anthropic"], stream=True)]

    async def astream() -> Any:
        async with aclient.messages.stream(**ASK["anthropic"]) as events:
            return [digest(event) async for event in events]

    async def afinal() -> Any:
        async with aclient.messages.stream(**ASK["anthropic"]) as events:
            return await events.get_final_text()

    def refused() -> Any:
        headers = {"otelstream-play": "text_short; http_error=529"}
        return client.messages.create(**ASK["anthropic"], stream=True, extra_headers=headers)

    def error_event() -> Any:
        headers = {"otelstream-play": "text_short; error_after=2"}
        return [
            digest(event) for event in client.messages.create(**ASK["anthropic"], stream=True, extra_headers=headers)
        ]

    return [
        create, create_with, broken_off, stream, text, final, beta, raw, lines, acreate, astream, afinal, refused,
        error_event,
    ]  # fmt: skip


def openai_ways(client: Any, aclient: Any) -> list[Callable[[], Any]]:
    """The same of the OpenAI SDK's, for both of its APIs."""
    chat, responses = client.chat.completions, client.responses

    def play(what: str) -> dict[str, Any]:
        return {"extra_headers": {"otelstream-play": f"text_short; {what}"}}

    def create() -> Any:
        stream = chat.create(**ASK["chat"], stream=True)
        return [type(stream).__name__, *map(shown, stream)]

    def create_with() -> Any:
        with chat.create(**ASK["chat"], stream=True) as stream:
            return [shown(chunk) for chunk in stream]

    def broken_off() -> Any:
        with chat.create(**ASK["chat"], stream=True) as stream:
            return shown(next(iter(stream)))

    def closed() -> Any:
        stream = chat.create(**ASK["chat"], stream=True)
        first = shown(next(iter(stream)))
        stream.close()
        return first

    def stream() -> Any:
        with chat.stream(**ASK["chat"]) as events:
            return [digest(event) for event in events]

    def final() -> Any:
        with chat.stream(**ASK["chat"]) as events:
            return events.get_final_completion().choices[0].message.content

    def raw() -> Any:
        response = chat.with_raw_response.create(**ASK["chat"], stream=True)
        return [shown(chunk) for chunk in response.parse()]

    def lines() -> Any:
        with chat.with_streaming_response.create(**ASK["chat"], stream=True) as response:
            return len(list(response.iter_lines()))

    def completion() -> Any:
        return [shown(chunk) for chunk in client.completions.create(model="some-model", prompt="hi", stream=True)]

    def answer() -> Any:
        return [shown(event) for event in responses.create(**ASK["responses"], stream=True)]

    def answer_stream() -> Any:
        with responses.stream(**ASK["responses"]) as events:
            return [digest(event) for event in events]

    def answer_final() -> Any:
        with responses.stream(**ASK["responses"]) as events:
            return events.get_final_response().output_text

    async def acreate() -> Any:
        return [shown(chunk) async for chunk in await aclient.chat.completions.create(**ASK["chat"], stream=True)]

    async def abroken_off() -> Any:
        async with await aclient.chat.completions.create(**ASK["chat"], stream=True) as stream:
            async for chunk in stream:
                return shown(chunk)
        return None

    async def astream() -> Any:
        async with aclient.chat.completions.stream(**ASK["chat"]) as events:
            return [digest(event) async for event in events]

    async def aanswer() -> Any:
        return [shown(event) async for event in await aclient.responses.create(**ASK["responses"], stream=True)]

    async def task_cancelled() -> Any:
        async def read() -> None:
            async for _ in await aclient.chat.completions.create(**ASK["chat"], stream=True, **play("gap=0.2")):
                reading.set()

        reading = asyncio.Event()
        task = asyncio.ensure_future(read())
        await reading.wait()
        task.cancel()
        await asyncio.wait([task])
        for _ in range(32):  # a task's cancel is decided some steps of the loop later
            await asyncio.sleep(0)
        return task.cancelled()

    def refused() -> Any:
        return chat.create(**ASK["chat"], stream=True, **play("http_error=429"))

    async def arefused() -> Any:
        return await aclient.chat.completions.create(**ASK["chat"], stream=True, **play("http_error=429"))

    def answer_refused() -> Any:
        return responses.create(**ASK["responses"], stream=True, **play("http_error=429"))

    def error_event() -> Any:
        return [shown(chunk) for chunk in chat.create(**ASK["chat"], stream=True, **play("error_after=2"))]

    def cut() -> Any:
        return [shown(chunk) for chunk in chat.create(**ASK["chat"], stream=True, **play("cut_after=chunks:2"))]

    def answer_cut() -> Any:
        asked = responses.create(**ASK["responses"], stream=True, **play("cut_after=chunks:2"))
        return [shown(event) for event in asked]

    return [
        create, create_with, broken_off, closed, stream, final, raw, lines, completion, answer, answer_stream,
        answer_final, acreate, abroken_off, astream, aanswer, task_cancelled, refused, arefused, answer_refused,
        error_event, cut, answer_cut,
    ]  # fmt: skip


def google_ways(client: Any, aclient: Any) -> list[Callable[[], Any]]:
    """The same of the Google Gen AI SDK's, whose streams are generators."""
    ask = {"model": "some-model", "contents": "hi"}

    def play(what: str) -> dict[str, Any]:
        return {"config": {"http_options": {"headers": {"otelstream-play": f"text_short; {what}"}}}}

    def text(chunk: Any) -> Any:
        return type(chunk).__name__, chunk.text, str(chunk.candidates[0].finish_reason)

    def create() -> Any:
        return [text(chunk) for chunk in client.models.generate_content_stream(**ask)]

    def chat() -> Any:
        return [text(chunk) for chunk in client.chats.create(model="some-model").send_message_stream("hi")]

    def broken_off() -> Any:
        for chunk in client.models.generate_content_stream(**ask):
            return text(chunk)
        return None

    def closed() -> Any:
        stream = client.models.generate_content_stream(**ask)
        for chunk in stream:
            first = text(chunk)
            break
        stream.close()
        return first

    async def acreate() -> Any:
        return [text(chunk) async for chunk in await aclient.models.generate_content_stream(**ask)]

    def refused() -> Any:
        return list(client.models.generate_content_stream(**ask, **play("http_error=429")))

    def error_event() -> Any:
        return list(client.models.generate_content_stream(**ask, **play("error_after=2")))

    def cut() -> Any:
        return [text(chunk) for chunk in client.models.generate_content_stream(**ask, **play("cut_after=chunks:1"))]

    return [create, chat, broken_off, closed, acreate, refused, error_event, cut]


def google(base_url: str) -> tuple[Any, Any]:
    client = importlib.import_module("google.genai").Client(api_key="unused", http_options={"base_url": base_url})
    return client, client.aio


def botocore_ways(client: Any, _: Any) -> list[Callable[[], Any]]:
    """The same of Bedrock's, for both of its operations."""
    messages = [{"role": "user", "content": [{"text": "hi"}]}]
    body = json.dumps({"anthropic_version": "bedrock-2023-05-31", "max_tokens": 9, "messages": HI})

    played = [""]

    def ordered(params: Any, **_: Any) -> None:
        params["headers"]["otelstream-play"] = f"text_short; {played[0]}"

    client.meta.events.register("before-call", ordered)

    def converse(play: str = "") -> Any:
        played[:] = [play]
        return client.converse_stream(modelId="some-model", messages=messages)["stream"]

    def invoke(play: str = "") -> Any:
        played[:] = [play]
        return client.invoke_model_with_response_stream(modelId="some-model", body=body)["body"]

    def create() -> Any:
        return list(map(str, converse()))

    def invoked() -> Any:
        return list(map(str, invoke()))

    def closed() -> Any:
        stream = converse()
        first = str(next(iter(stream)))
        stream.close()
        return first

    def invoked_closed() -> Any:
        stream = invoke()
        first = str(next(iter(stream)))
        stream.close()
        return first

    def dropped() -> Any:
        return str(next(iter(converse())))

    def refused() -> Any:
        return converse("http_error=429")

    def invoked_refused() -> Any:
        return invoke("http_error=429")

    def error_event() -> Any:
        return list(map(str, converse("error_after=2")))

    def cut() -> Any:
        return list(map(str, converse("cut_after=chunks:1")))

    return [create, invoked, closed, invoked_closed, dropped, refused, invoked_refused, error_event, cut]


def botocore(base_url: str) -> tuple[Any, Any]:
    config = importlib.import_module("botocore.config").Config(retries={"total_max_attempts": 1})
    return importlib.import_module("boto3").client(
        "bedrock-runtime", endpoint_url=base_url, region_name="us-east-1", aws_access_key_id="unused",
        aws_secret_access_key="unused", config=config,
    ), None  # fmt: skip


def litellm_ways(sdk: Any, base_url: str) -> list[Callable[[], Any]]:
    """The same of the router's."""
    ask = {
        "model": "openai/some-model", "messages": HI, "stream": True, "api_base": f"{base_url}/v1", "api_key": "unused",
        "max_retries": 0,
    }  # fmt: skip

    def play(what: str) -> dict[str, Any]:
        return {"extra_headers": {"otelstream-play": f"text_short; {what}"}}

    def text(chunk: Any) -> Any:
        return type(chunk).__name__, chunk.choices[0].delta.content, chunk.choices[0].finish_reason

    def create() -> Any:
        return [text(chunk) for chunk in sdk.completion(**ask)]

    def closed() -> Any:
        stream = sdk.completion(**ask)
        first = text(next(stream))
        stream.close()
        return first

    async def acreate() -> Any:
        return [text(chunk) async for chunk in await sdk.acompletion(**ask)]

    def refused() -> Any:
        return sdk.completion(**ask, **play("http_error=429"))

    def cut() -> Any:
        return [text(chunk) for chunk in sdk.completion(**ask, **play("cut_after=chunks:1"))]

    return [create, closed, acreate, refused, cut]


def litellm(base_url: str) -> tuple[Any, Any]:
    return importlib.import_module("litellm"), base_url


def of_one_make(package: str, sync: str, asynchronous: str) -> Callable[[str], tuple[Any, Any]]:
    def made(base_url: str) -> tuple[Any, Any]:
        sdk = importlib.import_module(package)
        options: dict[str, Any] = {"base_url": base_url, "api_key": "unused", "max_retries": 0}
        return getattr(sdk, sync)(**options), getattr(sdk, asynchronous)(**options)

    return made


# By what is installed: a pair of clients, and ways to read.
SDKS: dict[str, tuple[Callable[[str], tuple[Any, Any]], Callable[[Any, Any], list[Callable[[], Any]]]]] = {
    "anthropic": (of_one_make("anthropic", "Anthropic", "AsyncAnthropic"), anthropic_ways),
    "openai": (of_one_make("openai", "OpenAI", "AsyncOpenAI"), openai_ways),
    "google-genai": (google, google_ways),
    "botocore": (botocore, botocore_ways),
    "litellm": (litellm, litellm_ways),
}


def attributes(span: Any) -> dict[str, str]:
    """What a span says, but for what is ours; each value as text."""
    return {name: repr(value) for name, value in sorted((span.attributes or {}).items()) if "otelstream" not in name}


def main(base_url: str, package: str, order: str) -> None:
    handler = Lines(logging.WARNING)
    handler.lines = []
    logging.getLogger().addHandler(handler)
    set_up(order.split(","))
    for what in order.split(","):
        switch_on(what)
    clients, ways = SDKS[package]
    loop, seen, before = asyncio.new_event_loop(), {}, counted()
    for way in ways(*clients(base_url)):
        SPANS.clear()
        try:
            result = way()
            result = loop.run_until_complete(result) if asyncio.iscoroutine(result) else result
        except Exception as error:
            result = [type(error).__name__, str(error)]
        gc.collect()
        for _ in range(100 if "ours" in order.split(",") else 0):  # a dropped stream is told of by a thread
            if counted() != before:
                break
            time.sleep(0.01)
        spans = [
            {
                "scope": span.instrumentation_scope.name if span.instrumentation_scope else "",
                "name": span.name,
                "outcome": (span.attributes or {}).get("otelstream.stream.outcome"),
                "early": "otelstream.stream.attempts" in (span.attributes or {}),
                "status": span.status.status_code.name,
                "attributes": attributes(span),
            }
            for span in SPANS.get_finished_spans()
        ]
        after = counted()
        seen[way.__name__] = {"result": result, "spans": spans, "records": list((after - before).elements())}
        before = after
    print(json.dumps({"seen": seen, "logged": handler.lines, "sdk": metadata.version(package)}))


def counted() -> Counter[str]:
    """How many streams were counted, by outcome."""
    data, found = READER.get_metrics_data(), Counter[str]()
    for resource in data.resource_metrics if data else ():
        for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
            if metric.name == "otelstream.streams":
                for point in metric.data.data_points:
                    labels: Mapping[str, Any] = point.attributes or {}
                    found[str(labels["otelstream.stream.outcome"])] += int(point.value)  # type: ignore[union-attr]
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
