# SPDX-License-Identifier: Apache-2.0
"""`otelstream run`: whatever the program is and however it ends, it stays itself and its streams are shown."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("anthropic")

from otelstream.testing import ProviderSimulator

LIMIT = 60.0
PRELUDE = """
import os, sys
import anthropic

def ask(play="text_short", wait=None):
    client = anthropic.Anthropic(base_url=os.environ["SIM"], api_key="k", max_retries=0)
    with client.messages.stream(
        model="model-1", max_tokens=64, messages=[{"role": "user", "content": "x"}],
        extra_headers={"otelstream-play": play},
    ) as stream:
        for event in stream:
            if wait is not None and event.type == "text":
                wait()
"""


@pytest.fixture(scope="module")
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as simulator:
        yield simulator


class Ran:
    """A finished `otelstream run`."""

    def __init__(self, code: int, out: bytes, err: bytes, folder: Path) -> None:
        self.code, self.out, self.err, self.folder = code, out, err.decode(), folder

    @property
    def page(self) -> str:
        return (self.folder / "otelstream.html").read_text(encoding="utf-8")

    @property
    def lines(self) -> list[str]:
        """The line of every stream, from its outcome on."""
        return re.findall(r"^\d\d:\d\d:\d\d +\S+ +(.*)$", self.err, re.MULTILINE)


Run = Callable[..., Ran]


def _environment(sim: ProviderSimulator) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL", "PYTEST", "COV"))}
    kept.pop("PYTHONPATH", None)
    return {**kept, "SIM": sim.base_url, "LC_ALL": "C.UTF-8"}


def _start(
    folder: Path,
    environment: dict[str, str],
    source: str,
    *words: str,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    terminal: int | None = None,
    **more: Any,
) -> subprocess.Popen[bytes]:
    (folder / "app.py").write_text(PRELUDE + textwrap.dedent(source), encoding="utf-8")
    command = [sys.executable, "-m", "otelstream", "run", *(words or ("app.py",))]
    more = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    environment = {**environment, **(env or {})}
    return subprocess.Popen(
        command,
        cwd=cwd or folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: _by_hand(terminal),
        **more,
    )


def _by_hand(terminal: int | None) -> None:
    """As a shell starts what somebody types: a session, its terminal, and Ctrl-C, which shells ignore behind an `&`."""
    import fcntl
    import termios

    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if terminal is not None:
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


@pytest.fixture
def start(tmp_path: Path, sim: ProviderSimulator) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start `otelstream run` in an empty directory that holds `app.py` with the given text."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(source: str, *words: str, **more: Any) -> subprocess.Popen[bytes]:
        process = _start(tmp_path, _environment(sim), source, *words, **more)
        started.append(process)
        return process

    yield begin
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with what it started: that holds the pipes too
        process.communicate()


@pytest.fixture
def run(start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path) -> Run:
    def whole(source: str, *words: str, **more: Any) -> Ran:
        process = start(source, *words, **more)
        out, err = process.communicate(timeout=LIMIT)
        return Ran(process.returncode, out, err, tmp_path)

    return whole


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen within {LIMIT} s")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, sim: ProviderSimulator) -> Ran:
    """One program that is asked about by several tests: binary output, arguments, a sitecustomize, an exit code."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text("import sys; sys.theirs = True")
    source = """
    ask()
    try:
        ask("text_long; cut_after=chunks:20")
    except Exception:
        pass
    chained = getattr(sys, "theirs", False) and not any("_bootstrap" in entry for entry in sys.path)
    sys.stdout.buffer.write(bytes(range(256)) * 400 + repr((__name__, sys.argv[1:], chained)).encode())
    sys.stdout.flush()
    sys.exit(7)
    """
    process = _start(folder, _environment(sim), source, "app.py", "--json", "-m", "x", env={"PYTHONPATH": "site"})
    out, err = process.communicate(timeout=LIMIT)
    return Ran(process.returncode, out, err, folder)


def test_a_script_keeps_its_exit_code(plain: Ran) -> None:
    """The exit code is the program's own."""
    assert plain.code == 7


def test_a_script_keeps_its_output(plain: Ran) -> None:
    """Not one byte of the program's output is changed, and options after its name are its own."""
    assert plain.out == bytes(range(256)) * 400 + b"('__main__', ['--json', '-m', 'x'], True)"


def test_another_sitecustomize_still_runs(plain: Ran) -> None:
    """The one that ours hides is imported, and ours is gone from sys.path."""
    assert plain.out.endswith(b"True)")


def test_every_stream_has_a_line_and_a_lane(plain: Ran) -> None:
    """One line a stream as it ends, then the headline; the page says the same."""
    assert [line.split()[0] for line in plain.lines] == ["completed", "failed"]
    assert "2 said 200, 1 of those failed after it." in plain.err
    assert "2</b> said 200" in plain.page


