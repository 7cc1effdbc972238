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
from otelstream.testing._sessions import Sessions

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
    "*/sessions/*/stream": Sessions,
}
_ASIDE = "*/sessions/*/events"  # where a session's events are sent to and listed


def route_of(request: Request) -> Callable[[Any], Dialect] | None:
    """What speaks the API that is asked; None for one that nobody serves."""
    return next((speaks for route, speaks in _ROUTES.items() if fnmatchcase(request.path, route)), None)


def method_of(request: Request) -> str:
    """How that path is asked: what a session says is read, anything else is an answer to a body."""
    return _method(route_of(request))


def _method(speaks: object) -> str:
    return "GET" if speaks is Sessions else "POST"


def is_aside(request: Request) -> bool:
    """Whether it is no request for an answer: the events of a session are sent, or listed."""
    return fnmatchcase(request.path, _ASIDE)


def served() -> str:
    """The paths that are served, for who asked another."""
    return ", ".join(f"{_method(speaks)} {route.replace('*', '…')}" for route, speaks in _ROUTES.items())
