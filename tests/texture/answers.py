# SPDX-License-Identifier: Apache-2.0
"""Answers as models give them: heavy tails, the chunks of an answer at its own pace, records as the core writes."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from otelstream import _semconv as names
from otelstream._core.record.cadence import Cadence
from otelstream.texture._recording import Recording
from otelstream.view._record import Moment, SpanRecord


@dataclass(frozen=True)
class Model:
    """How a model answers. Medians, where a distribution has no other parameter."""

    name: str = "model-a"
    first_token: float = 0.6
    thinks: float = 0.3
    thinking: float = 4.0
    rate: float = 35.0  # tokens a second, of the middle answer
    chunk: float = 14.0  # characters
    length: float = 900.0
    tools: float = 0.6  # share of answers with a tool call
    preamble: float = 0.85
    pause: float = 0.8
    late: float = 0.0  # share of answers that come eight seconds later
    freezes: float = 0.02
    stopped: float = 0.03

    def answer(self, dice: random.Random) -> SpanRecord:
        """One answer, from the request to its end."""
        mood = dice.lognormvariate(0, 0.25)  # this answer's own pace: what makes its chunks go together
        at = first_chunk = _tailed(dice, self.first_token, 0.5) + (8 if self.late and dice.random() < self.late else 0)
        cadence = Cadence()
        cadence.open(at)
        thought = dice.random() < self.thinks
        if thought:
            at += _tailed(dice, self.thinking, 0.8)
            cadence.add([at - first_chunk], at - first_chunk, 200, at)
        first_token = at
        length = max(20, int(dice.lognormvariate(0, 0.7) * self.length))
        size = max(2.0, self.chunk * dice.lognormvariate(0, 0.15))
        chunks = max(2, int(length / size))
        gap = size / 4 / self.rate / mood
        frozen = dice.randrange(chunks) if dice.random() < self.freezes else -1
        for index in range(chunks):
            # Many arrive in one packet with the one before; some wait for a scheduler.
            wait = gap * (dice.paretovariate(2.5) if dice.random() < 0.05 else dice.lognormvariate(-0.3, 0.6))
            wait += dice.uniform(2.5, 8) if index == frozen else 0.0
            at += wait
            cadence.add([wait], wait, int(size), at)
        events = [_event(names.EVENT_FIRST_CHUNK, first_chunk, {names.BLOCK_KIND: "thinking" if thought else "text"})]
        if dice.random() < self.tools:
            pause = _tailed(dice, self.pause, 0.35) if self.pause else gap * dice.lognormvariate(0, 0.5)
            spoken = dice.random() < self.preamble
            said = {names.TOOL_CALL_PAUSE: pause, names.TOOL_CALL_PREAMBLE: spoken, names.TOOL_NAME: "search"}
            at += pause
            cadence.add([pause], pause, 40, at)
            events.append(_event(names.EVENT_TOOL_READY, at, said))
        cadence.close(at)
        for window in cadence.windows:
            said = {names.CADENCE_CHUNKS: window.chunks, names.CADENCE_CHARS: window.chars}
            events.append(_event(names.EVENT_CADENCE, window.end, said))
        outcome = "cancelled" if dice.random() < self.stopped else "completed"
        attributes: dict[str, Any] = {
            names.REQUEST_MODEL: self.name,
            names.OUTCOME: outcome,
            names.TIME_TO_FIRST_CHUNK: first_chunk,
            names.TIME_TO_FIRST_TOKEN: first_token,
            names.OUTPUT_RATE: (length + 200 * thought) / 4 / (at - first_chunk),
            names.GAP_P50: cadence.all.quantile(0.5),
            names.GAP_P95: cadence.all.quantile(0.95),
            names.GAP_MAX: cadence.all.longest,
            names.VISIBLE_CHARS: length,
            names.STALLS_PROVIDER: int(frozen >= 0),
        }
        return SpanRecord("chat", "otelstream", "", "", 0.0, at, "UNSET", attributes, tuple(events), 1)

    def recording(self, answers: int, seed: object) -> Recording:
        """So many answers, stopped ones among them."""
        dice = random.Random(str(seed))
        recording = Recording()
        for _ in range(answers):
            recording.add(self.answer(dice))
        return recording


def _tailed(dice: random.Random, middle: float, spread: float) -> float:
    """Around a middle, and one in thirty far beyond it."""
    value = middle * dice.lognormvariate(0, spread)
    return value * dice.paretovariate(1.5) * 2 if dice.random() < 1 / 30 else value


def _event(name: str, at: float, said: dict[str, Any]) -> Moment:
    return Moment(name, at, said)
