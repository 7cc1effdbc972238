# SPDX-License-Identifier: Apache-2.0
"""Objectives files that cannot be used: each is one line that names line, field, value and remedy, on every road."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from otelstream import ConfigurationError
from otelstream._face.config import load as load_settings
from otelstream._objectives_file import load_config
from otelstream.cli import main

ONE = "objectives:\n- {name: a, kind: completion, target: 0.99, threshold: 2m}\n"


def pairs(*given: str) -> str:
    """A file with these burn rates."""
    rows = (f"- {{severity: page, long: 1h, short: 5m, for: 2m, {one}}}\n" for one in given)
    return f"{ONE}burn_rates:\n{''.join(rows)}"


def bomb(opening: str, item: str, closing: str, levels: int = 40) -> str:
    """Nine aliases a level: without a bound this is 9 to the power of the levels."""
    lines = [f"a0: &a0 {opening}{item.format(0, 'x')}{closing}"]
    for level in range(1, levels):
        nine = ", ".join(item.format(place, f"*a{level - 1}") for place in range(9))
        lines.append(f"a{level}: &a{level} {opening}{nine}{closing}")
    return ONE + "\n".join(lines) + "\n"


FAULTY: dict[str, tuple[bytes | str, tuple[str, ...]]] = {
    "wrong value": (ONE.replace("0.99", "99"), ("line 2: objectives[0].target: 99 is not", "write 0.99 for 99%")),
    "wrong value further down": (ONE + "min_bad: 0\n", ("line 3: min_bad: 0 is no whole number", "such as 3")),
    "value that is missing": (
        "objectives:\n\n- {name: a, kind: integrity}\n",
        ("line 3: objectives[0].target: missing",),
    ),
    "unknown key": (ONE + "windw: 30d\n", ("line 3: windw: unknown key", "did you mean `window`?")),
    "item of a list": (ONE + "group_by:\n- job\n- a b\n", ("line 5: group_by[1]: 'a b' is no label",)),
    "key twice": (ONE + "window: 7d\nwindow: 7d\n", ("line 4: key 'window' is there twice", "keep one")),
    "key twice inside": (ONE + "labels: {a: b, a: c}\n", ("line 3: key 'a' is there twice", "keep one")),
    "merge key twice": (ONE + "labels:\n  <<: {a: b}\n  <<: {a: c}\n", ("line 5: key '<<' is there twice",)),
    "merge of no mapping": (ONE + "labels: {<<: 3}\n", ("line 3", "expected a mapping", "mend it there")),
    "map on a list": ("objectives: !!map\n- a\n", ("line 1", "tag '!!map'", "remove it")),
    "list on a map": ("objectives: !!seq {a: b}\n", ("line 1", "tag '!!seq'", "remove it")),
    "text on a number": (ONE + "min_bad: !!str 3\n", ("line 3", "tag '!!str'", "remove it")),
    "python object": ("objectives: !!python/object:os.system x\n", ("line 1", "tag '!!python/object:os.system'")),
    "tag of one's own": (ONE + "labels: {team: !Ref b}\n", ("line 3", "tag '!Ref'", "remove it")),
    "set": (ONE + "labels: !!set {team}\n", ("line 3", "tag '!!set'")),
    "bad date": (ONE + "window: 2024-99-99\n", ("line 3: window: '2024-99-99' is no duration", "write it as 30d")),
    "date": (ONE + "window: 2024-01-01\n", ("line 3: window: '2024-01-01' is no duration",)),
    "number of 5000 digits": (ONE + "min_bad: " + "9" * 5000, ("is no YAML",)),
    "number of 5000 hex digits": (ONE + "min_bad: 0x" + "f" * 5000, ("line 3: min_bad:", "is no whole number")),
    "list as a key": (ONE + "? [a, b]\n: 1\n", ("line 3: [('a', 'b')]: unknown key",)),
    "number as a key": (ONE + "1: 2\n", ("line 3: [1]: unknown key",)),
    "alias of itself": (ONE + "labels: &a {b: *a}\n", ("line 3: labels.b:", "is no label value")),
    "unknown alias": (ONE + "labels: *a\n", ("line 3", "undefined alias 'a'")),
    "list bomb": (bomb("[", "{1}", "]"), ("aliases", "10000 values", "write them out")),
    "mapping bomb": (bomb("{", "k{0}: {1}", "}"), ("aliases", "10000 values", "write them out")),
    "merge bomb": (bomb("{<<: [", "{1}", "], b: 1}").replace("[x]", "{c: 1}"), ("a0: unknown key",)),
    "deep list": (ONE + "labels: " + "[" * 5000, ("line 3", "nested deeper than 32", "write it flat")),
    "deep mapping": (ONE + "labels: " + "{a: " * 5000, ("line 3", "nested deeper than 32", "write it flat")),
    "deep items": (ONE + "labels:\n " + "- " * 5000, ("line 4", "nested deeper than 32", "write it flat")),
    "too many values": (ONE + "labels:\n" + "- a\n" * 40_000, ("more than 10000 values",)),
    "huge": (ONE + "#" * 2_000_000, ("more than 1 MB", "slo init")),
    "latin-1": ("labels: {team: münchen}\n".encode("latin-1"), ("not UTF-8", "save it as UTF-8")),
    "utf-16": (ONE.encode("utf-16"), ("not UTF-8", "save it as UTF-8")),
    "control character": (ONE + "runbook_url: a\x01b\n", ("line 3", "is no YAML")),
    "line break in a line": (ONE + 'runbook_url: "a\\nb"\n', ("line 3: runbook_url: 'a\\nb' is no line of text",)),
    "half a character": (ONE + 'labels: {team: "\\ud800"}\n', ("line 3: labels.team: '\\ud800' is no label value",)),
    "mapping as a key": (ONE + "labels: {{a: b}: c}\n", ("line 3: labels[", "is no label name")),
    "line break in a key": (ONE + '"a\\nb": 1\n', ("line 3: ['a\\nb']: unknown key",)),
    "two documents": (ONE + "---\na: b\n", ("line 3", "another document")),
    "eleven nines": (
        ONE.replace("0.99", "0.99999999999"),
        ("line 2: objectives[0].target: 0.99999999999", "one in 100000000000", "at most 0.999999"),
    ),
    "next to no target": (ONE.replace("0.99", "0.0000000001"), ("line 2: objectives[0].target: 1e-10 is not",)),
    "tiny budget of a pair": (
        pairs("budget: 0.000001"),
        ("line 4: burn_rates[0].budget: 0.000001 x 30d / 1h = 0.00072", "under 0.001", "write 0.00000139"),
    ),
    "tinier budget of a pair": (pairs("budget: 0.0000000001"), ("line 4: burn_rates[0].budget: 1e-10 is not between",)),
    "tiny factor": (pairs("factor: 0.0000000001"), ("line 4: burn_rates[0].factor: 1e-10", "from 0.001 to 1000000")),
    "endless factor": (pairs("factor: .inf"), ("line 4: burn_rates[0].factor: inf", "from 0.001 to 1000000")),
    "tiny threshold of a symptom": (
        ONE + "symptoms:\n  retries: {threshold: 0.00000000001}\n",
        ("line 4: symptoms.retries.threshold: 1e-11", "from 0.000001 to"),
    ),
    "share over one": (
        ONE + "symptoms:\n  hanging: {threshold: 20}\n",
        ("line 4: symptoms.hanging.threshold: 20 is not between 0 and 1", "write 0.2 for 20%"),
    ),
    "endless duration": (ONE + f"window: {'9' * 400}d\n", ("line 3: window:", "is over 3650d", "write it as 30d")),
    "part of a millisecond": (ONE + "keep_firing: 0.5ms\n", ("line 3: keep_firing: '0.5ms'", "whole milliseconds")),
    "window under the usual pairs": (
        ONE + "window: 1d\n",
        ("line 3: window: 1d is not over 3d", "write `burn_rates`"),
    ),
}


@pytest.mark.parametrize(("text", "said"), FAULTY.values(), ids=FAULTY)
def test_a_faulty_file_is_one_line(
    text: bytes | str, said: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`slo check` ends with 2 and `instrument()` raises ConfigurationError, both within seconds, with one message."""
    file = tmp_path / "o.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    began = time.monotonic()

    assert main(["slo", "check", str(file)]) == 2
    told = capsys.readouterr().err
    with pytest.raises(ConfigurationError) as caught:
        load_settings({"objectives": str(file)}, {})

    assert time.monotonic() - began < 20
    for part in said:
        assert part in told
        assert part in str(caught.value)
    assert told.count("\n") == 1 or "problems\n" in told


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no JSON"),
        ('{"a": 1, "a": 2}', "key 'a' is there twice; keep one"),
        ('{"min_bad": ' + "9" * 5000 + "}", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ('{"objectives": NaN}', "objectives: nan is no list"),
        ('{"min_bad": 1e999}', "min_bad: inf is no whole number"),
    ],
)
def test_a_faulty_json_file(text: str, said: str, tmp_path: Path) -> None:
    """What is no JSON, or JSON with a key twice, is told like YAML."""
    file = tmp_path / "o.json"
    file.write_text(text)

    with pytest.raises(ConfigurationError) as caught:
        load_config(file)

    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["", "none.yaml", "\0", "folder"])
