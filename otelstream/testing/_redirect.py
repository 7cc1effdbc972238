# SPDX-License-Identifier: Apache-2.0
"""Send the Anthropic SDK's requests to another address, whatever base URL their client was made with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import wrapt


def _accept(*_: Any, **__: Any) -> None:
    """Accept any headers: the local provider asks for no key."""


def _clients() -> tuple[Any, ...]:
    import anthropic

    return anthropic.Anthropic, anthropic.AsyncAnthropic


@contextmanager
def redirected(base_url: str) -> Iterator[None]:
    """Redirect at request time: a client made at import keeps its base URL, and its other requests pass too."""
    from anthropic import _base_client

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
    checks = [(cls, vars(cls)["_validate_headers"]) for cls in _clients() if "_validate_headers" in vars(cls)]
    for cls, _ in checks:
        cls._validate_headers = _accept
    original = _base_client.BaseClient.__dict__["_build_request"]
    patched = wrapt.FunctionWrapper(original, rewrite)
    _base_client.BaseClient._build_request = patched
    try:
        yield
    finally:
        # Another patch may have gone on top meanwhile; it goes on forwarding to ours.
        active = False
        for cls, check in checks:
            cls._validate_headers = check
        if _base_client.BaseClient.__dict__["_build_request"] is patched:
            _base_client.BaseClient._build_request = original
