# SPDX-License-Identifier: Apache-2.0
"""What the doctor says: findings with stable codes, the six points, and what cannot be seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

FOLDER: Final = "_OTELSTREAM_PROBE"  # the variable that tells a program's processes where to leave facts; no setting

# Stable: scripts and the documentation refer to them.
CODES: Final[Mapping[str, str]] = {
    "sdk-missing": "no provider SDK is installed",
    "sdk-unsupported": "the provider SDK is of a version that otelstream does not observe",
    "otel-sdk-missing": "the OpenTelemetry SDK is not installed, so nothing can be exported",
    "version-conflict": "an installed package is outside the range that otelstream needs",
    "other-environment": "the program runs in a Python environment that has no otelstream",
    "switched-off": "an environment variable switches telemetry off",
    "not-switched-on": "nothing in the program switches otelstream on",
    "setting-wrong": "a setting of otelstream has a value that is not allowed, or a name that is none",
    "not-observed": "otelstream could not observe, or did not see, a streamed request",
    "suppressed": "another instrumentation suppresses otelstream's below its spans",
    "patch-lost": "somebody replaced a function of the provider SDK that otelstream had wrapped",
    "no-streams": "the program made no stream that could be seen",
    "no-tracer-provider": "no tracer provider is set: spans go nowhere",
    "no-span-exporter": "the tracer provider has no processor: spans are made and dropped",
    "no-meter-provider": "no meter provider is set: metrics go nowhere",
    "no-metric-reader": "the meter provider has no reader: metrics are made and dropped",
    "exporter-missing": "an exporter is asked for that no installed package provides",
    "exporter-unreachable": "nothing listens where an exporter sends to",
    "prometheus-unreachable": "what was named as a Prometheus does not answer as one",
    "not-stored": "the Prometheus that was named has nothing of otelstream's now",
    "names-untranslated": "a Prometheus keeps dots in the names, or leaves suffixes out: no rule or panel finds them",
    "no-job": "a Prometheus stores series without the label job, by which rules and panels select",
    "histograms-native": "a Prometheus stores native histograms, which no panel reads",
    "double-spans": "one call gets more than one span",
    "content-captured": "prompts or answers leave the process by somebody else's telemetry",
    "span-limits": "span limits are too low for the record of a stream",
    "histogram-bounds": "a histogram has no bound at the threshold of an objective",
    "sampling": "head sampling drops failed streams before anybody knows that they failed",
    "service-name": "the resource has no service.name",
    "instance-id": "several processes export as one service instance",
    "client-timeout": "the provider client waits ten minutes for a silent stream",
    "first-token": "a stream with output has no measured first token",
    "half-formed": "something acted on output that never became whole",
    "tool-too-early": "a tool ran before its input was complete",
    "cancel-path": "a stop did not reach the provider at once",
    "side-effects": "a side effect is undeclared, or stands though its answer was cut or stopped",
}

Verdict = Literal["yes", "no", "unseen"]
UNSEEN: Final = "cannot be seen from here: "


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: what, and the remedy, a line each."""

    code: str
    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Point:
    """One of the six points: whether the streams that were made hold to it."""

    name: str
    verdict: Verdict
    says: str


@dataclass(slots=True)
class Report:
    """Everything the doctor found."""

    findings: list[Finding] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, findings: Iterable[Finding]) -> None:
        """Add findings, each once: several processes often say the same."""
        for finding in findings:
            if finding.code not in CODES:
                raise AssertionError(f"{finding.code} is no code")
            if finding not in self.findings:
                self.findings.append(finding)

    def cannot_see(self, *what: str) -> None:
        self.unseen.extend(each for each in what if each not in self.unseen)

    @property
    def codes(self) -> set[str]:
        return {finding.code for finding in self.findings}

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """The report for people."""
        found = len(self.findings)
        lines = [f"{found or 'nothing'} found{self._scope()}"]
        for finding in self.findings:
            lines += ["", f"{finding.code}: {finding.what}", f"    remedy: {finding.remedy}"]
        if self.points:
            width = max(len(point.name) for point in self.points)
            lines += ["", "six points, of the streams that were made:"]
            for point in self.points:
                said = UNSEEN + point.says if point.verdict == "unseen" else f"{point.verdict}, {point.says}"
                lines.append(f"  {point.name:{width}}  {said}")
        if self.unseen:
            lines += ["", UNSEEN.strip()]
            lines += [f"  {each}" for each in self.unseen]
        return lines

    def _scope(self) -> str:
        processes, streams = self.facts.get("processes"), self.facts.get("streams")
        if "prometheus" in self.facts:
            return f" in {self.facts['prometheus']}"
        if processes is None:
            return " in this environment"
        return f" in {_count(processes, 'process', 'processes')}, {_count(streams, 'stream', 'streams')}"


def _count(number: Any, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
