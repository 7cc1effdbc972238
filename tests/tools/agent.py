# SPDX-License-Identifier: Apache-2.0
"""A hand-written agent loop, and the SDK's, each in both colours, that keep their own log of what they did."""

from __future__ import annotations

import asyncio
import smtplib
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anthropic

import otelstream

from .bench import ASK, Bench
from .sink import DELAY

EVIDENCES = ("decorator", "tool_call", "runner", "eager", "span", "tool_result")
MOMENTS = (
    "clean end",
    "Stop before ready",
    "Stop between ready and dispatch",
    "Stop during the tool",
    "Stop after the tool",
    "Stop in stream 2",
    "provider error after ready",
    "tool error",
    "tool input cut off",
    "tool input invalid",
)


class ToolFailedError(Exception):
    """The tool's own."""


@dataclass
class Log:
    """What the application itself knows, on the clock that all processes share."""

    ready: float | None = None
    over: float | None = None  # the first stream's terminal event
    began: float | None = None
    ended: float | None = None
    sent: float | None = None  # just before the request that carries the result
    stopped: float | None = None
    turn: Any = None
    errors: list[BaseException] = field(default_factory=list)


class Agent:
    """One cell: the loop, its tool, and the moment at which the user presses Stop."""

    def __init__(
        self, bench: Bench, client: Any, mail_port: int, cell: str, evidence: str, moment: str, colour: str
    ) -> None:
        self.bench, self.mail_port, self.cell = bench, mail_port, cell
        self.evidence, self.moment, self.asynchronous = evidence, moment, colour == "async"
        self.log = Log()
        self.client = client
        self.tool_name = f"mail_by_{evidence}"

    # --- the user -----------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Press Stop: in another thread, so in another context, as another request would."""
        found: list[bool] = []
        presser = threading.Thread(target=lambda: found.append(otelstream.record_stop(turn=self.cell)))
        self.log.stopped = time.perf_counter()
        presser.start()
        presser.join()
        assert found == [True]

    def at(self, moment: str) -> bool:
        """Stop if this is the moment; whether the loop must now give up."""
        if self.moment == moment and self.log.stopped is None:
            self.stop()
        return self.log.stopped is not None

    # --- the tool -----------------------------------------------------------------------------------------

    def _mail(self) -> None:
        if self.moment == "tool error":
            raise ToolFailedError
        with smtplib.SMTP("127.0.0.1", self.mail_port) as smtp:
            smtp.sendmail("agent@example.org", [f"{self.cell}@example.org"], "Subject: x\r\n\r\nx")
        time.sleep(DELAY)

    def tool(self) -> Any:
        """The function that serves the call, in the colour and with the declaration of this cell."""

        def sync_tool(to: str) -> str:
            """Send a mail."""
            self.log.began = time.perf_counter()
            try:
                self.at("Stop during the tool")
                self._mail()
            finally:
                self.log.ended = time.perf_counter()
            return "sent"

        async def async_tool(to: str) -> str:
            """Send a mail."""
            self.log.began = time.perf_counter()
            try:
                self.at("Stop during the tool")
                await asyncio.to_thread(self._mail)
            finally:
                self.log.ended = time.perf_counter()
            return "sent"

        function: Any = async_tool if self.asynchronous else sync_tool
        function.__name__ = self.tool_name
        if self.evidence == "decorator":
            return otelstream.tool(effect="write")(function)
        if self.evidence in ("runner", "eager"):
            make: Any = anthropic.beta_async_tool if self.asynchronous else anthropic.beta_tool
            return make(function)
        return function

    async def serve(self, tool: Any, block: Any) -> tuple[str, bool]:
        async def call() -> str:
            result = tool(**block.input)
            return str(await result if self.asynchronous else result)

        try:
            if self.evidence == "tool_call":
                with otelstream.tool_call(block):
                    return await call(), False
            if self.evidence == "span":
                attributes = {"gen_ai.tool.call.id": block.id}
                with self.bench.tracer.start_as_current_span("somebody's tool span", attributes=attributes):
                    return await call(), False
            return await call(), False
        except ToolFailedError as error:
            self.log.errors.append(error)
            return "failed", True

    # --- the loops ----------------------------------------------------------------------------------------

    async def run(self) -> Log:
        with otelstream.turn(self.cell) as turn:
            self.log.turn = turn
            try:
                loop = self._runner if self.evidence in ("runner", "eager") else self._by_hand
                await loop(self.tool())
            except Exception as error:
                self.log.errors.append(error)
        return self.log

    @asynccontextmanager
    async def _open(self, messages: Any) -> AsyncIterator[Any]:
        manager = self.client.messages.stream(**{**ASK, "messages": messages})
        if self.asynchronous:
            async with manager as stream:
                yield stream
        else:
            with manager as stream:
                yield stream

    async def _by_hand(self, tool: Any) -> None:
        messages: list[Any] = list(ASK["messages"])
        async with self._open(messages) as stream:
            async for event in steps(stream):
                if self._first_stream(event):
                    return
            message = stream.get_final_message()
            message = await message if self.asynchronous else message
        results = []
        for block in message.content if message.stop_reason == "tool_use" else ():
            if block.type == "tool_use":
                text, failed = await self.serve(tool, block)
                result = {"type": "tool_result", "tool_use_id": block.id, "content": text, "is_error": failed}
                results.append(result)
        if not results or self.at("Stop after the tool"):
            return
        content = [block.model_dump(exclude_unset=True) for block in message.content]
        messages += [{"role": "assistant", "content": content}, {"role": "user", "content": results}]
        self.log.sent = time.perf_counter()
        async with self._open(messages) as stream:
            async for event in steps(stream):
                if event.type == "text" and self.at("Stop in stream 2"):
                    return

    def _first_stream(self, event: Any) -> bool:
        """Look at an event of the first stream; whether to give up."""
        if event.type == "content_block_delta" and event.delta.type == "input_json_delta" and event.delta.partial_json:
            return self.at("Stop before ready")
        if event.type == "content_block_stop" and event.content_block.type == "tool_use":
            self.log.ready = time.perf_counter()
            return self.at("Stop between ready and dispatch")
        if event.type == "message_stop":
            self.log.over = time.perf_counter()
        return False

    async def _runner(self, tool: Any) -> None:
        eager = {"run_tools_eagerly": True} if self.evidence == "eager" else {}
        runner = self.client.beta.messages.tool_runner(**ASK, tools=[tool], stream=True, **eager)
        number = 0
        async for stream in steps(runner):
            number += 1
            async for event in steps(stream):
                gave_up = number == 1 and self._first_stream(event)
                if number == 1 and eager and self.log.ended is not None:
                    gave_up = gave_up or self.at("Stop after the tool")
                    gave_up = gave_up or self.log.stopped is not None
                if number == 2 and (self.log.stopped is not None or event.type == "text"):
                    gave_up = self.at("Stop in stream 2")
                if gave_up:
                    await self._close(runner)
                    return
            if number == 1 and not eager and self.moment == "Stop after the tool":
                response = runner.generate_tool_call_response()
                await response if self.asynchronous else None
                self.at("Stop after the tool")
                await self._close(runner)
                return

    async def _close(self, runner: Any) -> None:
        closed = runner.close()
        if self.asynchronous:
            await closed


async def steps(source: Any) -> AsyncIterator[Any]:
    """The items of a stream or a runner of either colour."""
    if hasattr(source, "__aiter__"):
        async for item in source:
            yield item
    else:
        for item in source:
            yield item
