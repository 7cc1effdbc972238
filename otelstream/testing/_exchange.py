# SPDX-License-Identifier: Apache-2.0
"""What was on the wire: one exchange a request, with monotonic stamps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import unquote

from otelstream.testing._events import CHUNK_KINDS, Kind

_SECRETS = {"x-api-key", "authorization", "x-goog-api-key"}
_STREAMED = ":streamGenerateContent"  # where the path says what is asked, and of which model


@dataclass(frozen=True)
class Request:
    """What a client asked for; header names are lower-case, `attempt` is 0 unless the SDK retried."""

    method: str
    path: str
    query: str
    headers: dict[str, str] = field(repr=False)
    body: Any = field(repr=False)

    @property
    def attempt(self) -> int:
        """How many attempts of the same call came before, as the SDK counts them."""
        count = self.headers.get("x-stainless-retry-count", "0")
        return int(count) if count.isdigit() else 0

    @property
    def model(self) -> str | None:
        """The model asked for."""
        model = self.body.get("model") if isinstance(self.body, dict) else None
        if model is None and "/model/" in self.path:
            model = unquote(self.path.partition("/model/")[2].partition("/")[0])
        elif model is None and ":" in self.path:
            model = self.path.rpartition(":")[0].rpartition("/")[2]
        return model if isinstance(model, str) else None

    @property
    def stream(self) -> bool:
        """Whether a stream was asked for."""
        streamed = self.path.endswith(("-stream", "/stream", _STREAMED))
        return streamed or (isinstance(self.body, dict) and self.body.get("stream") is True)


@dataclass(frozen=True)
class Write:
    """One event on the wire: `began` just before its first byte, `at` once its last was with the kernel.

    `size` is the length of the event itself in bytes, `wire` what it took after compression and framing
    (events that shared a write: on the first of them). `chars` are generated characters.
    """

    index: int
    event: str
    kind: Kind
    chars: int
    size: int
    wire: int
    began: float
    at: float
    frame: bytes = field(repr=False)

    @property
    def chunk(self) -> bool:
        """Whether it carried generated output."""
        return self.chars > 0 and self.kind in CHUNK_KINDS


@dataclass
class Exchange:
    """One request and what became of its reply.

    Stamps are `time.perf_counter()` seconds, None until they happen. `closed_by` and `how` say how the reply
    ended: `server` with `end` (whole body sent), `fin` or `reset`;
    `peer` with `fin` or `reset` when the client left first. `peer_closed_at` is when the client closed the
    connection, be it long after this reply (only the last reply of a connection has it).
    """

    number: int
    connection: int
    request: Request
    script: str
    fault: str
    accepted_at: float
    request_at: float
    request_id: str
    status: int | None = None
    headers_at: float | None = None
    events: list[Write] = field(default_factory=list, repr=False)
    closed_at: float | None = None
    closed_by: Literal["peer", "server"] | None = None
    how: Literal["end", "fin", "reset"] | None = None
    peer_closed_at: float | None = None

    @property
    def complete(self) -> bool:
        """Whether the last event of a stream was sent."""
        last = "message_delta" if self.request.path.endswith(_STREAMED) else "message_stop"
        return bool(self.events) and self.events[-1].kind == last

    @property
    def chunks(self) -> list[Write]:
        """The writes with generated output."""
        return [write for write in self.events if write.chunk]

    @property
    def body(self) -> bytes:
        """The events as sent, before compression and framing."""
        return b"".join(write.frame for write in self.events)

    def first(self, *kinds: Kind) -> Write | None:
        """The first write of one of these kinds; empty deltas do not count."""
        return next(
            (each for each in self.events if each.kind in kinds and (each.chars or each.kind not in CHUNK_KINDS)),
            None,
        )

    def as_dict(self) -> dict[str, Any]:
        """The exchange as JSON has it, without bodies of events and without credentials."""
        shown = {key: value for key, value in vars(self).items() if key not in {"events", "request"}}
        headers = {key: value for key, value in self.request.headers.items() if key not in _SECRETS}
        events = [{key: value for key, value in vars(write).items() if key != "frame"} for write in self.events]
        request = {**vars(self.request), "headers": headers, "attempt": self.request.attempt}
        return {**shown, "complete": self.complete, "request": request, "events": events}

    def __str__(self) -> str:
        asked = f"{self.request.method} {self.request.path}"
        played = self.script + (f" with {self.fault}" if self.fault else "")
        ended = f"{self.how} by {self.closed_by}" if self.closed_at else "open"
        taken = f" after {self.closed_at - self.request_at:.3f} s" if self.closed_at else ""
        return (
            f"#{self.number} {asked} {self.status or '-'} {played}: "
            f"{len(self.events)} events, {len(self.chunks)} chunks, {ended}{taken}"
        )
