# SPDX-License-Identifier: Apache-2.0
"""The local view: what an exporter received of each stream, drawn in a terminal or on a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider


def attach(tracer_provider: TracerProvider | None, destination: str) -> TracerProvider:
    """Show every stream at *destination* and return the tracer provider to use; see `_sink.attach`."""
    from ._sink import attach as attach_sink

    return attach_sink(tracer_provider, destination)


def detach() -> None:
    """Show no stream that begins from now on."""
    from ._sink import detach as detach_sinks

    detach_sinks()


__all__ = ["attach", "detach"]
