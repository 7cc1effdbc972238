# SPDX-License-Identifier: Apache-2.0
"""A made-up provider and all of its adapter: what it takes to observe one more, and nothing in the core for it.

Its SDK is one generator function that sends its request with the first `next`. Its chunks have no event names, its
tool calls interleave by index and have no end of their own, usage follows the finish, nothing says that it is over.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from otelstream._core.process import tap
from otelstream._core.process.runtime import Runtime
from otelstream._core.record import facts as f
from otelstream._core.record.grammar import BY_SHAPE, UNKNOWN, NoTerminal, Shape
from otelstream._core.record.text import printable

REASONS = {"done": "stop", "full": "length", "no": "content_filter", "call": "tool_calls"}


# --- the SDK ----------------------------------------------------------------------------------------------


class Parrot:
    """The client. `answers` is what its server sends, line by line; an exception is raised in its place."""

    def __init__(self, answers: Sequence[dict[str, Any] | Exception]) -> None:
        self.answers = answers
        self.requests = 0

    def talk(self, model: str) -> Iterator[dict[str, Any]]:
        """Ask the server, with the first `next`."""
        for line in self._lines(model):
            if "error" in line:
                raise RuntimeError(line["error"])
            yield line

    def _lines(self, model: str) -> Iterator[dict[str, Any]]:
        self.requests += 1
        for line in self.answers:
            if isinstance(line, Exception):
                raise line
            yield line


# --- its adapter ------------------------------------------------------------------------------------------


class Grammar(NoTerminal):
    """What a line means."""

    delta = BY_SHAPE

    def __init__(self) -> None:
        self.shape = UNKNOWN
        self._calls: list[f.Key] = []

    def learned(self, prefix: str, data: str) -> None:
        self.shape = Shape(prefix)

    def is_known(self, name: str | None) -> bool:
        return True

    def piece(self, data: str) -> f.Delta | None:
        line = json.loads(data)
        if "word" in line:
            return f.Delta((0, "text"), "word", line["word"], "text", visible=True)
        (part,) = line["calls"]
        return f.Delta((0, part["index"]), "arguments", part["arguments"])

    def structural(self, name: str | None, data: str) -> Iterator[f.Fact]:
        line = json.loads(data)
        if "id" in line:
            yield f.Identity(line["id"], None)
        if line.get("word"):
            yield f.Delta((0, "text"), "word", line["word"], "text", visible=True)
        for part in line.get("calls", ()):
            key = (0, part["index"])
            if "name" in part:
                for before in self._calls:
                    yield f.Closed(before, inferred=True)
                self._calls.append(key)
                yield f.Opened(key, "tool_input", tool=(part["name"], part["id"]))
            if part.get("arguments"):
                yield f.Delta(key, "arguments", part["arguments"])
        if "end" in line:
            for key in self._calls:
                yield f.Closed(key, inferred=True)
            yield f.Finish(line.get("choice", 0), REASONS.get(line["end"], printable(line["end"])), line["end"])
        if "usage" in line:
            yield f.Usage(line["usage"])
        if "error" in line:
            yield f.Failed(line["error"])


def observe(runtime: Runtime, client: Parrot, *, choices: int = 1) -> Callable[[], object]:
    """Attach to one client; returns what takes it off again."""
    lines = client._lines

    def begin(model: str) -> Iterator[dict[str, Any]]:
        stream = runtime.begin(operation="chat", provider="parrot", model=model, grammar=Grammar(), choices=choices)
        stream.attached, stream.drop = tap.Attached(), "at_once"
        runtime.attach_span(stream, {})
        stream.attempt()
        stream.responded("parrot-1")
        return tap.around(lines(model), stream, json.dumps)

    client._lines = lambda model: tap.lazily(lambda: begin(model))  # type: ignore[method-assign]
    return lambda: vars(client).pop("_lines")
