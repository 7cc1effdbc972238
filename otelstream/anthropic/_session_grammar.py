# SPDX-License-Identifier: Apache-2.0
"""What a session's events say of one request to a model: previews of its messages, and its usage."""

from __future__ import annotations

import json
from collections.abc import Iterator

from otelstream._core.record import facts as f
from otelstream._core.record import given
from otelstream._core.record.ending import Ending
from otelstream._core.record.grammar import UNKNOWN
from otelstream.anthropic._grammar import tokens, used

DELTA = "event_delta"
SPOKEN = frozenset({DELTA, "event_start", "agent.message", "agent.thinking", "span.model_request_end", "ping", "error"})


class Grammar:
    """The grammar of one request. A preview is a block; the event that it is of closes it."""

    __slots__ = ()

    delta = DELTA
    shape = UNKNOWN

    def learned(self, prefix: str, data: str) -> None:
        return

    def is_known(self, name: str | None) -> bool:
        return name in SPOKEN

    def complete_at_eof(self, finish_reason: str | None) -> Ending | None:
        return None

    def piece(self, data: str) -> f.Delta | None:
        event = json.loads(data)
        text = event["delta"]["content"].get("text")
        if not isinstance(text, str) or not text:
            return None
        return f.Delta(_key(event["event_id"]), "text", text, kind="text", visible=True)

    def structural(self, name: str | None, data: str) -> Iterator[f.Fact]:
        event = given.obj(json.loads(data)) if data else {}
        if name == "ping":
            yield f.Ping()
        elif name == "error":
            yield f.Failed(given.word(given.obj(event.get("error")).get("type")) or "api_error")
        elif name == "event_start":
            preview = given.obj(event.get("event"))
            text = preview.get("type") == "agent.message"
            # The start of thinking is a sign of it, and no output: nothing of that is ever on the wire.
            yield f.Opened(_key(preview.get("id")), "text" if text else "thinking", visible=text)
        elif name in ("agent.message", "agent.thinking"):
            yield f.Closed(_key(event.get("id")))
        elif name == "span.model_request_end":
            yield f.Usage(tokens(used(given.obj(event.get("model_usage")))))


def _key(id_: object) -> f.Key:
    return 0, id_ if isinstance(id_, str) else None
