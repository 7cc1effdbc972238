# SPDX-License-Identifier: Apache-2.0
"""How an application leaves a stream that is a plain generator: what can be seen of it, and what stays the same."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import types
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import shapes
from google import genai

import otelstream
from google_sdk.conftest import ASK, Scene, data, read, word
from otelstream.testing import ProviderSimulator, Recorder, Script, prose

WORDS = [word(text) for text in ("Calm ", "seas, ", "then ", "wind.")]
STOP = word("", finish="STOP")
ANSWER = data(*WORDS, STOP)
SILENT = Script("answer").text(prose(96), chunk=12)


def test_lazy(scene: Scene) -> None:
    """The request leaves with the first `next`, and a stream that is never read is none."""
    scene.plays(ANSWER)

    stream = scene.ask()
    assert isinstance(stream, types.GeneratorType)
    assert scene.transport.tape.requests == 0
    del stream
    assert scene.recorder.streams == []

    stream = scene.ask()
    next(stream)
    assert scene.transport.tape.requests == 1


def _break(scene: Scene) -> None:
    read(scene.ask(), lambda _: True)


def _close(scene: Scene) -> None:
    stream = scene.ask()
    next(stream)
    stream.close()


def _closing(scene: Scene) -> None:
    with contextlib.closing(scene.ask()) as stream:
        next(stream)


def _raise_closing(scene: Scene) -> None:
    with contextlib.suppress(shapes.AppError), contextlib.closing(scene.ask()) as stream:
        next(stream)
        raise shapes.AppError


def _raise(scene: Scene) -> None:
    with contextlib.suppress(shapes.AppError):
        for _ in scene.ask():
            raise shapes.AppError


def _timeout(scene: Scene) -> None:
    with contextlib.suppress(TimeoutError), contextlib.closing(scene.ask()) as stream:
        next(stream)
        raise TimeoutError("too slow for us")


def _exit(scene: Scene) -> None:
    with contextlib.suppress(SystemExit), contextlib.closing(scene.ask()) as stream:
        next(stream)
        raise SystemExit(0)


def _in_except(scene: Scene) -> None:
    try:
        raise shapes.AppError
    except shapes.AppError:
        with contextlib.closing(scene.ask()) as stream:
            next(stream)


def _cycle(scene: Scene) -> None:
    held: dict[str, Any] = {"stream": scene.ask()}
    held["self"] = held
    next(held["stream"])
    del held
    gc.collect()


def _after_the_finish(scene: Scene) -> None:
    read(scene.ask(), lambda item: bool(item.candidates[0].finish_reason))


LEAVES = {
    "break": (_break, ("cancelled", "none", "generator_close")),
    "close": (_close, ("cancelled", "none", "generator_close")),
    "closing": (_closing, ("cancelled", "none", "generator_close")),
    "an exception of its own, closing": (_raise_closing, ("caller_error", "none", None)),
    # Nothing closes that: the loop lets go of the generator while the exception is on its way, unseen.
    "an exception of its own": (_raise, ("cancelled", "none", "generator_close")),
    "its own patience": (_timeout, ("cancelled", "timeout", "timeout")),
    "exit": (_exit, ("cancelled", "none", "shutdown")),
    "inside an except": (_in_except, ("cancelled", "none", "generator_close")),
    "in a cycle": (_cycle, ("abandoned", "none", "gc")),
    "after the finish": (_after_the_finish, ("completed", "none", None)),
}


@pytest.mark.parametrize("name", LEAVES)
def test_leaving(scene: Scene, name: str) -> None:
    """A break, a close and a drop are one to a generator; what is in flight while it is closed is told apart."""
    leave, wanted = LEAVES[name]
    scene.plays(ANSWER)

    leave(scene)

    assert scene.verdict() == wanted


async def _abreak(scene: Scene) -> None:
    async for _ in await scene.aask():
        break


async def _aclosing(scene: Scene) -> None:
    async with contextlib.aclosing(await scene.aask()) as stream:
        await anext(stream)


async def _araise(scene: Scene) -> None:
    with contextlib.suppress(shapes.AppError):
        async with contextlib.aclosing(await scene.aask()) as stream:
            await anext(stream)
            raise shapes.AppError


async def _acancel(scene: Scene) -> None:
    async def reads() -> None:
        async for _ in await scene.aask():
            await asyncio.sleep(0)
            asyncio.current_task().cancel()  # type: ignore[union-attr]

    task = asyncio.create_task(reads())
    with contextlib.suppress(asyncio.CancelledError):
        await task


ALEAVES = {
    "break": (_abreak, ("cancelled", "none", "generator_close")),
    "closing": (_aclosing, ("cancelled", "none", "generator_close")),
    # Closing the outermost of the SDK's generators leaves the others to the loop, which closes them later.
    "an exception of its own, closing": (_araise, ("cancelled", "none", "generator_close")),
    "a cancel of its task": (_acancel, ("cancelled", "none", "task_cancel")),
}


@pytest.mark.parametrize("name", ALEAVES)
def test_leaving_async(scene: Scene, name: str) -> None:
    """The same of an async generator, which the event loop closes where the application does not."""
    leave, wanted = ALEAVES[name]
    scene.plays(ANSWER)
    scene.transport.tape.how = "cancel"  # give the loop its turn between chunks

    async def main() -> None:
        await leave(scene)
        for _ in range(16):  # the loop closes one generator after the other
            await asyncio.sleep(0)

    asyncio.run(main())

    assert scene.verdict() == wanted


@pytest.mark.filterwarnings("ignore:Inheritance class")
@pytest.mark.parametrize("http", ["aiohttp", "httpx"])
def test_a_cancel_while_it_waits(sim: ProviderSimulator, http: str) -> None:
    """A task that is cancelled while the provider is silent leaves the stream at once, by either HTTP library."""
    options: dict[str, Any] = {"base_url": sim.base_url}
    if http == "httpx":
        options["httpx_async_client"] = shapes.httpx.AsyncClient()
    sim.play(SILENT, fault="hang_after=chunks:3")
    otelstream.instrument()

    async def reads(client: Any) -> None:
        async for _ in await client.aio.models.generate_content_stream(**ASK):
            continue

    def has_read(chunks: int) -> bool:
        return any(view.chunks == chunks for view in otelstream.open_streams())

    async def main() -> None:
        client = genai.Client(api_key="unused", http_options=options)
        task = asyncio.create_task(reads(client))
        while not task.done() and not (has_read(3)):  # noqa: ASYNC110
            await asyncio.sleep(0.005)  # what it waits for has no event
        await asyncio.sleep(0.05)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await client.aio.aclose()

    with Recorder() as recorder:
        asyncio.run(main())
        view = recorder.stream
    otelstream.uninstrument()

    assert (view.outcome, view.trigger, view.chunks) == ("cancelled", "task_cancel", 3)
    assert sim.wait_for(lambda log: log[-1].closed_by == "peer", 5)


def test_a_stop_from_another_thread(sim: ProviderSimulator) -> None:
    """A Stop is asked for by whoever has the turn; the stream is left by who reads it."""
    sim.play(SILENT)
    client = genai.Client(api_key="unused", http_options={"base_url": sim.base_url})
    otelstream.instrument()

    with Recorder() as recorder, otelstream.turn("question"):
        stream = client.models.generate_content_stream(**ASK)
        next(stream)
        stopper = threading.Thread(target=otelstream.record_stop, kwargs={"turn": "question"})
        stopper.start()
        stopper.join()
        stream.close()
        view = recorder.stream
    otelstream.uninstrument()

    assert (view.outcome, view.trigger) == ("cancelled", "user_stop")


REPLIES: dict[str, list[shapes.Reply]] = {
    "whole": [shapes.Reply(ANSWER)],
    "one piece": [shapes.Reply([b"".join(ANSWER)])],
    "bytes": [shapes.Reply([bytes([byte]) for byte in b"".join(ANSWER[-2:])])],
    "gzip": [shapes.gzipped(ANSWER)],
    "ends early": [shapes.Reply(ANSWER[:2])],
    "error object": [shapes.Reply([*ANSWER[:2], *data({"error": {"code": 503, "message": "no", "status": "X"}})])],
    "reset": [shapes.Reply(ANSWER[:2], lambda: shapes.httpx.ReadError("reset by peer"))],
    "a bug below": [shapes.Reply(ANSWER[:2], lambda: RuntimeError("not from the transport's family"))],
    "malformed": [shapes.Reply([*ANSWER[:2], b"data: {\r\n\r\n"])],
    "503": [shapes.Reply([b"busy"], None, 503, (("content-type", "text/plain"),))],
    "empty": [shapes.Reply([])],
}
HOWS = ("read", "break", "close", "raise", "drop")


def steps(scene: Scene, *, asynchronous: bool) -> Iterator[tuple[Any, ...]]:
    """Each reply, left in each manner: requests, reads and closes of the body, items and exceptions in their order."""
    for name, replies in REPLIES.items():
        for how in (*HOWS, "cancel") if asynchronous else HOWS:
            scene.transport.tape = tape = shapes.Tape(replies, how, 1 << 30 if how == "read" else 2)  # type: ignore[arg-type]
            try:
                if asynchronous:
                    asyncio.run(_areads(scene, tape))
                else:
                    stream = scene.ask()
                    tape.read(stream, stream.close)
                    if how == "drop":
                        del stream
                        tape.note("dropped")
            except BaseException as error:
                tape.note("raised", type(error).__name__, str(error), type(error.__context__).__name__)
            tape.note("end")
            gc.collect()
            yield name, how, tape.steps


async def _areads(scene: Scene, tape: shapes.Tape) -> None:
    stream = await scene.aask()
    try:
        await tape.aread(stream, stream.aclose)
    finally:
        tape.note("left")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_same_steps(scene: Scene, asynchronous: bool) -> None:
    """With and without us the same happens in the same order: no read more or earlier, no close earlier or later."""
    observed = list(steps(scene, asynchronous=asynchronous))
    otelstream.uninstrument()
    bare = list(steps(scene, asynchronous=asynchronous))

    for was, now in zip(bare, observed, strict=True):
        assert was == now


def test_taken_off(scene: Scene) -> None:
    """After `uninstrument()` the SDK has its own functions again."""
    from google.genai import _api_client, _extra_utils

    wrapped = [
        (_api_client.BaseApiClient, "_request"),
        (_api_client.HttpResponse, "_iter_response_stream"),
        (_extra_utils, "invoke_function_from_dict_args"),
    ]
    assert all(hasattr(vars(owner)[name], "__wrapped__") for owner, name in wrapped)

    otelstream.uninstrument()

    assert not any(hasattr(vars(owner)[name], "__wrapped__") for owner, name in wrapped)


def test_our_own_trouble(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes wrong in us is swallowed: the application gets its answer."""
    from otelstream.google import _attach

    def fails(*_: Any) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(_attach, "_asked", fails)
    scene.plays(ANSWER)
    assert len(read(scene.ask())) == 5
    monkeypatch.undo()
    monkeypatch.setattr(_attach, "request_attributes", fails)
    assert len(read(scene.ask())) == 5


