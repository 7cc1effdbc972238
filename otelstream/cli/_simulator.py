# SPDX-License-Identifier: Apache-2.0
"""`otelstream simulator`: the provider simulator on a port of its own, for manual work and other processes."""

from __future__ import annotations

import argparse
import inspect
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from otelstream.cli import CommandError
from otelstream.cli._fault import read_fault
from otelstream.cli._values import DAY, host, number, port

if TYPE_CHECKING:
    from otelstream.testing import Exchange, Script

EXAMPLE = """\
example:
  otelstream simulator --script text_long --gap 0.05 --fault cut_after=chunks:40
  ANTHROPIC_BASE_URL=http://127.0.0.1:8090 ANTHROPIC_API_KEY=unused python app.py
  OPENAI_BASE_URL=http://127.0.0.1:8090/v1 OPENAI_API_KEY=unused python app.py

It answers messages, chat completions, responses and completions, each in its own words.

A request chooses for itself by a header:
  otelstream-play: thinking_long; stall_after=3,chunks:20; gap=0.02
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLE
    parser.add_argument("--host", type=host, default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=port(0), default=8090, help="port, 0 for a free one (default: %(default)s)")
    parser.add_argument(
        "--script",
        default="text_long",
        help="what every request gets: a name, or a recorded .sse file (default: %(default)s)",
    )
    parser.add_argument(
        "--fault", action="append", default=[], metavar="NAME[=ARGS]", help="what goes wrong; may be given again"
    )
    seconds = number(float, 0.0, DAY, "seconds")
    parser.add_argument("--first", type=seconds, default=0.0, help="seconds before the first event (default: 0)")
    parser.add_argument("--gap", type=seconds, default=0.02, help="seconds between events (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="list scripts and faults, and exit")
    parser.add_argument("--json", action="store_true", help="one JSON object per request that ended")


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    from otelstream.testing import Schedule, ScriptError

    if args.list:
        _list()
        return 0
    try:
        from otelstream.testing import ProviderSimulator, SimulatorError
    except ImportError as error:
        raise CommandError(str(error)) from None
    faults = [read_fault(text) for text in args.fault]
    end = _print_json if args.json else _print_line
    sim = ProviderSimulator(args.port, host=args.host, log_limit=1000, on_end=end)
    try:
        schedule = Schedule(first=args.first, gap=args.gap)
        sim.play(_script(args.script), fault=faults, schedule=schedule, times=None)
        sim.start()
    except (ScriptError, SimulatorError) as error:
        raise CommandError(str(error)) from None
    if not args.json:
        print(f"{sim.base_url} plays {args.script}; Ctrl-C ends it", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        sim.stop()
    return 0


def _script(name: str) -> str | Script:
    from otelstream.testing import Script

    if not name.endswith(".sse"):
        return name
    try:
        return Script.read(Path(name).stem, Path(name).read_bytes())
    except OSError as error:
        raise CommandError(f"--script {name}: {error.strerror}") from None
    except (AttributeError, LookupError, TypeError, ValueError):
        raise CommandError(f"--script {name}: not the body of a recorded message stream") from None


def _print_line(exchange: Exchange) -> None:
    print(exchange, flush=True)


def _print_json(exchange: Exchange) -> None:
    print(json.dumps(exchange.as_dict()), flush=True)


def _list() -> None:
    from otelstream.testing import Faults, script, script_names

    names = script_names()
    width = max(map(len, names))
    print("scripts:")
    for name in names:
        found = script(name)
        print(f"  {name:{width}}  {len(found.events):3} events, {found.chunks:3} chunks, {found.stop_reason}")
    print("\nfaults (a point is chunks:N, events:N, request, headers or finish):")
    for name, fault in sorted(vars(Faults).items()):
        if not name.startswith("_"):
            function = getattr(Faults, name)
            given = ",".join(key for key in inspect.signature(function).parameters)
            print(f"  {name}{f'={given}' if given else ''}\n      {(fault.__func__.__doc__ or '').splitlines()[0]}")
