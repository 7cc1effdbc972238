# SPDX-License-Identifier: Apache-2.0
"""`otelstream run`: a program as it is, with its streams shown as they end."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from otelstream.cli import CommandError

if TYPE_CHECKING:
    from otelstream.view._session import PageFile, Session
    from otelstream.view._spool import Note, SpoolReader
    from otelstream.view._timeline import Timeline

_BEAT = 0.15  # seconds between two looks at the spool
_FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
_SENT_BY_KERNEL = 0x80  # si_code of Ctrl-C: the terminal has sent it to the program as well


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: otelstream run uvicorn app:app --workers 2"
    parser.add_argument("--page", metavar="PATH", help="where the page goes (default: ./otelstream.html)")
    parser.add_argument("--no-page", action="store_true", help="only the lines")
    parser.add_argument("--json", action="store_true", help="one JSON object a stream instead of a line")
    parser.add_argument("-m", dest="module", nargs=argparse.REMAINDER, metavar="MODULE", help="run a Python module")
    parser.add_argument("program", nargs=argparse.REMAINDER, metavar="CMD", help="a command, or a Python script")


def run(args: argparse.Namespace) -> int:
    """Run the program; return its own exit code, 128 + n when signal n ended it."""
    command = _command(args)
    if args.page and args.no_page:
        raise CommandError("--page and --no-page exclude each other")
    try:
        from otelstream.view._session import PageFile, Session
        from otelstream.view._sink import SPOOL
        from otelstream.view._spool import SpoolReader
    except Exception as error:
        raise CommandError(str(error)) from None
    page = None
    if not args.no_page:
        page = _page_file(PageFile, args.page)
    with _private_folder() as folder:
        environment = {**os.environ, "OTELSTREAM_VIEW": f"{SPOOL}{folder}", **start_up()}
        watch = _Watch(Session(), SpoolReader(folder), page, as_json=args.json)
        code = _supervise(command, environment, watch)
        watch.finish()
    return code


def start_up(*path: str) -> dict[str, str]:
    """The variables by which a Python that the program starts sees the import of a provider's SDK."""
    places = [str(Path(__file__).parent / "_bootstrap"), os.environ.get("PYTHONPATH", ""), *path]
    return {"PYTHONPATH": os.pathsep.join(filter(None, places)), "_OTELSTREAM_PROVIDERS": ",".join(_packages())}


def _packages() -> list[str]:
    from otelstream._face import providers

    return [provider.used for provider in providers.known()]


def _command(args: argparse.Namespace) -> list[str]:
    words: list[str] = list(args.program)
    if args.module is not None:
        if not args.module or words:
            raise CommandError("-m wants the name of a module: otelstream run -m my.module")
        return [sys.executable, "-m", *args.module]
    if words[:1] == ["--"]:
        words = words[1:]
    if not words:
        raise CommandError("no program given: otelstream run python app.py")
    first = Path(words[0])
    if first.is_file() and (first.suffix in {".py", ".pyz"} or not os.access(first, os.X_OK)):
        return [sys.executable, *words]
    if shutil.which(words[0]) is None:
        raise CommandError(f"program {words[0]!r} is not found: give a command on PATH, a script, or -m MODULE")
    return words


def _page_file(kind: type[PageFile], wanted: str | None) -> PageFile:
    from otelstream.view._session import PAGE_NAME

    try:
        page = kind(wanted or PAGE_NAME, fall_back=wanted is None)
    except OSError as error:
        raise CommandError(f"--page {wanted}: {error}; give a path in a directory that can be written") from None
    if page.moved:
        _say(f"this directory cannot be written, so the page goes to {page.path}")
    return page


