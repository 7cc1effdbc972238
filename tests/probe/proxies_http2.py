# SPDX-License-Identifier: Apache-2.0
"""Small proxies that speak HTTP/2 to the client: one that changes nothing, and one for each thing done wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import h2.config
import h2.connection
import h2.events
import h11
from h2.errors import ErrorCodes

from tests.probe import proxies

HOP = {b"connection", b"transfer-encoding", b"keep-alive"}


class Http2(proxies.Proxy):
    """A stream ends by RST_STREAM where the upstream was cut, and a client's RST_STREAM closes the upstream."""

    cancels = True

    def broken(self, http: h2.connection.H2Connection, stream: int) -> None:
        """What a cut of the upstream's becomes."""
        http.reset_stream(stream, ErrorCodes.INTERNAL_ERROR)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        chosen = writer.get_extra_info("ssl_object")
        if chosen is not None and chosen.selected_alpn_protocol() != "h2":
            return await super()._one(reader, writer)
        http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        http.initiate_connection()
        asked: dict[int, tuple[list[Any], bytearray]] = {}
        working: dict[int, asyncio.Task[None]] = {}
        try:
            while True:
                writer.write(http.data_to_send())
                if not (data := await reader.read(65536)):
                    return None
                for event in http.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        asked[event.stream_id] = (list(event.headers), bytearray())
                    elif isinstance(event, h2.events.DataReceived):
                        asked[event.stream_id][1].extend(event.data)
                        http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    elif isinstance(event, h2.events.StreamEnded):
                        task = self._stream(http, writer, event.stream_id, *asked[event.stream_id])
                        working[event.stream_id] = asyncio.ensure_future(task)
                    elif isinstance(event, h2.events.StreamReset) and self.cancels:
                        working[event.stream_id].cancel()
        finally:
            for each in working.values():
                each.cancel()
            await asyncio.gather(*working.values(), return_exceptions=True)

    async def _stream(
        self, http: h2.connection.H2Connection, writer: asyncio.StreamWriter, stream: int, head: Any, body: bytearray
    ) -> None:
        pseudo = {key: value for key, value in head if key.startswith(b":")}
        headers = [("host", "up"), *((key, value) for key, value in head if not key.startswith(b":"))]
        up = h11.Connection(h11.CLIENT)
        reader, to = await asyncio.open_connection("127.0.0.1", self.upstream)
        try:
            target = h11.Request(method=pseudo[b":method"], target=pseudo[b":path"], headers=headers)
            to.write(up.send(target) + up.send(h11.Data(data=bytes(body))) + up.send(h11.EndOfMessage()))
            while True:
                event = up.next_event()
                if event is h11.NEED_DATA:
                    try:
                        data = await reader.read(65536)
                    except ConnectionResetError:
                        data = b""
                    if not data:
                        self.broken(http, stream)
                        break
                    up.receive_data(data)
                elif isinstance(event, h11.Response):
                    kept = [each for each in event.headers if each[0] not in HOP]
                    http.send_headers(stream, [(b":status", b"%d" % event.status_code), *kept])
                elif isinstance(event, h11.Data):
                    for at in range(0, len(event.data), http.max_outbound_frame_size):
                        http.send_data(stream, bytes(event.data[at : at + http.max_outbound_frame_size]))
                elif isinstance(event, h11.EndOfMessage):
                    http.end_stream(stream)
                    break
                writer.write(http.data_to_send())
            writer.write(http.data_to_send())
        finally:
            to.transport.abort()


class EndsInOrder(Http2):
    def broken(self, http: h2.connection.H2Connection, stream: int) -> None:
        http.end_stream(stream)


class GoesAway(Http2):
    def broken(self, http: h2.connection.H2Connection, stream: int) -> None:
        http.close_connection(ErrorCodes.INTERNAL_ERROR)


class DrainsStreams(Http2):
    cancels = False
