# SPDX-License-Identifier: Apache-2.0
"""The span that an SDK makes of itself: our summary lands on it just before the SDK ends it.

The SDK reports the end of a body to an observer that hangs on the response, and closes the span there, before our
generator sees exhaustion, an error or a drop. So the observer's `end` is where an undecided stream is decided.
"""

from __future__ import annotations

import sys
import weakref
from typing import Any

from opentelemetry.trace import Span

from otelstream import _semconv as s
from otelstream._core.emit import outbox
from otelstream._core.emit.span import take, unreadable_span
from otelstream._core.process.closing import end as end_stream
from otelstream._core.process.drops import dropped
from otelstream._core.record.ending import CUT_SHORT, Ending, is_task_cancel
from otelstream._core.record.stream import StreamObservation, clock
from otelstream._stainless.faults import leaving, while_reading
from otelstream._trouble import trouble


def is_native(span: Any, scope: str | None) -> bool:
    """Whether the SDK whose scope that is made `span`; a client for a platform has a scope below that."""
    name = _scope(span)
    return scope is not None and name is not None and (name == scope or name.startswith(f"{scope}."))


def _scope(span: Any) -> str | None:
    name = getattr(getattr(span, "instrumentation_scope", None), "name", None)
    return name if isinstance(name, str) else None


def _is_adopted(stream: StreamObservation) -> bool:
    """Whether the record goes on the span that the SDK makes of itself."""
    if stream.span is None or stream.own_span or stream.foreign:
        return False
    return _scope(stream.span) is None or is_native(stream.span, stream.attached.sdk.native_scope)


def unreadable(stream: StreamObservation) -> Span | None:
    """The call span of the SDK's that is current, taken, where it cannot be read: nobody else makes one in between."""
    span = unreadable_span()
    if span is None or stream.attached.around == span.get_span_context().span_id:
        return None
    return span if stream.attached.sdk.native_scope is not None and take(span) else None


def observe_end(stream: StreamObservation, response: Any) -> None:
    """Be called when the SDK's observer of `response` learns how its body ended. Does nothing without one."""
    observer = getattr(getattr(response, "stream", None), "stream_observer", None)
    original = getattr(observer, "end", None)
    if observer is None or original is None:
        return
    if stream.span is None or not _is_adopted(stream):  # the SDK's is left alone
        _end_apart(observer)
        return
    if not stream.span.is_recording():  # a hook has read the whole body, and with it ended the span
        return

    def end(how: str, error: BaseException | None = None) -> None:
        if stream.ending is None and how == "closed":
            caller = sys._getframe(1).f_code.co_name
            left = isinstance(sys.exc_info()[1], GeneratorExit)
            if left and (stream.attached.raw or stream.attached.past):
                stream.attached.left_at = clock()
                return  # what becomes of the raw response is still to come, and brings us here again
            if left or caller == "__del__":
                dropped(stream, then=lambda: observer.end(how))
                return
        # Strongly held, as the collector clears weak references before it finalises; taken off here, so no cycle stays.
        vars(observer).pop("end", None)
        try:
            how, error = _decide(stream, how, error)
            _write(stream)
        except Exception:
            trouble("deciding with the SDK's observer")
        except BaseException:  # Ctrl-C: what was about to be written, and the SDK's end, come first
            _write(stream)
            raise
        finally:
            _finish(observer, how, error)

    observer.end = end
    stream.native = True
    # The observer holds the stream helper: the list of open streams must not keep that alive.
    weak = weakref.ref(observer)

    def end_at_exit() -> None:
        alive = weak()
        if alive is not None:
            alive.end("closed")

    stream.native_end = end_at_exit


def _end_apart(observer: Any) -> None:
    def end(how: str, error: BaseException | None = None) -> None:
        vars(observer).pop("end", None)
        _finish(observer, how, error)

    observer.end = end


def _finish(observer: Any, how: str, error: BaseException | None) -> None:
    """Let the SDK end its span: processors set context variables, and what closes may be a finaliser, anywhere."""
    if how == "closed":
        outbox.apart(lambda: observer.end(how, error))
    else:
        observer.end(how, error)


def _write(stream: StreamObservation) -> None:
    if stream.native_end is not None:  # decided, and published only when all is closed: too late for this span
        stream.runtime.write_span(stream)


def _decide(stream: StreamObservation, how: str, error: BaseException | None) -> tuple[str, BaseException | None]:
    """Decide an undecided stream, and say how the SDK may end its span: as it means to.

    But for a body that it calls read and that we know broken: OK would replace the ERROR that it got from us.
    """
    by_protocol = stream.ending is not None
    if stream.ending is None:
        end_stream(stream, _ending(stream, how, error))
    whole = stream.outcome in ("completed", "truncated", "refused")
    if how == "read" and not whole:
        return "closed", None
    if how == "failed" and whole and by_protocol and stream.span is not None:
        stream.span.set_attribute(s.BROKEN_AFTER_END, True)
    return how, error


def _ending(stream: StreamObservation, how: str, error: BaseException | None) -> Ending:
    if how == "failed" and error is not None:
        return while_reading(stream, error)
    if how == "read" and stream.unseen:
        return Ending("completed")
    if how == "read":
        return stream.grammar.complete_at_eof(stream.finish_reason) or CUT_SHORT
    flying = sys.exc_info()[1]
    if flying is not None and (is_task_cancel(flying) or not isinstance(flying, Exception)):
        return while_reading(stream, flying)
    return leaving(stream, flying)
