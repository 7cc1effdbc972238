# SPDX-License-Identifier: Apache-2.0
"""Measure ways to get the text of a batch of Anthropic deltas: nanoseconds a delta."""

from __future__ import annotations

import json
import random
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from otelstream._core.record.block import Block

PREFIX = '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"'
START = len(PREFIX)
BATCH = 48
BORDER = re.compile(f'" *}} *}} *\n{re.escape(PREFIX)}')


def parsed(datas: list[str]) -> str:
    return "".join([json.loads(data)["delta"]["text"] for data in datas])


def unescaped(text: str) -> str:
    return str(json.loads(f'"{text}"')) if "\\" in text else text


def sliced(datas: list[str]) -> str:
    return unescaped("".join([data[START : data.rfind('"')] for data in datas if data.startswith(PREFIX)]))


def sliced_unseen(datas: list[str]) -> str:
    return unescaped("".join([data[START : data.rfind('"')] for data in datas]))


def partitioned(datas: list[str]) -> str:
    heads, _, tails = zip(*[data.rpartition('"') for data in datas], strict=True)
    assert {tail.replace(" ", "") for tail in set(tails)} == {"}}"}
    return unescaped("".join([head[START:] for head in heads if head.startswith(PREFIX)]))


def split(datas: list[str]) -> str:
    raws = BORDER.split("\n".join(datas)[START:] + "\n" + PREFIX)
    return unescaped("".join(raws))


BLOCK = Block((0, 0), "text")
BLOCK.learn(f'{PREFIX}a"}}}}', "text", "a")


def ours(datas: list[str]) -> str:
    return BLOCK.texts(datas) or ""


WAYS: dict[str, Callable[[list[str]], str]] = {
    "json.loads of each": parsed,
    "prefix checked, sliced to the last quote": sliced,
    "sliced to the last quote, nothing checked": sliced_unseen,
    "partitioned at the last quote, all checked": partitioned,
    "split by one pattern, not decoded strictly": split,
    "otelstream: cut, or sliced to the last quote where padded, checked as a whole": ours,
}


def batch(size: int, *, padded: bool, escapes: bool) -> list[str]:
    """Make 48 deltas of so many characters; every sixth ends in an escape."""
    rng = random.Random(size)
    datas = []
    for place in range(BATCH):
        text = "".join(rng.choice("etaoin shrdlu") for _ in range(size))
        if escapes and place % 6 == 0:
            text = text[:-1] + "\n"
        padding = " " * rng.randrange(16) if padded else ""
        datas.append(f'{PREFIX}{json.dumps(text)[1:-1]}"}}{padding}}}')
    return datas


def cost(way: Callable[[list[str]], str], datas: list[str], rounds: int = 5_000) -> float:
    """Return the nanoseconds a delta of the best round."""
    best = float("inf")
    for _ in range(rounds if way is not parsed else rounds // 20):
        begin = time.perf_counter_ns()
        way(datas)
        best = min(best, time.perf_counter_ns() - begin)
    return best / BATCH


def main() -> None:
    """Print one table."""
    shapes = [(size, padded, escapes) for size in (5, 20, 85) for padded, escapes in ((True, False), (True, True))]
    heads = (f"{size}{' + esc' if escapes else ''}" for size, _, escapes in shapes)
    print(f"{'ns a delta, by characters':48}" + "".join(f"{head:>9}" for head in heads))
    for name, way in WAYS.items():
        figures = []
        for size, padded, escapes in shapes:
            datas = batch(size, padded=padded, escapes=escapes)
            assert way(datas) == parsed(datas)
            figures.append(cost(way, datas))
        print(f"{name:48}" + "".join(f"{figure:9.0f}" for figure in figures))


if __name__ == "__main__":
    main()
