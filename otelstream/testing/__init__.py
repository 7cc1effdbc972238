# SPDX-License-Identifier: Apache-2.0
"""What tests of streaming code need: a local provider, its faults, and a recorder of what otelstream said."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otelstream.testing._bundled import loop, script, script_names
    from otelstream.testing._events import Event, ScriptError
    from otelstream.testing._exchange import Exchange, Request, Write
    from otelstream.testing._faults import Fault, Faults
    from otelstream.testing._prose import prose
    from otelstream.testing._recorder import RecordedStream, Recorder
    from otelstream.testing._schedule import Schedule
    from otelstream.testing._scripts import Script
    from otelstream.testing._simulator import ProviderSimulator, SimulatorError

__all__ = [
    "Event",
    "Exchange",
    "Fault",
    "Faults",
    "ProviderSimulator",
    "RecordedStream",
    "Recorder",
    "Request",
    "Schedule",
    "Script",
    "ScriptError",
    "SimulatorError",
    "Write",
    "loop",
    "prose",
    "script",
    "script_names",
]

# Imported on first use, so that the installed plugin costs nothing where it is not used.
_MODULES = {
    "_bundled": {"loop", "script", "script_names"},
    "_events": {"Event", "ScriptError"},
    "_exchange": {"Exchange", "Request", "Write"},
    "_faults": {"Fault", "Faults"},
    "_prose": {"prose"},
    "_recorder": {"RecordedStream", "Recorder"},
    "_schedule": {"Schedule"},
    "_scripts": {"Script"},
    "_simulator": {"ProviderSimulator", "SimulatorError"},
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
