# SPDX-License-Identifier: Apache-2.0
"""Drive each recipe with a real browser, and write what a Stop, an abort and a closed tab came to: `make browsers`.

Each is a run of its own: a recipe, its server, a page of Chromium that asks as pages do, and the local provider, whose
log says who closed. What is found goes to docs/browsers.json, and from there into the table of docs/recipes/index.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from hop.conftest import free_port, listening
from tools.bench import wait_for
from tools.browser import CHROMIUM, Browser, browser

import otelstream
from otelstream.testing import ProviderSimulator, Recorder, Schedule, Script, prose
from otelstream.testing._redirect import redirected

from .pages import RECIPES, code_of, load
from .test_recipes import HTTP, asgi_server, websockets_server

RESULTS = RECIPES.parent / "browsers.json"
PAGE = RECIPES / "index.md"
BEGIN, END = "<!-- made by make browsers -->", "<!-- to here -->"
WAYS = ("Stop", "abort", "tab")
LETTERS = 60_000  # six seconds of an answer
# What a page's script does: ask, leave off; `got` counts what it has.
FETCH = """window.got = 0; window.off = new AbortController();
fetch("%s?chat=c", {signal: off.signal}).then(async answer => {
  const reader = answer.body.getReader();
  for (let piece; !(piece = await reader.read()).done;) got += piece.value.length;
}).catch(() => 0); 0"""
EVENTS = """window.got = 0; window.off = new EventSource("%s?chat=c"); off.abort = off.close;
off.addEventListener("text", event => got += event.data.length); off.addEventListener("end", () => off.close()); 0"""
SOCKET = """window.got = 0; window.off = new WebSocket("%s"); off.abort = off.close;
off.onopen = () => off.send("Why?"); off.onmessage = event => got += event.data.length; 0"""
POST = """fetch("/stop?chat=c", {method: "POST"}).then(answer => answer.text())"""
# Streamlit takes the main thread of a process: it is run in one, which tells of each stream as it ends.
STREAMLIT = """
import json, sys, otelstream
from streamlit.web.cli import main

app, said, port = sys.argv[1:]  # Streamlit gives its script an argv of its own

@otelstream.on_stream_end
def tell(view):
    with open(said, "a") as file:
        file.write(json.dumps([view.outcome, view.trigger, view.propagation]) + "\\n")

main(["run", app, "--server.port", port, "--server.headless", "true", "--server.address", "127.0.0.1",
      "--browser.gatherUsageStats", "false", "--server.fileWatcherType", "none"], standalone_mode=False)
