# SPDX-License-Identifier: Apache-2.0
"""`otelstream texture` as it is typed: programs recorded through the real SDK, compared, judged."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from otelstream.cli import main
from otelstream.testing import ProviderSimulator
from otelstream.testing._schedule import Schedule
from otelstream.testing._scripts import Script
from texture.answers import Model

CANARY = "canary-of-the-answer"
ANSWERS = 12
CHAT = f"""
import os, sys
import anthropic

print("{CANARY} of the program", file=sys.stderr)
client = anthropic.Anthropic(base_url=os.environ["SIM"], api_key="k", max_retries=0)
for _ in range({ANSWERS}):
    with client.messages.create(
        model=sys.argv[1], max_tokens=64, messages=[{{"role": "user", "content": "{CANARY}"}}], stream=True
    ) as stream:
        for _ in stream:
            pass
"""
ARGUMENTS = {"question": f"{CANARY} asked"}
SPOKEN = Script().text([f"{CANARY} {word} " for word in range(8)])

Ran = subprocess.CompletedProcess[str]
Type = Callable[..., Ran]


@pytest.fixture
def typed(tmp_path: Path, sim: ProviderSimulator) -> Type:
    """Type `otelstream …` in an empty folder with a chat program, against the provider."""
    (tmp_path / "chat.py").write_text(CHAT, encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL", "PYTEST", "COV"))}
    environment = {**kept, "SIM": sim.base_url, "LC_ALL": "C.UTF-8", "COLUMNS": "140"}

    def run(*words: str) -> Ran:
        return subprocess.run(
            [sys.executable, "-m", "otelstream", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def test_two_models_from_their_programs_to_the_page(typed: Type, sim: ProviderSimulator, tmp_path: Path) -> None:
    """A pause of 0.2 s before the tool and the words before it vanish: found, shown, broken; no word of it is kept."""
    sim.play(SPOKEN.pause(0.2).tool_use("search", ARGUMENTS), schedule=Schedule(first=0.02, gap=0.004), times=None)
    first = typed("texture", "record", "-o", "before.json", "--", sys.executable, "chat.py", "old")
    sim.play(Script().tool_use("search", ARGUMENTS), schedule=Schedule(first=0.02, gap=0.004), times=None)
    logged = typed("run", "--json", "--no-page", "chat.py", "new")
    (tmp_path / "streams.jsonl").write_text(logged.stderr, encoding="utf-8")
    second = typed("texture", "record", "-o", "after.json", "--from", "streams.jsonl")
    (tmp_path / "texture.yaml").write_text("measures: {tool_pause: {fall: 100ms}, preamble: {rise: 0.1}}")

    said = typed("texture", "compare", "before.json", "after.json", "--contract", "texture.yaml", "--page", "t.html")

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert f"otelstream: {ANSWERS} answers of old in before.json" in first.stderr
    assert f"{ANSWERS} answers of new in after.json" in second.stderr
    assert said.returncode == 1, said.stderr
    assert re.match(r"old \(12 answers\) → new \(12 answers\): \d+ of \d+ measures changed\n", said.stdout)
    pause = re.search(
        r"^! pause before tool .* -(\d+) ms \(-\d+ to -\d+\), -(?:9\d|100) % +changed, p < 0.001$",
        said.stdout,
        re.MULTILINE,
    )
    assert pause, said.stdout
    assert 180 <= int(pause[1]) <= 400
    assert re.search(r"^! preamble +12 of 12 +0 of 12 +-100 points", said.stdout, re.MULTILINE), said.stdout
    assert re.search(r"^broken +pause before tool may fall by at most 100 ms; it fell by", said.stdout, re.MULTILINE)
    assert re.search(r"^kept +preamble may rise by at most 10 points$", said.stdout, re.MULTILINE)
    page = (tmp_path / "t.html").read_text(encoding="utf-8")
    recordings = [(tmp_path / name).read_text(encoding="utf-8") for name in ("before.json", "after.json")]
    for kept in (*recordings, said.stdout, said.stderr, page):
        assert CANARY not in kept
        assert "search" not in kept


def test_a_program_keeps_its_exit_code(typed: Type, tmp_path: Path) -> None:
    """What it streamed is kept although it failed; one that streams nothing leaves no file, and a sentence."""
    (tmp_path / "chat.py").write_text(CHAT + "\nsys.exit(7)\n", encoding="utf-8")

    failed = typed("texture", "record", "-o", "it.json", "chat.py", "m")
    empty = typed("texture", "record", "-o", "none.json", "-m", "this")

    assert failed.returncode == 7
    assert f"{ANSWERS} answers of m in it.json" in failed.stderr
    assert empty.returncode == 2
    assert "otelstream texture: no stream was seen: the program never imported a provider's SDK" in empty.stderr
    assert not (tmp_path / "none.json").exists()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with recordings of an old model, a new one, itself again, several, and very few."""
    old, new = Model("old"), Model("new", rate=90)
    several = old.recording(40, 1)
    several.models |= new.recording(40, 1).models
    made = {
        "old": old.recording(60, 1),
        "new": new.recording(60, 2),
        "again": old.recording(60, 3),
        "few": new.recording(5, 4),
        "several": several,
    }
    for name, recording in made.items():
        (tmp_path / f"{name}.json").write_text(recording.to_json(), encoding="utf-8")
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    (tmp_path / "empty.jsonl").write_text("hello\n", encoding="utf-8")
    (tmp_path / "line.jsonl").write_text(_line() + "\n", encoding="utf-8")
    (tmp_path / "bad.yaml").write_text("measures: {lenght: {rise: 3}}", encoding="utf-8")
    (tmp_path / "rate.yaml").write_text("measures: {output_rate: {rise: 20%}}", encoding="utf-8")
    (tmp_path / "wide.yaml").write_text("measures: {output_rate: {rise: 100%}}", encoding="utf-8")
    (tmp_path / "strict.yaml").write_text("undecided: fail\nmeasures: {output_rate: {rise: 0}}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _line() -> str:
    return replace(Model("m", stopped=0).answer(random.Random(1)), name="x").to_json()


CODES = [
    (["old.json", "new.json"], 0, "1 of"),  # a change is no failure
    (["old.json", "again.json"], 0, "no change shown in 12 measures"),
    (["old.json", "new.json", "--contract", "rate.yaml"], 1, "broken     output rate may rise by at most"),
    (["old.json", "again.json", "--contract", "rate.yaml"], 0, "undecided  output rate may rise by at most"),
    (["old.json", "again.json", "--contract", "wide.yaml"], 0, "kept       output rate may rise by at most"),
    (["old.json", "again.json", "--contract", "strict.yaml"], 1, "undecided  output rate may rise by at most 0"),
    (["old.json", "few.json"], 0, "too few answers to say anything, 10 on each side are needed"),
    (["several.json", "several.json"], 0, "new (38 answers) → new (38 answers)"),
    (["several.json", "several.json", "--model", "old", "--model", "new"], 0, "old (38 answers) → new (38 answers)"),
]


@pytest.mark.parametrize(("words", "code", "said"), CODES, ids=[" ".join(words) for words, _, _ in CODES])
def test_what_a_comparison_ends_with(
    words: list[str], code: int, said: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """0, or 1 where the contract is broken."""
    monkeypatch.setenv("COLUMNS", "140")

    assert main(["texture", "compare", *words]) == code, capsys.readouterr().out

    out = capsys.readouterr().out
    assert said in out


def test_json_is_whole(folder: Path, capsys: Any) -> None:
    """The comparison as one object, and nothing beside it, also with a page."""
    assert (
        main(["texture", "compare", "old.json", "new.json", "--json", "--page", "p.html", "--contract", "rate.yaml"])
        == 1
    )

    told = json.loads(capsys.readouterr().out)

    (pair,) = told["models"]
    rate = next(row for row in pair["measures"] if row["measure"] == "output_rate")
    assert (pair["before"]["model"], pair["after"]["model"]) == ("old", "new")
    assert rate["verdict"] == "changed"
    assert rate["interval"][0] < rate["change"] < rate["interval"][1]
    assert rate["before"]["answers"] > 10
    assert rate["relative"] == pytest.approx(rate["change"] / rate["before"]["median"], rel=1e-3)
    assert 0.5 < rate["after_larger"] <= 1
    assert told["contract"] == [
        {
            "model": "new",
            "measure": "output_rate",
            "may": "rise",
            "limit": told["contract"][0]["limit"],
            "verdict": "broken",
        }
    ]
    assert (folder / "p.html").exists()


def test_a_narrow_terminal_without_utf8(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Two lines a measure, none wider than the terminal, in ASCII."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LC_ALL", "C")

    assert main(["texture", "compare", "old.json", "new.json"]) == 0

    out = capsys.readouterr().out
    assert out.isascii()
    assert max(map(len, out.splitlines())) <= 80


WRONG = [
    (["record", "-o", "x.json"], ("give one of these", "--from FILE", "--prometheus URL")),
    (["record", "-o", "x.json", "--from", "line.jsonl", "chat.py"], ("give one of these",)),
    (["record", "-o", "no/x.json", "--from", "line.jsonl"], ("--output no/x.json", "cannot be written", "give a path")),
    (["record", "-o", "x.json", "--from", "none.jsonl"], ("--from none.jsonl: No such file", "otelstream run --json")),
    (["record", "-o", "x.json", "--from", "empty.jsonl"], ("--from empty.jsonl: no line", "otelstream run --json")),
    (["record", "-o", "x.json", "--from", "line.jsonl", "--model", "z"], ("--model z: it is not among", "one of m")),
    (["record", "-o", "x.json", "--from", "line.jsonl", "--window", "1h"], ("--window is for --prometheus",)),
    (["record", "-o", "x.json", "--prometheus", "http://127.0.0.1:9"], ("--prometheus needs --model NAME",)),
    (
        ["record", "-o", "x.json", "--prometheus", "http://me:s@127.0.0.1:9", "--model", "m"],
        ("--prometheus http://127.0.0.1:9 does not answer", "give its base address"),
    ),
    (["record", "-o", "x.json", "--prometheus", "ftp://x", "--model", "m"], ("it is no http address",)),
    (["record", "-o", "x.json", "--prometheus", "http://x", "--window", "soon"], ("--window soon: give a duration",)),
    (["record", "-o", "x.json", "--prometheus", "http://x", "--window", "0h"], ("--window 0h: give a duration",)),
    (["record", "-o", "x.json", "no-such-program"], ("program 'no-such-program' is not found",)),
    (["compare", "old.json"], ("required: AFTER",)),
    (["compare", "old.json", "none.json"], ("none.json: No such file", "otelstream texture record -o none.json")),
    (["compare", "bad.json", "old.json"], ("bad.json: it is no JSON",)),
    (["compare", "old.json", "several.json", "--model", "z"], ("--model z: before has old; give one of these",)),
    (["compare", "old.json", "old.json", *["--model", "old"] * 3], ("--model: give it once, or twice",)),
    (["compare", "old.json", "new.json", "--contract", "bad.yaml"], ("--contract bad.yaml: line 1:", "`length`?")),
    (
        ["compare", "old.json", "new.json", "--contract", "no.yaml"],
        ("--contract no.yaml: cannot be read", "write `mea"),
    ),
    (["compare", "old.json", "new.json", "--page", "no/p.html"], ("--page no/p.html", "give a path")),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_wrong_input_is_one_line_and_2(words: list[str], said: tuple[str, ...], folder: Path, capsys: Any) -> None:
    """The line begins with the command, names what was given and where, and what would do; nothing is written."""
    assert main(["texture", *words]) == 2

    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith("otelstream texture")
    for part in said:
        assert part in told
    assert not (folder / "x.json").exists()
    assert "me:s" not in told
