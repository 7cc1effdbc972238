# SPDX-License-Identifier: Apache-2.0
"""Run an SDK's own tests, from its source distribution, without and with otelstream, and compare each test.

python tests/foreign/run.py [--sdk openai] [--version 1.109.1 --version 3.57.0] [--dir .venv-foreign]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import time
import venv
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
VERSIONS = {
    "anthropic": ("0.79.0", "2.12.0", "2.14.0"),
    "openai": ("1.109.1", "3.57.0"),
    "botocore": ("1.35.36", "1.44.8"),
}
EXTRAS = {"anthropic": "aiohttp,bedrock", "openai": "aiohttp,realtime,datalib", "botocore": ""}
# Its tests of streams, of the client and of what both are made of. Those of single API resources need a mock server.
WANTED = (
    "tests/test_streaming.py", "tests/test_client.py", "tests/test_response.py", "tests/test_legacy_response.py",
    "tests/test_middleware.py", "tests/test_exceptions.py", "tests/test_tracing.py",
    "tests/decoders", "tests/lib/streaming", "tests/lib/tools", "tests/lib/_parse", "tests/lib/sessions",
    "tests/lib/test_refusal_fallback.py", "tests/lib/test_refusal_fallback_streaming.py",
    "tests/lib/test_stainless_helpers.py",
)  # fmt: skip
# They look into the SDK's own span: compared with setting `spans` off, and with our summary on it.
SPANS = ("tests/test_open_telemetry.py",)
_BODY = "a raw response's body is ours to watch, of the body's own kind"
_BROKEN = "a body that the SDK calls read and that is cut: not OK but ERROR, with `error.type` and the response's id"
_CHUNK = "it forbids `gen_ai.response.time_to_first_chunk`, which we add: a block that comes whole is a chunk"
_FINISH = "it forbids `gen_ai.response.finish_reasons`, which we add"
# What may differ, by a part of a test's name, and nothing else; with our summary only those that forbid an attribute.
OFF = {"leave_the_body_of_the_response_alone": _BODY}
AUTO = {
    **OFF,
    "raw_response_whose_events_the_application_reads_itself": _BROKEN,
    "stream_whose_bytes_the_application_reads_itself": _BROKEN,
    "stream_without_a_content_block_delta_has_no_time_to_first_chunk": _CHUNK,
    "test_stop_reason_is_the_one_in_the_response": _FINISH,
}
OPENAI = (
    "tests/test_streaming.py", "tests/test_client.py", "tests/test_response.py", "tests/test_legacy_response.py",
    "tests/test_module_client.py", "tests/test_sse_framing.py", "tests/test_stream_mode.py", "tests/test_httpx2.py",
    "tests/test_httpx2_base.py", "tests/test_retry_after_overflow.py", "tests/decoders", "tests/lib",
)  # fmt: skip
# Of all of AWS: that a client works as before which is wrapped, and asks no model.
BOTOCORE = (
    "tests/unit/test_eventstream.py", "tests/unit/test_parsers.py", "tests/unit/test_client.py",
    "tests/unit/test_endpoint.py", "tests/unit/test_stub.py", "tests/unit/test_hooks.py", "tests/unit/retries",
    "tests/functional/test_stub.py", "tests/functional/test_retry.py", "tests/functional/test_events.py",
)  # fmt: skip
Suite = tuple[str, tuple[str, ...], dict[str, str], dict[str, str]]
SUITES: dict[str, tuple[Suite, ...]] = {
    "anthropic": (
        ("its tests", WANTED, {}, OFF),
        ("those of its span, spans=off", SPANS, {"OTELSTREAM_SPANS": "off"}, OFF),
        ("those of its span, spans=auto", SPANS, {"OTELSTREAM_SPANS": "auto"}, AUTO),
    ),
    "openai": (("its tests", OPENAI, {}, {}),),
    "botocore": (("its tests", BOTOCORE, {"FOREIGN_STREAMS": "none"}, {}),),
}
NEEDS = (
    "respx", "pytest", "pytest-asyncio", "pytest-xdist", "time-machine", "dirty-equals", "inline-snapshot", "rich",
    "http-snapshot[httpx]", "importlib-metadata", "nest-asyncio", "opentelemetry-sdk", "hypothesis", "packaging",
    "jsonschema",
)  # fmt: skip


def environment(root: Path, sdk: str, version: str) -> Path:
    """Make a virtual environment with that SDK, what its tests need, and otelstream; return its Python."""
    home = root / f"{sdk}-{version}" / "venv"
    python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    ready = home / "ready"
    if not ready.exists():
        venv.create(home, with_pip=True, clear=True)
        wanted = [f"{sdk}[{EXTRAS[sdk]}]=={version}", "-e", str(PROJECT), *NEEDS]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
        ready.touch()
    return python


def sources(root: Path, sdk: str, version: str) -> Path:
    """Download and unpack the source distribution; return where its tests are."""
    home = root / f"{sdk}-{version}"
    unpacked = home / f"{sdk}-{version}"
    if not unpacked.exists():
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", sdk,
             "--dest", home, f"{sdk}=={version}"],
            check=True,
        )  # fmt: skip
        with tarfile.open(home / f"{sdk}-{version}.tar.gz") as archive:
            archive.extractall(home, filter="data")
        # Its tests are to test what is installed.
        shutil.rmtree(unpacked / ("src" if (unpacked / "src").exists() else sdk))
    return unpacked


def results(
    python: Path, tests: Path, report: Path, wanted: tuple[str, ...], *, on: bool, settings: dict[str, str]
) -> dict[str, str]:
    """Run the tests; return the outcome of each by its name."""
    if not any((tests / name).exists() for name in wanted):
        return {}
    report.unlink(missing_ok=True)
    command = [
        *(
            python,
            "-m",
            "pytest",
            "-q",
            "-n",
            "0",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:otelstream",
            "-p",
            "no:randomly",
        ),
        *(("-p", "switch_on") if on else ()),
        *("--junitxml", report, "-o", "junit_family=xunit1"),
        *(name for name in wanted if (tests / name).exists()),
    ]
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith(("ANTHROPIC", "OPENAI", "OTEL", "PYTEST"))
    }
    clean |= {"PYTHONPATH": str(HERE), **settings}
    done = subprocess.run(command, cwd=tests, env=clean, capture_output=True, text=True, check=False)
    if not report.exists():
        raise SystemExit(f"pytest did not run:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    outcomes: dict[str, str] = {}
    for case in ET.parse(report).getroot().iter("testcase"):
        name = f"{case.get('file')}::{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        outcome = "passed"
        for child in case:
            if child.tag in ("failure", "error", "skipped"):
                outcome = child.tag
        outcomes[name] = outcome
    return outcomes


def compare(root: Path, sdk: str, version: str) -> bool:
    """Run each suite both ways, print a summary; return whether every test went the same, but for those named."""
    same, bare = True, {}
    for suite, wanted, settings, known in SUITES[sdk]:
        python, tests = environment(root, sdk, version), sources(root, sdk, version)
        report = root / f"{sdk}-{version}" / "report.xml"
        started = time.perf_counter()
        if wanted not in bare:
            bare[wanted] = results(python, tests, report, wanted, on=False, settings={})
        observed = results(python, tests, report, wanted, on=True, settings=settings)
        title = f"{sdk} {version}, {suite}"
        same = _said(title, bare[wanted], observed, known, time.perf_counter() - started) and same
    return same and all(bare[wanted] for _, wanted, *_ in SUITES[sdk][:1])


def _said(title: str, bare: dict[str, str], observed: dict[str, str], may: dict[str, str], seconds: float) -> bool:
    """Print what differs; return whether it is what may, all of it."""
    if not bare:
        print(f"{title}: none")
        return not observed
    counts = ", ".join(f"{count} {name}" for name, count in sorted(Counter(bare.values()).items()))
    different = sorted(name for name in bare.keys() | observed.keys() if bare.get(name) != observed.get(name))
    known = {name: why for name in different for part, why in may.items() if part in name}
    print(
        f"{title}: {len(bare)} tests ({counts}), {len(different)} differ with otelstream on, "
        f"{len(known)} of them known ({seconds:.0f} s)"
    )
    for name in different:
        print(f"  {name}: {bare.get(name, 'absent')} became {observed.get(name, 'absent')}", end="")
        print(f" ({known[name]})" if name in known else "")
    return len(different) == len(known)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sdk", choices=VERSIONS, default="anthropic", help="default: %(default)s")
    parser.add_argument("--version", action="append", help="versions of it; by default an old one and the newest")
    parser.add_argument("--dir", type=Path, default=PROJECT / ".venv-foreign", help="where environments are kept")
    options = parser.parse_args()
    root: Path = options.dir.resolve()
    same = []
    for version in options.version or VERSIONS[options.sdk]:
        (root / f"{options.sdk}-{version}").mkdir(parents=True, exist_ok=True)
        same.append(compare(root, options.sdk, version))
    return 0 if all(same) else 1


if __name__ == "__main__":
    raise SystemExit(main())
