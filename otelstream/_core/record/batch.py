# SPDX-License-Identifier: Apache-2.0
"""The deltas of one stream that wait to be summed: many at once, one by one where they differ."""

from __future__ import annotations

import json
import sys
import time

from otelstream import _semconv as s
from otelstream._core.record.block import Block
from otelstream._core.record.facts import BARE, Delta
from otelstream._core.record.hearing import PACE
from otelstream._core.record.stream import StreamObservation
from otelstream._trouble import trouble

NO_DATA = "\0"  # in the place of the data that an event lacks where each must have some
BATCH = 32  # chunks summed at once: with 48 a chunk costs 50 ns less, and an open stream keeps 3 KiB more


def countdown(stream: StreamObservation) -> int:
    """How many deltas may wait to be summed: one while a first chunk or token may be the next."""
    if stream.first_token_at is None and (stream.first_chunk_at is None or stream.block.visible):
        return 1
    room = stream.cadence.room
    if stream.visible is not None and stream.visible.room < room:
        room = stream.visible.room
    return BATCH if room > BATCH else room  # noqa: FURB136  # cheaper than min()


def pause(stream: StreamObservation) -> float:
    """Seconds without an event after which what waits is summed: the record, or a judge, is to know when it was."""
    threshold = stream.runtime.settings.stall_threshold
    return threshold if stream.visible is None else min(threshold, PACE)


def after_pause(stream: StreamObservation, last: float, at: float) -> int:
    """`flush()` where the newest delta came later than the others, which a judge reads as of `last`."""
    waiting = len(stream.datas) - 1
    stop = stream.visible is not None and waiting and not flush(stream, last, waiting)
    left = flush(stream, at)
    return 0 if stop else left


def flush(stream: StreamObservation, at: float, most: int = sys.maxsize) -> int:
    """Sum the deltas that wait; return the next countdown, or 0 when the application asks for the stream's end."""
    datas, waits = stream.datas, stream.waits
    count = min(len(datas), len(waits), most)
    if not count:
        return countdown(stream)
    stream.summing = True
    batch, gaps = datas[:count], waits[:count]
    del datas[:count], waits[:count]
    if isinstance(batch[-1], bytes):  # kept as they came: to decode many at once costs less a chunk
        batch = stream.grammar.plain(batch)
    stream.last_data = batch[-1]
    if stream.leftover:
        gaps[0] += stream.leftover
        stream.leftover = 0.0
    block = stream.block
    text = block.texts(batch)
    if text is not None:
        stop = add(stream, block, gaps, count, text, at)
    else:
        stop = _one_by_one(stream, batch, gaps, at)
        stream.summing = False
    return 0 if stop else countdown(stream)


def _one_by_one(stream: StreamObservation, batch: list[str], gaps: list[float], at: float) -> bool:
    """Decode each delta, and add them as runs of one block each; True when a loop was seen and must stop it."""
    stop = False
    block = stream.block
    texts: list[str] = []
    kept: list[float] = []
    for data, gap in zip(batch, gaps, strict=True):
        stream.leftover += gap
        try:
            delta = stream.grammar.piece(data) if data else None
        except ValueError:
            stream.garbled = True
            continue
        except (TypeError, KeyError, IndexError, AttributeError):
            continue
        if delta is None:
            continue
        home = block if delta.key == block.key else block_of(stream, delta)
        if home is not block and texts:
            stop = add(stream, block, kept, len(texts), "".join(texts), at) or stop
            texts, kept = [], []
        block = home
        texts.append(delta.text)
        kept.append(stream.leftover)
        stream.leftover = 0.0
        _learn(stream, block, delta, data)
    if texts:
        stop = add(stream, block, kept, len(texts), "".join(texts), at) or stop
    return stop


def _learn(stream: StreamObservation, block: Block, delta: Delta, data: str) -> None:
    """Deltas of `block` come now: know the next ones by how this one looks."""
    block.bare = delta.field == BARE
    new = not block.prefix and block.learn(data, delta.field, delta.text, delta.counter)
    if new or block is not stream.block:
        stream.grammar.learned(block.prefix, data if block.prefix else "")
    stream.block = block


def add(stream: StreamObservation, block: Block, gaps: list[float], chunks: int, text: str, at: float) -> bool:
    """Add some chunks of one block; `gaps` are theirs. True when a loop was just seen and must stop the stream."""
    kind = block.kind or "other"
    if stream.first_chunk_at is None:
        stream.first_chunk(kind, at)
        gaps = gaps[1:]
        longest = max(gaps, default=0.0)
    elif (longest := max(gaps)) > stream.runtime.settings.stall_threshold:
        stream.stalled(longest, source_of(stream, at, longest), at)
    if block.visible and stream.first_token_at is None:
        stream.first_token("tool_input" if kind == "tool_input" else "text", at)
    if block.tool is not None:
        if block.ended:
            _withdraw(block)
        block.add_input(text, gaps)
    stream.add_chunks(kind, gaps, longest, chunks, len(text), at)
    stop = stream.runtime.settings.repetition and stream.repeats(block, text, at)
    return stop if stream.visible is None else _shown(stream, block, text, chunks, at) or stop


