# SPDX-License-Identifier: Apache-2.0
"""Where we attach to botocore and aiobotocore. Any other operation of AWS passes with one look at its name."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from importlib import import_module
from typing import Any

from opentelemetry.instrumentation.utils import is_instrumentation_enabled

from otelstream._core.process import hooks, nesting
from otelstream._core.process.closing import end
from otelstream._core.process.request import as_current
from otelstream._core.process.whole import Unstreamed
from otelstream._core.record.stream import StreamObservation
from otelstream._core.turns import turn as turns
from otelstream._trouble import trouble
from otelstream.bedrock import _converse, _events, _faults
from otelstream.bedrock._events import Handle
from otelstream.bedrock._request import STREAMED, Asked, forced, ran

SERVICE = "bedrock-runtime"
_OURS = frozenset({*STREAMED, "Converse", "InvokeModel"})


class Patches(hooks.Patches):
    """The wrappers on one of both: `package` has the modules `client`, `endpoint` and `eventstream`."""

    def __init__(self, package: str, prefix: str) -> None:
        super().__init__()
        self._package, self._prefix = package, prefix

    def put_on(self, put: hooks.Put) -> None:
        """Wrap the SDK's functions. Raises AttributeError when it lacks one."""
        client, endpoint, streams = (
            getattr(import_module(f"{self._package}.{module}"), self._prefix + name)
            for module, name in (("client", "BaseClient"), ("endpoint", "Endpoint"), ("eventstream", "EventStream"))
        )
        if "__slots__" in vars(import_module("botocore.eventstream").EventStreamMessage):
            raise AttributeError("EventStreamMessage has room for nothing of ours")
        asynchronous = bool(self._prefix)
        put(client, "_make_api_call", self._acall if asynchronous else self._call)
        put(client, "_make_request", _amade if asynchronous else _made)
        put(endpoint, "_get_response", _aattempt if asynchronous else _attempt)
        put(streams, "_create_raw_event_generator", _events.aevents if asynchronous else _events.events)
        put(streams, "close", _events.close)

    def _asked(self, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Asked | Unstreamed | None:
        """The request, if it asks a model. Never raises."""
        runtime = self.runtime
        try:
            operation = args[0] if args else kwargs.get("operation_name")
            params = args[1] if len(args) > 1 else kwargs.get("api_params")
            if runtime is None or not isinstance(params, Mapping) or client.meta.service_model.service_name != SERVICE:
                return None
            ran(params)
            if nesting.routed():
                return None
            if operation in STREAMED:
                return Asked(runtime, client, str(operation), params)
            turn = turns.around()
            if turn is None or not is_instrumentation_enabled():
                return None
            model = str(params.get("modelId") or "unknown")
            return Unstreamed(
                runtime, turn, operation="chat", provider="aws.bedrock", model=model, output_tools=forced(params)
            )
        except Exception:
            trouble("looking at a request")
            return None

    def _call(self, wrapped: Any, client: Any, args: Any, kwargs: Any) -> Any:
        if (args[0] if args else kwargs.get("operation_name")) not in _OURS:
            return wrapped(*args, **kwargs)
        asked = self._asked(client, args, kwargs)
        if not isinstance(asked, Asked):
            return _answered(asked, wrapped(*args, **kwargs))
        mark = nesting.put_off(asked.begin)
        try:
            result = wrapped(*args, **kwargs)
        except BaseException as error:
            asked.refused(error)
            raise
        finally:
            nesting.leave(mark)
        return asked.returned(result)

    def _acall(self, wrapped: Any, client: Any, args: Any, kwargs: Any) -> Any:
        if (args[0] if args else kwargs.get("operation_name")) not in _OURS:
            return wrapped(*args, **kwargs)
        return self._acalled(wrapped, client, args, kwargs)

    async def _acalled(self, wrapped: Any, client: Any, args: Any, kwargs: Any) -> Any:
        asked = self._asked(client, args, kwargs)
        if not isinstance(asked, Asked):
            return _answered(asked, await wrapped(*args, **kwargs))
        mark = nesting.put_off(asked.begin)
        try:
            result = await wrapped(*args, **kwargs)
        except BaseException as error:
            asked.refused(error)
            raise
        finally:
            nesting.leave(mark)
        return asked.returned(result)


# --- all attempts, below any companion around the call -------------------------------------------------------


def _is_streamed(args: tuple[Any, ...], kwargs: dict[str, Any], at: int) -> bool:
    return getattr(args[at] if len(args) > at else kwargs.get("operation_model"), "name", None) in STREAMED


def _made(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
    if not _is_streamed(args, kwargs, 0):
        return wrapped(*args, **kwargs)
    try:
        return _settled(wrapped(*args, **kwargs))
    except BaseException as error:
        _ended(error)
        raise


def _amade(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
    made = wrapped(*args, **kwargs)
    return _awaited_made(made) if _is_streamed(args, kwargs, 0) else made


async def _awaited_made(made: Awaitable[Any]) -> Any:
    try:
        return _settled(await made)
    except BaseException as error:
        _ended(error)
        raise


def _settled(result: Any) -> Any:
    """No other attempt follows: a refusal is the end, while the span of who is around the call still records."""
    try:
        if result[0].status_code >= 300:
            _ended(result[1])
    except Exception:
        trouble("ending a refused request")
    return result


def _ended(why: Any) -> None:
    """The request failed, by an exception or by an answer."""
    try:
        stream = nesting.current()
        if stream is not None and isinstance(stream.attached, Handle):
            raised = isinstance(why, BaseException)
            end(stream, _faults.before_stream(stream, why) if raised else _faults.refusal(why))
    except Exception:
        trouble("ending a refused request")


# --- one attempt ------------------------------------------------------------------------------------------


def _attempted(args: tuple[Any, ...], kwargs: dict[str, Any]) -> StreamObservation | None:
    """The stream whose request is about to be sent, begun with the first of them. Never raises."""
    try:
        if not _is_streamed(args, kwargs, 1):
            return None  # perhaps one for credentials, made inside the other
        stream = nesting.attempted()
        if stream is None or stream.ending is not None or not isinstance(stream.attached, Handle):
            return None
        if stream.attached.refused:
            stream.retry(stream.attached.refused)
        stream.attempt()
        return stream
    except Exception:
        trouble("recording an attempt")
        return None


def _outcome(stream: StreamObservation, result: Any) -> Any:
    try:
        answer, error = result
        status = answer[0].status_code if answer is not None else 0
        if error is not None or status >= 300:
            stream.attached.refused = _faults.word(error, status, answer and answer[1])
    except Exception:
        trouble("recording an attempt")
    return result


def _attempt(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
    stream = _attempted(args, kwargs)
    if stream is None:
        return wrapped(*args, **kwargs)
    with as_current(stream):
        return _outcome(stream, wrapped(*args, **kwargs))


def _aattempt(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
    stream = _attempted(args, kwargs)
    return wrapped(*args, **kwargs) if stream is None else _awaited(stream, wrapped(*args, **kwargs))


async def _awaited(stream: StreamObservation, response: Awaitable[Any]) -> Any:
    with as_current(stream):
        return _outcome(stream, await response)


def _answered(asked: Unstreamed | Asked | None, result: Any) -> Any:
    """Take in an answer that was not streamed; of `invoke_model` nobody but the application reads it."""
    try:
        if isinstance(asked, Unstreamed) and isinstance(result, Mapping) and "output" in result:
            asked.answered(_converse.whole(result))
    except Exception:
        trouble("reading an answer that was not streamed")
    return result
