# SPDX-License-Identifier: Apache-2.0
"""Run the matrix on several versions of an SDK, each in a virtual environment of its own under `.venv-matrix`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# SDK and Python, the oldest of both together and the newest of both: what lies between takes the running Python.
ALL = {
    "anthropic": {
        "0.51.0": "3.10", "0.79.0": "", "0.121.0": "", "1.0.0": "", "1.17.0": "", "2.0.0": "", "newest": "3.13",
    },
    "openai": {"1.30.1": "3.10", "1.109.1": "", "2.54.0": "", "newest": "3.13"},
    "google-genai": {"2.0.0": "3.10", "2.34.0": "", "3.0.0": "", "newest": "3.13"},
    # Here the newest is that which the newest aiobotocore takes.
    "botocore": {"1.35.36": "3.10", "newest": "", "1.44.8": "3.13"},
}  # fmt: skip
BESIDE = {
    "openai 1.30.1": ["httpx<0.28"],  # the last one with what that SDK hands it
    "botocore 1.35.36": ["aiobotocore==2.15.2"],
    "botocore newest": ["aiobotocore"],
    "google-genai newest": ["aiohttp"],  # which it takes where it is, instead of httpx
}


def python(version: str) -> str:
    """The interpreter of that version, on the path or among pyenv's, or the running one where there is none."""
    if not version:
        return sys.executable
    name = f"python{version}"
    installed = sorted(Path("~/.pyenv/versions").expanduser().glob(f"{version}.*/bin/{name}"))
    for found in filter(None, [shutil.which(name), *map(str, installed)]):
        # A shim may be there without what it stands for.
        if subprocess.run([found, "--version"], capture_output=True, check=False).returncode == 0:
            return found
    print(f"no {name} here: taking {sys.version.split()[0]}", file=sys.stderr)
    return sys.executable


def environment(sdk: str, version: str, interpreter: str) -> Path:
    """A virtual environment with that SDK and this project, made once and refreshed when the project's needs change."""
    folder = ROOT / ".venv-matrix" / f"{sdk}-{version}-{Path(interpreter).name}"
    binary, done = folder / "bin" / "python", folder / "ready"
    if not done.exists() or done.stat().st_mtime < (ROOT / "pyproject.toml").stat().st_mtime:
        wanted = [sdk if version == "newest" else f"{sdk}=={version}", *BESIDE.get(f"{sdk} {version}", ())]
        command = [interpreter, ROOT / "tests" / "install.py", folder, "--upgrade", "-e", f"{ROOT}[testing]", *wanted]
        subprocess.run(command, check=True)
        done.touch()
    return binary


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sdk", choices=ALL, default="anthropic", help="default: %(default)s")
    parser.add_argument("--versions", nargs="+", help="default: the oldest, the newest, and some between")
    arguments = parser.parse_args()
    sdk, rows, failed = arguments.sdk, [], False
    for version in arguments.versions or ALL[sdk]:
        binary = environment(sdk, version, python(ALL[sdk].get(version, "")))
        command = [binary, "-W", "ignore::ResourceWarning", "-m", "tests.matrix", "--sdk", sdk, "--run", "--json"]
        ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ}, check=False)
        failed = failed or ended.returncode != 0
        try:
            rows.append(json.loads(ended.stdout.splitlines()[-1]))
        except (IndexError, ValueError):
            rows.append({"sdk": sdk, "version": version, "failed": f"exit {ended.returncode}"})
    names = ("sdk", "version", "python", "cells", "skipped", "failed", "seconds")
    print(" ".join(f"{name:>10}" for name in names))
    for row in rows:
        print(" ".join(f"{row.get(name, ''):>10}" for name in names))
    return failed


if __name__ == "__main__":
    sys.exit(main())
