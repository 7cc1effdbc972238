# SPDX-License-Identifier: Apache-2.0
"""Make docs/demo.png and its dark twin: play `otelstream demo` and photograph its page. Needs Chromium."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PICTURES = {Path(__file__).parent / "demo.png": 1, Path(__file__).parent / "demo-dark.png": 0}  # Chromium's schemes
WIDTH = 1080
MOST_BYTES = 400_000
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def main() -> int:
    """Write the pictures."""
    browser = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        print(f"docs/picture.py needs one of {', '.join(_BROWSERS)} on PATH", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        demo = [sys.executable, "-m", "otelstream", "demo", "--page", str(page)]
        subprocess.run(demo, check=True, stdout=subprocess.DEVNULL)
        height = _height(browser, page)
        for picture, scheme in PICTURES.items():
            shot = Path(folder) / picture.name
            _chromium(browser, folder, page, f"--screenshot={shot}", f"--window-size={WIDTH},{height}", scheme=scheme)
            size = shot.stat().st_size
            if size > MOST_BYTES:
                print(f"{picture.name} has {size:,} bytes: more than {MOST_BYTES:,}", file=sys.stderr)
                return 1
            shutil.copyfile(shot, picture)
            print(f"{picture}: {WIDTH} x {height}, {size:,} bytes")
    return 0


def _height(browser: str, page: Path) -> int:
    """How high the page is at that width. The page has no script: a copy that has one says so."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    # A lane that is not on the screen has no height yet.
    text = text.replace("</head>", "<style>.lane{content-visibility:visible}</style></head>")
    text += "<script>document.title = document.body.getBoundingClientRect().height</script>"
    copy = page.with_name("measured.html")
    copy.write_text(text, encoding="utf-8")
    dumped = _chromium(browser, str(page.parent), copy, "--dump-dom", f"--window-size={WIDTH},900")
    return int(float(re.findall(r"<title>([\d.]+)</title>", dumped)[0]) + 0.5)


def _chromium(browser: str, folder: str, page: Path, *words: str, scheme: int = 1) -> str:
    """Open *page* in a browser of its own, without a scroll bar; return what it prints."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += [f"--blink-settings=preferredColorScheme={scheme}", "--hide-scrollbars", f"--user-data-dir={folder}/shot"]
    command = [browser, *flags, *words, page.as_uri()]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


if __name__ == "__main__":
    sys.exit(main())
