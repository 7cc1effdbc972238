# SPDX-License-Identifier: Apache-2.0
"""What otelstream raises, and where: at `instrument()` and on the command line, never while a stream runs."""

from __future__ import annotations


class OtelstreamError(Exception):
    """Base of everything otelstream raises."""


class ConfigurationError(OtelstreamError, ValueError):
    """A setting has a value that is not allowed."""


class UnsupportedVersionError(OtelstreamError):
    """The installed provider SDK is outside the range otelstream knows how to observe."""
