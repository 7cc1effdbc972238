# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.matrix`: what the matrix of this SDK has, and what not and why; `--run` runs it."""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib import metadata
from pathlib import Path

from . import exits, table
from .harness import CLIENTS, bench, cells, native

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-streams-end.md"


def run(package: str) -> tuple[int, list[str]]:
    """Run every cell; return how many there were, and what went wrong."""
    count, wrong = 0, []
    with bench() as made:
        for shape, name, why in cells(package):
            if why:
                continue
            count += 1
            try:
                differences = made.check(shape, name)
            except Exception as error:
                differences = [f"{error!r}"]
            if differences:
                wrong.append("\n    ".join([f"{shape}: {name}", *differences]))
    kinds = sorted({shape.asynchronous for shape, _, why in cells(package) if not why})  # which the version has
    for with_span in native(package):
        for asynchronous in kinds:
            count += 1
            differences = exits.check(package, asynchronous=asynchronous, native=with_span)
            wrong += [f"exit, {'async' if asynchronous else 'sync'}: {each}" for each in differences]
    return count, wrong


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument("--sdk", choices=CLIENTS, default="anthropic", help="whose (default: %(default)s)")
    parser.add_argument("--run", action="store_true", help="run every cell")
    parser.add_argument("--docs", action="store_true", help=f"run one cell of each ending and write {PAGE.name}")
    parser.add_argument("--short", action="store_true", help="print the README's table")
    parser.add_argument("--json", action="store_true", help="print counts only, as JSON")
    arguments = parser.parse_args()
    started = time.perf_counter()
    have = [cell for cell in cells(arguments.sdk) if not cell[2]]
    result: dict[str, object] = {
        "sdk": arguments.sdk,
        "version": metadata.version(arguments.sdk),
        "python": ".".join(map(str, sys.version_info[:3])),
        "cells": len(have),
        "skipped": sum(bool(why) for *_, why in cells(arguments.sdk)),
    }
    wrong: list[str] = []
    if arguments.run:
        result["cells"], wrong = run(arguments.sdk)
        result["failed"] = len(wrong)
        result["seconds"] = round(time.perf_counter() - started, 1)
        for each in wrong:
            print(each, file=sys.stderr)
    if arguments.json:
        print(json.dumps(result))
        return bool(wrong)
    print(", ".join(f"{name} {value}" for name, value in result.items()))
    if arguments.docs or arguments.short:
        with bench() as made:
            rows = table.rows(made)
        if arguments.docs:
            PAGE.parent.mkdir(exist_ok=True)
            PAGE.write_text(table.page(rows), encoding="utf-8")
            print(f"wrote {PAGE.relative_to(Path.cwd()) if PAGE.is_relative_to(Path.cwd()) else PAGE.name}")
        print(table.short(rows) if arguments.short else table.page(rows))
    else:
        print("\n".join(table.skipped(arguments.sdk)))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
