# SPDX-License-Identifier: Apache-2.0
"""LiteLLM as this adapter knows it: its versions, and what may be found beside it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from otelstream._core.process.provider import Beside
from otelstream._stainless.provider import Provider


class Router(Provider):
    """A library that calls providers, by their SDKs or by HTTP clients of its own."""

    __slots__ = ()

    def patches(self) -> Any:
        """What attaches to it; its own modules are read with the router's."""
        return import_module("otelstream.litellm._attach").Patches(self)


PROVIDER = Router(
    package="litellm",
    supported=((1, 90), (2, 0)),
    provider="openai",  # another one for each model
    clients=("Router",),
    begin=lambda *_: None,
    request_id="",
    beside=Beside(
        peers={
            "openinference-instrumentation-litellm": "litellm",
        },
        paths=("/completions", "/messages", "/responses"),
        patience="litellm.completion(timeout=60)",
    ),
)