async def _texts(stream: AsyncIterator[Any]) -> list[str]:
    return [item.text async for item in stream]


def test_two_at_once(scene: Scene) -> None:
    """Streams that are read in turns keep their records apart."""
    scene.plays(ANSWER)

    async def main() -> list[list[str]]:
        streams = [await scene.aask() for _ in range(3)]
        return await asyncio.gather(*map(_texts, streams))

    assert len({tuple(texts) for texts in asyncio.run(main())}) == 1
    assert [(view.outcome, view.chunks) for view in scene.recorder.streams] == [("completed", 4)] * 3


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_loop_is_stopped(sim: ProviderSimulator, way: str) -> None:
    """`on_repetition` that returns True closes the connection; the application's loop just ends."""
    sim.play(Script("answer").text("I am sorry, I cannot say that. Ask me again. " * 200, chunk=16))
    options: Any = {"base_url": sim.base_url, "httpx_async_client": shapes.httpx.AsyncClient()}
    client = genai.Client(api_key="unused", http_options=options)

    @otelstream.on_repetition
    def stop_it(_: Any) -> bool:
        return True

    async def areads() -> tuple[int, Any]:
        stream = await client.aio.models.generate_content_stream(**ASK)
        chunks = [chunk async for chunk in stream]
        return len(chunks), await asyncio.to_thread(sim.wait_for, left)

    def left(log: list[Any]) -> Any:
        return next((each for each in log if each.closed_at is not None), None)

    with Recorder() as recorder:
        if way == "async":
            chunks, exchange = asyncio.run(areads())
        else:
            chunks = len(list(client.models.generate_content_stream(**ASK)))
            exchange = sim.wait_for(left)
        (view,) = recorder.wait_for(1)

    assert 10 < chunks < 560
    assert exchange.closed_by == "peer"
    assert (view.outcome, view.fault, view.trigger) == ("cancelled", "repetition", "app_close")
