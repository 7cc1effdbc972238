# SPDX-License-Identifier: Apache-2.0
"""The table of what browsers do is what was last run."""

from __future__ import annotations

import json

from . import browsers


def test_the_table_is_what_was_run() -> None:
    """docs/recipes/index.md has the table of docs/browsers.json; whatever was run closed the provider's connection."""
    results = json.loads(browsers.RESULTS.read_text(encoding="utf-8"))

    assert browsers.page_with(results) == browsers.PAGE.read_text(encoding="utf-8"), "run: make browsers"
    assert set(results["runs"]) <= {f"{name}: {way}" for name in browsers.SETUPS for way in browsers.WAYS}
    assert {found["closed_by"] for found in results["runs"].values()} == {"peer"}


def test_a_stop_is_told_from_a_leave() -> None:
    """In a browser, too: whoever presses Stop is not taken for one who left."""
    runs = json.loads(browsers.RESULTS.read_text(encoding="utf-8"))["runs"]

    runs = {run: found for run, found in runs.items() if not run.startswith(("Streamlit", "Gradio"))}  # their own Stop
    told = {way: {found["trigger"] for run, found in runs.items() if run.endswith(f": {way}")} for way in browsers.WAYS}
    assert told == {"Stop": {"user_stop"}, "abort": {"client_disconnect"}, "tab": {"client_disconnect"}}
