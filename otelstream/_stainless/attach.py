# SPDX-License-Identifier: Apache-2.0
"""Where we attach to an SDK of this make: class-level wrappers, taken off again as they were put on."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from inspect import iscoroutinefunction
from typing import Any

from opentelemetry.trace import Span

from otelstream._core.process import hooks, nesting, suppression
from otelstream._core.process.closing import end
from otelstream._core.process.request import as_current
from otelstream._core.process.tap import aread, read
from otelstream._core.record.stream import StreamObservation
from otelstream._stainless import closes, faults, native, raw, response, whole
from otelstream._stainless.faults import before_stream, observed
from otelstream._stainless.over import Over
from otelstream._stainless.sdk import Handle, Sdk, Token, carrier_of, request_attributes, watch_helper
from otelstream._trouble import trouble


class Patches(hooks.Patches):
    """The wrappers on one SDK of this make."""

    def __init__(self, sdk: Sdk) -> None:
        super().__init__()
        self.sdk = sdk

    def put_on(self, put: hooks.Put) -> None:
        """Wrap the SDK's functions. Raises AttributeError when it lacks one."""
        base, responses, streaming = (
            import_module(f"{self.sdk.package}.{name}") for name in ("_base_client", "_response", "_streaming")
        )
        sync, asynchronous = base.SyncAPIClient, base.AsyncAPIClient
        put(sync, "request", self._request)
        put(asynchronous, "request", self._arequest)
        for client in (sync, asynchronous):
            if hasattr(client, "_request"):
                put(client, "_request", self._inner_request if client is sync else self._inner_arequest)
            # Before it had a method for its pause, the SDK began a retry by calling itself.
            put(client, "_sleep_for_retry" if hasattr(client, "_sleep_for_retry") else "_retry_request", _retry)
        put(base.BaseClient, "_build_request", _attempt)
        Over(self._begin, self._returned, _refused).put_on(put, self.sdk, base)
        for cls, events in ((streaming.Stream, _events), (streaming.AsyncStream, _aevents)):
            put(cls, "__init__", self._opened)
            put(cls, "__stream__", _reading)
            put(cls, "_iter_events", events)
            put(cls, "__iter__" if cls is streaming.Stream else "__aiter__", _iterated)
        for helper in self.sdk.helpers():
            put(helper, "__stream__", _reading)
            if self.sdk.helpers_close:
                put(helper, "close", closes.aclose if iscoroutinefunction(vars(helper)["close"]) else closes.close)
        put(streaming.Stream, "close", closes.close)
        put(streaming.AsyncStream, "close", closes.aclose)
        http: Any = getattr(base, "httpx2", None) or base.httpx
        put(http.Response, "close", response.close)
        put(http.Response, "aclose", response.aclose)
        put(responses.APIResponse, "close", closes.close)
        put(responses.AsyncAPIResponse, "close", closes.aclose)
        self.sdk.attach(put)

    # --- the request --------------------------------------------------------------------------------------

    def _begin(
        self, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any], past: bool = False
    ) -> StreamObservation | None:
        """The record of this request, if it is for a streamed answer."""
        runtime = self.runtime
        if runtime is None:
            return None
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
            beside = suppression.around(runtime, theirs=self._is_theirs, past=past)
            if beside is None:
                return None
            stream = runtime.begin(
                operation=call.operation,
                provider=call.provider,
                model=call.model,
                grammar=call.grammar,
                choices=call.choices,
                output_tools=call.output_tools,
            )
            stream.attached = Handle(self.sdk, request_attributes(client, body))
            stream.suppressed, stream.foreign = beside.suppressed, beside.span is not None
            if beside.span is not None or not hasattr(type(client), "_request"):
                runtime.attach_span(stream, stream.attached.call_attributes, beside.span)
            return stream
        except Exception:
            trouble("starting a stream")
            return None

    def _is_theirs(self, span: Span) -> bool:
        return not native.is_native(span, self.sdk.native_scope)

    def _request(self, wrapped: Any, client: Any, args: Any, kwargs: Any) -> Any:
        stream = self._begin(client, args, kwargs, isinstance(wrapped, partial))
        if stream is None and not (nesting.entered() or kwargs.get("stream")):
            asked = whole.begin(self.sdk, self.runtime, client, args, kwargs)
            result = wrapped(*args, **kwargs)
            self.sdk.heard(result)
            return result if asked is None else whole.answered(self.sdk, asked, result)
        mark = nesting.enter(stream)  # what is not observed is no attempt of the stream whose request it is made in
        try:
            with as_current(stream):
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
            asked = whole.begin(self.sdk, self.runtime, client, args, kwargs)
            result = await wrapped(*args, **kwargs)
            self.sdk.heard(result)
            return result if asked is None else whole.answered(self.sdk, asked, result)
        mark = nesting.enter(stream)
        try:
            with as_current(stream):
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
            return self._request(partial(_in_request, wrapped), client, args, kwargs)
        return _in_request(wrapped, *args, **kwargs)

    async def _inner_arequest(self, wrapped: Any, client: Any, args: Any, kwargs: Any) -> Any:
        if kwargs.get("stream") and not nesting.entered():
            return await self._arequest(partial(_in_arequest, wrapped), client, args, kwargs)
        return await _in_arequest(wrapped, *args, **kwargs)

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
            elif stream is None and self.runtime is not None:
                carrier = self.sdk.carrier(self, kwargs)
                if carrier is not None:
                    sdk_stream.__dict__["_otelstream"] = carrier
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
                    stream.runtime.discard(stream)
                return
            self._responded(stream, answer)
            if stream.suppressed:
                stream.runtime.write_early(stream)
            native.observe_end(stream, answer)
            if "_otelstream" not in getattr(result, "__dict__", {}):
                answer.__dict__["_otelstream"] = stream
                stream.attached.raw = True
            raw.watch(stream, answer)
            response.watch_close(stream, answer)
        except Exception:
            trouble("taking in a response")


