# SPDX-License-Identifier: Apache-2.0
"""One SDK of this make, as its adapter describes it, and what the SDK's objects keep of a stream."""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from opentelemetry import trace
from opentelemetry.util.types import AttributeValue

from otelstream import _semconv as s
from otelstream._core.process import drops
from otelstream._core.process.drops import dropped
from otelstream._core.process.provider import Beside
from otelstream._core.process.runtime import Runtime
from otelstream._core.process.tap import Attached
from otelstream._core.record.ending import Ending
from otelstream._core.record.grammar import Grammar
from otelstream._core.record.stream import StreamObservation, clock
from otelstream._core.record.whole import Whole
from otelstream._stainless import faults, raw

Wrap = Callable[[Any, str, Callable[..., Any]], None]


@dataclass(frozen=True, slots=True)
class Call:
    """One streamed request, as the provider's adapter reads it."""

    operation: str
    provider: str
    model: str
    grammar: Grammar
    choices: int = 1
    output_tools: frozenset[str] = frozenset()  # names that the request forces the model to call


@dataclass(frozen=True, slots=True, eq=False)
class Sdk:
    """One SDK. `package` is its module, and its distribution unless that has a name of its own; `patch` imports it."""

    package: str
    supported: tuple[tuple[int, int], tuple[int, int]]  # from, below
    provider: str  # its usual `gen_ai.provider.name`
    clients: tuple[str, ...]  # names of its client classes, in the package
    begin: Callable[[Any, Any, Mapping[str, Any]], Call | None]  # (client, result type, body); None: no stream of ours
    request_id: str  # the header that names a request
    native_scope: str | None = None  # of the spans that the SDK makes of itself
    helpers: Callable[[], Iterable[type]] = tuple  # classes that read a stream of the SDK's for the application
    helpers_close: bool = False  # they close the response themselves, never the stream that they read
    distribution: str = ""
    words: Mapping[int, str] = field(default_factory=dict)  # the API's word for a status, where there is one
    beside: Beside = field(default_factory=Beside)
    # An answer that was not streamed, as the SDK's object or as its JSON; None for what is none.
    whole: Callable[[Any], Whole | None] = field(default=lambda _: None)
    sent: Callable[[Any], None] = field(default=lambda _: None)  # the options of any request; never raises
    heard: Callable[[Any], None] = field(default=lambda _: None)  # what any request returns that is not streamed
    attach: Callable[[Wrap], None] = field(default=lambda _: None)  # what runs tools
    # Of a stream that is no answer, by what it is made of: what stands in for its record, if it carries many of them.
    carrier: Callable[[Observing, Mapping[str, Any]], Carrier | None] = field(default=lambda _, __: None)


class Observing(Protocol):
    """Who observes an SDK: nobody, while `runtime` is None."""

    sdk: Sdk
    runtime: Runtime | None


class Carrier:
    """A connection that carries many answers: it stands where an SDK's stream has its record."""

    __slots__ = ("__weakref__", "stream")

    stream: StreamObservation | None  # the record of its newest answer, open or ended

    def events(self, source: Iterator[Any]) -> Iterator[Any]:
        """The very server-sent events of the connection, each as it arrives."""
        raise NotImplementedError

    def aevents(self, source: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """The async twin of `events`."""
        raise NotImplementedError

    def closed(self, flying: BaseException | None) -> None:
        """The application closes it, with `flying` in flight: end what is open but `stream`, which the close ends."""
        raise NotImplementedError


def carrier_of(sdk_stream: Any) -> Carrier | None:
    """What an SDK's stream has in the place of a record, if it carries many answers."""
    found = getattr(sdk_stream, "__dict__", {}).get("_otelstream")
    return found if isinstance(found, Carrier) else None


class Handle(Attached):
    """What the SDK's objects keep of one stream."""

    __slots__ = ("around", "call_attributes", "frames", "helped", "left_at", "past", "raw", "sdk", "watch")

    def __init__(self, sdk: Sdk, call_attributes: Mapping[str, AttributeValue]) -> None:
        self.sdk = sdk
        self.call_attributes = call_attributes
        self.around = trace.get_current_span().get_span_context().span_id  # when the request was entered
        self.raw = False  # a raw response has it, which may be closed after what reads it was dropped
        self.past = False  # its body is being read past the SDK's parser
        self.left_at: float | None = None  # when that was dropped
        self.helped = False  # a helper of the SDK reads it for the application
        self.watch: Any = None  # tells when the helper stops taking events
        self.frames: tuple[int, ...] = ()  # ids of the frames that read it, as a traceback shows them

    def inert(self) -> Handle:
        """What stays with a stream whose record is out: one for all."""
        self.watch = None  # which knows of this, a cycle
        return _INERT

    def whose(self, stream: StreamObservation, error: BaseException) -> Ending:
        """The verdict when `error` came up out of the body or its decoder."""
        return faults.while_reading(stream, error)

    def reader_left(self, stream: StreamObservation) -> None:
        """Nobody closed the stream itself: its reader was dropped, or the SDK left what it could not parse."""
        if self.raw:
            self.left_at = clock()
        else:
            dropped(stream)


_INERT = Handle(None, {})  # type: ignore[arg-type]


class Token(drops.Token):
    """Held by an SDK stream and its copies: the record ends with the last of them."""

    __slots__ = ("response",)

    def __init__(self, stream: StreamObservation, response: Any = None) -> None:
        super().__init__(stream)
        self.response = response  # a raw one, which may go on to be read as it is

    def left(self) -> bool:
        """Not where the body can be read past the SDK's parser."""
        return not (self.response is not None and raw.unparsed(self.response)) and not self.stream.attached.raw


def request_attributes(client: Any, body: Mapping[str, Any]) -> dict[str, AttributeValue]:
    """The conventions' request attributes, for samplers to see at creation."""
    wanted = {
        s.REQUEST_MAX_TOKENS: body.get("max_tokens"),
        s.REQUEST_TEMPERATURE: body.get("temperature"),
        s.REQUEST_TOP_P: body.get("top_p"),
        s.REQUEST_TOP_K: body.get("top_k"),
    }
    found: dict[str, AttributeValue] = {
        name: value for name, value in wanted.items() if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    found[s.REQUEST_STREAM] = True
    url = getattr(client, "base_url", None)
    host = getattr(url, "host", None)
    if host:
        found[s.SERVER_ADDRESS] = str(host)
        found[s.SERVER_PORT] = int(url.port or (80 if url.scheme == "http" else 443))  # type: ignore[union-attr]
    return found


def watch_helper(stream: StreamObservation, events: Any) -> None:
    """Learn when the helper that reads `events` fails on one: then its loop is over, and its stream is not.

    Nothing else tells where nobody closes, or where a tool runner does, whose closing looks like a dropped generator.
    """
    handle: Handle = stream.attached
    if not handle.helped:
        return

    def over(_: object) -> None:
        handle.watch = None
        # The collector takes a loop that was left; a cancel has its own verdict.
        undecided = stream.ending is None and stream.verdict is None and stream.finish_reason is None
        if undecided and not faults.collecting():
            stream.verdict = faults.malformed(stream)

    handle.watch = weakref.ref(events, over)
