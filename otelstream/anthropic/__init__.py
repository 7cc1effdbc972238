# SPDX-License-Identifier: Apache-2.0
"""The Anthropic adapter: which SDK versions it knows, and switching its patches on and off."""

from __future__ import annotations

import sys
from importlib import metadata
from typing import TYPE_CHECKING

from otelstream._errors import UnsupportedVersionError

if TYPE_CHECKING:
    from otelstream._core.process.runtime import Runtime
    from otelstream.anthropic._patch import Patches

SUPPORTED = ((0, 51), (3, 0))  # from, below


def installed_version() -> str | None:
    """The version of the installed SDK, without importing it; None without one."""
    try:
        return metadata.version("anthropic")
    except metadata.PackageNotFoundError:
        module = sys.modules.get("anthropic")
        return getattr(module, "__version__", None)


def check_version(version: str) -> None:
    """Raise UnsupportedVersionError unless this adapter knows `version`."""
    try:
        numbers = tuple(int(part) for part in version.split(".")[:2])
    except ValueError:
        numbers = (0, 0)
    low, high = SUPPORTED
    if not low <= numbers < high:
        raise UnsupportedVersionError(
            f"anthropic {version} is not supported: otelstream observes anthropic >= {low[0]}.{low[1]}, < {high[0]}; "
            f"install one of those, or remove otelstream"
        )


def patch(runtime: Runtime) -> Patches:
    """Attach to the SDK.

    Raises:
        UnsupportedVersionError: the installed SDK lacks a hook point.
    """
    from otelstream.anthropic._patch import Patches

    patches = Patches(runtime)
    try:
        patches.apply()
    except AttributeError as error:
        raise UnsupportedVersionError(f"anthropic {installed_version()} lacks a hook point: {error}") from error
    return patches
