# SPDX-License-Identifier: Apache-2.0
"""Run agent frameworks against the local provider, and say what otelstream saw: `make frameworks`.

Each case runs in a process of its own, twice: an agent whose tool runs, and one that is left in the midst of its answer
after `record_stop()`. What is found goes to docs/frameworks.json, and from there into the table of docs/frameworks.md.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import inspect
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "frameworks.json"
PAGE = ROOT / "docs" / "frameworks.md"
BEGIN, END = "<!-- made by make frameworks -->", "<!-- to here -->"
SECONDS = 90
LETTERS = 9_000  # of the answer that is left: three seconds of it


def observe(name: str) -> dict[str, Any]:
    """Both runs of one case, in this process."""
    for key in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY"):
        os.environ[key] = "none"
    import otelstream
    from frameworks.cases import CASES
    from otelstream.testing import ProviderSimulator, Recorder, Schedule, Script, prose
    from otelstream.testing._redirect import redirected

    case = CASES[name]
    schema = name == "Instructor"

    def run(leave: Any, over: Callable[[], bool] = lambda: True) -> None:
        """Run the case; what it leaves behind goes on, as in a server, until that is `over`."""
        if inspect.iscoroutinefunction(case.run):
            asyncio.run(_served(case.run(leave), over))
        else:
            case.run(leave)
            for waits in _patience(over):
                time.sleep(waits)

    with ProviderSimulator() as provider, redirected(provider.base_url):
        if schema:
            provider.play(Script().tool_use("Answer", {"city": "Oslo"}))
        else:
            provider.play(Script().tool_use("get_weather", {"city": "Oslo"}))
            provider.play(Script().text("Calm."))
            provider.play(Script().tool_use("final_answer", {"answer": "Calm."}))
        with Recorder() as recorder, otelstream.turn("whole") as turn:
            run(lambda: False)
            streamed = [exchange for exchange in provider.log if exchange.request.stream]
            recorder.wait_for(len(streamed))
            calls = [call for call in turn.tool_calls if call.name == "get_weather"]
            found: dict[str, Any] = {
                "requests": len(streamed),
                "unstreamed": len(provider.log) - len(streamed),
                "records": len(recorder.streams),
                "counted": turn.unstreamed,
                "outcomes": sorted({str(stream.outcome) for stream in recorder.streams}),
                "tool": None if schema else (calls[0].evidence or "not seen") if calls else "no call",
            }

    with ProviderSimulator() as provider, redirected(provider.base_url):
        answer = {"city": prose(LETTERS)}
        script = Script().tool_use("Answer", answer, chunk=30) if schema else Script().text(prose(LETTERS), chunk=30)
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


def run_all(only: list[str]) -> dict[str, Any]:
    """Each case in its process; one that does not run says why, in a word."""
    from frameworks.cases import CASES

    results: dict[str, Any] = {}
    for name in only or CASES:
        command = [sys.executable, __file__, "--one", name]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "tests"), str(ROOT)))}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=SECONDS, check=False, env=environment
            )
            line = next((line for line in done.stdout.splitlines() if line.startswith("found: ")), None)
            said = (done.stderr.strip().splitlines() or [""])[-1]
            results[name] = json.loads(line.removeprefix("found: ")) if line else {"failed": said[:120]}
        except subprocess.TimeoutExpired:
            results[name] = {"failed": f"not done within {SECONDS} s"}
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


def table(results: dict[str, Any]) -> str:
    """The table of docs/frameworks.md."""
    from frameworks.cases import CASES

    lines = [
        "| framework | version | one record a streamed request | its tool, undeclared | left by | the Stop |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in results.items():
        if "failed" in found:
            lines.append(f"| {name} | | was not run | | | |")
            continue
        version = ", ".join(f"{package} {number}" for package, number in found["versions"].items())
        one = found["records"] == found["requests"] > 0
        records = (
            f"yes, {found['records']} of {found['requests']}"
            if one
            else f"**{found['records']} of {found['requests']}**"
        )
        if found["unstreamed"]:
            records += f"; {found['unstreamed']} not streamed"
        tool = "a schema, no tool" if found["tool"] is None else f"`{found['tool']}`"
        stop = _STOPS.get(found["stop"]["propagation"], found["stop"]["propagation"])
        lines.append(f"| {name} | {version} | {records} | {tool} | {CASES[name].leaves_by} | {stop} |")
    return "\n".join(lines)


def page_with(results: dict[str, Any]) -> str:
    """The page, with this table."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{table(results)}\n{END}{rest.partition(END)[2]}"


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
