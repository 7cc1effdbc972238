# SPDX-License-Identifier: Apache-2.0
"""Clients of botocore and aiobotocore, made and asked as the other SDKs are: what they return is their own."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from functools import cache
from importlib import import_module
from typing import Any

KEYS = {"aws_access_key_id": "unused", "aws_secret_access_key": "unused", "region_name": "us-east-1"}


@cache
def _session(package: str) -> Any:
    return import_module(f"{package}.session").get_session()


class _Maker:
    """What it takes to make a client, with the settings that a request may have of its own."""

    def __init__(self, *, api_key: str, base_url: str = "http://127.0.0.1:9", max_retries: int = 0, timeout: float = 9):
        self.settings: dict[str, Any] = {
            "api_key": api_key, "base_url": base_url, "max_retries": max_retries, "timeout": timeout,
        }  # fmt: skip

    def with_options(self, **changes: Any) -> Any:
        return type(self)(**{**self.settings, **changes})

    def options(self, config: Any, timeout: float) -> dict[str, Any]:
        retries = {"total_max_attempts": self.settings["max_retries"] + 1, "mode": "standard"}
        # A stream of aiobotocore's that is dropped keeps its connection till the time-out: ten of them and all wait.
        made = config(retries=retries, read_timeout=timeout, connect_timeout=timeout, max_pool_connections=1000)
        return {
            "endpoint_url": self.settings["base_url"],
            "config": made,
            **KEYS,
        }


def _asked(request: dict[str, Any]) -> tuple[float | None, dict[str, Any]]:
    """The time-out, and the rest as this API has it; what `invoke_model` asks is all in its body."""
    asked = dict(request)
    timeout = asked.pop("timeout", None)
    tools = asked.pop("tools", None)
    if "body" in asked:
        asked["body"] = json.dumps({**json.loads(asked["body"]), **({"tools": tools} if tools else {})})
    elif tools:
        asked["toolConfig"] = {"tools": tools}
    return timeout, asked


class Bedrock(_Maker):
    """Of botocore."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._made: dict[float, Any] = {}

    def _client(self, timeout: float | None) -> Any:
        seconds = timeout or self.settings["timeout"]
        if seconds not in self._made:
            options = self.options(import_module("botocore.config").Config, seconds)
            self._made[seconds] = _session("botocore").create_client("bedrock-runtime", **options)
        return self._made[seconds]

    def converse_stream(self, **request: Any) -> Any:
        timeout, asked = _asked(request)
        return self._client(timeout).converse_stream(**asked)["stream"]

    def invoke_model_with_response_stream(self, **request: Any) -> Any:
        timeout, asked = _asked(request)
        return self._client(timeout).invoke_model_with_response_stream(**asked)["body"]

    def close(self) -> None:
        for made in self._made.values():
            made.close()


class AsyncBedrock(_Maker):
    """Of aiobotocore, whose clients are made in a loop."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._made: dict[float, Any] = {}
        self._stack = AsyncExitStack()

    async def _client(self, timeout: float | None) -> Any:
        seconds = timeout or self.settings["timeout"]
        if seconds not in self._made:
            options = self.options(import_module("aiobotocore.config").AioConfig, seconds)
            making = _session("aiobotocore").create_client("bedrock-runtime", **options)
            self._made[seconds] = await self._stack.enter_async_context(making)
        return self._made[seconds]

    async def converse_stream(self, **request: Any) -> Any:
        timeout, asked = _asked(request)
        return (await (await self._client(timeout)).converse_stream(**asked))["stream"]

    async def invoke_model_with_response_stream(self, **request: Any) -> Any:
        timeout, asked = _asked(request)
        return (await (await self._client(timeout)).invoke_model_with_response_stream(**asked))["body"]

    async def close(self) -> None:
        await self._stack.aclose()
        self._made.clear()

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Nothing:
    """Where there is no aiobotocore, as beside the newest botocore."""

    def __init__(self, **_: Any) -> None:
        pass

    def close(self) -> None:
        pass
