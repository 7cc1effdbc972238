# SPDX-License-Identifier: Apache-2.0
"""Make the bundled re-enactments from recorded streams: `python tests/reenact.py [RECORDINGS]`.

A re-enactment has the recording's events, fields, byte lengths, chunk lengths and odd spacing, and our own
words: each string the provider wrote is replaced by one of the same length; nothing moves on the wire.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from otelstream.testing._prose import Prose

ROOT = Path(__file__).parents[1]
RECORDINGS = ROOT.parent / "shared" / "streams"
STREAMS = ROOT / "otelstream" / "testing" / "streams"

# Words of the protocol, which are nobody's text.
PROTOCOL = {
    "type",
    "role",
    "model",
    "stop_reason",
    "service_tier",
    "inference_geo",
    "page_age",
    "expires_at",
    "stop_sequence",
}
OPAQUE = {"signature", "data", "encrypted_content", "encrypted_index"}
PROSE = {"text", "thinking", "title", "cited_text", "stdout", "stderr"}
NAMES = {"name", "tool_name", "server_name"}
# Tools that the provider itself runs, under names of its own.
SERVER_TOOLS = {"web_search", "bash_code_execution", "tool_search_tool_bm25"}
OUR_NAMES = {
    "get_weather": "read_clouds",
    "get_time": "ask_hour",
    "get_exchange_rate": "look_up_coin_rate",
    "make_file": "save_page",
    "ask_question": "quiz_library",
    "deepwiki": "bookshop",
}
# Kept where it stands: what structures a text (markup, quotes, line breaks), escapes, and what is not ASCII.
REPLACED = re.compile(r"[A-Za-z0-9 ,.;:'!?()\-/$%&+=_]")
WORD = re.compile(r"[A-Za-z0-9]")


class Atom(NamedTuple):
    """One character of a JSON string: how it is written, and what it means."""

    raw: str
    char: str


def atoms(literal: str) -> list[Atom]:
    """Take the inside of a JSON string literal apart."""
    simple = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
    found = []
    for raw in re.findall(r"\\u[0-9a-fA-F]{4}|\\.|[^\\]", literal, re.DOTALL):
        plain = raw if raw[0] != "\\" else chr(int(f"0x{raw[2:]}", 0)) if raw[1] == "u" else simple.get(raw[1], raw[1])
        found.append(Atom(raw, plain))
    return found


class Author:
    """Replaces the words of one recording; the same opaque value always gets the same stand-in."""

    def __init__(self, name: str) -> None:
        self.seed = name
        self.prose = Prose(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=2).digest(), "big"))
        self.known: dict[str, str] = {}

    def once(self, value: str, make: Callable[[str], str]) -> str:
        if value not in self.known:
            self.known[value] = make(value)
        return self.known[value]

    def opaque(self, value: str, kept: int = 2) -> str:
        """Other letters and digits; the first *kept* characters and all punctuation stay."""
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
        stream = hashlib.shake_256(f"{self.seed}{value}".encode()).digest(len(value))
        fresh = (
            alphabet[byte % len(alphabet)] if WORD.match(old) else old for old, byte in zip(value, stream, strict=True)
        )
        return value[:kept] + "".join(fresh)[kept:]

    def identifier(self, value: str) -> str:
        prefix = re.match(r"[a-z]+_0\d?", value)
        return self.opaque(value, prefix.end() if prefix else 0)

    def words(self, found: list[Atom], free: list[bool] | None = None) -> list[Atom]:
        """Put our own sentences in the place of the words; spaces around a run and everything else stay."""
        free = free or [bool(atom.raw == atom.char and REPLACED.match(atom.char)) for atom in found]
        written = list(found)
        start = 0
        while start < len(found):
            stop = start
            while stop < len(found) and free[stop] == free[start]:
                stop += 1
            if free[start]:
                run = "".join(atom.char for atom in found[start:stop])
                core = run.strip(" ")
                if WORD.search(core):
                    left = start + len(run) - len(run.lstrip(" "))
                    for i, char in enumerate(self.prose.take(len(core))):
                        written[left + i] = Atom(char, char)
            start = stop
        return written

    def text(self, literal: str) -> str:
        return "".join(atom.raw for atom in self.words(atoms(literal)))

    def url(self, value: str) -> str:
        """An address of ours with as many characters."""
        if len(value) < 24:
            return "https://example.org/"[: len(value)].ljust(len(value), "x")
        path = re.sub(r"[^a-z]", "-", self.prose.take(len(value) - 20).lower())
        return "https://example.org/" + path


class Literal(NamedTuple):
    """A string of the document: where its inside lies, and the keys that lead to it."""

    start: int
    end: int
    key: str
    path: tuple[str, ...]


def literals(document: str) -> Iterator[Literal]:
    """Find every string value of a JSON text, whatever its spacing."""
    keys: list[str] = []
    pending: tuple[int, int] | None = None
    for token in re.finditer(r'"((?:\\.|[^"\\])*)"|[{}\[\],:]', document):
        mark = token.group(0)
        if mark[0] == '"':
            pending = token.span(1)
            continue
        if mark == ":":
            assert pending is not None
            keys[-1] = document[slice(*pending)]
            pending = None
            continue
        if pending is not None:
            yield Literal(*pending, keys[-1], tuple(keys))
            pending = None
        if mark == "{":
            keys.append("")
        elif mark == "[":
            keys.append(keys[-1])
        elif mark in "}]":
            keys.pop()


def replaceable_input(text: list[Atom]) -> list[bool]:
    """Which characters of a tool input may change: those of its string values, but no escapes."""
    free = [False] * len(text)
    inside = escaped = False
    start = 0
    for i, atom in enumerate(text):
        if not inside:
            inside = atom.char == '"'
            start = i + 1
        elif escaped:
            escaped = False
        elif atom.char == "\\":
            escaped = True
        elif atom.char == '"':
            inside = False
            rest = "".join(each.char for each in text[i + 1 : i + 4]).lstrip()
            if rest.startswith(":"):
                free[start:i] = [False] * (i - start)
        else:
            free[i] = bool(atom.raw == atom.char and REPLACED.match(atom.char))
    return free


def reenact(name: str, recording: str) -> str:
    """Return the re-enactment of a recorded body."""
    author = Author(name)
    frames = recording.split("\n\n")
    parts = [
        re.fullmatch(r"(event: [a-z_]+\ndata: )(\{.*\})(\s*)", frame, re.DOTALL) for frame in frames if frame.strip()
    ]
    documents = [part.group(2) for part in parts if part]
    assert len(documents) == len([frame for frame in frames if frame.strip()]), "a frame of unknown form"

    # Fragments of a tool input are read as one text, and cut again where they were cut.
    fragments: dict[tuple[int, str], list[tuple[int, Literal]]] = {}
    changes: dict[int, list[tuple[Literal, str]]] = {}
    replies = 0
    for i, document in enumerate(documents):
        block = re.search(r'"index":(\d+)', document)
        index = block.group(1) if block else ""
        replies += '"message_start"' in document
        for literal in literals(document):
            value = document[literal.start : literal.end]
            key = literal.key
            change = changes.setdefault(i, [])
            if key in PROTOCOL:
                continue
            if key == "partial_json":
                fragments.setdefault((replies, index), []).append((i, literal))
            elif key in {"text", "thinking"} and "delta" in literal.path:
                fragments.setdefault((replies, f"{index}:{key}"), []).append((i, literal))
            elif key in {"id", "tool_use_id"}:
                change.append((literal, author.once(value, author.identifier)))
            elif key in OPAQUE:
                change.append((literal, author.once(value, author.opaque)))
            elif key == "url":
                change.append((literal, author.once(value, author.url)))
            elif key in NAMES:
                if value not in SERVER_TOOLS:
                    change.append((literal, OUR_NAMES[value]))
            elif key in PROSE:
                change.append((literal, author.once(value, author.text)))
            else:
                raise SystemExit(f"{name}: no rule for the string {key!r} in {document[:120]}")

    for (_, block_key), places in fragments.items():
        pieces = [atoms(documents[i][literal.start : literal.end]) for i, literal in places]
        whole = [atom for piece in pieces for atom in piece]
        free = None
        if ":" not in block_key:
            free = replaceable_input(whole)
        ours = iter(author.words(whole, free))
        for (i, literal), piece in zip(places, pieces, strict=True):
            changes.setdefault(i, []).append((literal, "".join(next(ours).raw for _ in piece)))

    out = []
    for i, (part, document) in enumerate(zip(parts, documents, strict=True)):
        for literal, fresh in sorted(changes.get(i, []), reverse=True):
            assert len(fresh.encode()) == len(document[literal.start : literal.end].encode()), (name, literal)
            document = document[: literal.start] + fresh + document[literal.end :]
        assert part
        out.append(part.group(1) + document + part.group(3))
    ending = recording[len(recording.rstrip("\n")) :]
    return "\n\n".join(out) + ending


def main() -> None:
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else RECORDINGS
    recordings = sorted(source.glob("*.sse"))
    if not recordings:
        raise SystemExit(f"no recordings (*.sse) in {source}: give the folder as argument")
    STREAMS.mkdir(exist_ok=True)
    for path in recordings:
        body = reenact(path.stem, path.read_text(encoding="utf-8"))
        (STREAMS / path.name).write_text(body, encoding="utf-8")
    print(f"{len(recordings)} re-enactments in {STREAMS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
