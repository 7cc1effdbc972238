# SPDX-License-Identifier: Apache-2.0
"""A recording holds numbers and the names of models, comes back as it was written, and is checked as it is read."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from otelstream import _semconv as names
from otelstream.texture import _recording
from otelstream.texture._measures import MEASURES, values
from otelstream.texture._recording import Recording, RecordingError, from_lines, load
from otelstream.view._record import Moment, SpanRecord
from texture.answers import Model

CANARY = "the-secret-of-the-answer"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "recording.json"


def test_a_recording_comes_back(path: Path) -> None:
    """Every measure of every model, in order: which values belong to one answer is gone."""
    recording = Model("a").recording(30, 1)
    recording.models |= Model("b", tools=1.0).recording(20, 2).models
    path.write_text(recording.to_json(), encoding="utf-8")

    read = load(path)

    assert read.to_json() == recording.to_json()
    assert set(read.models) == {"a", "b"}
    held = read.models["b"]
    assert held.answers + sum(held.left_out.values()) == 20
    assert {*held.numbers, *held.shares} == {measure.key for measure in MEASURES}
    assert all(values == sorted(values) for values in held.numbers.values())


def test_what_one_answer_says() -> None:
    """One value for each measure, from what its span says: a thinking answer that calls two tools, and froze once."""
    ready = {names.TOOL_CALL_PAUSE: 0.8, names.TOOL_CALL_PREAMBLE: True}
    record = SpanRecord(
        *("chat", "otelstream", "", "", 0.0, 9.0, "UNSET"),
        {
            names.OUTCOME: "completed",
            names.TIME_TO_FIRST_CHUNK: 0.5,
            names.TIME_TO_FIRST_TOKEN: 3.0,
            names.GAP_P50: 0.02,
            names.GAP_P95: 0.1,
            names.GAP_MAX: 0.8,
            names.VISIBLE_CHARS: 400,
            names.OUTPUT_RATE: 42.0,
            names.STALLS: 2,
            names.STALLS_PROVIDER: 1,
        },
        (
            Moment(names.EVENT_FIRST_CHUNK, 0.5, {names.BLOCK_KIND: "thinking"}),
            Moment(names.EVENT_CADENCE, 4.0, {names.CADENCE_CHUNKS: 32, names.CADENCE_CHARS: 330}),
            Moment(names.EVENT_TOOL_READY, 5.0, ready),
            Moment(names.EVENT_TOOL_READY, 6.0, {**ready, names.TOOL_CALL_PAUSE: 0.0}),
            Moment(names.EVENT_CADENCE, 8.0, {names.CADENCE_CHUNKS: 17, names.CADENCE_CHARS: 170}),
        ),
        1,
    )

    assert dict(values(record)) == {
        "first_token": 3.0,
        "thinking": 1.0,
        "thinking_time": 2.5,
        "chunk_size": 10.0,  # 500 characters, of the first chunk and the 49 after it
        "output_rate": 42.0,
        "gap_p50": 0.02,
        "gap_p95": 0.1,
        "gap_max": 0.8,
        "tool_pause": 0.8,  # of the first call: the second comes with it
        "preamble": 1.0,
        "length": 400.0,
        "stalls": 1.0,
    }
    own = replace(record, attributes={**record.attributes, names.STALLS_PROVIDER: 0}, events=record.events[1:2])
    assert dict(values(own))["stalls"] == 0  # who reads was slow, not the provider
    assert not {"thinking", "thinking_time", "tool_pause", "preamble"} & dict(values(own)).keys()


def test_only_whole_answers_are_measured() -> None:
    """Who stopped, failed or was not seen whole is counted by how it ended, and has no length."""
    whole = Model(stopped=0).answer(random.Random(1))
    recording = Recording()
    for outcome in ("completed", "truncated", "cancelled", "failed", "failed"):
        recording.add(replace(whole, attributes={**whole.attributes, names.OUTCOME: outcome}))
    recording.add(replace(whole, attributes={**whole.attributes, names.UNSEEN: True}))

    (texture,) = recording.models.values()

    assert texture.answers == len(texture.numbers["length"]) == 2
    assert texture.left_out == {"cancelled": 1, "failed": 2, "unseen": 1}


def test_a_model_is_known_by_the_name_it_was_asked_for() -> None:
    """What answers under a name may change: that is what is compared."""
    record = Model("alias").answer(random.Random(1))
    recording = Recording()
    recording.add(replace(record, attributes={**record.attributes, names.RESPONSE_MODEL: "alias-2027-01-01"}))

    assert [*recording.models] == ["alias"]


def test_lines_of_run_between_what_a_program_says(path: Path) -> None:
    """What a program itself wrote to standard error is passed over; nothing of it, nor any id, gets into the file."""
    dice = random.Random(3)
    records = [replace(Model().answer(dice), trace_id=CANARY, name=CANARY) for _ in range(5)]
    tool = replace(records[0], attributes={names.TOOL_CALL_ID: CANARY})
    lines = [f"warning: {CANARY}", *(each.to_json() for each in (*records, tool)), "{}", '{"name": 1}', "[1]", "7", ""]

    recording = from_lines(lines)

    (texture,) = recording.models.values()
    assert texture.answers + sum(texture.left_out.values()) == 5
    assert CANARY not in recording.to_json()


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1.0])
def test_what_is_no_number_is_not_kept(wrong: float, path: Path) -> None:
    """A recording that was written can be read: a value that no recording may hold is left out, its answer is not."""
    record = Model().answer(random.Random(1))
    record = replace(record, attributes={**record.attributes, names.OUTCOME: "completed", names.GAP_MAX: wrong})
    recording = from_lines([record.to_json()])
    path.write_text(recording.to_json(), encoding="utf-8")

    (texture,) = load(path).models.values()
    assert texture.answers == 1
    assert "gap_max" not in texture.numbers
    assert texture.numbers["length"]


@pytest.mark.parametrize("kind", ["deep", "great"])
def test_lines_that_no_reader_can_take(kind: str) -> None:
    """A line that is too deep, or has a number that is none of a float's, is passed over as any that is no record."""
    record = replace(Model().answer(random.Random(1)), ended=1.0)
    great = replace(record, attributes={**record.attributes, names.GAP_MAX: 10**400})
    line = "[" * 100_000 if kind == "deep" else great.to_json()

    recording = from_lines([line, record.to_json()])

    assert sum(texture.answers for texture in recording.models.values()) == 1


