# SPDX-License-Identifier: Apache-2.0
"""The provider simulator keeps its word: bytes, times, endings, and a log that agrees with the wire."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import pytest

from otelstream.cli import main
from otelstream.testing import (
    Exchange,
    ProviderSimulator,
    Request,
    Schedule,
    Script,
    ScriptError,
    SimulatorError,
    loop,
    prose,
    script,
    script_names,
)

ASK: dict[str, Any] = {
    "model": "some-model",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "hi"}],
}


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as running:
        yield running


@pytest.fixture(scope="module")
def any_client() -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url="http://127.0.0.1:1", api_key="unused", max_retries=0) as made:
        yield made


@pytest.fixture
def client(sim: ProviderSimulator, any_client: anthropic.Anthropic) -> anthropic.Anthropic:
    """One connection pool for all tests (making one takes a tenth of a second), pointed at this simulator."""
    return any_client.with_options(base_url=sim.base_url)


def ended(sim: ProviderSimulator) -> Exchange:
    """Return the newest exchange once it is over."""
    return sim.wait_for(lambda log: log and log[-1].closed_at and log[-1])


def content(message: Any) -> list[dict[str, Any]]:
    """The blocks without what differs by design: ids, and fields that only the SDK or only one road sets."""
    skipped = {"id", "tool_use_id", "parsed_output"}
    blocks = [block.to_dict(mode="json") for block in message.content]
    return [
        {key: value for key, value in block.items() if key not in skipped and value is not None} for block in blocks
    ]


class Wire:
    """A client without any HTTP library: what arrives, and when."""

    def __init__(self, sim: ProviderSimulator, control: str) -> None:
        self.socket = socket.create_connection((sim.host, sim.port), timeout=20)
        self.arrivals: list[tuple[float, bytes]] = []
        self.raw = bytearray()
        self.reset = False
        body = json.dumps({**ASK, "stream": True}).encode()
        control = f"otelstream-play: {control}\r\n" if control else ""
        head = f"POST /v1/messages HTTP/1.1\r\nhost: x\r\n{control}content-length: {len(body)}\r\n\r\n"
        self.socket.sendall(head.encode() + body)

    def read(self, until: bytes | None = b"\r\n0\r\n\r\n") -> bytes:
        """Read up to *until*, or to the end of the connection."""
        while until is None or self.raw.find(until, max(0, len(self.raw) - 200_000)) < 0:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                self.reset = True
                break
            if not data:
                break
            self.arrivals.append((time.perf_counter(), data))
            self.raw += data
        return bytes(self.raw)

    @property
    def head(self) -> bytes:
        return bytes(self.raw.partition(b"\r\n\r\n")[0])

    @property
    def body(self) -> bytes:
        """The body as far as it came, its chunks joined."""
        rest, body = bytes(self.raw.partition(b"\r\n\r\n")[2]), b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            body += rest[: int(size, 16)]
            rest = rest[int(size, 16) + 2 :]
        return body

    def close(self, reset: bool = False) -> float:
        """Close and return when."""
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        at = time.perf_counter()
        self.socket.close()
        return at


Dial = Callable[..., Wire]


@pytest.fixture
def dial(sim: ProviderSimulator) -> Iterator[Dial]:
    """Open raw clients, and close them all in the end."""
    with contextlib.ExitStack() as opened:
        yield lambda control="": opened.enter_context(contextlib.closing(Wire(sim, control)))


class TestWire:
    def test_log_agrees_with_an_independent_client(self, sim: ProviderSimulator, dial: Dial) -> None:
        """Every write the log knows arrived, byte for byte and in order, within its own stamps."""
        wire = dial("text_long; gap=0.01; first=0.05")

        wire.read()

        exchange = sim.log[-1]
        assert exchange.body == wire.body
        assert len(exchange.events) == 110
        # The last byte of each event lies where the log says, in the arrival that brought it.
        end, apart = len(wire.head) + 4, []
        ends = list(itertools.accumulate(len(data) for _, data in wire.arrivals))
        for write in exchange.events:
            assert write.size == len(write.frame)
            assert write.frame in wire.raw[end : end + write.wire]
            end += write.wire
            arrived = next(at for (at, _), stop in zip(wire.arrivals, ends, strict=True) if stop >= end)
            assert write.began <= arrived
            apart.append(abs(arrived - write.at))
        assert end == len(wire.raw)
        assert sorted(apart)[len(apart) // 2] < 0.02
        assert all(after.at - before.at >= 0.01 for before, after in itertools.pairwise(exchange.events))
        assert exchange.accepted_at <= exchange.request_at <= exchange.headers_at <= exchange.events[0].began
        assert exchange.closed_at >= exchange.events[-1].at
        assert exchange.first("text") is exchange.chunks[0]
        assert exchange.first("thinking") is None

    def test_headers_are_the_providers(self, sim: ProviderSimulator, dial: Dial) -> None:
        """Status line, chunked transfer, event-stream with charset, and a request id that the log knows."""
        wire = dial()

        wire.read()

        head = wire.head.decode().lower()
        assert head.startswith("http/1.1 200 ")
        assert "content-type: text/event-stream; charset=utf-8" in head
        assert "transfer-encoding: chunked" in head
        assert f"request-id: {sim.log[-1].request_id.lower()}" in head
        assert "anthropic-organization-id: " in head

    def test_connection_is_kept_alive(self, sim: ProviderSimulator) -> None:
        """Two calls of one client travel on one connection; only the last has the client's leaving."""
        with anthropic.Anthropic(base_url=sim.base_url, api_key="unused") as client:
            for _ in range(2):
                list(client.messages.create(**ASK, stream=True))

        first, second = sim.wait_for(lambda log: log[-1].peer_closed_at and log)
        assert first.connection == second.connection
        assert (first.peer_closed_at, second.how, second.closed_by) == (None, "end", "server")

    def test_bundled_scripts_do_not_sleep(self, sim: ProviderSimulator, client: anthropic.Anthropic) -> None:
        """Without a schedule a stream of a hundred events takes no time worth naming."""
        sim.play("text_long")

        list(client.messages.create(**ASK, stream=True))

        assert sim.log[-1].closed_at - sim.log[-1].request_at < 2

    def test_schedule_is_kept(self, sim: ProviderSimulator, dial: Dial) -> None:
        """No gap is shorter than asked for, single pauses override, coalesced events share a write."""
        sim.play("text_short", schedule=Schedule(headers=0.05, first=0.1, gap=0.02, pauses={4: 0.2}))
        dial().read()
        paced = sim.log[-1]
        sim.play("text_short", schedule=Schedule(coalesce=3))
        dial().read()
        grouped = sim.log[-1]

        stamps = [paced.headers_at, *(write.at for write in paced.events)]
        gaps = [after - before for before, after in itertools.pairwise(stamps)]
        assert paced.headers_at - paced.request_at >= 0.05
        assert [gap >= least for gap, least in zip(gaps, [0.1, 0.02, 0.02, 0.02, 0.2, 0.02], strict=False)] == [
            True
        ] * 6
        assert len({write.at for write in grouped.events}) == 3
        assert [write.wire > 0 for write in grouped.events] == [True, False, False] * 2 + [True, False]

    @pytest.mark.parametrize("reads_on", [True, False])
    def test_what_the_kernel_has_not_taken_is_not_logged(
        self, sim: ProviderSimulator, dial: Dial, reads_on: bool
    ) -> None:
        """An event larger than all buffers is logged once the client has made room for it, or never."""
        sim.play(Script().text(["small", "x" * 30_000_000, "end"]))
        wire = dial()
        wire.read(b'"small"')
        at = time.perf_counter()

        assert len(sim.log[0].chunks) == 1
        if reads_on:
            wire.read()
            huge = ended(sim).chunks[1]
            assert at <= huge.at
            assert huge.at - huge.began > 0.001
            assert sim.log[0].complete
        else:
            wire.close()
            assert ended(sim).closed_by == "peer"
            assert len(sim.log[0].chunks) == 1

    def test_dribble_sends_single_bytes(self, sim: ProviderSimulator, dial: Dial) -> None:
        """One byte a write: the body still comes out the same."""
        wire = dial("text_short; dribble=1")

        wire.read()

        assert wire.body == sim.log[-1].body
        assert wire.raw.count(b"\r\n1\r\n") >= len(wire.body) - 1

    def test_gzip(self, sim: ProviderSimulator, dial: Dial) -> None:
        """The compressed body unpacks to the events, and each event can be unpacked as soon as it came."""
        sim.play("text_short", fault="gzip", schedule=Schedule(gap=0.02))
        wire = dial()
        wire.read(b"\r\n\r\n")
        unpack = zlib.decompressobj(wbits=31)

        wire.read()

        assert b"content-encoding: gzip" in wire.head
        assert gzip.decompress(wire.body) == sim.log[-1].body
        first = sim.log[-1].events[0]
        assert unpack.decompress(wire.body[: first.wire - 4]).startswith(first.frame[:200])

    def test_a_thousand_streams_at_once(self, sim: ProviderSimulator) -> None:
        """A thousand clients hold their streams open together and each gets the whole body."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard < 4096:
            pytest.skip(f"the machine allows {hard} open files; a thousand connections need both ends")
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
        # Silence until all are there, then a steady flow.
        gap = 0.1
        sim.play("text_after_tool_result", schedule=Schedule(first=0.5, gap=gap), times=None)
        ask = json.dumps({**ASK, "stream": True}).encode()
        head = f"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: {len(ask)}\r\n\r\n".encode()

        async def one() -> bytes:
            reader, writer = await asyncio.open_connection(sim.host, sim.port)
            writer.write(head + ask)
            body = await reader.readuntil(b"\r\n0\r\n\r\n")
            writer.close()
            return body

        async def everybody() -> list[bytes]:
            return await asyncio.gather(*(one() for _ in range(1000)))

        began = time.perf_counter()
        bodies = asyncio.run(everybody())
        taken = time.perf_counter() - began

        log = sim.log
        together = min(each.closed_at or 0 for each in log) - max(each.headers_at or 0 for each in log)
        late = sorted(
            (after.at - before.at - gap) * 1e3 for each in log for before, after in itertools.pairwise(each.events)
        )
        print(
            f"\n1000 streams of {len(log[0].events)} events in {taken:.2f} s, "
            f"all open together for {together:.2f} s; gap over the schedule: "
            f"median {late[len(late) // 2]:.1f} ms, p99 {late[len(late) * 99 // 100]:.1f} ms"
        )
        assert len(log) == 1000
        assert all(each.complete and each.how == "end" for each in log)
        assert {body.count(b"event: ") for body in bodies} == {len(log[0].events)}
        assert together > 0
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class TestEndings:
    @pytest.mark.parametrize("point", ["headers", "chunks:0", "chunks:5", "events:3", "finish"])
    def test_cut(self, sim: ProviderSimulator, dial: Dial, point: str) -> None:
        """The connection closes inside the body: no terminating chunk, no reset."""
        wire = dial(f"text_long; cut_after={point}")

        wire.read(None)

        exchange = ended(sim)
        assert not wire.reset
        assert not wire.raw.endswith(b"0\r\n\r\n")
        assert wire.body == exchange.body
        assert (exchange.closed_by, exchange.how, exchange.complete) == ("server", "fin", False)
        assert exchange.peer_closed_at is None
        if point.startswith("chunks"):
            assert len(exchange.chunks) == int(point[-1])

    @pytest.mark.parametrize("point", ["request", "headers", "chunks:0", "chunks:5"])
    def test_reset(self, sim: ProviderSimulator, dial: Dial, point: str) -> None:
        """The client's socket is reset; what was sent before is readable."""
        wire = dial(f"text_long; gap=0.001; reset_after={point}")

        wire.read(None)

        exchange = ended(sim)
        assert wire.reset
        assert (exchange.closed_by, exchange.how) == ("server", "reset")
        assert exchange.status == (None if point == "request" else 200)

    @pytest.mark.parametrize("point", ["chunks:0", "chunks:5", "finish"])
    def test_clean_end_without_the_last_event(self, sim: ProviderSimulator, dial: Dial, point: str) -> None:
        """The body ends as HTTP wants it, so that nothing raises, but the stream has no end."""
        wire = dial(f"text_long; end_after={point}")

        raw = wire.read()

        assert raw.endswith(b"\r\n0\r\n\r\n")
        assert b"message_stop" not in raw
        assert (b"message_delta" in raw) == (point == "finish")
        exchange = ended(sim)
        assert (exchange.closed_by, exchange.how, exchange.complete) == ("server", "end", False)

    @pytest.mark.parametrize(("reset", "how"), [(False, "fin"), (True, "reset")])
    @pytest.mark.parametrize("control", ["hang_after=chunks:3", "first=30", "ping_only_after=chunks:3,every:0.5"])
    def test_the_client_leaving_is_noticed_at_once(
        self, sim: ProviderSimulator, dial: Dial, control: str, reset: bool, how: str
    ) -> None:
        """Hanging, sleeping or pinging, the simulator stamps the instant of the client's close."""
        wire = dial(f"text_long; {control}")
        sim.wait_for(lambda log: log and log[0].headers_at and (len(log[0].chunks) == 3 or "first" in control))
        # Unread bytes would turn the close into a reset.
        wire.read(sim.log[0].events[-1].frame + b"\r\n" if sim.log[0].events else b"\r\n\r\n")

        at = wire.close(reset)

        exchange = ended(sim)
        assert (exchange.closed_by, exchange.how) == ("peer", how)
        assert exchange.peer_closed_at == exchange.closed_at
        assert 0 <= exchange.closed_at - at < 0.5
        assert all(write.at <= exchange.closed_at for write in exchange.events)

    def test_stop_refuses_and_start_serves_again(self, sim: ProviderSimulator, dial: Dial) -> None:
        """A stopped simulator refuses connections, ends open ones, and comes back on the same port."""
        dial("text_long; hang_after=chunks:3")
        sim.wait_for(lambda log: log and len(log[0].chunks) == 3)
        port = sim.port

        sim.stop()

        assert (sim.log[0].closed_by, sim.log[0].how) == ("server", "reset")
        with pytest.raises(ConnectionRefusedError):
            dial()
        assert sim.start().port == port
        assert dial().read().endswith(b"\r\n0\r\n\r\n")

    def test_a_port_in_use_is_named(self, sim: ProviderSimulator) -> None:
        """One error, with the port and what to do."""
        with pytest.raises(SimulatorError, match=rf"port {sim.port} on 127\.0\.0\.1 is in use: .*0 takes a free one"):
            ProviderSimulator(sim.port).start()


