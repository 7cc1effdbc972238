# SPDX-License-Identifier: Apache-2.0
"""Make a virtual environment and install into it: `python tests/install.py VENV PIP_ARGUMENTS...`.

By uv, which takes a tenth of pip's time; by pip where uv cannot be had, or cannot reach what pip is set up to reach.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main(folder: Path, *arguments: str) -> None:
    """Install what pip would, with these arguments, into a new environment of the running Python."""
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    uv = [folder / "bin" / "uv", "pip", "install", "--quiet", "--native-tls", "--compile-bytecode", "--python", python]
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    for command in ([*pip, "uv"], [*uv, *arguments]):
        if subprocess.run(command, capture_output=True, check=False).returncode:
            subprocess.run([*pip, *arguments], check=True)
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
