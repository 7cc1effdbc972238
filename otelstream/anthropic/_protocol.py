# SPDX-License-Identifier: Apache-2.0
"""What the events of an Anthropic message stream mean, told to the observation as facts."""

from __future__ import annotations

import json
from collections.abc import Callable
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from otelstream import _semconv as s
from otelstream._core.record.call import ToolCall, hash_of
from otelstream._core.record.ending import failed
from otelstream._core.record.stream import BATCH, MAX_INPUT_CHARS
from otelstream._trouble import trouble

if TYPE_CHECKING:
    from otelstream._core.record.stream import StreamObservation

DELTA = "content_block_delta"
_EVENTS = frozenset(
    {DELTA, "content_block_start", "content_block_stop", "message_start", "message_delta", "message_stop", "error"}
)

_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_FIELDS = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "input_json_delta": "partial_json",
    "compaction_delta": "content",
}
# Delta types of generated output; signatures and citations are protocol traffic.


class Reading:
    """Our place in the protocol: the block that is open, and how its deltas look on the wire."""

    __slots__ = (
        "buffer", "cut", "held", "helper", "kind", "last", "leftover", "let_go", "padded", "prefix",
        "server_tool", "tool", "visible",
    )  # fmt: skip

    def __init__(self) -> None:
        self.held = False  # by a raw response, which the application may close after it dropped what it reads it by
        self.let_go: float | None = None  # when it dropped that
        self.helper: Any = None  # tells when the SDK's helper stops taking events
        self.server_tool = False  # a provider's own tool was called and its result is not here yet
        self.last = ""  # the data of the last event
        self.leftover = 0.0  # waited for deltas that are no chunk
        self.open(None)

    def open(self, kind: s.BlockKind | None, *, visible: bool = False, tool: ToolCall | None = None) -> None:
        self.kind = kind
        self.visible = visible  # whether a chunk of this block is what a user sees
        self.tool = tool
        self.buffer: list[str] = []
        self.prefix = ""  # everything before the text of a delta of this block; "" until seen
        self.padded = False
        self.cut: Callable[[str], str] = str  # takes the text out of one that nothing pads


def countdown(stream: StreamObservation) -> int:
    """How many deltas may wait to be summed: one while a first chunk or token may be the next."""
    if stream.first_token_at is None and (stream.first_chunk_at is None or stream.reading.visible):
        return 1
    room = stream.cadence.room
    return BATCH if room > BATCH else room  # noqa: FURB136  # cheaper than min()


def flush(stream: StreamObservation, at: float) -> int:
    """Sum the deltas that wait; return the next countdown, or 0 when the application asks for the stream's end."""
    datas, waits = stream.datas, stream.waits
    count = min(len(datas), len(waits))
    if not count:
        return countdown(stream)
    reading: Reading = stream.reading
    settings = stream.runtime.settings
    stream.summing = True
    batch, gaps = datas[:count], waits[:count]
    del datas[:count], waits[:count]
    reading.last = batch[-1]
    if reading.leftover:
        gaps[0] += reading.leftover
        reading.leftover = 0.0
    chunks = count
    text = _fast_text(reading, batch)
    if text is None:
        texts, gaps = _slow_texts(stream, batch, gaps)
        if not texts:
            stream.summing = False
            return countdown(stream)
        chunks, text = len(texts), "".join(texts)
    kind = reading.kind or "other"
    if stream.first_chunk_at is None:
        stream.first_chunk(kind, at)
        gaps = gaps[1:]
        longest = max(gaps, default=0.0)
    elif (longest := max(gaps)) > settings.stall_threshold:
        stream.stalled(longest, _source(stream, at, longest), at)
    if reading.visible and stream.first_token_at is None:
        stream.first_token("tool_input" if kind == "tool_input" else "text", at)
    tool = reading.tool
    if tool is not None:
        if not tool.size and gaps:
            tool.pause = gaps[0]
        tool.size += len(text)
        if tool.size <= MAX_INPUT_CHARS:
            reading.buffer.append(text)
    stream.add_chunks(kind, gaps, longest, chunks, len(text), at)
    if settings.repetition and stream.repeats(kind, text, at):
        return 0
    return countdown(stream)


def _fast_text(reading: Reading, batch: list[str]) -> str | None:
    """The text of deltas that all look like the first of their block; None if one does not, or is empty."""
    prefix = reading.prefix
    # Whatever sorts between two strings with a prefix has it too.
    if not prefix or not (min(batch).startswith(prefix) and max(batch).startswith(prefix)):
        return None
    texts = [] if reading.padded else list(map(reading.cut, batch))
    text = "".join(texts)
    if reading.padded or '"' in text:
        # An escaped quote, or what the provider pads each delta with behind the text.
        reading.padded = reading.padded or "\\" not in text
        start = len(prefix)
        texts = [data[start : data.rfind('"')] for data in batch]
        text = "".join(texts)
    if "" in texts:
        return None
    if "\\" not in text:
        return None if '"' in text else text
    try:
        unescaped: str = json.loads(f'"{text}"')
    except ValueError:
        return None
    return unescaped


