# SPDX-License-Identifier: Apache-2.0
"""Configurations that keep a stream as whole as each proxy can."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Final

_NGINX = """\
# nginx: a site of its own, as /etc/nginx/conf.d/llm.conf
server {
    listen 8080;
    client_max_body_size 64m;            # 1m by default: a picture in a prompt is more
    gzip off;
    location / {
        proxy_pass http://@UPSTREAM@;
        proxy_http_version 1.1;          # to HTTP/1.0, the default before 1.29.7, a cut answer is a proper end
        proxy_set_header Connection "";
        proxy_buffering off;             # each event as it comes
        proxy_request_buffering off;
        proxy_read_timeout 600s;         # of silence; 60s by default
        proxy_send_timeout 600s;
        proxy_next_upstream off;         # the client's SDK retries
        proxy_ignore_client_abort off;   # a cancel reaches the provider
    }
}
"""
_HAPROXY = """\
# haproxy: a cut still becomes a proper end towards HTTP/2 clients; offer them HTTP/1.1 alone (alpn http/1.1)
defaults
    mode http
    option http-no-delay                 # each event as it comes
    option abortonclose                  # a cancel reaches the provider while it is silent, too
    retries 0                            # the client's SDK retries
    timeout connect 10s
    timeout client 600s
    timeout server 600s                  # of silence
frontend llm
    bind :8080
    default_backend provider
backend provider
    server provider @UPSTREAM@
"""
_ENVOY = """\
# envoy: one listener, one route
static_resources:
  listeners:
    - address: {socket_address: {address: 0.0.0.0, port_value: 8080}}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": @MANAGER@
                stat_prefix: llm
                stream_idle_timeout: 0s          # 5 minutes by default
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
                route_config:
                  virtual_hosts:
                    - name: llm
                      domains: ["*"]
                      routes:
                        - match: {prefix: /}
                          route: {cluster: provider, timeout: 0s}  # 15s in total by default; and no retry_on
  clusters:
    - name: provider
      type: STRICT_DNS
      connect_timeout: 10s
      load_assignment:
        cluster_name: provider
        endpoints:
          - lb_endpoints:
              - endpoint: {address: {socket_address: {address: @HOST@, port_value: @PORT@}}}
"""
_MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_CADDY = """\
# caddy: its defaults are right; no `encode` on this route, which would compress the stream
:8080 {
    reverse_proxy @UPSTREAM@ {
        flush_interval -1
    }
}
"""
_TRAEFIK = """\
# traefik: its defaults are right; static part (traefik.yaml), then the file that it names (routes.yaml)
entryPoints:
  llm:
    address: ":8080"
    transport:
      respondingTimeouts: {readTimeout: 0s, writeTimeout: 0s, idleTimeout: 600s}
providers:
  file: {filename: routes.yaml}
---
http:
  routers:
    llm: {entryPoints: [llm], rule: "PathPrefix(`/`)", service: provider}  # no compress middleware, no retry
  services:
    provider:
      loadBalancer:
        servers: [{url: "http://@UPSTREAM@"}]
        responseForwarding: {flushInterval: 1ms}
"""
_LITELLM = """\
# litellm: clients use its passthrough route, base URL http://GATEWAY:4000/anthropic, which changes nothing.
# Start it with ANTHROPIC_API_BASE=http://@UPSTREAM@, ANTHROPIC_API_KEY, and its clients' key as LITELLM_MASTER_KEY.
# /v1/messages asks three times, loses retry-after and traceparent, and invents pings; /chat/completions loses more.
litellm_settings:
  num_retries: 0                         # the client's SDK retries
  request_timeout: 600
router_settings:
  num_retries: 0
model_list:                              # only for the translating routes
  - model_name: "*"
    litellm_params:
      model: "anthropic/*"
      api_base: http://@UPSTREAM@
      max_retries: 0
general_settings:
  master_key: os.environ/LITELLM_MASTER_KEY
  forward_client_headers_to_llm_api: true
"""
_ALL: Final[Mapping[str, str]] = {
    "nginx": _NGINX,
    "haproxy": _HAPROXY,
    "envoy": _ENVOY,
    "caddy": _CADDY,
    "traefik": _TRAEFIK,
    "litellm": _LITELLM,
}
NAMES: Final = tuple(_ALL)


def known_as(host: str) -> str:
    """By which name others reach an address that stands for all of this machine's."""
    return socket.gethostname() if host in {"0.0.0.0", "::"} else host


def configuration(name: str, host: str, port: int) -> str:
    """The configuration of one proxy in front of an upstream."""
    upstream = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    text = _ALL[name].replace("@UPSTREAM@", upstream)
    return text.replace("@MANAGER@", _MANAGER).replace("@HOST@", host).replace("@PORT@", str(port))
