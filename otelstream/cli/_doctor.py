# SPDX-License-Identifier: Apache-2.0
"""`otelstream doctor`: why telemetry is missing or wrong, here or in a program that it runs."""

from __future__ import annotations

import argparse
import json
import os
import sys

from otelstream.cli import CommandError, _run

EXAMPLE = """\
examples:
  otelstream doctor                     this environment: what is installed, and what its variables say
  otelstream doctor python app.py       run it, look into its processes, and audit the streams it makes
  otelstream doctor --prometheus http://localhost:9090
                                        what it stores now: do rules and panels find their names

exit code: 0 nothing found, 1 something found, 2 bad input
"""


class _Blind:
    """Nothing is shown while the program runs."""

    def look(self) -> None:
        return


def configure(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLE
    parser.add_argument("--json", action="store_true", help="the report as one JSON object")
    parser.add_argument(
        "--prometheus", metavar="URL", help="ask this Prometheus what it stores now; runs nothing, so without CMD"
    )
    parser.add_argument("-m", dest="module", nargs=argparse.REMAINDER, metavar="MODULE", help="run a Python module")
    parser.add_argument(
        "program", nargs=argparse.REMAINDER, metavar="CMD", help="run this; its standard output goes to standard error"
    )


def run(args: argparse.Namespace) -> int:
    """Examine, report on standard output; return 0 when nothing was found, else 1."""
    try:
        from otelstream.doctor import _examine
    except ImportError as error:
        raise CommandError(f"{error.name} is missing; pip install --force-reinstall otelstream") from None
    if args.prometheus is not None:
        if args.module is not None or args.program:
            raise CommandError("--prometheus looks at what runs already: leave the command out")
        report = _examine.prometheus(args.prometheus)
    elif args.module is None and not args.program:
        report = _examine.environment()
    else:
        command = _run._command(args)
        with _run._private_folder() as folder:
            environment = {**os.environ, **_examine.prepare(folder), **_run.start_up(folder)}
            code = _run._supervise(command, environment, _Blind(), output=2)
            report = _examine.program(folder, code)
    if args.json:
        print(json.dumps(report.as_dict(), indent=2))
    else:
        lines = "\n".join(report.lines()) + "\n"
        encoding = sys.stdout.encoding or "ascii"
        sys.stdout.write(lines.encode(encoding, "replace").decode(encoding))
    return 1 if report.findings else 0
