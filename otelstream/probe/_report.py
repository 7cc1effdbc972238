# SPDX-License-Identifier: Apache-2.0
"""What the probe says: a verdict for each check, in lines, JSON and Markdown, and against an earlier run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, get_args

Verdict = Literal["kept", "changed", "late", "lost", "hidden", "invented", "retried", "unseen", "inconclusive"]
VERDICTS: Final[tuple[str, ...]] = get_args(Verdict)
FAILING: Final = frozenset({"lost", "hidden", "retried"})
_RANK: Final = {"kept": 0, "changed": 1, "late": 1, "invented": 1, "lost": 2, "hidden": 2, "retried": 2}

HTTP2: Final = "http2-"  # before the codes of what is measured over HTTP/2, too

# Stable: scripts, baselines and the documentation refer to them. A number of a user's own follows the last dash.
CODES: Final[Mapping[str, str]] = {
    "cadence": "each event arrives when it was sent",
    "headers-early": "status and headers arrive before the first event",
    "pings": "pings of the provider arrive",
    "pings-invented": "no pings come while the provider is silent",
    "error-event": "an error after status 200 arrives",
    "cut-fin": "an answer cut by FIN is seen as cut",
    "cut-reset": "an answer cut by RST is seen as cut",
    "early-end": "an answer without its terminal event is not given one",
    "cancel-flowing": "a cancel reaches the provider while text flows",
    "cancel-silent": "a cancel reaches the provider while it is silent",
    "cancel-before-first": "a cancel reaches the provider before the first event",
    "cancel-before-headers": "a cancel reaches the provider before its headers",
    "retries-half-sent": "a half-sent answer is not asked for again",
    "retries-unanswered": "a request cut before its headers is not asked again",
    "retries-429": "a 429 is not asked again",
    "retries-5xx": "a 503 or 529 is not asked again",
    "status": "an error's status arrives",
    "retry-after": "retry-after arrives",
    "tool-fragments": "the input of a tool arrives fragment by fragment",
    "event-1mb": "an event of 1 MB arrives whole",
    "dribble": "an answer in writes of a few bytes arrives whole",
    "line-separators": "U+2028 and U+0085 inside a text change nothing",
    "compression": "an answer is not compressed on the way",
    "compressed-upstream": "a compressed answer arrives, event by event",
    "body": "a request of so many MB passes",
    "traceparent": "traceparent reaches the provider",
    "beta-header": "the provider's beta header reaches it",
    "request-id": "the provider's request id comes back",
    "reuse-after-cut": "the requests after a cut are answered",
    "idle": "a silence of so many seconds is endured",
    "total": "an answer may flow for so many seconds",
    "http2": "the same over HTTP/2, where TLS offers both",
    "well-formed": "each event of the answer is whole",
    "terminal-event": "the answer says that it is complete",
    "http-version": "which HTTP the client gets",
}


# Only an upstream of ours knows what was sent, and what it was told.
UNSEEN: Final = "cannot be seen from here, only by our own upstream (probe it controlled)"


@dataclass(frozen=True)
class Judged:
    """What one check found."""

    verdict: Verdict
    measured: str


@dataclass(frozen=True)
class Result:
    """One check's line."""

    code: str
    verdict: Verdict
    measured: str
    remedy: str = ""

    def line(self, width: int = 21) -> str:
        """It, as the terminal has it."""
        said = f"{self.verdict:12}  {self.code:{width}}  {self.measured}"
        return f"{said}; set: {self.remedy}" if self.remedy else said


@dataclass
class Report:
    """Everything one run found."""

    gateway: str
    server: str = ""  # as the gateway names itself
    route: str = "messages"
    mode: str = "controlled"
    http: str = "HTTP/1.1"
    repeats: int = 1
    results: list[Result] = field(default_factory=list)

    def failing(self, also: Collection[str] = ()) -> list[Result]:
        """The results that make the exit code 1."""
        return [result for result in self.results if result.verdict in FAILING or result.verdict in also]

    def worse_than(self, baseline: Mapping[str, str]) -> list[Result]:
        """The results that are worse than an earlier run's; what either could not see says nothing."""
        return [
            result
            for result in self.results
            if result.verdict in _RANK
            and (before := baseline.get(result.code, "kept")) in _RANK
            and _RANK[result.verdict] > _RANK[before]
        ]

    def as_dict(self) -> dict[str, Any]:
        """It, as JSON has it."""
        shown = {key: value for key, value in vars(self).items() if key != "results"}
        return {"version": 1, **shown, "checks": [asdict(result) for result in self.results]}

    def lines(self) -> Iterable[str]:
        """A line for each check, under one for the run; what cannot be seen from here shares one."""
        named = f" ({self.server})" if self.server else ""
        runs = f"{self.repeats} run{'s' if self.repeats != 1 else ''} each"
        if self.mode == "live":
            runs = f"{self.repeats} request{'s' if self.repeats != 1 else ''}"
        yield f"{self.gateway}{named}: {self.mode}, {self.route} over {self.http}, {runs}"
        hidden = [result.code for result in self.results if result.measured == UNSEEN]
        shown = [result for result in self.results if result.measured != UNSEEN]
        width = max((len(result.code) for result in shown), default=0)
        for result in shown:
            yield f"  {result.line(width)}"
        if hidden:
            yield f"  {'unseen':12}  {UNSEEN}: {', '.join(hidden)}"
        count = {verdict: sum(result.verdict == verdict for result in self.results) for verdict in VERDICTS}
        yield ", ".join(f"{number} {verdict}" for verdict, number in count.items() if number)

    def markdown(self) -> Iterable[str]:
        """A table for a pull request or a page."""
        yield f"### `{self.gateway}`{f', {self.server}' if self.server else ''}, {self.route}, {self.mode}"
        yield ""
        yield "| check | verdict | measured | set |"
        yield "| --- | --- | --- | --- |"
        for result in self.results:
            verdict = result.verdict if result.verdict == "kept" else f"**{result.verdict}**"
            cells = (f"`{result.code}`", verdict, result.measured, result.remedy)
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def read_baseline(found: Any) -> dict[str, str]:
    """The verdicts of a run that was kept as JSON; ValueError where it is none."""
    try:
        read = {str(check["code"]): str(check["verdict"]) for check in found["checks"]}
    except (KeyError, TypeError, IndexError):
        raise ValueError("no report of a probe") from None
    if wrong := sorted(set(read.values()) - set(VERDICTS)):
        raise ValueError(f"no verdict {wrong[0]!r}")
    return read
