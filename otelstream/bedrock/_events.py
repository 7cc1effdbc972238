# SPDX-License-Identifier: Apache-2.0
"""The events of one answer: an event stream's own messages, told to its record as they pass."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

from otelstream._core.process import nesting
from otelstream._core.process.closing import decide, publish
from otelstream._core.process.drops import Token, dropped
from otelstream._core.process.tap import Attached, aread, read
from otelstream._core.record.batch import NO_DATA
from otelstream._core.record.ending import Ending, by_departure
from otelstream._core.record.grammar import BY_SHAPE
from otelstream._core.record.stream import StreamObservation, clock
from otelstream._trouble import trouble
from otelstream.bedrock import _converse, _faults, _invoke

_HELD = "_otelstream"  # on an event stream: its token


class Handle(Attached):
    """What is kept with one stream."""

    __slots__ = ("refused",)

    def __init__(self) -> None:
        self.refused = ""  # what the last attempt failed with

    def inert(self) -> Handle:
        """What stays with a stream whose record is out: one for all."""
        return _INERT

    def whose(self, stream: StreamObservation, error: BaseException) -> Ending:
        """The verdict when `error` came up out of the body or its decoder."""
        return _faults.while_reading(error)

    def reader_left(self, stream: StreamObservation) -> None:
        """The event stream holds its reader, and closing it does not end that: it was dropped."""
        dropped(stream)


_INERT = Handle()


def _opened(event_stream: Any) -> StreamObservation | None:
    """The record of an event stream that is just made, if it has one. Never raises."""
    try:
        stream = nesting.current()
        if stream is None or stream.ending is not None or not isinstance(stream.attached, Handle):
            return None
        stream.responded(None)
        event_stream.__dict__[_HELD] = Token(stream)
        return stream
    except Exception:
        trouble("opening a stream")
        return None


def events(wrapped: Any, event_stream: Any, args: Any, kwargs: Any) -> Any:
    stream = _opened(event_stream)
    if stream is None:
        return wrapped(*args, **kwargs)
    return read(_told(wrapped(*args, **kwargs), stream), stream, event_stream._raw_stream.close)


def aevents(wrapped: Any, event_stream: Any, args: Any, kwargs: Any) -> Any:
    stream = _opened(event_stream)
    if stream is None:
        return wrapped(*args, **kwargs)
    body = event_stream._raw_stream
    stream.drop = "never"  # its connection goes with its time-out, not with who read it

    async def close() -> None:
        body.close()

    return aread(_atold(wrapped(*args, **kwargs), stream), stream, close)


def _told(messages: Iterator[Any], stream: StreamObservation) -> Iterator[Any]:
    """Give the SDK's own messages, which no application sees, the name and the data that our reader looks for."""
    chunks = stream.grammar if isinstance(stream.grammar, _invoke.Grammar) else None
    for message in messages:
        try:
            if chunks is not None and message.payload.startswith(chunks.raw):
                message._event, message._data = BY_SHAPE, message.payload
            else:
                message._event = message.headers[":event-type"]
                message._data = message.payload.decode() if chunks is None else _chunk(message, stream)
        except (KeyError, ValueError):
            _odd(message)
        yield message


async def _atold(messages: AsyncIterator[Any], stream: StreamObservation) -> AsyncIterator[Any]:
    chunks = stream.grammar if isinstance(stream.grammar, _invoke.Grammar) else None
    async for message in messages:
        try:
            if chunks is not None and message.payload.startswith(chunks.raw):
                message._event, message._data = BY_SHAPE, message.payload
            else:
                message._event = message.headers[":event-type"]
                message._data = message.payload.decode() if chunks is None else _chunk(message, stream)
        except (KeyError, ValueError):
            _odd(message)
        yield message


def _chunk(message: Any, stream: StreamObservation) -> str:
    """The data of a chunk that is not known to be a delta; the first says whose they are."""
    data, grammar = _invoke.text_of(message.payload), stream.grammar
    if not grammar.met and not grammar.meet(data):  # type: ignore[attr-defined]
        stream.unseen = True
    return data


def _odd(message: Any) -> None:
    """A frame that is no event, or whose payload is no text."""
    headers = message.headers
    event, word = headers.get(":event-type"), headers.get(":exception-type") or headers.get(":error-code") or ""
    message._event = event or f"{_converse.EXCEPTION}{word}"
    message._data = NO_DATA if event else str(message.payload, "utf-8", "replace")


def close(wrapped: Any, event_stream: Any, args: Any, kwargs: Any) -> Any:
    stream = observed(event_stream)
    if stream is None or stream.ending is not None:
        return wrapped(*args, **kwargs)
    try:
        decide(stream, by_departure(sys.exc_info()[1], opened_under=stream.opened_under), clock())
        if stream.span is not None and not stream.own_span:
            publish(stream)  # who made that span may end it with the close
    except Exception:
        trouble("closing a stream")
    try:
        return wrapped(*args, **kwargs)
    finally:
        publish(stream)


def observed(thing: Any) -> StreamObservation | None:
    """The record of an event stream, if it has one; a companion's proxy around it will do."""
    try:
        token = vars(thing)[_HELD]
    except Exception:
        return None
    return token.stream if isinstance(token, Token) else None
