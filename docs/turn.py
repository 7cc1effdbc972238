# SPDX-License-Identifier: Apache-2.0
"""Make docs/turn.svg: run one turn with a tool and a Stop against a local provider, and draw what it came to."""

from __future__ import annotations

import time
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import anthropic

import otelstream
from otelstream.testing import ProviderSimulator, Schedule, Script, prose

PICTURE = Path(__file__).parent / "turn.svg"
LETTER = {"to": "crew@harbour.example", "body": "The ferry leaves at six."}
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1b1f24 }
.m { fill: #55606b }
.line { stroke: #d5dbe1 }
.flow { fill: #2f6fb3 }
.tool { fill: #1b6e35 }
.lost { fill: none; stroke: #855600; stroke-dasharray: 4 3 }
.stop { stroke: #855600; stroke-width: 2 }
.stopped { fill: #855600; font-weight: 600 }
@media (prefers-color-scheme: dark) {
  text { fill: #e7ebee }
  .m { fill: #a3adb7 }
  .line { stroke: #323d47 }
  .flow { fill: #6daaea }
  .tool { fill: #74d48e }
  .lost, .stop { stroke: #efb63e }
  .stopped { fill: #efb63e }
}
"""


@dataclass(frozen=True)
class Bar:
    """One lane of the picture; times are seconds since the turn began."""

    name: str
    kind: str
    start: float
    end: float
    says: str


@dataclass(frozen=True)
class Facts:
    """What happened."""

    bars: tuple[Bar, ...]
    stop: float
    ledger: tuple[str, ...]


def run() -> Facts:
    """Ask, let a tool run, and press Stop in the midst of the second answer."""

    @otelstream.tool(effect="write")
    def send_email(to: str, body: str) -> str:
        time.sleep(0.4)
        return "sent"

    asks = Script("mail").text(prose(180)).tool_use("send_email", LETTER)
    goes_on = Script("goes on").text(prose(900))
    ask: dict[str, Any] = {"model": "claude-example", "max_tokens": 1024}
    messages: list[Any] = [{"role": "user", "content": "Tell the crew."}]
    otelstream.instrument(spans="off")
    try:
        with (
            ProviderSimulator() as provider,
            anthropic.Anthropic(base_url=provider.base_url, api_key="none", max_retries=0) as client,
            otelstream.turn("chat-1") as turn,
        ):
            provider.play(asks, schedule=Schedule(first=0.3, gap=0.03))
            provider.play(goes_on, schedule=Schedule(first=0.3, gap=0.03))
            with client.messages.stream(**ask, messages=messages) as stream:
                message = stream.get_final_message()
            results = [
                {"type": "tool_result", "tool_use_id": block.id, "content": send_email(**block.input)}
                for block in message.content
                if block.type == "tool_use"
            ]
            messages += [{"role": "assistant", "content": message.content}, {"role": "user", "content": results}]
            with client.messages.stream(**ask, messages=messages) as stream:
                for number, _ in enumerate(stream.text_stream):
                    if number == 20:
                        otelstream.record_stop("chat-1")
                        break
            return _facts(turn)
    finally:
        otelstream.uninstrument()


def _facts(turn: Any) -> Facts:
    streams = [view._stream for view in turn.streams]
    began = streams[0].started
    bars = []
    for number, (view, stream) in enumerate(zip(turn.streams, streams, strict=True), 1):
        said = view.outcome if view.trigger is None else f"{view.outcome}: {view.trigger}, {view.propagation}"
        bars.append(Bar(f"stream {number}", "flow", stream.started - began, stream.end_at - began, said))
    for call in turn.tool_calls:
        start, end = (at - began for at in (call.dispatched_at, call.finished_at))
        bars.append(Bar(f"{call.name} ({call.effect})", "tool", start, end, call.state))
    bars.sort(key=lambda bar: bar.start)
    stopped = streams[-1].cancel
    ledger = [f"{word}: {', '.join(call.name for call in calls)}" for word, calls in turn.ledger if calls]
    return Facts(tuple(bars), stopped.at - began, tuple(ledger))


def draw(facts: Facts) -> str:
    """The picture, for light and dark pages alike."""
    left, width, lane = 150, 700, 44
    span = max(bar.end for bar in facts.bars) * 1.25
    bottom = 44 + lane * len(facts.bars)

    def x(at: float) -> float:
        return round(left + width * at / span, 1)

    drawn = []
    for index, bar in enumerate(facts.bars):
        y = 44 + lane * index
        drawn.append(f'<line class="line" x1="{left}" x2="{left + width}" y1="{y + 26}" y2="{y + 26}"/>')
        drawn.append(f'<text x="{left - 12}" y="{y + 13}" text-anchor="end">{escape(bar.name)}</text>')
        drawn.append(_rect(bar.kind, x(bar.start), x(bar.end), y))
        if index == len(facts.bars) - 1:
            drawn.append(_rect("lost", x(bar.end), left + width, y))
        says = f"{escape(bar.says)}, {bar.end - bar.start:.1f} s"
        drawn.append(f'<text class="m" x="{x(bar.start)}" y="{y + 40}">{says}</text>')
    stop = x(facts.stop)
    drawn.append(f'<line class="stop" x1="{stop}" x2="{stop}" y1="30" y2="{bottom - 18}"/>')
    drawn.append(f'<text class="stopped" x="{stop}" y="22" text-anchor="middle">Stop, after {facts.stop:.1f} s</text>')
    ledger = "; ".join(facts.ledger)
    drawn.append(f'<text x="{left}" y="{bottom + 24}">The ledger of this Stop: {escape(ledger)}</text>')
    label = f"One turn: {', '.join(bar.name for bar in facts.bars)}; Stop after {facts.stop:.1f} s. {ledger}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 20} {bottom + 40}" role="img"'
    return f'{head} aria-label="{escape(label)}">\n<style>{STYLE}</style>\n' + "\n".join(drawn) + "\n</svg>\n"


def _rect(kind: str, start: float, end: float, y: int) -> str:
    return f'<rect class="{kind}" x="{start}" y="{y}" width="{round(end - start, 1)}" height="18" rx="3"/>'


if __name__ == "__main__":
    PICTURE.write_text(draw(run()), encoding="utf-8")
