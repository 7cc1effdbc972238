# SPDX-License-Identifier: Apache-2.0
"""The `otelstream` command: one module a subcommand, found by its name."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

# name -> (module, the one line of help). Each module has `configure(parser)` and `run(args) -> int`.
COMMANDS = {
    "demo": ("_demo", "play the ways a stream can end, and show them"),
    "run": ("_run", "run a program with its streams shown as they end"),
    "doctor": ("_doctor", "say why telemetry is missing or wrong"),
    "slo": ("_slo", "make rules, dashboards and a runbook from the objectives file"),
    "collector": ("_collector", "write Collector configurations"),
    "probe": ("_probe", "say what a gateway does to a stream"),
    "texture": ("_texture", "say what changed in how a model answers"),
    "simulator": ("_simulator", "serve the provider simulator for manual work"),
}


class CommandError(Exception):
    """Bad input: printed as one line that names field, value and remedy; exit code 2."""


class _UsageError(CommandError):
    """What argparse refused; *command* is as far as it got."""

    def __init__(self, command: str, problem: str) -> None:
        super().__init__(problem)
        self.command = command


class _Parser(argparse.ArgumentParser):
    """Says what is wrong on one line, as every command does."""

    def error(self, message: str) -> NoReturn:
        said = re.sub(r"^argument ([^:]+?):", r"\1", message)
        # Our own readers of values name the remedy.
        raise _UsageError(self.prog, said if ": give " in said else f"{said}; see `{self.prog} --help`")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; return 0, 1 (the check found something) or 2 (bad input)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _Parser(prog="otelstream", description="Tell the truth about streamed LLM answers, in OpenTelemetry.")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module_name, summary) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        # Only the command that runs is imported: `otelstream run` must not pay for grafanalib.
        if arguments[:1] == [name]:
            module = importlib.import_module(f"otelstream.cli.{module_name}")
            module.configure(subparser)
            subparser.set_defaults(run=module.run)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that it cannot show is no reason to end
    try:
        args = parser.parse_args(arguments)
        code: int = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough (`| head`); what Python flushes at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except CommandError as error:
        command = error.command if isinstance(error, _UsageError) else f"otelstream {arguments[0]}"
        print(f"{command}: {error}", file=sys.stderr)
        return 2
    return code
