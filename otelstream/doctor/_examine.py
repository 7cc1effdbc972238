# SPDX-License-Identifier: Apache-2.0
"""Put it together: examine this environment, or what the processes of a program left in a folder."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from otelstream._face import providers
from otelstream._prometheus import shown
from otelstream.doctor import _environment, _gateways, _prometheus, _setup, _streams
from otelstream.doctor._report import FOLDER, Finding, Report

DISTRIBUTION = "otelstream_doctor-0.dist-info"


def environment() -> Report:
    """Examine the environment alone."""
    report = Report()
    facts = _environment.gather()
    report.facts = {"python": facts["python"], "versions": facts["versions"]}
    for check in (*_environment.ALWAYS, *_environment.WITHOUT_PROGRAM):
        report.add(check(facts))
    report.cannot_see(
        "how a program sets OpenTelemetry up, and what its streams do: otelstream doctor CMD... runs it and looks",
        *_gateways.told(_gateways.of_environment()),
    )
    return report


def prometheus(url: str) -> Report:
    """Examine what the Prometheus at *url* stores of the processes that run now."""
    report = Report()
    report.facts = {"prometheus": shown(url)}
    report.add(_prometheus.stored(url))
    return report


def prepare(folder: str) -> dict[str, str]:
    """Ready *folder* for the probes, and return what the program's environment needs besides."""
    entry = Path(folder) / DISTRIBUTION
    entry.mkdir()
    (entry / "METADATA").write_text("Metadata-Version: 2.1\nName: otelstream-doctor\nVersion: 0\n", encoding="utf-8")
    # `opentelemetry-instrument` hides our sitecustomize behind its own, and calls this before all others.
    hook = "[opentelemetry_pre_instrument]\notelstream_doctor = otelstream.doctor._probe:before_instrumentation\n"
    (entry / "entry_points.txt").write_text(hook, encoding="utf-8")
    return {FOLDER: folder}


def program(folder: str, code: int) -> Report:
    """Examine what the processes of a program, which ended with *code*, left in *folder*."""
    report = Report()
    processes = [json.loads(path.read_bytes()) for path in sorted(Path(folder).glob("probe-*.json"))]
    notes = _notes(Path(folder))
    streams = [stream for process in processes for stream in process["streams"]]
    count = sum(process["count"] for process in processes)
    environments = [process["environment"] for process in processes] or [_environment.gather()]
    patched = Counter(who for process in processes for names in process["patched"].values() for who in set(names))
    report.facts = {
        "processes": len(processes),
        "streams": count,
        "exit_code": code,
        "python": environments[0]["python"],
        "versions": environments[0]["versions"],
        "patched_by": dict(sorted(patched.items())),
    }
    for facts in environments:
        for check in _environment.ALWAYS:
            report.add(check(facts))
        if not any(process["started_by"] for process in processes):
            report.add(_environment.disabled(facts))
    report.add(_refused(notes, report))
    off = report.codes & {"switched-off", "setting-wrong", "sdk-missing", "sdk-unsupported", "other-environment"}
    if not off:
        # The parent of prefork workers sets nothing up, and makes no stream.
        busy = [process for process in processes if process["count"] or process["unobserved"]] or processes
        for process in busy:
            for each in _setup.EACH_PROCESS:
                # Without the SDK nothing is set; its absence has been said.
                if "otel-sdk-missing" in report.codes and each in (_setup.tracer_provider, _setup.meter_provider):
                    continue
                report.add(each(process))
            report.cannot_see(*_setup.unseen(process), *_gateways.told(process["gateways"]))
        report.add(_setup.instance_ids(busy))
    if not count and not report.findings:
        report.add([_no_streams(notes, processes)])
    if streams:
        report.points, findings = _streams.audit(streams)
        report.add(findings)
        if count > len(streams):
            report.cannot_see(f"{count - len(streams)} of {count} streams in detail: the newest are judged")
    if code:
        report.cannot_see(f"what else the program would have done: it ended with exit code {code}")
    return report


def _notes(folder: Path) -> dict[str, set[str]]:
    """What the interpreters of the program said of themselves: kind -> texts."""
    notes: dict[str, set[str]] = {}
    for path in sorted(folder.glob("notes-*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            note: dict[str, Any] = json.loads(line)
            notes.setdefault(note["note"], set()).add(note["text"])
    return notes


def _refused(notes: dict[str, set[str]], report: Report) -> list[Finding]:
    found = []
    for text in sorted(notes.get("refused", ())):
        python, _, why = text.partition(": ")
        if "No module named 'otelstream" in why:
            what = f"the program runs under {python}, which has no otelstream: {why}"
            found.append(Finding("other-environment", what, f"{python} -m {_environment.INSTALL}"))
        elif not report.codes & {"setting-wrong", "sdk-unsupported"}:
            found.append(Finding("not-observed", f"otelstream could not start in {python}: {why}", "report this"))
    return found


def _no_streams(notes: dict[str, set[str]], processes: list[dict[str, Any]]) -> Finding:
    if processes:
        what = "the program loaded a provider SDK, but streamed no answer to its end"
        remedy = "let it make one, then stop it; `messages.create()` without stream=True makes none"
    elif "started" in notes:
        packages = ", ".join(provider.package for provider in providers.known())
        what, remedy = f"the program never imported a provider SDK ({packages})", "let it make a stream, then stop it"
    else:
        what = "the program started no Python that reads PYTHONPATH"
        remedy = "leave out the flags -I and -E, or examine the command that starts Python"
    return Finding("no-streams", what, remedy)
