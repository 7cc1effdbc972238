# SPDX-License-Identifier: Apache-2.0
"""Found first on PYTHONPATH by what `otelstream run` and `otelstream doctor` start: watches for a provider SDK."""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

PROVIDERS = os.environ.get("_OTELSTREAM_PROVIDERS", "").split(",")


def _chain() -> None:
    """Import the sitecustomize that this one hides, as the interpreter would have."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or os.curdir) != here]
    ours = sys.modules.pop("sitecustomize", None)
    try:
        importlib.import_module("sitecustomize")
    except ModuleNotFoundError as error:
        if error.name != "sitecustomize":
            raise
        if ours is not None:
            sys.modules["sitecustomize"] = ours


class _Finder:
    """Sees the import of a provider SDK; until then nothing of ours is loaded."""

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in PROVIDERS:
            return None
        # Ours stays where it is: other threads may be walking the list.
        others = (finder for finder in list(sys.meta_path) if finder is not cls and hasattr(finder, "find_spec"))
        spec: Any = next((found for finder in others if (found := finder.find_spec(name, path, target))), None)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader:
    """The real loader, with a step after it."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _observe(module.__name__)


def _observe(name: str) -> None:
    try:
        import otelstream

        by_program = _in_progress() or otelstream.OtelStreamInstrumentor().runtime is not None
        if _probed:
            from otelstream.doctor import _probe

            _probe.attach(_folder, started_by="program" if by_program else "doctor")
        elif not by_program:
            otelstream.instrument()
        _say("observed", name)
    except Exception as error:
        # A program runs on as it would without us; whoever started it is told.
        _say("refused", f"{sys.executable}: {type(error).__name__}: {error}")


def _in_progress() -> bool:
    """Whether the program is switching it on right now, and so imports the SDK: twice on, it would count twice."""
    frame = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__") != "otelstream._face.instrumentor":
        frame = frame.f_back  # type: ignore[assignment]
    return frame is not None


def _say(kind: str, text: str = "") -> None:
    line = json.dumps({"note": kind, "text": text, "process": os.getpid()})
    try:
        with open(os.path.join(_folder, f"notes-{os.getpid()}.jsonl"), "a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError:
        pass


_probed = os.environ.get("_OTELSTREAM_PROBE", "")
_folder = _probed or os.environ.get("OTELSTREAM_VIEW", "").removeprefix("spool:")
if os.path.isdir(_folder):
    _say("started")
    sys.meta_path.insert(0, _Finder)
_chain()
