# SPDX-License-Identifier: Apache-2.0
"""An adapter of this make, as the registry of providers knows it."""

from __future__ import annotations

from importlib import metadata
from sys import modules
from typing import Any

from otelstream._core.record.stream import StreamObservation
from otelstream._errors import UnsupportedVersionError
from otelstream._stainless.attach import Patches
from otelstream._stainless.faults import observed
from otelstream._stainless.sdk import Sdk

_patches: dict[Sdk, Patches] = {}  # of the process: a class is wrapped once


class Provider(Sdk):
    """One SDK, to be asked for its version, attached to, and asked for the records of its objects."""

    __slots__ = ()

    def installed_version(self) -> str | None:
        """The version of the installed SDK, without importing it; None without one."""
        try:
            return metadata.version(self.distribution or self.package)
        except metadata.PackageNotFoundError:
            return getattr(modules.get(self.package), "__version__", None)

    def check_version(self, version: str) -> None:
        """Raise UnsupportedVersionError unless this adapter knows `version`."""
        try:
            numbers = tuple(int(part) for part in version.split(".")[:2])
        except ValueError:
            numbers = (0, 0)
        low, high = self.supported
        if not low <= numbers < high:
            raise UnsupportedVersionError(
                f"{self.package} {version} is not supported: otelstream observes {self.package} >= {low[0]}.{low[1]}, "
                f"< {high[0]}; install one of those, or remove otelstream"
            )

    def patch(self, runtime: Any) -> Any:
        """Attach to the SDK; returns what takes it off again.

        Raises:
            UnsupportedVersionError: the installed SDK lacks a hook point.
        """
        patches = _patches.setdefault(self, Patches(self))
        try:
            patches.attach(runtime)
        except AttributeError as error:
            version = self.installed_version()
            raise UnsupportedVersionError(f"{self.package} {version} lacks a hook point: {error}") from error
        return patches

    def observed(self, thing: object) -> StreamObservation | None:
        """The record of a stream, a helper, its manager or a raw response; None for anything else."""
        return observed(thing)
