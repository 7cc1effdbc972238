# SPDX-License-Identifier: Apache-2.0
"""A request made where instrumentation is suppressed: what is left of ours there, and that this is said, once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.trace import Span

from otelstream._core.emit.span import call_span, model_span, take
from otelstream._core.process.runtime import Runtime
from otelstream._trouble import logger, trouble

NOBODY = ""  # as the one that suppresses: an application of its own will, or a companion whose trace is not recorded
EARLIER = "an instrumentation from before otelstream"  # its span hides: the request comes past where we look for it


class Around(NamedTuple):
    """What a streamed request is made in: whether instrumentation is suppressed, and the call span of a companion."""

    suppressed: bool
    span: Span | None


def around(runtime: Runtime, *, theirs: Callable[[Span], bool] = lambda _: True, past: bool = False) -> Around | None:
    """What is around a request that begins, its call span taken for its stream; None where that has no record."""
    suppressed = not is_instrumentation_enabled()
    span = None
    if runtime.settings.spans != "off" or suppressed:
        found = model_span() if suppressed else call_span()
        span = found if found is not None and theirs(found) and take(found) else None
    return None if suppressed and not observes(runtime, span, past=past) else Around(suppressed, span)


def observes(runtime: Runtime, companion: Span | None, *, past: bool = False) -> bool:
    """Whether such a stream has a record: below the call span of a companion, for that span and our own metrics.

    `past`: the request came past our first wrapper.
    """
    name = getattr(getattr(companion, "instrumentation_scope", None), "name", None)
    who = (EARLIER if past else NOBODY) if companion is None else str(name or "an unknown scope")
    if who not in runtime.suppressed_by:
        runtime.suppressed_by.add(who)
        _say(who)
    return companion is not None


def _say(who: str) -> None:
    try:
        if who == NOBODY:
            logger.info("a streamed request was made under suppress_instrumentation(): it is not observed")
        elif who == EARLIER:
            logger.warning("%s suppresses what comes below it: its streams are not observed; switch it on later", who)
        else:
            logger.warning(
                "%s suppresses instrumentation below its spans: of those streams its span has our attributes and there "
                "are our metrics, but no spans, events and logs of ours and no gen_ai.client.* metrics",
                who,
            )
    except Exception:  # a logging handler of the application's may raise
        trouble("saying that instrumentation is suppressed")
