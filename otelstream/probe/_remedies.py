# SPDX-License-Identifier: Apache-2.0
"""What to set, for the proxies that we know, where a check is not kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from otelstream.probe._report import HTTP2

_PASS: Final = "its passthrough route /anthropic/v1/messages"
_REMEDIES: Final[Mapping[str, Mapping[str, str]]] = {
    "cadence": {
        "nginx": "proxy_buffering off; proxy_http_version 1.1",
        "haproxy": "option http-no-delay",
        "lighttpd": "server.stream-response-body = 2",
        "mitmproxy": "stream_large_bodies=1",
    },
    "headers-early": {"nginx": "proxy_buffering off", "lighttpd": "server.stream-response-body = 2"},
    "pings": {"litellm": _PASS},
    "pings-invented": {"litellm": _PASS},
    "error-event": {"litellm": _PASS, "portkey": "its route of the provider, not the translating one"},
    "cut": {
        "nginx": "proxy_http_version 1.1 (to HTTP/1.0 a FIN is a proper end)",
        "lighttpd": "server.stream-response-body = 2",
        "starlette": "no BaseHTTPMiddleware on this route: write it as plain ASGI",
        "node": "destroy the response where the upstream's is cut: `pipeline()` does",
        "litellm": _PASS,
    },
    "early-end": {"litellm": _PASS},
    "cancel": {
        "haproxy": "option abortonclose",
        "varnish": "return (pipe) for this route",
        "node": "destroy the request upstream on the response's `close`",
        "aiohttp": "web.run_app(handler_cancellation=True)",
        "apache": "nothing helps in a silence: put another proxy there",
    },
    "retries": {
        "litellm": "num_retries: 0 and max_retries: 0",
        "envoy": "no retry_on on this route",
        "nginx": "proxy_next_upstream off",
        "haproxy": "retries 0, no retry-on",
    },
    "status": {"litellm": _PASS},
    "retry-after": {"litellm": _PASS},
    "line-separators": {"litellm": _PASS},
    "compression": {
        "nginx": "gzip off",
        "caddy": "no encode here",
        "traefik": "excludedContentTypes: text/event-stream",
    },
    "body": {"nginx": "client_max_body_size 64m", "caddy": "request_body max_size", "envoy": "no buffer filter"},
    "traceparent": {"litellm": _PASS},
    "beta-header": {"litellm": "forward_client_headers_to_llm_api: true"},
    "idle": {
        "nginx": "proxy_read_timeout 600s",
        "haproxy": "timeout server 600s; timeout client 600s",
        "apache": "ProxyTimeout 600",
        "varnish": "between_bytes_timeout 600s",
        "envoy": "stream_idle_timeout: 0s",
        "h2o": "proxy.timeout.io: 600000",
    },
    "total": {"envoy": "timeout: 0s on the route"},
    "http2-cut": {
        "haproxy": "alpn http/1.1 on its bind: to HTTP/2 clients a cut is an end in order",
        "lighttpd": 'server.feature-flags = ("server.h2proto" => "disable"), for the same reason',
    },
}
_GENERAL: Final[Mapping[str, str]] = {
    "cadence": "no buffering of responses on this route",
    "headers-early": "no buffering of responses on this route",
    "cut": "HTTP/1.1 to the upstream, and an end by reset where the upstream was cut",
    "cancel": "close the request upstream as soon as the client has closed",
    "retries": "no retries here: the client's SDK does its own",
    "body": "a higher limit for request bodies",
    "idle": "a longer time-out for silence from the upstream",
    "http2-cut": "RST_STREAM towards the client where the upstream was cut",
    "total": "no limit for the whole answer",
    "compression": "no compression of text/event-stream",
}
CODES_WITH_PARTS: Final = ("cut", "cancel", "retries", "body", "idle", "total")


def remedy(code: str, server: str) -> str:
    """The remedy for the proxy that the gateway says it is; else for each that has one."""
    plain = code.removeprefix(HTTP2)
    family = "compression" if plain == "compressed-upstream" else plain
    group = plain.partition("-")[0]
    parts = (family, group) if group in CODES_WITH_PARTS else (family,)
    # What is said of HTTP/2 to the client comes before what holds for both.
    wanted = [*(HTTP2 + part for part in parts if plain != code), *parts]
    general = next((_GENERAL[part] for part in wanted if part in _GENERAL), "")
    known: dict[str, str] = {}
    for part in wanted:
        known = {**_REMEDIES.get(part, {}), **known}
    for name, text in known.items():
        if name in server.lower():
            return text
    said = [f"{name}: {text}" for name, text in known.items()]
    return " | ".join([*([general] if general else []), *said])
