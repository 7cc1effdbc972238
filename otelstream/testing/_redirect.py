# SPDX-License-Identifier: Apache-2.0
"""Send the provider SDKs' requests to another address, whatever base URL their client was made with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

import wrapt

from otelstream._face import providers

SPOKEN = ("anthropic", "openai")  # the SDKs of one make whose protocol the local provider speaks
GOOGLE = "google.genai"


def _accept(*_: Any, **__: Any) -> None:
    """Accept any headers: the local provider asks for no key."""


@contextmanager
def redirected(base_url: str) -> Iterator[None]:
    """Redirect at request time: a client made at import keeps its base URL, and its other requests pass too."""
    with ExitStack() as stack:
        for provider in providers.installed():
            if provider.package in SPOKEN:
                stack.enter_context(_redirected(provider, base_url))
            elif provider.package == GOOGLE:
                stack.enter_context(_google(base_url))
        yield


@contextmanager
def _redirected(provider: providers.Provider, base_url: str) -> Iterator[None]:
    base: Any = import_module(f"{provider.package}._base_client")
    clients = [getattr(import_module(provider.package), name) for name in provider.clients]
    target = urlsplit(base_url)
    active = True

    def rewrite(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        request = wrapped(*args, **kwargs)
        if not active:
            return request
        request.url = request.url.copy_with(scheme=target.scheme, host=target.hostname, port=target.port)
        request.headers["host"] = target.netloc
        # A pooled connection belongs to the event loop of its test: the next one could not even close it.
        request.headers["connection"] = "close"
        return request

    # A client made at import, where CI has no key, would refuse to build its first request.
    checks = [(cls, vars(cls)["_validate_headers"]) for cls in clients if "_validate_headers" in vars(cls)]
    for cls, _ in checks:
        cls._validate_headers = _accept
    original = base.BaseClient.__dict__["_build_request"]
    patched = wrapt.FunctionWrapper(original, rewrite)
    base.BaseClient._build_request = patched
    try:
        yield
    finally:
        # Another patch may have gone on top meanwhile; it goes on forwarding to ours.
        active = False
        for cls, check in checks:
            cls._validate_headers = check
        if base.BaseClient.__dict__["_build_request"] is patched:
            base.BaseClient._build_request = original


@contextmanager
def _google(base_url: str) -> Iterator[None]:
    """The same for the Google Gen AI SDK, whose requests are a URL with headers until they are sent."""
    client: Any = import_module(f"{GOOGLE}._api_client").BaseApiClient
    target = urlsplit(base_url)
    active = True

    def rewrite(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        request = wrapped(*args, **kwargs)
        if active:
            request.url = urlsplit(request.url)._replace(scheme=target.scheme, netloc=target.netloc).geturl()
            request.headers["connection"] = "close"
        return request

    original = client.__dict__["_build_request"]
    patched = wrapt.FunctionWrapper(original, rewrite)
    client._build_request = patched
    try:
        yield
    finally:
        active = False
        if client.__dict__["_build_request"] is patched:
            client._build_request = original
