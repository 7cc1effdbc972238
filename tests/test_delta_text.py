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

from otelstream.anthropic import _delta_text
from otelstream.anthropic._delta_text import batch_text

KINDS = {"text": "text_delta", "thinking": "thinking_delta", "partial_json": "input_json_delta"}
DELTA = '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%s"}%s}'
SPANNERS = ['"', "\\", "}", "{", "\n", " ", "\x00", "x", ",", "\\u12"]


def by_parsing(datas: list[str], field: str) -> tuple[str, list[int]]:
    """Say the rule: parse each, take the field where it is a string, and read surrogates as they then stand."""
    texts = []
    for data in datas:
        try:
            value = json.loads(data)["delta"][field]
        except (ValueError, TypeError, KeyError):
            value = ""
        texts.append(value if isinstance(value, str) else "")
    units = "".join(texts).encode("utf-16-le", "surrogatepass")
    return units.decode("utf-16-le", "surrogatepass"), [at for at, text in enumerate(texts) if not text]


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
@given(written())
def test_the_text_is_what_parsing_each_gives(batch: tuple[list[str], str]) -> None:
    """Any field order, separators, padding, escapes and non-ASCII give the parser's text and empty places."""
    datas, field = batch

    found = batch_text(datas, field)

    assert (found.text, list(found.silent), found.malformed) == (*by_parsing(datas, field), False)


@settings(max_examples=400, deadline=None)
@given(written(), st.data())
def test_malformed_deltas_contribute_nothing(batch: tuple[list[str], str], data: st.DataObject) -> None:
    """Deltas cut, mutated, of another kind or no JSON at all are silent, and the others are read all the same."""
    datas, field = batch
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

    found = batch_text(datas, field)

    assert (found.text, list(found.silent)) == by_parsing(datas, field)


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
    assert batch_text([DELTA % (body, " " * n) for n, body in enumerate(bodies)], "text").text == text


@pytest.mark.parametrize("bodies", [("a\\", "n"), ("\\u00", "e9"), ("a\\", "\\\\")])
def test_an_escape_is_not_finished_by_the_next_delta(bodies: tuple[str, str]) -> None:
    """A delta that ends within an escape is malformed and silent, though the two together would be JSON."""
    found = batch_text([DELTA % (body, "") for body in bodies], "text")

    assert found.malformed
    assert 0 in found.silent


def test_empty_and_other_deltas_are_told_by_place() -> None:
    """Among deltas that look alike, empty ones and those of another kind are named, and cost no one the short way."""
    signature = '{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"Eq=="}}'

    found = batch_text([DELTA % ("", ""), DELTA % ("a", "  "), signature, DELTA % ("b", " ")], "text")

    assert found == ("ab", [0, 2], False)


def test_deltas_that_look_alike_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the index of the block and the padding of each, the text of such deltas costs no parsing."""
    monkeypatch.setattr(_delta_text, "_parsed", None)

    for index in (0, 1, 12):
        datas = [(DELTA % (f"word {n} \\n", " " * (n % 7))).replace("0", str(index), 1) for n in range(48)]
        assert batch_text(datas, "text").text == "".join(f"word {n} \n" for n in range(48))


def test_what_is_remembered_is_bounded() -> None:
    """However many block indices and producers there are, at most 64 shapes are remembered."""
    for index in range(300):
        batch_text([(DELTA % ("a", "")).replace('"index":0', f'"index":{index}')], "text")

    assert len(_delta_text._borders) <= 64


def test_a_delta_of_another_kind_may_come_first() -> None:
    """What the first delta looks like does not matter, if it has no text."""
    signature = '{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"Eq=="}}'
    longer = signature.replace("Eq==", "Eq==" * 40)

    for first in (signature, longer):
        assert batch_text([first, DELTA % ("a", "  "), DELTA % ("b", " ")], "text") == ("ab", [0], False)


def test_a_field_of_the_same_name_elsewhere_does_not_mislead() -> None:
    """Only the field of the delta itself counts."""
    data = '{"type":"content_block_delta","delta":{"citation":{"text":"no"},"text":"%s"}}'

    assert batch_text([data % "a", data % "b"], "text") == ("ab", [], False)
    assert batch_text([data.replace('"text":"%s"', '"x":1'), DELTA % ("c", "")], "text") == ("c", [0], False)


def test_pairs_are_joined_in_deltas_that_had_to_be_parsed_too() -> None:
    """A pair split between a delta written one way and the next written another is one character."""
    spaced = json.dumps(json.loads(DELTA % ("Q", "")))

    assert batch_text([DELTA % ("\\ud83d", ""), spaced.replace("Q", "\\ude00")], "text").text == "\U0001f600"


def test_no_deltas_are_no_text() -> None:
    """An empty batch says nothing."""
    assert batch_text([], "text") == ("", [], False)


def test_recorded_streams_are_read_alike() -> None:
    """Every block of the recorded streams, where they are at hand, gives the parser's text."""
    folder = Path(os.environ.get("OTELSTREAM_RECORDINGS", "../shared/streams"))
    files = sorted(folder.glob("*.sse"))
    if not files:
        pytest.skip("no recordings at hand")

    for file in files:
        lines = file.read_text(encoding="utf-8").splitlines()
        datas = [line[6:] for line in lines if line.startswith("data: ") and '"content_block_delta"' in line]
        for field in KINDS:
            for size in (1, 7, 48):
                for at in range(0, len(datas), size):
                    batch = datas[at : at + size]
                    found = batch_text(batch, field)
                    assert (found.text, list(found.silent)) == by_parsing(batch, field)
