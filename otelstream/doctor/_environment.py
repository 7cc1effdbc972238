# SPDX-License-Identifier: Apache-2.0
"""What is installed and what the environment says, as plain data, and the checks that need no running program."""

from __future__ import annotations

import difflib
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any
from urllib.parse import urlsplit

from otelstream import _semconv as s
from otelstream._core.process.provider import Provider
from otelstream._face import providers
from otelstream.doctor import _prometheus
from otelstream.doctor._report import Finding

Facts = Mapping[str, Any]

PACKAGES = (
    "otelstream",
    "opentelemetry-api",
    "opentelemetry-sdk",
    "opentelemetry-instrumentation",
    "opentelemetry-semantic-conventions",
    "opentelemetry-distro",
    "opentelemetry-exporter-otlp-proto-grpc",
    "opentelemetry-exporter-otlp-proto-http",
)
# Never the whole environment: OTEL_EXPORTER_OTLP_HEADERS holds credentials.
VARIABLES = (
    "OPENINFERENCE_HIDE_INPUTS",
    "OPENINFERENCE_HIDE_OUTPUTS",
    "OTEL_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT",
    "OTEL_METRICS_EXPORTER",
    "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS",
    "OTEL_SDK_DISABLED",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_TRACES_EXPORTER",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "TRACELOOP_TRACE_CONTENT",
)
ATTRIBUTES_NEEDED = len(s.SPAN_ATTRIBUTES) + 10  # ten more at creation: operation, provider, model, server, parameters
EVENT_ATTRIBUTES_NEEDED = max(len(event.attributes) for event in s.EVENTS) + 2
INSTALL = 'pip install "otelstream[otlp]"'


