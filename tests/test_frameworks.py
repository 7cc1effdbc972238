# SPDX-License-Identifier: Apache-2.0
"""The table of agent frameworks is what was last run."""

from __future__ import annotations

import json
import re

from frameworks import run
from frameworks.cases import CASES


def test_the_table_is_what_was_run() -> None:
    """docs/frameworks.md has the table of docs/frameworks.json, and each case that there is has a row."""
    results = json.loads(run.RESULTS.read_text(encoding="utf-8"))

    assert list(results) == list(CASES)
    assert run.page_with(results) == run.PAGE.read_text(encoding="utf-8"), "run: make frameworks"


def test_every_streamed_request_had_its_record() -> None:
    """The promise of the page's first sentence, for each framework that ran; most did."""
    results = json.loads(run.RESULTS.read_text(encoding="utf-8"))
    ran = {name: found for name, found in results.items() if "failed" not in found}

    unseen = {name for name, case in CASES.items() if not case.by_sdk}
    assert {name for name, found in ran.items() if found["records"] != found["requests"]} == unseen & set(ran)
    assert all(not ran[name]["records"] for name in unseen & set(ran))
    assert {name for name, found in ran.items() if found["counted"] != found["unstreamed"]} == set()
    assert len(ran) >= 0.8 * len(results)


def test_what_the_page_explains_is_in_its_table() -> None:
    """Each bold word that explains how a Stop went is the word of some row."""
    text = run.PAGE.read_text(encoding="utf-8")
    table = text.partition(run.BEGIN.format("frameworks:"))[2].partition(run.END)[0].lower()

    for word in re.findall(r"^- \*\*(.+?)\*\*", text, re.MULTILINE):
        assert word.lower() in table


def test_a_result_that_differs_is_seen() -> None:
    """The table can tell: another count of records, or another end of a Stop, gives another page."""
    results = json.loads(run.RESULTS.read_text(encoding="utf-8"))
    name = next(name for name, found in results.items() if "failed" not in found)

    for changed in ({"records": 0}, {"stop": {"outcome": "completed", "propagation": "drained"}}):
        other = {**results, name: {**results[name], **changed}}
        assert run.page_with(other) != run.page_with(results)
