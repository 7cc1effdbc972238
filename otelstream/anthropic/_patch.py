# SPDX-License-Identifier: Apache-2.0
"""Where we attach to the Anthropic SDK: class-level wrappers, taken off again as they were put on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Any

import wrapt
from opentelemetry import trace
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.util.types import AttributeValue

from otelstream import _semconv as s
from otelstream._core.process.runtime import Runtime, dropped
from otelstream._core.record.stream import StreamObservation, clock
from otelstream._trouble import trouble
from otelstream.anthropic import _native, _raw, _tools
from otelstream.anthropic._faults import before_stream, leaving, watch_helper
from otelstream.anthropic._protocol import Reading, left_open, pending
from otelstream.anthropic._read import aread, in_flight, read

CLOSE_PATIENCE = 1.0  # seconds that a record waits for a close, which may hang
_MESSAGES = frozenset({"Message", "BetaMessage", "ParsedMessage", "ParsedBetaMessage"})
_current: ContextVar[StreamObservation | None] = ContextVar("otelstream_request", default=None)


class Token:
    """Held by an SDK stream and its copies: the record ends with the last of them."""

    __slots__ = ("__weakref__", "response", "stream")

    def __init__(self, stream: StreamObservation, response: Any = None) -> None:
        self.stream = stream
        self.response = response  # a raw one, which may go on to be read as it is

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()  # whether a stream can be pickled is the SDK's affair

    def __del__(self) -> None:
        try:
            if self.response is not None and _raw.unparsed(self.response):
                return
            if self.stream.ending is None and not self.stream.reading.held:
                dropped(self.stream)
        except Exception:
            return  # at interpreter exit anything may be gone


class Patches:
    """The wrappers of one `instrument()`, and how to take them off."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._undo: list[tuple[Any, str, Any]] = []

    def apply(self) -> None:
        """Wrap every hook point. Raises AttributeError when the SDK lacks one, with nothing left wrapped."""
        from anthropic import _base_client as base
        from anthropic import _response as responses
        from anthropic import _streaming as streaming

        sync, asynchronous = base.SyncAPIClient, base.AsyncAPIClient
        try:
            self._wrap(sync, "request", self._request)
            self._wrap(asynchronous, "request", self._arequest)
            for client in (sync, asynchronous):
                if hasattr(client, "_request"):
                    hook = self._inner_request if client is sync else self._inner_arequest
                    self._wrap(client, "_request", hook)
                self._wrap(client, "_sleep_for_retry", self._retry)
            self._wrap(base.BaseClient, "_build_request", self._attempt)
            for cls, events in ((streaming.Stream, self._events), (streaming.AsyncStream, self._aevents)):
                self._wrap(cls, "__init__", self._opened)
                self._wrap(cls, "_iter_events", events)
                self._wrap(cls, "__iter__" if cls is streaming.Stream else "__aiter__", self._iterated)
            self._wrap(streaming.Stream, "close", self._close)
            self._wrap(streaming.AsyncStream, "close", self._aclose)
            self._wrap(responses.APIResponse, "close", self._close)
            self._wrap(responses.AsyncAPIResponse, "close", self._aclose)
            _tools.attach(self._wrap)
        except AttributeError:
            self.remove()
            raise

    def remove(self) -> None:
        """Put back the very same functions."""
        while self._undo:
            owner, name, original = self._undo.pop()
            setattr(owner, name, original)

    def _wrap(self, owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
        original = owner.__dict__[name] if name in owner.__dict__ else getattr(owner, name)
        setattr(owner, name, wrapt.FunctionWrapper(original, wrapper))
        self._undo.append((owner, name, original))

    # --- the request --------------------------------------------------------------------------------------

    def _begin(self, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StreamObservation | None:
        """The record of this request, if it is for a streamed message."""
        try:
            _tools.request(args[1] if len(args) > 1 else kwargs.get("options"))
            if not kwargs.get("stream") or not is_instrumentation_enabled():
                return None
            cast_to = args[0] if args else kwargs.get("cast_to")
            options = args[1] if len(args) > 1 else kwargs.get("options")
            if getattr(cast_to, "__name__", "") not in _MESSAGES:
                return None
            body = getattr(options, "json_data", None)
            body = body if isinstance(body, Mapping) else {}
            stream = self.runtime.begin(
                operation="chat", provider=_provider(client), model=str(body.get("model") or "unknown")
            )
            stream.reading = Reading()
            stream.flush_pending, stream.pending = left_open, pending
            foreign = _foreign_span() if self.runtime.settings.spans != "off" else False
            stream.foreign = foreign
            if foreign or not hasattr(type(client), "_request"):
                self.runtime.attach_span(stream, _attributes(client, body))
            return stream
        except Exception:
            trouble("starting a stream")
            return None

    def _request(self, wrapped: Any, client: Any, args: Any, kwargs: Any) -> Any:
        stream = self._begin(client, args, kwargs)
        if stream is None:
            return wrapped(*args, **kwargs)
        token = _current.set(stream)
        try:
            with _as_current(stream):
                result = wrapped(*args, **kwargs)
        except BaseException as error:
            self._refused(stream, error)
            raise
        finally:
            _current.reset(token)
        self._returned(stream, result)
        return result

    async def _arequest(self, wrapped: Any, client: Any, args: Any, kwargs: Any) -> Any:
        stream = self._begin(client, args, kwargs)
        if stream is None:
            return await wrapped(*args, **kwargs)
        token = _current.set(stream)
        try:
            with _as_current(stream):
                result = await wrapped(*args, **kwargs)
        except BaseException as error:
            self._refused(stream, error)
            raise
        finally:
            _current.reset(token)
        self._returned(stream, result)
        return result

    def _inner_request(self, wrapped: Any, client: Any, args: Any, kwargs: Any) -> Any:
        stream = _current.get()
        if stream is None:
            return wrapped(*args, **kwargs)
        self._find_span(stream, client, args, kwargs)
        try:
            with _as_current(stream):
                return wrapped(*args, **kwargs)
        except BaseException as error:
            # The only place where the SDK's span of a call that fails before its stream still records.
            self._refused(stream, error)
            raise

    async def _inner_arequest(self, wrapped: Any, client: Any, args: Any, kwargs: Any) -> Any:
        stream = _current.get()
        if stream is None:
            return await wrapped(*args, **kwargs)
        self._find_span(stream, client, args, kwargs)
        try:
            with _as_current(stream):
                return await wrapped(*args, **kwargs)
        except BaseException as error:
            self._refused(stream, error)
            raise

    def _find_span(self, stream: StreamObservation, client: Any, args: Any, kwargs: Any) -> None:
        try:
            if stream.span is None:
                options = args[1] if len(args) > 1 else kwargs.get("options")
                body = getattr(options, "json_data", None)
                self.runtime.attach_span(stream, _attributes(client, body if isinstance(body, Mapping) else {}))
        except Exception:
            trouble("finding a span")

    def _attempt(self, wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        stream = _current.get()
        if stream is not None:
            stream.attempt()
        return wrapped(*args, **kwargs)

    def _retry(self, wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        stream = _current.get()
        if stream is not None:
            try:
                status = getattr(kwargs.get("response"), "status_code", None)
                stream.retry(str(status) if status else "connection_error")
            except Exception:
                trouble("recording a retry")
        return wrapped(*args, **kwargs)

    def _refused(self, stream: StreamObservation, error: BaseException) -> None:
        try:
            stream.end(before_stream(stream, error))
        except Exception:
            trouble("ending a refused request")

    # --- the response -------------------------------------------------------------------------------------

    def _opened(self, wrapped: Any, sdk_stream: Any, args: Any, kwargs: Any) -> Any:
        try:
            response = kwargs.get("response")
            known = getattr(response, "__dict__", {}).get("_otelstream")
            stream = known or _current.get()
            if stream is not None and stream.ending is None:
                _responded(stream, response)
                # Before the original: up to 1.13 it starts the generator.
                sdk_stream.__dict__["_otelstream"] = Token(stream, response if known is not None else None)
        except Exception:
            trouble("opening a stream")
        return wrapped(*args, **kwargs)

    def _returned(self, stream: StreamObservation, result: Any) -> None:
        try:
            response = getattr(result, "response", None) or getattr(result, "http_response", None)
            if response is None or stream.ending is not None:
                if response is None:
                    self.runtime.forget(stream)
                return
            _responded(stream, response)
            _native.observe_end(stream, response)
            if "_otelstream" not in getattr(result, "__dict__", {}):
                response.__dict__["_otelstream"] = stream
                _raw.watch(stream, response)
        except Exception:
            trouble("taking in a response")

    def _events(self, wrapped: Any, sdk_stream: Any, args: Any, kwargs: Any) -> Any:
        stream = _observed(sdk_stream)
        if stream is None:
            return wrapped(*args, **kwargs)
        _raw.parsed(sdk_stream.response)
        source = sdk_stream._decoder.iter_bytes(sdk_stream.response.iter_bytes()) if _straight(wrapped) else wrapped()
        return read(source, stream, sdk_stream.response)

    def _aevents(self, wrapped: Any, sdk_stream: Any, args: Any, kwargs: Any) -> Any:
        stream = _observed(sdk_stream)
        if stream is None:
            return wrapped(*args, **kwargs)
        _raw.parsed(sdk_stream.response)
        straight = _straight(wrapped)
        source = sdk_stream._decoder.aiter_bytes(sdk_stream.response.aiter_bytes()) if straight else wrapped()
        return aread(source, stream, sdk_stream.response)

    def _iterated(self, wrapped: Any, sdk_stream: Any, args: Any, kwargs: Any) -> Any:
        events = wrapped(*args, **kwargs)
        try:
            stream = _observed(sdk_stream)
            if stream is not None and stream.ending is None:
                watch_helper(stream, sdk_stream, events)
        except Exception:
            trouble("watching a stream helper")
        return events

    # A close must not wait for what a record costs, exporters perhaps: it is decided before and published after.

    def _close(self, wrapped: Any, closed: Any, args: Any, kwargs: Any) -> Any:
        stream = _left(closed)
        try:
            return wrapped(*args, **kwargs)
        finally:
            if stream is not None:
                stream.publish()

    def _aclose(self, wrapped: Any, closed: Any, args: Any, kwargs: Any) -> Any:
        stream = _left(closed)
        if stream is None:
            return wrapped(*args, **kwargs)
        closing: Any = _published_after(wrapped, args, kwargs, stream)
        closing.__name__, closing.__qualname__ = wrapped.__name__, wrapped.__qualname__  # for who forgets to await it
        return closing


def _left(closed: Any) -> StreamObservation | None:
    """The stream that the application ends by closing this SDK stream or raw response, decided here."""
    try:
        if hasattr(closed, "http_response"):
            return _raw.close(closed)
        stream = _observed(closed)
        if stream is not None and stream.ending is None:
            stream.decide(leaving(stream, in_flight()), clock())
            if stream.span is not None and not stream.own_span and not stream.native:
                stream.publish()  # who made that span may end it with the close
            return stream
    except Exception:
        trouble("closing a stream")
    return None


async def _published_after(wrapped: Any, args: Any, kwargs: Any, stream: StreamObservation) -> Any:
    try:
        patience = asyncio.get_running_loop().call_later(CLOSE_PATIENCE, stream.publish)
    except RuntimeError:  # trio
        patience = None
    try:
        return await wrapped(*args, **kwargs)
    finally:
        if patience is not None:
            patience.cancel()
        stream.publish()


def _observed(sdk_stream: Any) -> StreamObservation | None:
    token = sdk_stream.__dict__.get("_otelstream")
    return None if token is None else token.stream


def _responded(stream: StreamObservation, response: Any) -> None:
    if stream.response_at is None:
        stream.responded(response.headers.get("request-id"))


def _straight(wrapped: Any) -> bool:
    """Whether the SDK's `_iter_events` only runs its decoder over the body, as in every version known."""
    function = getattr(wrapped, "__func__", wrapped)
    names = set(getattr(getattr(function, "__code__", None), "co_names", ()))
    return names in ({"_decoder", "iter_bytes", "response"}, {"_decoder", "aiter_bytes", "response"}) or names == {
        "_decoder", "aiter_bytes", "response", "iter_bytes",
    }  # fmt: skip


def _as_current(stream: StreamObservation) -> AbstractContextManager[Any]:
    if stream.own_span and stream.span is not None:
        return trace.use_span(stream.span, record_exception=False, set_status_on_exception=False)
    return nullcontext()


def _foreign_span() -> bool:
    """Whether another instrumentation has opened a call span around this request."""
    from otelstream._core.emit.span import call_span

    span = call_span()
    return span is not None and not _native.is_native(span)


def _provider(client: Any) -> str:
    name = type(client).__name__
    if "Bedrock" in name:
        return "aws.bedrock"
    return "gcp.vertex_ai" if "Vertex" in name else "anthropic"


def _attributes(client: Any, body: Mapping[str, Any]) -> dict[str, AttributeValue]:
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
