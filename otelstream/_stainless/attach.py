# SPDX-License-Identifier: Apache-2.0
"""Where we attach to an SDK of this make: class-level wrappers, taken off again as they were put on."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib import import_module
from inspect import iscoroutinefunction
from typing import Any

import wrapt
from opentelemetry import trace
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.trace import Span

from otelstream._core.emit.span import call_span, model_span, take
from otelstream._core.process import nesting, suppression
from otelstream._core.process.closing import decide, end, publish
from otelstream._core.process.runtime import Runtime
from otelstream._core.process.tap import aread, read
from otelstream._core.record.stream import StreamObservation, clock
from otelstream._stainless import native, raw, response
from otelstream._stainless.faults import before_stream, leaving, observed
from otelstream._stainless.sdk import Handle, Sdk, Token, request_attributes, watch_helper
from otelstream._trouble import trouble

CLOSE_PATIENCE = 1.0  # seconds that a record waits for a close, which may hang


class Patches:
    """The wrappers of one `instrument()` on one SDK, and how to take them off."""

    def __init__(self, runtime: Runtime, sdk: Sdk) -> None:
        self.runtime = runtime
        self.sdk = sdk
        self._undo: list[tuple[Any, str, Any]] = []

    def apply(self) -> None:
        """Wrap every hook point. Raises AttributeError when the SDK lacks one, with nothing left wrapped."""
        base, responses, streaming = (
            import_module(f"{self.sdk.package}.{name}") for name in ("_base_client", "_response", "_streaming")
        )
        sync, asynchronous = base.SyncAPIClient, base.AsyncAPIClient
        try:
            self._wrap(sync, "request", self._request)
            self._wrap(asynchronous, "request", self._arequest)
            for client in (sync, asynchronous):
                if hasattr(client, "_request"):
                    hook = self._inner_request if client is sync else self._inner_arequest
                    self._wrap(client, "_request", hook)
                # Before it had a method for its pause, the SDK began a retry by calling itself.
                retry = "_sleep_for_retry" if hasattr(client, "_sleep_for_retry") else "_retry_request"
                self._wrap(client, retry, self._retry)
            self._wrap(base.BaseClient, "_build_request", self._attempt)
            for cls, events in ((streaming.Stream, self._events), (streaming.AsyncStream, self._aevents)):
                self._wrap(cls, "__init__", self._opened)
                self._wrap(cls, "__stream__", _reading)
                self._wrap(cls, "_iter_events", events)
                self._wrap(cls, "__iter__" if cls is streaming.Stream else "__aiter__", _iterated)
            for helper in self.sdk.helpers():
                self._wrap(helper, "__stream__", _reading)
                if self.sdk.helpers_close:
                    self._wrap(helper, "close", _aclose if iscoroutinefunction(vars(helper)["close"]) else _close)
            self._wrap(streaming.Stream, "close", _close)
            self._wrap(streaming.AsyncStream, "close", _aclose)
            http: Any = getattr(base, "httpx2", None) or base.httpx
            self._wrap(http.Response, "close", response.close)
            self._wrap(http.Response, "aclose", response.aclose)
            self._wrap(responses.APIResponse, "close", _close)
            self._wrap(responses.AsyncAPIResponse, "close", _aclose)
            self.sdk.attach(self._wrap)
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

    def _begin(
        self, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any], past: bool
    ) -> StreamObservation | None:
        """The record of this request, if it is for a streamed answer."""
        try:
            options = args[1] if len(args) > 1 else kwargs.get("options")
            self.sdk.sent(options)
            if not kwargs.get("stream") or nesting.routed():
                return None
            body = getattr(options, "json_data", None)
            body = body if isinstance(body, Mapping) else {}
            call = self.sdk.begin(client, args[0] if args else kwargs.get("cast_to"), body)
            if call is None:
                return None
            suppressed = not is_instrumentation_enabled()
            span = self._foreign_span(suppressed)
            if suppressed and not suppression.observes(self.runtime, span, past=past):
                return None
            stream = self.runtime.begin(
                operation=call.operation,
                provider=call.provider,
                model=call.model,
                grammar=call.grammar,
                choices=call.choices,
                output_tools=call.output_tools,
            )
            stream.attached = Handle(self.sdk, request_attributes(client, body))
            stream.suppressed, stream.foreign = suppressed, span is not None
            if span is not None or not hasattr(type(client), "_request"):
                self.runtime.attach_span(stream, stream.attached.call_attributes, span)
            return stream
        except Exception:
            trouble("starting a stream")
            return None

    def _foreign_span(self, suppressed: bool) -> Span | None:
        """The call span that another instrumentation has opened around this request, taken for its stream."""
        if self.runtime.settings.spans == "off" and not suppressed:
            return None
        span = model_span() if suppressed else call_span()
        ours = span is not None and not native.is_native(span, self.sdk.native_scope) and take(span)
        return span if ours else None

    def _request(self, wrapped: Any, client: Any, args: Any, kwargs: Any) -> Any:
        stream = self._begin(client, args, kwargs, isinstance(wrapped, partial))
        if stream is None and not (nesting.entered() or kwargs.get("stream")):
            return wrapped(*args, **kwargs)
        mark = nesting.enter(stream)  # what is not observed is no attempt of the stream whose request it is made in
        try:
            with _as_current(stream):
                result = wrapped(*args, **kwargs)
        except BaseException as error:
            _refused(stream, error)
            raise
        finally:
            nesting.leave(mark)
        self._returned(stream, result)
        return result

    async def _arequest(self, wrapped: Any, client: Any, args: Any, kwargs: Any) -> Any:
        stream = self._begin(client, args, kwargs, isinstance(wrapped, partial))
        if stream is None and not (nesting.entered() or kwargs.get("stream")):
            return await wrapped(*args, **kwargs)
        mark = nesting.enter(stream)
        try:
            with _as_current(stream):
                result = await wrapped(*args, **kwargs)
        except BaseException as error:
            _refused(stream, error)
            raise
        finally:
            nesting.leave(mark)
        self._returned(stream, result)
        return result

    # `_request` is the only place where the SDK's span of a call that fails before its stream still records. It is
    # reached also past our `request`: a companion that was there first calls the one that it found.

    def _inner_request(self, wrapped: Any, client: Any, args: Any, kwargs: Any) -> Any:
        if kwargs.get("stream") and not nesting.entered():
            return self._request(partial(self._in_request, wrapped), client, args, kwargs)
        return self._in_request(wrapped, *args, **kwargs)

    async def _inner_arequest(self, wrapped: Any, client: Any, args: Any, kwargs: Any) -> Any:
        if kwargs.get("stream") and not nesting.entered():
            return await self._arequest(partial(self._in_arequest, wrapped), client, args, kwargs)
        return await self._in_arequest(wrapped, *args, **kwargs)

    def _in_request(self, wrapped: Any, *args: Any, **kwargs: Any) -> Any:
        stream = nesting.current()
        self._find_span(stream)
        try:
            with _as_current(stream):
                return wrapped(*args, **kwargs)
        except BaseException as error:
            _refused(stream, error)
            raise

    async def _in_arequest(self, wrapped: Any, *args: Any, **kwargs: Any) -> Any:
        stream = nesting.current()
        self._find_span(stream)
        try:
            with _as_current(stream):
                return await wrapped(*args, **kwargs)
        except BaseException as error:
            _refused(stream, error)
            raise

    def _find_span(self, stream: StreamObservation | None) -> None:
        try:
            if stream is not None and stream.span is None and not stream.suppressed:
                found = native.unreadable(stream)
                self.runtime.attach_span(stream, stream.attached.call_attributes, found)
        except Exception:
            trouble("finding a span")

    def _attempt(self, wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        stream = nesting.current()
        if stream is not None:
            stream.attempt()
        return wrapped(*args, **kwargs)

    def _retry(self, wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        stream = nesting.current()
        if stream is not None:
            try:
                refused = kwargs.get("response") or getattr(sys.exc_info()[1], "response", None)
                status = getattr(refused, "status_code", None)
                stream.retry(str(status) if status else "connection_error")
            except Exception:
                trouble("recording a retry")
        return wrapped(*args, **kwargs)

    # --- the response -------------------------------------------------------------------------------------

    def _opened(self, wrapped: Any, sdk_stream: Any, args: Any, kwargs: Any) -> Any:
        try:
            answer = kwargs.get("response")
            known = getattr(answer, "__dict__", {}).get("_otelstream")
            stream = known or nesting.current()
            if stream is not None and stream.ending is None:
                self._responded(stream, answer)
                # Before the original: some versions start the generator in it.
                sdk_stream.__dict__["_otelstream"] = Token(stream, answer)
        except Exception:
            trouble("opening a stream")
        return wrapped(*args, **kwargs)

    def _responded(self, stream: StreamObservation, answer: Any) -> None:
        if stream.response_at is None:
            stream.responded(answer.headers.get(self.sdk.request_id))

    def _returned(self, stream: StreamObservation | None, result: Any) -> None:
        if stream is None:
            return
        try:
            answer = getattr(result, "response", None) or getattr(result, "http_response", None)
            if answer is None or stream.ending is not None:
                if answer is None:
                    self.runtime.discard(stream)
                return
            self._responded(stream, answer)
            if stream.suppressed:
                self.runtime.write_early(stream)
            native.observe_end(stream, answer)
            if "_otelstream" not in getattr(result, "__dict__", {}):
                answer.__dict__["_otelstream"] = stream
                stream.attached.raw = True
            raw.watch(stream, answer)
            response.watch_close(stream, answer)
        except Exception:
            trouble("taking in a response")

    def _events(self, wrapped: Any, sdk_stream: Any, args: Any, kwargs: Any) -> Any:
        stream = observed(sdk_stream)
        if stream is None:
            return wrapped(*args, **kwargs)
        answer = sdk_stream.response
        raw.parsed(answer)
        source = sdk_stream._decoder.iter_bytes(answer.iter_bytes()) if _straight(wrapped) else wrapped()
        return read(source, stream, answer.close)

    def _aevents(self, wrapped: Any, sdk_stream: Any, args: Any, kwargs: Any) -> Any:
        stream = observed(sdk_stream)
        if stream is None:
            return wrapped(*args, **kwargs)
        answer = sdk_stream.response
        raw.parsed(answer)
        source = sdk_stream._decoder.aiter_bytes(answer.aiter_bytes()) if _straight(wrapped) else wrapped()
        return aread(source, stream, answer.aclose)


def _refused(stream: StreamObservation | None, error: BaseException) -> None:
    if stream is None:
        return
    try:
        end(stream, before_stream(stream, error))
    except Exception:
        trouble("ending a refused request")


def _as_current(stream: StreamObservation | None) -> AbstractContextManager[Any]:
    if stream is not None and stream.own_span and stream.span is not None:
        return trace.use_span(stream.span, record_exception=False, set_status_on_exception=False)
    return nullcontext()


def _reading(wrapped: Any, reader: Any, args: Any, kwargs: Any) -> Any:
    """An SDK stream, or a helper around one, makes the generator that reads: know its frame in a traceback."""
    generator = wrapped(*args, **kwargs)
    try:
        stream = observed(reader)
        if stream is not None and stream.ending is None:
            frame = getattr(generator, "gi_frame", None) or getattr(generator, "ag_frame", None)
            stream.attached.frames += (id(frame),)
            stream.attached.helped = stream.attached.helped or hasattr(reader, "_raw_stream")
    except Exception:
        trouble("watching who reads a stream")
    return generator


def _iterated(wrapped: Any, sdk_stream: Any, args: Any, kwargs: Any) -> Any:
    events = wrapped(*args, **kwargs)
    try:
        stream = observed(sdk_stream)
        if stream is not None and stream.ending is None:
            watch_helper(stream, events)
    except Exception:
        trouble("watching a stream helper")
    return events


# A close must not wait for what a record costs, exporters perhaps: it is decided before and published after.


def _close(wrapped: Any, closed: Any, args: Any, kwargs: Any) -> Any:
    stream = _left(closed)
    try:
        return wrapped(*args, **kwargs)
    finally:
        if stream is not None:
            publish(stream)


def _aclose(wrapped: Any, closed: Any, args: Any, kwargs: Any) -> Any:
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
            return raw.close(closed)
        stream = observed(closed)
        if stream is not None and stream.ending is None:
            decide(stream, leaving(stream, sys.exc_info()[1]), clock())
            if stream.span is not None and not stream.own_span and not stream.native:
                publish(stream)  # who made that span may end it with the close
            return stream
    except Exception:
        trouble("closing a stream")
    return None


async def _published_after(wrapped: Any, args: Any, kwargs: Any, stream: StreamObservation) -> Any:
    try:
        patience = asyncio.get_running_loop().call_later(CLOSE_PATIENCE, publish, stream)
    except RuntimeError:  # trio
        patience = None
    try:
        return await wrapped(*args, **kwargs)
    finally:
        if patience is not None:
            patience.cancel()
        publish(stream)


def _straight(wrapped: Any) -> bool:
    """Whether the SDK's `_iter_events` only runs its decoder over the body, so that we can do that in its place."""
    function = getattr(wrapped, "__func__", wrapped)
    names = set(getattr(getattr(function, "__code__", None), "co_names", ()))
    return names in ({"_decoder", "iter_bytes", "response"}, {"_decoder", "aiter_bytes", "response"}) or names == {
        "_decoder", "aiter_bytes", "response", "iter_bytes",
    }  # fmt: skip
