# SPDX-License-Identifier: Apache-2.0
"""Real Collectors on free loopback ports, and a backend that can go away."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "collector"
BINARY = Path(os.environ.get("OTELSTREAM_COLLECTOR", ROOT / ".tools" / "bin" / "otelstream-collector"))
MISSING = f"no Collector binary at {BINARY}: `make collector` builds it (needs Go and the network)"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], object], *, limit: float = 30, what: str = "") -> None:
    """Wait until `condition` holds; an exception in it counts as no."""
    end = time.monotonic() + limit
    while True:
        with contextlib.suppress(OSError, KeyError, IndexError):
            if condition():
                return
        if time.monotonic() > end:
            raise TimeoutError(f"not within {limit} s: {what or condition}")
        time.sleep(0.05)


def collector_environment(extra: Mapping[str, object]) -> dict[str, str]:
    """This process's environment without any Collector setting of the developer's, with those of `extra`."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("COLLECTOR_")}
    return inherited | {key: str(value) for key, value in extra.items()}


def validate(*files: Path, **environment: object) -> subprocess.CompletedProcess[str]:
    command = [str(BINARY), "validate", *(f"--config={file}" for file in files)]
    return subprocess.run(
        command,
        env=collector_environment(environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Collector:
    """One Collector process of the committed configurations, by layers: `Collector("agent", "redaction")`."""

    def __init__(self, *layers: str | Path, home: Path, **environment: object) -> None:
        self.files = [CONFIGS / f"{layer}.yaml" if isinstance(layer, str) else layer for layer in layers]
        self.grpc, self.http, self.health, self.telemetry, self.prometheus = (free_port() for _ in range(5))
        home.mkdir(parents=True, exist_ok=True)
        self.log, self.queue = home / "collector.log", home / "queue"
        self.environment = collector_environment(
            {
                "COLLECTOR_LISTEN_GRPC": f"127.0.0.1:{self.grpc}",
                "COLLECTOR_LISTEN_HTTP": f"127.0.0.1:{self.http}",
                "COLLECTOR_HEALTH": f"127.0.0.1:{self.health}",
                "COLLECTOR_TELEMETRY_PORT": self.telemetry,
                "COLLECTOR_PROMETHEUS": f"127.0.0.1:{self.prometheus}",
                "COLLECTOR_QUEUE_DIR": self.queue,
                "COLLECTOR_BATCH_INTERVAL": "200ms",
                "COLLECTOR_RETRY_MAX_INTERVAL": "1s",
            }
            | environment
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Collector:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(BINARY), *(f"--config={file}" for file in self.files)],
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(self.healthy, what=f"{self.files[0].name} to be healthy; its log is {self.log}")
        except TimeoutError:
            self.stop()
            raise TimeoutError(self.log.read_text()[-3000:]) from None
        return self

    def healthy(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"exited with {self.process.returncode}: {self.log.read_text()[-3000:]}")
        with urllib.request.urlopen(f"http://127.0.0.1:{self.health}/", timeout=2) as answer:
            return bool(answer.status == 200)

    def stop(self, signal_number: int = signal.SIGTERM) -> float:
        """End the process; return how long it took."""
        begun = time.monotonic()
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal_number)
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None
        return time.monotonic() - begun

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def own_metrics(self) -> Series:
        return scrape(f"http://127.0.0.1:{self.telemetry}/metrics")

    def own(self, name: str) -> float:
        """The sum over all label sets of one of the Collector's own series; 0 where it has none."""
        return sum(value for (series, _), value in self.own_metrics().items() if series == name)

    def exposed(self) -> Series:
        return scrape(f"http://127.0.0.1:{self.prometheus}/metrics")

    def resident_mib(self) -> float:
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(found[1]) / 1024 if found else 0.0

    def cpu_seconds(self) -> float:
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def post_json(collector: Collector, path: str, body: Mapping[str, Any]) -> None:
    """Send OTLP/JSON, which must be accepted."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{collector.http}{path}",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


def otlp_attributes(values: Mapping[str, str | float | bool]) -> list[dict[str, Any]]:
    """OTLP/JSON attributes, each of its value's type."""

    def typed(value: str | float | bool) -> dict[str, Any]:
        if isinstance(value, bool):
            return {"boolValue": value}
        if isinstance(value, int):
            return {"intValue": str(value)}
        return {"doubleValue": value} if isinstance(value, float) else {"stringValue": value}

    return [{"key": key, "value": typed(value)} for key, value in values.items()]


Labels = frozenset[tuple[str, str]]
Series = dict[tuple[str, Labels], float]
_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)(?: \S+)?(?: # .*)?$")
_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"')


def scrape(url: str, accept: str = "text/plain") -> Series:
    request = urllib.request.Request(url, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        text = answer.read().decode()
    series: Series = {}
    for line in text.splitlines():
        if not line.startswith("#") and (sample := _SAMPLE.match(line)):
            series[sample[1], frozenset(_LABEL.findall(sample[2] or ""))] = float(sample[3])
    return series


def plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return {item.key: plain(item.value) for item in value.kvlist_value.values}
    return getattr(value, kind) if kind else None


@dataclass(frozen=True, slots=True)
class SeenSpan:
    name: str
    service: str
    scope: str
    attributes: dict[str, Any]


@dataclass
class Backend:
    """An OTLP/HTTP backend that remembers what it got and can go away and come back on its port."""

    port: int = field(default_factory=free_port)
    spans: dict[str, dict[str, SeenSpan]] = field(default_factory=lambda: defaultdict(dict))
    repeated: Counter[str] = field(default_factory=Counter)
    arrived: dict[str, float] = field(default_factory=dict)  # trace -> monotonic time of its first span
    metrics: list[ExportMetricsServiceRequest] = field(default_factory=list)
    logs: list[ExportLogsServiceRequest] = field(default_factory=list)
    bytes_seen: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    keep_bytes: bool = False
    answer: int = 200  # the status of every answer
    _server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def span_count(self) -> int:
        return sum(map(len, list(self.spans.values())))

    def take(self, path: str, body: bytes) -> None:
        if self.keep_bytes:
            self.bytes_seen.append(body)
        if path == "/v1/metrics":
            self.metrics.append(ExportMetricsServiceRequest.FromString(body))
        elif path == "/v1/logs":
            self.logs.append(ExportLogsServiceRequest.FromString(body))
        else:
            self._take_spans(ExportTraceServiceRequest.FromString(body))

    def _take_spans(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            about = {item.key: plain(item.value) for item in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    trace, ident = span.trace_id.hex(), span.span_id.hex()
                    self.arrived.setdefault(trace, time.monotonic())
                    if ident in self.spans[trace]:
                        self.repeated[trace] += 1
                    self.spans[trace][ident] = SeenSpan(
                        span.name,
                        str(about.get("service.name")),
                        scope.scope.name,
                        {item.key: plain(item.value) for item in span.attributes},
                    )

    def start(self) -> Backend:
        backend = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                backend.headers.append({key.lower(): value for key, value in self.headers.items()})
                if backend.answer == 200:
                    with lock:
                        backend.take(self.path, body)
                self.send_response(backend.answer)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            connections: list[socket.socket]

            def get_request(self) -> tuple[socket.socket, Any]:
                connection, address = super().get_request()
                self.connections.append(connection)
                return connection, address

            def handle_error(self, *_: object) -> None: ...  # a Collector that was killed hangs up

        lock = threading.Lock()
        Server.connections = []
        self._server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Refuse connections from now on, and cut those that are open."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            for connection in self._server.connections:  # type: ignore[attr-defined]
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._server = None


@dataclass
class Gateway:
    """Agent → front → sampling gateways → backend."""

    agent: Collector
    front: Collector
    sampling: list[Collector]
    backend: Backend

    def idle(self) -> bool:
        """Whether nothing is on its way any more: every queue is empty and the backend has been silent."""
        queued = sum(c.own("otelcol_exporter_queue_size") for c in (self.agent, self.front, *self.sampling))
        return queued == 0


@contextlib.contextmanager
def gateway(
    home: Path, *, sampling: int = 2, agent_layers: Sequence[str] = (), **environment: object
) -> Iterator[Gateway]:
    backend = Backend().start()
    common = {"COLLECTOR_EXPORT_ENDPOINT": backend.url, **environment}
    samplers = [Collector("gateway-sampling", home=home / f"sampling-{number}", **common) for number in range(sampling)]
    hosts = ", ".join(f"127.0.0.1:{one.grpc}" for one in samplers)
    front = Collector(
        "gateway-front",
        home=home / "front",
        **common | {"COLLECTOR_SAMPLING_GATEWAYS": f"[{hosts}]", "COLLECTOR_METRICS_EXPORTERS": "[prometheus]"},
    )
    agent = Collector(
        "agent",
        *agent_layers,
        home=home / "agent",
        **common
        | {
            "COLLECTOR_EXPORT_ENDPOINT": f"http://127.0.0.1:{front.http}",
            "COLLECTOR_METRICS_EXPORTERS": "[otlp_http/metrics, prometheus]",
        },
    )
    everyone = [*samplers, front, agent]
    try:
        for one in everyone:
            one.start()
        yield Gateway(agent, front, samplers, backend)
    finally:
        for one in reversed(everyone):
            one.stop()
        backend.stop()