def test_a_module_that_crashes(run: Run) -> None:
    """`-m module` runs a module of the current directory; one killed by a signal gives a shell's exit code."""
    ran = run("ask()\nprint(__name__, sys.argv[1:], flush=True)\nos.kill(os.getpid(), 9)", "-m", "app", "--page")

    assert ran.code == 128 + 9
    assert ran.out.decode().strip() == "__main__ ['--page']"
    assert len(ran.lines) == 1
    assert "1</b> said 200" in ran.page


def test_json_lines(run: Run) -> None:
    """With --json every stream is one JSON object with all that otelstream wrote on its span."""
    ran = run("ask()", "--json", "--no-page", sys.executable, "app.py")

    (line,) = [json.loads(line) for line in ran.err.splitlines() if line.startswith("{")]
    assert line["attributes"]["otelstream.stream.outcome"] == "completed"
    assert not (ran.folder / "otelstream.html").exists()


@pytest.fixture(params=["sigtimedwait", "without"])
def signals(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment of a system that has `sigtimedwait`, and of one that has not, such as macOS."""
    if request.param == "sigtimedwait":
        return {}
    (tmp_path / "mac").mkdir()
    (tmp_path / "mac" / "sitecustomize.py").write_text("import signal\ndel signal.sigtimedwait\n")
    return {"PYTHONPATH": str(tmp_path / "mac")}


@pytest.mark.parametrize("word", ["SIGINT", "SIGTERM"])
def test_a_hanging_program_is_ended_by_a_signal(
    start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path, word: str, signals: dict[str, str]
) -> None:
    """A signal to `otelstream run` reaches the program once, and the page is kept."""
    source = """
    import signal, time
    ask()
    open("ready", "w").close()
    while True:
        time.sleep(0.1)
    """
    process = start(source, env=signals)
    wait_for((tmp_path / "ready").exists, "the program's start")

    process.send_signal(getattr(signal, word))
    _, err = process.communicate(timeout=LIMIT)

    ran = Ran(process.returncode, b"", err, tmp_path)
    assert ran.code == 128 + getattr(signal, word)
    assert ran.err.count("KeyboardInterrupt") == (word == "SIGINT")
    assert len(ran.lines) == 1
    assert "1</b> said 200" in ran.page


def test_ctrl_c_reaches_the_program_once(
    tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]], signals: dict[str, str]
) -> None:
    """On a terminal Ctrl-C goes to both processes; the program sees it once, and its open stream is told."""
    source = """
    caught = []
    import signal
    def count(*_):
        caught.append(1)
        open("caught", "w").write(str(len(caught)))
    signal.signal(signal.SIGINT, count)
    def wait():
        open("ready", "w").close()
    ask("text_long; stall_after=3,chunks:30; gap=0.01", wait=wait)
    sys.exit(5)
    """
    ours, theirs = pty.openpty()
    process = start(source, stdout=theirs, stderr=theirs, env=signals, terminal=theirs)
    os.close(theirs)
    wait_for((tmp_path / "ready").exists, "the stream")

    os.write(ours, b"\x03")
    output = _drain(ours)

    assert process.wait(timeout=LIMIT) == 5
    assert (tmp_path / "caught").read_text() == "1"
    assert "completed" in output
    assert (tmp_path / "otelstream.html").exists()


def _drain(handle: int) -> str:
    data = b""
    while True:
        try:
            more = os.read(handle, 65536)
        except OSError:
            return data.decode(errors="replace")
        if not more:
            return data.decode(errors="replace")
        data += more


def test_a_program_that_forks(run: Run) -> None:
    """Streams of parent and children are in one page."""
    source = """
    ask()
    for _ in range(3):
        if os.fork() == 0:
            ask("text_long; end_after=chunks:5")
            os._exit(0)
    for _ in range(3):
        os.wait()
    ask()
    """
    ran = run(source)

    assert ran.code == 0
    assert sorted(line.split()[0] for line in ran.lines) == ["completed"] * 2 + ["failed"] * 3
    assert "5</b> said 200" in ran.page


def test_a_program_that_starts_another(run: Run) -> None:
    """A child interpreter is observed like its parent: reloaders and spawned workers are nothing else."""
    source = """
    import subprocess
    if len(sys.argv) == 1:
        sys.exit(subprocess.call([sys.executable, "app.py", "child"]))
    ask()
    """
    assert len(run(source).lines) == 1


def test_a_directory_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    """The page goes to a temporary directory, and one line says where."""
    closed = Path("/proc") if os.geteuid() == 0 else tmp_path / "closed"
    if closed.name == "closed":
        closed.mkdir(mode=0o500)
    elif not closed.is_dir():
        pytest.skip("no directory here that root cannot write to")

    ran = run("ask()", str(tmp_path / "app.py"), cwd=closed, env={"TMPDIR": str(tmp_path)})

    assert ran.code == 0
    (line,) = [line for line in ran.err.splitlines() if "cannot be written" in line]
    page = Path(line.rpartition(" ")[2])
    assert "1</b> said 200" in page.read_text(encoding="utf-8")


def test_a_program_that_exports_keeps_exporting(run: Run) -> None:
    """A provider that the program sets, though late, stays the global one and gets what it got without us."""
    source = """
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    ask()
    trace.set_tracer_provider(provider)
    ask()
    assert trace.get_tracer_provider() is provider
    for span in exporter.get_finished_spans():
        print(span.attributes["otelstream.stream.outcome"])
    """
    ran = run(source)

    # The first stream had no provider of the program's to go to; it is shown all the same.
    assert (ran.code, ran.out.decode().split(), len(ran.lines)) == (0, ["completed"], 2)


def test_a_program_that_sets_up_otelstream_itself(run: Run) -> None:
    """Its own `instrument()` stays in force, and its streams are shown once."""
    ran = run("import otelstream\notelstream.instrument(stall_threshold=5)\nask()\notelstream.instrument()\nask()")

    assert ran.code == 0
    assert len(ran.lines) == 2


def test_nothing_of_ours_is_loaded_without_a_provider(run: Run) -> None:
    """A Python program that never imports a provider's SDK loads nothing of otelstream or OpenTelemetry."""
    ran = run(
        "", sys.executable, "-c", "import sys; print([m for m in sys.modules if 'otel' in m or 'openteleme' in m])"
    )

    assert ran.out.decode().strip() == "[]"
    assert "never imported" in ran.err


def test_a_process_that_cannot_be_observed_runs_on(run: Run, tmp_path: Path) -> None:
    """Where otelstream cannot start the program runs as without us, and one line says why."""
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "otelstream.py").write_text("raise RuntimeError('not here')")
    (tmp_path / "late.py").write_text("import sys\nsys.path.insert(0, 'shadow')\nimport app\napp.ask()\nprint('fine')")

    ran = run("", "late.py")

    assert (ran.code, ran.out.decode().strip()) == (0, "fine")
    assert ran.err.count("RuntimeError: not here") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--"], "no program given"),
        (["no-such-program-here"], "'no-such-program-here' is not found"),
        (["--page", "/nonexistent/x.html", "true"], "--page /nonexistent/x.html"),
        (["--page", "x", "--no-page", "true"], "exclude each other"),
        (["-m"], "-m wants the name of a module"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run: Run, words: list[str], said: str) -> None:
    """The line names what is wrong and what would work; nothing was started."""
    ran = run("", *words)

    assert ran.code == 2
    assert len(ran.err.splitlines()) == 1
    assert said in ran.err


