# SPDX-License-Identifier: Apache-2.0
"""A managed agent session on a real socket, read by either colour of client, and what was said of its requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import SimpleNamespace
from typing import Any

import anthropic
import pytest
from tools.bench import Bench, instrumented

from otelstream._core.record.host import hosts
from otelstream._core.record.stream import StreamObservation
from otelstream.anthropic import _sessions
from otelstream.anthropic.provider import PROVIDER
from otelstream.testing import ProviderSimulator, Script

try:
    from anthropic.types.beta import BetaManagedAgentsDeltaEvent  # noqa: F401
except ImportError:  # an SDK without previews
    collect_ignore_glob = ["test_*.py"]

WHEN = "2026-11-28T12:00:00Z"
TEXT = "It blows hard over the harbour, from the north."
BOTH = ("agent.message", "agent.thinking")


def said(kind: str, id: str = "sevt_said", **fields: Any) -> dict[str, Any]:  # noqa: A002
    """An event of a session that is no part of a message."""
    return {"type": kind, "id": id, "processed_at": WHEN, **fields}


def delta(id: str, text: str) -> dict[str, Any]:  # noqa: A002
    content = {"type": "content_delta", "index": 0, "content": {"type": "text", "text": text}}
    return {"type": "event_delta", "event_id": id, "delta": content}


def preview(id: str, kind: str = "agent.message") -> dict[str, Any]:  # noqa: A002
    return {"type": "event_start", "event": {"type": kind, "id": id}}


def begins(id: str) -> dict[str, Any]:  # noqa: A002
    return said("span.model_request_start", id)


def ends(id: str, *, is_error: bool = False, output: int = 5) -> dict[str, Any]:  # noqa: A002
    usage = {"input_tokens": 7, "output_tokens": output, "cache_read_input_tokens": 2, "cache_creation_input_tokens": 1}
    return said("span.model_request_end", f"{id}_end", model_request_start_id=id, is_error=is_error, model_usage=usage)


def message(id: str, text: str) -> dict[str, Any]:  # noqa: A002
    return said("agent.message", id, content=[{"type": "text", "text": text}])


def connection(*, previews: bool = True) -> _sessions.Session:
    """A connection without a client."""
    query = b"event_deltas%5B%5D=agent.message" if previews else b""
    url = SimpleNamespace(path="/v1/sessions/sesn_1/events/stream", query=query)
    answer = SimpleNamespace(headers={}, request=SimpleNamespace(url=url))
    patches = SimpleNamespace(sdk=PROVIDER, runtime=hosts[-1])
    return _sessions.Session(patches, SimpleNamespace(base_url=None), answer, "anthropic")


def handmade(*events: dict[str, Any]) -> Script:
    """A script of these very events, behind an answer that says nothing."""
    script = Script("handmade").end("pause_turn")
    for event in events:
        script = script.event(event)
    return script


class Reader:
    """One client, driven from a coroutine whatever its colour."""

    def __init__(self, sim: ProviderSimulator, asynchronous: bool) -> None:
        options: dict[str, Any] = {"base_url": sim.base_url, "api_key": "unused", "max_retries": 0}
        self.asynchronous = asynchronous
        self.client: Any = (anthropic.AsyncAnthropic if asynchronous else anthropic.Anthropic)(**options)
        self.got: list[Any] = []

    def go(self, work: Coroutine[Any, Any, None]) -> None:
        async def main() -> None:
            try:
                await work
            finally:
                await self.done(self.client.close())

        asyncio.run(main())

    async def done(self, value: Any) -> Any:
        return await value if self.asynchronous else value

    async def open(self, *previews: str, thread: str = "", session: str = "sesn_1") -> Any:
        sessions = self.client.beta.sessions
        options = {"event_deltas": list(previews)} if previews else {}
        if thread:
            return await self.done(sessions.threads.events.stream(thread, session_id=session, **options))
        return await self.done(sessions.events.stream(session, **options))

    async def items(self, source: Any) -> AsyncIterator[Any]:
        if self.asynchronous:
            async for item in source:
                self.got.append(item)
                yield item
            return
        for item in source:
            self.got.append(item)
            yield item

    async def reads(self, *previews: str, at: Callable[[int], Any] = lambda _: None, **where: str) -> None:
        """Read a connection to its end; `at` is called with how many events there were, after each one."""
        stream = await self.open(*previews, **where)
        number = 0
        async for _ in self.items(stream):
            number += 1
            await self.done_with(at(number))

    async def done_with(self, value: Any) -> None:
        if value is not None:
            await self.done(value)

    async def sends(self, *events: dict[str, Any], session: str = "sesn_1") -> None:
        await self.done(self.client.beta.sessions.events.send(session, events=list(events)))

    @property
    def kinds(self) -> list[str]:
        return [event.type for event in self.got]


@pytest.fixture(scope="session", autouse=True)
def _warm() -> None:
    """The SDK makes the models of its events as the first ones come, for a tenth of a second."""
    with ProviderSimulator() as sim:
        sim.play(Script("warm").thinking("Hm.").text(TEXT), fault="interrupt_after=chunks:2", times=2)
        for asynchronous in (False, True):
            reader = Reader(sim, asynchronous)
            reader.go(reader.reads(*BOTH))


@pytest.fixture
def bench() -> Iterator[Bench]:
    with instrumented(tools={"bash": "write", "fetch": "write", "letter": "write"}) as bench:
        yield bench


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def reader(bench: Bench, sim: ProviderSimulator, request: pytest.FixtureRequest) -> Reader:
    return Reader(sim, request.param)


def verdicts(bench: Bench) -> list[tuple[Any, ...]]:
    """Outcome, phase, fault and trigger of each record."""
    return [verdict(each) for each in bench.ended]


def verdict(record: StreamObservation) -> tuple[Any, ...]:
    return record.outcome, record.phase, record.fault, record.stopped_by
