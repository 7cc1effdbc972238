# SPDX-License-Identifier: Apache-2.0
"""`otelstream texture`: how a model's answers come, recorded, and what changed between two recordings."""

from __future__ import annotations

import argparse
import json
import os
import sys
from argparse import ArgumentTypeError
from pathlib import Path
from typing import TYPE_CHECKING

from otelstream.cli import CommandError, _run
from otelstream.cli._values import shown

if TYPE_CHECKING:
    from otelstream.texture._compare import Pair
    from otelstream.texture._contract import Clause, Contract
    from otelstream.texture._recording import Recording
    from otelstream.view._timeline import Timeline

_EXAMPLES = """\
examples:
  otelstream texture record -o before.json -- python chat.py
  otelstream texture compare before.json after.json --page texture.html
  otelstream texture compare before.json after.json --contract texture.yaml

A recording keeps numbers and the names of models, no word of a prompt or an answer.
"""
_RECORD = """\
examples:
  otelstream texture record -o before.json -- python chat.py
  otelstream texture record -o before.json --from streams.jsonl     (what `otelstream run --json` wrote)
  otelstream texture record -o before.json --prometheus http://localhost:9090 --model claude-example --window 6h

exit code: that of the program that was run, else 0; 2 (bad input, or no stream was seen)
"""
_COMPARE = """\
examples:
  otelstream texture compare before.json after.json --page texture.html
  otelstream texture compare before.json after.json --model claude-old --model claude-new
  otelstream texture compare before.json after.json --contract texture.yaml

exit code: 0, 1 (the contract is broken), 2 (bad input); without a contract a change is no failure
"""


def configure(parser: argparse.ArgumentParser) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser.formatter_class, parser.epilog = raw, _EXAMPLES
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    summary = "keep how answers come: of a program, a log of its streams, or a Prometheus"
    record = actions.add_parser("record", help=summary, description=summary, epilog=_RECORD, formatter_class=raw)
    record.add_argument("-o", "--output", metavar="FILE", required=True, help="file to write")
    record.add_argument("--from", dest="log", metavar="FILE", help="read what `otelstream run --json` wrote")
    record.add_argument("--prometheus", metavar="URL", help="ask this Prometheus, for one model")
    record.add_argument("--model", metavar="NAME", help="only this model, by the name it is asked for")
    record.add_argument("--window", type=window, help="how far --prometheus looks back (default: 1h)")
    record.add_argument("-m", dest="module", nargs=argparse.REMAINDER, metavar="MODULE", help="run a Python module")
    record.add_argument("program", nargs=argparse.REMAINDER, metavar="CMD", help="a command, or a Python script")
    summary = "say what changed between two recordings, how much, and how sure"
    compare = actions.add_parser("compare", help=summary, description=summary, epilog=_COMPARE, formatter_class=raw)
    compare.add_argument("before", metavar="BEFORE", help="a recording")
    compare.add_argument("after", metavar="AFTER", help="a recording")
    compare.add_argument(
        "--model",
        metavar="NAME",
        action="append",
        default=[],
        help="only this model; given twice: the one before, the one after",
    )
    compare.add_argument("--contract", metavar="FILE", help="how far each measure may move; 1 where it moved further")
    compare.add_argument("--page", metavar="PATH", help="write a page with the two distributions over each other")
    compare.add_argument("--json", action="store_true", help="the comparison as one JSON object")


def run(args: argparse.Namespace) -> int:
    return _record(args) if args.action == "record" else _compare(args)


# --- record -----------------------------------------------------------------------------------------------


def _record(args: argparse.Namespace) -> int:
    program = bool(args.program) or args.module is not None
    if sum((program, args.log is not None, args.prometheus is not None)) != 1:
        raise CommandError("give one of these: a program to run, --from FILE, or --prometheus URL")
    if args.window is not None and args.prometheus is None:
        raise CommandError("--window is for --prometheus URL; leave it out")
    target = _writable("--output", args.output)
    code = 0
    if args.prometheus is not None:
        recording = _past(args)
    elif args.log is not None:
        recording = _log(args.log)
    else:
        recording, code = _watched(args)
    if args.model is not None:
        known = ", ".join(sorted(recording.models)[:8])
        recording = recording.only(args.model)
        if not recording.models:
            raise CommandError(f"--model {shown(args.model)}: it is not among what was recorded; give one of {known}")
    _write(target, "--output", recording.to_json())
    for line in _told(recording):
        _run._say(f"{line} in {args.output}")
    return code


def _watched(args: argparse.Namespace) -> tuple[Recording, int]:
    command = _run._command(args)
    try:
        from otelstream.texture._recording import Recording
        from otelstream.view._session import Session
        from otelstream.view._sink import SPOOL
        from otelstream.view._spool import SpoolReader
    except Exception as error:
        raise CommandError(str(error)) from None
    recording = Recording()

    class Keep(_run._Watch):
        """Takes what `otelstream run` would show."""

        def _show(self, line: Timeline) -> None:
            recording.add(line.record)

    with _run._private_folder() as folder:
        environment = {**os.environ, "OTELSTREAM_VIEW": f"{SPOOL}{folder}", **_run.start_up()}
        watch = Keep(Session(), SpoolReader(folder), None, as_json=True)
        code = _run._supervise(command, environment, watch)
        watch.look(last=True)
    if not recording.models:
        raise CommandError(watch._why_nothing())
    return recording, code


