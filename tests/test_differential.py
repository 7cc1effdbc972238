# SPDX-License-Identifier: Apache-2.0
"""Nothing changes for the application: every way of reading, with and without otelstream, step by step."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import inspect
import os
import pickle
import re
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from shapes import ASK, ASYNC, SYNC, WHOLE, How, Reply, Tape, arun, clients, gzipped, httpx, run

import otelstream
from otelstream._core.record.stream import StreamObservation
from otelstream._core.turns import turn as _turn
from otelstream._stainless.sdk import Token
from otelstream.testing import ProviderSimulator, Schedule, Script

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def frames(script: Script) -> list[bytes]:
    return [event.frame for event in script.finished().events]


TEXT = frames(Script().thinking("The wind, then.").text("Calm seas, then wind from the west."))
TOOL = frames(Script().text("I look.").tool_use("get_weather", {"city": "Harbour Town"}))
BROKEN_TOOL = frames(Script().tool_use("get_weather", ['{"city": "Harb', "\nour\\q", '"}']))
ERROR = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
BAD = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":\n\n'
JSON = (("content-type", "application/json"),)
OVERLOADED = Reply([b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'], None, 529, JSON)

REPLIES: dict[str, list[Reply]] = {
    "whole": [Reply(TEXT)],
    "one piece": [Reply([b"".join(TEXT)])],
    "bytes": [Reply([bytes([byte]) for byte in b"".join(frames(Script().text("Calm.")))])],
    "gzip": [gzipped(TEXT)],
    "tool": [Reply(TOOL), Reply(TEXT)],
    "broken tool": [Reply(BROKEN_TOOL), Reply(TEXT)],
    "max tokens": [Reply(frames(Script().text("Calm").end("max_tokens")))],
    "refusal": [Reply(frames(Script().text("Calm").refuse(category="cyber")))],
    "error event": [Reply([*TEXT[:9], ERROR])],
    "error event first": [Reply([ERROR])],
    "ends early": [Reply(TEXT[:9])],
    "ends after the finish": [Reply(TEXT[:-1])],
    "reset": [Reply(TEXT[:9], lambda: httpx.ReadError("reset by peer"))],
    "reset at once": [Reply([], lambda: httpx.ReadError("reset by peer"))],
    "read time-out": [Reply(TEXT[:9], lambda: httpx.ReadTimeout("no bytes"))],
    "a bug below": [Reply(TEXT[:9], lambda: RuntimeError("not from the transport's family"))],
    "malformed frame": [Reply([*TEXT[:9], BAD, *TEXT[9:]])],
    "529": [OVERLOADED],
    "529 then fine": [OVERLOADED, Reply(TEXT)],
    "empty": [Reply([])],
    "no event names": [Reply([frame.partition(b"\n")[2] for frame in TEXT])],
    "html": [Reply([b"<html>Bad gateway</html>"], headers=(("content-type", "text/html"),))],
}
HOWS: list[How] = ["read", "break", "close", "raise", "drop"]


@pytest.fixture(params=["native", "plain"])
def native(request: pytest.FixtureRequest) -> bool:
    """Whether the SDK traces itself too, into a provider that records."""
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        trace.set_tracer_provider(TracerProvider())
    return bool(request.param == "native")


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Let the collector run where a tape says so, and only over what the test made."""
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    otelstream.uninstrument()
    gc.enable()


def hows(way: str, reply: str) -> list[How]:
    if way.removeprefix("a") in WHOLE or way in WHOLE:
        return ["read", "raise", "close"] if "never" in way else ["read", "raise"]
    if reply not in ("whole", "tool", "error event", "reset", "one piece"):
        return ["read", "break"]
    return [*HOWS, "cancel"] if way in ASYNC else HOWS


def runs(way: str, *, native: bool, requests: int = 0) -> Iterator[tuple[str, How, int, list[Any]]]:
    """Every reply of `REPLIES`, left in every manner, at the first item and a later one."""
    quick = {"_calculate_retry_timeout": lambda *_: 0.001}
    for name, replies in REPLIES.items():
        retries = 2 if name == "529 then fine" else 0
        transport, client, aclient = clients(native=native, max_retries=retries)
        for each in (client, aclient):
            vars(each).update(quick)
        for how in hows(way, name):
            afters = (1, 7) if name in ("whole", "tool", "error event") else (3,)
            for after in afters if how != "read" else (1 << 30,):
                transport.tape = tape = Tape(replies, how, after)
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    if way in SYNC:
                        steps = run(SYNC[way], client, tape)
                    else:
                        steps = asyncio.run(arun(ASYNC[way], aclient, tape))
                steps.append([(w.category, str(w.message), w.filename, w.lineno) for w in caught])
                yield name, how, after, steps


