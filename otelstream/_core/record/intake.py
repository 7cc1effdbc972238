# SPDX-License-Identifier: Apache-2.0
"""What an event says, taken in: from a grammar's facts to the record of the stream."""

from __future__ import annotations

from otelstream import _semconv as s
from otelstream._core.record import facts as f
from otelstream._core.record.batch import NO_DATA, add_delta, add_whole, countdown, flush
from otelstream._core.record.block import Block
from otelstream._core.record.call import ToolCall
from otelstream._core.record.ending import failed
from otelstream._core.record.stream import StreamObservation
from otelstream._trouble import trouble


def event(stream: StreamObservation, name: str | None, data: str, at: float, waited: float) -> int:
    """Take in any event but a delta: `waited` seconds since the last chunk. Returns the next countdown, 0 to stop.

    What the protocol says of the end waits in `stream.told` for whoever can end the stream.
    """
    stream.carry = waited
    grammar = stream.grammar
    try:
        # The deltas that wait came before this wait.
        stop = not flush(stream, at - waited) if stream.datas else False
        stream.last_data = data
        for fact in grammar.structural(name, data):
            stop = take(stream, fact, data, at) or stop
        return 0 if stop else countdown(stream)
    except ValueError:
        if data:
            stream.garbled = stream.garbled or grammar.is_known(name)
        else:
            stream.last_data = NO_DATA  # harmless to who parses none, and the last event of who does
        return 1  # the SDK says so to the application, and we at the end
    except Exception:
        stream.unseen = True
        trouble("reading a stream event")
        return 1


def take(stream: StreamObservation, fact: f.Fact, data: str, at: float) -> bool:
    """Take in one fact of the event `data`; True when a loop was just seen and must stop the stream."""
    match fact:
        case f.Delta():
            return add_delta(stream, fact, data, at)
        case f.Opened():
            _open(stream, fact, at)
        case f.Closed():
            close(stream, fact, at)
        case f.WholeTool():
            _whole_tool(stream, fact, at)
        case f.Identity():
            stream.response_id = fact.id or stream.response_id
            stream.response_model = fact.model or stream.response_model
        case f.Finish():
            stream.finish(fact.choice, fact.reason, fact.raw, at)
        case f.Usage():
            _usage(stream, fact)
        case f.Terminal():
            stream.exhausted = True
            stream.last_data = ""
            stream.told = stream.told or stream.by_finish()
        case f.Ping():
            stream.ping_seen = True
        case f.Failed():
            stream.told = stream.told or failed("provider_error", fact.error_type)
        case f.Refusal():
            stream.refusal = True
        case f.Restarted():
            stream.finish_reason = stream.finish_raw = stream.finishes = None
        case f.Garbled():
            stream.garbled = True
    return False


def _open(stream: StreamObservation, fact: f.Opened, at: float) -> None:
    tool = None
    output = fact.tool is not None and fact.tool[0] in stream.output_tools
    if fact.tool is not None and not output:
        spoken = stream.text_before or any(block.kind == "text" for block in stream.blocks.values())
        tool = ToolCall(*fact.tool, preamble=spoken)
        stream.runtime.tool_opened(stream, tool)
    stream.server_tool = fact.server_tool
    block = Block(fact.key, fact.kind, visible=fact.visible or fact.tool is not None, tool=tool)
    stream.block_opened(block)
    stream.grammar.learned("", "")
    if fact.whole is not None:
        add_whole(stream, block, fact.whole, fact.text, at)


def close(stream: StreamObservation, fact: f.Closed, at: float) -> None:
    """A block ends; the tool call in it is ready."""
    block = stream.blocks.get(fact.key)
    if block is None:
        return
    if block.tool is not None and not block.ended:
        block.tool.input = block.validity()
        block.tool.inferred = fact.inferred
        stream.tool_ready(block.tool, at)
    if fact.inferred:
        block.ended = True
    else:
        stream.block_ended(block, at)


def _whole_tool(stream: StreamObservation, fact: f.WholeTool, at: float) -> None:
    opened = f.Opened(fact.key, "tool_input", tool=(fact.name, fact.id), whole=len(fact.arguments))
    _open(stream, opened, at)
    stream.blocks[fact.key].add_input(fact.arguments, [])
    close(stream, f.Closed(fact.key), at)


def _usage(stream: StreamObservation, fact: f.Usage) -> None:
    stream.usage.update(fact.counts)
    read, write = fact.counts.get(s.CACHE_READ_TOKENS), fact.counts.get(s.CACHE_WRITE_TOKENS)
    if read or write:
        stream.cache = "read" if read else "write"
