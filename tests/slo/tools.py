# SPDX-License-Identifier: Apache-2.0
"""Real Prometheus binaries for the tests: promtool cases, a server on a free port, queries."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from otelstream._semconv import Metric, label_name


def binary(name: str) -> str:
    """Return the path of a binary, or skip the test and say how to get it."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install prometheus prometheus-alertmanager")
    return found


def series(metric: Metric | str, suffix: str = "", **labels: str) -> str:
    """A series in text form; labels by attribute name with `__` for the dots."""
    name = metric if isinstance(metric, str) else metric.prometheus
    plain = {"job": "chat", "instance": "a:1", **{label_name(k.replace("__", ".")): v for k, v in labels.items()}}
    inside = ",".join(f'{key}="{value}"' for key, value in sorted(plain.items()))
    return f"{name}{suffix}{{{inside}}}"


def counter(per_minute: Iterable[int], start: int = 0) -> str:
    """Values of a counter from its increments a minute; the first sample is the start itself."""
    return " ".join(str(value) for value in accumulate(per_minute, initial=start))


def gauge(values: Iterable[float]) -> str:
    return " ".join(str(value) for value in values)


@dataclass(frozen=True)
class Check:
    """At this minute these alerts fire, and no other of the names given."""

    minute: int
    firing: tuple[str, ...] = ()
    among: str = ".+"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_for(condition: Any, what: str, limit: float = 60) -> Any:
    """Poll until the condition returns something true; fail naming what was awaited."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    pytest.fail(f"waited {limit:.0f} s in vain for {what}")


@dataclass(frozen=True)
class PrometheusServer:
    """A running Prometheus."""

    url: str

    def get(self, path: str, **parameters: str | float) -> Any:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}{path}?{query}", timeout=120) as answer:
            return json.load(answer)["data"]

    def post(self, path: str, **parameters: str | float) -> Any:
        body = urllib.parse.urlencode(parameters).encode()
        try:
            with urllib.request.urlopen(f"{self.url}{path}", data=body, timeout=120) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters.get('query')}: {error.read().decode()}") from None

    def query(self, expr: str, at: float) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.post("/api/v1/query", query=expr, time=at)["result"]
        return found

    def query_range(self, expr: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.post("/api/v1/query_range", query=expr, start=start, end=end, step=step)[
            "result"
        ]
        return found


@contextmanager
def prometheus(folder: Path, config: str, *flags: str) -> Any:
    """Run Prometheus on a free port with this configuration and `folder/data`."""
    port = free_port()
    (folder / "prometheus.yml").write_text(config, encoding="utf-8")
    log = (folder / "prometheus.log").open("w")
    process = subprocess.Popen(
        [
            binary("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--storage.tsdb.retention.time=10y",
            *flags,
        ],
        stdout=log,
        stderr=log,
    )
    server = PrometheusServer(f"http://127.0.0.1:{port}")
    try:

        def ready() -> bool:
            if process.poll() is not None:
                pytest.fail("Prometheus ended: " + (folder / "prometheus.log").read_text()[-2000:])
            try:
                with urllib.request.urlopen(f"{server.url}/-/ready", timeout=2) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        wait_for(ready, "Prometheus to be ready")
        yield server
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def go_with(module: str, program: str, folder: Path) -> str:
    """Put a Go program there, with the module that it needs; returns the command. Skips where either is missing."""
    go = shutil.which("go")
    if go is None:
        pytest.skip(f"go is not installed: it runs {module}")
    (folder / "main.go").write_text(program)
    subprocess.run([go, "mod", "init", "program"], cwd=folder, capture_output=True, check=True)
    got = subprocess.run([go, "get", module], cwd=folder, capture_output=True, text=True, check=False)
    if got.returncode:
        pytest.skip(f"{module} cannot be fetched: {got.stderr[-200:]}")
    return go
