# SPDX-License-Identifier: Apache-2.0
"""Run one cell: the simulator plays, an application reads and leaves, and what came out is held against the log."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from itertools import zip_longest
from typing import Any

from opentelemetry import trace

import otelstream
from otelstream.testing import Exchange, ProviderSimulator

from . import applications, bedrock, expectations, gemini
from .apis import RUNNER, THREAD
from .cells import ENDINGS, SILENT, Ending, expected, script_of, shapes
from .columns import HELPERS, Shape
from .interruptions import INTERRUPTIONS, interrupt_when
from .telemetry import Telemetry

CLIENTS = {
    "anthropic": ("Anthropic", "AsyncAnthropic"), "openai": ("OpenAI", "AsyncOpenAI"), "botocore": (),
    "google-genai": (),
}  # fmt: skip
PATIENCE = 10.0  # seconds for what happens in another thread or a later step of the loop
OF_THE_SDK = ("asynchronous generator is already running", "generator didn't stop after athrow()")
# Classes that an application leaves a read with, on purpose or by the SDK.
LEFT = (Exception, SystemExit, KeyboardInterrupt, asyncio.CancelledError)


@cache
def version(package: str) -> tuple[int, ...]:
    """The installed version of an SDK; empty without it."""
    try:
        return tuple(int(part) for part in import_module(package.replace("-", ".")).__version__.split(".")[:2])
    except ImportError:
        return ()


@cache
def native(package: str) -> tuple[bool, ...]:
    """Whether that SDK makes a span of its own: both ways where it can."""
    return (True, False) if package == "anthropic" and version(package) >= (1, 14) else (False,)


def kind_of(package: str, *, asynchronous: bool) -> Any:
    if package == "botocore":
        if asynchronous:
            return bedrock.AsyncBedrock if find_spec("aiobotocore") else bedrock.Nothing
        return bedrock.Bedrock
    if package == "google-genai":
        return gemini.AsyncGemini if asynchronous else gemini.Gemini
    return getattr(import_module(package), CLIENTS[package][asynchronous])


class Bench:
    """What all cells of an SDK share: a simulator, the exporters, a client of each kind, an event loop."""

    def __init__(self, telemetry: Telemetry, sim: ProviderSimulator) -> None:
        self.telemetry, self.sim = telemetry, sim
        self.loop = asyncio.new_event_loop()
        self.noise: list[str] = []
        self.loop.set_exception_handler(self._heard)
        self._clients: dict[tuple[str, bool, bool], Any] = {}
        self.ended: list[Any] = []
        self.errors: list[str] = []
        self._last: Shape | None = None

    def client(self, shape: Shape, *, fresh: bool = False) -> Any:
        key = (shape.of.package, shape.asynchronous, shape.native)
        if fresh or key not in self._clients:
            os.environ["ANTHROPIC_OPEN_TELEMETRY"] = str(shape.native).lower()
            kind = kind_of(shape.of.package, asynchronous=shape.asynchronous)
            options: dict[str, Any] = {"base_url": self.sim.base_url, "max_retries": 0, "timeout": PATIENCE}
            if shape.native and "open_telemetry" in inspect.signature(kind).parameters:
                options["open_telemetry"] = {"tracer_provider": self.telemetry.tracer_provider}
            made = kind(api_key="unused", **options)
            del os.environ["ANTHROPIC_OPEN_TELEMETRY"]
            if fresh:
                return made
            self._clients[key] = made
        return self._clients[key]

    def _heard(self, _: Any, context: dict[str, Any]) -> None:
        # A dropped runner makes that noise by itself: asyncio closes its generators in no order.
        if not any(words in str(context.get("exception")) for words in OF_THE_SDK):
            self.noise.append(str(context))

    def close(self) -> None:
        for (_, asynchronous, _), client in self._clients.items():
            if asynchronous:
                self.loop.run_until_complete(client.close())
            else:
                client.close()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    # --- one cell -----------------------------------------------------------------------------------------

    def prepare(self, ending: Ending) -> None:
        self.telemetry.clear()
        self.sim.clear()
        self.noise.clear()
        self.ended.clear()
        self.errors.clear()
        # What other tests left open in this process is theirs to end.
        self.others = {view._stream for view in otelstream.open_streams()}
        self.sim.play(script_of(ending), fault=ending.faults, schedule=ending.schedule)

    def open_streams(self) -> bool:
        return any(view._stream not in self.others for view in otelstream.open_streams())

    def reading(self, shape: Shape, ending: Ending, client: Any) -> Any:
        request = shape.of.request(ending.request)
        if shape.of.structured in request:
            request[shape.of.structured] = expectations.place()
        if ending.retries:
            client = client.with_options(max_retries=ending.retries)
        if ending.path:
            client = client.with_options(base_url=self.sim.base_url + ending.path)
        module = applications if shape.asynchronous else applications.synchronous()
        return module.READINGS[shape.reading](shape.of.of(client), **request)

    def application(self, shape: Shape, ending: Ending, client: Any) -> Any:
        module = applications if shape.asynchronous else applications.synchronous()
        return module.Application(self.reading(shape, ending, client), enough(shape, ending))

    def run(self, shape: Shape, ending: Ending) -> None:
        """Do what the application does, to its end and that of everything it leaves behind."""
        self.prepare(ending)
        if shape.asynchronous:
            if ending.do == "ctrl_c":
                self._asyncio_ctrl_c(shape, ending)
            else:
                self.loop.run_until_complete(self._arun(shape, ending))
        else:
            self._run(shape, ending)

    def _run(self, shape: Shape, ending: Ending) -> None:
        app = self.application(shape, ending, self.client(shape))
        thread = interrupt_when(token_seen) if ending.do == "ctrl_c" else None
        try:
            method(app, shape, ending)()
        except LEFT as error:
            self.errors.append(repr(error))
        if thread is not None:
            thread.join()
        del app
        deadline = time.monotonic() + PATIENCE
        while self.open_streams() and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.002)
        self._settled(ending)

    async def _arun(self, shape: Shape, ending: Ending) -> None:
        app = self.application(shape, ending, self.client(shape))
        read = method(app, shape, ending)
        try:
            if ending.do in INTERRUPTIONS:
                await INTERRUPTIONS[ending.do](app, read, token_seen)
            else:
                await read()
        except LEFT as error:
            self.errors.append(repr(error))
        del app, read
        await self._quiet(ending)

    async def _quiet(self, ending: Ending) -> None:
        deadline = time.monotonic() + PATIENCE
        for step in range(10_000):
            await asyncio.sleep(0 if step < 8 else 0.002)
            if (step >= 4 and not self.open_streams()) or time.monotonic() > deadline:
                break
            if step >= 4:
                gc.collect()
        await asyncio.to_thread(self._settled, ending)

    def _asyncio_ctrl_c(self, shape: Shape, ending: Ending) -> None:
        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(self._heard)
            async with self.client(shape, fresh=True) as client:
                await method(self.application(shape, ending, client), shape, ending)()

        thread = interrupt_when(token_seen)
        try:
            asyncio.run(main())
        except LEFT as error:
            self.errors.append(repr(error))
        thread.join()
        gc.collect()
        self._settled(ending)

    def _settled(self, ending: Ending) -> None:
        """Wait until the server knows the end of every exchange, and our record has left its thread."""
        if ending.closes:
            self.sim.wait_for(lambda log: log and all(each.closed_at for each in log), PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while len(self.ended) < len(calls(self.sim.log)) and time.monotonic() < deadline:
            time.sleep(0.002)

    def check(self, shape: Shape, name: str) -> list[str]:
        """Run a cell; return what is wrong."""
        ending, _ = expected(name, shape)
        if shape != self._last:
            # What is imported and cached by now is never garbage: without it a collection takes a millisecond.
            self._last = shape
            gc.collect()
            gc.freeze()
        self.run(shape, ending)
        wrong = list(expectations.differences(shape, ending, self))
        if wrong:
            wrong.append(f"log: {'; '.join(map(str, self.sim.log))}")
            wrong.append(f"application: {self.errors}")
        return wrong


def cells(package: str = "anthropic") -> Iterator[tuple[Shape, str, str]]:
    """Every cell of this SDK: the shape, the ending, and why there is none (empty where there is one)."""
    if not version(package):
        return
    for shape in shapes(package, version(package), native(package)):
        for name in ENDINGS:
            changed, why = expected(name, shape)
            yield shape, name, unable(shape, changed) or (why if changed.by == "skip" else "")


@cache
def _api(shape: Shape) -> Any:
    try:
        return shape.of.of(kind_of(shape.of.package, asynchronous=shape.asynchronous)(api_key="unused"))
    except AttributeError:
        return None


def unable(shape: Shape, ending: Ending) -> str:
    """What this SDK's version lacks for a cell."""
    api = _api(shape)
    if api is None:
        return f"this SDK has no {shape.api}"
    helper = {RUNNER: "tool_runner", THREAD: "thread"}.get(shape.reading, "stream")
    if shape.reading in HELPERS and not hasattr(api, helper):
        return f"this SDK has no {helper}"
    wanted = shape.of.structured
    helped = "output_format" in ending.request and shape.reading in HELPERS
    if helped and wanted not in inspect.signature(getattr(api, helper)).parameters:
        return f"this SDK's {helper}() takes no {wanted}"
    return ""


