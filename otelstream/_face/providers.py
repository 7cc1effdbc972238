# SPDX-License-Identifier: Apache-2.0
"""The providers' adapters, as packages register them: by an entry point in the group `otelstream_provider`."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from otelstream._core.process.provider import Provider

__all__ = ["Provider", "installed", "known"]

GROUP = "otelstream_provider"


@cache
def known() -> tuple[Provider, ...]:
    """Every adapter there is, by the name of its entry point."""
    found = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    return tuple(point.load() for point in found)


def installed() -> dict[Provider, str]:
    """The adapters whose SDK is installed, with its version."""
    versions = {provider: provider.installed_version() for provider in known()}
    return {provider: version for provider, version in versions.items() if version is not None}
