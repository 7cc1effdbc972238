# SPDX-License-Identifier: Apache-2.0
"""The providers' adapters, as packages register them: by an entry point in the group `otelstream_provider`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Protocol

GROUP = "otelstream_provider"


class Provider(Protocol):
    """One SDK that can be observed. Nothing of it imports the SDK but `patch`."""

    @property
    def package(self) -> str: ...
    @property
    def supported(self) -> tuple[tuple[int, int], tuple[int, int]]: ...
    @property
    def provider(self) -> str: ...
    @property
    def clients(self) -> Sequence[str]: ...
    def installed_version(self) -> str | None: ...
    def check_version(self, version: str) -> None: ...
    def patch(self, runtime: Any) -> Any: ...
    def observed(self, thing: object) -> Any: ...


@cache
def known() -> tuple[Provider, ...]:
    """Every adapter there is, by the name of its entry point."""
    found = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    return tuple(point.load() for point in found)


def installed() -> dict[Provider, str]:
    """The adapters whose SDK is installed, with its version."""
    versions = {provider: provider.installed_version() for provider in known()}
    return {provider: version for provider, version in versions.items() if version is not None}
