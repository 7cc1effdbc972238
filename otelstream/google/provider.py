# SPDX-License-Identifier: Apache-2.0
"""The Google Gen AI SDK as this adapter knows it: its versions, its clients, and what may be found beside it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from otelstream._core.process.hooks import Patches
from otelstream._core.process.provider import Adapter, Beside

_BESIDE = Beside(
    peers={
        "opentelemetry-instrumentation-google-genai": "google-genai",
        "opentelemetry-instrumentation-genai-google-genai": "google-genai",
        "openinference-instrumentation-google-genai": "google-genai",
        "opentelemetry-instrumentation-google-generativeai": "google-generativeai",
    },
    capturing={
        "openinference-instrumentation-google-genai": {
            "OPENINFERENCE_HIDE_INPUTS": "true",
            "OPENINFERENCE_HIDE_OUTPUTS": "true",
        },
    },
    calls=(
        (
            "google.genai.models",
            ("Models.generate_content_stream", "AsyncModels.generate_content_stream"),
        ),
    ),
    paths=(":streamGenerateContent",),
    patience="genai.Client(http_options={'timeout': 60_000})",
)


class Google(Adapter):
    """The SDK that speaks to Gemini and to Vertex."""

    __slots__ = ()
    package = "google.genai"
    distribution = "google-genai"
    supported = ((2, 0), (4, 0))
    provider = "gcp.gemini"
    clients = ("Client",)
    beside = _BESIDE

    def patches(self) -> Patches:
        """What attaches to it; its own modules are read with the SDK's."""
        made: Patches = import_module("otelstream.google._attach").Patches()
        return made

    def observed(self, thing: object) -> Any:
        """The record of a response of the SDK's own; None for anything else. Its streams are plain generators."""
        return import_module("otelstream.google._attach").observed(thing)


PROVIDER = Google()