def _slow_texts(stream: StreamObservation, batch: list[str], gaps: list[float]) -> tuple[list[str], list[float]]:
    """The texts of generated deltas, each parsed, and the gaps between those."""
    reading: Reading = stream.reading
    texts, kept = [], []
    for data, gap in zip(batch, gaps, strict=True):
        reading.leftover += gap
        try:
            delta = json.loads(data)["delta"]
            field = _FIELDS.get(delta["type"], "")
            text = delta.get(field)
        except ValueError:
            stream.garbled = True
            continue
        except (TypeError, KeyError, AttributeError):
            continue
        if isinstance(text, str) and text:
            texts.append(text)
            kept.append(reading.leftover)
            reading.leftover = 0.0
            if not reading.prefix:
                _learn(reading, data, field, text)
    return texts, kept


def _learn(reading: Reading, data: str, field: str, text: str) -> None:
    """Remember how this block's deltas look, if the short way gives the same text as the parser."""
    start = data.find('"', data.find(":", data.rfind(f'"{field}"', 0, data.find("}"))) + 1) + 1
    raw = data[start : data.rfind('"')]
    try:
        if start > 0 and json.loads(f'"{raw}"') == text and not data[data.rfind('"') + 1 :].strip(" }"):
            reading.prefix, reading.cut = data[:start], itemgetter(slice(start, -len('"}}')))
    except ValueError:
        return


def _source(stream: StreamObservation, at: float, gap: float) -> s.StallSource:
    """Who was silent during a gap that ended at `at`."""
    if stream.loop is not None and stream.loop.lag(at - gap, at) > gap / 2:
        return "event_loop"
    return "server_tool" if stream.reading.server_tool else "provider"


def event(stream: StreamObservation, name: str | None, data: str, at: float, waited: float) -> int:
    """Take in any event but a delta: `waited` seconds since the last chunk. Returns the next countdown."""
    stream.carry = waited
    try:
        # The deltas that wait came before this wait.
        stop = not flush(stream, at - waited) if stream.datas else False
        stream.reading.last = data
        if name == "ping":
            stream.ping_seen = True
        elif data:
            _parsed(stream, name, json.loads(data), at)
        return 0 if stop else countdown(stream)
    except ValueError:
        stream.garbled = stream.garbled or name in _EVENTS
        return 1  # the SDK says so to the application, and we at the end
    except Exception:
        trouble("reading a stream event")
        return 1


def _object(value: Any) -> dict[str, Any]:
    """A JSON object, empty where the provider sent something else: the SDK takes that too."""
    return value if isinstance(value, dict) else {}


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _parsed(stream: StreamObservation, name: str | None, data: Any, at: float) -> None:
    data = _object(data)
    # Bedrock names every event `completion`, some gateways none: the type inside is the name.
    kind = data.get("type", name)
    if kind == DELTA:
        stream.datas.append(json.dumps(data))
        stream.waits.append(stream.carry)
        stream.carry = 0.0
        flush(stream, at)
    elif kind == "content_block_start":
        _block_start(stream, _object(data.get("content_block")), at)
    elif kind == "content_block_stop":
        _block_stop(stream, at)
    elif kind == "message_start":
        message = _object(data.get("message"))
        # A fallback splices a second message in: what the first one said of its end no longer holds.
        stream.finish_reason = stream.finish_raw = None
        stream.response_id, stream.response_model = _word(message.get("id")), _word(message.get("model"))
        _usage(stream, _object(message.get("usage")), final=False)
    elif kind == "message_delta":
        _usage(stream, _object(data.get("usage")), final=True)
        reason = _object(data.get("delta")).get("stop_reason")
        if isinstance(reason, str):
            stream.finish(_REASONS.get(reason, stream.runtime.labels.text(reason)), reason, at)
    elif kind == "message_stop":
        stream.terminal(at)
    elif kind == "error":
        stream.end(failed("provider_error", _word(_object(data.get("error")).get("type")) or "api_error"), at)


