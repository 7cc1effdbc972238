# SPDX-License-Identifier: Apache-2.0
"""What is typed wrongly at the command line: exit code 2, and one line that names field, value and remedy."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from otelstream.cli import main

WRONG: list[tuple[list[str], tuple[str, ...]]] = [
    # numbers
    (["demo", "--port", "99999"], ("--port 99999", "from 1 to 65535")),
    (["demo", "--serve", "--port", "99999"], ("--port 99999", "from 1 to 65535")),
    (["demo", "--port", "0"], ("--port 0", "from 1 to 65535")),
    (["demo", "--port", "x"], ("--port x", "from 1 to 65535")),
    (["demo", "--port", "9" * 5000], ("--port 999", "from 1 to 65535")),
    (["demo", "--speed", "nan"], ("--speed nan", "from 0.1 to 20")),
    (["demo", "--speed", "x"], ("--speed x", "from 0.1 to 20")),
    (["simulator", "--port", "-1"], ("--port -1", "from 0 to 65535")),
    (["simulator", "--port", "1.5"], ("--port 1.5", "from 0 to 65535")),
    (["simulator", "--gap", "nan"], ("--gap nan", "from 0 to 86400")),
    (["simulator", "--gap", "x"], ("--gap x", "from 0 to 86400")),
    (["simulator", "--first", "inf"], ("--first inf", "from 0 to 86400")),
    (["simulator", "--first", "-0.1"], ("--first -0.1", "from 0 to 86400")),
    (["collector", "-o", "x", "--traces-per-second", "9" * 5000], ("--traces-per-second '999", "from 1 to")),
    # faults
    (["simulator", "--fault", "nope"], ("--fault nope", "no fault 'nope'", "cut_after")),
    (["simulator", "--fault", ""], ("--fault", "no fault ''", "cut_after")),
    (["simulator", "--fault", "cut_after=chunks:forty"], ("--fault cut_after", "chunks:forty", "a whole number")),
    (["simulator", "--fault", "hang_after=chunks:1.5"], ("--fault hang_after", "chunks:1.5", "a whole number")),
    (["simulator", "--fault", "cut_after=chunks:-3"], ("--fault cut_after", "chunks:-3", "a whole number")),
    (["simulator", "--fault", "cut_after=chunks:true"], ("--fault cut_after", "chunks:true", "a whole number")),
    (["simulator", "--fault", "cut_after=events:[]"], ("--fault cut_after", "events:[]", "a whole number")),
    (["simulator", "--fault", "cut_after=chunks:9999"], ("cut_after=chunks:9999", "it has only")),
    (["simulator", "--fault", "cut_after=soon"], ("--fault cut_after", "point:soon", "request, headers, finish")),
    (["simulator", "--fault", "cut_after=chunk:3"], ("--fault cut_after", "chunk:3", "point, chunks, events")),
    (["simulator", "--fault", "cut_after=1,2"], ("--fault cut_after", "'2'", "point, chunks, events")),
    (["simulator", "--fault", "cut_after=1,point:2"], ("--fault cut_after", "point:2", "is there twice")),
    (["simulator", "--fault", "cut_after"], ("cut_after", "give one point")),
    (["simulator", "--fault", "stall_after=x"], ("--fault stall_after", "seconds:x", "a number from 0")),
    (["simulator", "--fault", "stall_after=nan,chunks:2"], ("--fault stall_after", "seconds:nan", "a number from 0")),
    (["simulator", "--fault", "slow_headers=-1"], ("--fault slow_headers", "seconds:-1", "a number from 0")),
    (["simulator", "--fault", "dribble=size:x"], ("--fault dribble", "size:x", "a whole number")),
    (["simulator", "--fault", "dribble=gap:inf"], ("--fault dribble", "gap:inf", "a number from 0")),
    (["simulator", "--fault", "huge_event_after=3,chars:1e400"], ("chars:1e400", "a whole number")),
    (["simulator", "--fault", "huge_event_after=3,chars:99999999999"], ("chars:99999999999", "a whole number")),
    (["simulator", "--fault", "repeat_after=3,period:0"], ("period:0", "a whole number from 1")),
    (["simulator", "--fault", "repeat_after=3,chunk:0"], ("chunk:0", "a whole number from 1")),
    (["simulator", "--fault", "http_error=200"], ("http_error", "200", "from 400 to 599")),
    (["simulator", "--fault", "http_error=retry_after:nan"], ("retry_after:nan", "a number from 0")),
    (["simulator", "--fault", "http_error=headers:x"], ("headers:x", "a JSON object")),
    (["simulator", "--fault", "malformed_frame_after=3,kind:x"], ("kind:x", "json, utf8")),
    (["simulator", "--fault", "gzip=1"], ("--fault gzip", "'1'", "no value")),
    # names and files
    (["simulator", "--script", ""], ("no script ''",)),
    (["simulator", "--script", "list.sse"], ("--script list.sse", "recorded message stream")),
    (["simulator", "--script", "bytes.sse"], ("--script bytes.sse", "recorded message stream")),
    (["simulator", "--script", "folder.sse"], ("--script folder.sse", "Is a directory")),
    (["simulator", "--host", "a" * 70], ("--host aaa", "give a name or an address")),
    (["simulator", "--host", ""], ("--host", "give a name or an address")),
    (["slo", "rules", "-o", "x", "--datasource-uid", ""], ("--datasource-uid", "give the uid")),
    (["slo", "rules", "-o", "x", "--datasource-uid", "\udcff"], ("--datasource-uid", "give the uid")),
    # the command itself
    ([], ("required: COMMAND", "otelstream --help")),
    (["dmeo"], ("invalid choice: 'dmeo'", "demo")),
    (["demo", "--sped", "3"], ("unrecognized arguments: --sped", "otelstream --help")),
    (["demo", "--port"], ("--port expected one argument", "otelstream demo --help")),
    (["slo", "rules"], ("required: -o/--output", "otelstream slo rules --help")),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG, ids=[" ".join(case[0])[:60] or "nothing" for case in WRONG])
def test_wrong_input_is_one_line_and_2(
    arguments: list[str],
    said: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The line begins with the command, names what was given and where, and what would do."""
    monkeypatch.chdir(tmp_path)
    for served in ("otelstream.testing._simulator.ProviderSimulator.start", "otelstream.cli._demo._start_replay"):
        monkeypatch.setattr(served, lambda *_: pytest.fail("this was accepted"))
    (tmp_path / "list.sse").write_text("event: content_block_delta\ndata: [1]\n\n")
    (tmp_path / "bytes.sse").write_bytes(b"event: \xff\ndata: \xff\n\n")
    (tmp_path / "folder.sse").mkdir()

    assert main(arguments) == 2

    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith("otelstream")
    for part in said:
        assert part in told