def test_a_file_holds_numbers_and_names_only() -> None:
    """Every text in it is a key of ours, an outcome, or the name of a model."""
    recording = Model("model-a").recording(40, 5)
    texts: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            texts.update(value)
            for each in value.values():
                walk(each)
        elif isinstance(value, list):
            for each in value:
                walk(each)
        elif isinstance(value, str):
            texts.add(value)

    walk(json.loads(recording.to_json()))

    ours = {"otelstream_texture", "from", "models", "answers", "left_out", "measures", "yes", "of", "cancelled"}
    assert texts <= ours | {measure.key for measure in MEASURES} | {"model-a"}


WRONG = [
    ("", "it is no JSON"),
    ("[" * 100_000, "it is no JSON"),
    ("[]", "no otelstream_texture 1"),
    ({"otelstream_texture": 2}, "no otelstream_texture 1"),
    ({"from": "tea leaves"}, "from tea leaves is neither answers nor prometheus"),
    ({"models": []}, "models is no mapping"),
    ({"models": {"m": 1}}, "models.m has no answers and measures"),
    ({"models": {"m": {"answers": True, "measures": {}}}}, "models.m has no answers"),
    ({"models": {"m": {"answers": 1, "measures": {}, "left_out": {"x": "y"}}}}, "models.m.left_out"),
    ({"length": [1, "x"]}, "models.m.measures.length is no list of numbers"),
    ({"length": [1, -1]}, "models.m.measures.length is no list of numbers"),
    ({"length": [10**400]}, "models.m.measures.length is no list of numbers"),
    ({"length": 7}, "models.m.measures.length is no list of numbers"),
    ({"preamble": {"yes": 3, "of": 2}}, "models.m.measures.preamble does not say yes and of"),
    ({"preamble": [1]}, "models.m.measures.preamble does not say yes and of"),
    ({"length": {"le": [1, 2], "counts": [1, 2]}}, "models.m.measures.length has no rising bounds"),
    ({"length": {"le": [1, "+Inf"], "counts": [2, 1]}}, "models.m.measures.length has no rising bounds"),
    ({"length": {}}, "models.m.measures.length has no rising bounds"),
]


@pytest.mark.parametrize(("given", "said"), WRONG)
def test_what_is_no_recording(given: Any, said: str, path: Path) -> None:
    """The file, the field, what is wrong with it, and how to make another."""
    if isinstance(given, dict):
        if not given.keys() & {"otelstream_texture", "from", "models"}:
            given = {"models": {"m": {"answers": 1, "measures": given}}}
        given = json.dumps({"otelstream_texture": 1, "from": "answers", "models": {}, **given})
    path.write_text(given, encoding="utf-8")

    with pytest.raises(RecordingError) as refused:
        load(path)

    assert str(path) in str(refused.value)
    assert said in str(refused.value)
    assert "make it anew by `otelstream texture record`" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_cannot_be_read(path: Path) -> None:
    """A file that is not there, a folder, bytes that are no text."""
    for made, said in ((lambda: None, "No such file"), (lambda: path.write_bytes(b"\xff"), "it is not UTF-8")):
        made()
        with pytest.raises(RecordingError, match=said):
            load(path)
    with pytest.raises(RecordingError, match="Is a directory"):
        load(path.parent)


def test_a_measure_of_a_later_version_is_passed_over(path: Path) -> None:
    """A file that knows more is still read."""
    text = Model().recording(3, 1).to_json().replace('"measures": {', '"measures": {"humour": ["dry"], ')
    path.write_text(text, encoding="utf-8")

    assert "humour" not in load(path).to_json()


def test_a_histogram_becomes_values() -> None:
    """Each bucket's evenly between its bounds, what is beyond the last at that; of many a part, of equal shape."""
    held = _recording.Buckets((1.0, 3.0, float("inf")), (2.0, 6.0, 7.0))

    assert held.spread(100) == pytest.approx([0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0])
    many = _recording.Buckets((1.0, 3.0, float("inf")), (2e6, 6e6, 7e6)).spread(700)
    assert len(many) == 700
    assert sum(value <= 1 for value in many) == 200
