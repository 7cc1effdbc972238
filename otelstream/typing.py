# SPDX-License-Identifier: Apache-2.0
"""The public types, for annotations."""

from otelstream._semconv import (
    CancelAt,
    DispatchPhase,
    Effect,
    Evidence,
    Fault,
    ObjectiveResult,
    Outcome,
    Phase,
    Propagation,
    RetractionReason,
    ToolInput,
    ToolState,
    Trigger,
)
from otelstream._stream import ToolCall
from otelstream._view import StreamView

__all__ = [
    "CancelAt",
    "DispatchPhase",
    "Effect",
    "Evidence",
    "Fault",
    "ObjectiveResult",
    "Outcome",
    "Phase",
    "Propagation",
    "RetractionReason",
    "StreamView",
    "ToolCall",
    "ToolInput",
    "ToolState",
    "Trigger",
]