def method(app: Any, shape: Shape, ending: Ending) -> Callable[[], Any]:
    """What the application does to end so."""
    if ending.do in ("read", "ctrl_c", *INTERRUPTIONS):
        generated = shape.of.package == "google-genai"
        bare = generated or shape.reading in ("create(stream=True)", RUNNER) or shape.reading.startswith("create()")
        return app.read_bare if bare else app.read_inside  # type: ignore[no-any-return]
    return getattr(app, ending.do)  # type: ignore[no-any-return]


def enough(shape: Shape, ending: Ending) -> Callable[[Any], bool]:
    """Leave after the third piece of text, or, where that is what the cell is about, after the finish reason."""
    api, seen = shape.of, 0

    def leave(item: Any) -> bool:
        nonlocal seen
        if ending.faults != SILENT:
            return api.finish in raw(item) or api.tells(item)
        if isinstance(item, str) and not item.startswith(("data:", "event:")):
            seen += bool(item)
        else:
            seen += raw(item).count(api.text) + api.shows(item)
        return seen >= 3

    return leave


def raw(item: Any) -> bytes:
    return item if isinstance(item, bytes) else item.encode() if isinstance(item, str) else b""


def token_seen() -> bool:
    """Whether the one open stream has shown its first token."""
    return any(view.time_to_first_token is not None for view in otelstream.open_streams())


