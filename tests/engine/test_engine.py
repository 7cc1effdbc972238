# SPDX-License-Identifier: Apache-2.0
"""Against an inference engine that nobody here wrote, through the real SDK: what it says of itself, and what we say.

`make e2e-engine` builds the engine (a quarter of an hour) and names its Python in ENGINE_PYTHON.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from slo.tools import free_port, wait_for

import otelstream
from otelstream import _semconv as s
from otelstream.testing import Recorder

openai = pytest.importorskip("openai")
PYTHON = os.environ.get("ENGINE_PYTHON", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="no engine: make e2e-engine builds one"),
]
ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Say something."}], "stream": True}


class Engine:
    """One engine, and its log."""

    def __init__(self, model: Path, log: Path) -> None:
        self.port, self.log = free_port(), log
        command = [PYTHON, "-m", "llama_cpp.server", "--model", str(model), "--port", str(self.port), "--n_ctx", "2048"]
        with log.open("w") as said:
            self.process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        self.client = openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="unused", max_retries=0)
        wait_for(self._answers, "the engine to start", 120)

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/models", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def decoded(self) -> list[int]:
        """The tokens that it decoded, by its own count, for each request that is over."""
        return [int(runs) for runs in re.findall(r" eval time = .*?/ +(\d+) runs", self.log.read_text())]

    def worked(self) -> float:
        """Seconds of processor time that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(20)
        self.client.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model") / "tiny.gguf"
    subprocess.run([PYTHON, str(Path(__file__).with_name("model.py")), str(made)], check=True)
    return made


@pytest.fixture
def engine(model: Path, tmp_path: Path) -> Iterator[Engine]:
    otelstream.instrument()
    made = Engine(model, tmp_path / "engine.log")
    list(made.client.chat.completions.create(**ASK, max_tokens=1))  # the first builds the SDK's models
    yield made
    made.stop()
    otelstream.uninstrument()


def test_a_whole_answer(engine: Engine) -> None:
    """First token, cadence and finish reason are what the application could see and the engine says it decoded."""
    with Recorder() as recorder:
        asked = time.perf_counter()
        texts = [
            (time.perf_counter() - asked, chunk.choices[0].delta.content)
            for chunk in engine.client.chat.completions.create(**ASK, max_tokens=200)
            if chunk.choices and chunk.choices[0].delta.content
        ]
    stream = recorder.expect(outcome="truncated", phase="finished", fault="none")
    said = stream.attributes
    assert list(said[s.FINISH_REASONS]) == ["length"]
    assert said[s.CHUNKS] == len(texts)
    assert said[s.VISIBLE_CHARS] == sum(len(text) for _, text in texts)
    assert 0 < said[s.TIME_TO_FIRST_TOKEN] <= texts[0][0]
    assert said[s.GAP_MAX] <= texts[-1][0]
    wait_for(lambda: len(engine.decoded()) == 2, "the engine to count")
    # What it decodes first comes with the prompt, and what is no text of its own is no chunk.
    assert abs(engine.decoded()[-1] - 200) <= 1
    print(f"\n{len(texts)} chunks of 200 tokens, first after {said[s.TIME_TO_FIRST_TOKEN] * 1e3:.1f} ms, "
          f"longest gap {said[s.GAP_MAX] * 1e3:.1f} ms, {stream.duration:.3f} s")  # fmt: skip


def test_a_cancel_that_the_engine_saw(engine: Engine) -> None:
    """A close at the twentieth token is `closed`; the engine sees who left, and works no more, long before what it was
    asked for. (It prints no count of an answer that was left: its processor time tells how far it came.)"""
    asked = 1900
    idle = engine.worked()
    list(engine.client.chat.completions.create(**ASK, max_tokens=asked))
    whole = engine.worked() - idle

    with Recorder() as recorder:
        stream = engine.client.chat.completions.create(**ASK, max_tokens=asked)
        for _ in zip(range(20), stream, strict=False):
            pass
        at_close = engine.worked()
        stream.close()
    said = recorder.expect(outcome="cancelled").attributes
    assert (said[s.CANCEL_TRIGGER], said[s.CANCEL_PROPAGATION]) == ("app_close", "closed")
    wait_for(lambda: "Disconnected from client" in engine.log.read_text(), "the engine to see it")

    def rests() -> bool:
        before = engine.worked()
        time.sleep(1)
        return engine.worked() - before < 0.05

    wait_for(rests, "the engine to rest")
    more = (engine.worked() - at_close) / whole * asked
    assert more < asked / 2
    print(f"\nclosed at token 20 of {asked}: the engine worked for some {more:.0f} more")


def test_a_killed_engine(engine: Engine) -> None:
    """The connection is lost, after a 200 and half an answer."""
    with Recorder() as recorder:
        stream = engine.client.chat.completions.create(**ASK, max_tokens=1900)
        for _ in zip(range(5), stream, strict=False):
            pass
        engine.process.kill()
        with pytest.raises(openai.APIConnectionError) as caught:
            list(stream)
    ended = recorder.expect(outcome="failed", phase="mid_stream", fault="connection_lost")
    assert ended.succeeded_then_failed
    print(f"\n{type(caught.value).__name__} after {ended.chunks} chunks")


def test_a_starved_engine(engine: Engine) -> None:
    """An engine that gets no processor for three seconds is a stall of the provider, and then goes on."""
    with Recorder() as recorder:
        stopped = False
        for number, _ in enumerate(engine.client.chat.completions.create(**ASK, max_tokens=1900)):
            if number == 5 and not stopped:
                stopped = True
                engine.process.send_signal(signal.SIGSTOP)
                resume = subprocess.Popen(["sh", "-c", f"sleep 3; kill -CONT {engine.process.pid}"])
    resume.wait(20)
    ended = recorder.expect(outcome="truncated")
    assert ended.attributes[s.STALLS_PROVIDER] >= 1
    assert 2 < ended.attributes[s.STALLED_TIME] < 30
    print(f"\nstalled for {ended.attributes[s.STALLED_TIME]:.2f} s")
