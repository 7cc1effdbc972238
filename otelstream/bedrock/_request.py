# SPDX-License-Identifier: Apache-2.0
"""One request of Bedrock's: what it asks, whose results it carries, and when its record begins."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.trace import Span
from opentelemetry.util.types import AttributeValue

from otelstream._core.emit.span import take
from otelstream._core.process import request as asking
from otelstream._core.process.closing import end
from otelstream._core.process.runtime import Runtime
from otelstream._core.record.stream import StreamObservation, clock
from otelstream._core.tools.registry import registry
from otelstream._stainless import results
from otelstream._stainless.sdk import request_attributes
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
        return asking.begin(
            self.runtime,
            Handle(),
            _attributes(self.client, self.params),
            asked_at=self.at,  # what the SDK did before its first attempt, a look for credentials perhaps, counts too
            late_span=_said_late,
            operation="chat",
            provider="aws.bedrock",
            model=str(self.params.get("modelId") or "unknown"),
            grammar=_invoke.Grammar() if self.operation == INVOKE else _converse.Grammar(),
            output_tools=forced(self.params),
        )

    def returned(self, result: Any) -> Any:
        """The call is over; hand on what it returned."""
        stream = self.stream
        try:
            if stream is not None and stream.ending is None:
                if stream.response_at is None:
                    stream.runtime.discard(stream)  # whoever answered in the provider's place did not stream
                else:
                    asking.responded(stream, result["ResponseMetadata"].get("RequestId"))
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


def _said_late() -> Span | None:
    """The current span, if it is that of OpenInference's which says no sooner than at its end that it is a model's."""
    span = trace.get_current_span()
    late = span.is_recording() and getattr(span, "name", "") == "bedrock.invoke_model_with_response_stream"
    return span if late and take(span) else None


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
    if not registry.idle:
        body = _body(params)
        results.ran((*_converse.results(body), *anthropic._found(body)))


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
    wishes = {"max_tokens": settings.get("maxTokens"), "temperature": settings.get("temperature")}
    url = urlsplit(str(client.meta.endpoint_url))
    base = SimpleNamespace(host=url.hostname, port=url.port, scheme=url.scheme)
    return request_attributes(SimpleNamespace(base_url=base), {**wishes, "top_p": settings.get("topP")})
