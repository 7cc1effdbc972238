# SPDX-License-Identifier: Apache-2.0
"""A request that is not streamed, made inside a turn: it is counted there, and its tools are the turn's. No spans."""

from __future__ import annotations

import json
from collections.abc import Mapping
from time import perf_counter as clock

from otelstream._core.process.runtime import Runtime
from otelstream._core.record.call import ToolCall, hash_of
from otelstream._core.record.cancel import Ask
from otelstream._core.record.grammar import SILENT
from otelstream._core.record.stream import MAX_TOOL_CALLS, StreamObservation
from otelstream._core.record.whole import Asked, Whole
from otelstream._core.tools.registry import declared, registry
from otelstream._core.turns import turn as turns


class Unstreamed:
    """One such request, from when it goes out."""

    __slots__ = ("_began", "_model", "_operation", "_output_tools", "_provider", "_runtime", "_turn")

    def __init__(
        self,
        runtime: Runtime,
        turn: turns.Turn,
        *,
        operation: str,
        provider: str,
        model: str,
        output_tools: frozenset[str] = frozenset(),
    ) -> None:
        self._runtime, self._turn, self._began = runtime, turn, clock()
        self._operation, self._provider, self._model = operation, provider, model
        self._output_tools = output_tools and output_tools - declared.keys() - runtime.settings.tools.keys()
        turn.count_unstreamed()

    def answered(self, whole: Whole) -> None:
        """Its answer is here: the tools that it asks for wait for their runs, as those of a stream that ended do."""
        calls = [asked for asked in whole.calls[:MAX_TOOL_CALLS] if asked.name not in self._output_tools]
        if not calls:
            return
        answer = StreamObservation(
            self._runtime,
            operation=self._operation,
            provider=self._provider,
            model=self._model,
            grammar=SILENT,
            turn=self._turn,
        )
        now, answer.started = answer.started, self._began
        answer.once.clear()  # there is no record of it to publish
        answer.last = answer.activity = answer.end_at = answer.emitted_at = now
        answer.response_at = now
        answer.finish_reason = whole.finish_reason
        answer.ending = answer.by_finish()
        answer.emitted = True
        stopped = self._turn.stopped_by(self._began)
        if stopped is not None and stopped.stopped is not None:
            answer.stop_asked = Ask(stopped.stopped.trigger, stopped.stopped.at, "between_streams", 0, 0, 0)
        for asked in calls:
            call = _call(asked)
            registry.opened(answer, call)
            call.ready, call.state = now - self._began, "ready"
            answer.keep_call(call)
        answer.shed()
        registry.awaited(answer)
        self._turn.add_whole(answer)


def _call(asked: Asked) -> ToolCall:
    call = ToolCall(asked.name, asked.id, input="valid")
    arguments = asked.arguments
    if isinstance(arguments, str):
        call.size = len(arguments)
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            call.input = "invalid"
    elif isinstance(arguments, Mapping):
        try:
            call.size = len(json.dumps(arguments, ensure_ascii=False))
        except (TypeError, ValueError, RecursionError):
            call.size = 0
    call.arguments = hash_of(arguments)
    return call
