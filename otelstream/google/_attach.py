# SPDX-License-Identifier: Apache-2.0
"""Where we attach to this SDK: below its generators, where it sends a request and where it reads the body.

Nobody closes a stream of this SDK's but by leaving its generators, so nothing above the body is wrapped: the same
generators run, as lazily, and the request leaves with the first `next`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.util.types import AttributeValue

from otelstream._core.process import hooks, nesting
from otelstream._core.process import request as asking
from otelstream._core.process.closing import end
from otelstream._core.process.drops import Token
from otelstream._core.process.tap import aaround, around
from otelstream._core.process.whole import Unstreamed
from otelstream._core.record.stream import StreamObservation
from otelstream._core.turns import turn as turns
from otelstream._stainless.sdk import request_attributes
from otelstream._trouble import trouble
from otelstream.google import _tools
from otelstream.google._faults import Handle, before_stream, known
from otelstream.google._grammar import Grammar
from otelstream.google._whole import whole

OPERATION = "generate_content"
STREAMED, WHOLE = "streamGenerateContent", "generateContent"


class Patches(hooks.Patches):
    """The wrappers on this SDK."""

    def put_on(self, put: hooks.Put) -> None:
        """Wrap the SDK's functions. Raises AttributeError when it lacks one."""
        api = import_module("google.genai._api_client")
        client, response = api.BaseApiClient, api.HttpResponse
        put(client, "_request", self._request)
        put(client, "_async_request", self._arequest)
        put(client, "_request_once", _attempt)
        put(client, "_async_request_once", _aattempt)
        if hasattr(client, "_get_aiohttp_session"):
            put(client, "_get_aiohttp_session", _session)
        put(response, "_iter_response_stream", _chunks)
        put(response, "_aiter_response_stream", _achunks)
        _tools.attach(put)

    # --- the request --------------------------------------------------------------------------------------

    def _begin(self, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StreamObservation | None:
        """The record of this request, if it is for a streamed answer."""
        runtime = self.runtime
        if runtime is None:
            return None
        try:
            request = args[0] if args else kwargs["http_request"]
            body = request.data if isinstance(request.data, Mapping) else {}
            _tools.request(SimpleNamespace(json_data=body))
            model, method = _asked(request.url)
            if method != STREAMED or nesting.routed():
                return None
            config = body.get("generationConfig")
            config = config if isinstance(config, Mapping) else {}
            wanted = config.get("candidateCount")
            choices = wanted if isinstance(wanted, int) and 1 < wanted <= 128 else 1
            stream = asking.begin(
                runtime,
                Handle(),
                _attributes(request.url, config),
                operation=OPERATION,
                provider=_provider(client),
                model=model,
                grammar=Grammar(choices),
                choices=choices,
            )
            if stream is not None:
                stream.drop = "at_once"
            return stream
        except Exception:
            trouble("starting a stream")
            return None

    def _unstreamed(self, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Unstreamed | None:
        """A request for a whole answer, as its turn counts it; None outside of any."""
        runtime = self.runtime
        if runtime is None:
            return None
        try:
            model, method = _asked((args[0] if args else kwargs["http_request"]).url)
            counts = method == WHOLE and is_instrumentation_enabled() and not nesting.entered()
            turn = turns.around() if counts else None
            if turn is None:
                return None
            return Unstreamed(runtime, turn, operation=OPERATION, provider=_provider(client), model=model)
        except Exception:
            trouble("counting a request")
            return None

    def _request(self, wrapped: Any, client: Any, args: Any, kwargs: Any) -> Any:
        stream = self._begin(client, args, kwargs)
        asked = self._unstreamed(client, args, kwargs) if stream is None else None
        with asking.making(stream, _refused):
            response = wrapped(*args, **kwargs)
        return _returned(stream, asked, response)

    async def _arequest(self, wrapped: Any, client: Any, args: Any, kwargs: Any) -> Any:
        stream = self._begin(client, args, kwargs)
        asked = self._unstreamed(client, args, kwargs) if stream is None else None
        with asking.making(stream, _refused):
            response = await wrapped(*args, **kwargs)
        return _returned(stream, asked, response)


def _refused(stream: StreamObservation, error: BaseException) -> None:
    stream.attached.failed = None
    end(stream, before_stream(stream, error))


def _asked(url: str) -> tuple[str, str]:
    """The model and the method that a URL names."""
    path = urlsplit(url).path
    name, _, method = path.rpartition(":")
    return name.rpartition("/")[2] or "unknown", method


def _provider(client: Any) -> str:
    return "gcp.vertex_ai" if getattr(client, "vertexai", False) else "gcp.gemini"


def _attributes(url: str, config: Mapping[str, Any]) -> dict[str, AttributeValue]:
    address = urlsplit(url)
    base = SimpleNamespace(host=address.hostname, port=address.port, scheme=address.scheme)
    named = {"max_tokens": "maxOutputTokens", "temperature": "temperature", "top_p": "topP", "top_k": "topK"}
    wishes = {name: config.get(theirs) for name, theirs in named.items()}
    return request_attributes(SimpleNamespace(base_url=base), wishes)


# --- attempts: the loop around them is tenacity's, which tells nobody ------------------------------------------


@contextmanager
def _attempting() -> Iterator[None]:
    stream = nesting.current()
    if stream is None:
        yield
        return
    handle: Handle = stream.attached
    _attempted(stream, handle.failed)
    handle.sending = False
    try:
        yield
    except Exception as error:
        handle.failed = error
        raise


def _attempted(stream: StreamObservation, before: BaseException | None) -> None:
    """An attempt begins, after one that failed with `before`."""
    try:
        if before is not None:
            verdict = known(before)
            stream.retry((verdict and verdict.error_type) or "connection_error")
        stream.attempt()
    except Exception:
        trouble("recording an attempt")


def _attempt(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
    with _attempting():
        return wrapped(*args, **kwargs)


async def _aattempt(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
    with _attempting():
        return await wrapped(*args, **kwargs)


def _session(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
    """Within one attempt the SDK asks for its session again where it sends once more what aiohttp could not."""
    stream = nesting.current()
    if stream is not None:
        if stream.attached.sending:
            _attempted(stream, sys.exc_info()[1])
        stream.attached.sending = True
    return wrapped(*args, **kwargs)


# --- the response -----------------------------------------------------------------------------------------


def _returned(stream: StreamObservation | None, asked: Unstreamed | None, response: Any) -> Any:
    try:
        if stream is not None:
            stream.attached.failed = None
            asking.responded(stream, response.headers.get("x-goog-request-id"))
            response.__dict__["_otelstream"] = Token(stream)
        said = None if asked is None else whole(response.response_stream)
        if asked is not None and said is not None:
            asked.answered(said)
    except Exception:
        trouble("taking in a response")
    return response


def observed(response: Any) -> StreamObservation | None:
    """The record of a response."""
    try:
        token = getattr(response, "__dict__", {}).get("_otelstream")
    except Exception:  # a proxy that stands for nothing raises what it likes
        return None
    return token.stream if isinstance(token, Token) else None


def _chunks(wrapped: Any, response: Any, args: Any, kwargs: Any) -> Any:
    stream, chunks = observed(response), wrapped(*args, **kwargs)
    return chunks if stream is None or stream.ending is not None else around(chunks, stream)


def _achunks(wrapped: Any, response: Any, args: Any, kwargs: Any) -> Any:
    stream, chunks = observed(response), wrapped(*args, **kwargs)
    return chunks if stream is None or stream.ending is not None else aaround(chunks, stream)
