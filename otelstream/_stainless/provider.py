# SPDX-License-Identifier: Apache-2.0
"""An adapter of this make, as the registry of providers knows it."""

from __future__ import annotations

from otelstream._core.process.provider import Adapter
from otelstream._core.record.stream import StreamObservation
from otelstream._stainless.attach import Patches
from otelstream._stainless.faults import observed
from otelstream._stainless.sdk import Sdk


class Provider(Sdk, Adapter):
    """One SDK, to be asked for its version, attached to, and asked for the records of its objects."""

    __slots__ = ()

    def patches(self) -> Patches:
        """What attaches to it."""
        return Patches(self)

    def observed(self, thing: object) -> StreamObservation | None:
        """The record of a stream, a helper, its manager or a raw response; None for anything else."""
        return observed(thing)
