# SPDX-License-Identifier: Apache-2.0
"""What a Prometheus stores of otelstream's metrics now: do rules and panels find the names they ask for."""

from __future__ import annotations

from collections.abc import Iterator

from otelstream import _semconv as s
from otelstream._prometheus import ask, shown
from otelstream.doctor._report import Finding

_OTLP = "/api/v1/otlp"  # where a Prometheus takes OTLP in
_START, _HISTOGRAM = s.START_TIME.prometheus, s.STREAM_TTFT.prometheus
# One series a process and one a model: cheap in any Prometheus. The dot stands for the underscore too.
QUERY = f'group by (__name__, job) ({{__name__=~"{s.START_TIME.name}(_seconds)?|{_HISTOGRAM}(_count)?"}})'


def stored(address: str) -> Iterator[Finding]:
    """Ask the Prometheus at *address*; that nothing is stored there is a finding as well."""
    url = shown(address)
    try:
        series = _series(address)
    except (OSError, ValueError, LookupError, TypeError) as error:
        why = getattr(error, "reason", None) or str(error) or type(error).__name__
        yield Finding(
            "prometheus-unreachable",
            f"{url} does not answer as a Prometheus does: {why}",
            "give its base address, as http://localhost:9090 (VictoriaMetrics: port 8428)",
        )
        return
    yield from _wrong(url, series)
    if not series:
        yield Finding(
            "not-stored",
            f"{url} has no {_START} now: no process sends it metrics, or it does not store them",
            "a process has it from instrument() on: look at the scrape's target, or at the exporter's endpoint",
        )


def taken_in(endpoint: str | None) -> Iterator[Finding]:
    """Ask the Prometheus that takes OTLP at *endpoint*, where it is one; that it cannot be asked is said elsewhere."""
    base, found, _ = (endpoint or "").partition(_OTLP)
    if found:
        try:
            yield from _wrong(shown(base), _series(base))
        except (OSError, ValueError, LookupError, TypeError):
            return


def _series(address: str) -> set[tuple[str, str]]:
    """The names that are there, each with its job."""
    found = [each["metric"] for each in ask(address, QUERY)]
    return {(labels["__name__"], labels.get("job", "")) for labels in found}


def _wrong(url: str, series: set[tuple[str, str]]) -> Iterator[Finding]:
    names = {name for name, _ in series}
    for name in sorted(names - {_START, _HISTOGRAM, f"{_HISTOGRAM}_count"}):
        yield Finding(
            "names-untranslated",
            f"{url} stores {name}: every rule and panel asks for {_START}, and finds nothing",
            "Prometheus: otlp: translation_strategy: UnderscoreEscapingWithSuffixes (the default); VictoriaMetrics: "
            "-opentelemetry.usePrometheusNaming",
        )
    if (_START, "") in series:
        yield Finding(
            "no-job",
            f"{url} stores {_START} without the label job: rules and panels select and count by it",
            "scrape, or make it of service_name as it comes in: VictoriaMetrics, -relabelConfig; instance likewise",
        )
    if _HISTOGRAM in names and f"{_HISTOGRAM}_count" not in names:
        yield Finding(
            "histograms-native",
            f"{url} stores {_HISTOGRAM} as a native histogram: the panels read classic buckets, and find none",
            "leave convert_classic_histograms_to_nhcb and convert_histograms_to_nhcb off",
        )