class TestThroughTheSDK:
    """What an application sees of it, with the newest SDK."""

    @pytest.mark.parametrize("name", script_names())
    def test_every_script_sync(self, sim: ProviderSimulator, client: anthropic.Anthropic, name: str) -> None:
        """Each script is a message with its finish reason, streamed by events, by the helper, or not at all."""
        sim.play(name, times=None)

        events = list(client.beta.messages.create(**ASK, stream=True))
        with client.beta.messages.stream(**ASK) as stream:
            streamed = stream.get_final_message()
        whole = client.beta.messages.create(**ASK)

        assert [event.type for event in events][-1] == "message_stop"
        assert [event.delta.stop_reason for event in events if event.type == "message_delta"] == [
            script(name).stop_reason
        ]
        assert streamed.stop_reason == whole.stop_reason == script(name).stop_reason
        assert streamed.usage.output_tokens == whole.usage.output_tokens
        if name != "tool_use_cut_by_max_tokens":
            # The SDK keeps the half of an input that was cut; the API has no way to send one.
            assert content(streamed) == content(whole)

    def test_every_script_async(self, sim: ProviderSimulator) -> None:
        """The same through the asynchronous client, all scripts at once, told apart by model."""
        for name in script_names():
            sim.play(name, when=name, times=2)

        async def ask(client: anthropic.AsyncAnthropic, name: str) -> tuple[str | None, str | None]:
            request = {**ASK, "model": name}
            events = [event async for event in await client.messages.create(**request, stream=True)]
            reasons = [event.delta.stop_reason for event in events if event.type == "message_delta"]
            async with client.messages.stream(**request) as stream:
                message = await stream.get_final_message()
            return reasons[0], message.stop_reason

        async def everything() -> list[tuple[str | None, str | None]]:
            async with anthropic.AsyncAnthropic(base_url=sim.base_url, api_key="unused") as client:
                return await asyncio.gather(*(ask(client, name) for name in script_names()))

        found = asyncio.run(everything())

        assert found == [(script(name).stop_reason,) * 2 for name in script_names()]
        assert {each.script: each.request.model for each in sim.log} == {name: name for name in script_names()}

    @pytest.mark.parametrize(
        ("fault", "raised", "words"),
        [
            ("error_after=chunks:3", anthropic.APIStatusError, "Overloaded"),
            ("error_after=chunks:0,type:api_error", anthropic.APIStatusError, "api_error"),
            ("cut_after=chunks:3", Exception, "incomplete chunked read"),
            ("reset_after=request", anthropic.APIConnectionError, "Connection error"),
            ("reset_after=chunks:3", Exception, "reset by peer"),
            ("hang_after=chunks:3", Exception, "timed out"),
            ("hang_after=request", anthropic.APITimeoutError, "timed out"),
            ("ping_only_after=0.9,every:0.2,chunks:3", None, "end_turn"),
            ("stall_after=0.1,chunks:3", None, "end_turn"),
            ("stall_after=0.1,point:finish", None, "end_turn"),
            ("slow_headers=0.1", None, "end_turn"),
            ("http_error=400", anthropic.BadRequestError, "invalid_request_error"),
            ("http_error=408", anthropic.APIStatusError, "timeout_error"),
            ("http_error=409", anthropic.ConflictError, "conflict_error"),
            ("http_error=429,retry_after:7", anthropic.RateLimitError, "rate_limit_error"),
            ("http_error=500", anthropic.InternalServerError, "api_error"),
            ("http_error=503", anthropic.APIStatusError, "api_error"),
            ("http_error=529", anthropic.APIStatusError, "overloaded_error"),
            ("malformed_frame_after=chunks:3", ValueError, "Unterminated string"),
            ("malformed_frame_after=chunks:3,kind:utf8", UnicodeDecodeError, "invalid start byte"),
            ("malformed_frame_after=chunks:3,kind:no_data", None, "end_turn"),
            ("malformed_frame_after=chunks:3,kind:unknown", None, "end_turn"),
            ("refuse_after=chunks:0", None, "refusal"),
            ("refuse_after=chunks:3", None, "refusal"),
            ("repeat_after=chunks:3", None, "end_turn"),
            ("huge_event_after=chunks:3", None, "end_turn"),
            ("dribble=7", None, "end_turn"),
            ("gzip", None, "end_turn"),
            ("end_after=finish", None, "end_turn"),
            ("end_after=chunks:3", None, "None"),
            ("no_finish", None, "None"),
        ],
    )
    def test_faults(
        self,
        sim: ProviderSimulator,
        client: anthropic.Anthropic,
        fault: str,
        raised: type[Exception] | None,
        words: str,
    ) -> None:
        """Each fault does to an application what its real counterpart does."""
        sim.play("text_stream_manager", fault=fault)
        impatient = client.with_options(timeout=0.5)

        def ask() -> anthropic.types.Message:
            with impatient.messages.stream(**ASK) as stream:
                return stream.get_final_message()

        if raised is None:
            assert str(ask().stop_reason) == words
        else:
            with pytest.raises(raised, match=words):
                ask()

        fault_in_log = ended(sim).fault
        assert fault_in_log == fault
        if "hang" in fault:
            assert sim.log[-1].closed_by == "peer"

    @pytest.mark.parametrize(
        ("fault", "helper", "reason", "valid"),
        [
            ("malformed_tool_json", None, "tool_use", False),
            ("malformed_tool_json=middle", ValueError, "tool_use", False),
            ("tool_input_cut_off", None, "max_tokens", False),
            (None, None, "tool_use", True),
        ],
    )
    @pytest.mark.parametrize("name", ["tool_use_only", "tool_use_eager", "tool_use_two_tools", "tool_use_opus"])
    def test_broken_tool_input(
        self,
        sim: ProviderSimulator,
        client: anthropic.Anthropic,
        name: str,
        fault: str | None,
        helper: type[Exception] | None,
        reason: str,
        valid: bool,
    ) -> None:
        """The raw events carry an input that is no JSON; the helper raises only where it cannot go on."""
        sim.play(name, fault=fault, times=2)

        events = list(client.messages.create(**ASK, stream=True))
        with contextlib.nullcontext() if helper is None else pytest.raises(helper, match="tool parameter JSON"):  # noqa: SIM117
            with client.messages.stream(**ASK) as stream:
                stream.until_done()

        deltas = [event for event in events if event.type == "content_block_delta"]
        last = [event for event in deltas if event.delta.type == "input_json_delta"][-1].index
        text = "".join(event.delta.partial_json for event in deltas if event.index == last)
        assert [event.delta.stop_reason for event in events if event.type == "message_delta"] == [reason]
        if reason == "max_tokens":
            fragments = [event for event in script(name).events if event.kind == "tool_input" and event.chars]
            whole = [event for event in fragments if event.payload["index"] == last]
            came = [event for event in deltas if event.index == last and event.delta.partial_json]
            assert len(came) == max(1, round(len(whole) / 2))
        try:
            json.loads(text)
        except ValueError:
            assert not valid
        else:
            assert valid

    def test_a_retry_succeeds(self, sim: ProviderSimulator, client: anthropic.Anthropic) -> None:
        """A counted error is used up by the first attempt, and the log knows the attempts."""
        sim.play("text_short", fault=sim.http_error(529, retry_after=0.01))

        client.with_options(max_retries=2).messages.create(**ASK)

        assert [(each.status, each.request.attempt) for each in sim.log] == [(529, 0), (200, 1)]

    def test_retry_after(self, sim: ProviderSimulator, client: anthropic.Anthropic) -> None:
        """The wait asked for is in both headers that the SDK reads."""
        sim.play("text_short", fault=sim.http_error(429, retry_after=0.01, headers={"x-should-retry": "false"}))

        with pytest.raises(anthropic.RateLimitError) as refused:
            client.with_options(max_retries=2).messages.create(**ASK)

        headers = refused.value.response.headers
        assert (headers["retry-after"], headers["retry-after-ms"]) == ("1", "10")
        assert len(sim.log) == 1

    def test_loops(self, sim: ProviderSimulator, client: anthropic.Anthropic) -> None:
        """The loop fault repeats its unit as often as told, whatever the chunks."""
        sim.play("text_long", fault=sim.repeat_after(chunks=10, period=17, copies=12, chunk=5))

        with client.messages.stream(**ASK) as stream:
            text = stream.get_final_text()

        assert loop(17, 12) in text

    def test_faults_combine(self, sim: ProviderSimulator, client: anthropic.Anthropic) -> None:
        """Several faults on one reply, in their order."""
        sim.play("text_long", fault=[sim.gzip(), sim.dribble(50), sim.error_after(chunks=4)])

        with pytest.raises(anthropic.APIStatusError):
            list(client.messages.create(**ASK, stream=True))

        assert len(sim.log[-1].chunks) == 4
        assert sim.log[-1].fault == "gzip(), dribble(50), error_after(chunks=4)"


