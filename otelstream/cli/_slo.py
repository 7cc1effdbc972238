# SPDX-License-Identifier: Apache-2.0
"""`otelstream slo`: the objectives file, and what is made from it."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from otelstream._objectives_file import Promise, SloConfig, duration, load_config, number, parse, percent, spoken
from otelstream.cli import CommandError
from otelstream.cli._values import uid
from otelstream.slo._bundled import objectives_path

_EXAMPLES = """\
examples:
  otelstream slo init -o objectives.yaml
  otelstream slo check objectives.yaml
  otelstream slo rules objectives.yaml -o rules
  otelstream slo dashboards objectives.yaml -o grafana
  otelstream slo runbook objectives.yaml -o .
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLES
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, summary: str, example: str) -> argparse.ArgumentParser:
        return actions.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"example: {example}",
        )

    init = action(
        "init",
        "write a copy of the bundled objectives file to edit",
        "otelstream slo init -o objectives.yaml",
    )
    init.add_argument("-o", "--output", default="objectives.yaml", help="file to write (default: %(default)s)")
    init.add_argument(
        "--group-by",
        metavar="LABELS",
        help="one alert for each combination of these, comma-separated: cluster,job (default: as in the file)",
    )
    init.add_argument("--force", action="store_true", help="overwrite it")

    check = action(
        "check",
        "report every problem of an objectives file, and what each alert amounts to",
        "otelstream slo check objectives.yaml",
    )
    check.add_argument("--json", action="store_true", help="print as JSON")
    check.add_argument(
        "--generated",
        metavar="DIR",
        help="also compare the rules, dashboards and runbook found there; 1 if they differ",
    )

    rules = action(
        "rules",
        "make Prometheus rules, a PrometheusRule and Grafana-managed alerts",
        "otelstream slo rules objectives.yaml -o rules",
    )
    rules.add_argument(
        "--datasource-uid", type=uid, default="prometheus", help="of the Grafana-managed alerts (default: %(default)s)"
    )
    dashboards = action(
        "dashboards", "make the Grafana dashboards", "otelstream slo dashboards objectives.yaml -o grafana"
    )
    runbook = action("runbook", "make the runbook", "otelstream slo runbook objectives.yaml -o .")
    for made in (rules, dashboards, runbook):
        made.add_argument("-o", "--output", metavar="DIR", required=True, help="folder to write to")
    for reading in (check, rules, dashboards, runbook):
        reading.add_argument("file", nargs="?", help="objectives file (default: the bundled one)")


def run(args: argparse.Namespace) -> int:
    if args.action == "init":
        return _init(args)
    config = _config(args.file)
    if args.action == "check":
        return _check(args, config)
    return _make(args, config)


def _config(file: str | None) -> SloConfig:
    try:
        return load_config(file or objectives_path())
    except ValueError as error:
        raise CommandError(str(error)) from None


def _init(args: argparse.Namespace) -> int:
    from otelstream.cli import _generate

    target = Path(args.output)
    if target.exists() and not args.force:
        raise CommandError(f"--output {target} exists; name another file, or add --force")
    text = objectives_path().read_text(encoding="utf-8")
    if args.group_by is not None:
        names = [name.strip() for name in args.group_by.split(",")]
        try:
            parse({"group_by": names, "objectives": [{"name": "any", "kind": "integrity", "target": 0.99}]})
        except ValueError as error:
            raise CommandError(f"--group-by {args.group_by!r}: {error}") from None
        text = re.sub(r"^group_by: .*$", f"group_by: [{', '.join(names)}]", text, flags=re.MULTILINE)
    files = {target.name: text, **_generate.schema_files()}
    _write(target.parent, files)
    return 0


def _make(args: argparse.Namespace, config: SloConfig) -> int:
    from otelstream.cli import _generate

    with _extra():
        if args.action == "rules":
            files = _generate.rule_files(config, args.datasource_uid)
        elif args.action == "dashboards":
            files = _generate.dashboard_files(config)
        else:
            files = _generate.runbook_files(config)
    _write(Path(args.output), files)
    return 0


