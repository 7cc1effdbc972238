# SPDX-License-Identifier: Apache-2.0
"""`otelstream collector`: writes the Collector configurations, sized for one's own objectives."""

from __future__ import annotations

import argparse
from pathlib import Path

from otelstream._core.record.objectives import Objectives
from otelstream.cli import CommandError
from otelstream.cli._values import shown
from otelstream.collector import _files as _collector

_EXAMPLE = """\
examples:
  otelstream collector --list
  otelstream collector agent -o /etc/otelcol
  otelstream collector -o collector --objectives objectives.yaml --traces-per-second 300
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLE
    parser.add_argument("name", nargs="?", metavar="NAME", help="one of --list (default: all of them)")
    parser.add_argument("-o", "--output", metavar="DIR", help="folder to write to")
    parser.add_argument("--list", action="store_true", help="list the names and what each is for")
    parser.add_argument(
        "--objectives", metavar="FILE", help="objectives file that decides how long a trace is held (default: bundled)"
    )
    parser.add_argument(
        "--traces-per-second",
        metavar="N",
        default=str(_collector.TRACES_A_SECOND),
        help="new traces a second that one sampling gateway gets (default: %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite files that differ")


def run(args: argparse.Namespace) -> int:
    if args.list:
        width = max(map(len, _collector.CONFIGURATIONS))
        for name, (summary, _) in _collector.CONFIGURATIONS.items():
            print(f"{name:<{width}}  {summary}")
        return 0
    if args.name is not None and args.name not in _collector.CONFIGURATIONS:
        raise CommandError(f"NAME {args.name!r} is not known: use one of {', '.join(_collector.CONFIGURATIONS)}")
    if not args.output:
        raise CommandError("-o DIR is missing: name the folder to write to, or use --list")
    held = _collector.holding(_objectives(args.objectives), _rate(args.traces_per_second))
    wanted = [args.name] if args.name else list(_collector.CONFIGURATIONS)
    found = {path: (content, runs) for name in wanted for path, content, runs in _collector.files(name, held)}
    _write(Path(args.output), found, force=args.force)
    return 0


def _objectives(path: str | None) -> Objectives:
    if path is None:
        return Objectives()
    from otelstream._objectives_file import ObjectivesError, load

    try:
        return load(path)
    except ObjectivesError as error:
        more = len(error.problems) - 1
        rest = f" ({more} more: otelstream slo check {path})" if more else ""
        raise CommandError(f"--objectives {path}: {error.problems[0]}{rest}") from None


def _rate(text: str) -> int:
    if not text.isdecimal() or len(text) > 7 or not 1 <= int(text) <= 1_000_000:
        raise CommandError(
            f"--traces-per-second {shown(repr(text))} is not allowed: use a whole number from 1 to 1000000"
        )
    return int(text)


def _write(folder: Path, found: dict[Path, tuple[bytes, bool]], *, force: bool) -> None:
    """Write all files or none: a file that differs from ours may have been edited."""
    try:
        edited = [
            path
            for path, (content, _) in found.items()
            if (folder / path).exists() and (folder / path).read_bytes() != content
        ]
        if edited and not force:
            raise CommandError(f"{folder / edited[0]} exists and differs: use --force, or another -o DIR")
        for path, (content, runs) in found.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            if runs:
                target.chmod(0o755)
            print(target)
    except OSError as error:
        raise CommandError(f"-o {folder}: {error.strerror or error}; use a folder that can be written") from None