def _shown(stream: StreamObservation, block: Block, text: str, chunks: int, at: float) -> bool:
    """Give judges what is visible of a batch; True when one of them asked for the stream's end."""
    visible = stream.visible
    if visible is None:
        return False
    if block.kind == "text":
        try:
            visible.add(block.key, text, at, chunks)
        except Exception:
            stream.visible = None
            trouble("giving the text to the judges")
    return visible.stop


def _withdraw(block: Block) -> None:
    """The input goes on that was taken for whole: its call is not ready after all."""
    block.ended = False
    tool = block.tool
    if tool is not None:
        tool.ready, tool.input = None, "incomplete"
        if tool.dispatched_at is None:
            tool.state = None


def block_of(stream: StreamObservation, delta: Delta) -> Block:
    """The open block of a delta; one whose protocol announces none is opened by it."""
    block = stream.blocks.get(delta.key)
    if block is None and delta.kind != "other":
        block = Block(delta.key, delta.kind, visible=delta.visible)
        stream.block_opened(block)
    return block or next(reversed(stream.blocks.values()), stream.block)


def add_delta(stream: StreamObservation, delta: Delta, data: str, at: float) -> bool:
    """Add one delta of an event that says more; True when a loop was just seen and must stop the stream."""
    block = block_of(stream, delta)
    gap = stream.leftover + stream.carry
    stream.leftover = stream.carry = 0.0
    stop = add(stream, block, [gap], 1, delta.text, at)
    _learn(stream, block, delta, data)
    return stop


def add_whole(stream: StreamObservation, block: Block, chars: int, text: str, at: float) -> None:
    """Add a block that arrived with its start event: one chunk; `text` is what of it a user sees."""
    kind = block.kind or "other"
    gaps: list[float] = []
    if stream.first_chunk_at is None:
        stream.first_chunk(kind, at)
    else:
        gaps = [stream.carry]
        if stream.carry > stream.runtime.settings.stall_threshold:
            stream.stalled(stream.carry, source_of(stream, at, stream.carry), at)
    if block.visible and stream.first_token_at is None:
        stream.first_token("tool_input" if kind == "tool_input" else "text", at)
    stream.add_chunks(kind, gaps, stream.carry, 1, chars, at)
    stream.carry = 0.0
    if text and stream.visible is not None:
        _shown(stream, block, text, 1, at)


def source_of(stream: StreamObservation, at: float, gap: float) -> s.StallSource:
    """Who was silent during a gap that ended at `at`."""
    if stream.loop is not None and stream.loop.lag(at - gap, at) > gap / 2:
        return "event_loop"
    return "server_tool" if stream.server_tool else "provider"


def arrived(stream: StreamObservation) -> tuple[int, int, int]:
    """Chunks, characters and visible characters so far, those that wait to be summed included; from any thread."""
    found = (0, 0, 0)
    for _ in range(1000):  # bounded: a signal handler may have interrupted the very sum it waits for
        before = stream.chunks
        if not stream.summing:
            chunks, chars, visible = _waiting(stream)
            found = (before + chunks, stream.chars + chars, stream.visible_chars + visible)
            if before == stream.chunks and not stream.summing:
                return found
        time.sleep(0)
    return found if any(found) else (stream.chunks, stream.chars, stream.visible_chars)


def _waiting(stream: StreamObservation) -> tuple[int, int, int]:
    """Count what waits to be summed, and leave it: chunks, characters, visible characters. From any thread."""
    chunks = chars = visible = 0
    for data in list(stream.datas):
        try:
            delta = stream.grammar.piece(data)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            continue
        if delta is not None:
            chunks += 1
            chars += len(delta.text)
            block = stream.blocks.get(delta.key, stream.block)
            visible += len(delta.text) if block.kind == "text" else 0
    return chunks, chars, visible


def left_open(stream: StreamObservation, at: float) -> None:
    """The stream ends: sum what waits, look whether the last event made sense, keep tool calls left unfinished."""
    flush(stream, at)
    unfinished = [block for block in stream.blocks.values() if block.tool is not None and not block.ended]
    if not stream.block.bare and not _decodable(stream.last_data):
        stream.undecodable = "malformed_tool_call" if unfinished else "protocol_error"
    for block in unfinished:
        tool = block.tool
        if tool is not None:
            tool.input = "invalid" if block.beyond_repair() else "incomplete"
            stream.keep_call(tool)


def _decodable(data: str) -> bool:
    try:
        return not data or isinstance(json.loads(data), dict)
    except (ValueError, RecursionError):
        return False
