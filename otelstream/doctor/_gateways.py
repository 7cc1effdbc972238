# SPDX-License-Identifier: Apache-2.0
"""Whether a base URL leads to the provider, or to a gateway, which `otelstream probe` can look into."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from otelstream._face import providers

# Where providers' models are served by a cloud, under the provider's own protocol.
CLOUDS = (".amazonaws.com", ".azure.com", ".googleapis.com")


def elsewhere(base: str, provider: str) -> str | None:
    """The base URL, without a password in it, where its host is neither the provider's own nor a cloud's."""
    try:
        parts = urlsplit(base)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return None
    # api.anthropic.com, api.us.openai.com
    if not host or host.endswith(CLOUDS) or provider in host.split(".")[-2:-1]:
        return None
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}{f':{port}' if port else ''}{parts.path.rstrip('/')}"


def of_environment() -> Iterator[str]:
    """The base URLs that variables of the SDKs give."""
    for provider in providers.installed():
        if found := elsewhere(os.environ.get(f"{provider.provider.upper()}_BASE_URL", ""), provider.provider):
            yield found


def told(bases: Iterable[str]) -> Iterator[str]:
    """What a client cannot see of each, and who can."""
    for base in bases:
        yield f"what the gateway {base} does to a stream (it is not the provider's own host): otelstream probe {base}"
