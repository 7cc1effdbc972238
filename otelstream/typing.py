# SPDX-License-Identifier: Apache-2.0
"""The public types, for annotations."""

from otelstream._call import ToolCall
from otelstream._cancel import Ledger
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
from otelstream._turn import Turn
from otelstream._view import StreamView

__all__ = [
    "CancelAt",
    "DispatchPhase",
    "Effect",
    "Evidence",
    "Fault",
    "Ledger",
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
    "Turn",
]
