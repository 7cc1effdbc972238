# SPDX-License-Identifier: Apache-2.0
"""Checks on how telemetry is set up in the processes of a program: one function a check, over the probe's facts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from otelstream._face import providers
from otelstream.doctor import _environment, _prometheus
from otelstream.doctor._environment import INSTALL
from otelstream.doctor._report import Finding

Facts = Mapping[str, Any]

SDK_TIMEOUT = 600.0  # seconds the SDKs wait for the next byte unless told otherwise


def switched_on(process: Facts) -> Iterator[Finding]:
    """Whether the program switches otelstream on by itself."""
    if not process["started_by"] and process["on"]:
        yield Finding(
            "not-switched-on",
            "the program does not switch otelstream on; it is on now because the doctor did it",
            "start it with opentelemetry-instrument, or call otelstream.instrument()",
        )


def patches(process: Facts) -> Iterator[Finding]:
    """Whether our wrappers are still where we put them, and saw every request."""
    if not process["on"]:
        return
    for name, who in sorted(process["patched"].items()):
        if name.endswith(".request") and "otelstream" not in who:
            by = f" by {who[0]}" if who else ""
            yield Finding(
                "patch-lost",
                f"{name} was replaced{by}, and with it the wrapper of otelstream",
                "switch otelstream on after whoever replaces it, or let that one wrap instead",
            )


def observed(process: Facts) -> Iterator[Finding]:
    """Whether streamed requests were sent past us."""
    if process["unobserved"] and process["on"] and not any(True for _ in patches(process)):
        yield Finding(
            "not-observed",
            f"{process['unobserved']} streamed requests were sent unobserved",
            "look for suppress_instrumentation() around them, and for requests before otelstream was switched on",
        )


def suppressed(process: Facts) -> Iterator[Finding]:
    """Whether a companion suppresses ours below its own spans."""
    for who in process["suppressed_by"]:
        if who:
            yield Finding(
                "suppressed",
                f"{who} suppresses instrumentation: of its streams there are no spans, events, logs and "
                "gen_ai.client.* metrics of otelstream's",
                "let it not, as Logfire's instrument_openai() and instrument_anthropic() with "
                "suppress_other_instrumentation=False, and switch otelstream on before it",
            )


def tracer_provider(process: Facts) -> Iterator[Finding]:
    traces = process["traces"] or {}
    if traces.get("set") is False:
        yield Finding(
            "no-tracer-provider",
            f"no tracer provider is set (it is a {traces['provider']}): spans go nowhere",
            f"{INSTALL} and start with opentelemetry-instrument, or call trace.set_tracer_provider()",
        )
    elif traces.get("set") and traces.get("processors") == []:
        yield Finding(
            "no-span-exporter",
            "the tracer provider has no span processor: spans are made and dropped",
            "provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))",
        )


def meter_provider(process: Facts) -> Iterator[Finding]:
    metrics = process["metrics"] or {}
    if metrics.get("set") is False:
        yield Finding(
            "no-meter-provider",
            f"no meter provider is set ({metrics['provider']}): metrics, objectives and alerts have no data",
            f"{INSTALL} and start with opentelemetry-instrument, or call metrics.set_meter_provider()",
        )
    elif metrics.get("set") and metrics.get("readers") == []:
        yield Finding(
            "no-metric-reader",
            "the meter provider has no reader: metrics are made and dropped",
            "MeterProvider(metric_readers=[PeriodicExportingMetricReader(OTLPMetricExporter())])",
        )


def endpoints(process: Facts) -> Iterator[Finding]:
    """Whether somebody listens where the exporters send to."""
    sending = [*((process["traces"] or {}).get("processors") or ()), *((process["metrics"] or {}).get("readers") or ())]
    for endpoint in dict.fromkeys(each["endpoint"] for each in sending if each["endpoint"]):
        yield from _environment.unreachable(endpoint)
        yield from _prometheus.taken_in(endpoint)


def span_limits(process: Facts) -> Iterator[Finding]:
    yield from _environment.low_limits((process["traces"] or {}).get("limits") or {})


def sampling(process: Facts) -> Iterator[Finding]:
    sampler = (process["traces"] or {}).get("sampler") or {}
    if sampler.get("keeps") is not None and sampler["keeps"] < 1:
        yield _environment.dropped(sampler["keeps"])


def histograms(process: Facts) -> Iterator[Finding]:
    for found in (process["metrics"] or {}).get("histograms") or ():
        if not found["missing"]:
            continue
        bounds = ", ".join(f"{value:g}" for value in found["missing"])
        how = "kept exponentially" if "Exponential" in found["kept"] else f"kept as {found['kept'].strip('_')}"
        yield Finding(
            "histogram-bounds",
            f"{found['name']} is {how} without a bound at {bounds} s, the threshold of an objective",
            "remove the view or the default aggregation that changes it: otelstream gives its bounds as advice",
        )


def service_name(process: Facts) -> Iterator[Finding]:
    for signal in ("traces", "metrics"):
        facts = process[signal] or {}
        name = facts.get("resource", {}).get("service.name", "unknown_service")
        if facts.get("set") and name.startswith("unknown_service"):
            yield Finding(
                "service-name",
                "the resource has no service.name: every dashboard shows unknown_service",
                "set OTEL_SERVICE_NAME",
            )
            return


def double_spans(process: Facts) -> Iterator[Finding]:
    packages = " or ".join(provider.package for provider in providers.known())
    switches = " or ".join(f"{p.beside.native_switch}=false" for p in providers.known() if p.beside.native_switch)
    scopes: dict[tuple[str, ...], int] = {}
    for stream in process["streams"]:
        if len(stream["spans"]) > 1:
            scopes[tuple(stream["spans"])] = scopes.get(tuple(stream["spans"]), 0) + 1
    for who, count in scopes.items():
        yield Finding(
            "double-spans",
            f"{count} of {len(process['streams'])} streams got a span from each of: {', '.join(who)}",
            f"keep one: uninstall the others, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS={packages}, or {switches}",
        )


def content(process: Facts) -> Iterator[Finding]:
    modes = [provider.beside.native_content for provider in providers.known() if provider.beside.native_content]
    for scope, names in process["spans"]["content"].items():
        yield Finding(
            "content-captured",
            f"spans of {scope} carry prompts or answers ({', '.join(names[:3])})",
            "switch its capture of content off (TRACELOOP_TRACE_CONTENT=false, OPENINFERENCE_HIDE_INPUTS=true, "
            f"{' or '.join(modes)} unset), or redact: otelstream collector redaction",
        )


def client_timeout(process: Facts) -> Iterator[Finding]:
    ways = [provider.beside.patience for provider in providers.known() if provider.beside.patience]
    if any(value >= SDK_TIMEOUT for value in process["timeouts"]):
        yield Finding(
            "client-timeout",
            "a provider client waits 600 s for the next byte, as is the SDK's default: a dead stream is ten minutes",
            f"{' or '.join(ways)}: the read time-out counts from byte to byte",
        )


def instance_ids(processes: Sequence[Facts]) -> Iterator[Finding]:
    """Whether several processes export under one identity, so that their counters overwrite each other."""
    known: dict[str, list[int]] = {}
    for process in processes:
        facts = next((each for each in (process["metrics"], process["traces"]) if each and each.get("set")), None)
        if facts is not None:
            known.setdefault(facts["resource"].get("service.instance.id", ""), []).append(process["process"])
    for id_, who in known.items():
        if len(who) > 1:
            said = f"the service.instance.id {id_}" if id_ else "no service.instance.id"
            yield Finding(
                "instance-id",
                f"{len(who)} processes export with {said}: their counters overwrite each other",
                "give each worker its own after it starts, never one for all in OTEL_RESOURCE_ATTRIBUTES",
            )


EACH_PROCESS = (
    switched_on, patches, observed, suppressed, tracer_provider, meter_provider, endpoints, span_limits, sampling,
    histograms, service_name, double_spans, content, client_timeout,
)  # fmt: skip


def unseen(process: Facts) -> Iterator[str]:
    """What these facts leave open."""
    traces, metrics = process["traces"] or {}, process["metrics"] or {}
    if traces.get("set") is None:
        yield f"where spans go: {traces.get('provider', 'the tracer provider')} is not the OpenTelemetry SDK's"
    for processor in traces.get("processors") or ():
        if processor["exporter"] is None:
            yield f"where the span processor {processor['name']} sends to"
    sampler = traces.get("sampler")
    if traces.get("set") and (sampler is None or sampler["keeps"] is None):
        yield f"what the sampler {(sampler or {}).get('name', '')} drops".replace("  ", " ")
    if traces.get("set") and traces.get("limits") is None:
        yield "the span limits"
    if metrics.get("set") is None:
        yield f"where metrics go: {metrics.get('provider', 'the meter provider')} is not the OpenTelemetry SDK's"
    elif metrics.get("set") and not metrics.get("histograms") and process["count"]:
        yield "how histograms are kept"