@contextlib.contextmanager
def _private_folder() -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="otelstream-run-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Watch:
    """Turns what the processes spool into lines and a page."""

    def __init__(self, session: Session, reader: SpoolReader, page: PageFile | None, *, as_json: bool) -> None:
        from otelstream.view._terminal import style_of

        self._session = session
        self._reader = reader
        self._page = page
        self._as_json = as_json
        self._style = style_of(sys.stderr)
        self._notes: dict[str, set[str]] = {}

    def look(self, *, last: bool = False) -> None:
        """Print what has ended since the last look, and keep the page up to date."""
        from otelstream.view._record import SpanRecord

        for found in self._reader.read():
            if isinstance(found, SpanRecord):
                line = self._session.add(found)
                if line is not None:
                    self._show(line)
            else:
                self._note(found)
        if self._page is not None:
            try:
                self._page.update(self._session, last=last)
            except OSError as error:
                _say(f"the page {self._page.path} cannot be written any more: {error.strerror}")
                self._page = None

    def finish(self) -> None:
        """Say what all of it came to, and where the page is."""
        self.look(last=True)
        total = self._session.headline
        if not total.streams:
            _say(self._why_nothing())
        elif not self._as_json:
            _say(str(total) + (f" The page: {self._page.path}" if self._page else ""))

    def _show(self, line: Timeline) -> None:
        from otelstream.view._terminal import access_line

        if self._as_json:
            text = line.record.to_json()
        else:
            clock = time.strftime("%H:%M:%S", time.localtime(line.record.started + line.length))
            text = access_line(line, self._style, clock)
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def _note(self, note: Note) -> None:
        known = self._notes.setdefault(note.kind, set())
        if note.kind == "refused" and note.text not in known:
            _say(f"streams of this process are not seen: {note.text}")
        known.add(note.text)

    def _why_nothing(self) -> str:
        if "refused" in self._notes:
            return "no stream was seen: the provider's SDK could not be observed, see above."
        if "observed" in self._notes:
            return "no stream was seen: the program loaded a provider's SDK, but streamed no answer to its end."
        if "started" in self._notes:
            return f"no stream was seen: the program never imported a provider's SDK ({', '.join(_packages())})."
        return (
            "no stream was seen: the program started no Python that reads PYTHONPATH (flags -I and -E switch it off)."
        )


def _say(text: str) -> None:
    sys.stderr.write(f"otelstream: {text}\n")
    sys.stderr.flush()


class _Looks(Protocol):
    def look(self) -> None: ...


def _supervise(command: list[str], environment: dict[str, str], watch: _Looks, *, output: int | None = None) -> int:
    """Start the program and stay beside it until it ends; signals sent to us are its signals."""
    signals = {getattr(signal, name) for name in _FORWARDED if hasattr(signal, name)}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals | {signal.SIGCHLD})
    try:
        try:
            child = subprocess.Popen(
                command,
                env=environment,
                stdout=output,
                # The program gets the signal mask that we were started with, not ours.
                preexec_fn=lambda: _set_mask(before),  # noqa: PLW1509  # no thread runs here yet
            )
        except OSError as error:
            raise CommandError(f"program {command[0]!r} cannot be started: {error.strerror}") from None
        while child.poll() is None:
            arrived = _wait(signals | {signal.SIGCHLD}, _BEAT)
            if arrived is not None and arrived.si_signo in signals and not _from_terminal(arrived):
                with contextlib.suppress(ProcessLookupError):
                    child.send_signal(arrived.si_signo)
            watch.look()
    finally:
        # Whatever is still pending was for the program, which has ended.
        while _wait(signals, 0.0) is not None:
            pass
        _set_mask(before)
    code: int = child.returncode
    return 128 - code if code < 0 else code


def _set_mask(mask: Any) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@dataclass(frozen=True)
class _Arrived:
    """A signal for us; `si_code` is None where the system does not say who sent it."""

    si_signo: int
    si_code: int | None = None


def _wait(signals: set[signal.Signals], seconds: float) -> signal.struct_siginfo | _Arrived | None:
    if hasattr(signal, "sigtimedwait"):
        return signal.sigtimedwait(signals, seconds)
    # macOS has no sigtimedwait: look, sleep, and look again.
    until = time.monotonic() + seconds
    while not (pending := signal.sigpending() & signals):
        if time.monotonic() >= until:
            return None
        time.sleep(min(0.02, seconds))
    return _Arrived(signal.sigwait(pending))


def _from_terminal(arrived: signal.struct_siginfo | _Arrived) -> bool:
    if arrived.si_signo not in {signal.SIGINT, signal.SIGQUIT}:
        return False
    return _in_foreground() if arrived.si_code is None else arrived.si_code == _SENT_BY_KERNEL


def _in_foreground() -> bool:
    """Whether the terminal sends its Ctrl-C to us, and so to the program as well."""
    try:
        with open("/dev/tty", "rb", buffering=0) as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False