@pytest.mark.parametrize("way", [*SYNC, *ASYNC])
def test_same_steps(way: str, native: bool) -> None:
    """Requests, reads and closes of the body, items, exceptions and warnings come in the same order, with the same
    content: no read more or earlier, no close earlier or later."""
    bare = list(runs(way, native=native))
    otelstream.instrument()
    observed = list(runs(way, native=native))
    different = [(a[:3], diff(a[3], b[3])) for a, b in zip(bare, observed, strict=True) if a != b]
    assert not different, different[:3]


def diff(bare: list[Any], observed: list[Any]) -> str:
    for index, (a, b) in enumerate(zip(bare, observed, strict=False)):
        if a != b:
            return f"step {index}: {a!r} became {b!r}; before: {bare[max(0, index - 3) : index]!r}"
    return f"{len(bare)} steps became {len(observed)}: {bare[len(observed) :]!r} {observed[len(bare) :]!r}"


def alive() -> list[str]:
    """What lives of streams: the SDK's, and our records of them."""
    kinds = (anthropic.Stream, anthropic.AsyncStream, StreamObservation, Token)
    return [type(each).__name__ for each in gc.get_objects() if isinstance(each, kinds)]


def garbage(way: str, how: How, native: bool) -> list[str]:
    """The types of what only the cyclic collector could free after one run."""
    transport, client, aclient = clients(native=native)
    loop = asyncio.new_event_loop()
    for _ in range(2):  # what is made on first use is no garbage of the second
        gc.collect()
        transport.tape = tape = Tape(REPLIES["whole"], how, 7 if how != "read" else 1 << 30)
        if way in SYNC:
            run(SYNC[way], client, tape, collect=False)
        else:
            loop.run_until_complete(arun(ASYNC[way], aclient, tape, collect=False))
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        return [f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.collect()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())  # where the SDK looks for the platform
        loop.close()
        gc.collect()
        _turn.restart()  # turns are kept on purpose, some of them, to be found by their trace


@pytest.mark.parametrize("how", ["read", "break", "raise", "drop"])
@pytest.mark.parametrize("way", [*SYNC, *ASYNC])
def test_nothing_left_over(way: str, how: How, native: bool) -> None:
    """A stream leaves no thread, no task and no object behind but the newest record, and no more cycles than
    without us."""
    if how not in hows(way, "whole"):
        pytest.skip(f"{way} takes all at once")
    bare = garbage(way, how, native)
    otelstream.instrument()
    threads = threading.enumerate()
    observed = garbage(way, how, native)
    assert threads == threading.enumerate()
    # `current_stream()` gives the newest one of a context, open or ended: pure data, no stream of the SDK's.
    assert alive() in ([], ["StreamObservation"], ["StreamObservation"] * 2)
    extra = list(observed)
    for each in bare:
        if each in extra:
            extra.remove(each)
    if any("Stream" in each for each in bare):  # a cycle of the SDK's own holds what hangs on its stream
        extra = [each for each in extra if each.startswith(("anthropic", "httpx", "httpcore"))]
    assert extra == []


def test_a_closed_event_loop_is_let_go(native: bool) -> None:
    """An event loop that a stream was read on can be freed once it is closed."""
    otelstream.instrument()
    transport, _, aclient = clients(native=native)
    transport.tape = tape = Tape(REPLIES["whole"])
    loop = asyncio.new_event_loop()
    loop.run_until_complete(arun(ASYNC["acreate"], aclient, tape))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    kept = weakref.ref(loop)
    del loop
    gc.collect()
    assert kept() is None


PATCHED: list[tuple[Any, str]] = [
    (owner, name)
    for owner, names in (
        (anthropic._base_client.SyncAPIClient, ("request", "_request", "_sleep_for_retry")),
        (anthropic._base_client.AsyncAPIClient, ("request", "_request", "_sleep_for_retry")),
        (anthropic._base_client.BaseClient, ("_build_request",)),
        (anthropic.Stream, ("__init__", "_iter_events", "close")),
        (anthropic.AsyncStream, ("__init__", "_iter_events", "close")),
    )
    for name in names
    if hasattr(owner, name)
]


