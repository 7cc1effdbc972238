# SPDX-License-Identifier: Apache-2.0
"""What the simulated provider says, event by event."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from otelstream.testing._events import PING, Event, ScriptError, make_id

# Stands where the model of the request is echoed.
ECHO_MODEL = "model-of-the-request"
DEFAULT_CHUNK = 12


@dataclass(frozen=True)
class Script:
    """A reply, built block by block; every method returns a longer script and leaves this one as it was.

        Script().thinking("Which city?").text("I will look.").tool_use("get_weather", {"city": "Oslo"})

    A script without `end` is ended when it is played: by `tool_use` where its last block is one, else by
    `end_turn`. Texts are cut into deltas of *chunk* characters; a list of strings is sent as those very
    deltas. Without *model* the model of the request is echoed. Message and tool ids are new at each play,
    except those given here.
    """

    name: str = "custom"
    model: str | None = None
    message_id: str | None = None
    input_tokens: int = 25
    events: tuple[Event, ...] = field(default=(), repr=False)
    pinned: frozenset[str] = field(default=frozenset(), repr=False)
    _pause: float = field(default=0.0, repr=False)

    def __post_init__(self) -> None:
        if not self.events:
            usage = {
                "input_tokens": self.input_tokens,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": 1,
                "service_tier": "standard",
            }
            message: dict[str, Any] = {
                "model": self.model or ECHO_MODEL,
                "id": self.message_id or make_id("msg", self.name),
                "type": "message",
                "role": "assistant",
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": usage,
            }
            start = Event.of({"type": "message_start", "message": message})
            object.__setattr__(self, "events", (start,))
            if self.message_id:
                object.__setattr__(self, "pinned", self.pinned | {self.message_id})

    def text(self, text: str | Sequence[str], *, chunk: int = DEFAULT_CHUNK, citations: Sequence[Any] = ()) -> Script:
        """Add a text block; *citations* (their JSON objects) follow the text inside it."""
        deltas = [{"type": "text_delta", "text": part} for part in _cut(text, chunk)]
        cited: list[dict[str, Any]] = [{"type": "citations_delta", "citation": each} for each in citations]
        start: dict[str, Any] = {"type": "text", "text": ""}
        return self.block({**start, "citations": []} if citations else start, [*deltas, *cited])

    def thinking(
        self, text: str | Sequence[str], *, chunk: int = DEFAULT_CHUNK, signature: str | None = None
    ) -> Script:
        """Add a thinking block that ends with its signature."""
        deltas = [{"type": "thinking_delta", "thinking": part} for part in _cut(text, chunk)]
        signed = {"type": "signature_delta", "signature": signature or make_id("Eq", text, 60)}
        return self.block({"type": "thinking", "thinking": "", "signature": ""}, [*deltas, signed])

    def redacted_thinking(self, data: str | None = None) -> Script:
        """Add a redacted thinking block, which arrives whole."""
        return self.block({"type": "redacted_thinking", "data": data or make_id("Er", self.index, 60)})

    def tool_use(
        self,
        name: str,
        input: Mapping[str, Any] | str | Sequence[str],  # noqa: A002 - the provider's word
        *,
        chunk: int = DEFAULT_CHUNK,
        chunks: int | None = None,
        id: str | None = None,  # noqa: A002
        kind: str = "tool_use",
        **fields: Any,
    ) -> Script:
        """Add a tool call: *input* is the object, or its JSON text (valid or not), or that text's fragments.

        The fragments have *chunk* characters each, or there are *chunks* of them. *kind* may be
        `server_tool_use` or `mcp_tool_use`; *fields* go into the block as they are.
        """
        text = json.dumps(input, ensure_ascii=False) if isinstance(input, Mapping) else input
        if chunks and isinstance(text, str):
            chunk = max(1, -(-len(text) // chunks))
        prefix = {"server_tool_use": "srvtoolu", "mcp_tool_use": "mcptoolu"}.get(kind, "toolu")
        block = {
            "type": kind,
            "id": id or make_id(prefix, (self.index, name)),
            "name": name,
            "input": {},
            **fields,
        }
        # The provider opens every tool input with an empty fragment.
        deltas = [{"type": "input_json_delta", "partial_json": part} for part in ("", *_cut(text, chunk))]
        longer = self.block(block, deltas)
        return replace(longer, pinned=longer.pinned | {id}) if id else longer

    def server_tool(
        self,
        name: str,
        input: Mapping[str, Any],  # noqa: A002
        result: Any,
        *,
        seconds: float = 0.0,
    ) -> Script:
        """Add a tool the provider runs itself and, after *seconds*, its result block, which arrives whole."""
        asked = self.tool_use(name, input, kind="server_tool_use")
        call_id = make_id("srvtoolu", (self.index, name))
        block = {"type": f"{name}_tool_result", "tool_use_id": call_id, "content": result}
        return asked.pause(seconds).block(block)

    def compaction(self, summary: str) -> Script:
        """Add a compaction block, whose summary comes in a single delta."""
        delta = {"type": "compaction_delta", "content": summary}
        return self.block({"type": "compaction", "content": None}, [delta])

    def fallback(self, to: str, *, category: str | None = None) -> Script:
        """Add the block that marks where a refusing model hands over to the model *to*."""
        origin = self.events[0].payload["message"]["model"]
        trigger = {"type": "refusal", "category": category}
        return self.block({"type": "fallback", "from": {"model": origin}, "to": {"model": to}, "trigger": trigger})

    def block(self, content_block: Mapping[str, Any], deltas: Sequence[Mapping[str, Any]] = ()) -> Script:
        """Add any content block: its start, its deltas, its stop (and, after the first start, a ping)."""
        index = self.index
        start = {"type": "content_block_start", "index": index, "content_block": content_block}
        events = [Event.of(start, self._pause), *([PING] if index == 0 else [])]
        events += [Event.of({"type": "content_block_delta", "index": index, "delta": delta}) for delta in deltas]
        events.append(Event.of({"type": "content_block_stop", "index": index}))
        return self.add(*events)

    def add(self, *events: Event) -> Script:
        """Add events as they are."""
        return replace(self, events=self.events + events, _pause=0.0)

    def event(self, payload: Mapping[str, Any]) -> Script:
        """Add an event that is no part of a message, as a managed agent session has them."""
        return self.add(Event.of(payload, self._pause))

    def then(self, other: Script) -> Script:
        """Add another message: a session carries many, and an interrupt or an error ends but one of them."""
        this, other = self.finished(), other.finished()
        first = replace(other.events[0], pause=this._pause + other.events[0].pause)
        return replace(this.add(first, *other.events[1:]), pinned=this.pinned | other.pinned)

    def ping(self) -> Script:
        """Add a ping."""
        return self.add(replace(PING, pause=self._pause))

    def pause(self, seconds: float) -> Script:
        """Wait *seconds* before whatever is added next."""
        return replace(self, _pause=self._pause + seconds)

    def end(self, stop_reason: str = "end_turn", *, output_tokens: int | None = None, **delta: Any) -> Script:
        """Finish: the finish reason with the usage (by default about four characters a token), then the stop.

        *delta* goes beside the reason: `stop_sequence=`, `stop_details=`, `container=`; `usage=` and
        `context_management=` go where the provider has them.
        """
        tokens = output_tokens if output_tokens is not None else 1 + sum(event.chars for event in self.events) // 4
        usage = {"input_tokens": self.input_tokens, "output_tokens": tokens, **delta.pop("usage", {})}
        beside = {key: delta.pop(key) for key in ("context_management",) if key in delta}
        inner = {"stop_reason": stop_reason, "stop_sequence": None, **delta}
        finish = Event.of({"type": "message_delta", "delta": inner, "usage": usage, **beside}, self._pause)
        return self.add(finish, Event.of({"type": "message_stop"}))

    def refuse(self, *, category: str | None = None, explanation: str | None = None, **details: Any) -> Script:
        """Finish by a refusal."""
        stop_details = {"type": "refusal", "category": category, "explanation": explanation, **details}
        return self.end("refusal", stop_details=stop_details)

    @property
    def index(self) -> int:
        """The index the next content block gets."""
        return sum(event.kind in {"block_start", "redacted_thinking"} for event in self.events)

    @property
    def chunks(self) -> int:
        """How many chunks it has."""
        return sum(event.chunk for event in self.events)

    @property
    def stop_reason(self) -> str | None:
        """The finish reason it gives."""
        reasons = [event.payload["delta"]["stop_reason"] for event in self.events if event.kind == "message_delta"]
        return reasons[-1] if reasons else None

    def finished(self) -> Script:
        """This script, ended if it was not."""
        if any(event.kind == "message_delta" for event in self.events):
            return self
        starts = [event.payload for event in self.events if event.kind == "block_start"]
        return self.end("tool_use" if starts and starts[-1]["content_block"]["type"] == "tool_use" else "end_turn")

    @classmethod
    def read(cls, name: str, body: bytes) -> Script:
        """Make a script of a recorded response body, byte for byte."""
        events = []
        for frame in body.split(b"\n\n"):
            if frame.strip():
                head, _, data = frame.partition(b"\ndata: ")
                events.append(Event.parse(head.removeprefix(b"event: ").decode(), data))
        return cls(name, events=tuple(events), model=events[0].payload["message"]["model"])


def _cut(text: str | Sequence[str], size: int) -> Iterator[str]:
    if size < 1:
        raise ScriptError(f"chunk={size}: a chunk has at least one character")
    yield from (text[i : i + size] for i in range(0, len(text), size)) if isinstance(text, str) else text


def message_of(events: Sequence[Event]) -> dict[str, Any]:
    """Fold events into the message a request without streaming gets."""
    message: dict[str, Any] = {}
    inputs: dict[int, str] = {}
    for payload in (event.payload for event in events if event.data):
        delta = payload.get("delta") or {}
        if payload["type"] == "message_start":
            message = payload["message"]
        elif payload["type"] == "content_block_start":
            message["content"].append(dict(payload["content_block"]))
        elif payload["type"] == "message_delta":
            message.update(delta)
            message["usage"].update(payload["usage"])
        elif payload["type"] == "content_block_delta":
            block = message["content"][payload["index"]]
            if delta["type"] == "input_json_delta":
                inputs[payload["index"]] = inputs.get(payload["index"], "") + delta["partial_json"]
            elif delta["type"] == "citations_delta":
                block["citations"] = [*(block.get("citations") or []), delta["citation"]]
            else:
                added = {key: value for key, value in delta.items() if key != "type"}
                joins = delta["type"] in {"text_delta", "thinking_delta"}
                block.update({key: block[key] + value for key, value in added.items()} if joins else added)
    for index, text in inputs.items():
        message["content"][index]["input"] = _object(text)
    return message


def _object(text: str) -> Any:
    """Parse a tool input; one that is no JSON cannot be sent without streaming, and is empty there."""
    try:
        return json.loads(text or "{}")
    except ValueError:
        return {}
