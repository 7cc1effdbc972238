# SPDX-License-Identifier: Apache-2.0
"""The file in OTEL_CONFIG_FILE, which the SDK reads too: what is wrong with it as a whole is the SDK's to say."""

from __future__ import annotations

from pathlib import Path

import pytest

from otelstream._face import config as _config

HEAD = "instrumentation/development:\n  python:\n    otelstream:\n      stall_threshold: 7\n"


@pytest.mark.parametrize(
    "content",
    [
        (HEAD + "x: münchen\n").encode("latin-1"),
        HEAD.encode("utf-16"),
        HEAD.encode() + b"x: 2024-99-99\n",
        HEAD.encode() + b"x: " + b"9" * 5000,
        HEAD.encode() + b"x: " + b"[" * 5000,
        HEAD.encode() + b"x: [\n",
        b"- a\n",
        b"\0",
    ],
    ids=["latin-1", "utf-16", "bad date", "long number", "deep", "open list", "list", "nul"],
)
def test_a_file_that_cannot_be_read_says_nothing_of_us(content: bytes, tmp_path: Path) -> None:
    """Whatever the file holds, nothing but a ConfigurationError leaves: here, the defaults."""
    file = tmp_path / "otel.yaml"
    file.write_bytes(content)

    assert _config.load({}, {"OTEL_CONFIG_FILE": str(file)}) == _config.Settings()


def test_a_path_that_is_none(tmp_path: Path) -> None:
    """A path that leads nowhere, or nowhere possible, is the SDK's to report."""
    for path in ("none.yaml", str(tmp_path), "\0"):
        assert _config.load({}, {"OTEL_CONFIG_FILE": path}) == _config.Settings()
