# SPDX-License-Identifier: Apache-2.0
"""Finalisers, collections, signal handlers and Ctrl-C: nothing of ours waits for a lock there, no record is lost."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import shapes
from matrix.telemetry import Telemetry
from opentelemetry.sdk.metrics._internal.aggregation import _SumAggregation

import otelstream
from otelstream import _semconv as s
from otelstream._core.emit import outbox
from otelstream._core.process import closing, drops
from otelstream._core.process import runtime as runtime_module
from otelstream._core.process.runtime import Runtime
from otelstream._face import instrumentor as _instrumentor
from otelstream.testing import Script
from truth.conftest import ASK, Scene, frames

TEXT = frames(Script().text("Calm seas, then wind from the west.", chunk=4))
LOOP = frames(Script().text("polly wants it. " * 200, chunk=64))
PATIENCE = 5.0


@pytest.fixture
def callbacks() -> Iterator[None]:
    """The application's callbacks of one test."""
    kept = list(_instrumentor._ended), list(_instrumentor._repeats)
    yield
    _instrumentor._ended[:], _instrumentor._repeats[:] = kept


def begun(scene: Scene, pieces: Any = TEXT) -> Any:
    scene.plays(shapes.Reply(pieces))
    stream = scene.create()
    next(stream)
    return stream


# --- finalisers -------------------------------------------------------------------------------------------


def dropped(scene: Scene) -> Callable[[], object]:
    held = [begun(scene)]
    return held.clear


def dropped_in_a_cycle(scene: Scene) -> Callable[[], object]:
    held: list[Any] = [begun(scene)]
    held.append(held)
    del held
    return gc.collect


def dropped_generator(scene: Scene) -> Callable[[], object]:
    def relay() -> Iterator[Any]:
        with scene.create() as stream:
            yield from stream

    scene.plays(shapes.Reply(TEXT))
    held = [relay()]
    next(held[0])
    return held.clear


def dropped_raw(scene: Scene) -> Callable[[], object]:
    scene.plays(shapes.Reply(TEXT))
    held = [scene.client.messages.with_raw_response.create(**ASK, stream=True)]
    return held.clear


def dropped_helper(scene: Scene) -> Callable[[], object]:
    scene.plays(shapes.Reply(TEXT))
    held = [scene.client.messages.stream(**ASK).__enter__()]
    next(held[0])

    def drop() -> None:
        held.clear()
        gc.collect()

    return drop


DROPS = [dropped, dropped_in_a_cycle, dropped_generator, dropped_raw, dropped_helper]


@pytest.mark.usefixtures("callbacks")
@pytest.mark.parametrize("drop", DROPS, ids=lambda drop: drop.__name__)
def test_no_callback_in_a_finaliser(scene: Scene, drop: Any) -> None:
    """`on_stream_end` may take a lock that is held where a stream is dropped: it is called elsewhere, and called."""
    lock, called = threading.Lock(), threading.Event()

    @otelstream.on_stream_end
    def ended(_: Any) -> None:
        assert lock.acquire(timeout=PATIENCE)
        lock.release()
        called.set()

    gc.collect()
    run = drop(scene)
    with lock:
        run()
        assert not called.wait(0.05)
    assert called.wait(PATIENCE)
    assert outbox.settle()
    assert otelstream.open_streams() == ()


@pytest.mark.usefixtures("callbacks")
@pytest.mark.parametrize("cycle", [False, True])
def test_no_repetition_callback_in_a_finaliser(scene: Scene, cycle: bool) -> None:
    """A loop that shows only when what waits is summed at a drop is told, from elsewhere."""
    lock, called = threading.Lock(), threading.Event()

    @otelstream.on_repetition
    def loops(_: Any) -> None:
        assert lock.acquire(timeout=PATIENCE)
        lock.release()
        called.set()

    gc.collect()
    held: list[Any] = [begun(scene, LOOP)]
    for _ in range(20):
        next(held[0])
    if cycle:
        held.append(held)
    assert not called.is_set()
    with lock:
        if cycle:
            del held
            gc.collect()
        else:
            held.clear()
    assert called.wait(PATIENCE)


@pytest.mark.usefixtures("callbacks")
def test_a_callback_of_an_ordinary_end_is_called_at_once(scene: Scene) -> None:
    """Where the application itself reads to the end or closes, the callback is called there, before that returns."""
    where: list[int] = []
    otelstream.on_stream_end(lambda _: where.append(threading.get_ident()))
    list(begun(scene))
    begun(scene).close()
    assert where == [threading.get_ident()] * 2


