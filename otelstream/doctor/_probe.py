# SPDX-License-Identifier: Apache-2.0
"""Runs inside the examined program: watches, and leaves its facts as JSON in a folder. Never raises into it."""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
import time
from collections import deque
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import wrapt

from otelstream._core.process import nesting
from otelstream._core.record.stream import StreamObservation
from otelstream._face import instrumentor as _instrumentor
from otelstream._face import providers
from otelstream._face.view import StreamView
from otelstream._trouble import trouble
from otelstream.doctor import _environment, _gateways, _process
from otelstream.doctor._report import FOLDER
from otelstream.doctor._spans import SpanWatch, watch_providers

KEPT = 256  # streams with their details; beyond, only counted
_EVERY = 0.25  # seconds between two looks while streams end
_probes: list[Probe] = []


def attach(folder: str, *, started_by: str = "") -> None:
    """Start watching this process, once; where otelstream is to be on and is not, `doctor` switches it on."""
    if not _probes:
        _probes.append(Probe(folder, started_by))


def before_instrumentation() -> None:
    """Start watching: what `opentelemetry-instrument` calls before it loads any instrumentation."""
    try:
        attach(os.environ[FOLDER])
    except Exception:
        trouble("starting the doctor's probe")


class Probe:
    """The watch over one process, and over each it forks."""

    def __init__(self, folder: str, started_by: str) -> None:
        self._folder = Path(folder)
        self.spans = SpanWatch()
        self.started_by = "" if started_by == "doctor" else started_by
        if started_by == "doctor":
            _instrumentor.instrument()
        self._reset()
        self._watch_starts()
        self._watch_requests()
        self._watch_reads()
        watch_providers(self.spans)
        _instrumentor.listen(self._ended)
        atexit.register(self.write)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._written = 0.0
        self._count = 0
        self._streams: deque[tuple[StreamObservation, str | None]] = deque(maxlen=KEPT)  # with its span's scope
        self._asked: set[int] = set()  # streams of which the application read how they ended
        self._timeouts: set[float | None] = set()
        self._gateways: set[str] = set()
        self._unobserved = 0
        self.spans.restart()

    # --- what the program does ----------------------------------------------------------------------------

    def _watch_starts(self) -> None:
        def instrument(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
            zero_code = "skip_dep_check" in kwargs
            result = wrapped(*args, **kwargs)
            if _instrumentor.OtelStreamInstrumentor().runtime is not None:
                self.started_by = self.started_by or ("opentelemetry-instrument" if zero_code else "program")
            return result

        cls = _instrumentor.OtelStreamInstrumentor
        cls.instrument = wrapt.FunctionWrapper(cls.instrument, instrument)  # type: ignore[method-assign]

    def _watch_requests(self) -> None:
        for provider in providers.installed():
            # The program may never import it, and then it is not imported for us.
            wrapt.register_post_import_hook(partial(self._watch_requests_of, provider), provider.used)

    def _watch_requests_of(self, provider: providers.Provider, _: Any) -> None:
        try:
            base: Any = import_module(f"{provider.package}._base_client")
        except ImportError:  # an SDK of another make
            return

        def build(client: Any, *args: Any, **kwargs: Any) -> Any:
            request = base.BaseClient._build_request(client, *args, **kwargs)
            try:
                options = args[0] if args else kwargs.get("options")
                body = getattr(options, "json_data", None)
                path = request.url.path
                if isinstance(body, dict) and body.get("stream") is True and path.endswith(provider.beside.paths):
                    self._timeouts.add(request.extensions.get("timeout", {}).get("read"))
                    self._unobserved += nesting.current() is None
                    self._gateways.update(filter(None, [_gateways.elsewhere(str(client.base_url), provider.provider)]))
            except Exception:
                trouble("examining a request")
            return request

        # Not on the class that has it, where the adapter's wrapper is put on and taken off by identity.
        base.SyncAPIClient._build_request = build
        base.AsyncAPIClient._build_request = build

    def _watch_reads(self) -> None:
        for name in ("partial", "outcome"):
            original = vars(StreamView)[name]

            def read(view: StreamView, original: Any = original) -> Any:
                stream = view._stream
                if stream is not None and stream.ending is not None:
                    self._asked.add(id(stream))
                return original.__get__(view)

            setattr(StreamView, name, property(read, doc=original.__doc__))

    def _ended(self, stream: StreamObservation) -> None:
        with self._lock:
            self._count += 1
            scope = getattr(getattr(stream.span, "instrumentation_scope", None), "name", None)
            self._streams.append((stream, scope))  # a record sheds its span
            due = time.monotonic() - self._written > _EVERY
            if due:
                self._written = time.monotonic()
        if due:
            self.write()

    # --- what is left of it -------------------------------------------------------------------------------

    def write(self) -> None:
        """Leave the facts so far; called often, as a killed process has no last word."""
        try:
            runtime = _instrumentor.OtelStreamInstrumentor().runtime
            facts = {
                "process": os.getpid(),
                "program": " ".join(sys.argv[:2]),
                "started_by": self.started_by,
                "environment": _environment.gather(),
                "count": self._count,
                "streams": [self._of(stream, scope) for stream, scope in list(self._streams)],
                "timeouts": sorted(value for value in self._timeouts if value is not None),
                "gateways": sorted(self._gateways),
                "unobserved": self._unobserved,
                "callbacks": len(_instrumentor._ended) > 1,
                "spans": self.spans.facts(),
                **_process.gather(runtime),
            }
            path = self._folder / f"probe-{os.getpid()}.json"
            temporary = path.with_suffix(".new")
            temporary.write_text(json.dumps(facts, default=str), encoding="utf-8")
            temporary.replace(path)
        except Exception:
            trouble("writing the doctor's facts")

    def _of(self, stream: StreamObservation, scope: str | None) -> dict[str, Any]:
        cancel, ending = stream.cancel, stream.ending
        return {
            "model": stream.model,
            "outcome": stream.outcome,
            "phase": stream.phase,
            "visible_chars": stream.visible_chars,
            "time_to_first_token": stream.time_to_first_token,
            "partial": stream.partial,
            "asked": id(stream) in self._asked,
            "acted": len(stream.actions),
            "propagation": cancel.propagation if cancel else None,
            "trigger": cancel.trigger if cancel else (ending.trigger if ending else None),
            "close_delay": cancel.close_delay if cancel else None,
            "spans": self.spans.beside(stream, scope),
            "sampled": _sampled(stream),
            "tools": [
                {
                    "name": call.name,
                    "effect": call.effect,
                    "phase": call.phase,
                    "state": call.state,
                    "input": call.input,
                    "evidence": call.evidence,
                    "guessed": call.guessed,
                }
                for call in stream.all_tool_calls()
            ],
        }


def _sampled(stream: StreamObservation) -> bool | None:
    return None if stream.span is None else bool(stream.span.get_span_context().trace_flags.sampled)