def gather() -> dict[str, Any]:
    """Collect the facts of the interpreter that runs this. Never raises."""
    return {
        "python": sys.executable,
        "versions": {
            name: version for name in (*PACKAGES, *_sdks_and_peers()) if (version := _version(name)) is not None
        },
        "conflicts": _conflicts(),
        "exporters": {
            signal: sorted({point.name for point in metadata.entry_points(group=f"opentelemetry_{signal}_exporter")})
            for signal in ("traces", "metrics")
        },
        "environ": {name: value for name in (*VARIABLES, *_switches()) if (value := os.environ.get(name, "").strip())},
        "settings": [*_settings()],
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _conflicts() -> list[str]:
    try:
        from packaging.requirements import Requirement

        found = []
        for text in metadata.requires("otelstream") or ():
            requirement = Requirement(text)
            if requirement.marker is not None and not any(
                requirement.marker.evaluate({"extra": extra}) for extra in ("", "otlp")
            ):
                continue
            version = _version(requirement.name)
            if version is not None and not requirement.specifier.contains(version, prereleases=True):
                found.append(f"{requirement.name} {version} is installed, {requirement.specifier} is needed")
        return found
    except Exception:
        return []


def _settings() -> Iterator[str]:
    """What is wrong with otelstream's own variables."""
    from otelstream._errors import ConfigurationError
    from otelstream._face import config as _config

    known = {_config.ENVIRONMENT_PREFIX + name.upper() for name in _config.NAMES}
    for name in sorted(os.environ):
        if name.startswith(_config.ENVIRONMENT_PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, 1)
            _config._misspelt.add(name)  # said here: not in the log once more
            yield f"{name} is no setting" + (f"; {near[0]} is" if near else "")
    try:
        _config.load({})
    except ConfigurationError as error:
        yield str(error)


def _sdks_and_peers() -> Iterator[str]:
    for provider in providers.known():
        yield provider.installs
        yield from provider.beside.peers


def _switches() -> Iterator[str]:
    for provider in providers.known():
        yield from filter(None, (provider.beside.native_switch, provider.beside.native_content))


def _native(facts: Facts) -> Iterator[Provider]:
    """The SDKs of such a version that they trace themselves."""
    for provider in providers.known():
        since = provider.beside.native_since
        parts = facts["versions"].get(provider.installs, "").split(".")[:2]
        if since is not None and all(part.isdigit() for part in parts) and tuple(map(int, parts)) >= since:
            yield provider


# --- always -----------------------------------------------------------------------------------------------


def packages(facts: Facts) -> Iterator[Finding]:
    """What is not installed, or of the wrong version."""
    from otelstream._errors import UnsupportedVersionError

    versions = facts["versions"]
    wanted = {}
    for provider in providers.known():
        low, high = provider.supported
        name = provider.installs
        wanted[name] = f'pip install "{name}>={low[0]}.{low[1]},<{high[0]}"'
        if name in versions:
            version = versions[name]
            try:
                provider.check_version(version)
            except UnsupportedVersionError:
                yield Finding("sdk-unsupported", f"{name} {version} is not observed", wanted[name])
    if not versions.keys() & wanted:
        remedy = "; or ".join(wanted.values())
        yield Finding("sdk-missing", "no provider SDK is installed: there is nothing to observe", remedy)
    if "opentelemetry-sdk" not in versions:
        yield Finding("otel-sdk-missing", "opentelemetry-sdk is not installed: nothing can be exported", INSTALL)
    for conflict in facts["conflicts"]:
        yield Finding("version-conflict", conflict, f"pip install --upgrade otelstream {conflict.split(' ', 1)[0]}")


def settings(facts: Facts) -> Iterator[Finding]:
    """Settings of otelstream in the environment that keep it off, or do nothing."""
    for problem in facts["settings"]:
        yield Finding("setting-wrong", problem, "correct or unset it: with a wrong value otelstream stays off")


def switched_off(facts: Facts) -> Iterator[Finding]:
    """Variables that switch everything off."""
    environ = facts["environ"]
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        yield Finding("switched-off", "OTEL_SDK_DISABLED=true switches off the SDK, and otelstream", "unset it")
    for signal in ("TRACES", "METRICS"):
        if environ.get(f"OTEL_{signal}_EXPORTER", "").lower() == "none":
            name = f"OTEL_{signal}_EXPORTER"
            yield Finding("switched-off", f"{name}=none switches off the export of {signal.lower()}", f"unset {name}")


def disabled(facts: Facts) -> Iterator[Finding]:
    """The variable that makes `opentelemetry-instrument` leave us out."""
    name = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
    words = {word.strip() for word in facts["environ"].get(name, "").split(",")}
    for word in sorted(words & {"otelstream", "*"}):
        yield Finding(
            "switched-off", f"{name} names {word}: opentelemetry-instrument leaves otelstream out", f"take {word} out"
        )


def exporters(facts: Facts) -> Iterator[Finding]:
    """Exporters that are asked for by name and not installed."""
    environ, versions = facts["environ"], facts["versions"]
    for signal in ("traces", "metrics"):
        variable = f"OTEL_{signal.upper()}_EXPORTER"
        value = environ.get(variable, "")
        words = [word.strip() for word in value.split(",") if word.strip()]
        for word in words:
            if word != "none" and word not in facts["exporters"][signal]:
                yield Finding(
                    "exporter-missing",
                    f"{variable}={value}: no installed package provides the exporter {word!r}",
                    INSTALL if word.startswith("otlp") else f"install the exporter, or set {variable}=otlp",
                )
        if not words and "opentelemetry-distro" in versions and "otlp" not in facts["exporters"][signal]:
            yield Finding(
                "exporter-missing",
                f"opentelemetry-instrument would export {signal} by OTLP, and no OTLP exporter is installed",
                INSTALL,
            )


def explicit_content(facts: Facts) -> Iterator[Finding]:
    """Variables that switch on the capture of content in somebody else's telemetry."""
    environ = facts["environ"]
    for provider in _native(facts):
        name = provider.beside.native_content
        if environ.get(name, "").lower() == "content":
            what = f"{name}=content: the SDK's spans carry prompts and answers"
            yield Finding("content-captured", what, f"unset {name}")
    name = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
    value = environ.get(name, "")
    if value.lower() not in ("", "false", "no_content"):
        yield Finding(
            "content-captured", f"{name}={value}: GenAI instrumentations record prompts and answers", f"unset {name}"
        )


def endpoints(facts: Facts) -> Iterator[Finding]:
    """OTLP endpoints that the environment names, and at which nothing listens."""
    environ = facts["environ"]
    for signal in ("traces", "metrics"):
        upper = signal.upper()
        asked = environ.get(f"OTEL_{upper}_EXPORTER", "").startswith("otlp")
        url = environ.get(f"OTEL_EXPORTER_OTLP_{upper}_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
        if not url and asked:
            http = environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc").startswith("http")
            url = f"http://localhost:{4318 if http else 4317}"
        if url:
            yield from unreachable(url)
            if signal == "metrics":
                yield from _prometheus.taken_in(url)


def unreachable(endpoint: str) -> Iterator[Finding]:
    """A finding when nothing accepts a connection at *endpoint* (a URL, or host:port)."""
    parts = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
    try:
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
        if host is None or parts.scheme == "unix":
            return
        socket.create_connection((host, port), timeout=3).close()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        yield Finding(
            "exporter-unreachable",
            f"nothing answers at {parts.hostname}:{parts.port or ''}, where OTLP goes: {why}",
            "start the Collector (otelstream collector --list), or correct OTEL_EXPORTER_OTLP_ENDPOINT",
        )


# --- only where no program is run: what it would do -------------------------------------------------------


def would_double(facts: Facts) -> Iterator[Finding]:
    """Several tracers of the same calls under `opentelemetry-instrument`."""
    environ, versions = facts["environ"], facts["versions"]
    off = {word.strip() for word in environ.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "").split(",")}
    native = {p for p in _native(facts) if environ.get(p.beside.native_switch, "").lower() != "false"}
    for provider in providers.known():
        found = {name: entry for name, entry in provider.beside.peers.items() if name in versions}
        peers = [name for name, entry in found.items() if not off & {entry, "*"}]
        since = ".".join(map(str, provider.beside.native_since or ()))
        tracers = [*([f"the SDK itself ({provider.package} >= {since})"] if provider in native else []), *peers]
        if peers and len(tracers) > 1:
            yield Finding(
                "double-spans",
                f"under opentelemetry-instrument every call gets a span from each of: {', '.join(tracers)}",
                f"keep one: uninstall the others, or set OTEL_PYTHON_DISABLED_INSTRUMENTATIONS={found[peers[0]]}",
            )


def default_content(facts: Facts) -> Iterator[Finding]:
    """Instrumentations that capture content unless told not to."""
    environ, versions = facts["environ"], facts["versions"]
    for provider in providers.known():
        for name, off in provider.beside.capturing.items():
            if name in versions and any(environ.get(variable, "").lower() != value for variable, value in off.items()):
                remedy = "set " + " and ".join(f"{variable}={value}" for variable, value in off.items())
                yield Finding("content-captured", f"{name} records prompts and answers by default", remedy)


def limits(facts: Facts) -> Iterator[Finding]:
    """Span limits of the environment."""
    environ = facts["environ"]

    def number(*names: str) -> int | None:
        value = next((environ[name] for name in names if name in environ), "")
        return int(value) if value.isdigit() else None

    attributes = number("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_COUNT_LIMIT")
    of_event = number("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_COUNT_LIMIT")
    yield from low_limits(
        {"events": number("OTEL_SPAN_EVENT_COUNT_LIMIT"), "attributes": attributes, "of_event": of_event}
    )


def low_limits(found: Mapping[str, int | None]) -> Iterator[Finding]:
    """Limits (None: unknown or none) under what a record needs."""
    for key, needed, what, variable in (
        ("events", s.MAX_EVENTS, "events on a span", "OTEL_SPAN_EVENT_COUNT_LIMIT"),
        ("attributes", ATTRIBUTES_NEEDED, "attributes on a span", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"),
        ("of_event", EVENT_ATTRIBUTES_NEEDED, "attributes on an event", "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT"),
    ):
        limit = found.get(key)
        if limit is not None and limit < needed:
            yield Finding(
                "span-limits",
                f"at most {limit} {what}: the record of a stream has up to {needed}, the oldest are lost",
                f"raise {variable} to {needed} or more (the default is 128)",
            )


def sampling(facts: Facts) -> Iterator[Finding]:
    """The sampler of the environment."""
    name = facts["environ"].get("OTEL_TRACES_SAMPLER", "").lower()
    if name.endswith("always_off"):
        yield dropped(0.0)
    elif name.endswith("traceidratio"):
        try:
            ratio = float(facts["environ"].get("OTEL_TRACES_SAMPLER_ARG", "1"))
        except ValueError:
            return
        if ratio < 1:
            yield dropped(ratio)


def dropped(ratio: float) -> Finding:
    """The finding for a head sampler that keeps *ratio* of all traces."""
    return Finding(
        "sampling",
        f"the head sampler keeps {ratio:.3g} of all traces, and drops failed streams before they fail",
        "sample always and drop in the Collector: OTEL_TRACES_SAMPLER=parentbased_always_on, otelstream collector",
    )


def aggregation(facts: Facts) -> Iterator[Finding]:
    """The default aggregation of the environment."""
    name = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION"
    if "exponential" in facts["environ"].get(name, ""):
        yield Finding(
            "histogram-bounds",
            f"{name} makes every histogram exponential: no bucket ends at an objective's threshold",
            f"unset {name}",
        )


ALWAYS = (packages, settings, switched_off, exporters, explicit_content)
WITHOUT_PROGRAM = (disabled, endpoints, would_double, default_content, limits, sampling, aggregation)
