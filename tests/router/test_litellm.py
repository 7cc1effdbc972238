# SPDX-License-Identifier: Apache-2.0
"""LiteLLM: one record for a call, whatever it goes through, and the same chunks and exceptions as without us."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("litellm") is None, reason="litellm is not installed")

PROGRAM = Path(__file__).with_name("ways.py")
ROADS = ("openai", "anthropic")
COMPLETED = ("completed", "none", "finished", None, None)
LOST = ("failed", "connection_lost", "mid_stream", None, "connection_error")
SHORT = ("failed", "cut_short", "mid_stream", None, "api_error")
TIMED_OUT = ("failed", "timeout", "mid_stream", None, "client_timeout_error")
CLOSED = ("cancelled", "none", "mid_stream", "app_close", None)

# Outcome, fault, phase, trigger, error type; by road where an SDK below knows the provider's own word.
QUICK: dict[str, Any] = {
    "whole, sync": COMPLETED,
    "whole, async": COMPLETED,
    "error, sync": {
        "openai": ("failed", "provider_error", "mid_stream", None, "overloaded_error"),
        "anthropic": ("failed", "provider_error", "mid_stream", None, "500"),
    },
    "cut, async": LOST,
    "ended, sync": SHORT,
    "ended, async": SHORT,
    "429, sync": {
        "openai": ("failed", "provider_error", "before_response", None, "rate_limit_error"),
        "anthropic": ("failed", "provider_error", "before_response", None, "429"),
    },
    "tools, async": COMPLETED,
    "full, sync": ("truncated", "none", "finished", None, None),
    "closed": CLOSED,
    "closed below": {
        "openai": CLOSED,
        "anthropic": ("abandoned", "none", "mid_stream", "gc", None),  # that is a generator, which nobody watches
    },
    "closed, async": CLOSED,
    "error in a with block": ("caller_error", "none", "mid_stream", None, None),
    "task cancelled": ("cancelled", "none", "mid_stream", "task_cancel", None),
    "a loop, stopped": ("cancelled", "repetition", "mid_stream", "app_close", "repetition"),
}
SLOW: dict[str, Any] = {
    "error, async": QUICK["error, sync"],
    "cut, sync": LOST,
    "reset, sync": LOST,
    "reset, async": LOST,
    "429, async": QUICK["429, sync"],
    "400, sync": {
        "openai": ("failed", "request_error", "before_response", None, "invalid_request_error"),
        "anthropic": ("failed", "request_error", "before_response", None, "400"),
    },
    "400, async": {
        "openai": ("failed", "request_error", "before_response", None, "invalid_request_error"),
        "anthropic": ("failed", "request_error", "before_response", None, "400"),
    },
    "tools, sync": COMPLETED,
    "time-out, sync": TIMED_OUT,
    "time-out, async": TIMED_OUT,
    "usage, sync": COMPLETED,
}


@pytest.fixture(scope="module")
def quick() -> dict[str, Any]:
    return played(QUICK)


@pytest.fixture(scope="module")
def slow() -> dict[str, Any]:
    return played(SLOW)


def played(ways: dict[str, Any]) -> dict[str, Any]:
    """What a process of its own recorded of these ways."""
    ran = subprocess.run([sys.executable, PROGRAM, *ways], capture_output=True, text=True, timeout=600, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def check(found: dict[str, Any], road: str, way: str, right: Any) -> None:
    right = right[road] if isinstance(right, dict) else right
    said = found[f"{road}: {way}"]
    assert tuple(said[name] for name in ("outcome", "fault", "phase", "trigger", "error_type")) == right
    assert said["records"] == 1  # an SDK below has none of its own
    assert said["same"] or "loop" in way
    attributes = said["attributes"]
    assert attributes["otelstream.stream.rechunked"] is True
    if said["raised"] is None:
        assert said["chars"] == said["text"]
    if way.startswith("tools"):
        assert said["calls"] == ["read_clouds", "ask_hour"]
    if way.startswith("usage"):
        assert attributes["gen_ai.usage.output_tokens"] > 0


@pytest.mark.parametrize("way", QUICK)
@pytest.mark.parametrize("road", ROADS)
def test_a_way_of_reading_and_ending(quick: dict[str, Any], road: str, way: str) -> None:
    """A call through the router has one record that says how it ended, and gives what it gives without us."""
    check(quick, road, way, QUICK[way])


@pytest.mark.slow
@pytest.mark.parametrize("way", SLOW)
@pytest.mark.parametrize("road", ROADS)
def test_another_way(slow: dict[str, Any], road: str, way: str) -> None:
    """The same for the ways that take longer, or that differ little."""
    check(slow, road, way, SLOW[way])


PICKLED = """
import pickle, litellm
import otelstream
before = [pickle.dumps(getattr(litellm, name)) for name in ("completion", "acompletion")]
otelstream.instrument()
for blob, name in zip(before, ("completion", "acompletion")):
    function = getattr(litellm, name)
    assert pickle.loads(pickle.dumps(function)) is function, name
    assert pickle.loads(blob) in (function, getattr(litellm.main, name)), name
"""


def test_its_functions_are_pickled_as_before() -> None:
    """A wrapped function goes to another process as the function does, which a module itself cannot."""
    quiet = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    ran = subprocess.run(
        [sys.executable, "-c", PICKLED], env=quiet, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
