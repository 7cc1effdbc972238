# SPDX-License-Identifier: Apache-2.0
"""The columns of the table: how a cell reads, and which ways of reading see something else, and why."""

from __future__ import annotations

from dataclasses import dataclass

from .api import Api, Unlike
from .apis import APIS, RAW, RUNNER, THREAD

WHOLE = frozenset({
    "get_final_message()", "get_final_text()", "get_final_completion()", "get_final_response()", "until_done()",
})  # fmt: skip
HELPERS = frozenset({"stream() by events", "text_stream", RUNNER, THREAD, *WHOLE})  # the SDK accumulates the message


@dataclass(frozen=True)
class Shape:
    """How a cell reads: one column of the matrix."""

    asynchronous: bool
    api: str
    reading: str
    native: bool  # the SDK makes a span of its own
    sdk: tuple[int, ...]  # its version

    def __str__(self) -> str:
        colour = "async" if self.asynchronous else "sync"
        return f"{colour} {self.api} {self.reading}{'' if self.native else ', no native span'}"

    @property
    def of(self) -> Api:
        """The API that it reads."""
        return APIS[self.api]

    @property
    def helped(self) -> bool:
        """Whether a helper of the SDK's accumulates the answer."""
        return self.reading in HELPERS

    @property
    def lenient(self) -> bool:
        """Whether nothing parses the events but otelstream."""
        return self.reading in RAW


NO_LOOP = Unlike(lambda s: s.reading in WHOLE, "the call returns at the end only: the application has no loop to leave")
NO_WITH = Unlike(lambda s: s.reading == RUNNER, "the runner is no context manager")
ONLY_HELPERS = Unlike(lambda s: s.reading not in HELPERS, "`create()` takes no `output_format`")
ONLY_ASYNC = Unlike(lambda s: not s.asynchronous, "a synchronous read cannot be cancelled from outside")
NO_FINISH = Unlike(lambda s: s.reading == "text_stream", "text_stream hands out text only, never a finish reason")
# Of the APIs: what only one of them can say.
ONLY_CHAT = Unlike(lambda s: s.api != "chat.completions", "only chat completions have it")
ONLY_CHOICES = Unlike(
    lambda s: s.api != "chat.completions" and s.of.package != "google-genai", "it gives one answer at a time"
)
REASON_LAST = Unlike(lambda s: s.api == "responses", "the finish reason comes with the terminal event")
RUNNER_BREAKS = Unlike(lambda s: s.reading == RUNNER, "the runner is no context manager", {"do": "break_outside"})
READS_ON = Unlike(
    lambda s: s.lenient,
    "nothing parses the event, so the application reads on to the end",
    {
        "by": "server", "outcome": "completed", "error_type": None, "seen": None, "phase": None, "finish": None,
    },
)  # fmt: skip
ASYNCIO_CANCELS = Unlike(
    lambda s: s.asynchronous, "asyncio turns Ctrl-C into a cancel of the main task", {"trigger": "task_cancel"}
)
NATIVE_ENDED = Unlike(
    lambda s: s.native,
    "the SDK ends its span at the cancel, before the TimeoutError leaves the `with`",
    {"fault": "none", "trigger": "task_cancel"},
)
HELPER_RAISES = Unlike(
    lambda s: s.helped and s.api != "responses",
    "the SDK's helper parses the input as it comes, and raises",
    {
        "by": "sdk", "outcome": "failed", "error_type": "malformed_tool_call", "phase": "mid_stream", "finish": "error",
    },
)  # fmt: skip
HELPER_HASTES = Unlike(
    lambda s: s.helped,
    "the SDK's helper takes an input for whole when the next call begins, and raises",
    {**HELPER_RAISES.changes, "fault": "malformed_tool_call", "seen": 2},
)
RUNNER_LATE = Unlike(
    lambda s: s.reading == RUNNER and s.asynchronous,
    "asyncio closes the runner's generators after the collector has taken them and the stream",
    {"outcome": "abandoned", "trigger": "gc"},
)
RUNNER_HOLDS = Unlike(
    lambda s: s.reading == RUNNER,
    "the runner is a generator that holds the stream's `with`, and is dropped",
    {"outcome": "cancelled", "trigger": "generator_close"},
)
