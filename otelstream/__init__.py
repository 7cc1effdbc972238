# SPDX-License-Identifier: Apache-2.0
"""Tell the truth about streamed LLM answers, in OpenTelemetry."""

from otelstream._actions import record_action, record_retraction, record_stop
from otelstream._errors import ConfigurationError, OtelstreamError, ToolWithheld, UnsupportedVersionError
from otelstream._instrumentor import (
    OtelStreamInstrumentor,
    current_stream,
    get_stream,
    instrument,
    on_repetition,
    on_stream_end,
    open_streams,
    uninstrument,
)
from otelstream._tools import tool, tool_call
from otelstream._turn import turn

__all__ = [
    "ConfigurationError",
    "OtelStreamInstrumentor",
    "OtelstreamError",
    "ToolWithheld",
    "UnsupportedVersionError",
    "current_stream",
    "get_stream",
    "instrument",
    "on_repetition",
    "on_stream_end",
    "open_streams",
    "record_action",
    "record_retraction",
    "record_stop",
    "tool",
    "tool_call",
    "turn",
    "uninstrument",
]
