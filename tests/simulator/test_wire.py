# SPDX-License-Identifier: Apache-2.0
"""What is on the wire: bytes, times, endings, and a log that agrees with them."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import resource
import time
import zlib

import anthropic
import pytest

from otelstream.testing import (
    ProviderSimulator,
    Schedule,
    Script,
    SimulatorError,
)

from .wire import ASK, Dial, ended


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
