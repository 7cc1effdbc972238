# SPDX-License-Identifier: Apache-2.0
"""Tell the truth about streamed LLM answers, in OpenTelemetry."""

from otelstream._errors import ConfigurationError, OtelstreamError, UnsupportedVersionError
from otelstream._instrumentor import (
    OtelStreamInstrumentor,
    get_stream,
    instrument,
    on_repetition,
    on_stream_end,
    open_streams,
    uninstrument,
)

__all__ = [
    "ConfigurationError",
    "OtelStreamInstrumentor",
    "OtelstreamError",
    "UnsupportedVersionError",
    "get_stream",
    "instrument",
    "on_repetition",
    "on_stream_end",
    "open_streams",
    "uninstrument",
]
