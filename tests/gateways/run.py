# SPDX-License-Identifier: Apache-2.0
"""Probe real gateways as they come and as right as they can be: `make gateways`.

What is found goes to docs/gateways.json, and from there into the table of docs/gateways.md. A gateway that is not
installed keeps what was found of it before, or says how to get it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateways.gateways import GATEWAYS, ROOT, Gateway, Place, found
from otelstream.probe._bench import Bench, ProbeError, Settings
from otelstream.probe._checks import checks_http2
from otelstream.probe._client import Target
from otelstream.probe._report import HTTP2, VERDICTS, Report
from otelstream.probe._run import run

RESULTS = ROOT / "docs" / "gateways.json"
PAGE = ROOT / "docs" / "gateways.md"
BEGIN, END = "<!-- gateways: made by make gateways -->", "<!-- to here -->"
SILENCES = (70.0, 130.0, 330.0)
IDLE = Settings(idle=SILENCES, only=frozenset({"idle"}), repeats=1)
PATIENCE = 120.0  # seconds; LiteLLM's first answer takes half a minute
LIMIT = 900
WAYS = ("default", "right")
Found = dict[str, Any]


def _free() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def standing(gateway: Gateway, right: bool, settings: Settings) -> Iterator[tuple[Bench, Place]]:
    """A gateway in front of our upstream, and nothing of it afterwards."""
    bench = Bench(Target("http://127.0.0.1:1"), settings)
    bench.start()
    with tempfile.TemporaryDirectory(prefix="gateway-") as folder:
        place = Place(Path(folder), _free(), bench.sim.port, _free(), right)
        command = gateway.start(place)
        folder_of = {
            "HOME": folder,
            "XDG_DATA_HOME": folder,
            "NODE_PATH": str(ROOT / "build/gateways/node/node_modules"),
        }
        own = {"PORT": str(place.port), "UPSTREAM": f"http://{place.upstream}", **({"RIGHT": "1"} if right else {})}
        own["ANTHROPIC_API_BASE"] = own["UPSTREAM"]
        kept = {key: os.environ[key] for key in ("GOCACHE", "GOPATH", "GOMODCACHE", "GOFLAGS") if key in os.environ}
        kept.setdefault("GOCACHE", str(ROOT / "build" / "gateways" / "go"))
        running = subprocess.Popen(
            [found(command[0]) or command[0], *command[1:]],
            env={"PATH": os.environ["PATH"], **kept, **folder_of, **own, **gateway.environment},
            stdout=(log := (place.folder / "said").open("wb")), stderr=log, start_new_session=True,
        )  # fmt: skip
        headers = tuple((name, value.replace("@UPSTREAM", place.upstream)) for name, value in gateway.headers)
        bench.gateway = Target(f"http://127.0.0.1:{place.port}{gateway.base}", headers)
        try:
            yield bench, place
        finally:
            bench.stop()
            os.killpg(running.pid, signal.SIGTERM)
            try:
                running.wait(5)
            except subprocess.TimeoutExpired:
                pass
            try:
                os.killpg(running.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            running.wait()
            log.close()
            if os.environ.get("GATEWAYS_LOG"):
                sys.stderr.write((place.folder / "said").read_text(errors="replace")[-4000:])


def one(gateway: Gateway, right: bool, idle: bool) -> Found:
    """What is said of one gateway by one configuration."""
    settings = replace(IDLE if idle else Settings(), route=gateway.route, model=gateway.model)
    with standing(gateway, right, settings) as (bench, place):
        try:
            result: Found = {"checks": _checks(run(bench, PATIENCE))}
        except ProbeError as error:
            return {"failed": re.sub(r"^http://127\.0\.0\.1:\d+\S*?:? ", "", str(error)).split(": {")[0]}
        if gateway.http2 and right and not idle:
            port = place.http2_port if gateway.name == "nginx" else place.port
            codes = {code.removeprefix(HTTP2) for check in checks_http2(settings) for code in check.judges}
            other = bench.over_http2()
            other.gateway = replace(other.gateway, url=f"http://127.0.0.1:{port}")
            other.settings = replace(settings, only=frozenset(codes))
            try:
                result["http2"] = _checks(run(other, 10))
            except ProbeError as error:
                result["http2"] = {}
                print(error, file=sys.stderr)
        return result


def _checks(report: Report) -> dict[str, list[str]]:
    return {
        result.code: [result.verdict, result.measured] for result in report.results if result.code != "http-version"
    }


def apart(gateway: Gateway, right: bool, idle: bool) -> Found:
    """The same in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "gateways.run",
        "--one",
        gateway.name,
        *(["--right"] * right),
        *(["--idle"] * idle),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"not over after {LIMIT} s"}
    print(f"{gateway.name}, {WAYS[right]}{', silences' if idle else ''}: done {done.stderr[-300:]}", flush=True)
    for line in done.stdout.splitlines():
        if line.startswith("found: "):
            return dict(json.loads(line.removeprefix("found: ")))
    return {"failed": (done.stderr.strip().splitlines() or ["it said nothing"])[-1]}


