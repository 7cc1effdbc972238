# SPDX-License-Identifier: Apache-2.0
"""Run agent frameworks and the SDKs' clients for the clouds against the local provider: `make frameworks`.

Each case runs in a process of its own, twice: an agent whose tool runs, and one that is left in the midst of its answer
after `record_stop()`. What is found goes to docs/frameworks.json, and from there into the tables of docs/frameworks.md.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import inspect
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "frameworks.json"
PAGE = ROOT / "docs" / "frameworks.md"
BEGIN, END = "<!-- {} made by make frameworks -->", "<!-- to here -->"
# Nothing leaves the machine: what the frameworks would fetch, or tell their makers.
QUIET = {
    "AGNO_TELEMETRY": "false", "ANONYMIZED_TELEMETRY": "false", "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false", "HAYSTACK_TELEMETRY_ENABLED": "False", "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}  # fmt: skip
SECONDS = 200
LETTERS = 9_000  # of the answer that is left: three seconds of it


def observe(name: str) -> dict[str, Any]:
    """Both runs of one case, in this process."""
    os.environ.update(QUIET, ANTHROPIC_API_KEY="none", OPENAI_API_KEY="none")
    _stay_here()
    spans = _traced()
    import otelstream
    from frameworks.cases import CASES
    from otelstream.testing import Recorder, Schedule, Script, prose

    case = CASES[name]

    def run(leave: Any, over: Callable[[], bool] = lambda: True) -> None:
        """Run the case; what it leaves behind goes on, as in a server, until that is `over`."""
        if inspect.iscoroutinefunction(case.run):
            asyncio.run(_served(case.run(leave), over))
        else:
            case.run(leave)
            for waits in _patience(over):
                time.sleep(waits)

    with _provider(case.through) as provider:
        if not case.schema:
            provider.play(Script().tool_use(case.tool, {"city": "Oslo"}))
            provider.play(Script().text("Calm."))
            provider.play(Script().tool_use("final_answer", {"answer": "Calm."}))
        elif case.frame == "%s":
            provider.play(Script().tool_use("Answer", {"city": "Oslo"}))
        else:
            provider.play(Script().text(case.frame % "Calm."))
        with Recorder() as recorder, otelstream.turn("whole") as turn:
            run(lambda: False)
            streamed = [exchange for exchange in provider.log if exchange.request.stream]
            recorder.wait_for(len(streamed) if case.by_sdk else 0)
            calls = [call for call in turn.tool_calls if call.name == case.tool]
            found: dict[str, Any] = {
                "requests": len(streamed),
                "unstreamed": sum(
                    not x.request.stream for x in provider.log if not x.request.path.endswith("count_tokens")
                ),
                "records": len(recorder.streams),
                "counted": turn.unstreamed,
                "outcomes": sorted({str(stream.outcome) for stream in recorder.streams}),
                "tool": None if case.schema else (calls[0].evidence or "not seen") if calls else "no call",
            }
    found["beside"] = _beside(spans.get_finished_spans())

    with _provider(case.through) as provider:
        if case.schema and case.frame == "%s":
            script = Script().tool_use("Answer", {"city": prose(LETTERS)}, chunk=30)
        else:
            script = Script().text(case.frame % prose(LETTERS), chunk=30)
        provider.play(script, schedule=Schedule(gap=0.01))
        with Recorder() as recorder, otelstream.turn("left"):
            pieces = 0

            def leave() -> bool:
                nonlocal pieces
                pieces += 1
                if pieces == 10:
                    otelstream.record_stop("left")
                return pieces >= 10

            run(leave, lambda: bool(recorder.streams))
            if recorder.streams:
                stream = recorder.streams[0]
                propagation = stream.attributes.get("otelstream.cancel.propagation", "none")
                found["stop"] = {"outcome": stream.outcome, "propagation": propagation if pieces >= 10 else "whole"}
            else:
                found["stop"] = {"outcome": "", "propagation": "still_open"}
    found["versions"] = {package: metadata.version(package) for package in case.packages}
    return found


def _stay_here() -> None:
    """Refuse every address that is not this machine's."""
    ask = socket.getaddrinfo

    def here(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in ("127.0.0.1", "localhost", "::1", None):
            raise socket.gaierror(f"{host!r} is not here")
        return ask(host, *args, **kwargs)

    socket.getaddrinfo = here


def _traced() -> Any:
    """The application's own traces, in memory: who else writes there?"""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    spans = InMemorySpanExporter()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(tracers)
    return spans


def _beside(spans: Iterable[Any]) -> dict[str, bool]:
    """Whose spans there are without having been switched on, and whether the record is on one of theirs."""
    found: dict[str, bool] = {}
    for span in spans:
        scope = span.instrumentation_scope.name
        if scope != "otelstream":
            found[scope] = found.get(scope, False) or "otelstream.stream.outcome" in span.attributes
    return dict(sorted(found.items()))


@contextmanager
def _provider(through: bool) -> Iterator[Any]:
    """The local provider, reached by the SDKs' clients whatever base URL they have."""
    from frameworks.clients import platforms
    from otelstream.testing import ProviderSimulator
    from otelstream.testing._redirect import redirected

    with ProviderSimulator() as provider:
        os.environ["PROVIDER"] = provider.base_url
        if not through:
            with redirected(provider.base_url):
                yield provider
        else:
            with platforms(provider.base_url) as address, redirected(address):
                yield provider


def _patience(over: Callable[[], bool]) -> Iterator[float]:
    """Pauses to make until it is over: longer than the answer lasts, then as long again after a collection."""
    for _ in range(2):
        until = time.monotonic() + 6
        while not over() and time.monotonic() < until:
            yield 0.01
        gc.collect()


async def _served(case: Coroutine[Any, Any, None], over: Callable[[], bool]) -> None:
    await case
    for waits in _patience(over):
        await asyncio.sleep(waits)


def python_of(apart: tuple[str, ...]) -> str:
    """The interpreter of a case; an environment of its own is made on first use."""
    if not apart:
        return sys.executable
    folder = ROOT / f".venv-frameworks-{re.sub(r'[^a-z0-9]+', '-', apart[0])}".rstrip("-")
    python = folder / "bin" / "python"
    ready = folder / "ready"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-e", f"{ROOT}[testing]", *apart], check=True)
        ready.touch()
    return str(python)


def run_all(only: list[str]) -> dict[str, Any]:
    """Each case in its process; one that does not run says why, in a word."""
    from frameworks.cases import CASES

    results: dict[str, Any] = {}
    for name in only or CASES:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "tests"), str(ROOT)))}
        try:
            command = [python_of(CASES[name].apart), __file__, "--one", name]
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=SECONDS, check=False, env=environment
            )
            line = next((line for line in done.stdout.splitlines() if line.startswith("found: ")), None)
            said = (done.stderr.strip().splitlines() or [""])[-1]
            results[name] = json.loads(line.removeprefix("found: ")) if line else {"failed": said[:120]}
        except subprocess.TimeoutExpired:
            results[name] = {"failed": f"not done within {SECONDS} s"}
        except subprocess.CalledProcessError:
            results[name] = {"failed": "could not be installed"}
        print(name, json.dumps(results[name]), flush=True)
    return results


