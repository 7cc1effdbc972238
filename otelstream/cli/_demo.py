# SPDX-License-Identifier: Apache-2.0
"""`otelstream demo`: how streams really end, with no key, no network and no backend."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from platform import python_version
from typing import TYPE_CHECKING, Any

from otelstream.cli import CommandError
from otelstream.cli._values import number, port

if TYPE_CHECKING:
    from typing_extensions import Self

    from otelstream.demo._pairs import Pair, Stage
    from otelstream.demo._stories import Story
    from otelstream.view._record import SpanRecord
    from otelstream.view._session import PageFile
    from otelstream.view._turns import Row

_FRAME = 0.1  # seconds between two redraws on a terminal
_OPENING = "First an e-mail that Stop could not take back, and the same tool with hold=True."
_LIMIT = 60.0  # seconds after which a story that has no span is drawn without


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = "example: otelstream demo --all --page ways-to-end.html"
    parser.add_argument("--all", action="store_true", help="more ways to end, and pairs to compare")
    parser.add_argument("--serve", action="store_true", help="go on with traffic, and serve /metrics for Prometheus")
    parser.add_argument("--port", type=port(1), default=9464, help="port of /metrics (default: %(default)s)")
    parser.add_argument("--page", metavar="PATH", help="where the page goes (default: ./otelstream.html)")
    speed = number(float, 0.1, 20.0, "a factor")
    parser.add_argument("--speed", type=speed, default=1.0, help="times as fast as life (default: %(default)g)")
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of the picture")


def run(args: argparse.Namespace) -> int:
    """Play, draw, and write the page."""
    try:
        from otelstream.demo._stories import MORE, STORIES
        from otelstream.view import _sink as _  # noqa: F401  # says what is missing
    except Exception as error:
        raise CommandError(f'{error}; the demo needs: pip install "otelstream[testing]"') from None
    page = None if args.json else _page_file(args.page)
    meters = _meters(args.port) if args.serve else None
    stories = [story.faster(args.speed) for story in (STORIES + MORE if args.all else STORIES)]
    replay = _start_replay(args.all, args.speed)
    try:
        with Demo(stories, args.speed, meters, opening=True, pairs=args.all) as demo:
            if not args.json:
                print(_first_line(), _OPENING, sep="\n", flush=True)
            rows = demo.run(replay, live=not args.json)
            if args.json:
                _print_json(rows, demo)
                return 0
            _conclude(rows, demo, page)
            if args.serve:
                _serve(demo, args.port)
    finally:
        replay.kill()
        replay.wait()
    return 0


class Demo:
    """The stories with their spans as an exporter receives them."""

    def __init__(
        self,
        stories: Sequence[Story],
        speed: float = 1.0,
        meters: Any = None,
        *,
        opening: bool = False,
        pairs: bool = False,
    ) -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor

        import otelstream
        from otelstream.demo._play import client_of
        from otelstream.testing import ProviderSimulator
        from otelstream.view._sink import ViewExporter

        self.stories = list(stories)
        self.opening: Pair | None = None
        self.pairs: tuple[Pair, ...] = ()
        self.stage: Stage | None = None
        self._records: dict[str, list[SpanRecord]] = {}
        self._begun: dict[int, float] = {}
        self._rounds = 0
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(ViewExporter(self._receive)))
        # The SDK's own span comes from the global provider; in this process that is nobody else's.
        trace.set_tracer_provider(provider)
        otelstream.instrument(
            tracer_provider=provider, meter_provider=meters, stall_threshold=2.0 / speed, view="off", events="span"
        )
        self.sim = ProviderSimulator(log_limit=0).start()  # nobody reads what was on the wire
        self._client = client_of(self.sim)
        if opening or pairs:
            from otelstream.demo._pairs import Stage

            self.stage = Stage(self.sim.base_url, speed, browser=pairs)
        if self.stage is not None and opening:
            self.opening = self.stage.opening()
            self.stories = [story.faster(speed) for story in self.opening.stories] + self.stories
        self.usual = len(self.stories)
        if self.stage is not None and pairs:
            self.pairs = self.stage.pairs()
            self.stories += [story.faster(speed) for pair in self.pairs for story in pair.stories]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.stage is not None:
            self.stage.close()
        self._client.close()
        self.sim.stop()

    def _receive(self, record: SpanRecord) -> None:
        self._records.setdefault(record.trace_id, []).append(record)

    def start(self) -> list[threading.Thread]:
        """Start every story; what was received of an earlier round is forgotten."""
        from otelstream.demo._play import play

        self._records.clear()
        self._rounds += 1
        begun = self._begun
        return play(self.stories, self.sim, self._client, lambda i: begun.__setitem__(i, time.time()), self._rounds)

    def row(self, index: int) -> Row:
        """What the exporter received of one story; while it has received nothing, that it runs."""
        from otelstream.demo._play import trace_of
        from otelstream.view._record import SpanRecord
        from otelstream.view._timeline import timeline
        from otelstream.view._turns import Row, assemble

        name = self.stories[index].name
        records = self._records.get(f"{trace_of(index, self._rounds):032x}", ())
        streams = [Row(name, timeline(record)) for record in records if record.is_stream]
        if streams:
            return assemble(streams, [record for record in records if record.is_tool])[-1]
        if index not in self._begun:
            return Row(name, None)
        waiting = SpanRecord("", "", "", "", self._begun[index], None, "UNSET", {}, (), 0)
        return Row(name, timeline(waiting, time.time()))

    def run(self, replay: subprocess.Popen[str], *, live: bool) -> list[Row]:
        """Play all, redraw on a terminal while they run, and return the final rows: those of the pairs come last."""
        from otelstream.view._style import style_of
        from otelstream.view._terminal import LiveTable

        table = LiveTable(sys.stdout, style_of(sys.stdout))
        starter = threading.Thread(target=self.run_all, daemon=True)
        starter.start()
        while starter.is_alive():
            if live:
                table.update([self.row(index) for index in range(self.usual)])
            starter.join(_FRAME)
        rows = [self._final(index) for index in range(len(self.stories))]
        for index, (http, native) in enumerate(_replayed(replay)):
            rows[index] = replace(rows[index], http=http, native=native)
        if live:
            table.finish(rows[: self.usual])
        return rows

    def _final(self, index: int) -> Row:
        row = self.row(index)
        return row if row.line is not None and row.line.outcome != "open" else replace(row, line=None)

    def paired(self, rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
        """The rows of each pair with its title."""
        rest = iter(rows[self.usual :])
        return [(pair.title, [next(rest) for _ in pair.stories]) for pair in self.pairs]

    def run_all(self) -> None:
        """Play every story to its end."""
        for thread in self.start():
            thread.join(_LIMIT)


def _first_line() -> str:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("anthropic", "openai", "otelstream"))
    return f"The provider is simulated; the SDKs are real: {versions}, Python {python_version()}."


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


def _conclude(rows: Sequence[Row], demo: Demo, file: PageFile | None) -> None:
    from otelstream.view._page import page, write_page
    from otelstream.view._sentences import headline
    from otelstream.view._style import style_of
    from otelstream.view._terminal import axis_limit, legend, pair

    style = style_of(sys.stdout)
    pairs = demo.paired(rows)
    limit = axis_limit([row for _, held in pairs for row in held])
    for title, held in pairs:
        print("\n" + style.paint(title, "bold"), *pair(held, style, limit), sep="\n")
    notes = _notes(demo)
    if notes:
        wrapped = [part for note in notes for part in textwrap.wrap(note, style.width)]
        print("", *wrapped, "", sep="\n")
    print(*legend(style, lanes=True), sep="\n")
    total = headline(line for row in rows for line in row.lines)
    print("\n" + style.paint(str(total), "bold"))
    if file is None:
        return
    if file.moved:
        print(f"This directory cannot be written, so the page goes to {file.path}")
    replayed = "HTTP and native span: the same scripts replayed without otelstream."
    said = [_first_line(), _OPENING, replayed, *notes]
    text = page(rows[: demo.usual], grouped=False, notes=said, pairs=pairs)
    write_page(file.path, text)
    print(f"The page: {file.path}")


def _notes(demo: Demo) -> list[str]:
    """What somebody else than the exporter says of the mails, and which pair could not be played."""
    if demo.stage is None:
        return []
    got = demo.stage.mailbox.log
    names = [story.name for story in demo.stories if demo.stage.mails(story.name)]
    told = ", ".join(f"{got[name]} of {name!r}" for name in names)
    notes = [f"The mailbox's own log: mails received: {told}."] if told else []
    if demo.stage.missing:
        notes.append(f"The pair with a browser that leaves is not played: it needs pip install {demo.stage.missing}")
    return notes


def _print_json(rows: Sequence[Row], demo: Demo) -> None:
    from otelstream.view._sentences import row_sentence

    titles = {id(row): title for title, held in demo.paired(rows) for row in held}
    if demo.opening is not None:
        titles.update((id(row), demo.opening.title) for row, _ in zip(rows, demo.opening.stories, strict=False))
    told = [
        {
            "story": row.label,
            "pair": titles.get(id(row)),
            "http": row.http or None,
            "native": row.native or None,
            "sentence": row_sentence(row) or None,
            "span": json.loads(row.line.record.to_json()) if row.line else None,
            "mails": demo.stage.mailbox.log[row.label] if demo.stage and demo.stage.mails(row.label) else None,
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
