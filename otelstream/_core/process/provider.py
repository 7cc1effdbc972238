# SPDX-License-Identifier: Apache-2.0
"""What an adapter says of itself: the SDK it observes, and what else may be found beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

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
