# SPDX-License-Identifier: Apache-2.0
"""One tool call that a model asked for: what it is, when it became ready, ran and ended, and what became of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from otelstream import _semconv as s

if TYPE_CHECKING:
    from opentelemetry.trace import Span

MAX_NAME = 256  # characters of a name or id kept: both are the model's output


@dataclass(slots=True, eq=False)
class ToolCall:
    """One tool call that the model asked for. Times are seconds since the request of its stream."""

    name: str
    id: str
    ready: float | None = None
    size: int = 0  # characters of its input
    input: s.ToolInput | None = "incomplete"  # None: too large to say
    pause: float = 0.0  # silence before its first input fragment
    preamble: bool = False  # text preceded it
    effect: s.Effect = "unknown"
    state: s.ToolState | None = None  # None until it is ready
    evidence: s.Evidence | None = None  # how its dispatch was seen; None: it was not
    guessed: bool = False  # neither its id nor its arguments told it from others of its name
    decided_never: bool = field(default=False, repr=False)  # nobody waits for its dispatch any more
    dispatched_at: float | None = field(default=None, repr=False)  # on the stream's clock, as are the next ones
    finished_at: float | None = field(default=None, repr=False)
    withheld_at: float | None = field(default=None, repr=False)
    gated: bool = field(default=False, repr=False)  # its gate has it, and has neither passed nor refused it
    inferred: bool = False  # that it became ready: its protocol has no word for the end of an input
    stream: Any = field(default=None, repr=False)  # the `StreamObservation` that asked for it: imports only go down
    span: Span | None = field(default=None, repr=False)  # of the run, while it runs
    arguments: int | None = field(default=None, repr=False)  # a hash of them: content is never kept
    where: tuple[int, int] | None = field(default=None, repr=False)  # the thread and task that ran it
    released: bool = field(default=False, repr=False)
    claims: list[bool] = field(default_factory=lambda: [True], repr=False)  # pop() is one atomic test-and-set
    uncounted: list[bool] = field(default_factory=lambda: [True], repr=False)
    told: frozenset[str] = field(default=frozenset(), repr=False)  # what the tool's span says of it already
    stood: frozenset[s.SideEffect] = field(default=frozenset(), repr=False)  # where Stops found it, already counted

    def __post_init__(self) -> None:
        self.name, self.id = self.name[:MAX_NAME], self.id[:MAX_NAME]

    @property
    def dispatched(self) -> float | None:
        """When it was started."""
        return self._since_request(self.dispatched_at)

    @property
    def finished(self) -> float | None:
        """When it returned or raised."""
        return self._since_request(self.finished_at)

    @property
    def since_end(self) -> float | None:
        """Seconds from the end of its stream to its start; negative when it ran before. None until both are known."""
        end = self.stream.end_at if self.stream is not None else None
        return None if end is None or self.dispatched_at is None else self.dispatched_at - end

    @property
    def phase(self) -> s.DispatchPhase | None:
        """When it was started relative to its stream; None while that is open."""
        if self.dispatched_at is None:
            return "never" if self.decided_never else None
        stream = self.stream
        if stream is None or self.ready is None or self.dispatched_at < stream.started + self.ready:
            return "before_ready"
        if stream.end_at is None:
            return None if stream.ending is None else "mid_stream"
        return "mid_stream" if self.dispatched_at < stream.end_at else "after_end"

    def record_compensated(self) -> None:
        """The side effect of this call was undone."""
        if self.state == "compensated" or self.dispatched_at is None:
            return
        self.state = "compensated"
        if self.stream is not None:
            self.stream.compensated(self)

    def release(self) -> None:
        """Let a call run whose tool was declared with `hold="ack"`."""
        self.released = True
        if self.stream is not None:
            self.stream.wake()

    def _since_request(self, at: float | None) -> float | None:
        return None if at is None or self.stream is None else at - self.stream.started


def hash_of(arguments: Any) -> int | None:
    """A hash of a tool's arguments that is the same for the model's JSON and the call's values; None if unsure."""
    if not isinstance(arguments, Mapping):
        return None
    try:
        return hash(json.dumps(arguments, sort_keys=True, ensure_ascii=False))
    except (TypeError, ValueError, RecursionError):
        return None
