# SPDX-License-Identifier: Apache-2.0
"""What a Prometheus stores: the names that rules and panels ask for, others, or nothing."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from otelstream import cli
from otelstream._semconv import START_TIME, STREAM_TTFT
from otelstream.doctor import _prometheus, _setup

from .conftest import Doctor

TTFT = STREAM_TTFT.prometheus


class Store:
    """Answers an instant query as Prometheus does: one element a name that it has."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.labels = {"job": "chat"}
        self.asked: list[str] = []
        self.who: list[str | None] = []
        self.body: bytes | None = None
        store = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                at = urlsplit(self.path)
                if at.path != "/api/v1/query":
                    self.send_error(404)
                    return
                store.who.append(self.headers["Authorization"])
                store.asked += parse_qs(at.query)["query"]
                result = [{"metric": {"__name__": name, **store.labels}, "value": [0, "1"]} for name in store.names]
                self.send_response(200)
                self.end_headers()
                answer = {"status": "success", "data": {"resultType": "vector", "result": result}}
                self.wfile.write(store.body or json.dumps(answer).encode())

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def store() -> Iterator[Store]:
    one = Store()
    thread = threading.Thread(target=one.server.serve_forever, daemon=True)
    thread.start()
    yield one
    one.server.shutdown()
    one.server.server_close()
    thread.join(10)


@pytest.mark.parametrize(
    ("names", "codes"),
    [
        ([START_TIME.prometheus, f"{TTFT}_count"], []),
        ([START_TIME.prometheus], []),  # no stream yet
        ([START_TIME.prometheus, TTFT, f"{TTFT}_count"], []),  # both forms are stored
        ([START_TIME.name], ["names-untranslated"]),
        (["otelstream.start_time_seconds"], ["names-untranslated"]),
        (["otelstream_start_time"], ["names-untranslated"]),
        ([START_TIME.name, START_TIME.prometheus], ["names-untranslated"]),  # one process by OTLP, another scraped
        ([START_TIME.prometheus, TTFT], ["histograms-native"]),
        ([], ["not-stored"]),
    ],
    ids=lambda value: ", ".join(value) or "nothing",
)
def test_what_is_stored(names: list[str], codes: list[str], store: Store, doctor: Doctor) -> None:
    """`--prometheus` asks once, and finds what no rule and no panel would."""
    store.names = names

    seen = doctor("--prometheus", store.url + "/")

    assert (seen.exit_code, seen.codes) == (int(bool(codes)), codes)
    assert store.asked == [_prometheus.QUERY]


def test_series_without_a_job(store: Store, doctor: Doctor) -> None:
    """What came in by OTLP into a store that makes no job of the service's name is selected by nothing."""
    store.names, store.labels = [START_TIME.prometheus, f"{TTFT}_count"], {}

    assert doctor("--prometheus", store.url).codes == ["no-job"]


def test_what_does_not_answer_as_one(store: Store, doctor: Doctor) -> None:
    """Nobody there, another server, or no address: a finding, never a traceback."""
    for body in (b"<html>", b'{"data": {"result": [{}]}}', b"[]", b'{"data": null}'):
        store.body = body
        assert doctor("--prometheus", store.url).codes == ["prometheus-unreachable"], body
    for url in (f"{store.url}/elsewhere", "http://127.0.0.1:9", "localhost:9090", "file:///etc/passwd"):
        assert doctor("--prometheus", url).codes == ["prometheus-unreachable"], url


def test_a_prometheus_that_takes_otlp_in(store: Store, doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where metrics are sent to a Prometheus itself it is asked unbidden; that it has nothing yet is no finding."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{store.url}/api/v1/otlp/v1/metrics")
    assert doctor().codes == []

    store.names = [START_TIME.name]
    assert doctor().codes == ["names-untranslated"]

    store.body = b"<html>"
    assert doctor().codes == []


def test_an_exporter_that_the_program_made(store: Store) -> None:
    """The same for a reader of the running program, wherever it has its endpoint from."""
    store.names = [START_TIME.name]
    reader = {"endpoint": f"{store.url}/api/v1/otlp/v1/metrics"}

    found = [*_setup.endpoints({"traces": None, "metrics": {"readers": [reader]}})]

    assert [finding.code for finding in found] == ["names-untranslated"]


def test_other_endpoints_are_not_asked(store: Store, doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Collector is no Prometheus, and traces are no metrics."""
    store.names = [START_TIME.name]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{store.url}/v1/metrics")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{store.url}/api/v1/otlp/v1/traces")

    assert doctor().codes == []
    assert store.asked == []


def test_it_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """A command beside it is bad input: the processes to look at run already."""
    assert cli.main(["doctor", "--prometheus", "http://127.0.0.1:9", "python", "app.py"]) == 2
    assert "leave the command out" in capsys.readouterr().err


def test_the_report_says_where(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """For people: where was looked, and that nothing was wrong there."""
    store.names = [START_TIME.prometheus]

    assert cli.main(["doctor", "--prometheus", store.url]) == 0
    assert capsys.readouterr().out == f"nothing found in {store.url}\n"


def test_a_password_is_used_and_not_shown(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """User and password of the address go to that server, and into no report."""
    store.names = [START_TIME.name]

    assert cli.main(["doctor", "--prometheus", store.url.replace("://", "://me:s%40cret@")]) == 1
    assert cli.main(["doctor", "--prometheus", "http://me:s%40cret@127.0.0.1:9"]) == 1
    assert store.who == ["Basic " + base64.b64encode(b"me:s@cret").decode()]
    assert "cret" not in capsys.readouterr().out
