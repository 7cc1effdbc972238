# SPDX-License-Identifier: Apache-2.0
"""Which API a path asks: what the local provider serves, and in whose words."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from otelstream.testing._bedrock import Converse, Invoke
from otelstream.testing._chat import Azure, Chat, Completions
from otelstream.testing._dialects import Dialect, Messages
from otelstream.testing._exchange import Request
from otelstream.testing._gemini import Gemini
from otelstream.testing._responses import Responses

_ROUTES: dict[str, Callable[[Any], Dialect]] = {
    "*/messages": Messages,
    "*/deployments/*/chat/completions": Azure,
    "*/chat/completions": Chat,
    "*/completions": Completions,
    "*/responses": Responses,
    "*/model/*/converse*": Converse,
    "*/model/*/invoke*": Invoke,
    "*:streamGenerateContent": Gemini,
    "*:generateContent": Gemini,
}


def route_of(request: Request) -> Callable[[Any], Dialect] | None:
    """What speaks the API that is asked; None for one that nobody serves."""
    return next((speaks for route, speaks in _ROUTES.items() if fnmatchcase(request.path, route)), None)


def served() -> str:
    """The paths that are served, for who asked another."""
    return ", ".join(route.replace("*", "…") for route in _ROUTES)
