# SPDX-License-Identifier: Apache-2.0
"""Seven streams of the Anthropic SDK that traces itself, no otelstream: `python native.py OTLP_ENDPOINT`.

Ends with 77 where the installed SDK has no tracing of its own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys

import anthropic
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from otelstream.testing import ProviderSimulator


def main() -> int:
    if importlib.util.find_spec("anthropic._tracing") is None:
        print(f"anthropic {anthropic.__version__} does not trace itself")
        return 77
    tracers = TracerProvider(resource=Resource.create({"service.name": "native"}))
    tracers.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{sys.argv[1]}/v1/traces")))
    trace.set_tracer_provider(tracers)
    with ProviderSimulator() as simulator:
        for fault in (
            *[None] * 4,
            simulator.error_after(chunks=3),
            simulator.cut_after(chunks=3),
            simulator.http_error(529),
        ):
            simulator.play("text_long", fault=fault)
            client = anthropic.Anthropic(base_url=simulator.base_url, api_key="any", max_retries=0)
            with contextlib.suppress(Exception), client:
                for _ in client.messages.create(
                    model="claude-sonnet-4-5",
                    max_tokens=100,
                    messages=[{"role": "user", "content": "hello"}],
                    stream=True,
                ):
                    pass
    tracers.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
