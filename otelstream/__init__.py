# SPDX-License-Identifier: Apache-2.0
"""Tell the truth about streamed LLM answers, in OpenTelemetry."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otelstream._errors import ConfigurationError, OtelstreamError, ToolWithheld, UnsupportedVersionError
    from otelstream._face.actions import client_gone, record_action, record_retraction, record_stop
    from otelstream._face.instrumentor import (
        OtelStreamInstrumentor,
        current_stream,
        get_stream,
        instrument,
        on_repetition,
        on_stream_end,
        open_streams,
        uninstrument,
    )
    from otelstream._face.judges import STOP, judge
    from otelstream._face.tools import tool, tool_call
    from otelstream._face.turns import turn

__all__ = [
    "STOP",
    "ConfigurationError",
    "OtelStreamInstrumentor",
    "OtelstreamError",
    "ToolWithheld",
    "UnsupportedVersionError",
    "client_gone",
    "current_stream",
    "get_stream",
    "instrument",
    "judge",
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

# Imported on first use: every pytest run of an environment that has the plugin imports this package.
_MODULES = {
    "_face.actions": {"client_gone", "record_action", "record_retraction", "record_stop"},
    "_errors": {"ConfigurationError", "OtelstreamError", "ToolWithheld", "UnsupportedVersionError"},
    "_face.judges": {"STOP", "judge"},
    "_face.tools": {"tool", "tool_call"},
    "_face.turns": {"turn"},
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = next((module for module, names in _MODULES.items() if name in names), "_face.instrumentor")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
