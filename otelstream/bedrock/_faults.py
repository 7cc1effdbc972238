# SPDX-License-Identifier: Apache-2.0
"""Which fault an exception of botocore, aiobotocore or their transports stands for, and whose exception it is."""

from __future__ import annotations

from typing import Any

from otelstream._core.record.ending import Ending, by_departure, failed, is_task_cancel, is_timeout
from otelstream._core.record.stream import StreamObservation
from otelstream._stainless import faults

# The 4xx that Bedrock answers under load, to a conflict, or where the model failed; any other is the request's fault.
_PROVIDER_STATUSES = faults.PROVIDER_STATUSES | {424}
_TIMEOUTS = frozenset({"ReadTimeoutError", "ConnectTimeoutError", "ServerTimeoutError", "TimeoutException"})
# urllib3's, botocore's (whose name another library's client has too), aiohttp's, httpx's
_LOST = frozenset({"HTTPError", "HTTPClientError", "ConnectionError", "ClientError", "TransportError"})
_GARBLED = frozenset({"ParserError", "ResponseParserError"})
_LIBRARIES = frozenset(
    {"botocore", "aiobotocore", "urllib3", "aiohttp", "httpx", "httpcore", "http", "ssl", "socket", "zlib", "asyncio"}
)


def before_stream(stream: StreamObservation, error: BaseException) -> Ending:
    """The verdict on a request that raised instead of returning a stream."""
    return faults.before_stream(stream, error, _known)


def while_reading(error: BaseException) -> Ending:
    """The verdict when `error` came up out of the body or its decoder, or down from who reads."""
    if is_task_cancel(error) or not isinstance(error, Exception):
        return by_departure(error)
    known = _known(error)
    if known is not None:
        return known
    if is_timeout(error):  # an alarm handler of the application's, raised inside our wait
        return by_departure(error)
    if isinstance(error, OSError):
        return failed("connection_lost", "connection_error")
    return failed("protocol_error") if faults.raised_in(error) in _LIBRARIES else by_departure(error)


def word(error: Exception | None, status: int, parsed: Any) -> str:
    """What an attempt failed with that another follows, as failures say it."""
    if error is None:
        return _code(parsed) or str(status)
    known = _known(error)
    return (known and known.error_type) or "connection_error"


def _known(error: Exception) -> Ending | None:
    """The verdict that the exception's class alone gives, by the classes' names: none of their modules is imported."""
    words = {kind.__name__ for kind in type(error).__mro__}
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):  # botocore's ClientError: an answer that is no stream, or an exception in one
        return refusal(answer)
    if words & _TIMEOUTS:
        return failed("timeout", "client_timeout_error")
    if words & _LOST:
        return failed("connection_lost", "connection_error")
    return failed("protocol_error") if words & _GARBLED else None


def refusal(answer: dict[str, Any]) -> Ending:
    """The verdict on an answer that says what is wrong."""
    metadata = answer.get("ResponseMetadata")
    status = metadata.get("HTTPStatusCode") if isinstance(metadata, dict) else None
    kind = _code(answer) or str(status or "api_error")
    return faults.answered(status if isinstance(status, int) else 0, kind, _PROVIDER_STATUSES)


def _code(parsed: Any) -> str | None:
    error = parsed.get("Error") if isinstance(parsed, dict) else None
    code = error.get("Code") if isinstance(error, dict) else None
    return code if isinstance(code, str) and code else None
