# SPDX-License-Identifier: Apache-2.0
"""Server-sent events as they arrive, and what each means in the three APIs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

_TERMINAL = {"message_stop", "response.completed", "response.incomplete"}
_PINGS = {"ping", "keepalive"}


@dataclass(frozen=True)
class Got:
    """One event as the client read it; a comment has the name ":"."""

    name: str
    data: str
    at: float

    @cached_property
    def payload(self) -> dict[str, Any]:
        """Its JSON object; empty where it is none."""
        try:
            found = json.loads(self.data)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @cached_property
    def type(self) -> str:
        """What kind of event it says it is."""
        return str(self.payload.get("type") or self.name)

    @property
    def ping(self) -> bool:
        """Whether it only keeps the connection alive."""
        return self.name == ":" or self.name in _PINGS or self.type in _PINGS

    @property
    def error(self) -> bool:
        """Whether it says that the answer failed."""
        return self.type in {"error", "response.failed"} or bool(self.payload.get("error"))

    @property
    def terminal(self) -> bool:
        """Whether it says that the answer is complete."""
        return self.data == "[DONE]" or self.type in _TERMINAL

    @property
    def broken(self) -> bool:
        """Whether its data should be JSON and is not."""
        return self.name != ":" and self.data != "[DONE]" and not self.payload

    @cached_property
    def piece(self) -> str:
        """The generated text it carries, be it text, thinking or the input of a tool."""
        delta = self.payload.get("delta")
        if isinstance(delta, str):
            return delta
        if isinstance(delta, dict):
            return str(delta.get("text") or delta.get("partial_json") or delta.get("thinking") or "")
        choices = self.payload.get("choices")
        if not (isinstance(choices, list) and choices and isinstance(choices[0], dict)):
            return ""
        delta = choices[0].get("delta") or {}
        calls = "".join((call.get("function") or {}).get("arguments") or "" for call in delta.get("tool_calls") or ())
        return (delta.get("content") or "") + calls


class Reader:
    """Makes events of bytes; only line feeds end a line, so that U+2028 and U+0085 stay what they are."""

    def __init__(self) -> None:
        self._left = bytearray()
        self._scanned = 0
        self._name = ""
        self._data: list[str] = []

    def take(self, data: bytes, at: float) -> list[Got]:
        """Return the events that are complete with *data*."""
        self._left += data
        found: list[Got] = []
        begin = 0
        while (end := self._left.find(b"\n", max(begin, self._scanned))) >= 0:
            line = self._left[begin:end].removesuffix(b"\r").decode("utf-8", "replace")
            begin = self._scanned = end + 1
            found += self._line(line, at)
        del self._left[:begin]
        self._scanned = len(self._left)
        return found

    def _line(self, line: str, at: float) -> list[Got]:
        if line.startswith(":"):
            return [Got(":", line[1:].strip(), at)]
        if line:
            key, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if key == "event":
                self._name = value
            elif key == "data":
                self._data.append(value)
            return []
        found = [Got(self._name, "\n".join(self._data), at)] if self._data else []
        self._name, self._data = "", []
        return found
