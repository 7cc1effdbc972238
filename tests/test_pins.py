# SPDX-License-Identifier: Apache-2.0
"""`tests/constraints.txt` pins what the tests run on, for every Python that is supported."""

from __future__ import annotations

from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).parent
EXTRAS = ("", "anthropic", "openai", "bedrock", "google", "litellm", "otlp", "prometheus", "dashboards", "testing")


def lines(name: str) -> list[Requirement]:
    """The requirements of a file of tests/."""
    text = (line.strip() for line in (HERE / name).read_text().splitlines())
    return [Requirement(line) for line in text if line and not line.startswith("#")]


def applies(requirement: Requirement, python: str) -> bool:
    """Whether it is meant for that Python, with the extras that the tests install."""
    versions = {"python_version": python, "python_full_version": f"{python}.4"}
    return requirement.marker is None or any(
        requirement.marker.evaluate({**versions, "extra": extra}) for extra in EXTRAS
    )


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_pins(python: str) -> None:
    """All that the tests and the project need has one version a Python, which is one that they allow."""
    pins: dict[str, str] = {}
    for pin in lines("constraints.txt"):
        if applies(pin, python):
            (specifier,) = pin.specifier
            assert specifier.operator == "=="
            assert pins.setdefault(canonicalize_name(pin.name), specifier.version) == specifier.version

    wanted = lines("requirements.txt") + lines("requirements-mutate.txt")
    wanted += [Requirement(line) for line in requires("otelstream") or ()]
    for need in wanted:
        name = canonicalize_name(need.name)
        if applies(need, python) and name != "otelstream":
            assert need.specifier.contains(pins[name], prereleases=True), (need, pins[name])


def test_pins_name_no_place() -> None:
    """A pin says which version, never from where: whoever installs has their own index."""
    text = (HERE / "constraints.txt").read_text()

    assert "://" not in text
    assert not [line for line in text.splitlines() if line.startswith("-")]