def _log(name: str) -> Recording:
    from otelstream.texture._recording import from_lines

    made = "make it by `otelstream run --json CMD 2> FILE`"
    try:
        with open(name, encoding="utf-8", errors="replace") as lines:
            recording = from_lines(lines)
    except OSError as error:
        raise CommandError(f"--from {shown(name)}: {error.strerror}; {made}") from None
    if not recording.models:
        raise CommandError(f"--from {shown(name)}: no line of it is the record of a stream; {made}")
    return recording


def _past(args: argparse.Namespace) -> Recording:
    from otelstream.texture import _past
    from otelstream.texture._recording import RecordingError

    if args.model is None:
        raise CommandError("--prometheus needs --model NAME: the model as it is asked for")
    try:
        return _past.recorded(args.prometheus, args.model, args.window or "1h")
    except RecordingError as error:
        raise CommandError(str(error)) from None


def _told(recording: Recording) -> list[str]:
    from otelstream.texture._table import counted
    from otelstream.view._record import plain

    lines = []
    for name, texture in sorted(recording.models.items()):
        left = f" (left out: {counted(texture.left_out)})" if texture.left_out else ""
        lines.append(f"{texture.answers:,} answer{'' if texture.answers == 1 else 's'} of {plain(name)}{left}")
    return lines


# --- compare ----------------------------------------------------------------------------------------------


def _compare(args: argparse.Namespace) -> int:
    from otelstream.texture import _compare
    from otelstream.texture._recording import RecordingError, load

    if len(args.model) > 2:
        raise CommandError("--model: give it once, or twice: the model before, the model after")
    contract = _contract(args.contract) if args.contract is not None else None
    page = _writable("--page", args.page) if args.page is not None else None
    try:
        before, after = load(Path(args.before)), load(Path(args.after))
        pairs = _compare.compare(before, after, _compare.paired(before, after, args.model))
    except (RecordingError, _compare.CompareError) as error:
        raise CommandError(str(error)) from None
    judged = _judged(contract, pairs)
    fails = [each for each in judged if each.kept == "broken"]
    if contract is not None and contract.undecided_fails:
        fails += [each for each in judged if each.kept == "undecided"]
    if args.json:
        print(json.dumps(_plain(pairs, judged), indent=2))
    else:
        _print(pairs, judged)
    if page is not None:
        from otelstream.texture._page import page as drawn

        _write(page, "--page", drawn(pairs, judged))
        if not args.json:
            print(f"the page: {args.page}")
    return 1 if fails else 0


def _contract(name: str) -> Contract:
    from otelstream.texture._contract import load

    try:
        return load(name)
    except ValueError as error:
        raise CommandError(f"--contract {error}") from None


def _judged(contract: Contract | None, pairs: list[Pair]) -> list[Clause]:
    from otelstream.texture._contract import judged

    return [] if contract is None else list(judged(contract, pairs))


def _print(pairs: list[Pair], judged: list[Clause]) -> None:
    from otelstream.texture._table import clauses, footnote, table
    from otelstream.view._style import style_of

    style = style_of(sys.stdout)
    for pair in pairs:
        print("\n".join(table(pair, style)), end="\n\n")
    note = footnote(pairs)
    if note:
        import textwrap

        print(*textwrap.wrap(note, min(style.width, 120)), sep="\n")
    if judged:
        print("", *clauses(judged, style), sep="\n")


def _plain(pairs: list[Pair], judged: list[Clause]) -> dict[str, object]:
    from otelstream.texture._compare import LEVEL

    return {
        "level": LEVEL,
        "models": [pair.as_dict() for pair in pairs],
        "contract": [each.as_dict() for each in judged],
    }


# --- files ------------------------------------------------------------------------------------------------


def _writable(option: str, name: str) -> Path:
    """The path to write to, found out before a long run: not after it."""
    from otelstream.view._session import _writable

    target = Path(name).absolute()
    if not _writable(target):
        raise CommandError(f"{option} {shown(name)}: it cannot be written; give a path in a folder that can be")
    return target


def _write(target: Path, option: str, text: str) -> None:
    from otelstream.view._page import write_page

    try:
        write_page(target, text)
    except OSError as error:
        raise CommandError(
            f"{option} {target}: {error.strerror}; give a path in a folder that can be written"
        ) from None


def window(text: str) -> str:
    """Read a window of time, as Prometheus has them."""
    from otelstream._objectives_file.text import parse_duration

    if not parse_duration(text) or not text.strip().isalnum():
        raise ArgumentTypeError(f"{shown(text)}: give a duration such as 6h (s, m, h, d)")
    return text.strip()
