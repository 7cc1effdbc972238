# SPDX-License-Identifier: Apache-2.0
"""From `pip install` to the ledger of a stopped turn, with nothing but the wheel of dist/ and the FastAPI page.

Does what the page says, word by word, in a new environment and a new folder, and prints the transcript: `make follow`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "recipes" / "fastapi.md"
SERVED = ("http://127.0.0.1:8090/", "http://127.0.0.1:8000/")  # by the first terminal, and by the second


def blocks(language: str) -> list[str]:
    """The fenced blocks of the page, in that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def answers(address: str) -> bool:
    """Whether somebody serves that address; what does not matter."""
    try:
        urllib.request.urlopen(address, timeout=1).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def main() -> int:
    """Follow the page; 0 when its last command left a ledger in the server's terminal."""
    (wheel,) = (ROOT / "dist").glob("*.whl")
    install, terminals = blocks("console")
    began = time.monotonic()
    if taken := [address for address in SERVED if answers(address)]:
        print(f"somebody serves {taken} already", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        subprocess.run([sys.executable, "-m", "venv", home / "venv"], check=True)
        path = f"{home / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}
        environment.pop("PYTHONPATH", None)

        def says(what: str) -> None:
            print(f"[{time.monotonic() - began:5.1f} s] {what}", flush=True)

        for line in install.splitlines():
            says(line)
            # The index does not have this wheel.
            command = line.removeprefix("$ ").replace("otelstream[", f"{wheel}[")
            subprocess.run(f"{command} --quiet", shell=True, cwd=home, env=environment, check=True)
        says("(app.py is saved)")
        (home / "app.py").write_text("\n".join(blocks("python")), encoding="utf-8")
        *servers, asks = [line.removeprefix("$ ") for line in terminals.splitlines()]
        running = []
        try:
            for number, command in enumerate(servers):
                says(f"$ {command}")
                with (home / f"terminal-{number}").open("w") as terminal:
                    server = subprocess.Popen(
                        f"exec env {command}", shell=True, cwd=home, env=environment, stdout=terminal, stderr=terminal
                    )
                running.append(server)
                until = time.monotonic() + 60
                while not answers(SERVED[number]) and time.monotonic() < until:
                    time.sleep(0.1)
            says(f"$ {asks}")
            subprocess.run(f"{asks}; wait", shell=True, cwd=home, env=environment, timeout=60, check=False)
            print()
            until = time.monotonic() + 10
            while "Ledger(" not in (said := (home / "terminal-1").read_text()) and time.monotonic() < until:
                time.sleep(0.1)
        finally:
            for server in running:
                server.terminate()
                server.wait(20)
        says("(the second terminal)")
        print(said)
    return int(re.search(r"Ledger\(.*ToolCall", said) is None)


if __name__ == "__main__":
    raise SystemExit(main())
