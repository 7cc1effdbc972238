# SPDX-License-Identifier: Apache-2.0
"""What an adapter says of itself: the SDK it observes, and what else may be found beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from sys import modules
from typing import Any, Protocol

from otelstream._core.process.hooks import Patches
from otelstream._errors import UnsupportedVersionError

Version = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Beside:
    """Who else traces an SDK, and how that is told otherwise: for `otelstream doctor`."""

    peers: Mapping[str, str] = field(default_factory=dict)  # distribution -> the name under which it can be disabled
    capturing: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # by default, unless all these are set so
    native_since: Version | None = None  # the SDK traces itself
    native_switch: str = ""  # a variable of the environment: `false` switches that off
    native_content: str = ""  # and `content` makes it record prompts and answers
    calls: Sequence[tuple[str, Sequence[str]]] = ()  # (module, its functions that others wrap)
    paths: tuple[str, ...] = ("/",)  # how the URL of a streamed request ends
    patience: str = ""  # how its clients are told to wait shorter


class Provider(Protocol):
    """One SDK that can be observed. Nothing of it imports the SDK but `patch`."""

    @property
    def package(self) -> str: ...
    @property
    def installs(self) -> str: ...
    @property
    def used(self) -> str: ...
    @property
    def supported(self) -> tuple[Version, Version]: ...
    @property
    def provider(self) -> str: ...
    @property
    def clients(self) -> Sequence[str]: ...
    @property
    def beside(self) -> Beside: ...
    def installed_version(self) -> str | None: ...
    def check_version(self, version: str) -> None: ...
    def patch(self, runtime: Any) -> Any: ...
    def observed(self, thing: object) -> Any: ...


_patches: dict[Any, Patches] = {}  # of the process: a class is wrapped once


class Adapter:
    """What every adapter does in the same way, by its package's name and the versions that it knows."""

    __slots__ = ()
    package: str
    distribution: str
    supported: tuple[Version, Version]

    @property
    def used(self) -> str:
        """The module whose import says that the application uses the SDK: only then it is attached to."""
        return self.package

    def patches(self) -> Patches:
        """What attaches to the SDK."""
        raise NotImplementedError

    @property
    def installs(self) -> str:
        """What is installed to have the SDK: its module's name, unless it has one of its own."""
        return self.distribution or self.package

    def installed_version(self) -> str | None:
        """The version of the installed SDK, without importing it; None without one."""
        try:
            return metadata.version(self.installs)
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
                f"{self.installs} {version} is not supported: otelstream observes {self.installs} >= "
                f"{low[0]}.{low[1]}, < {high[0]}; install one of those, or remove otelstream"
            )

    def patch(self, runtime: Any) -> Any:
        """Attach to the SDK; returns what takes it off again.

        Raises:
            UnsupportedVersionError: the installed SDK lacks a hook point.
        """
        patches = _patches.get(self) or _patches.setdefault(self, self.patches())
        try:
            patches.attach(runtime)
        except AttributeError as error:
            version = self.installed_version()
            raise UnsupportedVersionError(f"{self.installs} {version} lacks a hook point: {error}") from error
        return patches
