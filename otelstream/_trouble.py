# SPDX-License-Identifier: Apache-2.0
"""Swallow what goes wrong in telemetry, and say so once: the application's stream outranks it."""

from __future__ import annotations

import logging
import sys
from contextvars import copy_context

logger = logging.getLogger("otelstream")
_seen: set[tuple[str, str]] = set()


def trouble(where: str) -> None:
    """Log the exception being handled, once per place and type. Never raises.

    The exception's text stays out: it can contain what the model or the user wrote.
    """
    try:
        kind = getattr(sys.exc_info()[0], "__name__", "unknown")
        if (where, kind) in _seen:
            return
        _seen.add((where, kind))
        traceback = sys.exc_info()[2]
        while traceback is not None and traceback.tb_next is not None:
            traceback = traceback.tb_next
        at = f"{traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}" if traceback else "unknown place"
        said = "%s failed (%s at %s); the stream goes on, its telemetry may be incomplete"
        copy_context().run(logger.warning, said, where, kind, at)  # a handler may set variables, in a finaliser too
    except Exception:  # a logging handler of the application's may raise
        return