"""

Told = Callable[[], "list[str] | None"]  # outcome, trigger, propagation, once there is a record


def told_by(recorder: Recorder) -> list[str] | None:
    """Of the stream that was left."""
    if not recorder.streams:
        return None
    stream = recorder.streams[0]
    said = stream.attributes
    return [stream.outcome, *(str(said.get(f"otelstream.cancel.{name}")) for name in ("trigger", "propagation"))]


@contextmanager
def asked_by_script(name: str, folder: Path, way: str) -> Iterator[tuple[Browser, Told, Callable[[], Any]]]:
    """A recipe that has no page: a page of its server, whose script asks."""
    with Recorder() as recorder, pytest.MonkeyPatch.context() as patch:
        if name.startswith("Websockets"):
            server = asgi_server if "ASGI" in name else websockets_server
            with server(load("websockets", folder, patch)) as url, browser("about:blank", folder / "b", "true") as page:
                page.run(SOCKET % url)
                stop = "off.send('/stop')" if "ASGI" in name else "off.close()"
                leave = {"Stop": lambda: page.run(stop), "abort": lambda: page.run("off.abort()")}
                yield page, lambda: told_by(recorder), leave.get(way, lambda: page.ask("Page.close"))
            return
        file, application, server, path = next(found for row, found in HTTP.items() if row[0] == name)
        app = getattr(load(file, folder, patch), application)
        with server(app) as port, browser(f"http://127.0.0.1:{port}/no-page", folder / "b", "true") as page:
            page.run((EVENTS if name == "sse-starlette" else FETCH) % path)
            leave = {"Stop": lambda: page.run(POST), "abort": lambda: page.run("off.abort()")}
            yield page, lambda: told_by(recorder), leave.get(way, lambda: page.ask("Page.close"))


def _type(page: Browser, selector: str) -> None:
    page.run(f"document.querySelector({selector!r}).focus()")
    page.ask("Input.insertText", text="Why?")
    for kind in ("rawKeyDown", "char", "keyUp"):
        page.ask(
            "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r" if kind == "char" else "",
            windowsVirtualKeyCode=13,
        )  # fmt: skip


@contextmanager
def streamlit(_: str, folder: Path, way: str) -> Iterator[tuple[Browser, Told, Callable[[], Any]]]:
    """Its own page: a message is typed; Stop is the button in its corner."""
    app, said, port = folder / "app.py", folder / "said", free_port()
    app.write_text(code_of("streamlit"), encoding="utf-8")
    said.touch()
    words = [sys.executable, "-c", STREAMLIT, str(app), str(said), str(port)]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: listening(port), 60)
        box = "[data-testid=stChatInputTextArea]"
        with browser(f"http://127.0.0.1:{port}/", folder / "b", f"!!document.querySelector({box!r})") as page:
            _type(page, box)
            page.run("Object.defineProperty(window, 'got', {get: () => document.body.innerText.length}); 0")
            stop = "[data-testid=stStatusWidget] button, [data-testid=stAppStopButton] button"

            def told() -> list[str] | None:
                lines = said.read_text(encoding="utf-8").splitlines()
                return [str(word) for word in json.loads(lines[0])] if lines else None

            yield page, told, (lambda: page.click(stop)) if way == "Stop" else (lambda: page.ask("Page.close"))
    finally:
        server.terminate()
        server.wait(20)


@contextmanager
def gradio(_: str, folder: Path, way: str) -> Iterator[tuple[Browser, Told, Callable[[], Any]]]:
    """Its own page: a message is typed; Stop is the button beside it."""
    with Recorder() as recorder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        demo = load("gradio", folder, patch).demo
        demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", server_port=free_port())
        try:
            with browser(demo.local_url, folder / "b", "!!document.querySelector('textarea')") as page:
                _type(page, "textarea")
                page.run("Object.defineProperty(window, 'got', {get: () => document.body.innerText.length}); 0")
                stop = lambda: page.click("button.stop-button")  # noqa: E731
                yield page, lambda: told_by(recorder), stop if way == "Stop" else (lambda: page.ask("Page.close"))
        finally:
            demo.close()


SETUPS: dict[str, Any] = {
    **{row[0]: asked_by_script for row in HTTP},
    "Websockets, ASGI": asked_by_script,
    "Websockets, the package": asked_by_script,
    "Streamlit": streamlit,
    "Gradio": gradio,
}
# A page of these has no other way to leave off than its Stop; that server has no Stop.
HAS_NO = {("Streamlit", "abort"), ("Gradio", "abort"), ("Websockets, the package", "Stop")}


def observe(name: str, way: str) -> dict[str, Any]:
    """One run: what the record says, and what the provider's log says of it."""
    os.environ |= {"ANTHROPIC_API_KEY": "none", "NO_PROXY": "127.0.0.1"}
    with ProviderSimulator() as provider, tempfile.TemporaryDirectory() as folder, redirected(provider.base_url):
        os.environ["ANTHROPIC_BASE_URL"] = provider.base_url
        provider.play(Script().text(prose(LETTERS), chunk=100), schedule=Schedule(gap=0.01))
        with SETUPS[name](name, Path(folder), way) as (page, told, leave):
            wait_for(lambda: page.run("got > 1500"))
            leave()
            wait_for(lambda: told() is not None)
            outcome, trigger, propagation = told() or ["", "", ""]
            exchange = wait_for(lambda: provider.log[0].closed_at and provider.log[0])
    otelstream.uninstrument()
    closed_by = "end" if exchange.complete else exchange.closed_by
    return {"outcome": outcome, "trigger": trigger, "propagation": propagation, "closed_by": closed_by}


def table(results: dict[str, Any]) -> str:
    """The table of docs/recipes/index.md."""
    lines = ["| set-up | Stop is pressed | the page aborts | the tab is closed |", "| --- | --- | --- | --- |"]
    for name in SETUPS:
        cells = []
        for way in WAYS:
            found = results["runs"].get(f"{name}: {way}")
            if found is None:
                cells.append("" if (name, way) in HAS_NO else "was not run")
                continue
            words = f"`{found['trigger']}`, `{found['propagation']}`"
            cells.append(words if found["outcome"] == "cancelled" else f"`{found['outcome']}`, {words}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    return "\n".join([*lines, "", f"Run with {versions}."])


def page_with(results: dict[str, Any]) -> str:
    """The page, with this table."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n{table(results)}\n{END}{rest.partition(END)[2]}"


def _versions() -> dict[str, str]:
    said = subprocess.run([str(CHROMIUM), "--version"], capture_output=True, text=True, check=True).stdout
    packages = ("uvicorn", "werkzeug", "aiohttp", "websockets", "streamlit", "gradio")
    return {"Chromium": said.split()[1], **{package: metadata.version(package) for package in packages}}


def main() -> int:
    """Run what is asked for, each in a process of its own: Django takes its settings once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--only", action="append", default=[], help="a set-up, by its name")
    parser.add_argument("--docs", action="store_true", help="write docs/browsers.json and the table")
    arguments = parser.parse_args()
    if arguments.one:
        print("\nfound: " + json.dumps(observe(*arguments.one)))
        return 0
    failed, runs = 0, {}
    if arguments.only:
        runs = json.loads(RESULTS.read_text(encoding="utf-8"))["runs"]
    for name in arguments.only or SETUPS:
        for way in WAYS:
            if (name, way) in HAS_NO:
                continue
            words = [sys.executable, "-m", "recipes.browsers", "--one", name, way]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            line = next((line for line in done.stdout.splitlines() if line.startswith("found: ")), None)
            print(f"{name}: {way}", line or done.stderr[-2000:], flush=True)
            failed += line is None
            if line is not None:
                runs[f"{name}: {way}"] = json.loads(line.removeprefix("found: "))
    if arguments.docs:
        results = {"versions": _versions(), "runs": runs}
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        PAGE.write_text(page_with(results), encoding="utf-8")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
