# SPDX-License-Identifier: Apache-2.0
"""The text of a batch of deltas is what parsing each of them gives, however they are written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import metrics, trace

from otelstream._core.process.runtime import Runtime
from otelstream._core.record import batch
from otelstream._core.record.block import Block
from otelstream._core.record.stream import StreamObservation
from otelstream._face import config as _config
from otelstream.anthropic._grammar import Grammar

KINDS = {"text": "text_delta", "thinking": "thinking_delta", "partial_json": "input_json_delta"}
DELTA = '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%s"}%s}'
SPANNERS = ['"', "\\", "}", "{", "\n", " ", "\x00", "x", ",", "\\u12"]
RUNTIME = Runtime(_config.load({}, {}), trace.get_tracer("test"), metrics.get_meter("test"), None, {})


class Listening(StreamObservation):
    """An observation that keeps what its detector of repetition is fed."""

    __slots__ = ("heard",)

    def repeats(self, block: Block, text: str, at: float) -> bool:
        self.heard.append(text)
        return False


def heard(datas: list[str], size: int = 48) -> tuple[str, int]:
    """The text and the number of chunks that the adapter makes of deltas, summed in batches of `size`."""
    stream = Listening(RUNTIME, operation="chat", provider="p", model="m", grammar=Grammar())
    stream.heard = []
    stream.block_opened(Block((0, 0), "text", visible=True))
    for at in range(0, len(datas), size):
        stream.datas.extend(datas[at : at + size])
        stream.waits.extend([0.01] * len(datas[at : at + size]))
        batch.flush(stream, stream.started + at)
    return "".join(stream.heard), stream.chunks


def by_parsing(datas: list[str]) -> tuple[str, int]:
    """Say the rule: parse each, and take the text where there is some."""
    texts = [json.loads(data)["delta"].get(field) for data in datas for field in KINDS]
    texts = [text for text in texts if text]
    return "".join(texts), len(texts)


def joined(text: str) -> str:
    """Read surrogates that two deltas share as the one character they are."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


@st.composite
def written(draw: st.DrawFn) -> tuple[list[str], str]:
    """Draw a batch of deltas as one producer writes them: an order of fields, separators, padding, escapes."""
    field = draw(st.sampled_from(sorted(KINDS)))
    separators = draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    order = draw(st.permutations(["type", "index", "delta"]))
    inner = draw(st.permutations(["type", field]))
    extra = draw(st.booleans())
    ascii_only = draw(st.booleans())
    piece = st.text() | st.text('ab"\\{} \n\U0001f600é', max_size=6) | st.sampled_from(['"}', '\\"}}', "\\", '"'])
    datas = []
    for index, text in enumerate(draw(st.lists(piece, min_size=1, max_size=12))):
        values: dict[str, Any] = {"type": KINDS[field], field: text}
        delta = {key: values[key] for key in inner} | ({"more": "x"} if extra else {})
        whole = {"type": "content_block_delta", "index": 3 if index < 6 else 12, "delta": delta}
        data = json.dumps({key: whole[key] for key in order}, separators=separators, ensure_ascii=ascii_only)
        if data.endswith("}}"):
            data = data[:-1] + " " * draw(st.integers(0, 15)) + "}"
        datas.append(data)
    return datas, field


@settings(max_examples=400, deadline=None)
@given(written(), st.integers(1, 12))
def test_the_text_is_what_parsing_each_gives(batch: tuple[list[str], str], size: int) -> None:
    """Any field order, separators, padding, escapes, non-ASCII and borders of batches give the parser's text."""
    datas, _ = batch

    text, chunks = heard(datas, size)

    wanted, count = by_parsing(datas)
    assert (joined(text), chunks) == (joined(wanted), count)


@settings(max_examples=400, deadline=None)
@given(written(), st.data())
def test_malformed_deltas_are_survived(batch: tuple[list[str], str], data: st.DataObject) -> None:
    """Deltas cut, mutated, of another kind or no JSON at all raise nothing, and are no more chunks than deltas."""
    datas, _ = batch
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(datas) - 1))
        old = datas[place]
        at = data.draw(st.integers(0, len(old)))
        datas[place] = data.draw(
            st.sampled_from([
                old[:at],
                old[:at] + data.draw(st.sampled_from(SPANNERS)) + old[at:],
                old[:at] + old[at + 1 :],
                '{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"Eq=="}}',
                '{"delta":null}', "[]", "", "null", '{"delta":{"text":5,"thinking":[],"partial_json":{}}}',
            ])
        )  # fmt: skip

    _, chunks = heard(datas)

    assert 0 <= chunks <= len(datas)


@pytest.mark.parametrize(
    ("bodies", "text"),
    [
        (("He said ", '\\"no\\"', " and left"), 'He said "no" and left'),
        (("\\ud83d", "\\ude00 and on"), "\U0001f600 and on"),
        (('{\\"a\\":', ' \\"b\\"} }'), '{"a": "b"} }'),
        (("ends in \\\\", "n and on"), "ends in \\n and on"),
        (("\\u00e9", "\\n", "\\t\\/"), "é\n\t/"),
    ],
)
def test_escapes_are_decoded_across_deltas(bodies: tuple[str, ...], text: str) -> None:
    """Quotes at the end, backslashes at the end and pairs split between two deltas come out right."""
    datas = [DELTA % ("first ", ""), *(DELTA % (body, " " * n) for n, body in enumerate(bodies))]

    assert joined(heard(datas, 1 + len(bodies))[0]) == "first " + text


def test_signatures_and_empty_deltas_are_no_chunks() -> None:
    """Protocol traffic among deltas is not counted."""
    signature = '{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"Eq=="}}'

    assert heard([DELTA % ("", ""), DELTA % ("a", "  "), signature, DELTA % ("b", " ")]) == ("ab", 2)


def test_deltas_that_look_alike_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever their padding, deltas after the first cost no parsing."""
    stream_first = DELTA % ("first ", "")
    datas = [DELTA % (f"word {n} ", " " * (n % 7)) for n in range(96)]
    slow = batch._one_by_one
    calls: list[int] = []
    monkeypatch.setattr(
        batch, "_one_by_one", lambda stream, datas, gaps, at: calls.append(len(datas)) or slow(stream, datas, gaps, at)
    )

    heard([stream_first], 1)
    heard([stream_first, *datas], 1)

    assert calls == [1, 1]


def test_recorded_streams_are_read_alike() -> None:
    """The blocks of the recorded streams, where they are at hand, give the parser's text."""
    folder = Path(os.environ.get("OTELSTREAM_RECORDINGS", Path(__file__).parent.parent.parent / "shared" / "streams"))
    files = sorted(folder.glob("*.sse"))
    if not files:
        pytest.skip("no recordings at hand")

    for file in files:
        lines = file.read_text(encoding="utf-8").splitlines()
        datas = [line[6:] for line in lines if line.startswith("data: ") and '"content_block_delta"' in line]
        for size in (1, 7, 48):
            assert heard(datas, size) == by_parsing(datas)