class TestSteering:
    def test_nothing_queued_plays_text_short(self, sim: ProviderSimulator, client: anthropic.Anthropic) -> None:
        """A simulator works without being told anything."""
        client.messages.create(**ASK)

        assert sim.log[-1].script == "text_short"

    def test_queue(self, sim: ProviderSimulator, client: anthropic.Anthropic) -> None:
        """Counted entries go first and in order, then the newest endless one; a condition leaves entries alone."""
        sim.play("text_beta", times=None)
        sim.play("text_long", times=None, when=lambda request: request.body["max_tokens"] == 65)
        sim.play("stop_sequence", when="another-model")
        sim.play("pause_turn", times=2)
        sim.play("refusal")

        for _ in range(4):
            client.messages.create(**ASK)
        client.messages.create(**{**ASK, "max_tokens": 65})
        client.messages.create(**{**ASK, "model": "another-model"})

        assert [each.script for each in sim.log] == [
            "pause_turn", "pause_turn", "refusal", "text_beta", "text_long", "stop_sequence",
        ]  # fmt: skip

    def test_clear(self, sim: ProviderSimulator, client: anthropic.Anthropic) -> None:
        """Cleared, it is as new: no log, no queue, the same ids as the first time."""
        first = client.messages.create(**ASK).id
        sim.play("refusal", times=None)

        sim.clear()

        assert sim.log == []
        again = client.messages.create(**ASK)
        assert (again.id, again.stop_reason) == (first, "end_turn")

    def test_header_selects(self, sim: ProviderSimulator, client: anthropic.Anthropic) -> None:
        """Another process chooses script, faults and times by a header, past the queue."""
        sim.play("refusal", times=None)
        header = {"otelstream-play": "text_beta; end_after=chunks:1; first=0.05; gap=0.01"}

        list(client.messages.create(**ASK, stream=True, extra_headers=header))

        exchange = sim.log[-1]
        assert (exchange.script, exchange.fault) == ("text_beta", "end_after(chunks=1)")
        assert exchange.events[0].at - exchange.headers_at >= 0.05

    @pytest.mark.parametrize(
        ("header", "words"),
        [
            ("text_lung", "no script 'text_lung'; there are: .*text_long"),
            ("text_long; cut=3", "no fault 'cut'; there are: .*cut_after"),
            ("text_long; cut_after=chunk:3", "unexpected keyword argument 'chunk'"),
            ("text_short; cut_after=chunks:40", "it has only 2 chunks"),
            ("text_short; cut_after", "give one point"),
            ("text_short; cut_after=later", "no point 'later'"),
            ("text_short; gap=soon", "gap is a number"),
            ("text_short; gap=-1", "gap=-1: at least 0"),
            ("text_short; malformed_tool_json", "it has no tool input"),
            ("text_short; error_after=request", "needs a reply"),
            ("text_short; http_error=200", "a status from 400 to 599"),
        ],
    )
    def test_a_wrong_header_is_a_400(
        self, sim: ProviderSimulator, client: anthropic.Anthropic, header: str, words: str
    ) -> None:
        """The client is told what is wrong and what there is; nothing is retried."""
        patient = client.with_options(max_retries=2)

        with pytest.raises(anthropic.BadRequestError, match=words):
            patient.messages.create(**ASK, extra_headers={"otelstream-play": header})

        assert len(sim.log) == 1

    def test_wrong_calls_raise(self, sim: ProviderSimulator) -> None:
        """In process the same mistakes raise at `play`, not at the request."""
        with pytest.raises(ScriptError, match="no script 'nope'"):
            sim.play("nope")
        with pytest.raises(ScriptError, match=r"cut_after\(chunks=3\) on script 'text_short'"):
            sim.play("text_short", fault=sim.cut_after(chunks=3))
        with pytest.raises(ScriptError, match="times=0"):
            sim.play("text_short", times=0)
        with pytest.raises(ScriptError, match="first=-1"):
            Schedule(first=-1)

    def test_a_raising_condition_is_told_to_the_client(
        self, sim: ProviderSimulator, client: anthropic.Anthropic
    ) -> None:
        """A broken predicate is a 400 that shows the exception, not a hanging request."""
        sim.play("text_short", when=lambda request: request.body["nothing"])

        with pytest.raises(anthropic.BadRequestError, match=r"when=\.\.\.\) raised KeyError\('nothing'\)"):
            client.messages.create(**ASK)

    def test_other_paths_are_404(self, sim: ProviderSimulator, client: anthropic.Anthropic) -> None:
        """It says what it serves."""
        with pytest.raises(anthropic.NotFoundError, match="serves POST"):
            client.messages.count_tokens(model="m", messages=ASK["messages"])

    def test_other_processes_read_the_log(self, sim: ProviderSimulator, client: anthropic.Anthropic) -> None:
        """The log is JSON over HTTP, without credentials; play and clear work there too."""

        def call(method: str, path: str, body: Any = None) -> Any:
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(f"{sim.base_url}/_simulator/{path}", data, method=method)
            with urllib.request.urlopen(request) as response:
                return json.load(response)

        call(
            "POST",
            "play",
            {"script": "text_beta", "fault": "cut_after=chunks:1", "schedule": {"gap": 0.01}, "times": 1},
        )
        with pytest.raises(Exception, match="incomplete"):
            list(client.messages.create(**ASK, stream=True))
        (seen,) = call("GET", "log")
        with pytest.raises(urllib.error.HTTPError) as wrong:
            call("POST", "play", {"script": "nope"})
        with wrong.value:
            reason = json.load(wrong.value)["error"]
        call("DELETE", "log")

        assert (seen["how"], seen["closed_by"], seen["script"]) == ("fin", "server", "text_beta")
        assert [write["kind"] for write in seen["events"]][-1] == "text"
        assert seen["request"]["body"]["model"] == "some-model"
        assert "unused" not in json.dumps(seen)
        assert "no script 'nope'" in reason
        assert sim.log == []

    def test_wait_for_shows_the_log(self, sim: ProviderSimulator, client: anthropic.Anthropic) -> None:
        """A condition that does not come true ends in an error with one line an exchange."""
        client.messages.create(**ASK)

        with pytest.raises(
            TimeoutError, match=r"#1 POST /v1/messages 200 text_short: 0 events, 0 chunks, end by server"
        ):
            sim.wait_for(lambda log: len(log) == 2, timeout=0.05)

    def test_on_end(self) -> None:
        """A callback gets each exchange once, when it is over."""
        seen: list[Exchange] = []
        with ProviderSimulator(on_end=seen.append) as sim:
            with contextlib.closing(Wire(sim, "text_short")) as wire:
                wire.read()
            with contextlib.closing(Wire(sim, "text_short; hang_after=headers")):
                sim.wait_for(lambda log: len(log) == 2 and log[1].headers_at)
            sim.wait_for(lambda log: log[1].closed_at)

        assert [each.closed_by for each in seen] == ["server", "peer"]


