# SPDX-License-Identifier: Apache-2.0
"""A recording out of a Prometheus: what is asked, what is made of the answers, and all of it with a real one."""

from __future__ import annotations

import json
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from slo.tools import free_port, prometheus, wait_for

from otelstream import _semconv as s
from otelstream.cli import main
from otelstream.texture._recording import load

STREAMS, TTFT, RATE, PAUSE = (
    metric.prometheus for metric in (s.STREAMS, s.STREAM_TTFT, s.STREAM_OUTPUT_RATE, s.TOOL_PAUSE)
)
LE, MODELS = s.GAP_LE, "group by"
Answers = dict[str, list[tuple[dict[str, str], float]]]


class Store:
    """Answers a query by the series that stands in it."""

    def __init__(self, answers: Answers) -> None:
        self.asked: list[str] = []
        store = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                (query,) = parse_qs(urlsplit(self.path).query)["query"]
                store.asked.append(query)
                held = (
                    answers.get(MODELS, [])
                    if query.startswith(MODELS)
                    else next((found for name, found in answers.items() if f"{name}{{" in query), [])
                )
                result = [{"metric": labels, "value": [0, str(value)]} for labels, value in held]
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps({"data": {"result": result}}).encode())

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


def buckets(**counts: float) -> list[tuple[dict[str, str], float]]:
    return [({LE: bound.replace("_", ".").removeprefix("le")}, count) for bound, count in counts.items()]


ANSWERS: Answers = {
    STREAMS: [
        ({s.label_name(s.OUTCOME): "completed"}, 118.4),
        ({s.label_name(s.OUTCOME): "truncated"}, 2),
        ({s.label_name(s.OUTCOME): "failed"}, 5),
        ({s.label_name(s.OUTCOME): "refused"}, 0.1),
    ],
    f"{TTFT}_bucket": [*buckets(le0_5=40, le1=90, le2_5=121), ({LE: "+Inf"}, 120.9)],
    f"{TTFT}_count": [({}, 121)],
    # Not kept in buckets by default: one bound alone says nothing of a distribution.
    f"{s.STREAM_THINKING_TIME.prometheus}_bucket": [({LE: "+Inf"}, 30)],
    f"{s.STREAM_THINKING_TIME.prometheus}_count": [({}, 30)],
    f"{PAUSE}_count": [
        ({s.label_name(s.TOOL_CALL_PREAMBLE): word}, count) for word, count in (("True", 8), ("false", 2))
    ],
    s.STREAM_STALLED.prometheus: [({s.label_name(s.STALL_SOURCE): "provider"}, 3)],
}


@pytest.fixture
def store() -> Iterator[Store]:
    one = Store(ANSWERS)
    thread = threading.Thread(target=one.server.serve_forever, daemon=True)
    thread.start()
    yield one
    one.server.shutdown()
    one.server.server_close()
    thread.join(10)


def test_what_is_made_of_the_answers(store: Store, tmp_path: Path, capsys: Any) -> None:
    """Counts are whole, a bucket never has fewer than the one before it, and what there is none of is left out."""
    path = tmp_path / "it.json"

    assert (
        main(["texture", "record", "-o", str(path), "--prometheus", store.url, "--model", "m", "--window", "6h"]) == 0
    )

    assert f"120 answers of m (left out: 5 failed) in {path}" in capsys.readouterr().err
    texture = load(path).models["m"]
    assert texture.left_out == {"failed": 5}
    assert texture.shares == {"thinking": (30, 121), "preamble": (8, 10), "stalls": (3, 125)}
    assert [*texture.buckets] == ["first_token"]
    assert texture.buckets["first_token"].bounds == (0.5, 1.0, 2.5, float("inf"))
    assert texture.buckets["first_token"].counts == (40, 90, 121, 121)
    assert all('gen_ai_request_model="m"' in query and "[6h]" in query for query in store.asked)


BY_OUTCOME = json.dumps({"metric": {s.label_name(s.OUTCOME): "completed"}, "value": [0, "+Inf"]})
NO_PROMETHEUS = {
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "cut off": b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{",
    "no object": b"HTTP/1.1 200 OK\r\n\r\n[]",
    "too deep": b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000,
    "no series": b'HTTP/1.1 200 OK\r\n\r\n{"data": {"result": [7]}}',
    "no number": b'HTTP/1.1 200 OK\r\n\r\n{"data": {"result": [%s]}}' % BY_OUTCOME.encode(),
}


@pytest.mark.parametrize("answer", NO_PROMETHEUS)
def test_what_answers_is_no_prometheus(answer: str, tmp_path: Path, capsys: Any) -> None:
    """A wrong port, a broken answer, a count that is none: one line that names the address, and what to give."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(NO_PROMETHEUS[answer])

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        code = main(["texture", "record", "-o", str(tmp_path / "x"), "--prometheus", url, "--model", "m"])
        server.shutdown()
        thread.join(10)

    told = capsys.readouterr().err
    assert code == 2
    assert f"--prometheus {url} does not answer as a Prometheus does: " in told
    assert told.count("\n") == 1


def test_a_model_that_is_not_there(store: Store, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The models that are there are named."""
    monkeypatch.setitem(ANSWERS, STREAMS, [])
    known = [({s.label_name(s.REQUEST_MODEL): name}, 1.0) for name in ("b", "a")]
    monkeypatch.setitem(ANSWERS, MODELS, known)

    assert main(["texture", "record", "-o", str(tmp_path / "x"), "--prometheus", store.url, "--model", 'no"m']) == 2

    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f'--model no"m: no stream of it ended in 1h at {store.url}; known: a, b' in told
    assert 'gen_ai_request_model="no\\"m"' in store.asked[0]


@pytest.mark.slow
def test_a_real_prometheus(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two models of one program, as a Prometheus scraped them: each answer is counted, the pause's end is found."""
    monkeypatch.chdir(tmp_path)
    answers, port = 25, free_port()
    config = f"""
scrape_configs:
  - job_name: chat
    scrape_interval: 1s
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""
    program = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("application.py")), str(port), str(answers)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        with prometheus(tmp_path, config) as server:
            assert program.stdout is not None
            assert program.stdout.readline() == "done\n"

            def recorded(model: str) -> bool:
                """Once it has scraped all of them."""
                words = ["-o", f"{model}.json", "--prometheus", server.url, "--model", model, "--window", "10m"]
                done = main(["texture", "record", *words]) == 0
                return done and load(Path(f"{model}.json")).models[model].answers == answers

            for model in ("old", "new"):
                wait_for(lambda: recorded(model), f"every answer of {model}")  # noqa: B023
    finally:
        program.communicate("", timeout=30)

    old = load(Path("old.json")).models["old"]
    assert old.shares == {"thinking": (0, answers), "preamble": (answers, answers), "stalls": (0, answers)}
    assert {*old.buckets} == {"first_token", "output_rate", "tool_pause"}
    assert main(["texture", "compare", "old.json", "new.json", "--json"]) == 0
    told = capsys.readouterr().out
    rows = {row["measure"]: row for row in json.loads(told[told.index("{") :])["models"][0]["measures"]}
    assert rows["tool_pause"]["verdict"] == rows["preamble"]["verdict"] == "changed"
    assert -1 < rows["tool_pause"]["change"] < -0.2
    assert rows["first_token"]["verdict"] == "same"
