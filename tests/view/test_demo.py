# SPDX-License-Identifier: Apache-2.0
"""`otelstream demo`: what is drawn comes from what an exporter received, and the headline is computed."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("anthropic")

from otelstream import _semconv as names
from otelstream.view._record import SpanRecord
from otelstream.view._timeline import timeline

LIMIT = 120.0


def _run(*words: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL", "PYTEST", "COV"))}
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**kept, "LC_ALL": "C.UTF-8", **environment},
        capture_output=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        timeout=LIMIT,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def piped(folder: Path) -> list[str]:
    """The lines of one demo written to a pipe, 80 columns wide."""
    done = _run("-m", "otelstream", "demo", "--speed", "4", folder=folder, COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def _rows(lines: list[str]) -> list[tuple[str, str, str, str]]:
    """Name, HTTP, native and sentence of every row."""
    found = []
    for index, line in enumerate(lines):
        if match := re.match(r"(\S.{17}) (\S+) +(OK|ERROR|unset|none) ", line):
            # The lanes of its tool calls stand between.
            said = next(after for after in lines[index + 1 :] if re.match(r"  [A-Z]", after))
            found.append((match[1].strip(), match[2], match[3], said.strip()))
    return found


def test_the_first_line_says_what_is_real(piped: list[str]) -> None:
    """Nobody takes the simulated provider for a real one."""
    assert re.match(r"The provider is simulated; the SDKs are real: anthropic \d+\.\d+\.\d+, openai ", piped[0])


def test_the_stories_in_their_order(piped: list[str]) -> None:
    """One row a story, in the order of the catalogue, each with the outcome its name promises."""
    rows = _rows(piped)

    assert [(name, " ".join(said.split()[:2])) for name, _, _, said in rows] == [
        ("mail, then Stop", "Stopped after"),
        ("with hold=True", "Stopped after"),
        ("clean answer", "Complete: 1,221"),
        ("thinking, text", "Complete: 1,021"),
        ("tool use", "Complete: 375"),
        ("three-second stall", "Complete, but"),
        ("error after 200", "Failed after"),
        ("cut connection", "Failed after"),
        ("body just ends", "Cut short"),
        ("malformed tool", "Failed after"),
        ("tool cut off", "Cut off"),
        ("refusal after text", "Refused after"),
        ("repetition loop", "Cut off"),
        ("Stop pressed", "Stopped after"),
        ("client time-out", "Timed out"),
        ("dropped stream", "Dropped after"),
        ("app's own error", "Lost after"),
        ("529, then fine", "Complete on"),
        ("chat just ends", "Cut short"),
        ("response, tool", "Complete: 83"),
    ]


def test_it_opens_with_stop(piped: list[str]) -> None:
    """The mail that Stop could not take back, and the same tool held, are told before anything else is."""
    lines = list(itertools.takewhile(lambda line: not line.startswith("clean answer"), piped))
    first = " ".join(" ".join(lines).split())

    assert "send_email had been committed 0." in first
    assert "committed before Stop send_email (0." in first
    assert "send_email was withheld" in first
    assert first.index("had been committed") < first.index("was withheld")
    assert len(lines) < 16
    assert "1 of 'mail, then Stop', 0 of 'with hold=True'." in " ".join(" ".join(piped).split())


def test_http_is_measured(piped: list[str]) -> None:
    """What was on the wire without otelstream: one 200 after a 529, none where no answer came, else 200."""
    http = {name: said for name, said, _, _ in _rows(piped)}

    assert http.pop("529, then fine") == "529>200"
    assert http.pop("client time-out") == "none"
    assert set(http.values()) == {"200"}


def test_the_headline_is_computed(piped: list[str]) -> None:
    """Said 200: nineteen. Failed after it: error, cut, short body twice, malformed tool input, refusal."""
    assert "19 said 200, 6 of those failed after it." in piped


def test_a_pipe_gets_the_final_table_only(piped: list[str]) -> None:
    """No escape sequence, no line drawn twice, none over 80 columns."""
    assert not any("\x1b" in line for line in piped)
    assert max(len(line) for line in piped[1:-1]) <= 80
    assert sum("clean answer" in line for line in piped) == 1


def test_the_page_has_all_stories(piped: list[str], folder: Path) -> None:
    """The page carries the same rows and headline, in the same order."""
    page = (folder / "otelstream.html").read_text(encoding="utf-8")

    stories = [name.replace("'", "&#x27;") for name, *_ in _rows(piped)]
    places = [page.index(f"<b>{name}</b>") for name in stories]
    assert places == sorted(places)
    assert "<b>19</b> said 200, <b>6</b> of those failed after it." in page


def test_an_altered_script_changes_the_picture(tmp_path: Path) -> None:
    """One story with a fault more, and nothing else edited: row, sentence and headline follow."""
    program = """
    import json, sys, threading
    from dataclasses import replace
    from otelstream.cli._demo import Demo
    from otelstream.demo._stories import STORIES, fault
    from otelstream.view._sentences import headline, sentence
    from otelstream.view._terminal import Style, draw

    story = STORIES[0].faster(10)
    (played,) = story.plays
    altered = replace(story, plays=(replace(played, faults=(fault.cut_after(chunks=50),)),))
    demo = Demo([story, replace(altered, name="altered")])
    demo.run_all()
    lines = [demo.row(0).line, demo.row(1).line]
    json.dump({
        "sentences": [sentence(line) for line in lines],
        "drawn": [draw(line, lines[0].length, 40, Style()).strip() for line in lines],
        "headlines": [str(headline(lines[:1])), str(headline(lines))],
    }, sys.stdout)
    """
    done = _run("-c", textwrap.dedent(program), folder=tmp_path)
    told: dict[str, Any] = json.loads(done.stdout)

    assert told["sentences"][0].startswith("Complete: 1,221 characters")
    assert told["sentences"][1].startswith("Failed after ")
    assert told["drawn"][0][-1] != told["drawn"][1][-1]
    assert len(told["drawn"][1]) < len(told["drawn"][0])
    assert told["headlines"] == [
        "1 said 200, and none of those failed after it.",
        "2 said 200, 1 of those failed after it.",
    ]


@pytest.fixture(scope="module")
def told(folder: Path) -> dict[str, dict[str, Any]]:
    """What `--all --json` tells of every story, by its name."""
    done = _run("-m", "otelstream", "demo", "--all", "--json", "--speed", "3", folder=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return {row["story"]: row for row in json.loads(done.stdout)}


def test_the_pairs_tell_what_made_the_difference(told: dict[str, dict[str, Any]]) -> None:
    """The same answer twice: what the exporter received agrees with the mailbox, which is somebody else."""
    sent, held, later = (told[name] for name in ("mail, then Stop", "with hold=True", "Stop, next stream"))

    assert "send_email had been committed" in sent["sentence"]
    assert "send_email was withheld" in held["sentence"]
    assert "send_email had been committed" in later["sentence"]
    assert [row["mails"] for row in (sent, held, later)] == [1, 0, 1]
    assert [row["span"]["attributes"][names.SIDE_EFFECTS_COMMITTED] for row in (sent, held, later)] == [1, 0, 1]
    assert told["guardrail at 900"]["sentence"].startswith("Withdrawn after 90")
    assert "(guardrail)" in told["guardrail at 900"]["sentence"]
    assert [row["pair"] for row in (sent, held)] == ["The e-mail and the Stop"] * 2
    assert told["clean answer"]["pair"] is None


def test_a_browser_that_leaves(told: dict[str, dict[str, Any]]) -> None:
    """The endpoint that heeds it closes upstream; the other one reads on to the end, for nobody."""
    pytest.importorskip("uvicorn")

    heeds, burns = (told[name]["span"]["attributes"] for name in ("endpoint heeds it", "endpoint burns on"))

    assert heeds[names.CANCEL_TRIGGER] == burns[names.CANCEL_TRIGGER] == "client_disconnect"
    assert (heeds[names.CANCEL_PROPAGATION], heeds[names.OUTCOME]) == ("closed", "cancelled")
    assert (burns[names.CANCEL_PROPAGATION], burns[names.OUTCOME]) == ("drained", "completed")
    assert told["endpoint burns on"]["sentence"].startswith("The client went away after ")


def test_silence_before_a_late_end_is_a_hole(told: dict[str, dict[str, Any]]) -> None:
    """What the core wrote of a stream that hung until its time-out: the last chunk, then a hole to the end."""
    line = timeline(SpanRecord.from_json(json.dumps(told["hangs mid-answer"]["span"])))

    (hole,) = line.holes
    assert hole.end == pytest.approx(line.length)
    assert hole.length == pytest.approx(1.0, abs=0.4)
    assert line.flows[-1].end == pytest.approx(hole.start)


def test_without_uvicorn_one_line_says_which_pair_is_missing(tmp_path: Path) -> None:
    """A pair that cannot be played is left out, and named with what it needs; the others are there."""
    program = """
    import importlib.util
    from otelstream.cli import _demo
    found = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *more: None if name == "uvicorn" else found(name, *more)
    demo = _demo.Demo([], opening=True, pairs=True)
    print(*_demo._notes(demo), *[pair.title for pair in demo.pairs], sep="\\n")
    """
    done = _run("-c", textwrap.dedent(program), folder=tmp_path)

    lines = done.stdout.splitlines()
    assert done.stderr == ""
    assert [line for line in lines if "uvicorn" in line] == [
        "The pair with a browser that leaves is not played: it needs pip install uvicorn"
    ]
    assert lines[-1] == "What was out already"
    assert not any("browser leaves" in line for line in lines[1:-1])


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--speed", "0"], "--speed 0: give a factor"), (["--page", "/nonexistent/x.html"], "--page /nonexistent/x.html")],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, words: list[str], said: str) -> None:
    """Named before anything is played."""
    done = _run("-m", "otelstream", "demo", *words, folder=tmp_path)

    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path) -> None:
    """With only otelstream installed the command names the extra that is missing."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['h11'] = None\n")

    done = _run("-m", "otelstream", "demo", folder=tmp_path, PYTHONPATH=str(tmp_path))

    assert done.returncode == 2
    assert 'pip install "otelstream[testing]"' in done.stderr
    assert len(done.stderr.splitlines()) == 1
