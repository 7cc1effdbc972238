# SPDX-License-Identifier: Apache-2.0
"""What a case is: a way to use a framework or a client, and how one leaves off in it."""
# mypy: ignore-errors

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

QUESTION = "How is the weather in Oslo?"
MODEL = "claude-sonnet-4-5"
GPT = "gpt-4.1"
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
Leave = Callable[[], bool]  # asked after each piece: whether to leave off


def get_weather(city: str) -> str:
    """Look the weather up.

    Args:
        city: where.
    """
    return f"Calm in {city}."


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    run: Callable[[Leave], Any]
    packages: tuple[str, ...]  # the first names the framework
    leaves_by: str
    apart: tuple[str, ...] = ()  # what it needs in an environment of its own; nothing: it lives with the others
    tool: str = "get_weather"  # as the model is told of it
    schema: bool = False  # it asks for an `Answer` in a form instead of calling a tool
    frame: str = "%s"  # how it wants its answer written
    through: bool = False  # by a platform's paths and framing
    by_sdk: bool = True  # it sends its requests with an SDK; else nothing of them is seen
