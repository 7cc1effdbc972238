# SPDX-License-Identifier: Apache-2.0
"""One request of Bedrock's: what it asks, whose results it carries, and when its record begins."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.util.types import AttributeValue

from otelstream import _semconv as s
from otelstream._core.emit.span import call_span, model_span, take
from otelstream._core.process import suppression
from otelstream._core.process.closing import end
from otelstream._core.process.runtime import Runtime
from otelstream._core.record.stream import StreamObservation, clock
from otelstream._core.tools.registry import registry
from otelstream._trouble import trouble
from otelstream.anthropic import _tools as anthropic
from otelstream.bedrock import _converse, _faults, _invoke
from otelstream.bedrock._events import Handle

INVOKE = "InvokeModelWithResponseStream"
STREAMED = frozenset({"ConverseStream", INVOKE})
_NONE: frozenset[str] = frozenset()


class Asked:
    """One request of an application's, whose record begins with its first attempt: below any companion."""

    __slots__ = ("at", "client", "operation", "params", "runtime", "stream")

    def __init__(self, runtime: Runtime, client: Any, operation: str, params: Mapping[str, Any]) -> None:
        self.runtime, self.client, self.operation, self.params = runtime, client, operation, params
        self.at = clock()
        self.stream: StreamObservation | None = None

    def begin(self) -> StreamObservation | None:
        """Begin the record, unless what goes on here is to be left alone."""
        if self.stream is None:
            try:
                self.stream = self._begun()
            except Exception:
                trouble("starting a stream")
        return self.stream

    def _begun(self) -> StreamObservation | None:
        runtime, suppressed = self.runtime, not is_instrumentation_enabled()
        span = model_span() if suppressed else call_span() if runtime.settings.spans != "off" else None
        span = span if span is not None and take(span) else None
        if suppressed and not suppression.observes(runtime, span):
            return None
        invoked = self.operation == INVOKE
        stream = runtime.begin(
            operation="chat",
            provider="aws.bedrock",
            model=str(self.params.get("modelId") or "unknown"),
            grammar=_invoke.Grammar() if invoked else _converse.Grammar(),
            output_tools=forced(self.params),
        )
        # What the SDK did before its first attempt, a look for credentials perhaps, was waited for too.
        earlier = stream.started - self.at
        stream.started, stream.started_ns = self.at, stream.started_ns - int(earlier * 1e9)
        stream.attached = Handle()
        stream.suppressed, stream.foreign = suppressed, span is not None
        runtime.attach_span(stream, _attributes(self.client, self.params), span)
        return stream

    def returned(self, result: Any) -> Any:
        """The call is over; hand on what it returned."""
        stream = self.stream
        try:
            if stream is not None and stream.ending is None:
                if stream.response_at is None:
                    stream.runtime.discard(stream)  # whoever answered in the provider's place did not stream
                else:
                    stream.responded(result["ResponseMetadata"].get("RequestId"))
                    if stream.suppressed:
                        stream.runtime.write_early(stream)
        except Exception:
            trouble("taking in a response")
        return result

    def refused(self, error: BaseException) -> None:
        """The call raised."""
        try:
            if self.stream is not None:
                end(self.stream, _faults.before_stream(self.stream, error))
        except Exception:
            trouble("ending a refused request")


def _body(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """The request's own words: of `invoke_model` its body, as far as anybody can read it."""
    body = params.get("body")
    if body is None:
        return params
    try:
        said = json.loads(body)
    except (TypeError, ValueError):  # a file, or no JSON
        return {}
    return said if isinstance(said, Mapping) else {}


def ran(params: Mapping[str, Any]) -> None:
    """Hear of the tools whose results the request carries."""
    if registry.idle:
        return
    body, now = _body(params), clock()
    for id_, failed in (*_converse.results(body), *anthropic._found(body)):
        call = registry.by_id(id_)
        if call is not None and registry.dispatched(call, "tool_result", now):
            registry.finished(call, "failed" if failed else "committed", now)


def forced(params: Mapping[str, Any]) -> frozenset[str]:
    """The tool that the request forces the model to call."""
    body = params.get("body")
    if body is None:
        configured = params.get("toolConfig")
        choice = configured.get("toolChoice") if isinstance(configured, Mapping) else None
        found = choice.get("tool") if isinstance(choice, Mapping) else None
    else:
        said = body.encode() if isinstance(body, str) else body
        known = isinstance(said, (bytes, bytearray)) and b"tool_choice" in said  # most bodies are not worth a parse
        found = _body(params).get("tool_choice") if known else None
    name = found.get("name") if isinstance(found, Mapping) else None
    return frozenset({name}) if isinstance(name, str) else _NONE


def _attributes(client: Any, params: Mapping[str, Any]) -> dict[str, AttributeValue]:
    """The conventions' request attributes, for samplers to see at creation."""
    settings = params.get("inferenceConfig")
    settings = settings if isinstance(settings, Mapping) else {}
    wanted = {
        s.REQUEST_MAX_TOKENS: settings.get("maxTokens"),
        s.REQUEST_TEMPERATURE: settings.get("temperature"),
        s.REQUEST_TOP_P: settings.get("topP"),
    }
    found: dict[str, AttributeValue] = {
        name: value for name, value in wanted.items() if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    found[s.REQUEST_STREAM] = True
    url = urlsplit(str(client.meta.endpoint_url))
    if url.hostname:
        found[s.SERVER_ADDRESS] = url.hostname
        found[s.SERVER_PORT] = url.port or (80 if url.scheme == "http" else 443)
    return found
