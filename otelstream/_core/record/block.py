# SPDX-License-Identifier: Apache-2.0
"""One open block of an answer: what it is, and the short way to the text of its deltas."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from operator import itemgetter
from typing import TYPE_CHECKING

from otelstream import _semconv as s
from otelstream._core.record.call import ToolCall, hash_of

if TYPE_CHECKING:
    from otelstream._core.record.facts import Key
    from otelstream._core.record.repetition import RepetitionDetector

MAX_INPUT_CHARS = 256 * 1024  # of one tool input kept for its validity; beyond, that is left out
_REST_OF_STRING = re.compile(r'[^"\\]*(?:\\.[^"\\]*)*')


class Block:
    """A block that is open, or the place of chunks that belong to none (`kind` None)."""

    __slots__ = (
        "bare", "buffer", "counter", "cut", "detector", "ended", "inside", "key", "kind", "padded", "prefix", "tool",
        "visible",
    )  # fmt: skip

    def __init__(
        self, key: Key | None, kind: s.BlockKind | None, *, visible: bool = False, tool: ToolCall | None = None
    ) -> None:
        self.key, self.kind, self.visible, self.tool = key, kind, visible, tool
        self.ended = False  # by inference: more of it would take that back
        self.bare = False  # the data of its deltas is their text
        self.buffer: list[str] = []
        self.detector: RepetitionDetector | None = None
        self.prefix = ""  # everything before the text of a delta of this block but the counter; "" until seen
        self.counter = 0  # where a number stands in it that is another in each event; 0: there is none
        self.inside = False  # more of the event follows the text
        self.padded = False
        self.cut: Callable[[str], str] = str  # takes the text out of one that nothing pads

    def texts(self, batch: list[str]) -> str | None:
        """The text of deltas that all look like the first of the block; None if one does not, or is empty."""
        prefix, counter = self.prefix, self.counter
        if not prefix:
            return "".join(batch) if self.bare else None
        if counter:
            head, prefix = prefix[:counter], prefix[counter:]
            if not _begin(batch, head):
                return None
            at = batch[0].find(",", counter)  # numbers next to one another mostly have as many digits
            rest = [data[at:] for data in batch]
            batch = rest if _begin(rest, prefix) else [data[data.find(",", counter) :] for data in batch]
        if not _begin(batch, prefix):
            return None
        if self.inside:
            return _texts_inside(batch, len(prefix))
        texts = [] if self.padded else list(map(self.cut, batch))
        text = "".join(texts)
        if self.padded or '"' in text:
            # An escaped quote, or what the provider pads each delta with behind the text.
            self.padded = self.padded or "\\" not in text
            start = len(prefix)
            texts = [data[start : data.rfind('"')] for data in batch]
            text = "".join(texts)
        return _unescaped(text, texts)

    def learn(self, data: str, field: str, text: str, counter: str = "") -> bool:
        """Remember how the deltas of this block look, if the short way gives the same `text` as the parser."""
        name, at = f'"{field}"', -1
        while (at := data.find(name, at + 1)) >= 0:
            start = data.find('"', data.find(":", at + len(name)) + 1) + 1
            found = _REST_OF_STRING.match(data, start) if start else None
            if found is None or data[at + len(name) : start - 1].strip(" :"):
                continue
            try:
                same = json.loads(f'"{found[0]}"') == text
            except ValueError:
                continue
            if same:
                rest = data[found.end() + 1 :]
                self.inside = bool(rest.strip(" }"))
                self.prefix = self._uncounted(data[:start], counter)
                self.cut = itemgetter(slice(len(self.prefix) - self.counter, -1 - rest.count("}")))
                return True
        return False

    def _uncounted(self, prefix: str, counter: str) -> str:
        name = f'"{counter}":'
        at = prefix.find(name) if counter else -1
        if at < 0:
            return prefix
        self.counter = at + len(name)
        return prefix[: self.counter] + prefix[prefix.find(",", self.counter) :]

    def add_input(self, text: str, gaps: list[float]) -> None:
        """Keep a piece of the tool input that this block carries."""
        tool = self.tool
        if tool is None:
            return
        if not tool.size and gaps:
            tool.pause = gaps[0]
        tool.size += len(text)
        if tool.size <= MAX_INPUT_CHARS:
            self.buffer.append(text)

    def validity(self) -> s.ToolInput | None:
        """Whether the tool input that has ended is valid JSON; None if it is too large to say."""
        tool = self.tool
        if tool is None or tool.size > MAX_INPUT_CHARS:
            return None
        if not tool.size:
            tool.arguments = hash_of({})
            return "valid"  # a call without arguments streams no fragment
        try:
            tool.arguments = hash_of(json.loads("".join(self.buffer)))
        except (ValueError, RecursionError):
            return "invalid"
        return "valid"

    def beyond_repair(self) -> bool:
        """Whether nothing that could follow makes this tool input valid, by the parser that the SDKs use."""
        if not self.buffer:
            return False
        try:
            from jiter import from_json
        except ImportError:
            return False
        try:
            from_json("".join(self.buffer).encode("utf-8", "replace"), partial_mode=True)
        except ValueError:
            return True
        return False


def _begin(batch: list[str], prefix: str) -> bool:
    """Whether all begin so: whatever sorts between two strings with a prefix has it too."""
    return min(batch).startswith(prefix) and max(batch).startswith(prefix)


def _texts_inside(batch: list[str], start: int) -> str | None:
    texts = [data[start : data.find('"', start)] for data in batch]
    text = "".join(texts)
    if "\\" in text:  # perhaps before that very quote
        texts = [found[0] if (found := _REST_OF_STRING.match(data, start)) else "" for data in batch]
        text = "".join(texts)
    return _unescaped(text, texts)


def _unescaped(text: str, texts: list[str]) -> str | None:
    if "" in texts:
        return None
    if "\\" not in text:
        return None if '"' in text else text
    try:
        unescaped: str = json.loads(f'"{text}"')
    except ValueError:
        return None
    return unescaped
