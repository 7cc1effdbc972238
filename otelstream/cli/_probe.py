# SPDX-License-Identifier: Apache-2.0
"""`otelstream probe`: whether a gateway keeps a stream whole."""

from __future__ import annotations

import argparse
import json
import os
import sys
from argparse import ArgumentTypeError
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from otelstream.cli import CommandError
from otelstream.cli._values import host, number, port, shown

if TYPE_CHECKING:
    from otelstream.probe._client import Target
    from otelstream.probe._report import Report

EXAMPLE = """\
examples:
  otelstream probe --config nginx                       a configuration to start from
  otelstream probe http://gateway:8080                  controlled: our upstream behind your gateway
  otelstream probe http://gateway:8080 --idle 70,130 --json > probe.json
  otelstream probe http://gateway:8080 --baseline probe.json
  otelstream probe --live https://gateway --model NAME --header 'x-api-key: env:KEY'

exit code: 0, 1 (something is hidden, lost or retried, or what --fail-on names; with --baseline: worse than then),
2 (bad input, or the gateway never asked our upstream)
"""
ROUTES = ("messages", "chat", "responses")
CONFIGS = ("nginx", "haproxy", "envoy", "caddy", "traefik", "litellm")
ALSO = ("late", "changed", "invented", "unseen", "inconclusive")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLE
    parser.add_argument("url", nargs="?", type=url, metavar="URL", help="base URL of the gateway")
    parser.add_argument("--route", choices=ROUTES, default="messages", help="API to speak (default: %(default)s)")
    parser.add_argument("--model", help="name to ask for, where the gateway routes by it; with --live required")
    parser.add_argument(
        "--header",
        type=header,
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="sent to the gateway; a value env:VAR is read from the environment; may be given again",
    )
    parser.add_argument(
        "--http2",
        action="store_true",
        help="ask the gateway by HTTP/2 alone (without TLS by prior knowledge); with TLS both are tried anyway",
    )
    parser.add_argument("--upstream-host", type=host, default="127.0.0.1", help="where our upstream listens")
    parser.add_argument(
        "--upstream-port", type=port(0), default=8099, help="its port, 0 for a free one (default: %(default)s)"
    )
    seconds = number(float, 0.1, 3600.0, "seconds")
    parser.add_argument(
        "--wait", type=seconds, default=300.0, help="seconds for the gateway to ask our upstream (default: 300)"
    )
    parser.add_argument("--repeats", type=number(int, 1, 100, "runs"), default=3, help="runs each (default: 3)")
    parser.add_argument("--idle", type=_list(seconds), default=(), metavar="SECONDS,…", help="silences to endure")
    parser.add_argument("--total", type=seconds, default=20.0, help="seconds an answer flows (default: 20)")
    parser.add_argument("--only", type=codes, default=frozenset(), metavar="CODE,…", help="only these checks")
    parser.add_argument("--list", action="store_true", help="list the checks, and exit")
    parser.add_argument("--config", choices=CONFIGS, help="print a configuration that is right, and exit")
    parser.add_argument("--json", action="store_true", help="the report as one JSON object")
    parser.add_argument("--markdown", action="store_true", help="the report as a table")
    parser.add_argument("--baseline", metavar="FILE", help="an earlier report (--json): 1 only for what is worse now")
    parser.add_argument(
        "--fail-on", choices=ALSO, action="append", default=[], help="1 for this verdict too; may be given again"
    )
    parser.add_argument("--live", type=url, metavar="URL", help="a gateway in front of a real provider: costs money")
    parser.add_argument(
        "--max-requests", type=number(int, 1, 100, "requests"), default=5, help="of --live (default: %(default)s)"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask before --live")


def run(args: argparse.Namespace) -> int:
    from otelstream.probe import _configs, _report
    from otelstream.probe._configs import known_as

    if args.list:
        width = max(map(len, _report.CODES))
        print("\n".join(f"{code:{width}}  {what}" for code, what in _report.CODES.items()))
        return 0
    if args.config:
        print(_configs.configuration(args.config, known_as(args.upstream_host), args.upstream_port or 8099), end="")
        return 0
    if bool(args.url) == bool(args.live):
        raise CommandError("give the URL of a gateway to put our upstream behind, or --live URL, and only one of them")
    if args.json and args.markdown:
        raise CommandError("--json and --markdown: give one of them")
    try:
        from otelstream.probe._bench import ProbeError
    except ImportError as error:
        raise CommandError(f'{error.name} is missing; pip install "otelstream[probe]"') from None
    baseline = _baseline(args.baseline) if args.baseline else None
    try:
        report = _live(args) if args.live else _controlled(args)
    except ProbeError as error:
        raise CommandError(str(error)) from None
    except KeyboardInterrupt:
        raise CommandError("interrupted, nothing is left running; start it again for a whole report") from None
    worse = report.worse_than(baseline) if baseline is not None else None
    failing = report.failing(args.fail_on) if worse is None else worse
    if args.json:
        print(json.dumps({**report.as_dict(), "failing": [result.code for result in failing]}, indent=2))
    else:
        print("\n".join(report.markdown() if args.markdown else report.lines()))
        for result in worse or ():
            print(f"worse than --baseline {args.baseline}: {result.code} is {result.verdict}")
    return 1 if failing else 0


def _controlled(args: argparse.Namespace) -> Report:
    from otelstream.probe._bench import Bench, Settings
    from otelstream.probe._run import run as measure
    from otelstream.testing import SimulatorError

    settings = Settings(
        route=args.route,
        model=args.model or Settings.model,
        repeats=args.repeats,
        idle=args.idle,
        total=args.total,
        only=args.only,
    )
    bench = Bench(_target(args.url, args), settings, args.upstream_host, args.upstream_port)
    try:
        bench.start()
    except SimulatorError as error:
        listen = f"--upstream-host {args.upstream_host} --upstream-port {args.upstream_port}"
        raise CommandError(f"{listen}: {error}; give an address of this machine, and a free port or 0") from None
    try:
        _tell(f"point the upstream of {args.url} at {bench.upstream} (waiting up to {args.wait:g} s)")
        return measure(bench, args.wait, _progress())
    finally:
        bench.stop()
        _clear()


def _live(args: argparse.Namespace) -> Report:
    from otelstream.probe import _live

    if not args.model:
        raise CommandError("--live needs --model NAME: the model to ask for")
    count = f"{args.max_requests} request{'s' if args.max_requests != 1 else ''}"
    asked = f"{count} of at most {_live.TOKENS} tokens to {args.live}, paid by its key"
    if not args.yes:
        if not sys.stdin.isatty():
            raise CommandError(f"--live would send {asked}; add --yes to do it without being asked")
        _tell(f"{asked}. Go on? [y/N] ", end="")
        if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
            raise CommandError("nothing was sent; answer y, or add --yes")
    return _live.probe(_target(args.live, args), args.route, args.model, args.max_requests)


def _target(base: str, args: argparse.Namespace) -> Target:
    from otelstream.probe._client import Target
    from otelstream.probe._http import Http2

    if args.http2 and not Http2.available():
        raise CommandError(f"--http2 needs the library h2; {Http2.INSTALL}")
    # A secret can be left in the environment: a command line is seen by others.
    return Target(base, tuple((name, _secret(name, value)) for name, value in args.header), args.http2)


def _baseline(name: str) -> dict[str, str]:
    from otelstream.probe._report import read_baseline

    try:
        return read_baseline(json.loads(Path(name).read_text(encoding="utf-8")))
    except OSError as error:
        raise CommandError(f"--baseline {name}: {error.strerror}; make it by --json > {name}") from None
    except ValueError as error:
        raise CommandError(f"--baseline {name}: {error}; make it by --json > {name}") from None


def _tell(text: str, end: str = "\n") -> None:
    # Standard output is the report's alone.
    print(text, end=end, file=sys.stderr, flush=True)


def _progress() -> Any:
    if not sys.stderr.isatty():
        return lambda _: None
    return lambda code: _tell(f"\r\x1b[K{code} ...", end="")


def _clear() -> None:
    if sys.stderr.isatty():
        _tell("\r\x1b[K", end="")


def url(text: str) -> str:
    """Read the base URL of a gateway."""
    try:
        parts = urlsplit(text)
        good = parts.scheme in {"http", "https"} and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good or not text.isascii() or any(char.isspace() for char in text):
        raise ArgumentTypeError(f"{shown(text)}: give a base URL such as http://gateway:8080")
    return text


def header(text: str) -> tuple[str, str]:
    """Read a header."""
    name, colon, value = (part.strip() for part in text.partition(":"))
    plain = name.replace("-", "").replace("_", "")
    if not (colon and plain.isascii() and plain.isalnum() and value.isprintable() and value.isascii()):
        raise ArgumentTypeError(f"{shown(name or text)}: give a header such as 'x-api-key: env:KEY'")
    return name, value


def _secret(name: str, value: str) -> str:
    if not value.startswith("env:"):
        return value
    found = os.environ.get(value[4:], "")
    if not (found and found.isprintable() and found.isascii()):
        raise CommandError(f"--header {shown(name)}: {shown(value[4:])} is not set to a header's value; export it")
    return found


def codes(text: str) -> frozenset[str]:
    """Read the codes of checks."""
    from otelstream.probe._report import CODES

    found = frozenset(part.strip() for part in text.split(","))
    for code in sorted(found):
        if code not in CODES and code.rpartition("-")[0] not in CODES:
            raise ArgumentTypeError(f"{shown(code)}: give codes of --list")
    return found


def _list(read: Any) -> Any:
    def several(text: str) -> tuple[float, ...]:
        return tuple(dict.fromkeys(read(part.strip()) for part in text.split(",")))

    return several
