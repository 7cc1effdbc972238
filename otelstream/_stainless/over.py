# SPDX-License-Identifier: Apache-2.0
"""Beside a companion that put a `request` of its own on a client before us: it calls the one that it found, past ours.

Our wrapper goes over it, from where its call span and its suppression are not to be seen yet. So the record begins
where the request is built, and is told of the response or the refusal where those are made: all of that is below the
companion, while its span is open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from typing import Any

from otelstream._core.process import nesting
from otelstream._core.record.stream import StreamObservation
from otelstream._stainless.sdk import Sdk

Begin = Callable[[Any, tuple[Any, ...], dict[str, Any]], StreamObservation | None]


class Over:
    """The wrappers over somebody else's `request`, and those below it that tell what becomes of it."""

    def __init__(
        self,
        begin: Begin,
        returned: Callable[[StreamObservation | None, Any], None],
        refused: Callable[[StreamObservation | None, BaseException], None],
    ) -> None:
        self._begin, self._returned, self._refused = begin, returned, refused

    def put_on(self, put: Callable[..., None], sdk: Sdk, base: Any) -> None:
        """Put them where somebody was first; nothing where nobody was."""
        found = [*_overridden(sdk, base)]
        for client in found:
            put(client, "request", self._request if issubclass(client, base.SyncAPIClient) else self._arequest)
        if found:
            put(base.SyncAPIClient, "_process_response", self._processed)
            put(base.AsyncAPIClient, "_process_response", self._aprocessed)
            put(base.BaseClient, "_make_status_error_from_response", self._status_error)

    def _request(self, wrapped: Any, client: Any, args: Any, kwargs: Any) -> Any:
        begun: list[StreamObservation | None] = []
        mark = nesting.put_off(partial(self._begun, begun, client, args, kwargs))
        try:
            return wrapped(*args, **kwargs)
        except BaseException as error:
            self._refused(begun[0] if begun else None, error)
            raise
        finally:
            nesting.leave(mark)

    async def _arequest(self, wrapped: Any, client: Any, args: Any, kwargs: Any) -> Any:
        begun: list[StreamObservation | None] = []
        mark = nesting.put_off(partial(self._begun, begun, client, args, kwargs))
        try:
            return await wrapped(*args, **kwargs)
        except BaseException as error:
            self._refused(begun[0] if begun else None, error)
            raise
        finally:
            nesting.leave(mark)

    def _begun(
        self, begun: list[StreamObservation | None], client: Any, args: Any, kwargs: Any
    ) -> StreamObservation | None:
        if not begun:
            begun.append(self._begin(client, args, kwargs))
        return begun[0]

    def _processed(self, wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        result = wrapped(*args, **kwargs)
        self._returned(nesting.late(), result)
        return result

    async def _aprocessed(self, wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        result = await wrapped(*args, **kwargs)
        self._returned(nesting.late(), result)
        return result

    def _status_error(self, wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        error = wrapped(*args, **kwargs)
        self._refused(nesting.late(), error)  # the SDK raises it at once
        return error


def _overridden(sdk: Sdk, base: Any) -> Iterator[type]:
    """The clients on which somebody put a `request`. Where the SDK has a `_request`, that is reached all the same."""
    module = import_module(sdk.package)
    for name in sdk.clients:
        client = getattr(module, name, object)
        ours = issubclass(client, (base.SyncAPIClient, base.AsyncAPIClient))
        if ours and "request" in vars(client) and not hasattr(client, "_request"):
            yield client
