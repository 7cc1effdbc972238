# SPDX-License-Identifier: Apache-2.0
"""How telemetry is set up in this process, as plain data: providers, processors, readers, views, and who patched what.

Much of it is private in the OpenTelemetry SDK. What a version keeps elsewhere is None, and is reported as not seen.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

from opentelemetry import metrics, trace

from otelstream import _semconv as s
from otelstream._core.process.runtime import Runtime
from otelstream._face import providers
from otelstream._trouble import trouble

T = TypeVar("T")

_RATIO = re.compile(r"ratio\w*\W+([0-9.]+(?:e-?\d+)?)", re.IGNORECASE)
_ADAPTER = ("SyncAPIClient.request", "AsyncAPIClient.request")


def gather(runtime: Runtime | None) -> dict[str, Any]:
    """Collect the facts. Never raises."""
    return {
        "traces": _try(lambda: _traces(runtime)),
        "metrics": _try(lambda: _metrics(runtime)),
        "patched": _try(_patched) or {},
        "suppressed_by": sorted(runtime.suppressed_by) if runtime is not None else [],
        "on": runtime is not None,
    }


def _try(look: Callable[[], T]) -> T | None:
    try:
        return look()
    except Exception:
        trouble("looking at the set-up")
        return None


def _resource(resource: Any) -> dict[str, str]:
    wanted = ("service.name", "service.instance.id")
    return {name: str(resource.attributes[name]) for name in wanted if name in resource.attributes}


def _traces(runtime: Runtime | None) -> dict[str, Any]:
    provider: Any = runtime.tracer_provider if runtime is not None else None
    if provider is None or type(provider).__module__.startswith("otelstream."):
        provider = cast("Any", trace.get_tracer_provider())
    kind = type(provider).__name__
    if not hasattr(provider, "add_span_processor"):
        proxy = isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider))
        return {"provider": kind, "set": False if proxy else None}
    return {
        "provider": kind,
        "set": True,
        "resource": _try(lambda: _resource(provider.resource)) or {},
        "processors": _try(lambda: [*_processors(provider._active_span_processor)]),
        "sampler": _try(lambda: _sampler(provider.sampler)),
        "limits": _try(lambda: _limits(provider._span_limits)),
    }


def _processors(active: Any) -> Iterator[dict[str, Any]]:
    for processor in active._span_processors:
        if type(processor).__module__.startswith("otelstream."):
            continue  # ToolSpans, and the doctor's own
        if hasattr(processor, "_span_processors"):
            yield from _processors(processor)
            continue
        batch = getattr(processor, "_batch_processor", None)
        exporter = getattr(processor, "span_exporter", None) or getattr(batch, "_exporter", None)
        if type(exporter).__module__.startswith("otelstream."):
            continue  # the local view
        yield {"name": type(processor).__name__, **_exporter(exporter)}


def _exporter(exporter: Any) -> dict[str, Any]:
    endpoint = getattr(exporter, "_endpoint", None)
    return {
        "exporter": type(exporter).__name__ if exporter is not None else None,
        "endpoint": endpoint if isinstance(endpoint, str) else None,
    }


def _sampler(sampler: Any) -> dict[str, Any]:
    """The share that the sampler keeps of traces that begin here; None where that is not for us to say."""
    root = getattr(sampler, "_root", sampler)
    text = root.get_description()
    if text == "AlwaysOffSampler":
        keeps: float | None = 0.0
    elif text == "AlwaysOnSampler":
        keeps = 1.0
    else:
        match = _RATIO.search(text)
        keeps = float(match[1]) if match and type(root).__module__.startswith("opentelemetry.sdk.") else None
    return {"name": type(root).__name__, "keeps": keeps}


def _limits(limits: Any) -> dict[str, int | None]:
    return {
        "events": limits.max_events,
        "attributes": limits.max_span_attributes,
        "of_event": limits.max_event_attributes,
    }


def _metrics(runtime: Runtime | None) -> dict[str, Any]:
    """Follow our own instrument to the provider behind it, wherever that came from."""
    if runtime is None:
        provider: Any = metrics.get_meter_provider()
        consumer = getattr(provider, "_measurement_consumer", None)
    else:
        instrument = runtime.metrics._instruments[s.STREAM_TTFT.name][0]
        instrument = getattr(instrument, "_real_instrument", None) or instrument
        provider, consumer = instrument, getattr(instrument, "_measurement_consumer", None)
    kind = type(provider).__name__
    if consumer is None:
        known = "Proxy" in kind or "NoOp" in kind
        if known:  # of an instrument that waits for a provider the global one's name says more
            kind = type(metrics.get_meter_provider()).__name__
        return {"provider": kind, "set": False if known else None}
    storages = consumer._reader_storages
    return {
        "provider": kind,
        "set": True,
        "resource": _try(lambda: _resource(consumer._sdk_config.resource)) or {},
        "readers": [
            {"name": type(reader).__name__, **_exporter(getattr(reader, "_exporter", None))} for reader in storages
        ],
        "histograms": _try(lambda: [found for storage in storages.values() for found in _histograms(storage, runtime)]),
    }


def _histograms(storage: Any, runtime: Runtime | None) -> Iterator[dict[str, Any]]:
    """How the histograms of the objectives are really kept: known once a stream has been recorded."""
    judged = {metric.name: metric.threshold_kind for metric in s.METRICS if metric.threshold_kind is not None}
    if runtime is None:
        return
    for instrument, matches in dict(storage._instrument_view_instrument_matches).items():
        kind = judged.get(instrument.name)
        if kind is None:
            continue
        thresholds = runtime.settings.objectives.thresholds(kind)
        for match in matches:
            for kept in list(match._attributes_aggregation.values()):
                bounds = getattr(kept, "_boundaries", None)
                yield {
                    "name": instrument.name,
                    "kept": type(kept).__name__,
                    "missing": [value for value in thresholds if bounds is None or value not in bounds],
                }
                break


def _patched() -> dict[str, list[str]]:
    """Who wrapped the functions of the provider SDK: name -> packages, outermost first."""
    found = {}
    for provider in providers.known():
        package = provider.package
        for place, names in (
            (f"{package}._base_client", (*_ADAPTER, "BaseClient._build_request")),
            (f"{package}._streaming", ("Stream.__init__", "AsyncStream.__init__")),
            *provider.beside.calls,
        ):
            for name in names:
                owner, _, function = name.partition(".")
                cls = getattr(sys.modules.get(place), owner, None)
                if cls is not None:
                    label = f"{package} beta.{name}" if ".beta." in place else f"{package} {name}"
                    found[label] = list(_wrappers(vars(cls).get(function), package))
        for name in provider.clients:  # a companion may put a `request` of its own on these
            own = vars(getattr(sys.modules.get(package), name, object)).get("request")
            if own is not None:
                found[f"{package} {name}.request"] = list(_wrappers(own, package))
    return {name: who for name, who in found.items() if who or name.endswith(_ADAPTER)}


def _wrappers(function: Any, package: str) -> Iterator[str]:
    for _ in range(32):
        wrapper = getattr(function, "_self_wrapper", None)
        where = getattr(wrapper if wrapper is not None else function, "__module__", "") or ""
        code = getattr(function, "__code__", None) if wrapper is None else None
        if wrapper is None and code is not None:
            # functools.wraps copies the module's name; the file tells.
            where = getattr(function, "__globals__", {}).get("__name__", where)
        if where and not where.startswith(package):
            yield _package(where)
        function = getattr(function, "__wrapped__", None)
        if function is None:
            return


def _package(module: str) -> str:
    parts = module.split(".")
    deep = parts[0] in ("opentelemetry", "openinference")
    return ".".join(parts[:3]) if deep else parts[0]
