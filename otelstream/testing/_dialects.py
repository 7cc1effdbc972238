# SPDX-License-Identifier: Apache-2.0
"""A script in the words of the API that was asked: a script is written in those of Anthropic's messages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from otelstream.testing._events import Event


class Dialect(Protocol):
    """One API: how it says what a script says. One of them speaks one reply."""

    content_type: str  # of a stream

    def headers(self, request_id: str) -> dict[str, str]:
        """The headers that only this API has."""

    def speak(self, event: Event) -> list[Event]:
        """Say one event of a script: in none, one or several of this API's."""

    def whole(self, message: dict[str, Any]) -> dict[str, Any]:
        """Say a message that was not streamed."""

    def error(self, error: Mapping[str, Any]) -> dict[str, Any]:
        """Say an error object, as the body of a reply."""


SSE = "text/event-stream; charset=utf-8"


class Messages:
    """Anthropic's messages: as the script has them."""

    content_type = SSE

    def __init__(self, body: Mapping[str, Any]) -> None:
        return

    def headers(self, request_id: str) -> dict[str, str]:
        return {"request-id": request_id, "anthropic-organization-id": "00000000-0000-4000-8000-000000000000"}

    def speak(self, event: Event) -> list[Event]:
        return [event]

    def whole(self, message: dict[str, Any]) -> dict[str, Any]:
        return message

    def error(self, error: Mapping[str, Any]) -> dict[str, Any]:
        return {"type": "error", "error": dict(error)}


class OpenAI:
    """What the APIs of OpenAI's make have in common."""

    content_type = SSE
    ping = Event("", None, "ping")
    broken = b""  # the start of an event with text
    unknown: tuple[str, bytes] = ("", b"{}")

    def headers(self, request_id: str) -> dict[str, str]:
        return {"x-request-id": request_id, "openai-processing-ms": "1"}

    def speak(self, event: Event) -> list[Event]:
        if event.kind == "ping":
            return [self.ping]
        if event.kind != "other":
            return self.say(event)
        if event.data is None:
            return [Event(self.unknown[0] or "hint", None)]  # without a name it is a comment
        try:
            json.loads(event.data)
        except ValueError:
            garbled = b'\xff\xfe\xc3("}' if b"\xff" in event.data else b""
            return [Event(self.unknown[0], self.broken + garbled)]
        return [Event(*self.unknown)]

    def say(self, event: Event) -> list[Event]:
        """Say an event of a script that is whole."""
        raise NotImplementedError

    def error(self, error: Mapping[str, Any]) -> dict[str, Any]:
        return {"error": {"message": error["message"], "type": error["type"], "param": None, "code": None}}


def call_id(block: Mapping[str, Any]) -> str:
    """The id of a tool call; one that a script gave stays."""
    return str(block["id"]).replace("toolu_", "call_", 1)