def everything() -> dict[tuple[str, str], Any]:
    """Every attribute of every class and module of the SDK that is loaded."""
    found: dict[tuple[str, str], Any] = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("anthropic", "httpx", "httpx2", "httpcore", "httpcore2"):
            for key, value in list(vars(module).items()):
                found[name, key] = value
                if isinstance(value, type):
                    found.update({(f"{name}.{key}", inner): part for inner, part in vars(value).items()})
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_uninstrument_restores_the_same_functions() -> None:
    """After `uninstrument()` every attribute of every class of the SDK is the very object it was, also after two
    rounds and a change of settings."""
    run(SYNC["stream_events"], *_one(Reply(TEXT)))
    before = everything()
    for _ in range(2):
        otelstream.instrument()
        otelstream.instrument(repetition="off")
        run(SYNC["stream_events"], *_one(Reply(TEXT)))
        otelstream.uninstrument()
    after = everything()
    changed = [
        key
        for key in before.keys() | after.keys()
        if before.get(key) is not after.get(key)
        and not key[1].startswith(("_abc_", "__pydantic", "_cache", "__weakref"))
    ]
    assert [
        key for key in changed if "otelstream" in repr(after.get(key)) or "wrapt" in repr(type(after.get(key)))
    ] == []
    assert [key for key in changed if callable(before.get(key))] == []


def _one(reply: Reply) -> tuple[Any, Tape]:
    transport, client, _ = clients(native=True)
    transport.tape = tape = Tape([reply])
    return client, tape


def test_patched_functions_look_the_same() -> None:
    """Signature, name, docstring, module and kind of each function we wrap are those of the original."""

    def look(owner: Any, name: str) -> tuple[Any, ...]:
        function = getattr(owner, name)
        return (
            inspect.signature(function),
            function.__name__,
            function.__qualname__,
            function.__module__,
            function.__doc__,
            inspect.iscoroutinefunction(function),
            inspect.isasyncgenfunction(inspect.unwrap(function)),
            inspect.getsourcefile(function),
        )

    before = [look(*each) for each in PATCHED]
    otelstream.instrument()
    assert before == [look(*each) for each in PATCHED]
    assert all(getattr(*each) is not None for each in PATCHED)


def test_an_observed_stream_is_an_ordinary_stream() -> None:
    """Type, attributes, copying and failing to pickle are those of an unobserved stream; our own mark aside."""

    def look() -> tuple[Any, ...]:
        client, tape = _one(Reply(TEXT))
        stream = client.messages.create(**ASK, stream=True)
        duplicate = copy.copy(stream)
        try:
            pickle.dumps(stream)
            pickled: Any = "pickled"
        except Exception as error:
            pickled = type(error)
        stream.close()
        assert tape.requests == 1
        return (
            type(stream),
            type(duplicate),
            [key for key in vars(stream) if key != "_otelstream"],
            pickled,
            isinstance(stream, anthropic.Stream),
            repr(stream).partition(" at ")[0],
            stream.response.status_code,
        )

    before = look()
    otelstream.instrument()
    assert before == look()
    assert before[0] is anthropic.Stream


def test_warnings_keep_their_place() -> None:
    """A warning of the SDK's points at the application's own line."""
    deprecated = next(iter(anthropic.resources.messages.messages.DEPRECATED_MODELS))

    def warned() -> list[tuple[Any, ...]]:
        caught: list[tuple[Any, ...]] = []
        client, _ = _one(Reply(TEXT))
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            for _ in client.messages.create(**{**ASK, "model": deprecated}, stream=True):
                continue
            with client.messages.stream(**{**ASK, "model": deprecated}) as stream:
                stream.until_done()
        caught += [(w.category, str(w.message), Path(w.filename).name, w.lineno) for w in seen]
        return caught

    before: list[Any] = []
    after: list[Any] = []
    for kept in (before, after):  # from one and the same line
        kept += warned()
        otelstream.instrument()
    assert before == after
    assert before
    assert {name for _, _, name, _ in before} <= {Path(__file__).name, "messages.py"}


# --- over a real socket -----------------------------------------------------------------------------------


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator(fresh_ids=False) as running:
        yield running


def over_the_wire(sim: ProviderSimulator, leave: Callable[[Any, Any], None]) -> list[Any]:
    """What the provider saw of one stream that `leave` reads."""
    sim.clear()
    script = Script().text("x" * 40_000, chunk=4)
    sim.play(script, schedule=Schedule(gap=0.0))
    with anthropic.Anthropic(base_url=sim.base_url, api_key="unused", max_retries=0) as client:
        stream = client.messages.create(**ASK, stream=True)
        leave(stream, sim)
        exchange = sim.wait_for(lambda log: log and log[0].closed_at and log[0])
        open_before_close = exchange.peer_closed_at is None
    # Whether the kernel says it by a FIN or a reset depends on what is unread that instant: a race, ours or not.
    left = "closed" if exchange.how in ("fin", "reset") else exchange.how
    return [exchange.closed_by, left, exchange.complete, exchange.request.body, open_before_close]


