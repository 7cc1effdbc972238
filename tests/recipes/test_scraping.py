# SPDX-License-Identifier: Apache-2.0
"""The recipe for several workers: what is scraped adds up to what they served, also after one was killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from collector.fleet import BINARY, MISSING, Collector, Series, scrape
from hop.conftest import free_port
from tools.bench import wait_for

from otelstream._semconv import OUTCOME, START_TIME, STREAMS, label_name
from otelstream.testing import ProviderSimulator, Schedule

from .pages import RECIPES

pytest.importorskip("gunicorn", reason="gunicorn is not installed")
WORKERS, PORTS = 2, 8
APP = """\
import os

import anthropic

client = anthropic.Anthropic(base_url=os.environ["PROVIDER"], api_key="unused", max_retries=0)


def app(environ, start_response):
    ask = dict(model="m", max_tokens=9, messages=[dict(role="user", content="hi")])
    with client.messages.stream(**ask) as stream:
        stream.until_done()
    start_response("200 OK", [("content-type", "text/plain")])
    return [str(os.getpid()).encode()]
"""


def write(folder: Path, *names: str) -> None:
    """The page's files, by the name in the first line of each block; the last of a name is taken where two have it."""
    text = (RECIPES / "scraping.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(# (\S+)\n.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert [name for _, name in blocks] == ["worker_metrics.py", "gunicorn.conf.py", "gunicorn.conf.py"]
    (folder / "app.py").write_text(APP)
    for block, name in blocks if len(names) == 2 else blocks[::-1]:
        if name in names and not (folder / name).exists():
            (folder / name).write_text(block)


@contextmanager
def served(folder: Path, provider: ProviderSimulator, **environ: str) -> Iterator[str]:
    """gunicorn with its configuration file, and the address it serves."""
    port, log = free_port(), folder / "log"
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", str(WORKERS), "--no-control-socket"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--bind", f"127.0.0.1:{port}", "app:app"],
            cwd=folder, env={**os.environ, "PROVIDER": provider.base_url, **environ}, stdout=out, stderr=out,
        )  # fmt: skip
        try:
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()
            process.wait(60)
    assert "Traceback" not in log.read_text()


def ask(address: str, times: int) -> Counter[int]:
    """So many answers at once, by the process that gave them."""

    def one(_: int) -> int:
        with urllib.request.urlopen(address, timeout=60) as answer:
            return int(answer.read())

    with ThreadPoolExecutor(times) as pool:
        return Counter(pool.map(one, range(times)))


def up(address: str, asked: threading.Event) -> bool:
    with suppress(OSError):
        ask(address, 1)
        asked.set()
    return asked.is_set()


def streams(series: Series, instance: str | None = None) -> float:
    return sum(
        value
        for (name, labels), value in series.items()
        if name == STREAMS.prometheus
        if (label_name(OUTCOME), "completed") in labels
        if instance is None or ("instance", instance) in labels
    )


def targets(ports: range) -> dict[int, Series]:
    """What each port shows that somebody answers at."""
    found = {}
    for port in ports:
        with suppress(OSError):
            found[port] = scrape(f"http://127.0.0.1:{port}/metrics")
    return found


def started(series: Series) -> float:
    return next(value for (name, _), value in series.items() if name == START_TIME.prometheus)


@pytest.fixture
def provider() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as simulator:
        # So slow that a second worker is asked while the first is busy.
        simulator.play("text_short", schedule=Schedule(first=0.3), times=None)
        yield simulator


def test_a_port_each(provider: ProviderSimulator, tmp_path: Path) -> None:
    """All ports together show what was served; a new worker takes the port of one that was killed, from zero."""
    write(tmp_path, "worker_metrics.py", "gunicorn.conf.py")
    ports = range(first := free_port(), first + PORTS)
    page = (tmp_path / "worker_metrics.py").read_text()
    (tmp_path / "worker_metrics.py").write_text(page.replace("range(9464, 9472)", repr(ports)))
    assert repr(ports) in (tmp_path / "worker_metrics.py").read_text()
    with served(tmp_path, provider) as address:
        wait_for(lambda: len(targets(ports)) == WORKERS, 60)
        by = ask(address, 8)
        before = targets(ports)
        assert sorted(map(streams, before.values())) == sorted(by.values())
        assert len(by) == WORKERS

        victim, _ = by.most_common(1)[0]
        os.kill(victim, signal.SIGKILL)
        wait_for(
            lambda: (
                len(now := targets(ports)) == WORKERS
                and {*map(started, now.values())} != {*map(started, before.values())}
            )
        )
        again = ask(address, 8)
        after = targets(ports)

    assert after.keys() == before.keys()
    assert victim not in again
    assert sum(map(streams, after.values())) == sum(by.values()) - by[victim] + sum(again.values())


def test_one_agent_for_all(provider: ProviderSimulator, tmp_path: Path) -> None:
    """One target, an instance for each worker: nobody overwrites another."""
    if not BINARY.exists():
        pytest.skip(MISSING)
    write(tmp_path, "gunicorn.conf.py")
    agent = Collector(
        "agent",
        home=tmp_path / "agent",
        COLLECTOR_EXPORT_ENDPOINT="http://127.0.0.1:9",
        COLLECTOR_METRICS_EXPORTERS="[prometheus]",
    ).start()
    try:
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{agent.http}",
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
            "OTEL_SERVICE_NAME": "chat",
        }
        with served(tmp_path, provider, **environ) as address:
            asked = threading.Event()
            wait_for(lambda: up(address, asked), 60)
            by = ask(address, 8)
            total = sum(by.values()) + 1
            wait_for(lambda: streams(agent.exposed()) >= total)
            series = agent.exposed()
        instances = {
            dict(labels)["instance"] for (name, labels), value in series.items() if name == STREAMS.prometheus and value
        }
        assert len(by) == WORKERS
        assert len(instances) == WORKERS
        assert sum(streams(series, instance) for instance in instances) == total
    finally:
        agent.stop()
