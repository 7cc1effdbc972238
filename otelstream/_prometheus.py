# SPDX-License-Identifier: Apache-2.0
"""Ask a Prometheus, or what answers as one, for the value of a query now."""

from __future__ import annotations

import base64
import json
import urllib.parse
import urllib.request
from http.client import HTTPException
from typing import Any


def shown(url: str) -> str:
    """The address without user and password, which no report may carry."""
    parts = urllib.parse.urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")


def ask(address: str, query: str, timeout: float = 5) -> list[dict[str, Any]]:
    """Each series of an instant query: its `metric` and its `value`. OSError, ValueError, LookupError or TypeError
    where no Prometheus answers.
    """
    parts = urllib.parse.urlsplit(address)
    if parts.scheme not in ("http", "https"):
        raise ValueError("it is no http address")
    asked = urllib.request.Request(f"{shown(address)}/api/v1/query?{urllib.parse.urlencode({'query': query})}")
    who = urllib.parse.unquote(parts.netloc.rpartition("@")[0])
    if who:
        asked.add_header("Authorization", "Basic " + base64.b64encode(who.encode()).decode())
    try:
        with urllib.request.urlopen(asked, timeout=timeout) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    except (HTTPException, RecursionError) as error:  # another protocol, as at a wrong port
        raise ValueError(f"{type(error).__name__}: it is no answer of HTTP and JSON") from None
    return found
