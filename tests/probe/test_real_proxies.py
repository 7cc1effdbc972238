# SPDX-License-Identifier: Apache-2.0
"""Real proxies as their packages have them, and with the configurations that the probe prints."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from otelstream.probe._bench import Bench, Settings
from otelstream.probe._client import Target
from otelstream.probe._configs import configuration
from otelstream.probe._report import Report
from otelstream.probe._run import run

pytestmark = pytest.mark.slow
SETTINGS = Settings(repeats=1, silence=3.0, total=4.0, bodies=(0.9, 2.0))
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def free() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def nginx(site: str, folder: Path) -> list[str]:
    paths = "".join(f"{name}_temp_path {folder}/{name};\n" for name in TEMPORARY)
    # As root its workers would be somebody who may not enter the folder.
    user = "user root;\n" if os.geteuid() == 0 else ""
    around = f"{user}pid {folder}/pid; error_log {folder}/errors; daemon off; worker_processes 1;\nevents {{}}\n"
    (folder / "nginx.conf").write_text(f"{around}http {{ access_log off;\n{paths}{site}}}\n")
    return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def haproxy(text: str, folder: Path) -> list[str]:
    (folder / "haproxy.cfg").write_text(text)
    return ["haproxy", "-db", "-q", "-f", str(folder / "haproxy.cfg")]


@contextmanager
def standing(command: list[str], port: int) -> Iterator[str]:
    program = shutil.which(command[0]) or shutil.which(command[0], path="/usr/sbin")
    if program is None:
        pytest.skip(f"{command[0]} is not installed: apt-get install {command[0]}")
    running = subprocess.Popen([program, *command[1:]])
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        running.terminate()
        running.wait(30)


def probed(name: str, folder: Path, text: str | None, http2: bool = False, **settings: Any) -> Report:
    """What is said of a proxy by this configuration (None: by the one that the probe prints)."""
    bench = Bench(Target("http://127.0.0.1:1"), replace(SETTINGS, **settings))
    bench.start()
    try:
        port = free()
        made = text or configuration(name, "127.0.0.1", bench.sim.port)
        for listen in ("listen 8080", "bind :8080"):
            made = made.replace(listen, f"{listen.partition(' ')[0]} 127.0.0.1:{port}")
        made = made.replace("@UPSTREAM@", f"127.0.0.1:{bench.sim.port}")
        with standing((nginx if name == "nginx" else haproxy)(made, folder), port) as url:
            bench.gateway = Target(url, http2=http2)
            return run(bench, 30)
    finally:
        bench.stop()


def said(report: Report) -> dict[str, str]:
    return {result.code: result.verdict for result in report.results if result.verdict != "kept"}


def test_nginx_by_default(tmp_path: Path) -> None:
    """Before 1.29.7 it buffers, and ends a cut answer in order; the probe names that, and what to set."""
    report = probed("nginx", tmp_path, "server { listen 8080; location / { proxy_pass http://@UPSTREAM@; } }")

    found = {result.code: result for result in report.results}
    assert (found["cut-fin"].verdict, found["cut-reset"].verdict) == ("hidden", "kept"), "\n".join(report.lines())
    assert "the client saw a clean end" in found["cut-fin"].measured
    assert "proxy_http_version 1.1" in found["cut-fin"].remedy
    assert said(report).keys() == {"cadence", "headers-early", "cut-fin", "body-2"}
    assert report.server.startswith("nginx")


@pytest.mark.parametrize("route", ["messages", "chat", "responses"])
@pytest.mark.parametrize("name", ["nginx", "haproxy"])
def test_with_the_configuration_that_is_printed(name: str, route: str, tmp_path: Path) -> None:
    """Everything is kept."""
    report = probed(name, tmp_path, None, route=route)

    assert said(report) == {}, "\n".join(report.lines())


def test_haproxy_by_default(tmp_path: Path) -> None:
    """It passes a cancel while text flows, and none in a silence."""
    times = "timeout connect 5s\ntimeout client 50s\ntimeout server 50s"
    rest = "frontend f\nbind :8080\ndefault_backend b\nbackend b\nserver s @UPSTREAM@\n"
    report = probed("haproxy", tmp_path, f"defaults\nmode http\n{times}\n{rest}")

    found = said(report)
    assert found["cancel-silent"] == "lost", "\n".join(report.lines())
    assert found.get("cancel-flowing") in {None, "late"}
    assert "cut-fin" not in found


def test_haproxy_over_http2(tmp_path: Path) -> None:
    """What it hands on as a cut to HTTP/1.1 it makes an end in order towards HTTP/2, and nothing that is set helps."""
    report = probed("haproxy", tmp_path, None, http2=True, only=frozenset({"cadence", "cut-fin", "cancel-silent"}))

    assert said(report) == {"cut-fin": "hidden"}, "\n".join(report.lines())
    (cut,) = [result for result in report.results if result.code == "cut-fin"]
    assert "alpn http/1.1" in cut.remedy