@pytest.mark.parametrize(
    "fault",
    [
        "cut_after=chunks:4",
        "cut_after=4",
        "cut_after=request",
        "stall_after=3,chunks:20",
        "stall_after=0.5,point:headers",
        "ping_only_after=null,chunks:3",
        "http_error=529,retry_after:0.1,body:5",
        'http_error=429,headers:{"x": "y"}',
        "tool_input_cut_off=0.5",
        "gzip",
        " gzip ",
    ],
)
def test_what_help_shows_is_accepted(fault: str) -> None:
    """Every form of a fault that the help and the docs show is read, and shown in the log as it was typed."""
    from otelstream.cli._fault import read_fault

    assert str(read_fault(fault)) == fault.strip()


@pytest.mark.parametrize(("given", "body"), [("x", b"x"), ("5", b"5"), ('"a: b"', b"a: b"), ("[]", b"[]")])
def test_a_text_may_look_like_anything(given: str, body: bytes) -> None:
    """What a fault takes as text is text, in quotes or without."""
    from otelstream.cli._fault import read_fault
    from otelstream.testing._orders import make_plan

    assert make_plan("text_short", read_fault(f"http_error=529,body:{given}"), None).body == body


def test_a_name_that_the_terminal_cannot_show(tmp_path: Path) -> None:
    """A folder whose name is no UTF-8 is written to, and shown with what can be shown."""
    import subprocess

    out = f"{tmp_path}/caf\udce9"
    done = subprocess.run(
        [sys.executable, "-m", "otelstream", "slo", "runbook", "-o", out], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "runbook.md" in done.stdout