def _block_start(stream: StreamObservation, block: dict[str, Any], at: float) -> None:
    kind, reading = str(block.get("type")), stream.reading
    tool = None
    reading.server_tool = kind in ("server_tool_use", "mcp_tool_use")
    if kind.endswith("tool_use"):
        block_kind: s.BlockKind = "tool_input"
        if not reading.server_tool:
            tool = ToolCall(str(block.get("name")), str(block.get("id") or ""), preamble=stream.text_before)
            stream.tool_opened(tool)
        whole = ""
    elif kind in ("text", "thinking"):
        block_kind = "text" if kind == "text" else "thinking"
        whole = _word(block.get(kind)) or ""
    else:
        block_kind = "thinking" if kind == "redacted_thinking" else "other"
        whole = "" if kind in ("compaction", "fallback") else kind
        if kind == "fallback":
            stream.response_model = _word(_object(block.get("to")).get("model")) or stream.response_model
    stream.block_started(block_kind)
    reading.open(block_kind, visible=block_kind == "text" or tool is not None, tool=tool)
    if whole:
        _whole_chunk(stream, block_kind, 0 if whole is kind else len(whole), at)


def _whole_chunk(stream: StreamObservation, kind: s.BlockKind, chars: int, at: float) -> None:
    """A block that arrives with its start event is one chunk."""
    gaps: list[float] = []
    if stream.first_chunk_at is None:
        stream.first_chunk(kind, at)
    else:
        gaps = [stream.carry]
        if stream.carry > stream.runtime.settings.stall_threshold:
            stream.stalled(stream.carry, _source(stream, at, stream.carry), at)
    if stream.reading.visible and stream.first_token_at is None:
        stream.first_token("text", at)
    stream.add_chunks(kind, gaps, stream.carry, 1, chars, at)
    stream.carry = 0.0


def _block_stop(stream: StreamObservation, at: float) -> None:
    reading: Reading = stream.reading
    if reading.tool is not None:
        reading.tool.input = _validity(reading)
        stream.tool_ready(reading.tool, at)
    stream.block_ended(at)
    reading.open(None)


def _validity(reading: Reading) -> s.ToolInput | None:
    tool = reading.tool
    if tool is None or tool.size > MAX_INPUT_CHARS:
        return None
    if not tool.size:
        tool.arguments = hash_of({})
        return "valid"  # a call without arguments streams no fragment
    try:
        tool.arguments = hash_of(json.loads("".join(reading.buffer)))
    except (ValueError, RecursionError):
        return "invalid"
    return "valid"


def _decodable(data: str) -> bool:
    try:
        return not data or isinstance(json.loads(data), dict)
    except (ValueError, RecursionError):
        return False


def pending(stream: StreamObservation) -> tuple[int, int, int]:
    """Count what waits to be summed, and leave it: chunks, characters, visible characters. From any thread."""
    chunks = chars = 0
    for data in list(stream.datas):
        try:
            delta = json.loads(data)["delta"]
            text = delta.get(_FIELDS.get(delta["type"], ""))
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        if isinstance(text, str) and text:
            chunks += 1
            chars += len(text)
    return chunks, chars, chars if stream.active_block == "text" else 0


def left_open(stream: StreamObservation, at: float) -> None:
    """The stream ends: sum what waits, look whether the last event made sense, keep a tool call left unfinished."""
    last = stream.datas[-1] if stream.datas else stream.reading.last
    stream.reading.helper = None  # it refers back to the stream
    flush(stream, at)
    tool = stream.reading.tool
    if not _decodable(last):
        stream.undecodable = "protocol_error" if tool is None else "malformed_tool_call"
    if tool is not None:
        tool.input = "invalid" if _beyond_repair(stream.reading) else "incomplete"
        stream.tool_calls.append(tool)


def _beyond_repair(reading: Reading) -> bool:
    """Whether nothing that could follow makes the input of the open tool call valid, by the SDK's own parser."""
    if not reading.buffer:
        return False
    try:
        from jiter import from_json
    except ImportError:
        return False
    try:
        from_json("".join(reading.buffer).encode("utf-8", "replace"), partial_mode=True)
    except ValueError:
        return True
    return False


def _usage(stream: StreamObservation, usage: dict[str, Any], *, final: bool) -> None:
    """Keep what the provider has finished saying: output tokens are a placeholder before `message_delta`."""

    def count(name: str) -> int | None:
        value = usage.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53 else None

    read, write = count("cache_read_input_tokens"), count("cache_creation_input_tokens")
    fresh = count("input_tokens")
    if fresh is not None:
        # The conventions count cached tokens as input; Anthropic's field leaves them out.
        stream.usage[s.INPUT_TOKENS] = fresh + (read or 0) + (write or 0)
    if read is not None:
        stream.usage[s.CACHE_READ_TOKENS] = read
    if write is not None:
        stream.usage[s.CACHE_WRITE_TOKENS] = write
    if read or write:
        stream.cache = "read" if read else "write"
    output = count("output_tokens")
    if final and output is not None:
        stream.usage[s.OUTPUT_TOKENS] = output
