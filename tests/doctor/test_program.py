# SPDX-License-Identifier: Apache-2.0
"""The doctor finds what is wrong with a running program, and nothing else: one plant, one finding."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import anthropic
import pytest

from otelstream.doctor import _examine
from otelstream.doctor._report import CODES, Report
from otelstream.testing import ProviderSimulator

PLANTED = {
    "nothing": None,
    "no_tracer_provider": "no-tracer-provider",
    "no_span_exporter": "no-span-exporter",
    "no_meter_provider": "no-meter-provider",
    "no_metric_reader": "no-metric-reader",
    "exporter_unreachable": "exporter-unreachable",
    "no_service_name": "service-name",
    "few_events": "span-limits",
    "few_attributes": "span-limits",
    "ratio": "sampling",
    "exponential": "histogram-bounds",
    "narrow_view": "histogram-bounds",
    "one_identity": None,  # alone it is right
    "default_timeout": "client-timeout",
    "second_tracer": "double-spans",
    "content_by_another": "content-captured",
    "content_by_the_sdk": "content-captured",
    "replaced": "patch-lost",
    "suppressed": "not-observed",
    "suppressed_by_another": "suppressed",
    "dropped": "cancel-path",
    "stopped": None,
    "acted_on_half": "half-formed",
    "early_tool": "tool-too-early",
    "undeclared_tool": "side-effects",
    "standing_side_effect": "side-effects",
    "good_tool": None,
}


def examined(folder: Path, *paths: Path) -> Report:
    for path in paths:
        shutil.copy(path, folder)
    return _examine.program(str(folder), 0)


@pytest.mark.parametrize(("plant", "code"), PLANTED.items(), ids=PLANTED)
def test_each_plant_is_found_and_nothing_else(
    plant: str, code: str | None, left_behind: dict[str, Path], tmp_path: Path
) -> None:
    """A program with one thing wrong gets one finding, with its code; a clean one gets none."""
    if plant == "content_by_the_sdk" and not hasattr(anthropic, "_tracing"):
        pytest.skip("this SDK traces nothing by itself")
    report = examined(tmp_path, left_behind[plant])

    assert report.codes == ({code} if code else set()), "\n".join(report.lines())
    for finding in report.findings:
        assert "\n" not in finding.what + finding.remedy
        assert len(finding.what) > 20
        assert len(finding.remedy) > 10


def test_two_workers_with_one_identity(left_behind: dict[str, Path], tmp_path: Path) -> None:
    """Workers that export under one service.instance.id overwrite each other's counters."""
    report = examined(tmp_path, left_behind["one_identity"], left_behind["the_same_identity"])

    assert report.codes == {"instance-id"}


def test_two_workers_with_an_identity_each(left_behind: dict[str, Path], tmp_path: Path) -> None:
    """An SDK that gives each process its own service.instance.id leaves nothing to find."""
    ids = {json.loads(left_behind[name].read_bytes())["metrics"]["resource"].get("service.instance.id")
           for name in ("nothing", "ratio")}  # fmt: skip
    if None in ids:
        pytest.skip("this SDK gives no service.instance.id")

    report = examined(tmp_path, left_behind["nothing"], left_behind["stopped"])

    assert report.codes == set()


@pytest.mark.parametrize(
    ("plant", "point", "verdict"),
    [
        ("nothing", "first token", "yes"),
        ("nothing", "half-formed", "unseen"),
        ("nothing", "tools only", "unseen"),
        ("nothing", "cancel path", "unseen"),
        ("nothing", "marked partial", "unseen"),
        ("nothing", "side effects", "unseen"),
        ("acted_on_half", "half-formed", "no"),
        ("early_tool", "tools only", "no"),
        ("good_tool", "tools only", "yes"),
        ("good_tool", "side effects", "yes"),
        ("dropped", "cancel path", "no"),
        ("dropped", "marked partial", "unseen"),
        ("stopped", "cancel path", "yes"),
        ("stopped", "marked partial", "yes"),
        ("undeclared_tool", "side effects", "no"),
        ("standing_side_effect", "side effects", "no"),
    ],
)
def test_the_six_points(plant: str, point: str, verdict: str, left_behind: dict[str, Path], tmp_path: Path) -> None:
    """Each point is held, broken, or not to be seen; never guessed."""
    report = examined(tmp_path, left_behind[plant])

    (found,) = [each for each in report.points if point in each.name]
    assert found.verdict == verdict, found


def test_every_code_is_explained() -> None:
    """A code that scripts may rely on stands in the documentation, with what it means."""
    page = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text(encoding="utf-8")

    for code, meaning in CODES.items():
        assert f"| `{code}` | {meaning} |" in page


def test_a_gateway_can_be_probed(left_behind: dict[str, Path], sim: ProviderSimulator, tmp_path: Path) -> None:
    """Of a base URL that leads to a gateway, one line says so, and how to look into it."""
    report = examined(tmp_path, left_behind["nothing"])

    assert [each for each in report.unseen if f"otelstream probe {sim.base_url}" in each]
