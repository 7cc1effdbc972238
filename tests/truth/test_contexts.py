# SPDX-License-Identifier: Apache-2.0
"""Setting a context variable while garbage is collected, or freed, does not bring the process down.

CPython 3.10 and 3.11 collect garbage in the middle of `ContextVar.set`: a finaliser that sets a variable of the same
context then frees the mapping that the set in progress is reading. Each program here does just that, under an allocator
that fills what is free, so that a fault shows at once.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

TRAP = """
import gc
from contextvars import ContextVar, copy_context
from opentelemetry.context import attach, detach, set_value

MINE = ContextVar("mine")
OTHERS = [ContextVar(f"other{at}") for at in range(12)]

def spring(at, setting, far=40):
    '''Call `setting`, with a collection in the midst of it: at one of its first `far` allocations.'''
    gc.set_threshold(gc.get_count()[0] + at % far, 1 << 30, 1 << 30)
    gc.enable()
    try:
        setting()
    finally:
        gc.disable()

class Setter:
    '''Garbage whose finaliser attaches a context, as a processor of OpenTelemetry's does.'''
    def __init__(self):
        self.me = self
    def __del__(self):
        token = attach(set_value("key", object()))
        work = [tuple(range(size)) for size in range(60)]  # takes the memory that was freed
        detach(token)

for other in OTHERS:
    other.set(object())
gc.collect()
gc.disable()
"""

PROVIDER = """
import sys
sys.path.insert(0, "tests")
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
import otelstream
from otelstream._core.emit import outbox
from otelstream.testing import Script
from shapes import ASK, Reply, Tape, clients

class Exporter(InMemorySpanExporter):
    def export(self, spans):
        work = [tuple(range(size)) for size in range(60)]  # takes the memory that was freed
        return super().export(spans)

def setting():
    MINE.set(object())

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(Exporter()))
trace.set_tracer_provider(provider)
transport, client, _ = clients(native=True)
EVENTS = [event.frame for event in Script().text("Calm seas, then wind.").finished().events]

def left():
    '''A stream that only a collection frees, with the span that the SDK made of it.'''
    transport.tape = Tape([Reply(EVENTS)])
    stream = client.messages.create(**ASK, stream=True)
    next(iter(stream))
    cycle = [stream]
    cycle.append(cycle)
"""

PROGRAMS = {
    # Somebody's finaliser, while an exporter of ours sets a variable.
    "in an emission": TRAP
    + """
from otelstream._core.emit import outbox
from otelstream._core.process import drops
drops.watch()

def setting():
    for _ in range(4):
        MINE.set(object())

def emission(at):
    Setter()
    spring(at, setting)

for at in range(800):
    outbox.take(__import__("collections").deque([lambda: emission(at)]))
    if at % 50 == 0:
        gc.collect()
""",
    # Somebody's finaliser, while we set a variable of ours.
    "in a turn": TRAP
    + """
import otelstream
def setting():
    with otelstream.turn():
        pass
for at in range(800):
    Setter()
    spring(at, setting)
""",
    # The end of a turn whose generator is collected, while the application sets a variable.
    "of a turn": TRAP
    + """
import otelstream
from otelstream._core.process import drops
drops.watch()

def questions():
    with otelstream.turn():
        try:
            yield
        finally:
            global work
            work = None  # gives up the memory that the end of the turn then writes into
            work = [tuple(range(size)) for size in range(60)]

def setting():
    MINE.set(object())

def left():
    answer = questions()
    next(answer)
    cycle = [answer]
    cycle.append(cycle)

for at in range(800):
    left()
    spring(at, setting, far=8)
""",
    # The finaliser of a stream that the SDK traces itself, while the application sets a variable.
    "of a stream": TRAP
    + PROVIDER
    + """
otelstream.instrument(spans=sys.argv[1])
for at in range(120):
    left()
    spring(at, setting, far=8)
gc.collect()
assert outbox.settle(30)
""",
}


@pytest.mark.parametrize(
    ("program", "spans"),
    [
        ("in an emission", "auto"),
        ("in a turn", "auto"),
        ("of a turn", "auto"),
        *(("of a stream", spans) for spans in ("auto", "own", "off")),
    ],
)
def test_a_collection_inside_a_set(program: str, spans: str) -> None:
    """A collection inside `ContextVar.set` crashes neither in our emissions, nor in our sets, nor by our finalisers."""
    ran = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", PROGRAMS[program], spans],
        env={**os.environ, "PYTHONMALLOC": "debug"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