def in_order(results: dict[str, Any]) -> dict[str, Any]:
    """As the cases are, without those that are no more."""
    from frameworks.cases import CASES

    return {name: results[name] for name in CASES if name in results}


_STOPS = {
    "closed": "reaches the provider at once",
    "closed_late": "reaches the provider late",
    "closed_by_gc": "only by the garbage collector",
    "drained": "**drained**: read on to the end",
    "still_open": "**does not**: nobody closes the stream",
    "none": "**too late**: it had read all of the answer before it handed this piece out",
    "whole": "the answer comes in too few pieces to leave it",
    "not_needed": "came after the finish reason",
}


def table(what: str, results: dict[str, Any]) -> str:
    """A table of docs/frameworks.md."""
    from frameworks.cases import CASES

    lines = [
        f"| {what} | version | one record a streamed request | its tool, undeclared | left by | the Stop | beside |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in results.items():
        if "failed" in found:
            lines.append(f"| {name} | | was not run: {found['failed']} | | | | |")
            continue
        version = ", ".join(f"{package} {number}" for package, number in found["versions"].items())
        counts = f"{found['records']} of {found['requests']}"
        records = f"yes, {counts}" if found["records"] == found["requests"] > 0 else f"**{counts}**"
        if not CASES[name].by_sdk:
            lines.append(f"| {name} | {version} | **not observed**: it sends its requests without an SDK | | | | |")
            continue
        if found["unstreamed"]:
            records += f"; {found['unstreamed']} not streamed"
        tool = "a schema, no tool" if found["tool"] is None else f"`{found['tool']}`"
        stop = _STOPS.get(found["stop"]["propagation"], found["stop"]["propagation"])
        beside = [f"`{scope}`{' +' if bears else ''}" for scope, bears in found["beside"].items()]
        others = ", ".join(beside) or "nobody"
        lines.append(f"| {name} | {version} | {records} | {tool} | {CASES[name].leaves_by} | {stop} | {others} |")
    return "\n".join(lines)


def page_with(results: dict[str, Any]) -> str:
    """The page, with these tables."""
    from frameworks.clients import CLIENTS

    text = PAGE.read_text(encoding="utf-8")
    for what in ("framework", "client"):
        rows = {name: found for name, found in results.items() if (name in CLIENTS) == (what == "client")}
        begin = BEGIN.format(f"{what}s:")
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{table(what, rows)}\n{END}{rest.partition(END)[2]}"
    return text


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--only", action="append", default=[], help="a case, by its name")
    parser.add_argument("--docs", action="store_true", help="write docs/frameworks.json and the table")
    arguments = parser.parse_args()
    if arguments.one:
        print("\nfound: " + json.dumps(observe(arguments.one)))
        return 0
    results = run_all(arguments.only)
    if arguments.docs:
        before = json.loads(RESULTS.read_text(encoding="utf-8")) if arguments.only else {}
        results = in_order({**before, **results})
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        PAGE.write_text(page_with(results), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
