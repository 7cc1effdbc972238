# SPDX-License-Identifier: Apache-2.0
"""The contract: what it may say, what is said of what it may not, and when it is broken, kept, or open."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import yaml

from otelstream.texture._compare import Pair, compare, paired
from otelstream.texture._contract import Clause, judged, load, schema
from otelstream.texture._table import clause
from texture.answers import Model

GOOD = """\
undecided: fail
measures:
  first_token: {rise: 20%}
  tool_pause: {rise: 1s, fall: 300ms}
  output_rate: {fall: 5, rise: 12.5 %}
  preamble: {fall: 0.1}
  length: {fall: 200}
"""


def read(tmp_path: Path, text: str, name: str = "texture.yaml") -> object:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return load(tmp_path / name)


def pair(before: Model, after: Model, answers: int = 60) -> Pair:
    old, new = before.recording(answers, "b"), after.recording(answers, "a")
    (found,) = compare(old, new, paired(old, new))
    return found


def clauses(tmp_path: Path, compared: Pair, text: str) -> list[Clause]:
    (tmp_path / "t.yaml").write_text(f"measures: {{{text}}}", encoding="utf-8")
    return list(judged(load(tmp_path / "t.yaml"), [compared]))


def test_a_contract_is_read(tmp_path: Path) -> None:
    """Durations with their unit, numbers, shares, parts of what was; YAML and JSON say the same."""
    contract = load_yaml = read(tmp_path, GOOD)

    assert read(tmp_path, json.dumps(yaml.safe_load(GOOD)), "texture.json") == load_yaml
    tolerances = contract.tolerances  # type: ignore[attr-defined]
    assert contract.undecided_fails  # type: ignore[attr-defined]
    assert tolerances["first_token"]["rise"].amount == pytest.approx(0.2)
    assert tolerances["first_token"]["rise"].relative
    assert tolerances["tool_pause"]["fall"].amount == pytest.approx(0.3)
    assert not tolerances["tool_pause"]["fall"].relative
    assert tolerances["output_rate"]["rise"].amount == pytest.approx(0.125)
    jsonschema.Draft202012Validator(schema()).validate(yaml.safe_load(GOOD))


WRONG = [
    ("[]", ("no mapping", "first_token: {rise: 20%}")),
    ("measures: {}", ("measures: names no measure",)),
    ("{}", ("measures: missing",)),
    ("measures: {first_tokn: {rise: 1s}}", ("measures.first_tokn: unknown key", "did you mean `first_token`?")),
    ("measures: {length: {raise: 3}}", ("measures.length.raise: unknown key", "did you mean `rise`?")),
    ("measures: {length: {}}", ("measures.length: says nothing", "`rise`, `fall`")),
    ("measures: {length: 3}", ("measures.length: 3 is no mapping",)),
    ("measures: {first_token: {rise: 0.3}}", ("measures.first_token.rise: 0.3 is no duration", "0.3s", "20%")),
    ("measures: {first_token: {rise: fast}}", ("'fast' is no duration",)),
    ("measures: {first_token: {rise: -20%}}", ("'-20%' is no duration",)),
    ("measures: {preamble: {fall: 10%}}", ("'10%' is no number from 0 to 1", "write 0.1 for ten points")),
    ("measures: {preamble: {fall: 10}}", ("10 is no number from 0 to 1",)),
    ("measures: {length: {fall: true}}", ("True is no number from 0 to 1000000", "200, or as a part")),
    ("measures: {length: {fall: .nan}}", ("nan is no number",)),
    ("undecided: maybe\nmeasures: {length: {fall: 1}}", ("line 1: undecided: 'maybe' is unknown", "pass, fail")),
    ("version: 2\nmeasures: {length: {fall: 1}}", ("version: 2 is unknown",)),
    ("measures:\n  length:\n    fall: x\n    rise: y", ("2 problems", "line 3", "line 4")),
]


@pytest.mark.parametrize(("text", "said"), WRONG, ids=[text for text, _ in WRONG])
def test_a_contract_that_cannot_be_used(text: str, said: tuple[str, ...], tmp_path: Path) -> None:
    """Every problem with its line, field, value and remedy; the schema refuses the same."""
    with pytest.raises(ValueError, match="texture") as refused:
        read(tmp_path, text)

    for part in said:
        assert part in str(refused.value)
    if "nan" not in text and text != "measures: {}" and "length: {}" not in text:
        assert not jsonschema.Draft202012Validator(schema()).is_valid(yaml.safe_load(text))


def test_a_missing_contract_says_how_to_write_one(tmp_path: Path) -> None:
    """There is no command for it: the line says what goes in."""
    with pytest.raises(ValueError, match=r"cannot be read \(No such file or directory\); write `measures:`"):
        load(tmp_path / "none.yaml")


def test_broken_kept_and_undecided(tmp_path: Path) -> None:
    """Broken: all of the interval is beyond. Kept: none of it. Else it is open, and so is what too few answers say."""
    faster = pair(Model(), replace(Model(), rate=90, tools=0.05))

    found = {
        (each.row.measure.key, each.direction): each
        for each in clauses(
            tmp_path,
            faster,
            "output_rate: {rise: 20%, fall: 20%}, chunk_size: {rise: 0, fall: 5}, tool_pause: {fall: 1s}",
        )
    }

    assert found["output_rate", "rise"].kept == "broken"
    assert found["output_rate", "fall"].kept == "kept"
    assert found["chunk_size", "rise"].kept == "undecided"
    assert found["chunk_size", "fall"].kept == "kept"
    assert found["tool_pause", "fall"].kept == "undecided"
    said = clause(found["output_rate", "rise"])
    row = found["output_rate", "rise"].row
    assert row.before.middle is not None
    assert f"by at most {row.before.middle * 0.2:.2f} tok/s; it rose by" in said
    assert row.change is not None
    assert row.low is not None
    assert f"it rose by {row.change:.1f} tok/s, surely by {row.low:.1f} or more" in said
    assert "more answers would tell" in clause(found["chunk_size", "rise"])
    assert "too few answers say it" in clause(found["tool_pause", "fall"])


def test_a_contract_is_not_broken_by_the_same_model(tmp_path: Path) -> None:
    """Of tolerances of nothing at all, none is broken by the model itself: an interval decides, not a middle."""
    every = "first_token: {rise: 0s, fall: 0s}, output_rate: {rise: 0, fall: 0}, length: {rise: 0, fall: 0}"
    same = pair(Model(), Model())

    assert {each.kept for each in clauses(tmp_path, same, every)} == {"undecided"}


def test_a_fall_is_judged_from_its_own_side(tmp_path: Path) -> None:
    """What vanished broke `fall`, and never `rise`."""
    gone = pair(Model(tools=1.0), replace(Model(tools=1.0), pause=0.0))

    fall, rise = sorted(
        clauses(tmp_path, gone, "tool_pause: {fall: 300ms, rise: 300ms}"), key=lambda each: each.direction
    )

    assert (fall.kept, rise.kept) == ("broken", "kept")
    assert "it fell by" in clause(fall)
