# SPDX-License-Identifier: Apache-2.0
"""A streamed request as any adapter sees it made: its record begins, its span is current, what refuses it ends it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from opentelemetry.trace import Span
from opentelemetry.util.types import AttributeValue

from otelstream._core.process import nesting, suppression
from otelstream._core.process.runtime import Runtime
from otelstream._core.process.tap import Attached
from otelstream._core.record.stream import StreamObservation
from otelstream._core.turns.variable import current
from otelstream._trouble import trouble


def begin(
    runtime: Runtime,
    attached: Attached,
    attributes: Mapping[str, AttributeValue],
    *,
    asked_at: float | None = None,
    late_span: Callable[[], Span | None] = lambda: None,
    **asked: Any,
) -> StreamObservation | None:
    """The record of a request, with its span; None where it has none. `asked` is what `Runtime.begin` takes.

    `asked_at`: when it began, if before now. `late_span`: a call span that only the adapter can tell for one.
    """
    beside = suppression.around(runtime)
    if beside is None:
        return None
    stream = runtime.begin(**asked)
    if asked_at is not None:
        earlier = stream.started - asked_at
        stream.started, stream.started_ns = asked_at, stream.started_ns - int(earlier * 1e9)
    stream.attached = attached
    stream.suppressed, stream.foreign = beside.suppressed, beside.span is not None
    runtime.attach_span(stream, attributes, beside.span or late_span())
    return stream


def as_current(stream: StreamObservation | None) -> AbstractContextManager[None]:
    """Our own span is current while a request of it is made."""
    if stream is not None and stream.own_span and stream.span is not None:
        return current(stream.span)
    return nullcontext()


@contextmanager
def making(
    stream: StreamObservation | None,
    refused: Callable[[StreamObservation, BaseException], None],
    *,
    router: bool = False,
) -> Iterator[None]:
    """The request of `stream`, or one that is not observed, is being made: that is no attempt of another's around it.

    `refused` ends the stream, when the request raises.
    """
    mark = nesting.enter(stream, router=router)
    try:
        with as_current(stream):
            yield
    except BaseException as error:
        try:
            if stream is not None:
                refused(stream, error)
        except Exception:
            trouble("ending a refused request")
        raise
    finally:
        nesting.leave(mark)


def responded(stream: StreamObservation, request_id: str | None) -> None:
    """The response is here."""
    stream.responded(request_id)
    if stream.suppressed:
        stream.runtime.write_early(stream)