class TestScripts:
    def test_built_script_arrives(self, sim: ProviderSimulator, client: anthropic.Anthropic) -> None:
        """What was built is what the SDK accumulates, with the model of the request and the ids given."""
        given = "toolu_01GivenByTheAuthorOfThis"
        built = (
            Script()
            .thinking("Which one?")
            .text("I will look.", chunk=5)
            .tool_use("get_weather", {"city": "Oslo"}, id=given, chunks=2)
        )
        sim.play(built)

        with client.messages.stream(**ASK) as stream:
            message = stream.get_final_message()

        thinking, text, tool = message.content
        assert thinking.thinking == "Which one?"
        assert thinking.signature
        assert text.text == "I will look."
        assert (tool.id, tool.name, tool.input) == (given, "get_weather", {"city": "Oslo"})
        assert (message.stop_reason, message.model) == ("tool_use", "some-model")
        kinds = [(write.kind, write.chars) for write in sim.log[-1].events if write.kind in {"text", "tool_input"}]
        assert kinds == [("text", 5), ("text", 5), ("text", 2), ("tool_input", 0), ("tool_input", 8), ("tool_input", 8)]

    def test_scripts_are_values(self) -> None:
        """Building on a script leaves it as it was."""
        start = Script().text("one")

        longer = start.text("two").end("max_tokens")

        assert (start.chunks, longer.chunks) == (1, 2)
        assert (start.stop_reason, longer.stop_reason) == (None, "max_tokens")

    def test_ids_are_new_at_each_play(self, sim: ProviderSimulator, client: anthropic.Anthropic) -> None:
        """Two replies never share message or tool ids, but within one a result still names its call."""
        sim.play("container", times=None)

        one, two = client.messages.create(**ASK), client.messages.create(**ASK)

        assert one.id != two.id
        for message in (one, two):
            call, result = message.content[1:3]
            assert call.id == result.tool_use_id
        assert one.content[1].id != two.content[1].id

    def test_ids_can_be_kept(self) -> None:
        """For comparisons byte by byte."""
        with ProviderSimulator(fresh_ids=False) as sim:
            bodies = []
            for _ in range(2):
                with contextlib.closing(Wire(sim, "tool_use_two_tools")) as wire:
                    wire.read()
                    bodies.append(wire.body)

        assert bodies[0] == bodies[1] == b"".join(event.frame for event in script("tool_use_two_tools").events)

    def test_pauses_of_a_script(self, sim: ProviderSimulator, dial: Dial) -> None:
        """A script's own pause holds, and the bundled buffered input comes after one."""
        dial("tool_use_buffered").read()
        sim.play(Script().text("ab", chunk=2).pause(0.15).text("cd"))
        dial().read()

        buffered, paused = (each.events for each in sim.log)
        gaps = [after.began - before.at for before, after in itertools.pairwise(buffered) if after.kind == "tool_input"]
        assert max(gaps) >= 0.2
        assert sum(gap >= 0.1 for gap in gaps) == 1
        second = next(i for i, write in enumerate(paused) if write.kind == "block_start" and i > 2)
        assert paused[second].began - paused[second - 1].at >= 0.15

    def test_filler(self) -> None:
        """Text of any length, made of words, the same each time, and a loop that repeats as often as it says."""
        assert [len(prose(length)) for length in range(400)] == list(range(400))
        assert prose(200) == prose(200) != prose(200, 5)
        assert loop(7, 3.5) == (prose(7) * 4)[:24]

    def test_requests_are_frozen(self) -> None:
        """A predicate sees model, attempt and streaming at a glance, for any body."""
        request = Request("POST", "/v1/messages", "", {"x-stainless-retry-count": "2"}, {"model": "m", "stream": True})

        assert (request.model, request.attempt, request.stream) == ("m", 2, True)
        assert Request("GET", "/", "", {}, None).model is None