@contextlib.contextmanager
def _extra() -> Iterator[None]:
    """Say what installs a library that is missing."""
    try:
        yield
    except ImportError as error:
        library = (error.name or "a library").partition(".")[0]
        raise CommandError(f'{library} is missing; `pip install "otelstream[dashboards]"`') from None


def _write(folder: Path, files: Mapping[str, str]) -> None:
    from otelstream.cli import _generate

    try:
        _generate.write(folder, files)
    except OSError as error:
        raise CommandError(f"--output {folder}: {error.strerror}; name a folder that can be written") from None
    for name in files:
        print(folder / name)


def _check(args: argparse.Namespace, config: SloConfig) -> int:
    differing = _differing(config, Path(args.generated)) if args.generated else []
    if args.json:
        print(json.dumps(_plain(config, differing), indent=2))
        return 1 if differing else 0
    print(f"objectives {config.objectives.hash}, over {duration(config.window)}")
    for promise in config.promises:
        objective = promise.objective
        limit = f" within {spoken(objective.threshold)}" if objective.threshold else ""
        print(f"\n{objective.name}: {objective.kind}{limit}, {percent(objective.target)} good")
        for pair in promise.burn_rates:
            print(
                f"  {pair.severity:6} when over {percent(pair.factor * promise.budget)} are bad in "
                f"{duration(pair.long)} and in {duration(pair.short)} (budget x {number(pair.factor)}), "
                f"and at least {promise.min_bad}, for {duration(pair.hold)}"
            )
    for note in notes(config):
        print(f"\nnote: {note}")
    for name in differing:
        print(f"otelstream slo: {name} differs from what this file makes; make it again", file=sys.stderr)
    return 1 if differing else 0


def notes(config: SloConfig) -> list[str]:
    """What is allowed but probably not meant."""
    found = []
    if "://" not in config.runbook_url:
        found.append(f"runbook_url {config.runbook_url!r} is no web address: alerts link nowhere until it is one")
    slow = {pair.long: pair for promise in config.promises for pair in promise.burn_rates if pair.factor < 1}
    found.extend(
        f"burn rate {number(round(pair.factor, 3))} over {duration(pair.long)} is under 1: it alerts "
        f"although the budget of {duration(config.window)} would last; use a shorter long window"
        for pair in slow.values()
    )
    return found


def _plain(config: SloConfig, differing: list[str]) -> dict[str, object]:
    def pairs(promise: Promise) -> list[dict[str, object]]:
        return [
            {
                "severity": pair.severity,
                "long_seconds": float(pair.long),
                "short_seconds": float(pair.short),
                "factor": float(pair.factor),
                "bad_ratio": float(pair.factor * promise.budget),
                "for_seconds": float(pair.hold),
            }
            for pair in promise.burn_rates
        ]

    return {
        "hash": config.objectives.hash,
        "window_seconds": float(config.window),
        "objectives": [
            {
                "name": promise.objective.name,
                "kind": promise.objective.kind,
                "target": promise.objective.target,
                "threshold_seconds": promise.objective.threshold,
                "min_bad": promise.min_bad,
                "burn_rates": pairs(promise),
            }
            for promise in config.promises
        ],
        "notes": notes(config),
        "differing": differing,
    }


def _differing(config: SloConfig, folder: Path) -> list[str]:
    """Names of generated files under a folder that are not what the config makes now."""
    from otelstream.cli import _generate

    if not folder.is_dir():
        raise CommandError(f"--generated {folder} is no folder; name the one the files were written to")
    with _extra():
        made = {
            **_generate.rule_files(config),
            **_generate.dashboard_files(config),
            **_generate.runbook_files(config),
        }
    found = []
    for path in sorted(folder.rglob("*")):
        text = made.get(path.name)
        try:
            # What is no UTF-8 differs: everything made is.
            if text is not None and path.read_text(encoding="utf-8", errors="replace") != text:
                found.append(str(path))
        except OSError as error:
            raise CommandError(f"--generated {path}: {error.strerror}; name a folder that can be read") from None
    return found