def _in_request(wrapped: Any, *args: Any, **kwargs: Any) -> Any:
    stream = nesting.current()
    _find_span(stream)
    try:
        with as_current(stream):
            return wrapped(*args, **kwargs)
    except BaseException as error:
        _refused(stream, error)
        raise


async def _in_arequest(wrapped: Any, *args: Any, **kwargs: Any) -> Any:
    stream = nesting.current()
    _find_span(stream)
    try:
        with as_current(stream):
            return await wrapped(*args, **kwargs)
    except BaseException as error:
        _refused(stream, error)
        raise


def _find_span(stream: StreamObservation | None) -> None:
    try:
        if stream is not None and stream.span is None and not stream.suppressed:
            found = native.unreadable(stream)
            stream.runtime.attach_span(stream, stream.attached.call_attributes, found)
    except Exception:
        trouble("finding a span")


def _attempt(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
    stream = nesting.attempted()
    if stream is not None:
        stream.attempt()
    return wrapped(*args, **kwargs)


def _retry(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
    stream = nesting.attempted()
    if stream is not None:
        try:
            refused = kwargs.get("response") or getattr(sys.exc_info()[1], "response", None)
            stream.retry(faults.word(stream, getattr(refused, "status_code", None), sys.exc_info()[1]))
        except Exception:
            trouble("recording a retry")
    return wrapped(*args, **kwargs)


def _events(wrapped: Any, sdk_stream: Any, args: Any, kwargs: Any) -> Any:
    carrier = carrier_of(sdk_stream)
    if carrier is not None:
        return carrier.events(wrapped(*args, **kwargs))
    stream = observed(sdk_stream)
    if stream is None:
        return wrapped(*args, **kwargs)
    answer = sdk_stream.response
    raw.parsed(answer)
    source = sdk_stream._decoder.iter_bytes(answer.iter_bytes()) if _straight(wrapped) else wrapped()
    return read(source, stream, answer.close)


def _aevents(wrapped: Any, sdk_stream: Any, args: Any, kwargs: Any) -> Any:
    carrier = carrier_of(sdk_stream)
    if carrier is not None:
        return carrier.aevents(wrapped(*args, **kwargs))
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
        # What is below a helper may be read past it: that loop is the application's, and may be left.
        if stream is not None and stream.ending is None and faults.is_sdk(stream, sys._getframe(1)):
            watch_helper(stream, events)
    except Exception:
        trouble("watching a stream helper")
    return events


def _straight(wrapped: Any) -> bool:
    """Whether the SDK's `_iter_events` only runs its decoder over the body, so that we can do that in its place."""
    function = getattr(wrapped, "__func__", wrapped)
    names = set(getattr(getattr(function, "__code__", None), "co_names", ()))
    return names in ({"_decoder", "iter_bytes", "response"}, {"_decoder", "aiter_bytes", "response"}) or names == {
        "_decoder", "aiter_bytes", "response", "iter_bytes",
    }  # fmt: skip
