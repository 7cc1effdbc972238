# SPDX-License-Identifier: Apache-2.0
"""Where the bundled objectives file is: inside the wheel, or in the repository of a checkout."""

from __future__ import annotations

from pathlib import Path

from otelstream._objectives_file import SloConfig, load_config


def folder() -> Path:
    """Return the folder with the objectives file and what was made from it."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_data" / "dashboards"
    return installed if installed.is_dir() else package.parent / "dashboards"


def objectives_path() -> Path:
    return folder() / "objectives.yaml"


def bundled_config() -> SloConfig:
    return load_config(objectives_path())
