# SPDX-License-Identifier: Apache-2.0
"""What the live hour holds panels against: its processes made one that never died."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from .live_truth import Row, immortal, table, verdict

BEGIN = 1_800_000_000
LINE = 'otelstream_streams_total{{gen_ai_request_model="m",otelstream_route=""}} {}.0 # {{trace_id="1"}} 1.0'
OPEN = 'otelstream_stream_active{{otelstream_stream_state="flowing"}} {}.0'


def life(folder: Path, name: str, told: dict[int, tuple[int, int]]) -> dict[str, str]:
    kept = folder / "truth" / name
    kept.mkdir(parents=True)
    for second, (streams, now) in told.items():
        body = f"# HELP\n{LINE.format(streams)}\n{OPEN.format(now)}\n# EOF\n"
        (kept / f"{BEGIN + second}.000.gz").write_bytes(gzip.compress(body.encode()))
    return {"kept": name, "job": "j", "instance": name, "cluster": ""}


def test_lives_are_summed(tmp_path: Path) -> None:
    """A counter is what all lives of a lane had told by then, from zero on, of the dead too; a gauge only of the
    living; an empty label and an exemplar are none."""
    lives = [life(tmp_path, "a.1", {15: (1, 5), 30: (3, 5)}), life(tmp_path, "a.2", {60: (1, 7), 75: (4, 7)})]
    (tmp_path / "lives.json").write_text(json.dumps(lives), encoding="utf-8")

    told = [line for _, line in immortal(tmp_path, BEGIN, BEGIN + 90)]

    streams = [line for line in told if line.startswith("otelstream_streams_total")]
    assert streams[0] == f'otelstream_streams_total{{job="j",instance="a",gen_ai_request_model="m"}} 0 {BEGIN}'
    assert [float(line.split()[-2]) for line in streams] == [0, 1, 3, 3, 4, 7, 7]
    flowing = [line.split()[-2:] for line in told if line.startswith("otelstream_stream_active")]
    assert [(value, int(second) - BEGIN) for value, second in flowing] == [
        ("5.0", 15), ("5.0", 30), ("5.0", 45), ("7.0", 60), ("7.0", 75), ("7.0", 90),
    ]  # fmt: skip


def test_what_was_never_fed_is_named() -> None:
    """A panel without a number says so; of others the worst line is told."""
    nothing = Row("otelstream-streams", "Who?", "A", "", float("nan"), float("nan"))
    near, far = (Row("otelstream-streams", "How?", "A", f"line={said}", said, 100) for said in (99, 90))

    assert verdict([nothing]) == "NEVER FED"
    assert verdict([near, far]) == "-10.0% (line=90)"
    assert "| streams | How? | 2 | 1 | -10.0% (line=90) |" in table([nothing, near, far])
