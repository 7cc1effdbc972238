# SPDX-License-Identifier: Apache-2.0
"""Where we attach to the router: around its calls, and where its wrapper of a stream gives the next chunk."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from importlib import import_module
from sys import modules
from types import SimpleNamespace
from typing import Any

from otelstream._core.process import hooks, nesting, tap
from otelstream._core.process import request as asking
from otelstream._core.process.closing import decide, end, publish
from otelstream._core.record.ending import CUT_SHORT, Ending, cancelled, failed, identity
from otelstream._core.record.stream import StreamObservation, clock
from otelstream._stainless import closes, faults
from otelstream._stainless.provider import Provider
from otelstream._stainless.sdk import Handle, Token, request_attributes
from otelstream._trouble import trouble
from otelstream.litellm._grammar import Grammar, told
from otelstream.openai import _tools
from otelstream.openai.provider import choices, forced

# The conventions' names of providers, where the router has others.
_NAMES = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "azure_text": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "bedrock_converse": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "text-completion-openai": "openai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
_TIMEOUTS = frozenset({"APITimeoutError", "TimeoutException"})
_EARLY = "before a finish_reason was received"  # how it says that a body ended too soon


class Patches(hooks.Patches):
    """The wrappers on the router."""

    def __init__(self, sdk: Provider) -> None:
        super().__init__()
        self.sdk = sdk

    def put_on(self, put: hooks.Put) -> None:
        """Wrap the router's functions. Raises AttributeError when it lacks one."""
        package, main = import_module("litellm"), import_module("litellm.main")
        wrapper = import_module("litellm.litellm_core_utils.streaming_handler").CustomStreamWrapper
        for module in (package, main):
            for name, operation in (("completion", "chat"), ("text_completion", "text_completion")):
                put(module, name, self._calling(operation))
                put(module, f"a{name}", self._acalling(operation))
        put(wrapper, "__next__", _next)
        put(wrapper, "__anext__", _anext)
        for name, closing in (("close", closes.close), ("aclose", closes.aclose)):
            if hasattr(wrapper, name):  # before it had one, nobody could close a stream but by its provider's
                put(wrapper, name, _closing(closing))

    # --- the call -----------------------------------------------------------------------------------------

    def _begin(self, operation: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StreamObservation | None:
        """The record of this call, if it is for a streamed answer."""
        runtime = self.runtime
        if runtime is None:
            return None
        try:
            body = dict(zip(("model", "messages"), args, strict=False)) | kwargs
            _tools.request(SimpleNamespace(json_data=body))
            if not body.get("stream") or nesting.routed():
                return None
            model, provider = _asked(body)
            attributes = request_attributes(None, body)
            stream = asking.begin(
                runtime,
                Routed(self.sdk, attributes),
                attributes,
                operation=operation,
                provider=provider,
                model=model,
                grammar=Grammar(),
                choices=choices(body),
                output_tools=forced(body.get("tool_choice")),
            )
            if stream is not None:
                stream.rechunked = True
            return stream
        except Exception:
            trouble("starting a stream")
            return None

    def _calling(self, operation: str) -> Callable[..., Any]:
        def call(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
            stream = self._begin(operation, args, kwargs)
            if stream is None:
                return wrapped(*args, **kwargs)
            with asking.making(stream, _refused, router=True):
                result = wrapped(*args, **kwargs)
            return _returned(stream, result)

        return call

    def _acalling(self, operation: str) -> Callable[..., Any]:
        def acall(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
            if not kwargs.get("stream"):
                self._begin(operation, args, kwargs)  # hears of the results of tools
                return wrapped(*args, **kwargs)
            return self._acall(operation, wrapped, args, kwargs)

        return acall

    async def _acall(self, operation: str, wrapped: Any, args: Any, kwargs: Any) -> Any:
        stream = self._begin(operation, args, kwargs)
        if stream is None:
            return await wrapped(*args, **kwargs)
        with asking.making(stream, _refused, router=True):
            result = await wrapped(*args, **kwargs)
        return _returned(stream, result)


def _asked(body: Mapping[str, Any]) -> tuple[str, str]:
    """The model and the provider that a call names, as the conventions do."""
    model = str(body.get("model") or "unknown")
    try:
        asked = model, body.get("custom_llm_provider"), body.get("api_base") or body.get("base_url")
        model, name, *_ = modules["litellm"].get_llm_provider(*asked)
    except Exception:  # the router is about to say so itself
        name = model.partition("/")[0] if "/" in model else "unknown"
    return model, _NAMES.get(name, name)


def _refused(stream: StreamObservation, error: BaseException) -> None:
    end(stream, faults.before_stream(stream, _cause(error)))


def _returned(stream: StreamObservation, result: Any) -> Any:
    try:
        if "completion_stream" not in getattr(result, "__dict__", ()):
            stream.runtime.discard(stream)  # an answer that did not stream after all
            return result
        if not stream.attempts:  # no SDK below that says so
            stream.attempt()
        asking.responded(stream, None)
        result.__dict__["_otelstream"] = reading = Reading(stream)
        below = result.completion_stream
        if hasattr(below, "_iter_events"):  # an SDK's stream, which the application may close in the router's place
            below.__dict__["_otelstream"] = Below(reading)
    except Exception:
        trouble("taking in a response")
    return result


def _cause(error: BaseException) -> BaseException:
    """What the router wraps where another provider may go on."""
    cause = getattr(error, "original_exception", None)
    return cause if isinstance(cause, Exception) else error


def _chain(error: BaseException | None, before: object) -> Iterator[BaseException]:
    """An exception, what it wraps, and what was in flight as they were raised, up to what was there `before`."""
    for _ in range(8):
        if error is None or identity(error) == before:
            return
        yield error
        error = getattr(error, "original_exception", None) or error.__cause__ or error.__context__


class Routed(Handle):
    """What the router's wrapper keeps of one stream."""

    __slots__ = ()

    def whose(self, stream: StreamObservation, error: BaseException) -> Ending:
        """The verdict when `error` came up out of the wrapper."""
        cause = _cause(error)
        if _EARLY in str(cause):
            return CUT_SHORT
        chain = [*_chain(error, stream.opened_under)]
        if any(_TIMEOUTS & {kind.__name__ for kind in type(each).__mro__} for each in chain):
            return failed("timeout", "client_timeout_error")
        late = next((each for each in chain if type(each).__name__ == "APIError"), None)
        if late is not None:  # what a provider says late, of which the router makes a lost connection
            return failed("provider_error", faults.error_word(getattr(late, "body", None)) or "api_error")
        return faults.while_reading(stream, cause)


# --- the chunks -------------------------------------------------------------------------------------------


class Reading(Token):
    """Held by the router's wrapper of a stream: takes in each chunk that it gives."""

    __slots__ = ("_grammar", "_last", "inside", "steps")

    def __init__(self, stream: StreamObservation) -> None:
        super().__init__(stream)
        self._grammar: Any = stream.grammar
        self.steps = tap.Steps(stream)
        self._last = 0.0
        self.inside = False  # the router is at work on the next chunk

    def asks(self, *, loop: bool) -> float:
        """The application asks for the next chunk; returns when."""
        stream = self.stream
        if not self._last:
            self.steps.begin(loop=loop)
            self._last = clock()
        self.inside = True
        stream.waiting_since = ask = clock()
        return ask

    def got(self, chunk: Any, ask: float, wrapper: Any) -> None:
        """It is here."""
        stream = self.stream
        self.inside = False
        stream.last = got = clock()
        try:
            if ask - self._last > stream.runtime.settings.stall_threshold:
                tap.kept_parked(stream, self._last, ask)
            name, data = told(self._grammar, chunk, wrapper)
            self.steps.took(name, data, got, ask - stream.carry)
        except Exception:
            stream.unseen = True
            trouble("reading a chunk")
        self._last = got


def _closing(close: Callable[..., Any]) -> Callable[..., Any]:
    def closed(wrapped: Any, wrapper: Any, args: Any, kwargs: Any) -> Any:
        reading = wrapper.__dict__.get("_otelstream")
        if reading is None or reading.inside:  # the router tidies up before it raises
            return wrapped(*args, **kwargs)
        return close(wrapped, wrapper, args, kwargs)

    return closed


class Below:
    """Held by the stream that the router reads: that is the application's to close, and ours to see between chunks."""

    __slots__ = ("_reading",)

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    @property
    def stream(self) -> StreamObservation | None:
        """The record, unless the router is at work."""
        return None if self._reading.inside else self._reading.stream


def _closer(wrapper: Any, name: str) -> Callable[[], Any] | None:
    """What closes a wrapper: older ones leave that to the stream that they read, which may have no close."""
    return getattr(wrapper, name, None) or getattr(wrapper.completion_stream, name, None)


def _open(wrapper: Any) -> Reading | None:
    reading = wrapper.__dict__.get("_otelstream")
    return reading if reading is not None and reading.stream.ending is None else None


def _next(wrapped: Callable[[], Any], wrapper: Any, args: Any, kwargs: Any) -> Any:
    reading = _open(wrapper)
    if reading is None:
        return wrapped()
    stream = reading.stream
    if reading.steps.stop and (close := _closer(wrapper, "close")) is not None:
        decide(stream, cancelled("app_close"))
        try:
            close()
        finally:
            publish(stream)
        raise StopIteration
    ask = reading.asks(loop=False)
    try:
        chunk = wrapped()
    except StopIteration:
        reading.inside = False
        tap.exhausted(stream)
        raise
    except BaseException as error:
        reading.inside = False
        tap.broken(stream, error)
        raise
    reading.got(chunk, ask, wrapper)
    return chunk


def _anext(wrapped: Callable[[], Awaitable[Any]], wrapper: Any, args: Any, kwargs: Any) -> Any:
    reading = _open(wrapper)
    return wrapped() if reading is None else _next_of(wrapped, wrapper, reading)


async def _next_of(wrapped: Callable[[], Awaitable[Any]], wrapper: Any, reading: Reading) -> Any:
    stream = reading.stream
    if reading.steps.stop and (close := _closer(wrapper, "aclose")) is not None:
        decide(stream, cancelled("app_close"))
        try:
            await close()
        finally:
            publish(stream)
        raise StopAsyncIteration
    ask = reading.asks(loop=True)
    try:
        chunk = await wrapped()
    except StopAsyncIteration:
        reading.inside = False
        tap.exhausted(stream)
        raise
    except BaseException as error:
        reading.inside = False
        tap.broken(stream, error)
        raise
    reading.got(chunk, ask, wrapper)
    return chunk
