# SPDX-License-Identifier: Apache-2.0
"""What otelstream raises, and where: at `instrument()`, at a definition, and from a tool that asked to be held."""

from __future__ import annotations


class OtelstreamError(Exception):
    """Base of everything otelstream raises."""


class ConfigurationError(OtelstreamError, ValueError):
    """A setting has a value that is not allowed."""


class UnsupportedVersionError(OtelstreamError):
    """The installed provider SDK is outside the range otelstream knows how to observe."""


class ToolWithheld(OtelstreamError):  # noqa: N818 - a state, as the application reads it
    """A tool declared with `hold` was not run: its stream did not end cleanly, was stopped, or is not being read."""
