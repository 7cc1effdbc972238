# SPDX-License-Identifier: Apache-2.0
"""One process of the live hour: it streams stories against its own simulator, and keeps what each scrape was told.

Usage: live_process.py FOLDER NAME PORT PER_MINUTE SEED QUIET_FROM QUIET_UNTIL, until its standard input closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from opentelemetry import metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder

import otelstream
from otelstream.demo._pairs import _ASKS_ONCE, _ASKS_TWICE, Stage
from otelstream.demo._play import STORY_HEADER, client_of, request_of
from otelstream.demo._stories import MORE, STORIES, Story, chat, play_of, read_raw, responses, story_of
from otelstream.testing import ProviderSimulator, Script, prose

SPEED = 4
_CHANGES_ITS_MIND = Script().text(f"Yes, it is safe. {prose(326)} No, it is not. {prose(200)}")
MODELS = ("model-a", "model-b", "model-c")  # those of the week before, too
ROUTES = ("chat", "search", None)
SETTINGS: dict[str, Any] = {
    "stall_threshold": 0.4,
    "freeze_threshold": 0.6,
    "hang_threshold": 5.0,
    "cancel_late_after": 0.2,
    "tools": {"search": "read", "book_flight": "write"},
}
sim = ProviderSimulator


@otelstream.tool(effect="read")
def search(**_: object) -> str:
    time.sleep(0.02)
    return "found"


@otelstream.tool(effect="write")
def send_email(**_: object) -> str:
    time.sleep(0.02)
    return "sent"


def _serve(block: Any) -> None:
    with otelstream.tool_call(block):
        (send_email if block.name == "send_email" else search)()


def early(client: Any, request: dict[str, Any]) -> None:
    """Run a tool as soon as it is named, before its input is there."""
    with client.messages.stream(**request) as stream:
        for event in stream:
            if event.type == "content_block_start" and event.content_block.type == "tool_use":
                _serve(event.content_block)


def eager(client: Any, request: dict[str, Any]) -> None:
    """Run each tool as soon as its input is whole."""
    with client.messages.stream(**request) as stream:
        for event in stream:
            if event.type == "content_block_stop" and event.content_block.type == "tool_use":
                _serve(event.content_block)


def after(client: Any, request: dict[str, Any]) -> None:
    """Run the tools once the answer is whole."""
    with client.messages.stream(**request) as stream:
        message = stream.get_final_message()
    for block in message.content:
        if block.type == "tool_use":
            _serve(block)


def broken_input(client: Any, request: dict[str, Any]) -> None:
    """Run a tool whose input never was JSON."""
    with contextlib.closing(client.messages.create(stream=True, **request)) as events:
        starts = [event.content_block for event in events if event.type == "content_block_start"]
    blocks = [block for block in starts if block.type == "tool_use"]
    for block in blocks:
        _serve(block)


def regret(client: Any, request: dict[str, Any]) -> None:
    """Send the mail, stop, and undo what was sent."""
    with otelstream.turn() as turn:
        with client.messages.stream(**request) as stream:
            for event in stream:
                if event.type == "content_block_stop" and event.content_block.type == "tool_use":
                    _serve(event.content_block)
                    otelstream.record_stop()
                    break
        for call in turn.ledger.committed:
            call.record_compensated()


def act_on_it(client: Any, request: dict[str, Any]) -> None:
    with client.messages.stream(**request) as stream:
        for index, _ in enumerate(stream.text_stream):
            if index == 20:
                otelstream.record_action()


def contradict(client: Any, request: dict[str, Any]) -> None:
    with client.messages.stream(**request) as stream:
        for index, _ in enumerate(stream.text_stream):
            if index == 30:
                otelstream.record_retraction(reason="contradicted")


@otelstream.judge("tells", verdicts=("yes", "no"))
def tells(text: str) -> str | None:
    """The last word of the two that the text says."""
    where, word = max((text.rfind(word), word.lower()) for word in ("Yes", "No,"))
    return word.strip(",") if where >= 0 else None


def believe(client: Any, request: dict[str, Any]) -> None:
    """Act on the first word of an answer that takes it back."""
    with client.messages.stream(**request) as stream:
        for index, _ in enumerate(stream.text_stream):
            if index == 5:
                otelstream.record_action()


def dawdle(client: Any, request: dict[str, Any]) -> None:
    """Stop reading for a moment, as a slow consumer does."""
    with client.messages.stream(**request) as stream:
        for index, _ in enumerate(stream.text_stream):
            if index == 20:
                time.sleep(SETTINGS["stall_threshold"] * 1.5)


def late_stop(client: Any, request: dict[str, Any]) -> None:
    """Ask for a Stop and read on for too long."""
    with otelstream.turn(), client.messages.stream(**request) as stream:
        for index, _ in enumerate(stream.text_stream):
            if index == 20:
                otelstream.record_stop()
                time.sleep(0.3)
            if index > 25:
                return


def drained_stop(client: Any, request: dict[str, Any]) -> None:
    with otelstream.turn(), client.messages.stream(**request) as stream:
        for index, _ in enumerate(stream.text_stream):
            if index == 20:
                otelstream.record_stop()


def blocked_loop(client: Any, request: dict[str, Any]) -> None:
    """Block the event loop while the answer flows."""

    async def answer() -> None:
        import anthropic

        async with (
            anthropic.AsyncAnthropic(base_url=str(client.base_url), api_key=client.api_key) as own,
            own.messages.stream(**request) as stream,
        ):
            index = 0
            async for _ in stream.text_stream:
                index += 1
                if index == 20:
                    time.sleep(SETTINGS["stall_threshold"] * 1.5)  # noqa: ASYNC251 - what is being watched

    asyncio.run(answer())


USUAL = (
    story_of("whole", play_of("text_long", 0.5, 0.02)),
    story_of("whole, cached", play_of("text_cache_read", 0.2, 0.02)),
    story_of("whole, cache written", play_of("text_cache_write", 0.8, 0.02)),
    story_of("whole, thinking", play_of("thinking_long", 0.4, 0.02)),
    story_of("whole, chat", play_of("text_short", 0.4, 0.03), chat),
    story_of("whole, response", play_of("text_short", 0.4, 0.03), responses),
    story_of("tools after", play_of(_ASKS_TWICE, 0.4, 0.01), after),
)
SELDOM = (
    story_of("early tool", play_of(_ASKS_ONCE, 0.4, 0.02), early),
    story_of("eager tool", play_of(_ASKS_TWICE, 0.4, 0.02), eager),
    story_of("broken input", play_of(_ASKS_ONCE, 0.4, 0.02, sim.malformed_tool_json("end")), broken_input),
    story_of("regret", play_of(_ASKS_TWICE, 0.4, 0.02), regret),
    story_of("action", play_of("text_long", 0.4, 0.02), act_on_it),
    story_of("contradicted", play_of("text_long", 0.4, 0.02), contradict),
    story_of("taken back", play_of(_CHANGES_ITS_MIND, 0.4, 0.02), believe),
    story_of("dawdle", play_of("text_long", 0.4, 0.02), dawdle),
    story_of("late stop", play_of("text_long", 0.4, 0.02), late_stop),
    story_of("drained stop", play_of("text_long", 0.4, 0.02), drained_stop),
    story_of("blocked loop", play_of("text_long", 0.4, 0.02), blocked_loop),
    story_of("chat, 429", play_of("text_short", 0, 0, sim.http_error(429)), chat),
    story_of("chat cut", play_of("text_long", 0.4, 0.02, sim.cut_after(chunks=20)), chat),
    story_of("response, error", play_of("text_long", 0.4, 0.02, sim.error_after(chunks=20)), responses),
    story_of("rate limited", play_of("text_short", 0, 0, sim.http_error(429)), read_raw),
    story_of(
        "500, then fine",
        (play_of("text_short", 0, 0, sim.http_error(500, retry_after=0.2)), play_of("text_short", 0.2, 0.02)),
        max_retries=1,
    ),
    story_of("hangs at first", play_of("text_short", 0, 0, sim.slow_headers(400.0)), timeout=80.0),
)


class Player:
    """Plays stories, each name once at a time, for so long as there is no quiet."""

    def __init__(self, provider: ProviderSimulator, seed: int, quiet: tuple[float, float]) -> None:
        self.sim, self.dice, self.quiet = provider, random.Random(seed), quiet
        self.client = client_of(provider)
        self.stage = Stage(provider.base_url, SPEED)
        pairs = (self.stage.opening(), *self.stage.pairs())
        staged = [story for pair in pairs for story in pair.stories]
        long = play_of("text_long", 0.5, 0.02)
        cut = play_of("text_long", 0.5, 0.02, sim.cut_after(chunks=20))
        browsed = [
            story_of("browser reads", long, self._browse("heeds", "browser reads", 10**9)),
            story_of("browser, cut", cut, self._browse("heeds", "browser, cut", 10**9)),
        ]
        self.usual = [story.faster(SPEED) for story in (*USUAL, browsed[0])]
        self.seldom = [story.faster(SPEED) for story in (*STORIES, *MORE, *SELDOM, *staged, browsed[1])]
        self.locks = {story.name: threading.Lock() for story in (*self.usual, *self.seldom)}
        self.stopping = threading.Event()
        self.begun: dict[str, int] = {}

    def _browse(self, path: str, name: str, until: int) -> Callable[[Any, Any], None]:
        def act(_client: Any, _request: dict[str, Any]) -> None:
            if self.stage.hop is not None:
                self.stage.hop.browse(path, name, until, 20)

        return act

    def run(self, per_minute: float, lanes: int = 5) -> None:
        """The seldom come in turn, so that each of them comes; every third stream is one."""
        turn, number = itertools.count(self.dice.randrange(len(self.seldom))), itertools.count()

        def lane() -> None:
            while not self.stopping.wait(self.dice.expovariate(per_minute / 60 / lanes)):
                if not self.quiet[0] <= time.time() < self.quiet[1]:
                    seldom = next(number) % 3 == 0
                    self.play(self.seldom[next(turn) % len(self.seldom)] if seldom else self.dice.choice(self.usual))

        for _ in range(lanes):
            threading.Thread(target=lane, daemon=True).start()

    def play(self, story: Story) -> None:
        if not self.locks[story.name].acquire(blocking=False):
            return
        try:
            self.begun[story.name] = self.begun.get(story.name, 0) + 1
            for part in story.plays:
                self.sim.play(
                    part.script,
                    schedule=part.schedule,
                    fault=list(part.faults),
                    when=lambda asked: asked.headers.get(STORY_HEADER) == story.name,
                )
            request = {**request_of(story.name), "model": self.dice.choice(MODELS)}
            with otelstream.turn(route=self.dice.choice(ROUTES)):
                story.act(self.client.with_options(**story.client), request)
        except Exception:  # what the stories are about
            pass
        finally:
            self.locks[story.name].release()


ENDED: Counter[str] = Counter()


def count(view: Any) -> None:
    """Count again, by nothing that metrics are made of."""
    ENDED[f"{view.outcome} {view.phase} {view.fault or 'none'}"] += 1


def serve_metrics(port: int, keep: Path) -> None:
    """/metrics as prometheus_client serves it; each answer is kept: that is what this process had counted then."""
    keep.mkdir(parents=True)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            encode, content_type = choose_encoder(self.headers.get("Accept") or "")
            body = encode(REGISTRY)
            (keep / "ended.json").write_text(json.dumps(ENDED), encoding="utf-8")
            (keep / f"{time.time():.3f}.gz").write_bytes(gzip.compress(body, 1))
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def main(folder: str, name: str, port: str, per_minute: str, seed: str, quiet_from: str, quiet_until: str) -> None:
    for collector in list(REGISTRY._collector_to_names):
        REGISTRY.unregister(collector)
    metrics.set_meter_provider(MeterProvider([PrometheusMetricReader()]))
    otelstream.instrument(**SETTINGS)
    otelstream.on_stream_end(count)
    serve_metrics(int(port), Path(folder) / name)
    with ProviderSimulator() as provider:
        player = Player(provider, int(seed), (float(quiet_from), float(quiet_until)))
        player.run(float(per_minute))
        sys.stdin.read()
        player.stopping.set()
        (Path(folder) / name / "begun.txt").write_text(repr(player.begun), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
