# SPDX-License-Identifier: Apache-2.0
"""The re-enactments are shaped like the recordings, byte for byte, and share no sentence with them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from reenact import NAMES, PROTOCOL, RECORDINGS, SERVER_TOOLS, STREAMS, literals, reenact

from otelstream.testing import Event, script
from otelstream.testing._scripts import message_of

NAMES_OF_STREAMS = sorted(path.stem for path in STREAMS.glob("*.sse"))
with_recordings = pytest.mark.skipif(
    not RECORDINGS.is_dir(),
    reason=f"the recordings are not at hand (../{RECORDINGS.relative_to(STREAMS.parents[3])})",
)
every_stream = pytest.mark.parametrize("name", NAMES_OF_STREAMS)


def recording(name: str) -> str:
    return (RECORDINGS / f"{name}.sse").read_text(encoding="utf-8")


def ours(name: str) -> str:
    return (STREAMS / f"{name}.sse").read_text(encoding="utf-8")


def documents(body: str) -> list[str]:
    return re.findall(r"^data: (.*)$", body, re.MULTILINE)


def skeleton(document: str) -> str:
    """A document with each free string reduced to its size in bytes and characters, all else as it stands."""
    out, end = [], 0
    for found in literals(document):
        value = document[found.start : found.end]
        kept = found.key in PROTOCOL or value in SERVER_TOOLS
        chars = len(json.loads(f'"{value}"'))
        shape = value if kept else f"<{len(value.encode())} bytes, {chars} characters>"
        out += [document[end : found.start], shape]
        end = found.end
    return "".join([*out, document[end:]])


def texts(body: str) -> list[str]:
    """Every text of a body: joined deltas, whole strings."""
    joined: dict[tuple[int, str], str] = {}
    found = []
    for document in documents(body):
        index = json.loads(document).get("index", -1)
        for literal in literals(document):
            value = json.loads(f'"{document[literal.start : literal.end]}"')
            if "delta" in literal.path and literal.key in {"text", "thinking", "partial_json"}:
                joined[index, literal.key] = joined.get((index, literal.key), "") + value
            elif literal.key not in PROTOCOL:
                found.append(value)
    return [*found, *joined.values()]


def shingles(body: str, words: int = 5) -> set[tuple[str, ...]]:
    found = set()
    for text in texts(body):
        spoken = re.findall(r"[a-z']+", text.lower())
        found |= {tuple(spoken[i : i + words]) for i in range(len(spoken) - words + 1)}
    return found


def inputs(body: str) -> list[tuple[str, bool]]:
    """The tool inputs in their order, and whether each is valid JSON."""
    blocks: dict[int, str] = {}
    for document in map(json.loads, documents(body)):
        if document.get("delta", {}).get("type") == "input_json_delta":
            blocks[document["index"]] = blocks.get(document["index"], "") + document["delta"]["partial_json"]
    return [(text, is_json(text)) for text in blocks.values()]


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@with_recordings
class TestAgainstRecordings:
    def test_every_recording_is_re_enacted(self) -> None:
        """There is one re-enactment for each recording and no other."""
        assert sorted(path.stem for path in RECORDINGS.glob("*.sse")) == NAMES_OF_STREAMS

    @every_stream
    def test_what_is_committed_is_what_the_script_makes(self, name: str) -> None:
        """The script gives the committed bytes, on any machine."""
        assert reenact(name, recording(name)) == ours(name)

    @every_stream
    def test_structure_is_the_same(self, name: str) -> None:
        """Events, fields, numbers, spacing, and the sizes of all strings in bytes and characters agree."""
        theirs, made = recording(name), ours(name)

        assert re.findall(r"^event: .*$", made, re.MULTILINE) == re.findall(r"^event: .*$", theirs, re.MULTILINE)
        assert [skeleton(each) for each in documents(made)] == [skeleton(each) for each in documents(theirs)]
        assert len(made.encode()) == len(theirs.encode())
        assert re.sub(r"(?m)^data: .*$", "", made) == re.sub(r"(?m)^data: .*$", "", theirs)

    @every_stream
    def test_tool_inputs_are_as_valid_as_they_were(self, name: str) -> None:
        """An input that was valid JSON still is, with the same keys; one that was cut off still is."""
        theirs, made = inputs(recording(name)), inputs(ours(name))

        assert [valid for _, valid in made] == [valid for _, valid in theirs]
        for (before, valid), (after, _) in zip(theirs, made, strict=True):
            if valid and before:
                assert list(json.loads(after)) == list(json.loads(before))

    @every_stream
    def test_no_sentence_is_left(self, name: str) -> None:
        """No five words in a row, no id, no opaque string, no address and no name of theirs is in ours."""
        theirs, made = recording(name), ours(name)

        assert not shingles(made) & shingles(theirs)
        kept = {text for text in texts(theirs) if len(text) >= 20} & set(texts(made)) - SERVER_TOOLS
        assert not kept
        for document in documents(theirs):
            for literal in literals(document):
                value = document[literal.start : literal.end]
                if literal.key in {"id", "tool_use_id", "signature", "data", "url", *NAMES} - PROTOCOL and value:
                    assert value in SERVER_TOOLS or f'"{value}"' not in made


class TestAlone:
    def test_there_are_re_enactments(self) -> None:
        """The package carries them as data."""
        assert len(NAMES_OF_STREAMS) >= 21

    @every_stream
    def test_protocol_holds(self, name: str) -> None:
        """One message, its blocks in order and closed, one finish reason, then the stop; pings in between."""
        events = [event for event in script(name).events if event.kind != "ping"]
        payloads = [event.payload for event in events]

        assert [event.name for event in events] == [payload["type"] for payload in payloads]
        assert (events[0].kind, events[-2].kind, events[-1].kind) == (
            "message_start",
            "message_delta",
            "message_stop",
        )
        starts = [payload["index"] for payload in payloads if payload["type"] == "content_block_start"]
        stops = [payload["index"] for payload in payloads if payload["type"] == "content_block_stop"]
        assert starts == list(range(len(starts)))
        cut = payloads[-2]["delta"]["stop_reason"] == "max_tokens"
        assert stops == starts or (cut and stops == starts[:-1])

    @every_stream
    def test_script_plays_the_very_bytes(self, name: str) -> None:
        """A bundled script is its file, odd spacing included."""
        body = b"".join(event.frame for event in script(name).events)

        assert body.rstrip(b"\n") == ours(name).encode().rstrip(b"\n")

    @every_stream
    def test_message_has_content(self, name: str) -> None:
        """Folded into a message, no block is empty, and every tool input but a cut one is an object."""
        message = message_of(script(name).events)

        for block in message["content"]:
            assert block.get("text", "x")
            assert block.get("thinking", "x")
            if block["type"].endswith("tool_use") and message["stop_reason"] != "max_tokens":
                assert block["input"] == {} or all(block["input"].values())

    def test_spacing_is_not_ours(self) -> None:
        """The padding before closing braces survived: parsers must cope with it."""
        padded = [event for name in NAMES_OF_STREAMS for event in script(name).events if b"} " in (event.data or b"")]

        assert len(padded) > 100

    def test_ids_are_not_shared(self) -> None:
        """No two re-enactments have a message id in common."""
        ids = [message_of(script(name).events)["id"] for name in NAMES_OF_STREAMS]

        assert len(set(ids)) == len(ids)


def test_events_know_their_kind() -> None:
    """Every event of every re-enactment is of a kind we know."""
    kinds = {event.kind for name in NAMES_OF_STREAMS for event in script(name).events}

    assert "other" not in kinds
    assert Event.parse("new_event", b'{"type": "new_event"}').kind == "other"
    assert Path(STREAMS).is_dir()
