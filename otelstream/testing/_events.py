# SPDX-License-Identifier: Apache-2.0
"""One server-sent event of the provider: its bytes, and what it carries."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal[
    "message_start",
    "block_start",
    "text",
    "thinking",
    "tool_input",
    "redacted_thinking",
    "signature",
    "citation",
    "compaction",
    "block_stop",
    "message_delta",
    "message_stop",
    "ping",
    "error",
    "other",
]
CHUNK_KINDS = frozenset({"text", "thinking", "tool_input", "redacted_thinking"})
_DELTAS: dict[str, tuple[Kind, str]] = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "input_json_delta": ("tool_input", "partial_json"),
    "signature_delta": ("signature", ""),
    "citations_delta": ("citation", ""),
    "compaction_delta": ("compaction", "content"),
}


class ScriptError(ValueError):
    """A script, fault or schedule that cannot be played; the message names it and what would work."""


def to_json(value: object) -> str:
    """Write JSON the way the provider does on the wire: no spaces, no escapes it does not need."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class Event:
    """One server-sent event: its name ("": none) and the exact bytes after `data: ` (None: no data line).

    `chars` counts generated characters; `pause` is what the script itself waits before it, in seconds; `without`
    is the one of several answers that it is not said of.
    """

    name: str
    data: bytes | None
    kind: Kind = "other"
    chars: int = 0
    pause: float = 0.0
    without: int | None = None

    @classmethod
    def of(cls, payload: Mapping[str, Any], pause: float = 0.0) -> Event:
        """Make an event of its JSON object; its `type` is the event's name."""
        return cls.parse(str(payload["type"]), to_json(payload).encode(), pause)

    @classmethod
    def parse(cls, name: str, data: bytes, pause: float = 0.0) -> Event:
        """Keep *data* byte for byte and find out what it carries."""
        kind, chars = _describe(name, json.loads(data))
        return cls(name, data, kind, chars, pause)

    @property
    def frame(self) -> bytes:
        """The bytes on the wire."""
        if not self.name and self.data is None:
            return b": %s\n\n" % self.kind.encode()  # a comment
        head = b"event: %s\n" % self.name.encode() if self.name else b""
        return head + (b"\n" if self.data is None else b"data: %s\n\n" % self.data)

    @property
    def payload(self) -> dict[str, Any]:
        """The JSON object of the data."""
        loaded: dict[str, Any] = json.loads(self.data or b"{}")
        return loaded

    @property
    def chunk(self) -> bool:
        """Whether it carries generated output: a non-empty text, thinking or tool-input delta, or a
        redacted block.
        """
        return self.chars > 0 and self.kind in CHUNK_KINDS


def _describe(name: str, payload: Mapping[str, Any]) -> tuple[Kind, int]:
    if name == "content_block_delta":
        kind, key = _DELTAS.get(payload["delta"]["type"], ("other", ""))
        return kind, len(payload["delta"].get(key) or "")
    if name == "content_block_start":
        block = payload["content_block"]
        whole = block["type"] == "redacted_thinking"
        return ("redacted_thinking", len(block["data"])) if whole else ("block_start", 0)
    kinds: dict[str, Kind] = {
        "content_block_stop": "block_stop",
        "message_start": "message_start",
        "ping": "ping",
        "message_delta": "message_delta",
        "message_stop": "message_stop",
        "error": "error",
    }
    return kinds.get(name, "other"), 0


PING = Event("ping", b'{"type": "ping"}', "ping")


def make_id(prefix: str, seed: object, length: int = 24) -> str:
    """Return an identifier of the provider's shape, always the same for one *seed*."""
    alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    digest = hashlib.blake2b(f"{prefix}{seed}".encode()).digest()
    return f"{prefix}_01" + "".join(alphabet[digest[i] % len(alphabet)] for i in range(length - 2))