# --- signals ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def interrupted(owner: Any, name: str, handler: Callable[[], object]) -> Iterator[list[int]]:
    """A signal arrives when the main thread is inside that function for the first time."""
    original = getattr(owner, name)
    seen: list[int] = []

    def inside(*args: Any, **kwargs: Any) -> Any:
        if not seen:
            seen.append(1)
            signal.raise_signal(signal.SIGUSR1)
        return original(*args, **kwargs)

    before = signal.signal(signal.SIGUSR1, lambda *_: handler())
    setattr(owner, name, inside)
    try:
        yield seen
    finally:
        setattr(owner, name, original)
        signal.signal(signal.SIGUSR1, before)


class Guarded:
    """A lock that says so, instead of waiting for ever, when the thread that has it wants it again."""

    def __init__(self, inside: Callable[[], object]) -> None:
        self._lock, self._owner, self._inside = threading.Lock(), 0, inside

    def __enter__(self) -> None:
        if self._owner == threading.get_ident():
            raise AssertionError("deadlock")
        self._lock.acquire()
        self._owner = threading.get_ident()
        self._inside()

    def __exit__(self, *_: object) -> None:
        self._owner = 0
        self._lock.release()


def locks_of(telemetry: Telemetry, name: str, inside: Callable[[], object]) -> None:
    """Put guarded locks in the place of those that the SDK takes for the points of a metric."""
    (storage,) = telemetry.meter_provider._measurement_consumer._reader_storages.values()
    for instrument, matches in storage._instrument_view_instrument_matches.items():
        if instrument.name == name:
            for match in matches:
                vars(match)["_lock"] = Guarded(inside)
                for aggregation in match._attributes_aggregation.values():
                    if isinstance(aggregation, _SumAggregation):
                        vars(aggregation)["_lock"] = Guarded(inside)


def closes(stream: Any, _: Scene) -> None:
    stream.close()


def begins(stream: Any, scene: Scene) -> None:
    list(begun(scene))
    stream.close()


def drops_it(stream: Any, _: Scene) -> None:
    stream.response.close()


@pytest.mark.parametrize("where", ["our emission", "a collection", "the application's own count"])
@pytest.mark.parametrize("handler", [closes, begins, drops_it], ids=lambda each: each.__name__)
def test_a_signal_inside_the_sdks_locks(scene: Scene, handler: Any, where: str) -> None:
    """A handler that begins, closes or drops a stream while the main thread holds a lock of the SDK's is not stuck in
    it; its records are all there afterwards."""
    telemetry = scene.telemetry
    list(begun(scene))
    stream = begun(scene)
    struck: list[int] = []

    def handle() -> None:
        handler(stream, scene)

    def inside() -> None:
        if not struck and threading.current_thread() is threading.main_thread():
            struck.append(1)
            signal.raise_signal(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, lambda *_: handle())
    counted = telemetry.points()[s.STREAMS.name]
    locks_of(telemetry, s.STREAMS.name, inside)
    try:
        more = 0
        if where == "our emission":
            list(begun(scene))
            more = 1
        elif where == "a collection":
            counted += telemetry.points().get(s.STREAMS.name, Counter())
        else:
            runtime = otelstream.OtelStreamInstrumentor().runtime
            assert runtime is not None
            runtime.metrics._instruments[s.STREAMS.name][0].add(0, {})
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert struck
    assert outbox.settle(PATIENCE)
    assert len(scene.recorder.streams) == 2 + more + (handler is begins)
    assert otelstream.open_streams() == ()
    counted += telemetry.points().get(s.STREAMS.name, Counter())
    assert sum(counted.values()) == 2 + more + (handler is begins)


POINTS: dict[str, tuple[Any, str]] = {
    "before the decision": (closing, "with_protocol"),
    "in the decision": (closing, "cancel_of"),
    "after the decision": (closing, "_last_events"),
    "before what is published": (Runtime, "publish"),
    "in the publishing": (Runtime, "_prepare"),
    "at the span": (Runtime, "write_span"),
    "at the counting": (Runtime, "_count"),
    "at the listeners": (runtime_module, "_call"),
}


def leave(scene: Scene, how: str) -> None:
    if how == "lines":
        with scene.client.messages.with_streaming_response.create(**ASK, stream=True) as response:
            list(response.iter_lines())
        return
    stream = scene.create()
    if how == "read":
        list(stream)
    elif how == "close":
        next(stream)
        stream.close()
    else:
        with stream:
            next(stream)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("how", ["close", "read", "with", "lines"])
