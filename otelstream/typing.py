# SPDX-License-Identifier: Apache-2.0
"""The public types, for annotations."""

from otelstream._core.record.call import ToolCall
from otelstream._core.record.cancel import Ledger
from otelstream._core.record.hearing import JudgeReport, Reversal
from otelstream._face.keywords import Settings
from otelstream._face.turns import Turn
from otelstream._face.view import StreamView
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

__all__ = [
    "CancelAt",
    "DispatchPhase",
    "Effect",
    "Evidence",
    "Fault",
    "JudgeReport",
    "Ledger",
    "ObjectiveResult",
    "Outcome",
    "Phase",
    "Propagation",
    "RetractionReason",
    "Reversal",
    "Settings",
    "StreamView",
    "ToolCall",
    "ToolInput",
    "ToolState",
    "Trigger",
    "Turn",
]
