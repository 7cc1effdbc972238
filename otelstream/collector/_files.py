# SPDX-License-Identifier: Apache-2.0
"""The Collector configurations, with what follows from the objectives: how long a trace is held, at what cost."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from otelstream._core.record.objectives import BUNDLED_OBJECTIVES, Objectives

# Resident set for each trace held, and at rest, of the gateway on two cores: benchmarks/collector.py.
KIB_A_TRACE: Final = 19
MIB_AT_REST: Final = 60
EXPORT_DELAY: Final = 30  # seconds from a span's end to the gateway: the SDK's batch, the agent's, a retry
TRACES_A_SECOND: Final = 100

CONFIGURATIONS: Final = {
    "agent": ("beside the applications of a host: OTLP in, a queue on disk, out", ("agent.yaml",)),
    "gateway-front": ("hands each trace, whole, to one sampling gateway", ("gateway-front.yaml",)),
    "gateway-sampling": ("keeps every stream worth looking at, and a share", ("gateway-sampling.yaml",)),
    "span-to-metrics": ("layer: metrics from the SDK's native spans", ("span-to-metrics.yaml",)),
    "redaction": ("layer: no prompt and no answer leaves the host", ("redaction.yaml",)),
    "env": ("all of them on one machine: an environment file for each", ("env",)),
    "builder": ("manifest and script that build the Collector", ("builder.yaml", "build.sh")),
    "compose": ("everything and Grafana on one machine with Docker", ("compose.yaml", "compose")),
    "kubernetes": ("agents, gateways and scaling, by kustomize", ("kustomization.yaml", "kubernetes")),
}
# Those that mount or name others bring them along.
_MOUNTED: Final = ("agent", "gateway-front", "gateway-sampling")
BRINGS: Final = {"compose": _MOUNTED, "kubernetes": _MOUNTED, "env": _MOUNTED}


def folder() -> Path:
    """Where the configurations are: inside the wheel, or in the repository of a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_data" / "collector"
    return installed if installed.is_dir() else package.parent / "collector"


@dataclass(frozen=True, slots=True)
class Holding:
    """How long a trace is held, how many are, what that takes, and the sentence that says why."""

    seconds: int
    why: str
    traces_a_second: int = TRACES_A_SECOND

    @property
    def traces(self) -> int:
        return self.seconds * self.traces_a_second

    @property
    def mib(self) -> int:
        return math.ceil(self.traces * KIB_A_TRACE / 1024)

    @property
    def limit_mib(self) -> int:
        """Twice what is held and at rest, for the garbage of a busy minute; never below 1 GiB."""
        return max(1024, math.ceil(2 * (self.mib + MIB_AT_REST) / 256) * 256)


def holding(objectives: Objectives, traces_a_second: int = TRACES_A_SECOND) -> Holding:
    """Derive how long a trace is held from the completion objectives.

    A threshold promised at 99 % or more is taken for the p99 of a stream. One promised at less is stretched as
    an exponential tail would be. The slowest decides; without a completion objective the bundled one does.
    """
    completion = [item for item in objectives if item.kind == "completion" and item.threshold]
    source = ""
    if not completion:
        completion = [item for item in BUNDLED_OBJECTIVES if item.kind == "completion"]
        source = "no completion objective, so the bundled one: "
    slowest, p99 = max(
        ((item, _p99(item.threshold or 0.0, item.target)) for item in completion), key=lambda pair: pair[1]
    )
    seconds = math.ceil(p99) + EXPORT_DELAY
    stretched = "" if slowest.target >= 0.99 else f", so {p99:.0f} s at 99 % by an exponential tail,"
    why = (
        f"{source}completion threshold {slowest.threshold:g} s at {slowest.target * 100:g} %{stretched} is the p99 "
        f"of a stream; + {EXPORT_DELAY} s of export on the way."
    )
    return Holding(seconds, why, traces_a_second)


def _p99(threshold: float, target: float) -> float:
    return threshold if target >= 0.99 else threshold * math.log(100) / -math.log(1 - target)


def render(text: str, held: Holding) -> str:
    """Put what was derived into a configuration: each `# derived:` comment, and the default in the line below it."""
    values = {
        "COLLECTOR_DECISION_WAIT": (f"{held.seconds}s", held.why),
        "COLLECTOR_NUM_TRACES": (
            str(held.traces),
            f"{held.seconds} s at {held.traces_a_second} new traces a second; {held.mib} MiB, {KIB_A_TRACE} KiB each.",
        ),
        "COLLECTOR_MEMORY_MIB": (str(held.limit_mib), "twice what the traces held take, at least 1024."),
        "COLLECTOR_MEMORY_SPIKE_MIB": (str(held.limit_mib // 4), "a quarter of it."),
    }

    def line(match: re.Match[str]) -> str:
        default, why = values[match["variable"]]
        return f"{match['indent']}# derived: {why}\n{match['setting']}{default}}}"

    return re.sub(r"(?m)^(?P<indent> *)# derived: .*\n(?P<setting>.*\$\{env:(?P<variable>\w+):-)[^}]*\}", line, text)


def files(name: str, held: Holding) -> Iterator[tuple[Path, bytes, bool]]:
    """The files of one configuration: path below the output folder, content, and whether it is a program."""
    root = folder()
    for part in (*(f"{other}.yaml" for other in BRINGS.get(name, ())), *CONFIGURATIONS[name][1]):
        found = root / part
        for file in sorted(found.rglob("*")) if found.is_dir() else [found]:
            if file.is_file() and "__pycache__" not in file.parts:
                content = file.read_bytes()
                if file.suffix == ".yaml":
                    content = render(content.decode("utf-8"), held).encode("utf-8")
                yield file.relative_to(root), content, file.suffix == ".sh"