def test_without_the_sdk_one_line_says_what_to_install(run: Run, tmp_path: Path) -> None:
    """With only otelstream installed the command names the extra that is missing."""
    blocker = "import sys\nsys.modules['opentelemetry.sdk'] = None\nsys.modules['opentelemetry.sdk.trace'] = None\n"
    (tmp_path / "block").mkdir()
    (tmp_path / "block" / "sitecustomize.py").write_text(blocker)

    ran = run("ask()", env={"PYTHONPATH": str(tmp_path / "block")})

    assert ran.code == 2
    assert len(ran.err.splitlines()) == 1
    assert 'pip install "otelstream[otlp]"' in ran.err


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port


def test_uvicorn_with_two_workers(start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path) -> None:
    """Both workers' streams under load are in one page; SIGTERM ends the server as it would without us."""
    pytest.importorskip("uvicorn")
    source = """
    import asyncio, json
    client = anthropic.AsyncAnthropic(base_url=os.environ["SIM"], api_key="k", max_retries=0)
    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        async with client.messages.stream(
            model="model-1", max_tokens=64, messages=[{"role": "user", "content": "x"}],
            extra_headers={"otelstream-play": "text_short; gap=0.01"},
        ) as stream:
            text = "".join([part async for part in stream.text_stream])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
    """
    port = _free_port()
    process = start(
        source, sys.executable, "-m", "uvicorn", "app:app", "--workers", "2", "--lifespan", "off", "--port", str(port)
    )
    address = f"http://127.0.0.1:{port}/"

    def get() -> str | None:
        try:
            with urllib.request.urlopen(address, timeout=LIMIT) as answer:
                return str(answer.read())
        except OSError:
            return None

    wait_for(get, "the server's start")
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(16) as pool:
        workers = set(pool.map(lambda _: get(), range(200)))
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=LIMIT)

    ran = Ran(process.returncode, b"", err, tmp_path)
    assert None not in workers
    assert len(workers) == 2
    assert len(ran.lines) == 201
    assert "201</b> said 200" in ran.page
    assert ran.code in {0, 128 + signal.SIGTERM}
