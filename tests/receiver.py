# SPDX-License-Identifier: Apache-2.0
"""A local OTLP receiver, by HTTP or by gRPC, that keeps what came and can say how much of what it was."""

from __future__ import annotations

import gzip
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from typing_extensions import Self

KINDS: dict[str, Any] = {
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/logs": ExportLogsServiceRequest,
}


class Receiver:
    """What came, as the protobuf messages they are."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.changed = threading.Condition()
        self.stop: Callable[[], None] = lambda: None
        self.port = 0

    def take(self, request: Any) -> None:
        with self.changed:
            self.requests.append(request)
            self.changed.notify_all()

    def wait_for(self, condition: Callable[[], Any], timeout: float = 60.0) -> bool:
        with self.changed:
            return bool(self.changed.wait_for(condition, timeout))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def spans(self) -> Iterator[tuple[dict[str, str], Any]]:
        """Each span with the attributes of its resource."""
        for request in list(self.requests):
            for resource in getattr(request, "resource_spans", ()):
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        yield _attributes(resource.resource), span

    def metrics(self) -> Iterator[tuple[dict[str, str], Any]]:
        """Each metric with the attributes of its resource."""
        for request in list(self.requests):
            for resource in getattr(request, "resource_metrics", ()):
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        yield _attributes(resource.resource), metric

    def total(self, name: str) -> dict[str, int]:
        """The last value of a cumulative counter, summed over its label sets, by `service.instance.id`."""
        last: dict[tuple[str, Any], int] = {}
        for resource, metric in self.metrics():
            if metric.name == name:
                for point in metric.sum.data_points:
                    labels = tuple(sorted(_attributes(point).items()))
                    last[resource.get("service.instance.id", ""), labels] = point.as_int
        totals: dict[str, int] = defaultdict(int)
        for (instance, _), value in last.items():
            totals[instance] += value
        return dict(totals)

    def text(self) -> str:
        """Everything that came, to look for what must not have."""
        return "\n".join(map(str, list(self.requests)))


def _attributes(thing: Any) -> dict[str, str]:
    return {
        each.key: str(getattr(each.value, each.value.WhichOneof("value") or "string_value"))
        for each in thing.attributes
    }


def over_http(port: int = 0) -> Receiver:
    """Listen for OTLP over HTTP on a free port of the loopback."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            receiver.take(KINDS[self.path].FromString(body))
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    receiver.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    receiver.stop = stop
    return receiver


def over_grpc(port: int = 0) -> Receiver:
    """Listen for OTLP over gRPC; port 4317 is where an exporter without settings goes."""
    from concurrent.futures import ThreadPoolExecutor

    import grpc
    from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
    from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc as logs_grpc
    from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
    from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as traces_grpc

    receiver = Receiver()

    def servicer(base: Any, answer: Any) -> Any:
        def export(self: Any, request: Any, context: Any) -> Any:
            receiver.take(request)
            return answer()

        return type("Servicer", (base,), {"Export": export})()

    server = grpc.server(ThreadPoolExecutor(4))
    traces_grpc.add_TraceServiceServicer_to_server(
        servicer(traces_grpc.TraceServiceServicer, traces.ExportTraceServiceResponse), server
    )
    metrics_grpc.add_MetricsServiceServicer_to_server(
        servicer(metrics_grpc.MetricsServiceServicer, metrics.ExportMetricsServiceResponse), server
    )
    logs_grpc.add_LogsServiceServicer_to_server(
        servicer(logs_grpc.LogsServiceServicer, logs.ExportLogsServiceResponse), server
    )
    receiver.port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    receiver.stop = lambda: server.stop(None).wait()
    return receiver
