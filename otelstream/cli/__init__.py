# SPDX-License-Identifier: Apache-2.0
"""The `otelstream` command: one module a subcommand, found by its name."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

# name -> (module, the one line of help). Each module has `configure(parser)` and `run(args) -> int`.
COMMANDS = {
    "demo": ("_demo", "play the ways a stream can end, and show them"),
    "run": ("_run", "run a program with its streams shown as they end"),
    "doctor": ("_doctor", "say why telemetry is missing or wrong"),
    "slo": ("_slo", "make rules, dashboards and a runbook from the objectives file"),
    "collector": ("_collector", "write Collector configurations"),
    "simulator": ("_simulator", "serve the provider simulator for manual work"),
}


class CommandError(Exception):
    """Bad input: printed as one line that names field, value and remedy; exit code 2."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; return 0, 1 (the check found something) or 2 (bad input)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="otelstream", description=__doc__.splitlines()[0] if __doc__ else None)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module_name, summary) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        # Only the command that runs is imported: `otelstream run` must not pay for grafanalib.
        if arguments[:1] == [name]:
            module = importlib.import_module(f"otelstream.cli.{module_name}")
            module.configure(subparser)
            subparser.set_defaults(run=module.run)
    args = parser.parse_args(arguments)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough (`| head`); what Python flushes at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except CommandError as error:
        print(f"otelstream {args.command}: {error}", file=sys.stderr)
        return 2
    return code