def calls(log: list[Exchange]) -> list[tuple[Exchange, int]]:
    """The exchanges that ended a call, and how many attempts it took: one that was retried is none.

    The oldest SDKs do not count their attempts on the wire: after a refusal comes the next.
    """
    found: list[tuple[Exchange, int]] = []
    attempts = 0
    for exchange, following in zip_longest(log, log[1:]):
        attempts += 1
        if following is None or (exchange.status or 0) < 429:
            found.append((exchange, attempts))
            attempts = 0
    return found


@contextmanager
def bench() -> Iterator[Bench]:
    """Instrument the process against a simulator of its own."""
    telemetry = Telemetry()
    if version("anthropic") >= (1, 14):
        kind = kind_of("anthropic", asynchronous=False)
        if "open_telemetry" not in inspect.signature(kind).parameters:
            trace.set_tracer_provider(telemetry.tracer_provider)
    said = logging.getLogger("otelstream")
    said.addHandler(telemetry)
    said.setLevel(logging.DEBUG)
    # The tool runner logs what its tools raise, and ours get input that is no JSON.
    logging.getLogger("anthropic").setLevel(logging.CRITICAL)
    with ProviderSimulator() as sim:
        made = Bench(telemetry, sim)
        otelstream.on_stream_end(made.ended.append)
        otelstream.instrument(tracer_provider=telemetry.tracer_provider, meter_provider=telemetry.meter_provider)
        try:
            yield made
        finally:
            made.close()
            otelstream.uninstrument()
            said.removeHandler(telemetry)
            telemetry.shutdown()
