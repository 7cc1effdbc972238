# SPDX-License-Identifier: Apache-2.0
"""The table of gateways is what was last run."""

from __future__ import annotations

import json
import re

from gateways import run
from gateways.gateways import GATEWAYS

from otelstream.probe._report import CODES


def results() -> dict[str, dict[str, dict[str, dict[str, list[str]]]]]:
    return dict(json.loads(run.RESULTS.read_text(encoding="utf-8")))


def test_the_table_is_what_was_run() -> None:
    """docs/gateways.md has the table of docs/gateways.json, and each gateway that there is has a row."""
    assert list(results()) == [gateway.name for gateway in GATEWAYS]
    assert run.page_with(results()) == run.PAGE.read_text(encoding="utf-8"), "run: make gateways"


def test_what_the_probe_prints_keeps_everything() -> None:
    """For each configuration that the probe prints there was a run of it, with every check; LiteLLM's loses some."""
    elsewhere = {"http2", "http-version", "well-formed", "terminal-event"}
    found = results()

    for gateway in GATEWAYS:
        if "--config" in gateway.says:
            right = found[gateway.name]["right"]
            assert {run.family(code) for code in right["checks"]} == set(CODES) - elsewhere
            assert gateway.name.startswith("LiteLLM") == (run.said(right) != "all kept")


def test_the_least_of_a_limit_is_named() -> None:
    """Of bodies and silences that were too much, the table has the least; everything else by its code."""
    checks = {"body-12": ["lost", ""], "body-2": ["lost", ""], "cut-fin": ["hidden", ""], "pings": ["kept", ""]}

    assert run.said({"checks": checks}) == "**hidden** `cut-fin`; **lost** `body-2`"
    assert run.said({"checks": {"pings": ["kept", ""]}}) == "all kept"
    assert run.said({"failed": "no", "checks": checks}) == "not probed: no"


def test_a_result_that_differs_is_seen() -> None:
    """The table can tell: another verdict gives another page."""
    found = results()
    name = next(name for name, each in found.items() if "checks" in each.get("default", {}))
    found[name]["default"]["checks"]["cadence"] = ["invented", ""]

    assert run.page_with(found) != run.page_with(results())


def test_no_path_of_a_machine_is_published() -> None:
    """The results are committed: nothing in them is of the machine that ran them."""
    assert not re.search(r"/tmp|/home|/work|/root|127\.0\.0\.1:\d", run.RESULTS.read_text(encoding="utf-8"))
