# SPDX-License-Identifier: Apache-2.0
"""The local view: what an exporter received of each stream, drawn in a terminal or on a page."""

from __future__ import annotations
