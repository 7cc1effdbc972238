# SPDX-License-Identifier: Apache-2.0
"""The Grafana dashboards, made from an objectives file."""

from __future__ import annotations

from typing import Any

from otelstream._objectives_file import SloConfig
from otelstream.grafana import _compare, _inside, _streams, _tools
from otelstream.grafana._render import render


def dashboards(config: SloConfig) -> list[dict[str, Any]]:
    """Return every dashboard as classic JSON, in the order people read them."""
    return [render(made) for made in (m.dashboard(config) for m in (_streams, _inside, _tools, _compare))]
