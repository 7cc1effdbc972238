# SPDX-License-Identifier: Apache-2.0
"""`otelstream probe` as it is typed: exit codes, forms of the report, one line for what is wrong, nothing left over."""

from __future__ import annotations

import io
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from otelstream.cli import main
from otelstream.probe import _configs
from otelstream.probe._report import CODES, VERDICTS, Report, Result, read_baseline
from otelstream.testing import ProviderSimulator, Schedule
from tests.probe import proxies

FEW = ["--only", "error-event,status,line-separators", "--repeats", "1", "--wait", "20"]


@pytest.fixture
def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def answering(status: int) -> Iterator[str]:
    """A gateway that answers each request with this status."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def left(before: set[threading.Thread]) -> list[str]:
    """The threads of ours that have come and not gone: other tests' providers may stand meanwhile."""
    return [each.name for each in set(threading.enumerate()) - before if each.name.startswith("otelstream-")]


def test_a_good_gateway(free_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    """0, a line for each check under one for the run; where to point the gateway goes to standard error."""
    before = set(threading.enumerate())
    with proxies.Proxy(free_port) as proxy:
        code = main(["probe", f"http://127.0.0.1:{proxy.port}", "--upstream-port", str(free_port), *FEW])

    told = capsys.readouterr()
    assert (code, left(before)) == (0, [])
    assert f"at http://127.0.0.1:{free_port}" in told.err
    lines = told.out.splitlines()
    assert [line.split()[:2] for line in lines[1:-1]] == [
        ["kept", code] for code in ("error-event", "status", "line-separators")
    ]
    assert lines[-1] == "3 kept"


def test_what_a_report_is_for(free_port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """1 for what is hidden; 0 against a baseline that knew it; 1 where it got worse, and for --fail-on; a table too."""
    baseline, good = tmp_path / "known.json", tmp_path / "good.json"
    with proxies.SwallowsErrors(free_port) as proxy:
        command = ["probe", f"http://127.0.0.1:{proxy.port}", "--upstream-port", str(free_port), *FEW]
        assert main([*command, "--json"]) == 1
        baseline.write_text(capsys.readouterr().out)
        report = json.loads(baseline.read_text())
        assert report["failing"] == ["error-event"]
        assert {check["code"]: check["verdict"] for check in report["checks"]}["error-event"] == "hidden"

        assert main([*command, "--baseline", str(baseline)]) == 0
        capsys.readouterr()
        good.write_text(json.dumps({**report, "checks": [{**each, "verdict": "kept"} for each in report["checks"]]}))
        assert main([*command, "--baseline", str(good), "--markdown"]) == 1
        told = capsys.readouterr().out
    assert "| `error-event` | **hidden** | the upstream sent an `error` event; the client saw a clean end |" in told
    assert "error-event is hidden" in told


def test_fail_on() -> None:
    """Of the verdicts that do not fail by themselves, those that are named do."""
    report = Report("http://gateway", results=[Result(each, each, "") for each in VERDICTS])  # type: ignore[arg-type]

    assert {result.code for result in report.failing()} == {"hidden", "lost", "retried"}
    assert {result.code for result in report.failing(["late"])} == {"hidden", "lost", "retried", "late"}
    assert not report.worse_than(dict.fromkeys(VERDICTS, "lost"))
    assert {each.code for each in report.worse_than(dict.fromkeys(VERDICTS, "kept"))} == {
        *("changed", "late", "invented"),
        *("lost", "hidden", "retried"),
    }
    assert not report.worse_than(dict.fromkeys(VERDICTS, "unseen"))
    assert read_baseline(report.as_dict()) == {each: each for each in VERDICTS}


@pytest.mark.parametrize(("status", "remedy"), [(401, "--header"), (404, "--route"), (502, "point its upstream at")])
def test_a_gateway_that_refuses(status: int, remedy: str, capsys: pytest.CaptureFixture[str]) -> None:
    """2, and one line with the status and the remedy."""
    before = set(threading.enumerate())
    with answering(status) as url:
        assert main(["probe", url, "--upstream-port", "0", "--wait", "0.2"]) == 2

    told = capsys.readouterr().err.splitlines()[-1]
    assert f"answered {status}" in told
    assert remedy in told
    assert left(before) == []


def test_nobody_there(free_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    """2, and one line, where nothing listens, where our port is taken, and where TLS meets none."""
    assert main(["probe", f"http://127.0.0.1:{free_port}", "--upstream-port", "0", "--wait", "0.2"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert "nothing answers" in told
    assert "start it, or mend the URL" in told

    with ProviderSimulator() as taken:
        assert main(["probe", taken.base_url, "--upstream-port", str(taken.port)]) == 2
        told = capsys.readouterr().err
        assert f"--upstream-port {taken.port}" in told
        assert "in use" in told
        assert "a free port or 0" in told

        assert main(["probe", f"https://127.0.0.1:{taken.port}", "--upstream-port", "0", "--wait", "5"]) == 2
        assert "does not speak TLS" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], ("give the URL", "--live")),
        (["gateway:8080"], ("gateway:8080", "http://gateway:8080")),
        (["http://g:99999"], ("http://g:99999", "give a base URL")),
        (["http://g", "--header", "x"], ("--header x", "give a header")),
        (["http://g", "--header", "x-api-key: env:NO_SUCH"], ("--header x-api-key", "NO_SUCH is not set", "export it")),
        (["http://g", "--idle", "70,x"], ("--idle x", "give seconds from 0.1 to 3600")),
        (["http://g", "--repeats", "0"], ("--repeats 0", "give runs from 1")),
        (["http://g", "--only", "nope"], ("--only nope", "give codes of --list")),
        (["http://g", "--json", "--markdown"], ("--json", "one of them")),
        (["http://g", "--baseline", "none.json"], ("--baseline none.json", "No such file", "--json > none.json")),
        (["http://g", "--baseline", "bad.json"], ("--baseline bad.json", "no report of a probe")),
        (["http://g", "--config", "apache"], ("--config", "'apache'", "nginx")),
        (["--live", "http://g"], ("--model NAME",)),
        (["http://g", "--live", "http://g"], ("only one of them",)),
        (["--live", "http://g", "--model", "m"], ("5 requests", "--yes")),
    ],
)
def test_wrong_input(
    arguments: list[str],
    said: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """2, and one line that names option, value and remedy; nothing is sent."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.json").write_text("[]")
    monkeypatch.setattr("otelstream.probe._client.Call.__init__", lambda *_: pytest.fail("a request was sent"))
    monkeypatch.setattr("sys.stdin", io.StringIO())

    assert main(["probe", *arguments]) == 2

    told = capsys.readouterr().err
    assert told.count("\n") == 1
    for part in said:
        assert part in told


class Counts(proxies.Proxy):
    """Says when so many requests have come."""

    asked = 0
    reached: threading.Event

    def refuse(self, body: bytes) -> int | None:
        self.asked += 1
        if self.asked == 4:
            self.reached.set()
        return None


@pytest.mark.parametrize("measuring", [False, True], ids=["waiting", "measuring"])
def test_interrupted(measuring: bool, free_port: int) -> None:
    """Ctrl-C while it waits or measures: one line, 2, and neither a process nor a port is left."""
    with ProviderSimulator() as never, Counts(free_port) as proxy:
        proxy.reached = threading.Event()
        never.play("text_short", schedule=Schedule(headers=60), times=None)
        url = f"http://127.0.0.1:{proxy.port}" if measuring else never.base_url
        command = [sys.executable, "-m", "otelstream", "probe", url, "--upstream-port", str(free_port), "--json"]
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert running.stderr is not None
            assert "point the upstream" in running.stderr.readline()
            assert proxy.reached.wait(30) if measuring else never.wait_for(len)
            running.send_signal(signal.SIGINT)
            out, err = running.communicate(timeout=30)
            assert (running.returncode, out) == (2, "")
            assert err.splitlines() == [
                "otelstream probe: interrupted, nothing is left running; start it again for a whole report"
            ]
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", free_port), timeout=5)
        finally:
            running.kill()
            running.communicate()


@pytest.mark.parametrize("name", _configs.NAMES)
def test_a_configuration(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is printed whole, with our upstream in it."""
    assert main(["probe", "--config", name, "--upstream-port", "8123"]) == 0

    told = capsys.readouterr().out
    assert "8123" in told
    assert "@UPSTREAM" not in told
    assert "@HOST" not in told
    assert "@PORT" not in told
    assert "@MANAGER" not in told


def test_every_address_of_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    """An upstream that listens on all is told by the machine's name: no gateway reaches 0.0.0.0."""
    assert main(["probe", "--config", "nginx", "--upstream-host", "0.0.0.0"]) == 0
    assert f"proxy_pass http://{socket.gethostname()}:8099;" in capsys.readouterr().out

    with answering(502) as url:
        command = ["probe", url, "--upstream-host", "0.0.0.0", "--upstream-port", "0", "--wait", "0.2"]
        assert main(command) == 2
    told = capsys.readouterr().err
    assert told.count(f"at http://{socket.gethostname()}:") == 2
    assert "0.0.0.0" not in told


def test_the_checks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """`--list` has every code, and what it says."""
    assert main(["probe", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(CODES)


class TestLive:
    def test_only_what_a_client_can_see(self, sim: ProviderSimulator, capsys: pytest.CaptureFixture[str]) -> None:
        """As many requests as allowed, and a verdict for what they show; of a cancel it says nothing."""
        sim.play("text_long", schedule=Schedule(gap=0.002), times=None)

        assert main(["probe", "--live", sim.base_url, "--model", "m", "--max-requests", "2", "--yes", "--json"]) == 0

        found = {check["code"]: check["verdict"] for check in json.loads(capsys.readouterr().out)["checks"]}
        assert len(sim.log) == 2
        assert found["well-formed"] == found["terminal-event"] == found["compression"] == "kept"
        seen = {"cadence", "pings", "well-formed", "terminal-event", "compression", "http-version"}
        assert {code for code, verdict in found.items() if verdict != "unseen"} == seen
        assert found["cancel-silent"] == found["cancel-flowing"] == found["retries-429"] == "unseen"

    @pytest.mark.parametrize(("fault", "verdict"), [("end_after=chunks:5", "hidden"), ("cut_after=chunks:5", "lost")])
    def test_an_answer_that_is_not_whole(
        self, sim: ProviderSimulator, fault: str, verdict: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A missing terminal event is hidden by a clean end, and lost in a cut."""
        sim.play("text_long", fault=fault, times=None)

        assert main(["probe", "--live", sim.base_url, "--model", "m", "--max-requests", "1", "--yes"]) == 1

        assert f"  {verdict:12}  terminal-event" in capsys.readouterr().out

    @pytest.mark.parametrize(("answer", "code", "sent"), [("n", 2, 0), ("", 2, 0), ("y", 0, 1)])
    def test_it_asks_first(
        self,
        answer: str,
        code: int,
        sent: int,
        sim: ProviderSimulator,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Before anything is sent it says how much to whom; only a yes lets it. What it cannot see shares one line."""
        sim.play("text_long", schedule=Schedule(gap=0.002), times=None)  # at once, it would be one burst
        asked = io.StringIO(f"{answer}\n")
        monkeypatch.setattr(asked, "isatty", lambda: True, raising=False)
        monkeypatch.setattr("sys.stdin", asked)

        assert main(["probe", "--live", sim.base_url, "--model", "m", "--max-requests", "1"]) == code

        told = capsys.readouterr()
        assert len(sim.log) == sent
        assert f"1 request of at most 400 tokens to {sim.base_url}" in told.err
        assert told.out.count("cannot be seen from here") == sent

    def test_a_key_that_is_not_accepted(self, sim: ProviderSimulator, capsys: pytest.CaptureFixture[str]) -> None:
        """One line with the status and what the gateway said, and no further request."""
        sim.play("text_short", fault="http_error=401", times=None)

        assert main(["probe", "--live", sim.base_url, "--model", "m", "--yes"]) == 2

        assert len(sim.log) == 1
        told = capsys.readouterr().err
        assert "status 401" in told
        assert "--header" in told


def test_the_page_has_every_code() -> None:
    """docs/probe.md lists the checks as the code does."""
    page = (Path(__file__).parents[2] / "docs" / "probe.md").read_text(encoding="utf-8")

    assert [line for line in page.splitlines() if line.startswith("| `") and line.split("`")[1] in CODES] == [
        f"| `{code}` | {what} |" for code, what in CODES.items()
    ]
