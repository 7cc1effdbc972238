# SPDX-License-Identifier: Apache-2.0
"""`otelstream demo`: how streams really end, with no key, no network and no backend."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from importlib import metadata
from platform import python_version
from typing import TYPE_CHECKING, Any

from otelstream.cli import CommandError

if TYPE_CHECKING:
    from otelstream.demo._stories import Story
    from otelstream.view._record import SpanRecord
    from otelstream.view._session import PageFile
    from otelstream.view._timeline import Row, Timeline

_FRAME = 0.1  # seconds between two redraws on a terminal
_LIMIT = 60.0  # seconds after which a story that has no span is drawn without


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = "example: otelstream demo --all --page ways-to-end.html"
    parser.add_argument("--all", action="store_true", help="more ways to end than the sixteen usual ones")
    parser.add_argument("--serve", action="store_true", help="go on with traffic, and serve /metrics for Prometheus")
    parser.add_argument("--port", type=int, default=9464, help="port of /metrics (default: %(default)s)")
    parser.add_argument("--page", metavar="PATH", help="where the page goes (default: ./otelstream.html)")
    parser.add_argument("--speed", type=float, default=1.0, help="times as fast as life (default: %(default)g)")
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of the picture")


def run(args: argparse.Namespace) -> int:
    """Play, draw, and write the page."""
    if not 0.1 <= args.speed <= 20:
        raise CommandError(f"--speed {args.speed:g}: give a factor from 0.1 to 20")
    try:
        from otelstream.demo._stories import MORE, STORIES
        from otelstream.view import _sink as _  # noqa: F401  # says what is missing
    except Exception as error:
        raise CommandError(f'{error}; the demo needs: pip install "otelstream[testing]"') from None
    page = None if args.json else _page_file(args.page)
    meters = _meters(args.port) if args.serve else None
    stories = STORIES + MORE if args.all else STORIES
    replay = _start_replay(args.all, args.speed)
    try:
        demo = Demo([story.faster(args.speed) for story in stories], args.speed, meters)
        if not args.json:
            print(_first_line(), flush=True)
        rows = demo.run(replay, live=not args.json)
    finally:
        replay.kill()
        replay.wait()
    if args.json:
        _print_json(rows)
        return 0
    _conclude(rows, page)
    if args.serve:
        _serve(demo, args.port)
    return 0


class Demo:
    """The stories with their spans as an exporter receives them."""

    def __init__(self, stories: Sequence[Story], speed: float = 1.0, meters: Any = None) -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor

        import otelstream
        from otelstream.testing import ProviderSimulator
        from otelstream.view._sink import ViewExporter

        self.stories = stories
        self._records: dict[str, SpanRecord] = {}
        self._begun: dict[int, float] = {}
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(ViewExporter(self._receive)))
        # The SDK's own span comes from the global provider; in this process that is nobody else's.
        trace.set_tracer_provider(provider)
        otelstream.instrument(
            tracer_provider=provider, meter_provider=meters, stall_threshold=2.0 / speed, view="off", events="span"
        )
        self.sim = ProviderSimulator().start()

    def _receive(self, record: SpanRecord) -> None:
        self._records[record.trace_id] = record

    def start(self) -> list[threading.Thread]:
        """Start every story."""
        from otelstream.demo._play import play

        return play(self.stories, self.sim, lambda index: self._begun.__setitem__(index, time.time()))

    def line(self, index: int) -> Timeline | None:
        """What the exporter received of one story; while it has received nothing, that it runs."""
        from otelstream.demo._play import trace_of
        from otelstream.view._record import SpanRecord
        from otelstream.view._timeline import timeline

        record = self._records.get(f"{trace_of(index):032x}")
        if record is not None:
            return timeline(record)
        if index not in self._begun:
            return None
        waiting = SpanRecord("", "", "", "", self._begun[index], None, "UNSET", {}, (), 0)
        return timeline(waiting, time.time())

    def run(self, replay: subprocess.Popen[str], *, live: bool) -> list[Row]:
        """Play all, redraw on a terminal while they run, and return the final rows."""
        from otelstream.view._terminal import LiveTable, style_of
        from otelstream.view._timeline import Row

        table = LiveTable(sys.stdout, style_of(sys.stdout))
        starter = threading.Thread(target=self.run_all, daemon=True)
        starter.start()
        while starter.is_alive():
            if live:
                table.update([Row(story.name, self.line(index)) for index, story in enumerate(self.stories)])
            starter.join(_FRAME)
        said = _replayed(replay)
        rows = []
        for index, story in enumerate(self.stories):
            line = self.line(index)
            ended = line if line is not None and line.outcome != "open" else None
            rows.append(Row(story.name, ended, *said[index]))
        if live:
            table.finish(rows)
        return rows

    def run_all(self) -> None:
        """Play every story to its end."""
        for thread in self.start():
            thread.join(_LIMIT)


def _first_line() -> str:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("anthropic", "otelstream"))
    return f"The provider is simulated; the SDK is real: {versions}, Python {python_version()}."


def _start_replay(everything: bool, speed: float) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "otelstream.demo._replay", "all" if everything else "usual", str(speed)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)


def _replayed(replay: subprocess.Popen[str]) -> list[tuple[str, str]]:
    """What HTTP and the native span said, as the table shows it."""
    out, err = replay.communicate(timeout=_LIMIT)
    if replay.returncode:
        raise CommandError(f"the replay without otelstream failed: {(err.strip().splitlines() or ['no output'])[-1]}")
    words = {"OK": "OK", "ERROR": "ERROR", "UNSET": "unset", None: "none"}
    return [(">".join(map(str, said["http"])) or "none", words[said["native"]]) for said in json.loads(out)]


def _page_file(wanted: str | None) -> PageFile:
    from otelstream.view._session import PAGE_NAME, PageFile

    try:
        return PageFile(wanted or PAGE_NAME, fall_back=wanted is None)
    except OSError as error:
        raise CommandError(f"--page {wanted}: {error}; give a path in a directory that can be written") from None


def _conclude(rows: Sequence[Row], file: PageFile | None) -> None:
    from otelstream.view._page import page, write_page
    from otelstream.view._sentences import headline
    from otelstream.view._terminal import legend, style_of

    style = style_of(sys.stdout)
    print(*legend(style), sep="\n")
    total = headline(row.line for row in rows if row.line)
    print("\n" + style.paint(str(total), "bold"))
    if file is None:
        return
    if file.moved:
        print(f"This directory cannot be written, so the page goes to {file.path}")
    note = "HTTP and native span: the same scripts replayed without otelstream."
    write_page(file.path, page(rows, grouped=False, notes=[_first_line(), note]))
    print(f"The page: {file.path}")


def _print_json(rows: Sequence[Row]) -> None:
    from otelstream.view._sentences import sentence

    told = [
        {
            "story": row.label,
            "http": row.http,
            "native": row.native,
            "sentence": sentence(row.line) if row.line else None,
            "span": json.loads(row.line.record.to_json()) if row.line else None,
        }
        for row in rows
    ]
    print(json.dumps(told, indent=1))


def _meters(port: int) -> Any:
    """A meter provider that Prometheus can scrape."""
    try:
        from opentelemetry.sdk.metrics import MeterProvider

        exporter: Any = importlib.import_module("opentelemetry.exporter.prometheus")
        client: Any = importlib.import_module("prometheus_client")
    except ImportError:
        raise CommandError('--serve needs the Prometheus exporter: pip install "otelstream[prometheus]"') from None
    provider = MeterProvider([exporter.PrometheusMetricReader()])
    try:
        client.start_http_server(port, "127.0.0.1")
    except OSError as error:
        raise CommandError(f"--port {port}: {error.strerror}; choose another port") from None
    return provider


def _serve(demo: Demo, port: int) -> None:
    """Play the stories again and again until Ctrl-C."""
    print(f"Traffic goes on; http://127.0.0.1:{port}/metrics is for Prometheus. Ctrl-C ends it.", flush=True)
    try:
        while True:
            demo.run_all()
    except KeyboardInterrupt:
        print()
