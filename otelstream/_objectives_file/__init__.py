# SPDX-License-Identifier: Apache-2.0
"""The objectives file: what it may say, how it is checked, and the frozen values that it comes to."""

from __future__ import annotations

from otelstream._objectives_file.check import load, load_config, parse
from otelstream._objectives_file.fields import schema
from otelstream._objectives_file.problems import ObjectivesError
from otelstream._objectives_file.promises import (
    DAY,
    BurnRate,
    Promise,
    Severity,
    SloConfig,
    Symptom,
)
from otelstream._objectives_file.text import duration, number, percent, spoken

__all__ = [
    "DAY",
    "BurnRate",
    "ObjectivesError",
    "Promise",
    "Severity",
    "SloConfig",
    "Symptom",
    "duration",
    "load",
    "load_config",
    "number",
    "parse",
    "percent",
    "schema",
    "spoken",
]
