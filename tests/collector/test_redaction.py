# SPDX-License-Identifier: Apache-2.0
"""No content leaves the redaction layer: canaries in every place an instrumentation is known to put content."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes

from otelstream import _semconv as names

from .fleet import CONFIGS, Backend, Collector, otlp_attributes, post_json, wait_until

pytestmark = pytest.mark.usefixtures("binary")

CANARY = "canary-7f3a"
# Where the instrumentations in use put prompts, answers and tool arguments.
CONTENT = [
    # OpenTelemetry conventions, now and before
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.system_instructions",
    "gen_ai.tool.definitions",
    "gen_ai.tool.call.arguments",
    "gen_ai.tool.call.result",
    "gen_ai.tool.description",
    "gen_ai.prompt",
    "gen_ai.completion",
    "gen_ai.request.stop_sequences",
    "gen_ai.agent.description",
    "gen_ai.evaluation.explanation",
    "gen_ai.retrieval.query.text",
    "gen_ai.some.attribute.of.next.year",
    "Gen_AI.Prompt",
    # OpenLLMetry
    "gen_ai.prompt.0.content",
    "gen_ai.completion.0.tool_calls.0.arguments",
    "traceloop.entity.input",
    "traceloop.entity.output",
    "llm.request.functions.0.parameters",
    # OpenInference
    "input.value",
    "output.value",
    "llm.input_messages.0.message.content",
    "llm.output_messages.0.message.tool_calls.0.tool_call.function.arguments",
    "llm.prompts",
    "llm.prompt_template.variables",
    "llm.invocation_parameters",
    "llm.tools.0.tool.json_schema",
    "retrieval.documents.0.document.content",
    "embedding.embeddings.0.embedding.text",
    "tool.parameters",
    # the Anthropic SDK in content mode
    "anthropic.tool_result.content",
    # Vercel AI SDK
    "ai.prompt",
    "ai.prompt.messages",
    "ai.response.text",
    "ai.response.toolCalls",
    "ai.toolCall.args",
    "ai.toolCall.result",
    # Logfire, Pydantic AI, Langfuse, LangSmith, MLflow
    "request_data",
    "response_data",
    "all_messages_events",
    "final_result",
    "tool_arguments",
    "tool_response",
    "pydantic_ai.all_messages",
    "langfuse.observation.input",
    "langfuse.trace.output",
    "langsmith.metadata.input",
    "mlflow.spanInputs",
    # exceptions and HTTP
    "exception.message",
    "exception.stacktrace",
    "http.request.body",
    "http.request.header.x-api-key",
]
KEPT: dict[str, Any] = {
    names.OPERATION: "chat",
    names.PROVIDER: "anthropic",
    names.REQUEST_MODEL: "claude-sonnet-4-5",
    names.RESPONSE_ID: "msg_1",
    names.INPUT_TOKENS: "12",
    names.OUTPUT_TOKENS: "34",
    names.CACHE_READ_TOKENS: "5",
    names.TOOL_NAME: "search",
    names.TOOL_CALL_ID: "toolu_1",
    names.ERROR_TYPE: "overloaded_error",
    names.OUTCOME: "failed",
    names.SUCCEEDED_THEN_FAILED: "true",
    names.TURN_ID: "turn-1",
    "llm.model_name": "claude",
    "llm.token_count.prompt": "12",
    "ai.model.id": "claude",
    "ai.usage.promptTokens": "12",
    "http.response.status_code": "200",
    "db.query.text": "select 1",
}


def content() -> list[dict[str, Any]]:
    made = otlp_attributes({key: f"{CANARY} {key}" for key in CONTENT})
    nested = {"kvlistValue": {"values": otlp_attributes({"content": f"{CANARY} nested"})}}
    made.append({"key": "gen_ai.input.messages.structured", "value": {"arrayValue": {"values": [nested]}}})
    return made


def traces() -> dict[str, Any]:
    now = time.time_ns()
    event = {"timeUnixNano": str(now), "name": "gen_ai.user.message", "attributes": content()}
    span = {
        "traceId": os.urandom(16).hex(),
        "spanId": os.urandom(8).hex(),
        "name": "chat claude-sonnet-4-5",
        "startTimeUnixNano": str(now),
        "endTimeUnixNano": str(now + 10**9),
        "attributes": content() + otlp_attributes(KEPT),
        "events": [event, {"timeUnixNano": str(now), "name": names.EVENT_FIRST_TOKEN, "attributes": []}],
        "status": {"code": 2, "message": f"could not parse {CANARY}"},
    }
    scope = {"scope": {"name": "other", "attributes": content()}, "spans": [span]}
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": content() + otlp_attributes({"service.name": "shop"})},
                "scopeSpans": [scope],
            }
        ]
    }


def logs() -> dict[str, Any]:
    now = str(time.time_ns())
    body = {"kvlistValue": {"values": otlp_attributes({"content": f"{CANARY} body"})}}
    by_name = {"timeUnixNano": now, "eventName": "gen_ai.choice", "body": body, "attributes": content()}
    by_attribute = {
        "timeUnixNano": now,
        "body": {"stringValue": f"{CANARY} text"},
        "attributes": content() + otlp_attributes({"event.name": "gen_ai.user.message"}),
    }
    ours = {
        "timeUnixNano": now,
        "eventName": names.EVENT_STALL,
        "body": {"stringValue": "a stall"},
        "attributes": otlp_attributes({names.STALL_SOURCE: "provider"}),
    }
    records = {"scope": {"attributes": content()}, "logRecords": [by_name, by_attribute, ours]}
    return {"resourceLogs": [{"resource": {"attributes": content()}, "scopeLogs": [records]}]}


def metrics() -> dict[str, Any]:
    now = str(time.time_ns())
    point = {
        "timeUnixNano": now,
        "asInt": "1",
        "attributes": content() + otlp_attributes({names.OUTCOME: "completed"}),
    }
    total = {"dataPoints": [point], "aggregationTemporality": 2, "isMonotonic": True}
    metric = {"name": names.STREAMS.name, "sum": total}
    return {
        "resourceMetrics": [
            {"resource": {"attributes": content()}, "scopeMetrics": [{"metrics": [metric]}]},
        ]
    }


@pytest.mark.parametrize("base", ["agent", "gateway-front"])
def test_no_canary_leaves_and_what_is_no_content_stays(
    base: str, collector: Callable[..., Collector], backend: Backend
) -> None:
    """Attributes, events, bodies and status texts lose their content on every signal; the rest arrives."""
    sampling = collector("gateway-sampling", COLLECTOR_SAMPLE_PERCENT=100)
    redacting = collector(
        base,
        "redaction",
        COLLECTOR_SAMPLING_GATEWAYS=f"[127.0.0.1:{sampling.grpc}]",
        COLLECTOR_FRONT_BATCH_INTERVAL="50ms",
    )
    if base == "gateway-front":
        sampling.start()
    redacting.start()
    backend.keep_bytes = True

    post_json(redacting, "/v1/traces", traces())
    post_json(redacting, "/v1/logs", logs())
    post_json(redacting, "/v1/metrics", metrics())
    wait_until(lambda: backend.span_count and backend.logs and backend.metrics)

    assert not any(CANARY.encode() in seen for seen in backend.bytes_seen)
    [spans] = backend.spans.values()
    [span] = spans.values()
    assert span.attributes == KEPT
    assert span.service == "shop"
    records = [
        record
        for request in backend.logs
        for resource in request.resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
    ]
    ours = [record for record in records if record.event_name == names.EVENT_STALL]
    assert [record.body.string_value for record in ours] == ["a stall"]
    assert [item.key for record in ours for item in record.attributes] == [names.STALL_SOURCE]


def test_without_the_layer_the_canaries_would_have_left(collector: Callable[..., Collector], backend: Backend) -> None:
    """The test above can fail: the bare agent passes everything on."""
    agent = collector("agent").start()
    backend.keep_bytes = True

    post_json(agent, "/v1/traces", traces())
    wait_until(lambda: backend.span_count)

    assert any(CANARY.encode() in seen for seen in backend.bytes_seen)


def test_every_name_of_ours_stays() -> None:
    """The list of what stays has each gen_ai.* name of the telemetry contract, and none that carries content."""
    statements = yaml.safe_load((CONFIGS / "redaction.yaml").read_text())["processors"]
    first = statements["transform/redaction"]["trace_statements"][0]["statements"]
    kept = re.compile(next(one for one in first if one.startswith("keep_matching")).split('"')[3])
    ours = {value for value in vars(names).values() if isinstance(value, str) and value.startswith("gen_ai.")}
    metric_names = {metric.name for metric in names.METRICS}
    conventional = {
        value for key, value in vars(gen_ai_attributes).items() if key.startswith("GEN_AI_") and isinstance(value, str)
    }
    carriers = {
        name
        for name in conventional
        if re.search(
            r"messages|instructions|definitions|arguments|result|\.prompt$|completion$|description|query", name
        )
    }

    assert {name for name in ours - metric_names if not kept.search(name)} == set()
    assert {name for name in carriers if kept.search(name)} == set()
