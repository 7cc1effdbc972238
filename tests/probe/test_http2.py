# SPDX-License-Identifier: Apache-2.0
"""The probe over HTTP/2 and over TLS: ends and cancels are of HTTP/2's own kinds, and certificates may be private."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from otelstream.cli import main
from otelstream.probe._bench import Bench
from otelstream.probe._client import Target
from otelstream.probe._http import Http2
from otelstream.probe._report import Report
from otelstream.probe._run import run
from tests.probe import proxies, proxies_http2
from tests.probe.test_planted import CANCELS, QUICK, said
from tests.probe.test_probe_command import answering

ENDS = frozenset({"cadence", "error-event", "cut-fin", "cut-reset", "early-end", "cancel-silent", "body-2"})


def over_http2(proxy: type[proxies.Proxy], only: frozenset[str]) -> Report:
    """What is said of a proxy that is known to speak HTTP/2."""
    bench = Bench(Target("http://127.0.0.1:1"), replace(QUICK, only=only))
    bench.start()
    try:
        with proxy(bench.sim.port) as standing:
            bench.gateway = Target(f"http://127.0.0.1:{standing.port}", http2=True)
            return run(bench, 20)
    finally:
        bench.stop()


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """A server's side of TLS, and the certificate of the private CA that vouches for it."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: apt-get install openssl")
    folder = tmp_path_factory.mktemp("tls")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    new = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    for command in (
        f"req -x509 {new} -keyout ca.key -out ca.pem -days 2 -subj /CN=private",
        f"req {new} -keyout key.pem -out asked -subj /CN=gateway",
        "x509 -req -in asked -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out certificate.pem",
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context, folder / "ca.pem"


@pytest.mark.parametrize(
    ("proxy", "expected"),
    [
        (proxies_http2.Http2, {}),
        (proxies_http2.EndsInOrder, {"cut-fin": "hidden", "cut-reset": "hidden"}),
        (proxies_http2.GoesAway, {}),
        pytest.param(proxies_http2.DrainsStreams, dict.fromkeys(CANCELS, "lost"), marks=pytest.mark.slow),
    ],
)
def test_what_a_planted_proxy_does_over_http2(proxy: type[proxies.Proxy], expected: dict[str, str]) -> None:
    """RST_STREAM and GOAWAY are cuts and END_STREAM is none; a cancel is an RST_STREAM on a connection that stays."""
    report = over_http2(proxy, ENDS | frozenset(expected))

    assert said(report) == expected, "\n".join(report.lines())
    assert report.http == "HTTP/2"
    hidden = [result.remedy for result in report.results if result.verdict == "hidden"]
    assert all(remedy.startswith("RST_STREAM towards the client") for remedy in hidden)


@pytest.mark.parametrize(
    ("proxy", "told"),
    [(proxies_http2.Http2, "RST_STREAM INTERNAL_ERROR"), (proxies_http2.GoesAway, "GOAWAY INTERNAL_ERROR")],
)
def test_which_end_it_was(proxy: type[proxies.Proxy], told: str) -> None:
    """The line says by which of HTTP/2's ways the answer ended."""
    (result,) = over_http2(proxy, frozenset({"cut-fin"})).results

    assert told in result.measured


def test_both_are_measured_where_tls_offers_both(
    certified: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway may be right to HTTP/1.1 clients and wrong to those of HTTP/2, and the codes tell which."""
    context, authority = certified
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    found = {}
    for offered in (["h2", "http/1.1"], ["http/1.1"]):
        context.set_alpn_protocols(offered)
        only = frozenset({"cut-fin", "http2-cut-fin", "http-version"})
        bench = Bench(Target("http://127.0.0.1:1"), replace(QUICK, only=only))
        bench.start()
        try:
            with proxies_http2.EndsInOrder(bench.sim.port, context) as standing:
                bench.gateway = Target(f"https://127.0.0.1:{standing.port}")
                report = run(bench, 20)
        finally:
            bench.stop()
        found[offered[0]] = {result.code: (result.verdict, result.measured) for result in report.results}
        assert report.http == "HTTP/1.1"

    assert found["h2"]["cut-fin"][0] == "kept"
    assert found["h2"]["http2-cut-fin"][0] == "hidden"
    assert found["h2"]["http-version"][1] == "HTTP/1.1; HTTP/2 is offered, too"
    assert found["http/1.1"].keys() == {"cut-fin", "http-version"}
    assert found["http/1.1"]["http-version"][1] == "HTTP/1.1"


def test_a_private_ca(
    certified: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """2, and one line that says how to have it trusted; trusted, it is measured."""
    context, authority = certified
    context.set_alpn_protocols(["http/1.1"])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with proxies.Proxy(port, context) as standing:
        command = ["probe", f"https://127.0.0.1:{standing.port}", "--upstream-port", str(port), "--only", "error-event"]
        assert main([*command, "--wait", "5"]) == 2
        told = capsys.readouterr().err.splitlines()[-1]
        assert "is not trusted" in told
        assert "SSL_CERT_FILE" in told
        assert main([*command, "--http2", "--wait", "5"]) == 2

        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        assert main([*command, "--http2", "--wait", "5"]) == 2
        assert "offers no HTTP/2 over TLS; leave --http2 out" in capsys.readouterr().err.splitlines()[-1]

        assert main([*command, "--repeats", "1"]) == 0


def test_a_gateway_that_speaks_the_other_one(capsys: pytest.CaptureFixture[str]) -> None:
    """2, and one line, where HTTP/2 meets a server of HTTP/1.1, and the other way round."""
    command = ["--upstream-port", "0", "--wait", "0.2"]
    with answering(200) as older, proxies_http2.Http2(1) as newer:
        assert main(["probe", older, "--http2", *command]) == 2
        assert "leave --http2 out" in capsys.readouterr().err.splitlines()[-1]
        assert main(["probe", f"http://127.0.0.1:{newer.port}", *command]) == 2
        assert "does not speak HTTP/1.1; try --http2" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("absent", ["h2", "h11"])
def test_without_the_library(absent: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """2, and one line with what to install; what needs no connection needs no library."""
    monkeypatch.setattr(Http2, "available", lambda: absent != "h2")
    if absent == "h11":
        monkeypatch.setitem(sys.modules, "otelstream.testing", None)
        monkeypatch.delitem(sys.modules, "otelstream.probe._bench")
        monkeypatch.delattr("otelstream.probe._bench")

    assert main(["probe", "--config", "nginx"]) == main(["probe", "--list"]) == 0
    assert main(["probe", "http://127.0.0.1:1", "--http2"]) == 2

    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert 'pip install "otelstream[probe]"' in told