def test_ctrl_c_loses_no_record(scene: Scene, how: str, point: str) -> None:
    """Ctrl-C comes up where it struck, and the record of the stream leaves nevertheless: once, with its outcome."""
    owner, name = POINTS[point]

    def handle() -> None:
        raise KeyboardInterrupt

    scene.plays(shapes.Reply(TEXT))
    with interrupted(owner, name, handle) as seen, pytest.raises(KeyboardInterrupt):
        leave(scene, how)
    assert seen
    gc.collect()
    assert outbox.settle(PATIENCE)
    outcome, _, _ = scene.verdict()
    assert outcome == ("completed" if how in ("read", "lines") else "cancelled")
    assert otelstream.open_streams() == ()
    assert sum(scene.telemetry.points()[s.STREAMS.name].values()) == 1
    spans = [span for span in scene.telemetry.spans() if s.OUTCOME in (span.attributes or {})]
    # The SDK ends its own span all the same: where it struck before the record was on it, the metrics are what is left.
    too_late = scene.native and how in ("read", "lines") and point in ("in the publishing", "at the span")
    assert len(spans) == (0 if too_late else 1)


def test_ctrl_c_at_any_line(scene: Scene) -> None:
    """Wherever in our own lines it strikes while a stream is closed: at most that one record, never none, never two."""
    places = 0
    for number in range(1, 2000):
        scene.recorder.clear()
        stream = begun(scene)
        left = number
        struck = False

        def trace(frame: Any, event: str, _: object) -> Any:
            nonlocal left, struck
            here = frame.f_code.co_filename
            if f"{Path('otelstream', '_core', 'process')}" not in here:
                return trace if event == "call" else None
            if event == "line" and frame.f_code.co_name in ("end", "decide", "_complete", "publish", "_leave"):
                left -= 1
                if left == 0:
                    struck = True
                    sys.settrace(None)
                    raise KeyboardInterrupt
            return trace

        sys.settrace(trace)
        try:
            with contextlib.suppress(KeyboardInterrupt):
                stream.close()
        finally:
            sys.settrace(None)
        del stream
        assert outbox.settle(PATIENCE)
        assert len(scene.recorder.streams) == 1, number
        assert otelstream.open_streams() == (), number
        if not struck:
            break
        places += 1
    assert places > 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # 3.12 and later warn of forks with threads
def test_a_forked_worker_that_is_told_to_end(scene: Scene) -> None:
    """A worker that makes an exit of SIGTERM tells of its open stream, as the documentation says."""
    gc.collect()
    assert outbox.settle(PATIENCE)  # no thread of ours is in a lock of the SDK's at the fork
    child = os.fork()
    if not child:
        status = 1
        try:
            signal.alarm(20)
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            try:
                with begun(scene):
                    os.kill(os.getpid(), signal.SIGTERM)
                    signal.pause()
            except SystemExit:
                status = 0 if scene.verdict() == ("cancelled", "none", "shutdown") else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# --- frames -----------------------------------------------------------------------------------------------

PACKAGE = Path(otelstream.__file__).parent


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_frame_is_read_or_kept(path: Path) -> None:
    """Before Python 3.13 reading the variables of a frame that runs corrupts memory, and a frame that is kept keeps
    what it holds alive: no module of ours asks for `f_locals`, and none puts a frame on an object."""
    frames = {"_getframe", "currentframe", "gi_frame", "ag_frame", "cr_frame", "tb_frame", "f_back", "stack"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("f_locals", "tb_locals"), node.lineno
        if isinstance(node, ast.Constant):
            assert node.value != "f_locals", node.lineno
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            kept = any(isinstance(target, (ast.Attribute, ast.Subscript)) for target in targets)
            value = node.value
            if kept and isinstance(value, ast.Attribute):
                assert value.attr not in frames, node.lineno
            if kept and isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
                assert value.func.attr not in frames, node.lineno


def test_a_dead_collection_is_no_obstacle(scene: Scene) -> None:
    """The flag of a collection is down whenever none is at work."""
    gc.collect()
    assert drops.collecting() is False
    asyncio.run(asyncio.sleep(0))
    begun(scene).close()
    assert scene.verdict()[0] == "cancelled"


def test_a_collection_in_another_thread() -> None:
    """It holds nothing of this thread's: what ends here meanwhile is told here, and no thread waits it out by making
    more of them."""
    held, go = threading.Event(), threading.Event()

    class Held:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            held.set()
            go.wait(PATIENCE)

    def collect() -> None:
        Held()
        gc.collect()

    drops.watch()
    collector = threading.Thread(target=collect)
    collector.start()
    told: list[int] = []
    try:
        assert held.wait(PATIENCE)
        outbox.emit(deque([lambda: told.append(threading.get_ident())]))
    finally:
        go.set()
        collector.join()
    assert told == [threading.get_ident()]


def test_jobs_that_wait_for_each_other() -> None:
    """However much there is to do, and however long it takes: a bounded number of threads, and everything is done."""
    go, done = threading.Event(), []

    def job() -> None:
        go.wait(PATIENCE)
        done.append(threading.get_ident())

    for _ in range(200):
        outbox.later(job)
    busy = len(outbox._working)
    go.set()

    assert outbox.settle(PATIENCE)
    assert busy <= outbox._THREADS
    assert len(done) == 200