def version(gateway: Gateway) -> str | None:
    """What it says of its version; None where it is not installed."""
    program = found(gateway.version[0])
    if program is None:
        return None
    done = subprocess.run([program, *gateway.version[1:]], capture_output=True, text=True, check=False, timeout=60)
    told = done.stdout + done.stderr
    numbers = re.findall(r"(?<![\w.])(?:v|go)?(\d+\.\d+[\d.]*)|/(\d+\.\d+\.\d+)", told)
    if done.returncode or not numbers:
        return None
    if "metadata" not in gateway.version[-1]:
        return next(filter(None, numbers[0]))
    return ", ".join(" ".join(pair) for pair in re.findall(r"([a-z]+) (\S+)", told))


def measure(gateways: list[Gateway], before: Found) -> Found:
    """Probe them, two at a time; then their silences, in which nothing happens, all at once."""
    results: Found = {}
    jobs = []
    for gateway in gateways:
        number = version(gateway)
        if number is None:
            results[gateway.name] = before.get(gateway.name) or {"failed": f"it was not installed: {gateway.get}"}
            continue
        results[gateway.name] = {"version": number}
        jobs += [(gateway, right) for right in ([False, True] if gateway.says else [False])]
    for idle, workers in ((True, len(jobs) or 1), (False, 2)):
        with ThreadPoolExecutor(workers) as pool:
            found = pool.map(lambda job: apart(job[0], job[1], idle), jobs)  # noqa: B023
            for (gateway, right), result in zip(jobs, found, strict=True):
                had = results[gateway.name].setdefault(WAYS[right], {})
                if "checks" in result and "checks" in had:
                    result["checks"] |= had["checks"]
                had.update(result)
                if not idle and "checks" in result:
                    had.pop("failed", None)
    return results


def said(result: Found | None, checks: str = "checks") -> str:
    """A cell: everything that is not kept."""
    if result is None or "failed" in result:
        return f"not probed: {result['failed']}".replace("|", "\\|") if result else ""
    found: dict[str, list[str]] = {}
    for code, (verdict, _) in result[checks].items():
        found.setdefault(verdict, []).append(code)
    loud = ("hidden", "lost", "retried")
    parts = [
        f"{f'**{verdict}**' if verdict in loud else verdict} {_joined(found[verdict])}"
        for verdict in sorted(found, key=[*loud, *VERDICTS].index)
        if verdict != "kept"
    ]
    return "; ".join(parts) or "all kept"


def _joined(codes: list[str]) -> str:
    """Codes; of a limit only the least that was beyond it."""
    kept = []
    for code in sorted(codes, key=lambda each: (each.rpartition("-")[0], _size(each))):
        group = family(code)
        if group != code and any(family(each) == group for each in kept):
            continue
        kept.append(code)
    return ", ".join(f"`{code}`" for code in sorted(kept, key=codes.index))


def family(code: str) -> str:
    """A code without the number that follows the last dash."""
    group, _, size = code.rpartition("-")
    return group if size[:1].isdigit() and group in {"body", "idle", "total"} else code


def _size(code: str) -> float:
    try:
        return float(code.rpartition("-")[2])
    except ValueError:
        return 0.0


def table(results: Found) -> str:
    """The table of docs/gateways.md."""
    lines = [
        "| gateway | version | by default | made right by | then | then, over HTTP/2 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for gateway in GATEWAYS:
        result = results[gateway.name]
        if "failed" in result:
            lines.append(f"| {gateway.name} | | {result['failed']} | | | |")
            continue
        right = result.get("right")
        cells = [
            result["version"],
            said(result["default"]),
            gateway.says,
            said(right),
            said(right, "http2") if right and right.get("http2") else "",
        ]
        lines.append(" | ".join([f"| {gateway.name}", *cells]) + " |")
    return "\n".join(lines)


def page_with(results: Found) -> str:
    """The page, with this table."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n{table(results)}\n{END}{rest.partition(END)[2]}"


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--right", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--idle", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--only", action="append", default=[], help="a gateway, by its name")
    parser.add_argument("--docs", action="store_true", help="write docs/gateways.json and the table")
    arguments = parser.parse_args()
    if arguments.one:
        gateway = next(each for each in GATEWAYS if each.name == arguments.one)
        print("found: " + json.dumps(one(gateway, arguments.right, arguments.idle)))
        return 0
    before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    wanted = [each for each in GATEWAYS if not arguments.only or each.name in arguments.only]
    results = {**before, **measure(wanted, before)}
    if arguments.docs:
        results = {each.name: results[each.name] for each in GATEWAYS}
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        PAGE.write_text(page_with(results), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