def _read(stream: Any, _: Any) -> None:
    for _event in stream:
        continue


def _close(stream: Any, _: Any) -> None:
    next(stream)
    stream.close()


def _with(stream: Any, _: Any) -> None:
    with stream:
        next(stream)


def _error(stream: Any, _: Any) -> None:
    with contextlib.suppress(ZeroDivisionError), stream:
        for _event in stream:
            raise ZeroDivisionError


@pytest.mark.parametrize("leave", [_read, _close, _with, _error])
def test_the_provider_sees_the_same(sim: ProviderSimulator, leave: Callable[[Any, Any], None]) -> None:
    """On a real socket the body of the request, and who closed when and how, are the same."""
    before = over_the_wire(sim, leave)
    otelstream.instrument()
    assert before == over_the_wire(sim, leave)


def test_back_pressure_stays(sim: ProviderSimulator) -> None:
    """A reader that stops reading stops the provider: nothing reads ahead of it."""

    def sent() -> tuple[int, int]:
        sim.clear()
        sim.play(Script().text("y" * 24_000_000, chunk=60_000))
        with anthropic.Anthropic(base_url=sim.base_url, api_key="unused", max_retries=0) as client:
            stream = client.messages.create(**ASK, stream=True)
            for _ in range(5):
                next(stream)
            exchange = sim.log[0]
            written = -1
            while written != len(exchange.events):  # still until two looks agree
                written = len(exchange.events)
                sim.wait_for(lambda _: True)
                threading.Event().wait(0.3)
            stream.close()
        return written, len(exchange.events)

    before, _ = sent()
    otelstream.instrument()
    after, _ = sent()
    # The kernel's buffers are no exact number; reading ahead would take all 400.
    assert before < 300
    assert abs(after - before) <= 40


EXIT = """
import asyncio, sys
import anthropic
{on}
ask = dict(model="m", max_tokens=9, messages=[{{"role": "user", "content": "hi"}}])
def sync():
    global kept
    client = anthropic.Anthropic(base_url=sys.argv[1], api_key="unused", max_retries=0)
    kept = client.messages.create(**ask, stream=True)
    next(kept)
async def main():
    global kept
    client = anthropic.AsyncAnthropic(base_url=sys.argv[1], api_key="unused", max_retries=0)
    kept = await client.messages.create(**ask, stream=True)
    async for _ in kept:
        break
{go}
"""
# asyncio closes the generators that are left in the order of a set of addresses: whether one of them is still
# running inside another, and is complained of, is chance (seen both ways, of the bare SDK as well).
CHANCE = (
    " ",
    "Traceback",
    "GeneratorExit",
    "During handling",
    "an error occurred during closing of asynchronous generator",
    "asyncgen: <async_generator",
    "RuntimeError: aclose(): asynchronous generator is already running",
)
USUAL = {("async in use", "true"), ("sync open", "false"), ("thread", "true")}
GO = {
    "sync open": "sync()",
    "async open": "asyncio.run(main())",
    "async in use": "loop = asyncio.new_event_loop(); loop.run_until_complete(main())",
    "async dropped": "asyncio.run(main()); del kept",
    "exception": "sync(); raise SystemExit('left')",
    "thread": "import threading; threading.Thread(target=sync).start()",
}


@pytest.mark.parametrize(
    ("go", "native"),
    [
        pytest.param(go, native, marks=() if (go, native) in USUAL else pytest.mark.slow)
        for go, native in [*((go, "true") for go in GO), ("sync open", "false"), ("async dropped", "false")]
    ],
)
def test_same_noise_at_exit(sim: ProviderSimulator, go: str, native: str) -> None:
    """A program that leaves a stream open says the same on stderr, and exits with the same code."""

    def noise(on: str) -> tuple[int, list[str], bytes]:
        sim.clear()
        sim.play("text_short", schedule=Schedule(gap=0.001), fault=sim.hang_after(events=6))
        code = EXIT.format(on=on, go=GO[go])
        environment = {**os.environ, "ANTHROPIC_OPEN_TELEMETRY": native}
        done = subprocess.run(
            [sys.executable, "-W", "default", "-c", code, sim.base_url],
            capture_output=True,
            timeout=60,
            env=environment,
            check=False,
        )
        said = [re.sub(r"(object \S+ )?at 0x[0-9a-f]+", "", line) for line in done.stderr.decode().splitlines()]
        return done.returncode, [line for line in said if line and not line.startswith(CHANCE)], done.stdout

    assert noise("import otelstream; otelstream.instrument()") == noise("")