class TestCommand:
    def test_serves_until_interrupted(self) -> None:
        """It says where it listens, prints a line for each request, and ends well on Ctrl-C."""
        command = [
            sys.executable,
            "-m",
            "otelstream",
            "simulator",
            "--port",
            "0",
            "--script",
            "text_short",
            "--gap",
            "0",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            address = process.stdout.readline().split()[0]
            with anthropic.Anthropic(base_url=address, api_key="unused") as client:
                assert client.messages.create(**ASK).stop_reason == "end_turn"
            line = process.stdout.readline()
            os.kill(process.pid, signal.SIGINT)

            assert process.wait(10) == 0
        assert line.startswith("#1 POST /v1/messages 200 text_short: ")

    def test_list(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Every script and every fault is named."""
        assert main(["simulator", "--list"]) == 0

        shown = capsys.readouterr().out
        assert all(f"  {name} " in shown for name in script_names())
        assert "  cut_after=point,chunks,events\n" in shown

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--fault", "nope"], "no fault 'nope'"),
            (["--script", "nope"], "no script 'nope'"),
            (["--script", "nope.sse"], "nope.sse: No such file"),
            (["--gap", "-1"], "--gap -1: give seconds from 0"),
            (["--port", "70000"], "70000"),
        ],
    )
    def test_bad_input_is_one_line(self, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
        """Exit code 2 and a line that names it."""
        assert main(["simulator", *arguments]) == 2

        shown = capsys.readouterr().err
        assert words in shown
        assert shown.count("\n") == 1

    def test_port_in_use(self, sim: ProviderSimulator, capsys: pytest.CaptureFixture[str]) -> None:
        """The port is named, with the remedy."""
        assert main(["simulator", "--port", str(sim.port)]) == 2

        assert f"port {sim.port} on 127.0.0.1 is in use" in capsys.readouterr().err
