# SPDX-License-Identifier: Apache-2.0
"""Check what `make dist` built: what is in it (no argument), and that it works where it is installed.

`--smoke` is for the interpreter it is installed in, `--pythons 3.10 3.13` makes an environment for each of those.
"""

from __future__ import annotations

import runpy
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

WHEEL = (
    "otelstream/py.typed", "otelstream/view/page.css", "otelstream/testing/streams/text_long.sse",
    "otelstream/_data/dashboards/", "otelstream/_data/collector/", "otelstream/cli/_bootstrap/sitecustomize.py",
)  # fmt: skip
SDIST = ("pyproject.toml", "hatch_build.py", "README.md", "CHANGELOG.md", "LICENSE", "otelstream/py.typed", "tests/")
NEVER = ("__pycache__", ".pyc", ".venv", ".ci/", ".git/", "otelstream.html")
MODULES = ("otelstream", "otelstream.typing", "otelstream.asgi", "otelstream.wsgi", "otelstream.cli")
SMOKE = """
import anthropic, otelstream
from otelstream.testing import ProviderSimulator
with ProviderSimulator() as sim:
    otelstream.instrument()
    sim.play("text_short")
    with anthropic.Anthropic(base_url=sim.base_url, api_key="simulated") as client:
        with otelstream.turn("smoke") as turn, client.messages.stream(
            model="m", max_tokens=9, messages=[{"role": "user", "content": "?"}]
        ) as stream:
            list(stream)
assert [view.outcome for view in turn.streams] == ["completed"], turn
"""


def wrong(names: list[str], wanted: tuple[str, ...]) -> list[str]:
    """What is missing from a distribution, and what has no place in it."""
    missing = [f"missing: {want}" for want in wanted if not any(name.startswith(want) for name in names)]
    return missing + [f"no place for: {name}" for name in names for never in NEVER if never in name]


def contents(path: Path) -> list[str]:
    """The names in a wheel, or in an sdist without its first folder."""
    if path.suffix == ".whl":
        return zipfile.ZipFile(path).namelist()
    with tarfile.open(path) as archive:
        return [name.partition("/")[2] for name in archive.getnames() if "/" in name]


def relative(path: Path) -> list[str]:
    """Links of the long description that a package index could not follow."""
    with zipfile.ZipFile(path) as archive:
        metadata = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    return [f"relative: {part[:60]}" for part in text.split("](")[1:] if not part.startswith(("https://", "#"))]


def everywhere(versions: list[str]) -> int:
    """Install the wheel on each of those Pythons and use it; name those that are not here."""
    find = runpy.run_path(str(Path(__file__).parents[1] / "matrix" / "versions.py"))["python"]
    (wheel,) = Path("dist").glob("*.whl")
    failed = 0
    for version in versions:
        interpreter = find(version)
        said = subprocess.run([interpreter, "-V"], capture_output=True, text=True, check=True).stdout
        if not said.startswith(f"Python {version}."):
            print(f"Python {version}: not tried, it is not here")
            continue
        folder = Path("build") / f"wheel-{version}"
        subprocess.run([interpreter, "-m", "venv", "--clear", folder], check=True)
        python = folder / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", f"{wheel}[testing]"], check=True)
        # Away from the checkout, whose package would be imported instead.
        words = [python.absolute(), Path(__file__).absolute(), "--smoke"]
        failed += subprocess.run(words, cwd=folder, check=False).returncode
    return int(failed > 0)


def main() -> int:
    """Print what is wrong; 0 where nothing is."""
    if "--smoke" in sys.argv:
        imports = "import " + ", ".join(MODULES)
        for program in (imports, SMOKE):
            words = [sys.executable, *(["-W", "error"] if program is imports else []), "-c", program]
            subprocess.run(words, check=True)
        print(f"imports and observes on Python {sys.version.split()[0]}")
        return 0
    if "--pythons" in sys.argv:
        return everywhere(sys.argv[sys.argv.index("--pythons") + 1 :])
    (wheel,), (sdist,) = sorted(Path("dist").glob("*.whl")), sorted(Path("dist").glob("*.tar.gz"))
    problems = [*wrong(contents(wheel), WHEEL), *wrong(contents(sdist), SDIST), *relative(wheel)]
    problems += [f"in the wheel: {name}" for name in contents(wheel) if name.startswith(("tests/", "docs/"))]
    print(*problems, f"{wheel.name}: {len(contents(wheel))} files, {wheel.stat().st_size:,} bytes", sep="\n")
    print(f"{sdist.name}: {len(contents(sdist))} files, {sdist.stat().st_size:,} bytes")
    return int(bool(problems))


if __name__ == "__main__":
    raise SystemExit(main())