def test_a_path_that_cannot_be_read(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A path that leads to no file names the command that writes one."""
    (tmp_path / "folder").mkdir()

    assert main(["slo", "check", f"{tmp_path}/{name}"]) == 2

    said = capsys.readouterr().err
    assert "cannot be read" in said
    assert "slo init" in said
    assert said.count("\n") == 1


def test_anchors_and_merge_keys(tmp_path: Path) -> None:
    """What is the same in two places may be written once."""
    file = tmp_path / "o.yaml"
    file.write_text(
        "objectives:\n"
        "- &chat {name: chat, kind: first_token, target: 0.99, threshold: 1.5s, routes: &r [chat], min_bad: 5}\n"
        "- {<<: *chat, name: agents, threshold: 8s}\n"
        "- {name: whole, kind: completion, target: 0.99, threshold: 2m, routes: *r}\n"
    )

    chat, agents, whole = load_config(file).promises

    assert (chat.objective.threshold, agents.objective.threshold) == (1.5, 8)
    assert agents.objective.name == "agents"
    assert chat.min_bad == agents.min_bad == 5
    assert chat.objective.routes == agents.objective.routes == whole.objective.routes == ("chat",)


def test_an_anchor_may_be_set_again(tmp_path: Path) -> None:
    """YAML allows it, so nothing is said of it."""
    file = tmp_path / "o.yaml"
    file.write_text(ONE + "select: &a {team: b}\nlabels: &a {team: c}\n")

    assert load_config(file).labels == (("team", "c"),)


def test_a_mistake_that_is_merged_in_has_a_line(tmp_path: Path) -> None:
    """A wrong value behind a merge key is told where it was merged, and where it stands."""
    file = tmp_path / "o.yaml"
    file.write_text("objectives:\n- &a {name: a, kind: completion, target: 99, threshold: 2m}\n- {<<: *a, name: b}\n")

    with pytest.raises(ConfigurationError) as caught:
        load_config(file)

    assert "line 2: objectives[0].target: 99" in str(caught.value)
    assert "line 3: objectives[1].target: 99" in str(caught.value)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    """Editors on Windows write one."""
    file = tmp_path / "o.json"
    file.write_bytes(
        b"\xef\xbb\xbf"
        + json.dumps(
            {
                "objectives": [{"name": "a", "kind": "integrity", "target": 0.9}],
                "burn_rates": [{"severity": "page", "long": "1h", "short": "5m", "factor": 5, "for": "2m"}],
            }
        ).encode()
    )

    assert [promise.objective.name for promise in load_config(file).promises] == ["a"]
